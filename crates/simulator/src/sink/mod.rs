//! The way out: one task per lane that sends a batch, retries it until it is
//! confirmed, and only then takes the next. So order is held whatever happens.

mod compress;
pub(crate) mod file;
pub(crate) mod kafka;
pub(crate) mod mqtt;
pub(crate) mod null;
pub(crate) mod stdout;

use std::future::Future;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use iot_service::Backoff;
use iot_service::health::Component;
use tokio::sync::mpsc;
use tokio::time::Instant;

use crate::config::CircuitConfig;
use crate::lane::Batch;
use crate::metrics::{Circuit, Dropped, Metrics};

const FIRST_RETRY: Duration = Duration::from_millis(100);
const LAST_RETRY: Duration = Duration::from_secs(5);

/// The delays of everything that is tried again.
pub(crate) fn backoff() -> Backoff {
    Backoff::new(FIRST_RETRY, LAST_RETRY)
}

/// One lane of a sink.
pub(crate) trait Sink: Send + 'static {
    /// Forgets how far the batch before this one got.
    fn begin(&mut self, _batch: &Batch) {}

    /// Tries once to have the batch, or what is missing of it, confirmed. Has
    /// a deadline of its own for every wait.
    fn attempt(&mut self, batch: &Batch) -> impl Future<Output = Result<Sent, SendError>> + Send;

    /// Finds out whether an attempt has a chance, without sending anything.
    ///
    /// # Errors
    /// It has none.
    fn probe(&mut self) -> impl Future<Output = Result<(), SendError>> + Send {
        std::future::ready(Ok(()))
    }

    /// Tries once to have the batch confirmed another way, while its own is known
    /// not to work. None if there is no other.
    fn detour(
        &mut self,
        _batch: &Batch,
    ) -> impl Future<Output = Option<Result<Sent, SendError>>> + Send {
        std::future::ready(None)
    }

    /// What became of the batch at hand when it is not tried again: how many
    /// messages are not through, and what was refused of the others.
    fn give_up(&self, batch: &Batch) -> (usize, Sent) {
        (batch.len(), Sent::default())
    }

    /// Waits until the connection needs [`attend`](Self::attend) while there
    /// is nothing to send. Nothing is lost when the wait is given up.
    fn idle(&mut self) -> impl Future<Output = ()> + Send {
        std::future::pending()
    }

    /// Does what the idle connection needs.
    ///
    /// # Errors
    /// The connection is gone.
    fn attend(&mut self) -> impl Future<Output = Result<(), SendError>> + Send {
        std::future::ready(Ok(()))
    }

    /// Says good-bye. Everything sent has been confirmed.
    fn close(self) -> impl Future<Output = ()> + Send
    where
        Self: Sized,
    {
        std::future::ready(())
    }
}

/// A batch is through.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Sent {
    /// Messages of it that the other side refused for good.
    pub refused: usize,
}

/// Why a batch is not through.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SendError {
    /// It is worth another attempt.
    #[error("{0}")]
    Retry(String),
    /// The same, but so many messages of it got no answer. They may have
    /// arrived, and another attempt doubles them.
    #[error("{why}")]
    Unanswered {
        /// How many.
        messages: usize,
        /// What happened instead.
        why: String,
    },
    /// Nobody is there any more, and nobody will be.
    #[error("the output is closed")]
    Closed,
}

/// How a batch ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// Every message was confirmed or refused.
    Sent,
    /// No message will ever be sent again.
    Closed,
}

/// A batch that comes back to the worker it is from.
#[derive(Debug)]
pub(crate) struct Done {
    /// The batch, for its memory.
    pub batch: Batch,
    /// How it ended.
    pub outcome: Outcome,
}

/// Where a lane's task gets batches from and gives them back to.
#[derive(Debug)]
pub(crate) struct Ends {
    /// Batches to send.
    pub batches: mpsc::Receiver<Batch>,
    /// Batches that are through.
    pub done: mpsc::UnboundedSender<Done>,
}

/// Sends what comes until the worker is gone.
pub(crate) async fn run<S: Sink>(mut sink: S, mut ends: Ends, mut link: Link, metrics: Metrics) {
    loop {
        let batch = tokio::select! {
            batch = ends.batches.recv() => batch,
            () = sink.idle() => {
                link.report(sink.attend().await.as_ref().copied());
                continue;
            }
        };
        let Some(batch) = batch else { break };
        let outcome = deliver(&mut sink, &batch, &mut link, &metrics).await;
        let done = Done { batch, outcome };
        // A worker that is gone has counted its batch already.
        if ends.done.send(done).is_err() {
            break;
        }
    }
    sink.close().await;
}

async fn deliver<S: Sink>(
    sink: &mut S,
    batch: &Batch,
    link: &mut Link,
    metrics: &Metrics,
) -> Outcome {
    sink.begin(batch);
    let begun = Instant::now();
    let (mut backoff, mut failures, mut tries) = (backoff(), 0, 0);
    let sent = loop {
        let error = match step(sink, batch, link, &mut tries).await {
            Ok(sent) => break sent,
            Err(SendError::Closed) => return Outcome::Closed,
            Err(error) => error,
        };
        link.failed(&error);
        failures += 1;
        if link.retries().is_some_and(|retries| failures > retries) {
            let (missing, sent) = sink.give_up(batch);
            metrics.dropped(Dropped::Retries, missing);
            confirm(batch, missing, sent, metrics);
            return Outcome::Sent;
        }
        if let SendError::Unanswered { messages, .. } = error {
            metrics.possible_duplicates.inc_by(messages as u64);
        }
        link.pause(backoff.next_delay()).await;
    };
    metrics.send_latency.observe(begun.elapsed().as_secs_f64());
    confirm(batch, 0, sent, metrics);
    Outcome::Sent
}

