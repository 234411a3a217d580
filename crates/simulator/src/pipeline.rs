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
use iot_service::health::Health;
use iot_service::shutdown::Steps;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::config::{SimulatorConfig, SinkKind};
use crate::control::Control;
use crate::lane::{Lane, Limits};
use crate::metrics::Metrics;
use crate::sink::null::Null;
use crate::sink::{self, Ends, Links, Sink, file, kafka, mqtt, stdout};
use crate::status::Watch;
use crate::truth::{self, Truths};
use crate::worker::{Outlet, Part, Stop, Worker};

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
                let open = kafka::open(&config.kafka, config.format.media_type(), &component);
                match self.in_time(config, open).await {
                    Some(lanes) => self.send(config, component, lanes, truths).await,
                    None => self.watch(config).end(),
                }
            }
            SinkKind::Mqtt => {
                let open = mqtt::open(config, &component);
                match self.in_time(config, open).await {
                    Some(lanes) => self.send(config, component, lanes, truths).await,
                    None => self.watch(config).end(),
                }
            }
            SinkKind::Stdout => {
                let lines = stdout::Lines::new(std::io::stdout());
                self.send(config, component, vec![lines], truths).await
            }
            SinkKind::File => {
                let file = file::open(Path::new(&config.file.path))?;
                self.send(config, component, vec![file], truths).await
            }
            SinkKind::Null => {
                // As many as there are workers: nothing goes on behind them.
                let lanes = (0..workers(config)).map(|_| Null).collect();
                self.send(config, component, lanes, truths).await
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

    async fn send<S: Sink>(
        &self,
        config: &SimulatorConfig,
        component: iot_service::health::Component,
        lanes: Vec<S>,
        truths: Option<Truths>,
    ) -> anyhow::Result<()> {
        let links = Links::up(
            component,
            self.metrics.clone(),
            config.circuit.clone(),
            lanes.len(),
        );
        let (workers, ends) = self.workers(config, lanes.len(), truths.as_ref());
        // It ends with the last worker.
        drop(truths);
        self.metrics.tasks.set((workers.len() + ends.len()) as i64);
        let stop = Stop {
            generate: self.shutdown.child_token(),
            abandon: CancellationToken::new(),
        };
        tracing::info!(
            devices = config.fleet.devices,
            lanes = lanes.len(),
            workers = workers.len(),
            interval = %config.fleet.interval,
            rate = %config.fleet.rate,
            "sending"
        );
        let mut senders = JoinSet::new();
        for (lane, (sink, ends)) in lanes.into_iter().zip(ends).enumerate() {
            let link = links.link(lane);
            senders.spawn(sink::run(sink, ends, link, self.metrics.clone()));
        }
        let watch = self.watch(config);
        let mut makers = JoinSet::new();
        for worker in workers {
            makers.spawn(worker.run(stop.clone()));
        }
        tokio::select! {
            never = watch.tell() => match never {},
            result = self.finish(config, stop, makers, senders) => result?,
        }
        watch.end()
    }

    /// Waits for the end, by itself or asked for, and goes through the
    /// shutdown's steps.
    async fn finish(
        &self,
        config: &SimulatorConfig,
        stop: Stop,
        mut makers: JoinSet<()>,
        mut senders: JoinSet<()>,
    ) -> anyhow::Result<()> {
        let duration = *config.run.duration;
        let over = async {
            match duration {
                Duration::ZERO => std::future::pending().await,
                duration => tokio::time::sleep(duration).await,
            }
        };
        // A panic in a sender would leave its worker waiting for ever.
        tokio::select! {
            result = all(&mut makers) => result?,
            result = first_panic(&mut senders) => result?,
            () = over => stop.generate.cancel(),
            () = self.shutdown.cancelled() => {}
        }
        let steps = Steps::begin(&self.health);
        let flushed = steps.step("flush", *config.shutdown.flush, all(&mut makers));
        match flushed.await {
            Some(result) => result?,
            None => {
                stop.abandon.cancel();
                all(&mut makers).await?;
                senders.abort_all();
            }
        }
        steps.step("disconnect", GOODBYE, drain(&mut senders)).await;
        Ok(())
    }

    /// The workers with their lanes, and the other ends of the lanes, in the
    /// order of the lanes.
    pub(crate) fn workers(
        &self,
        config: &SimulatorConfig,
        lanes: usize,
        truths: Option<&Truths>,
    ) -> (Vec<Worker>, Vec<Ends>) {
        let count = workers(config).min(lanes);
        let start = Instant::now();
        let mut returns = Vec::with_capacity(count);
        let mut workers: Vec<Worker> = (0..count)
            .map(|index| {
                let (sender, done) = mpsc::unbounded_channel();
                returns.push(sender);
                Worker {
                    part: Part {
                        lanes: u32::try_from(lanes).unwrap_or(u32::MAX),
                        workers: count,
                        index,
                    },
                    members: Vec::new(),
                    counted: 0,
                    outlets: Vec::new(),
                    done,
                    injections: self.control.injections(),
                    config: self.config.clone(),
                    metrics: self.metrics.clone(),
                    truths: truths.cloned(),
                    start,
                }
            })
            .collect();
        let limits = limits(config, lanes);
        let ends = (0..lanes).map(|lane| {
            let (sender, batches) = mpsc::channel(1);
            workers[lane % count].outlets.push(Outlet {
                lane: Lane::new(limits),
                batches: sender,
            });
            Ends {
                lane: lane / count,
                batches,
                done: returns[lane % count].clone(),
            }
        });
        let ends = ends.collect();
        (workers, ends)
    }
}

/// How many workers there may be.
fn workers(config: &SimulatorConfig) -> usize {
    match usize::from(config.fleet.workers) {
        0 => std::thread::available_parallelism().map_or(1, usize::from),
        count => count,
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

async fn all(tasks: &mut JoinSet<()>) -> anyhow::Result<()> {
    while let Some(result) = tasks.join_next().await {
        result?;
    }
    Ok(())
}

/// Never ends while tasks merely end.
async fn first_panic(tasks: &mut JoinSet<()>) -> anyhow::Result<()> {
    all(tasks).await?;
    std::future::pending().await
}

async fn drain(tasks: &mut JoinSet<()>) {
    while tasks.join_next().await.is_some() {}
}
