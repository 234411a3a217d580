use std::io::{ErrorKind, Write};
use std::sync::Arc;

use iot_service::health::Health;
use prometheus::Registry;

use super::stdout::Lines;
use super::*;
use crate::config::SinkKind;
use crate::fleet::{Emitted, Origin};
use crate::lane::Times;

/// A batch with these payloads.
pub(super) fn batch(payloads: &[&str]) -> Batch {
    let mut batch = Batch::default();
    let times = Times {
        due: Instant::now(),
        timestamp: 1_000,
    };
    for payload in payloads {
        batch.push(Origin::default(), times, |out| {
            out.extend_from_slice(payload.as_bytes());
            let spike = payload.contains("spike");
            Emitted::Message {
                label: spike.then(|| "temperature=spike".into()),
                id: 0..0,
            }
        });
    }
    batch
}

fn metrics() -> Metrics {
    Metrics::new(&Registry::new(), SinkKind::Kafka).unwrap()
}

fn links(
    component: Component,
    metrics: &Metrics,
    circuit: CircuitConfig,
    retries: Option<u32>,
) -> Links {
    let retry = RetryConfig::default();
    Links::new(component, metrics.clone(), circuit, retry, retries)
}

/// Delivers a batch in a run that nobody abandons.
async fn sent(sink: &mut impl Sink, batch: &Batch, link: &mut Link, metrics: &Metrics) -> Outcome {
    deliver(sink, batch, link, &CancellationToken::new(), metrics).await
}

/// Attempts fail until the first probe; two probes fail before the third succeeds.
struct Broken {
    events: String,
    metrics: Metrics,
}

impl Sink for Broken {
    async fn attempt(&mut self, _: &Batch) -> Result<Sent, SendError> {
        self.events.push('a');
        assert_eq!(self.metrics.circuits(Circuit::Open).get(), 0);
        if self.events.contains('p') {
            Ok(Sent::default())
        } else {
            Err(SendError::Retry("broken".into()))
        }
    }

    async fn probe(&mut self) -> Result<(), SendError> {
        self.events.push('p');
        assert_eq!(self.metrics.circuits(Circuit::HalfOpen).get(), 1);
        if self.events.ends_with("ppp") {
            Ok(())
        } else {
            Err(SendError::Retry("still broken".into()))
        }
    }
}

#[tokio::test]
async fn an_open_circuit_sends_nothing_until_a_probe_succeeds() {
    let metrics = metrics();
    let circuit = CircuitConfig {
        failures: 3,
        open_for: Duration::from_millis(200).into(),
    };
    let component = Health::default().component("kafka");
    let mut link = links(component, &metrics, circuit, None).link();
    let mut sink = Broken {
        events: String::new(),
        metrics: metrics.clone(),
    };
    let begun = Instant::now();
    let outcome = sent(&mut sink, &batch(&["a"]), &mut link, &metrics).await;
    assert_eq!((outcome, sink.events.as_str()), (Outcome::Sent, "aaapppa"));
    assert!(
        begun.elapsed() >= Duration::from_millis(3 * 100),
        "{:?}",
        begun.elapsed()
    );
    assert_eq!((metrics.retries.get(), metrics.send_errors.get()), (3, 5));
    assert_eq!(metrics.circuits(Circuit::Closed).get(), 1);
}

/// Attempts fail until the first probe; every second detour works.
#[derive(Default)]
struct Blocked(String);

impl Sink for Blocked {
    async fn attempt(&mut self, _: &Batch) -> Result<Sent, SendError> {
        self.0.push('a');
        if self.0.contains('p') {
            Ok(Sent::default())
        } else {
            Err(SendError::Retry("blocked".into()))
        }
    }

    async fn probe(&mut self) -> Result<(), SendError> {
        self.0.push('p');
        Ok(())
    }

    async fn detour(&mut self, _: &Batch) -> Option<Result<Sent, SendError>> {
        self.0.push('d');
        let detours = self.0.matches('d').count();
        Some(if detours.is_multiple_of(2) {
            Ok(Sent::default())
        } else {
            Err(SendError::Retry("this one too".into()))
        })
    }
}

