//! The message flow:
//!
//! ```text
//! device -> lane (partition or connection) -> batch -> sink -> confirmed
//! ```
//!
//! Workers create messages and collect them in batches (`worker`, `lane`); one
//! task per lane sends them (`sink`). FNV-1a of the device id selects the lane,
//! and with it the worker, so that all messages of a device stay in order.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use iot_service::config::Live;
use iot_service::health::{Component, Health};
use iot_service::shutdown::Steps;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::config::{SimulatorConfig, SinkKind};
use crate::control::Control;
use crate::lane::{Limits, MIN_LANE_BYTES};
use crate::metrics::Metrics;
use crate::sink::null::Null;
use crate::sink::{self, Links, Sink, file, kafka, mqtt, stdout};
use crate::status::Progress;
use crate::truth::{self, Truths};
use crate::worker::crew::{Assignment, Autoscale, Crew};
use crate::worker::{LaneHandle, Stop, Worker};

/// Deadline for disconnecting from a sink that has confirmed everything.
const DISCONNECT_TIMEOUT: Duration = Duration::from_secs(2);

/// One run of the fleet.
#[derive(Debug)]
pub(crate) struct Pipeline {
    /// Effective settings.
    pub config: Live<SimulatorConfig>,
    /// The API's control of settings and anomalies.
    pub control: Arc<Control>,
    /// Metrics.
    pub metrics: Metrics,
    /// Health.
    pub health: Health,
    /// Stops the run.
    pub shutdown: CancellationToken,
}

impl Pipeline {
    /// Opens the sink and sends the fleet's messages to it.
    ///
    /// # Errors
    /// A task of the pipeline panicked, or the truth file can't be written.
    pub(crate) async fn run(self) -> anyhow::Result<()> {
        let config = self.config.current();
        let path = Path::new(&config.anomaly.truth_file);
        if path.as_os_str().is_empty() {
            return self.open_sink(&config, None).await;
        }
        let (truths, writer) = truth::create(path)?;
        let sent = self.open_sink(&config, Some(truths)).await;
        let written = tokio::task::spawn_blocking(|| writer.finish()).await;
        sent.and(written.context("waiting for the truth file")?)
    }

    async fn open_sink(
        &self,
        config: &SimulatorConfig,
        truths: Option<Truths>,
    ) -> anyhow::Result<()> {
        let component = self.health.component(config.sink.name());
        let end = end(config);
        match config.sink {
            SinkKind::Kafka => {
                let topic = kafka::Topic::new(config, self.metrics.clone());
                let open = self.while_running(end, topic.open(&component));
                let Some(lanes) = open.await else {
                    return self.never_opened(config);
                };
                let (sender, more) = mpsc::channel(1);
                let follow = topic.follow(lanes.len(), sender);
                tokio::select! {
                    never = follow => match never {},
                    sent = self.send(config, component, lanes, more, truths, end) => sent,
                }
            }
            SinkKind::Mqtt => {
                let open = mqtt::open(config, &self.metrics, &component);
                match self.while_running(end, open).await {
                    Some(lanes) => {
                        self.send(config, component, lanes, no_more_lanes(), truths, end)
                            .await
                    }
                    None => self.never_opened(config),
                }
            }
            SinkKind::Stdout => {
                let lines = match stdout::open() {
                    Ok(lines) => lines,
                    Err(error) => {
                        self.metrics.send_errors.inc();
                        if let Err(error) = self.progress(config).finish_unopened(true) {
                            tracing::error!("{error:#}");
                        }
                        return Err(error).context("opening standard output");
                    }
                };
                self.send(config, component, vec![lines], no_more_lanes(), truths, end)
                    .await
            }
            SinkKind::File => {
                let lanes = vec![file::open(Path::new(&config.file.path))?];
                self.send(config, component, lanes, no_more_lanes(), truths, end)
                    .await
            }
            SinkKind::Null => {
                // One per worker is enough, because these lanes never wait.
                let lanes = (0..workers(config)).map(|_| Null).collect();
                self.send(config, component, lanes, no_more_lanes(), truths, end)
                    .await
            }
        }
    }

    /// Opens a sink; `None` if the run ends first.
    async fn while_running<T>(
        &self,
        end: Option<Instant>,
        open: impl Future<Output = T>,
    ) -> Option<T> {
        let open = self.shutdown.run_until_cancelled(open);
        match end {
            Some(end) => tokio::time::timeout_at(end, open).await.ok().flatten(),
            None => open.await,
        }
    }

