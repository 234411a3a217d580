//! The way of a message:
//!
//! ```text
//! device -> lane (partition or connection) -> batch -> sink -> confirmed
//! ```
//!
//! Workers make messages and collect them in batches (`worker`, `lane`); one
//! task per lane sends them (`sink`). FNV-1a of the device id decides the lane,
//! and with it the worker, so all messages of a device take one ordered way.

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
use crate::lane::Limits;
use crate::metrics::Metrics;
use crate::sink::null::Null;
use crate::sink::{self, Links, Sink, file, kafka, mqtt, stdout};
use crate::status::Watch;
use crate::truth::{self, Truths};
use crate::worker::crew::{Autoscale, Crew, Part};
use crate::worker::{Outlet, Stop, Worker};

/// Deadline for ending sessions with a sink that has confirmed everything.
const GOODBYE: Duration = Duration::from_secs(2);

/// One run of the fleet: until `shutdown`, or until it has sent what it should.
#[derive(Debug)]
pub(crate) struct Pipeline {
    /// Settings.
    pub config: Live<SimulatorConfig>,
    /// What changes them, and the fleet.
    pub control: Arc<Control>,
    /// Metrics.
    pub metrics: Metrics,
    /// Health.
    pub health: Health,
    /// Asks for the end.
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
        sent.and(written.context("the task of the truth file died")?)
    }

    async fn open_sink(
        &self,
        config: &SimulatorConfig,
        truths: Option<Truths>,
    ) -> anyhow::Result<()> {
        let component = self.health.component(config.sink.name());
        match config.sink {
            SinkKind::Kafka => {
                let topic = kafka::Topic::new(config, self.metrics.clone());
                let open = self.in_time(config, topic.open(&component));
                let Some(lanes) = open.await else {
                    return self.watch(config).end();
                };
                let (sender, more) = mpsc::channel(1);
                let follow = topic.follow(lanes.len(), sender);
                tokio::select! {
                    never = follow => match never {},
                    sent = self.send(config, component, lanes, more, truths) => sent,
                }
            }
            SinkKind::Mqtt => {
                let open = mqtt::open(config, &component);
                match self.in_time(config, open).await {
                    Some(lanes) => self.send(config, component, lanes, no_more(), truths).await,
                    None => self.watch(config).end(),
                }
            }
            SinkKind::Stdout => {
                let lanes = vec![stdout::Lines::new(std::io::stdout())];
                self.send(config, component, lanes, no_more(), truths).await
            }
            SinkKind::File => {
                let lanes = vec![file::open(Path::new(&config.file.path))?];
                self.send(config, component, lanes, no_more(), truths).await
            }
            SinkKind::Null => {
                // As many as there are workers: nothing goes on behind them.
                let lanes = (0..workers(config)).map(|_| Null).collect();
                self.send(config, component, lanes, no_more(), truths).await
            }
        }
    }

    /// None if the run is over before.
    async fn in_time<T>(
        &self,
        config: &SimulatorConfig,
        open: impl Future<Output = T>,
    ) -> Option<T> {
        let duration = match *config.run.duration {
            Duration::ZERO => Duration::MAX,
            duration => duration,
        };
        let open = self.shutdown.run_until_cancelled(open);
        tokio::time::timeout(duration, open).await.ok().flatten()
    }

    fn watch(&self, config: &SimulatorConfig) -> Watch {
        Watch::start(self.metrics.clone(), config)
    }

    /// Sends to those lanes, and to `more` when there are.
    async fn send<S: Sink>(
        &self,
        config: &SimulatorConfig,
        component: Component,
        lanes: Vec<S>,
        more: mpsc::Receiver<Vec<S>>,
        truths: Option<Truths>,
    ) -> anyhow::Result<()> {
        let mut senders = Senders {
            links: Links::new(
                component,
                self.metrics.clone(),
                config.circuit.clone(),
                retries(config),
            ),
            metrics: self.metrics.clone(),
            tasks: JoinSet::new(),
        };
        let limits = limits(config, lanes.len());
        let outlets = senders.start(lanes, limits);
        let workers = self.workers(config, outlets, truths.as_ref());
        // It ends with the last worker.
        drop(truths);
        tracing::info!(
            devices = config.fleet.devices,
            lanes = senders.tasks.len(),
            workers = workers.len(),
            interval = %config.fleet.interval,
            rate = %config.fleet.rate,
            "sending"
        );
        let watch = self.watch(config);
        tokio::select! {
            never = watch.tell() => match never {},
            result = self.work(config, workers, senders, more) => result?,
        }
        watch.end()
    }

    /// Lets them work until the end, which comes by itself or is asked for, and
    /// goes through the shutdown's steps.
    async fn work<S: Sink>(
        &self,
        config: &SimulatorConfig,
        workers: Vec<Worker>,
        mut senders: Senders,
        mut more: mpsc::Receiver<Vec<S>>,
    ) -> anyhow::Result<()> {
        let stop = Stop {
            generate: self.shutdown.child_token(),
            abandon: CancellationToken::new(),
            regroup: CancellationToken::new(),
        };
        let over = async {
            match *config.run.duration {
                Duration::ZERO => std::future::pending().await,
                duration => tokio::time::sleep(duration).await,
            }
        };
        tokio::pin!(over);
        let mut autoscale = Autoscale::new(Instant::now());
        let mut crew = Crew::start(workers, stop.clone());
        loop {
            self.count(&crew, &senders);
            // A panic in a sender would leave its worker waiting for ever.
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
                senders.tasks.abort_all();
            }
        }
        crew.end();
        steps.step("disconnect", GOODBYE, senders.drain()).await;
        Ok(())
    }

    fn count(&self, crew: &Crew, senders: &Senders) {
        let tasks = crew.len() + senders.tasks.len();
        self.metrics.tasks.set(tasks as i64);
        self.metrics.workers.set(crew.active() as i64);
    }

    /// As many workers as there may be, all of them with lanes if there are enough.
    pub(crate) fn workers(
        &self,
        config: &SimulatorConfig,
        outlets: Vec<Outlet>,
        truths: Option<&Truths>,
    ) -> Vec<Worker> {
        let lanes = outlets.len();
        let active = workers(config).min(lanes);
        // Of the others only a topic may get more lanes.
        let count = match config.sink {
            SinkKind::Kafka => workers(config),
            _ => active,
        };
        let start = Instant::now();
        let worker = |index| Worker {
            part: Part {
                lanes: u32::try_from(lanes).unwrap_or(u32::MAX),
                workers: active,
                index,
            },
            members: Vec::new(),
            counted: 0,
            outlets: Vec::new(),
            injections: self.control.injections(),
            injected: None,
            config: self.config.clone(),
            metrics: self.metrics.clone(),
            truths: truths.cloned(),
            start,
        };
        let mut workers: Vec<Worker> = (0..count).map(worker).collect();
        for (lane, outlet) in outlets.into_iter().enumerate() {
            workers[lane % active].outlets.push(outlet);
        }
        workers
    }
}