#[tokio::test]
async fn batches_take_a_detour_while_the_circuit_is_open() {
    let metrics = metrics();
    let circuit = CircuitConfig {
        failures: 2,
        open_for: Duration::from_secs(3_600).into(),
    };
    let component = Health::default().component("kafka");
    let mut link = links(component, &metrics, circuit, None).link();
    let mut sink = Blocked::default();
    for _ in 0..2 {
        let outcome = sent(&mut sink, &batch(&["a", "b"]), &mut link, &metrics).await;
        assert_eq!(outcome, Outcome::Sent);
    }
    assert_eq!(sink.0, "aadddd");
    assert_eq!(metrics.messages.get(), 4);
    assert_eq!(metrics.circuits(Circuit::Open).get(), 1);
    assert_eq!(metrics.active_connections.get(), 0, "its own path is down");
    link.open_until = Some(Instant::now());
    sent(&mut sink, &batch(&["c"]), &mut link, &metrics).await;
    assert_eq!(sink.0, "aaddddpa");
    assert_eq!(metrics.messages.get(), 5);
    assert_eq!(metrics.circuits(Circuit::Closed).get(), 1);
}

#[test]
fn compression_is_measured_for_every_kind() {
    use crate::config::CompressionKind::{Gzip, Lz4, None, Snappy, Zstd};
    let metrics = metrics();
    for (kind, count) in [(None, 0), (Gzip, 1), (Snappy, 2), (Lz4, 3), (Zstd, 4)] {
        compress::measure(kind, &batch(&["abc", "abc"]), &metrics);
        assert_eq!(metrics.compression_latency.get_sample_count(), count);
    }
}

/// Answers attempts with the given results, and counts them.
struct Script {
    answers: Vec<Result<Sent, SendError>>,
    begun: usize,
    attempts: usize,
}

impl Sink for Script {
    fn begin(&mut self, _: &Batch) {
        self.begun += 1;
    }

    async fn attempt(&mut self, _: &Batch) -> Result<Sent, SendError> {
        self.attempts += 1;
        self.answers.remove(0)
    }
}

#[tokio::test]
async fn a_batch_is_retried_until_it_is_confirmed() {
    let (metrics, health) = (metrics(), Health::default());
    let circuit = CircuitConfig::default();
    let all = links(health.component("kafka"), &metrics, circuit, None);
    let (_other, mut link) = (all.link(), all.link());
    let broken = || Err(SendError::Retry("no answer".into()));
    let mut sink = Script {
        answers: vec![broken(), broken(), Ok(Sent { refused: 1 })],
        begun: 0,
        attempts: 0,
    };
    let batch = batch(&["abc", "de"]);
    let outcome = sent(&mut sink, &batch, &mut link, &metrics).await;
    assert_eq!((outcome, sink.begun, sink.attempts), (Outcome::Sent, 1, 3));
    assert_eq!((metrics.retries.get(), metrics.send_errors.get()), (2, 3));
    assert_eq!((metrics.messages.get(), metrics.batches.get()), (1, 1));
    assert_eq!(metrics.active_connections.get(), 2);
}

#[tokio::test]
async fn a_batch_is_dropped_after_the_last_retry() {
    let metrics = metrics();
    let component = Health::default().component("kafka");
    let all = links(component, &metrics, CircuitConfig::default(), Some(2));
    let mut link = all.link();
    let broken = || Err(SendError::Retry("no answer".into()));
    let mut sink = Script {
        answers: vec![broken(), broken(), broken(), Ok(Sent::default())],
        begun: 0,
        attempts: 0,
    };
    sent(&mut sink, &batch(&["a", "b"]), &mut link, &metrics).await;
    assert_eq!((sink.attempts, metrics.retries.get()), (3, 2));
    assert_eq!(metrics.drops(Dropped::Retries), 2);
    assert_eq!((metrics.batches.get(), metrics.bytes.get()), (0, 0));
    sent(&mut sink, &batch(&["c"]), &mut link, &metrics).await;
    assert_eq!(metrics.messages.get(), 1, "the next batch is sent");
}

#[tokio::test]
async fn failures_are_counted_across_batches() {
    let metrics = metrics();
    let circuit = CircuitConfig {
        failures: 3,
        open_for: Duration::from_millis(100).into(),
    };
    let component = Health::default().component("kafka");
    let mut link = links(component, &metrics, circuit, Some(1)).link();
    let mut sink = Broken {
        events: String::new(),
        metrics: metrics.clone(),
    };
    for _ in 0..2 {
        sent(&mut sink, &batch(&["a"]), &mut link, &metrics).await;
    }
    // The second batch failed once on its own path, and once in a probe.
    assert_eq!(sink.events, "aaap");
    assert_eq!(metrics.drops(Dropped::Retries), 2);
    assert_eq!(metrics.circuits(Circuit::Open).get(), 1);
}

