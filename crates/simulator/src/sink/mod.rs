//! The way out: one task per lane that sends a batch, retries it until it is
//! confirmed, and only then takes the next. So order is held whatever happens.

pub(crate) mod file;
pub(crate) mod kafka;
pub(crate) mod mqtt;
pub(crate) mod null;
pub(crate) mod stdout;

use std::future::Future;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use iot_service::Backoff;
use iot_service::health::Component;
use tokio::sync::mpsc;
use tokio::time::Instant;

use crate::config::CircuitConfig;
use crate::lane::Batch;
use crate::metrics::{Circuit, Metrics};

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
    /// Lane, as the worker counts.
    pub lane: usize,
    /// The batch, for its memory.
    pub batch: Batch,
    /// How it ended.
    pub outcome: Outcome,
}

/// Where a lane's task gets batches from and gives them back to.
#[derive(Debug)]
pub(crate) struct Ends {
    /// Lane, as the worker counts.
    pub lane: usize,
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
                link.report(sink.attend().await);
                continue;
            }
        };
        let Some(batch) = batch else { break };
        let outcome = deliver(&mut sink, &batch, &mut link, &metrics).await;
        let done = Done {
            lane: ends.lane,
            batch,
            outcome,
        };
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
    let begun = Instant::now();
    let (mut backoff, mut failures) = (backoff(), 0);
    sink.begin(batch);
    loop {
        match sink.attempt(batch).await {
            Ok(sent) => {
                link.report(Ok(()));
                link.switch(Circuit::Closed);
                metrics.send_latency.observe(begun.elapsed().as_secs_f64());
                confirm(batch, sent, metrics);
                return Outcome::Sent;
            }
            Err(SendError::Closed) => return Outcome::Closed,
            Err(error) => {
                metrics.send_errors.inc();
                if let SendError::Unanswered { messages, .. } = error {
                    metrics.possible_duplicates.inc_by(messages as u64);
                }
                link.report(Err(error));
                failures += 1;
                if failures < link.failures() {
                    tokio::time::sleep(backoff.next_delay()).await;
                } else {
                    stay_open(sink, link, metrics).await;
                }
                metrics.retries.inc();
            }
        }
    }
}

/// Sends nothing for a while, and then nothing before a probe has found that there
/// is a chance.
async fn stay_open<S: Sink>(sink: &mut S, link: &mut Link, metrics: &Metrics) {
    let open_for = link.open_for();
    let mut delays = Backoff::new(open_for, open_for);
    loop {
        link.switch(Circuit::Open);
        tokio::time::sleep(delays.next_delay()).await;
        link.switch(Circuit::HalfOpen);
        match sink.probe().await {
            Ok(()) => return,
            Err(error) => {
                metrics.send_errors.inc();
                link.report(Err(error));
            }
        }
    }
}

fn confirm(batch: &Batch, sent: Sent, metrics: &Metrics) {
    metrics.batches.inc();
    metrics.messages.inc_by((batch.len() - sent.refused) as u64);
    metrics.bytes.inc_by(batch.payload_bytes() as u64);
    if sent.refused > 0 {
        metrics.send_errors.inc();
        metrics.dropped(crate::metrics::Dropped::Refused, sent.refused);
    }
}

/// What all lanes of a sink together say about its health.
#[derive(Debug, Clone)]
pub(crate) struct Links(Arc<LinksInner>);

#[derive(Debug)]
struct LinksInner {
    component: Component,
    circuit: CircuitConfig,
    metrics: Metrics,
    /// Why a lane doesn't work, by lane.
    down: Mutex<Vec<Option<String>>>,
}

impl Links {
    /// All `lanes` lanes work.
    pub(crate) fn up(
        component: Component,
        metrics: Metrics,
        circuit: CircuitConfig,
        lanes: usize,
    ) -> Self {
        metrics.active_connections.set(lanes as i64);
        metrics.circuits(Circuit::Closed).set(lanes as i64);
        component.ready();
        Self(Arc::new(LinksInner {
            component,
            circuit,
            metrics,
            down: Mutex::new(vec![None; lanes]),
        }))
    }

    /// The handle of one lane.
    pub(crate) fn link(&self, lane: usize) -> Link {
        Link {
            links: self.clone(),
            lane,
            up: true,
            circuit: Circuit::Closed,
        }
    }

    fn set(&self, lane: usize, reason: Option<String>) {
        let mut down = self.0.down.lock().unwrap_or_else(PoisonError::into_inner);
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
}

impl Link {
    /// Failures in a row that open the circuit.
    fn failures(&self) -> u32 {
        self.links.0.circuit.failures
    }

    fn open_for(&self) -> Duration {
        *self.links.0.circuit.open_for
    }

    fn switch(&mut self, circuit: Circuit) {
        let metrics = &self.links.0.metrics;
        metrics.circuits(self.circuit).dec();
        metrics.circuits(circuit).inc();
        self.circuit = circuit;
    }

    fn report(&mut self, result: Result<(), SendError>) {
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
