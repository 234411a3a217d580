//! The MQTT sessions of a bridge, all on one thread of their own.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use iot_service::config::Live;
use iot_service::health::Health;
use iot_service::shutdown::Steps;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::config::{BridgeConfig, ShutdownMode};
use crate::creator::Wanted;
use crate::kafka::{Kafka, Reports};
use crate::metrics::Metrics;
use crate::pace::{self, Alarm, Pace};
use crate::pipeline::{Components, Parts, Pipeline};

const LEAVE_DEADLINE: Duration = Duration::from_secs(20);
const FLUSH_DEADLINE: Duration = Duration::from_secs(20);
/// With what is left of the usual 30 seconds after a session could not be left.
const LATE_FLUSH_DEADLINE: Duration = Duration::from_secs(5);
const GOODBYE_DEADLINE: Duration = Duration::from_secs(2);

/// What all sessions share.
pub(crate) struct Shared {
    pub(crate) config: Live<BridgeConfig>,
    pub(crate) health: Health,
    pub(crate) metrics: Metrics,
    /// Where topics are asked for.
    pub(crate) wanted: mpsc::UnboundedSender<Wanted>,
    /// Told when no Kafka broker can be reached.
    pub(crate) trouble: watch::Sender<Option<String>>,
}

/// What the sessions are there for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Purpose {
    /// To carry messages until the bridge is stopped.
    Carry,
    /// To be emptied and ended.
    Drain,
}

/// Runs the sessions on a thread until `stop`, and ends them in order. Returns
/// the steps of the shutdown, for what comes after.
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
                // A thread that reads from Kafka must not hold up the end.
                runtime.shutdown_background();
                result
            });
            // Whoever waited has gone.
            let _ = done.send(result);
        })
        .context("starting the thread of the sessions")?;
    ended.await.context("the thread of the sessions has died")?
}

async fn carry(
    shared: Shared,
    purpose: Purpose,
    stop: CancellationToken,
) -> anyhow::Result<Arc<Steps>> {
    let pipelines = pipelines(&shared)?;
    let mut running = JoinSet::new();
    // One that fails ends them all.
    let stop = stop.child_token();
    for mut pipeline in pipelines {
        let stop = stop.clone();
        running.spawn(async move {
            let result = match purpose {
                Purpose::Carry => pipeline.run(&stop).await,
                Purpose::Drain => tokio::select! {
                    () = stop.cancelled() => Ok(()),
                    result = pipeline.leave() => result,
                },
            };
            (pipeline, result)
        });
    }
    let (mut ended, mut failure) = (Vec::new(), None);
    while let Some(session) = running.join_next().await {
        let (pipeline, result) = session.context("a session has died")?;
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
        let result = session.context("a session has died")?;
        failure = failure.or(result.err());
    }
    failure.map_or(Ok(steps), Err)
}

fn pipelines(shared: &Shared) -> anyhow::Result<Vec<Pipeline>> {
    let config = shared.config.current();
    let plans = config.mqtt.sessions();
    let alone = plans.len() == 1;
    let pipelines = plans.into_iter().map(|plan| {
        let component = |name: &str| match alone {
            true => shared.health.component(name),
            false => shared
                .health
                .component(format!("{name} {}", plan.client_id)),
        };
        let health = Components {
            mqtt: component("mqtt"),
            delivery: component("delivery"),
        };
        let (verdicts, deliveries) = mpsc::unbounded_channel();
        let settled = Arc::new(Alarm::new());
        let reports = Reports {
            deliveries: verdicts,
            settled: settled.clone(),
            trouble: shared.trouble.clone(),
        };
        let parts = Parts {
            kafka: Kafka::new(&config.kafka, reports)?,
            plan,
            deliveries,
            settled,
            wanted: shared.wanted.clone(),
            health,
            metrics: shared.metrics.clone(),
            pace: Pace::new(),
        };
        Pipeline::new(shared.config.clone(), parts)
    });
    pipelines.collect()
}

/// Leaves nothing behind: what was received is in Kafka and acknowledged, as
/// far as the deadlines allow.
async fn end(mut pipeline: Pipeline, steps: Arc<Steps>, mode: ShutdownMode) -> anyhow::Result<()> {
    let mut deadline = FLUSH_DEADLINE;
    if mode == ShutdownMode::Drain {
        let left = steps
            .step("empty the mqtt session", LEAVE_DEADLINE, pipeline.leave())
            .await;
        left.transpose()?;
        deadline = LATE_FLUSH_DEADLINE;
    }
    steps
        .step("flush to kafka", deadline, pipeline.flush())
        .await
        .transpose()?;
    if pipeline.in_flight() > 0 {
        tracing::warn!(
            messages = pipeline.in_flight(),
            "not confirmed by Kafka in time: the MQTT broker keeps them and sends them again"
        );
    }
    steps
        .step("leave the mqtt broker", GOODBYE_DEADLINE, pipeline.close())
        .await;
    Ok(())
}