/// Tries once to get the batch through. While the circuit is open that is another
/// way, if there is one, and then a probe, after which its own way is tried.
async fn step<S: Sink>(
    sink: &mut S,
    batch: &Batch,
    link: &mut Link,
    tries: &mut u64,
) -> Result<Sent, SendError> {
    let metrics = link.metrics();
    let mut count = || {
        metrics.retries.inc_by(u64::from(*tries > 0));
        *tries += 1;
    };
    while let Some(until) = link.open_until {
        if Instant::now() >= until {
            link.switch(Circuit::HalfOpen);
            sink.probe().await?;
            break;
        }
        match sink.detour(batch).await {
            Some(sent) => {
                count();
                return sent;
            }
            None => tokio::time::sleep_until(until).await,
        }
    }
    count();
    let sent = sink.attempt(batch).await?;
    link.worked();
    Ok(sent)
}

/// Counts a batch that is done with, of which so many messages are `missing`.
fn confirm(batch: &Batch, missing: usize, sent: Sent, metrics: &Metrics) {
    metrics.send_errors.inc_by(u64::from(sent.refused > 0));
    metrics.dropped(Dropped::Refused, sent.refused);
    let confirmed = batch.len() - missing - sent.refused;
    if confirmed > 0 {
        metrics.batches.inc();
        metrics.messages.inc_by(confirmed as u64);
        let bytes = batch.payload().len() * confirmed / batch.len();
        metrics.bytes.inc_by(bytes as u64);
    }
}

/// What all lanes of a sink together say about its health.
#[derive(Debug, Clone)]
pub(crate) struct Links(Arc<LinksInner>);

#[derive(Debug)]
struct LinksInner {
    component: Component,
    circuit: CircuitConfig,
    /// How often a batch is tried again; none for no end.
    retries: Option<u32>,
    metrics: Metrics,
    /// Why a lane doesn't work, by lane.
    down: Mutex<Vec<Option<String>>>,
}

impl Links {
    /// There are no lanes yet.
    pub(crate) fn new(
        component: Component,
        metrics: Metrics,
        circuit: CircuitConfig,
        retries: Option<u32>,
    ) -> Self {
        component.ready();
        Self(Arc::new(LinksInner {
            component,
            circuit,
            retries,
            metrics,
            down: Mutex::default(),
        }))
    }

    /// The handle of one more lane, which works.
    pub(crate) fn link(&self) -> Link {
        let metrics = &self.0.metrics;
        metrics.active_connections.inc();
        metrics.circuits(Circuit::Closed).inc();
        let mut down = self.lock();
        down.push(None);
        Link {
            links: self.clone(),
            lane: down.len() - 1,
            up: true,
            circuit: Circuit::Closed,
            open_until: None,
            failures: 0,
        }
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Option<String>>> {
        self.0.down.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn set(&self, lane: usize, reason: Option<String>) {
        let mut down = self.lock();
        down[lane] = reason;
        let working = down.iter().filter(|reason| reason.is_none()).count();
        self.0.metrics.active_connections.set(working as i64);
        match down.iter().flatten().next() {
            None => self.0.component.ready(),
            Some(reason) => self.0.component.not_ready(reason.clone()),
        }
    }
}

/// Reports the health of one lane, and only its changes.
#[derive(Debug)]
pub(crate) struct Link {
    links: Links,
    lane: usize,
    up: bool,
    circuit: Circuit,
    /// When an open circuit is probed next.
    open_until: Option<Instant>,
    /// In a row.
    failures: u32,
}

impl Link {
    fn metrics(&self) -> Metrics {
        self.links.0.metrics.clone()
    }

    /// How often a batch is tried again; none for no end.
    fn retries(&self) -> Option<u32> {
        self.links.0.retries
    }

    /// The lane's own way works.
    fn worked(&mut self) {
        self.failures = 0;
        self.report(Ok(()));
        self.switch(Circuit::Closed);
    }

    /// An attempt, a probe or a detour failed. Too many in a row open the circuit,
    /// and so does one while it was about to close.
    fn failed(&mut self, error: &SendError) {
        self.links.0.metrics.send_errors.inc();
        self.report(Err(error));
        self.failures += 1;
        let config = &self.links.0.circuit;
        let opens = match self.circuit {
            Circuit::Closed => self.failures >= config.failures,
            Circuit::HalfOpen => true,
            Circuit::Open => false,
        };
        if opens {
            let delay = Backoff::new(*config.open_for, *config.open_for).next_delay();
            self.switch(Circuit::Open);
            self.open_until = Some(Instant::now() + delay);
        }
    }

    /// Waits before the next try, not beyond the next probe.
    async fn pause(&self, delay: Duration) {
        let until = Instant::now() + delay;
        let until = self.open_until.map_or(until, |probe| probe.min(until));
        tokio::time::sleep_until(until).await;
    }

    fn switch(&mut self, circuit: Circuit) {
        if circuit == Circuit::Closed {
            self.open_until = None;
        }
        let metrics = &self.links.0.metrics;
        metrics.circuits(self.circuit).dec();
        metrics.circuits(circuit).inc();
        self.circuit = circuit;
    }

    fn report(&mut self, result: Result<(), &SendError>) {
        match result {
            Ok(()) if self.up => {}
            Ok(()) => {
                self.up = true;
                self.links.set(self.lane, None);
            }
            Err(error) => {
                self.up = false;
                self.links.set(self.lane, Some(error.to_string()));
            }
        }
    }
}

#[cfg(test)]
mod tests;
