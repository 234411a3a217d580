//! Bridges MQTT to Kafka: payloads are unchanged, and a message is acknowledged only
//! after Kafka has confirmed it.
//!
//! [`run`] is the service. `pipeline` has the message flow; it is made of `mqtt`,
//! `dedupe`, `router`, `topics` (queues), `kafka` (producer) and `ring` (messages in
//! flight).

mod cli;
mod cluster;
mod config;
mod creator;
mod dedupe;
mod kafka;
mod message;
mod metrics;
mod mqtt;
mod pace;
mod pipeline;
mod preflight;
mod refusal;
mod ring;
mod router;
mod sessions;
mod show;
mod tools;
mod topic_id;
mod topics;
mod window_limit;

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use iot_kafka::rebootstrap::Rebootstrap;
use iot_service::config::Live;
use iot_service::health::{Component, Health};
use iot_service::{Backoff, Listeners, ops};
use prometheus::Registry;
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

pub use cli::Cli;
pub use config::{
    Acks, BridgeConfig, Compression, DeadLetterConfig, DedupeConfig, DeliveryGuarantee,
    Idempotence, InFlightConfig, Isolation, KafkaConfig, MetricsConfig, MqttConfig, ShutdownMode,
    TopicsConfig,
};
use creator::{Admin, Creator};
use metrics::Metrics;
use sessions::{Purpose, Shared};

const OPS_DEADLINE: Duration = Duration::from_secs(2);
const PROBE_DEADLINE: Duration = Duration::from_secs(5);

/// Runs the bridge until `shutdown`, and then until everything received is in Kafka
/// and acknowledged, or the shutdown deadlines have passed.
///
/// # Errors
/// The bridge can't start. Later failures of MQTT or Kafka are not errors: the bridge
/// retries, and reports them in logs, health and metrics.
pub async fn run(
    config: Live<BridgeConfig>,
    listeners: Listeners,
    shutdown: CancellationToken,
) -> anyhow::Result<()> {
    serve(config, listeners, shutdown, Purpose::Carry).await
}

/// Drains the sessions of this bridge: ends the subscriptions, writes to Kafka what
/// the broker has queued, and ends the sessions.
///
/// # Errors
/// The bridge can't start.
pub async fn drain(
    config: Live<BridgeConfig>,
    listeners: Listeners,
    shutdown: CancellationToken,
) -> anyhow::Result<()> {
    serve(config, listeners, shutdown, Purpose::Drain).await
}

async fn serve(
    live: Live<BridgeConfig>,
    listeners: Listeners,
    shutdown: CancellationToken,
    purpose: Purpose,
) -> anyhow::Result<()> {
    let config = live.current();
    let (registry, health, ops_stop) =
        (Registry::new(), Health::default(), CancellationToken::new());
    let metrics = Metrics::new(&registry).context("registering metrics")?;
    let kafka_health = health.component("kafka");
    let ops = ops::serve(listeners.ops, registry, health.clone(), ops_stop.clone());

    for (setting, reason) in config.kafka.weaknesses() {
        tracing::warn!(setting, reason, "delivery is best effort");
    }
    let admin = creator::admin(&config.kafka)?;
    let (wanted, wanted_end) = mpsc::unbounded_channel();
    let (trouble, trouble_end) = watch::channel(None);
    let dead_letters: Arc<str> = config.dead_letter.topic.as_str().into();
    let creator = Creator::new(admin.clone(), &config.topics, dead_letters);
    let helpers = [
        tokio::spawn(creator.run(wanted_end)),
        tokio::spawn(watch_kafka(
            admin,
            Rebootstrap::new(&config.kafka.brokers)?,
            config.clone(),
            kafka_health,
            trouble_end,
        )),
    ];
    let shared = Shared {
        config: live,
        health,
        metrics,
        wanted,
        trouble,
    };
    let steps = sessions::run(shared, purpose, shutdown).await;
    for helper in &helpers {
        helper.abort();
    }
    ops_stop.cancel();
    steps?.step("end the ops server", OPS_DEADLINE, ops).await;
    Ok(())
}

/// Reports in `health` whether Kafka can be reached: checks it at the start, and
/// again whenever `trouble` says that no broker answers.
async fn watch_kafka(
    admin: Arc<Admin>,
    rebootstrap: Rebootstrap,
    config: Arc<BridgeConfig>,
    health: Component,
    mut trouble: watch::Receiver<Option<String>>,
) {
    let mut backoff = Backoff::new(Duration::from_millis(500), Duration::from_secs(5));
    let mut checked = false;
    loop {
        trouble.mark_unchanged();
        match probe(admin.clone()).await {
            Ok(()) => {
                health.ready();
                backoff.reset();
                if !std::mem::replace(&mut checked, true) {
                    preflight::warn(&preflight::kafka_checks(&admin, &config).await);
                }
                if trouble.changed().await.is_err() {
                    return;
                }
                let reason = trouble.borrow().clone().unwrap_or_default();
                health.not_ready(reason);
            }
            Err(error) => {
                rebootstrap.suspect();
                rebootstrap.serve(admin.inner());
                // The producers know the reason, such as a failed login.
                let why = trouble.borrow().clone();
                let why = why.unwrap_or_else(|| format!("{:#}", error.root_cause()));
                health.not_ready(format!("no Kafka broker answers: {why}"));
            }
        }
        tokio::time::sleep(backoff.next_delay()).await;
    }
}

async fn probe(admin: Arc<Admin>) -> anyhow::Result<()> {
    let asked = tokio::task::spawn_blocking(move || {
        admin
            .inner()
            // All topics: asking for one by name could make the broker create it.
            .fetch_metadata(None, PROBE_DEADLINE)
            .map(drop)
    });
    Ok(asked.await??)
}