    /// The end of a run whose sink was never open.
    fn never_opened(&self, config: &SimulatorConfig) -> anyhow::Result<()> {
        // The cancelled attempt, which may be the only one, failed too.
        self.metrics.send_errors.inc();
        self.progress(config)
            .finish_unopened(self.shutdown.is_cancelled())
    }

    fn progress(&self, config: &SimulatorConfig) -> Progress {
        Progress::start(self.metrics.clone(), config)
    }

    /// Sends to these lanes, and to `more` lanes when they are added, until `end`.
    async fn send<S: Sink>(
        &self,
        config: &SimulatorConfig,
        component: Component,
        lanes: Vec<S>,
        more: mpsc::Receiver<Vec<S>>,
        truths: Option<Truths>,
        end: Option<Instant>,
    ) -> anyhow::Result<()> {
        let links = Links::new(
            component,
            self.metrics.clone(),
            config.circuit.clone(),
            config.retry.clone(),
            retries(config),
        );
        let mut senders = Senders {
            links: links.clone(),
            metrics: self.metrics.clone(),
            abandon: CancellationToken::new(),
            tasks: JoinSet::new(),
        };
        let limits = limits(config, lanes.len());
        let handles = senders.start(lanes, limits);
        let workers = self.workers(config, handles, truths.as_ref());
        // The writer ends when the last worker drops its sender.
        drop(truths);
        tracing::info!(
            devices = config.fleet.devices,
            lanes = senders.tasks.len(),
            workers = workers.len(),
            interval = %config.fleet.interval,
            rate = %config.fleet.rate,
            "sending"
        );
        let progress = self.progress(config);
        tokio::select! {
            never = progress.report() => match never {},
            result = self.work(config, workers, senders, more, end) => result?,
        }
        let finished = progress.finish(self.shutdown.is_cancelled());
        match links.broken() {
            Some(why) => anyhow::bail!("the run failed: {why}"),
            None => finished,
        }
    }

    /// Runs the workers until they are done or the run is stopped, and then the steps of
    /// the shutdown.
    async fn work<S: Sink>(
        &self,
        config: &SimulatorConfig,
        workers: Vec<Worker>,
        mut senders: Senders,
        mut more: mpsc::Receiver<Vec<S>>,
        end: Option<Instant>,
    ) -> anyhow::Result<()> {
        let stop = Stop {
            generate: self.shutdown.child_token(),
            abandon: senders.abandon.clone(),
            regroup: CancellationToken::new(),
        };
        let over = async {
            match end {
                Some(end) => tokio::time::sleep_until(end).await,
                None => std::future::pending().await,
            }
        };
        tokio::pin!(over);
        let mut autoscale = Autoscale::new(Instant::now());
        let mut crew = Crew::start(workers, stop.clone());
        loop {
            self.count(&crew, &senders);
            // A worker whose sender has panicked would wait forever.
            let (added, active) = tokio::select! {
                result = crew.ended() => break result?,
                result = senders.first_panic() => result?,
                () = &mut over => break stop.generate.cancel(),
                () = self.shutdown.cancelled() => break,
                Some(lanes) = more.recv() => {
                    let lanes = senders.start(lanes, limits(config, 1));
                    (lanes, crew.active())
                }
                () = tokio::time::sleep(Autoscale::EVERY) => {
                    let (busy, most) = (self.metrics.busy.get(), crew.most(senders.tasks.len()));
                    let wanted = autoscale.wanted(crew.active(), most, busy, Instant::now());
                    if wanted == crew.active() || !config.fleet.autoscale {
                        continue;
                    }
                    (Vec::new(), wanted)
                }
            };
            let settings = self.config.current();
            let limits = |lanes| limits(config, lanes);
            crew.regroup(added, active, limits, &settings).await?;
        }
        let steps = Steps::begin(&self.health);
        let flushed = steps.step("flush", *config.shutdown.flush, crew.ended());
        match flushed.await {
            Some(result) => result?,
            None => {
                stop.abandon.cancel();
                crew.ended().await?;
            }
        }
        crew.send_unfinished();
        steps
            .step("disconnect", DISCONNECT_TIMEOUT, senders.drain())
            .await;
        Ok(())
    }

    fn count(&self, crew: &Crew, senders: &Senders) {
        let tasks = crew.len() + senders.tasks.len();
        self.metrics.tasks.set(tasks as i64);
        self.metrics.workers.set(crew.active() as i64);
    }

