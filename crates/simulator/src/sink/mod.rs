//! Sending: one task per lane sends a batch, retries it until it is confirmed, and
//! only then takes the next one, which preserves the order.

mod compress;
pub(crate) mod file;
pub(crate) mod kafka;
pub(crate) mod mqtt;
pub(crate) mod null;
pub(crate) mod stdout;

use std::future::Future;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use iot_service::Backoff;
use iot_service::health::Component;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::config::{CircuitConfig, RetryConfig};
use crate::lane::Batch;
use crate::metrics::{Circuit, Dropped, Metrics};

/// One lane of a sink.
pub(crate) trait Sink: Send + 'static {
    /// Starts a new batch: resets the progress of the previous one.
    fn begin(&mut self, _batch: &Batch) {}

    /// Tries once to send the batch, or its unconfirmed rest, and waits for the
    /// confirmation. Every wait has a deadline.
    fn attempt(&mut self, batch: &Batch) -> impl Future<Output = Result<Sent, SendError>> + Send;

    /// Checks whether an attempt could succeed, without sending anything.
    ///
    /// # Errors
    /// It could not.
    fn probe(&mut self) -> impl Future<Output = Result<(), SendError>> + Send {
        std::future::ready(Ok(()))
    }

    /// Tries once to send the batch by another path while its own does not work.
    /// `None` if there is no other path.
    fn detour(
        &mut self,
        _batch: &Batch,
    ) -> impl Future<Output = Option<Result<Sent, SendError>>> + Send {
        std::future::ready(None)
    }

    /// The result so far of a batch that is not attempted again, also in the middle of an
    /// attempt: how many messages are unconfirmed, and how many of the others were rejected.
    fn give_up(&self, batch: &Batch) -> (usize, Sent) {
        (batch.len(), Sent::default())
    }

    /// While there is nothing to send, waits until the connection needs
    /// [`attend`](Self::attend). Cancel safe.
    fn idle(&mut self) -> impl Future<Output = ()> + Send {
        std::future::pending()
    }

    /// Maintains the idle connection.
    ///
    /// # Errors
    /// The connection is lost.
    fn attend(&mut self) -> impl Future<Output = Result<(), SendError>> + Send {
        std::future::ready(Ok(()))
    }

    /// Disconnects, after everything sent was confirmed.
    fn close(self) -> impl Future<Output = ()> + Send
    where
        Self: Sized,
    {
        std::future::ready(())
    }
}

/// The result of a batch that was sent.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Sent {
    /// Number of its messages that the sink permanently rejected.
    pub refused: usize,
}

/// Why a batch was not sent.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SendError {
    /// A transient error, with its text.
    #[error("{0}")]
    Retry(String),
    /// A transient error after which some messages are unconfirmed but may have
    /// arrived, so that another attempt can duplicate them.
    #[error("{why}")]
    Unanswered {
        /// Number of unconfirmed messages.
        messages: usize,
        /// Text of the error.
        why: String,
    },
    /// The reader of the output has closed it, which ends the run.
    #[error("the output is closed")]
    Closed,
    /// The output does not work and an attempt cannot be repeated, so the run has failed.
    #[error("{0}")]
    Broken(String),
}

/// The outcome of a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// The lane can take another batch.
    Sent,
    /// The sink is permanently gone.
    Closed,
}

/// A batch that returns to its worker.
#[derive(Debug)]
pub(crate) struct Done {
    /// The batch, whose memory is reused.
    pub batch: Batch,
    /// Its outcome.
    pub outcome: Outcome,
}

/// The sender's ends of the channels between a worker and the task of a lane.
#[derive(Debug)]
pub(crate) struct Ends {
    /// Batches to send.
    pub batches: mpsc::Receiver<Batch>,
    /// Batches to return.
    pub done: mpsc::UnboundedSender<Done>,
}

/// Sends the batches of a lane until the worker is gone. Once `abandon` is cancelled, it gives
/// up what is not confirmed.
pub(crate) async fn run<S: Sink>(
    mut sink: S,
    mut ends: Ends,
    mut link: Link,
    abandon: CancellationToken,
    metrics: Metrics,
) {
    loop {
        let batch = tokio::select! {
            batch = ends.batches.recv() => batch,
            () = sink.idle() => {
                let attended = sink.attend().await;
                metrics.send_errors.inc_by(u64::from(attended.is_err()));
                link.report(attended.as_ref().copied());
                continue;
            }
        };
        let Some(batch) = batch else { break };
        let outcome = deliver(&mut sink, &batch, &mut link, &abandon, &metrics).await;
        if ends.done.send(Done { batch, outcome }).is_err() {
            break;
        }
    }
    if !abandon.is_cancelled() {
        sink.close().await;
    }
}

/// Sends a batch, and counts each of its messages once, as confirmed or dropped.
async fn deliver<S: Sink>(
    sink: &mut S,
    batch: &Batch,
    link: &mut Link,
    abandon: &CancellationToken,
    metrics: &Metrics,
) -> Outcome {
    sink.begin(batch);
    let result = tokio::select! {
        biased;
        () = abandon.cancelled() => Err(Dropped::Shutdown),
        result = try_until_confirmed(sink, batch, link, metrics) => result,
    };
    let (missing, sent) = match result {
        Ok(sent) => (0, sent),
        Err(reason) => {
            let (missing, sent) = sink.give_up(batch);
            metrics.dropped(reason, missing as u64);
            (missing, sent)
        }
    };
    confirm(batch, missing, sent, metrics);
    match result {
        Err(Dropped::OutputClosed) => Outcome::Closed,
        _ => Outcome::Sent,
    }
}