/// The tasks behind the lanes.
struct Senders {
    links: Links,
    metrics: Metrics,
    tasks: JoinSet<()>,
}

impl Senders {
    /// Starts one for each lane of the sink.
    fn start<S: Sink>(&mut self, lanes: Vec<S>, limits: Limits) -> Vec<Outlet> {
        let start = |sink| {
            let (outlet, ends) = Outlet::new(limits);
            let (link, metrics) = (self.links.link(), self.metrics.clone());
            self.tasks.spawn(sink::run(sink, ends, link, metrics));
            outlet
        };
        lanes.into_iter().map(start).collect()
    }

    /// Never ends while tasks merely end.
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

/// For a sink that has all the lanes it will have.
fn no_more<S>() -> mpsc::Receiver<Vec<S>> {
    mpsc::channel(1).1
}

/// How many workers there may be.
fn workers(config: &SimulatorConfig) -> usize {
    match usize::from(config.fleet.workers) {
        0 => std::thread::available_parallelism().map_or(1, usize::from),
        count => count,
    }
}

/// How often a batch is tried again; none for no end.
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
            buffer_bytes: (config.kafka.buffer.bytes() / lanes).max(1),
        },
        // A connection answers every message on its own: nothing is won by
        // waiting for others, and a batch is what may be in flight.
        SinkKind::Mqtt => Limits {
            batch_bytes: usize::MAX,
            batch_messages: config.mqtt.in_flight,
            linger: Duration::ZERO,
            buffer_bytes: (config.mqtt.buffer.bytes() / lanes).max(1),
        },
        SinkKind::Stdout | SinkKind::File | SinkKind::Null => Limits {
            batch_bytes: 64 * 1024,
            batch_messages: usize::MAX,
            linger: Duration::ZERO,
            buffer_bytes: 1024 * 1024,
        },
    }
}
