//! MQTT to Kafka: payloads untouched, acknowledged only after Kafka confirmed.
//!
//! [`run`] is the whole service. The way of a message is in `pipeline`; the
//! parts that it is made of are `mqtt`, `ring` (what is on its way), `topics` and
//! `kafka`.

mod again;
mod cli;
mod config;
mod kafka;
mod message;
mod metrics;
#[allow(dead_code, reason = "the pipeline takes up what is new, bit by bit")]
mod mqtt;
mod pipeline;
mod ring;
mod show;
mod tools;
mod topics;

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use iot_service::config::Live;
use iot_service::health::{Component, Health};
use iot_service::shutdown::Steps;
use iot_service::{Backoff, Listeners, ops};
use prometheus::Registry;
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

pub use cli::Cli;
pub use config::{
    BridgeConfig, Compression, DeadLetterConfig, InFlightConfig, KafkaConfig, MqttConfig, Protocol,
    TopicsConfig,
};
use kafka::Kafka;
use metrics::Metrics;
use mqtt::{Link, SessionPlan};
use pipeline::{Components, Events, Pipeline};
use topics::{Admin, Creator, Topics};

const DRAIN_DEADLINE: Duration = Duration::from_secs(20);
const GOODBYE_DEADLINE: Duration = Duration::from_secs(2);
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
    let config = (*config.current()).clone();
    let (registry, health, ops_stop) =
        (Registry::new(), Health::default(), CancellationToken::new());
    let metrics = Metrics::new(&registry).context("registering metrics")?;
    let components = Components {
        mqtt: health.component("mqtt"),
        delivery: health.component("delivery"),
    };
    let kafka_health = health.component("kafka");
    let ops = ops::serve(listeners.ops, registry, health.clone(), ops_stop.clone());

    let admin = topics::admin(&config.kafka)?;
    let (deliveries, deliveries_end) = mpsc::unbounded_channel();
    let (wanted, wanted_end) = mpsc::unbounded_channel();
    let (created, created_end) = mpsc::unbounded_channel();
    let (trouble, trouble_end) = watch::channel(None);
    let dead_letters: Arc<str> = config.dead_letter.topic.as_str().into();
    let creator = Creator::new(admin.clone(), &config.topics, dead_letters);
    let helpers = [
        tokio::spawn(creator.run(wanted_end, created)),
        tokio::spawn(watch_kafka(admin, kafka_health, trouble_end)),
    ];
    let session = SessionPlan {
        client_id: config.mqtt.client_id.clone(),
        filters: config.mqtt.subscriptions().collect(),
    };
    let parts = (
        Link::new(&config.mqtt, session)?,
        Kafka::new(&config.kafka, deliveries, trouble)?,
        Topics::new(&config.topics, wanted),
    );
    let events = Events {
        deliveries: deliveries_end,
        created: created_end,
    };
    let mut pipeline = Pipeline::new(config, parts, events, components, metrics);

    let result = pipeline.run(&shutdown).await;

    let steps = Steps::begin(&health);
    steps
        .step("flush to kafka", DRAIN_DEADLINE, pipeline.drain())
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
    for helper in &helpers {
        helper.abort();
    }
    ops_stop.cancel();
    steps
        .step("end the ops server", GOODBYE_DEADLINE, ops)
        .await;
    result
}

/// Tells whether Kafka can be reached: at the start, and after it could not.
async fn watch_kafka(
    admin: Arc<Admin>,
    health: Component,
    mut trouble: watch::Receiver<Option<String>>,
) {
    let mut backoff = Backoff::new(Duration::from_millis(500), Duration::from_secs(5));
    loop {
        trouble.mark_unchanged();
        match probe(admin.clone()).await {
            Ok(()) => {
                health.ready();
                backoff.reset();
                if trouble.changed().await.is_err() {
                    return;
                }
                let reason = trouble.borrow().clone().unwrap_or_default();
                health.not_ready(reason);
            }
            Err(error) => health.not_ready(format!("{error:#}")),
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
    asked.await?.context("no Kafka broker answers")
}
