//! MQTT to Kafka: payloads untouched, acknowledged only after Kafka confirmed.
//!
//! [`run`] is the whole service. The way of a message is in `pipeline`; the
//! parts that it is made of are `mqtt`, `ring` (what is on its way), `topics` and
//! `kafka`.

mod cli;
mod client;
mod config;
mod creator;
mod deliveries;
mod kafka;
mod lockstep;
mod message;
mod message_ids;
mod metrics;
mod mqtt;
mod pace;
mod pipeline;
mod redelivery;
mod ring;
mod router;
mod sessions;
mod show;
mod tail;
mod tools;
mod topics;

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use iot_service::config::Live;
use iot_service::health::{Component, Health};
use iot_service::rebootstrap::Rebootstrap;
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
use tools::preflight;

const OPS_DEADLINE: Duration = Duration::from_secs(2);
const PROBE_DEADLINE: Duration = Duration::from_secs(5);

/// Runs the bridge until `shutdown`, then until everything it has taken is in
/// Kafka and acknowledged, or the deadlines of the shutdown are over.
///
/// # Errors
/// When it can't be started. Whatever happens to MQTT or Kafka later is shown
/// by logs, health and metrics, and waited for.
pub async fn run(
    config: Live<BridgeConfig>,
    listeners: Listeners,
    shutdown: CancellationToken,
) -> anyhow::Result<()> {
    serve(config, listeners, shutdown, Purpose::Carry).await
}

/// Ends the subscriptions, carries what the broker still holds for the
/// sessions of this bridge to Kafka, and ends the sessions.
///
/// # Errors
/// When it can't be started.
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

    client::warn_of_weaknesses(&config.kafka);
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

/// Tells whether Kafka can be reached: at the start, and after it could not.
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
                // The producer's own attempts tell more, such as a refused login.
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
            // Not by the name of a topic: the broker might create it, its own way.
            .fetch_metadata(None, PROBE_DEADLINE)
            .map(drop)
    });
    Ok(asked.await??)
}