#[tokio::test]
async fn active_connections_count_the_working_lanes() {
    let metrics = metrics();
    let component = Health::default().component("kafka");
    let all = links(component, &metrics, CircuitConfig::default(), None);
    let (mut one, mut other, _third) = (all.link(), all.link(), all.link());
    one.failed(&SendError::Retry("gone".into()));
    other.failed(&SendError::Retry("gone too".into()));
    assert_eq!(metrics.active_connections.get(), 1);
    one.worked();
    other.worked();
    assert_eq!(metrics.active_connections.get(), 3);
}

/// An output that breaks after `room` bytes.
struct Pipe {
    seen: Arc<Mutex<Vec<u8>>>,
    room: usize,
}

impl Write for Pipe {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        let mut seen = self.seen.lock().unwrap();
        if seen.len() + bytes.len() > self.room {
            return Err(ErrorKind::BrokenPipe.into());
        }
        seen.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[tokio::test]
async fn lines_are_written_until_the_output_is_closed() {
    let seen = Arc::new(Mutex::new(Vec::new()));
    let mut lines = Lines::new(Pipe {
        seen: Arc::clone(&seen),
        room: 10,
    });
    let batch = batch(&["{1}", "{2}"]);
    assert!(matches!(
        lines.attempt(&batch).await,
        Ok(Sent { refused: 0 })
    ));
    assert_eq!(*seen.lock().unwrap(), b"{1}\n{2}\n");
    assert!(matches!(
        lines.attempt(&batch).await,
        Err(SendError::Closed)
    ));
}

#[tokio::test]
async fn an_output_that_breaks_fails_the_run() {
    let metrics = metrics();
    let component = Health::default().component("stdout");
    let all = links(component, &metrics, CircuitConfig::default(), None);
    let full = std::fs::File::create("/dev/full").unwrap();
    let (mut lines, batch, mut link) = (Lines::new(full), batch(&["{1}"]), all.link());
    let outcome = sent(&mut lines, &batch, &mut link, &metrics).await;
    assert_eq!(outcome, Outcome::Closed);
    assert_eq!((metrics.send_errors.get(), metrics.messages.get()), (1, 0));
    let why = all.broken().unwrap();
    assert!(why.starts_with("writing to standard output: "), "{why}");
}

#[tokio::test]
async fn the_delays_between_attempts_are_a_setting() {
    let metrics = metrics();
    let component = Health::default().component("kafka");
    let (retry, circuit) = (
        RetryConfig {
            backoff: Duration::from_secs(3_600).into(),
            max_backoff: Duration::from_secs(3_600).into(),
        },
        CircuitConfig::default(),
    );
    let links = Links::new(component, metrics.clone(), circuit, retry, None);
    let mut sink = Script {
        answers: vec![Err(SendError::Retry("no answer".into()))],
        begun: 0,
        attempts: 0,
    };
    let (batch, mut link) = (batch(&["a"]), links.link());
    let delivery = sent(&mut sink, &batch, &mut link, &metrics);
    let second = tokio::time::timeout(Duration::from_millis(300), delivery);
    // With the default the second attempt, which has no answer, comes after 100 ms.
    assert!(second.await.is_err());
    assert_eq!(metrics.send_errors.get(), 1);
}

/// Has an answer for the first message of a batch, and waits for the others forever.
struct Stuck;

impl Sink for Stuck {
    async fn attempt(&mut self, _: &Batch) -> Result<Sent, SendError> {
        std::future::pending().await
    }

    fn give_up(&self, batch: &Batch) -> (usize, Sent) {
        (batch.len() - 1, Sent::default())
    }
}

#[tokio::test]
async fn messages_of_an_abandoned_batch_are_counted_as_confirmed_or_dropped() {
    let metrics = metrics();
    let component = Health::default().component("mqtt");
    let all = links(component, &metrics, CircuitConfig::default(), None);
    let (batches, taken) = mpsc::channel(1);
    let (done, mut returned) = mpsc::unbounded_channel();
    let ends = Ends {
        batches: taken,
        done,
    };
    let abandon = CancellationToken::new();
    let task = run(Stuck, ends, all.link(), abandon.clone(), metrics.clone());
    let task = tokio::spawn(task);
    // One that the task has taken, and one that it finds after the end.
    for _ in 0..2 {
        batches.send(batch(&["a", "b", "c"])).await.unwrap();
    }
    drop(batches);
    abandon.cancel();
    task.await.unwrap();
    assert_eq!(metrics.messages.get(), 2);
    assert_eq!(metrics.drops(Dropped::Shutdown), 4);
    for _ in 0..2 {
        assert_eq!(returned.recv().await.unwrap().outcome, Outcome::Sent);
    }
}