    /// Creates the workers and distributes the lanes over them.
    pub(crate) fn workers(
        &self,
        config: &SimulatorConfig,
        handles: Vec<LaneHandle>,
        truths: Option<&Truths>,
    ) -> Vec<Worker> {
        let lanes = handles.len();
        let active = workers(config).min(lanes);
        // Only a topic can get more lanes later, and with them use more workers.
        let count = match config.sink {
            SinkKind::Kafka => workers(config),
            _ => active,
        };
        let start = Instant::now();
        let worker = |index| Worker {
            assignment: Assignment {
                lanes: u32::try_from(lanes).unwrap_or(u32::MAX),
                workers: active,
                index,
            },
            members: Vec::new(),
            counted: 0,
            handles: Vec::new(),
            injections: self.control.injections(),
            injected: None,
            config: self.config.clone(),
            metrics: self.metrics.clone(),
            truths: truths.cloned(),
            start,
        };
        let mut workers: Vec<Worker> = (0..count).map(worker).collect();
        for (lane, handle) in handles.into_iter().enumerate() {
            workers[lane % active].handles.push(handle);
        }
        workers
    }
}

/// The tasks that send, one per lane.
struct Senders {
    links: Links,
    metrics: Metrics,
    /// Give up what is not confirmed.
    abandon: CancellationToken,
    tasks: JoinSet<()>,
}

impl Senders {
    /// Starts a task for each lane of the sink.
    fn start<S: Sink>(&mut self, lanes: Vec<S>, limits: Limits) -> Vec<LaneHandle> {
        let start = |sink| {
            let (handle, ends) = LaneHandle::new(limits);
            let (link, abandon) = (self.links.link(), self.abandon.clone());
            let metrics = self.metrics.clone();
            self.tasks
                .spawn(sink::run(sink, ends, link, abandon, metrics));
            handle
        };
        lanes.into_iter().map(start).collect()
    }

    /// Returns the first panic of a task; tasks that end normally are ignored.
    async fn first_panic<T>(&mut self) -> anyhow::Result<T> {
        while let Some(ended) = self.tasks.join_next().await {
            ended?;
        }
        std::future::pending().await
    }

    async fn drain(&mut self) {
        while self.tasks.join_next().await.is_some() {}
    }
}

/// End of a run that starts now, with connecting; `None` if it has none.
fn end(config: &SimulatorConfig) -> Option<Instant> {
    let duration = *config.run.duration;
    (!duration.is_zero()).then(|| Instant::now().checked_add(duration))?
}

/// For a sink whose number of lanes is fixed.
fn no_more_lanes<S>() -> mpsc::Receiver<Vec<S>> {
    mpsc::channel(1).1
}

/// Maximum number of workers.
fn workers(config: &SimulatorConfig) -> usize {
    match usize::from(config.fleet.workers) {
        0 => std::thread::available_parallelism().map_or(1, usize::from),
        count => count,
    }
}

/// How often a batch is retried; `None` for no limit.
fn retries(config: &SimulatorConfig) -> Option<u32> {
    match config.sink {
        SinkKind::Kafka => u32::try_from(config.kafka.retries).ok(),
        _ => None,
    }
}

fn limits(config: &SimulatorConfig, lanes: usize) -> Limits {
    let lanes = lanes.max(1);
    match config.sink {
        SinkKind::Kafka => Limits {
            batch_bytes: config.kafka.batch_size.bytes(),
            batch_messages: config.kafka.batch_messages,
            linger: *config.kafka.linger,
            buffer_bytes: (config.kafka.buffer.bytes() / lanes).max(MIN_LANE_BYTES),
        },
        // MQTT acknowledges every message on its own, so waiting for others gains nothing;
        // a batch is the set of messages in flight.
        SinkKind::Mqtt => Limits {
            batch_bytes: usize::MAX,
            batch_messages: config.mqtt.in_flight,
            linger: Duration::ZERO,
            buffer_bytes: (config.mqtt.buffer.bytes() / lanes).max(MIN_LANE_BYTES),
        },
        SinkKind::Stdout | SinkKind::File | SinkKind::Null => Limits {
            batch_bytes: 64 * 1024,
            batch_messages: usize::MAX,
            linger: Duration::ZERO,
            buffer_bytes: 1024 * 1024,
        },
    }
}
