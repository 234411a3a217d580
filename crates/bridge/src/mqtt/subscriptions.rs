//! SUBSCRIBE and UNSUBSCRIBE requests of a connection, their answers, and retries of what
//! the broker refused.

use std::fmt;
use std::time::Duration;

use iot_mqtt::{
    FILTERS_PER_REQUEST, Protocol, QoS, SubAck, SubscribeReasonCode, UnsubAck, UnsubAckReason,
    Writer,
};
use iot_service::{Backoff, Repeats};
use tokio::time::Instant;

/// Between the attempts for a refused filter: somebody has to change rights or a quota first.
const RETRY_FIRST: Duration = Duration::from_secs(10);
const RETRY_MAX: Duration = Duration::from_secs(300);

/// How long the broker may take to answer a request.
const ANSWER_DEADLINE: Duration = Duration::from_secs(10);
/// The same while messages arrive: the broker may have queued the answer behind them.
const BUSY_ANSWER_DEADLINE: Duration = Duration::from_secs(60);

/// What the session wants, asked for, and was refused.
#[derive(Debug)]
pub(super) struct Subscriptions {
    protocol: Protocol,
    qos: QoS,
    /// Packet identifiers of the bridge's own requests; those of messages are the broker's.
    last_id: u16,
    /// Filters to be subscribed to.
    wanted: Vec<String>,
    /// Whether all subscriptions end.
    leaving: bool,
    waiting: Vec<Request>,
    refused: Vec<Refused>,
    /// Something was asked or answered since the last [`Settled`].
    news: bool,
    unknown_answers: Repeats,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Action {
    Subscribe,
    Unsubscribe,
}

/// A request that the broker has not answered yet.
#[derive(Debug)]
struct Request {
    id: u16,
    action: Action,
    filters: Vec<String>,
    sent: Instant,
}

/// The broker refused to begin or end the subscription to a filter; that is retried.
#[derive(Debug)]
pub(crate) struct Refused {
    action: Action,
    filter: String,
    /// The name of the reason code.
    code: String,
    backoff: Backoff,
    /// `None` while the retry waits for its answer.
    retry_at: Option<Instant>,
}

/// The broker has answered every request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Settled {
    /// It has granted or ended all subscriptions as requested, except
    /// [`Subscriptions::refused`]. Also while leaving, until the last one has ended.
    Subscribed,
    /// It has ended all subscriptions.
    Unsubscribed,
}

/// Why a connection can't continue: what it is subscribed to is not known.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum AnswerError {
    #[error("no answer to {request} within {} s", within.as_secs())]
    Missing {
        request: &'static str,
        within: Duration,
    },
    #[error("the broker sent a malformed {answer} ({codes} reason codes for {filters} filters)")]
    Malformed {
        answer: &'static str,
        codes: usize,
        filters: usize,
    },
}

impl Refused {
    /// Whether it is a subscription that is missing, and not one that does not end.
    pub(crate) fn is_subscription(&self) -> bool {
        self.action == Action::Subscribe
    }
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { filter, code, .. } = self;
        let what = match self.action {
            Action::Subscribe => "the subscription",
            Action::Unsubscribe => "to end the subscription",
        };
        write!(f, "the broker refused {what} to {filter}: {code}")
    }
}

impl Subscriptions {
    pub(super) fn new(protocol: Protocol, qos: QoS) -> Self {
        Self {
            protocol,
            qos,
            last_id: 0,
            wanted: Vec::new(),
            leaving: false,
            waiting: Vec::new(),
            refused: Vec::new(),
            news: false,
            unknown_answers: Repeats::default(),
        }
    }

    /// Queues requests that subscribe to `wanted`, besides earlier filters, and
    /// unsubscribe from `gone`.
    pub(super) fn change(&mut self, wanted: &[String], gone: &[String], writer: &mut Writer) {
        self.news = true;
        self.wanted.retain(|filter| !gone.contains(filter));
        for filter in wanted {
            if !self.wanted.contains(filter) {
                self.wanted.push(filter.clone());
            }
        }
        let changed = |filter: &String| gone.contains(filter) || wanted.contains(filter);
        self.refused.retain(|refused| !changed(&refused.filter));
        self.send(Action::Unsubscribe, gone, writer);
        self.send(Action::Subscribe, wanted, writer);
    }

    /// Queues requests that end the subscriptions to `filters`, which are all.
    pub(super) fn leave(&mut self, filters: &[String], writer: &mut Writer) {
        (self.news, self.leaving) = (true, true);
        self.wanted.clear();
        self.refused.clear();
        self.send(Action::Unsubscribe, filters, writer);
    }

    fn send(&mut self, action: Action, filters: &[String], writer: &mut Writer) {
        for filters in filters.chunks(FILTERS_PER_REQUEST) {
            let id = self.next_id();
            match action {
                Action::Subscribe => writer.subscribe(id, filters, self.qos),
                Action::Unsubscribe => writer.unsubscribe(id, filters),
            }
            self.waiting.push(Request {
                id,
                action,
                filters: filters.to_vec(),
                sent: Instant::now(),
            });
        }
    }

    fn next_id(&mut self) -> u16 {
        loop {
            self.last_id = self.last_id.checked_add(1).unwrap_or(1);
            if self
                .waiting
                .iter()
                .all(|request| request.id != self.last_id)
            {
                return self.last_id;
            }
        }
    }

    /// The outcome, once after every change of it.
    pub(super) fn settled(&mut self) -> Option<Settled> {
        if !self.news || !self.waiting.is_empty() {
            return None;
        }
        self.news = false;
        Some(if self.leaving && self.refused.is_empty() {
            Settled::Unsubscribed
        } else {
            Settled::Subscribed
        })
    }

