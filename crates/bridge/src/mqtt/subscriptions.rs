//! SUBSCRIBE and UNSUBSCRIBE requests of a connection, and their answers.

use iot_mqtt::{QoS, SubAck, SubscribeReasonCode, UnsubAck, UnsubAckReason};

/// Requests that the broker has not answered yet.
#[derive(Debug)]
pub(super) struct Subscriptions {
    qos: QoS,
    /// Packet identifiers of the bridge's own requests; those of messages are the broker's.
    last_id: u16,
    waiting: Vec<(u16, Request)>,
    /// To be reported once everything is answered.
    news: Option<Settled>,
}

#[derive(Debug)]
enum Request {
    Subscribe(Vec<String>),
    Unsubscribe(Vec<String>),
}

/// The broker has answered every request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Settled {
    Subscribed,
    Unsubscribed,
}

/// The broker refused a subscription.
#[derive(Debug)]
pub(super) struct Refused {
    pub(super) filter: String,
    pub(super) code: SubscribeReasonCode,
}

impl Subscriptions {
    pub(super) fn new(qos: QoS) -> Self {
        Self {
            qos,
            last_id: 0,
            waiting: Vec::new(),
            news: None,
        }
    }

    pub(super) fn qos(&self) -> QoS {
        self.qos
    }

    /// The packet identifier for a SUBSCRIBE.
    pub(super) fn subscribe(&mut self, filters: &[String]) -> u16 {
        self.ask(Request::Subscribe(filters.to_vec()))
    }

    /// The packet identifier for an UNSUBSCRIBE.
    pub(super) fn unsubscribe(&mut self, filters: &[String]) -> u16 {
        self.ask(Request::Unsubscribe(filters.to_vec()))
    }

    fn ask(&mut self, request: Request) -> u16 {
        self.last_id = self.last_id.checked_add(1).unwrap_or(1);
        self.waiting.push((self.last_id, request));
        self.last_id
    }

    /// Reports `news` with [`settled`](Self::settled) once everything is answered.
    pub(super) fn announce(&mut self, news: Settled) {
        self.news = Some(news);
    }

    pub(super) fn settled(&mut self) -> Option<Settled> {
        if self.waiting.is_empty() {
            self.news.take()
        } else {
            None
        }
    }

    pub(super) fn subscribed(&mut self, ack: &SubAck) -> Result<(), Refused> {
        let Some(Request::Subscribe(filters)) = self.answered(ack.pkid) else {
            return Ok(());
        };
        for (filter, code) in filters.into_iter().zip(&ack.return_codes) {
            let asked = self.qos;
            match code {
                SubscribeReasonCode::Success(granted) if *granted < asked => {
                    let message = "the broker granted a lower QoS than requested";
                    tracing::warn!(filter, ?asked, ?granted, "{message}");
                }
                SubscribeReasonCode::Success(_) => {}
                code => {
                    return Err(Refused {
                        filter,
                        code: *code,
                    });
                }
            }
        }
        Ok(())
    }

    pub(super) fn unsubscribed(&mut self, ack: &UnsubAck) {
        let Some(Request::Unsubscribe(filters)) = self.answered(ack.pkid) else {
            return;
        };
        for (filter, reason) in filters.iter().zip(&ack.reasons) {
            match reason {
                UnsubAckReason::Success | UnsubAckReason::NoSubscriptionExisted => {}
                reason => tracing::warn!(filter, ?reason, "the broker did not end a subscription"),
            }
        }
    }

    fn answered(&mut self, packet_id: u16) -> Option<Request> {
        let place = self.waiting.iter().position(|(id, _)| *id == packet_id);
        if place.is_none() {
            tracing::warn!(packet_id, "the broker answered an unknown request");
        }
        place.map(|place| self.waiting.swap_remove(place).1)
    }
}
