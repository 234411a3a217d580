//! The MQTT sessions of a bridge. They share one thread.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use iot_service::config::Live;
use iot_service::health::Health;
use iot_service::shutdown::Steps;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use crate::config::{BridgeConfig, ShutdownMode};
use crate::creator::Wanted;
use crate::kafka::{Kafka, Reports};
use crate::metrics::Metrics;
use crate::pace::{self, Alarm, Pace};
use crate::pipeline::{Components, Parts, Pipeline};

const DRAIN_DEADLINE: Duration = Duration::from_secs(20);
const FLUSH_DEADLINE: Duration = Duration::from_secs(20);
/// After a drain: the deadlines of all steps together stay below the 30 s that Kubernetes
/// grants by default.
const FLUSH_AFTER_DRAIN_DEADLINE: Duration = Duration::from_secs(5);
const DISCONNECT_DEADLINE: Duration = Duration::from_secs(2);

/// What all sessions share.
pub(crate) struct Shared {
    pub(crate) config: Live<BridgeConfig>,
    pub(crate) health: Health,
    pub(crate) metrics: Metrics,
    /// Requests for topics to be created.
    pub(crate) wanted: mpsc::UnboundedSender<Wanted>,
    /// Why a Kafka broker could not be used; its receivers are notified when none can be reached.
    pub(crate) trouble: watch::Sender<Option<String>>,
}

/// What the sessions do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Purpose {
    /// Carry messages until the bridge stops.
    Carry,
    /// Drain, then end.
    Drain,
}

/// Runs the sessions on a thread until `stop`, or until they have served their purpose, then
/// shuts them down. Returns the steps of the shutdown, which the caller continues.
///
/// # Errors
/// A session can't start, or fails.
pub(crate) async fn run(
    shared: Shared,
    purpose: Purpose,
    stop: CancellationToken,
) -> anyhow::Result<Arc<Steps>> {
    let (done, ended) = oneshot::channel();
    let thread = std::thread::Builder::new().name("sessions".into());
    thread
        .spawn(move || {
            let runtime = pace::runtime().context("starting a runtime");
            let result = runtime.and_then(|runtime| {
                let result = runtime.block_on(carry(shared, purpose, stop));
                // Does not wait for threads that read from Kafka.
                runtime.shutdown_background();
                result
            });
            // Fails if `run` was cancelled.
            let _ = done.send(result);
        })
        .context("starting the sessions' thread")?;
    ended.await.context("the sessions' thread panicked")?
}

async fn carry(
    shared: Shared,
    purpose: Purpose,
    stop: CancellationToken,
) -> anyhow::Result<Arc<Steps>> {
    let pipelines = pipelines(&shared)?;
    let mut running = JoinSet::new();
    // If one fails, all stop.
    let stop = stop.child_token();
    for mut pipeline in pipelines {
        let stop = stop.clone();
        running.spawn(async move {
            let result = match purpose {
                Purpose::Carry => pipeline.run(&stop).await,
                Purpose::Drain => tokio::select! {
                    () = stop.cancelled() => Ok(()),
                    result = pipeline.drain() => {
                        // Now: without pings the connection would not outlast a longer drain.
                        if result.is_ok() {
                            let _ = timeout(DISCONNECT_DEADLINE, pipeline.close()).await;
                        }
                        result
                    }
                },
            };
            (pipeline, result)
        });
    }
    let (mut ended, mut failure) = (Vec::new(), None);
    while let Some(session) = running.join_next().await {
        let (pipeline, result) = session.context("a session panicked")?;
        if let Err(error) = result {
            stop.cancel();
            failure.get_or_insert(error);
        }
        ended.push(pipeline);
    }
    let steps = Arc::new(Steps::begin(&shared.health));
    let mode = match purpose {
        Purpose::Carry => shared.config.current().shutdown,
        Purpose::Drain => ShutdownMode::KeepSession,
    };
    let mut ending = JoinSet::new();
    for pipeline in ended {
        ending.spawn(end(pipeline, steps.clone(), mode));
    }
    while let Some(session) = ending.join_next().await {
        let result = session.context("a session panicked")?;
        failure = failure.or(result.err());
    }
    failure.map_or(Ok(steps), Err)
}

fn pipelines(shared: &Shared) -> anyhow::Result<Vec<Pipeline>> {
    let config = shared.config.current();
    let plans = config.mqtt.sessions();
    let only_one = plans.len() == 1;
    let pipelines = plans.into_iter().map(|plan| {
        let component = |name: &str| {
            if only_one {
                shared.health.component(name)
            } else {
                let name = format!("{name} {}", plan.client_id);
                shared.health.component(name)
            }
        };
        let health = Components {
            mqtt: component("mqtt"),
            delivery: component("delivery"),
        };
        let (deliveries, delivery_reports) = mpsc::unbounded_channel();
        let all_reported = Arc::new(Alarm::new());
        let reports = Reports {
            deliveries,
            settled: all_reported.clone(),
            trouble: shared.trouble.clone(),
        };
        let parts = Parts {
            kafka: Kafka::new(&config.kafka, config.route.empty, reports)?,
            plan,
            delivery_reports,
            all_reported,
            wanted: shared.wanted.clone(),
            health,
            metrics: shared.metrics.clone(),
            pace: Pace::new(),
        };
        Pipeline::new(shared.config.clone(), parts)
    });
    pipelines.collect()
}

/// Shuts a session down: what was received is in Kafka and acknowledged, as far as
/// the deadlines allow.
async fn end(mut pipeline: Pipeline, steps: Arc<Steps>, mode: ShutdownMode) -> anyhow::Result<()> {
    let mut deadline = FLUSH_DEADLINE;
    if mode == ShutdownMode::Drain {
        let drained = steps
            .step("empty the mqtt session", DRAIN_DEADLINE, pipeline.drain())
            .await;
        drained.transpose()?;
        deadline = FLUSH_AFTER_DRAIN_DEADLINE;
    }
    steps
        .step("flush to kafka", deadline, pipeline.flush())
        .await
        .transpose()?;
    if pipeline.in_flight() > 0 {
        tracing::warn!(
            messages = pipeline.in_flight(),
            "Kafka did not confirm these messages in time; the MQTT broker will redeliver those of QoS 1 and 2, those of QoS 0 are lost"
        );
    }
    steps
        .step(
            "leave the mqtt broker",
            DISCONNECT_DEADLINE,
            pipeline.close(),
        )
        .await;
    Ok(())
}