    /// What the broker refused on this connection and has not granted since.
    pub(super) fn refused(&self) -> &[Refused] {
        &self.refused
    }

    /// Whether the broker has granted a subscription, once it has answered.
    pub(super) fn is_subscribed(&self) -> bool {
        let refused = self
            .refused
            .iter()
            .filter(|refused| refused.is_subscription());
        self.wanted.len() > refused.count()
    }

    pub(super) fn subscribed(&mut self, ack: &SubAck) -> Result<(), AnswerError> {
        let Some(filters) = self.answered(Action::Subscribe, ack.pkid) else {
            return Ok(());
        };
        check("SUBACK", ack.return_codes.len(), filters.len())?;
        for (filter, code) in filters.into_iter().zip(&ack.return_codes) {
            let asked = self.qos;
            match code {
                SubscribeReasonCode::Success(granted) => {
                    if *granted < asked {
                        let message = "the broker granted a lower QoS than requested";
                        tracing::warn!(filter, ?asked, ?granted, "{message}");
                    }
                    self.accept(Action::Subscribe, &filter);
                }
                code => self.refuse(Action::Subscribe, filter, format!("{code:?}")),
            }
        }
        Ok(())
    }

    pub(super) fn unsubscribed(&mut self, ack: &UnsubAck) -> Result<(), AnswerError> {
        let Some(filters) = self.answered(Action::Unsubscribe, ack.pkid) else {
            return Ok(());
        };
        if self.protocol == Protocol::V311 {
            // It has no reasons: the subscriptions have ended.
            for filter in filters {
                self.accept(Action::Unsubscribe, &filter);
            }
            return Ok(());
        }
        check("UNSUBACK", ack.reasons.len(), filters.len())?;
        for (filter, reason) in filters.into_iter().zip(&ack.reasons) {
            match reason {
                UnsubAckReason::Success | UnsubAckReason::NoSubscriptionExisted => {
                    self.accept(Action::Unsubscribe, &filter);
                }
                reason => self.refuse(Action::Unsubscribe, filter, format!("{reason:?}")),
            }
        }
        Ok(())
    }

    /// The filters of the request that the broker answers.
    fn answered(&mut self, action: Action, id: u16) -> Option<Vec<String>> {
        let mut waiting = self.waiting.iter();
        let place = waiting.position(|request| (request.action, request.id) == (action, id));
        let Some(place) = place else {
            if let Some(left_out) = self.unknown_answers.admit() {
                tracing::warn!(
                    packet_id = id,
                    left_out,
                    "the broker answered an unknown request; ignoring it"
                );
            }
            return None;
        };
        self.news = true;
        Some(self.waiting.remove(place).filters)
    }

    fn accept(&mut self, action: Action, filter: &str) {
        self.refused
            .retain(|refused| (refused.action, refused.filter.as_str()) != (action, filter));
    }

    fn refuse(&mut self, action: Action, filter: String, code: String) {
        if self.wanted.contains(&filter) != (action == Action::Subscribe) {
            // The opposite was asked for since.
            return;
        }
        let mut known = self.refused.iter_mut();
        if let Some(known) = known.find(|refused| refused.filter == filter) {
            known.code = code;
            known.retry_at = Some(Instant::now() + known.backoff.next_delay());
            return;
        }
        let mut backoff = Backoff::new(RETRY_FIRST, RETRY_MAX);
        self.refused.push(Refused {
            action,
            filter,
            code,
            retry_at: Some(Instant::now() + backoff.next_delay()),
            backoff,
        });
    }

    /// Queues the retries that are due, and checks the deadline of the answers. The last
    /// message arrived at `last_message`. Without `may_read` no answer can arrive.
    ///
    /// # Errors
    /// An answer is overdue.
    pub(super) fn tick(
        &mut self,
        last_message: Instant,
        may_read: bool,
        writer: &mut Writer,
    ) -> Result<(), AnswerError> {
        let now = Instant::now();
        if !may_read {
            for request in &mut self.waiting {
                request.sent = now;
            }
            return Ok(());
        }
        for request in &self.waiting {
            request.check_deadline(now, last_message)?;
        }
        for action in [Action::Unsubscribe, Action::Subscribe] {
            let due = self.due(action, now);
            self.send(action, &due, writer);
        }
        Ok(())
    }

    /// The filters for which `action` is retried now.
    fn due(&mut self, action: Action, now: Instant) -> Vec<String> {
        let mut due = Vec::new();
        for refused in &mut self.refused {
            if refused.action == action && refused.retry_at.is_some_and(|at| at <= now) {
                refused.retry_at = None;
                due.push(refused.filter.clone());
            }
        }
        due
    }
}

impl Request {
    fn check_deadline(&self, now: Instant, last_message: Instant) -> Result<(), AnswerError> {
        let within = if now - self.sent > BUSY_ANSWER_DEADLINE {
            BUSY_ANSWER_DEADLINE
        } else if now - self.sent.max(last_message) > ANSWER_DEADLINE {
            ANSWER_DEADLINE
        } else {
            return Ok(());
        };
        let request = match self.action {
            Action::Subscribe => "SUBSCRIBE",
            Action::Unsubscribe => "UNSUBSCRIBE",
        };
        Err(AnswerError::Missing { request, within })
    }
}

/// An answer has one reason code per filter of the request (MQTT 5, sections 3.9.3 and
/// 3.11.3). With another number it is unclear which filters they are about.
fn check(answer: &'static str, codes: usize, filters: usize) -> Result<(), AnswerError> {
    if codes == filters {
        return Ok(());
    }
    Err(AnswerError::Malformed {
        answer,
        codes,
        filters,
    })
}