/// Tries to send the batch until it is confirmed.
///
/// # Errors
/// Why the rest of the batch is dropped.
async fn try_until_confirmed<S: Sink>(
    sink: &mut S,
    batch: &Batch,
    link: &mut Link,
    metrics: &Metrics,
) -> Result<Sent, Dropped> {
    let started = Instant::now();
    let (mut backoff, mut failures, mut attempts) = (link.retry().delays(), 0, 0);
    let sent = loop {
        let error = match step(sink, batch, link, &mut attempts).await {
            Ok(sent) => break sent,
            Err(SendError::Closed) => return Err(Dropped::OutputClosed),
            Err(error) => error,
        };
        link.failed(&error);
        if let SendError::Broken(why) = &error {
            link.broke(why.clone());
            return Err(Dropped::OutputClosed);
        }
        failures += 1;
        if link.retries().is_some_and(|retries| failures > retries) {
            return Err(Dropped::Retries);
        }
        if let SendError::Unanswered { messages, .. } = error {
            metrics.possible_duplicates.inc_by(messages as u64);
        }
        link.pause(backoff.next_delay()).await;
    };
    metrics
        .send_latency
        .observe(started.elapsed().as_secs_f64());
    Ok(sent)
}

/// Tries once to send the batch. While the circuit is open, it takes the detour if the
/// sink has one; when the circuit is due for a probe, it probes and then tries the
/// lane's own path.
async fn step<S: Sink>(
    sink: &mut S,
    batch: &Batch,
    link: &mut Link,
    attempts: &mut u64,
) -> Result<Sent, SendError> {
    let metrics = link.metrics();
    let mut count = || {
        metrics.retries.inc_by(u64::from(*attempts > 0));
        *attempts += 1;
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

/// Counts a finished batch, of which `missing` messages are unconfirmed.
fn confirm(batch: &Batch, missing: usize, sent: Sent, metrics: &Metrics) {
    metrics.send_errors.inc_by(u64::from(sent.refused > 0));
    metrics.dropped(Dropped::Refused, sent.refused as u64);
    let confirmed = batch.len() - missing - sent.refused;
    if confirmed > 0 {
        let latency = metrics.deliveries.local();
        batch.observe(confirmed, Instant::now(), &latency);
        latency.flush();
        metrics.batches.inc();
        metrics.messages.inc_by(confirmed as u64);
        let bytes = batch.payload().len() * confirmed / batch.len();
        metrics.bytes.inc_by(bytes as u64);
    }
}

/// The health of a sink, which combines that of its lanes.
#[derive(Debug, Clone)]
pub(crate) struct Links(Arc<LinksInner>);

#[derive(Debug)]
struct LinksInner {
    component: Component,
    circuit: CircuitConfig,
    retry: RetryConfig,
    /// How often a batch is retried; `None` for no limit.
    retries: Option<u32>,
    metrics: Metrics,
    /// Why the output is permanently broken.
    broken: OnceLock<String>,
    /// By lane, the reason why it does not work.
    down: Mutex<Vec<Option<String>>>,
}

impl Links {
    /// A sink without lanes, which is ready.
    pub(crate) fn new(
        component: Component,
        metrics: Metrics,
        circuit: CircuitConfig,
        retry: RetryConfig,
        retries: Option<u32>,
    ) -> Self {
        component.ready();
        Self(Arc::new(LinksInner {
            component,
            circuit,
            retry,
            retries,
            metrics,
            broken: OnceLock::new(),
            down: Mutex::default(),
        }))
    }

    /// Adds a lane, which is ready, and returns its handle.
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

    /// Why the run has failed, if the output is permanently broken.
    pub(crate) fn broken(&self) -> Option<&str> {
        self.0.broken.get().map(String::as_str)
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

/// The health and the circuit breaker of one lane; only changes are reported.
#[derive(Debug)]
pub(crate) struct Link {
    links: Links,
    lane: usize,
    up: bool,
    circuit: Circuit,
    /// When an open circuit is probed next.
    open_until: Option<Instant>,
    /// Number of consecutive failures.
    failures: u32,
}

impl Link {
    fn metrics(&self) -> Metrics {
        self.links.0.metrics.clone()
    }

    /// How often a batch is retried; `None` for no limit.
    fn retries(&self) -> Option<u32> {
        self.links.0.retries
    }

    fn retry(&self) -> &RetryConfig {
        &self.links.0.retry
    }

    /// The output is permanently broken; the first reason counts.
    fn broke(&self, why: String) {
        let _ = self.links.0.broken.set(why);
    }

    /// An attempt on the lane's own path succeeded.
    fn worked(&mut self) {
        self.failures = 0;
        self.report(Ok(()));
        self.switch(Circuit::Closed);
    }

    /// An attempt, a probe or a detour failed. Too many consecutive failures open the
    /// circuit, and so does one while it is half open.
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

    /// Waits before the next attempt, at most until the next probe.
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
