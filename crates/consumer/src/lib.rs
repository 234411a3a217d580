//! Consumer group: reads devices' messages from Kafka, validates them, keeps
//! newest values, windows and alerts, and streams them to browsers.
//!
//! [`run`] is the only entry point. `pipeline.rs` shows the path of a message.

#[doc(hidden)]
pub mod bench;
mod check;
mod cli;
mod config;
mod dead_letter;
#[cfg(fuzzing)]
pub mod fuzz;
mod identify;
mod kafka;
mod laps;
mod live;
mod mapping;
mod metrics;
mod outputs;
mod owner;
mod parse;
mod partial;
mod pipeline;
mod readiness;
mod record;
mod refusal;
mod replay;
mod state;
mod store;
mod transform;
mod validate;
mod webhook;

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use iot_live::{Hub, http};
use iot_service::config::Live;
use iot_service::health::Health;
use iot_service::shutdown::Steps;
use iot_service::{Listeners, ops};
use prometheus::Registry;
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;

pub use cli::Cli;
pub use config::{
    ConsumerConfig, DeadLetterConfig, DetectConfig, From, KafkaConfig, LimitsConfig, Missing,
    OutputsConfig, PushConfig, RetentionConfig, SensorConfig, SilenceConfig, StoreConfig, StoreUrl,
    ThresholdRuleConfig, ValidateConfig, WebhookConfig, WindowsConfig,
};
use dead_letter::DeadLetters;
use kafka::ends::Ends;
use kafka::group::{self, Member};
use kafka::lookups::Lookups;
use kafka::record_times::RecordTimes;
use kafka_fetch::Fetcher;
use metrics::Metrics;
use outputs::Outputs;
use owner::Shared;
use readiness::SharedReadiness;
pub use replay::{ReplayArgs, replay};
pub use state::StateCommand;
use store::Keeper;
use webhook::Webhook;

/// The most offsets that wait to be committed.
const COMMITS: usize = 1_024;

/// Deadlines of the shutdown; together below the 30 s that Kubernetes gives.
const LEAVE: Duration = Duration::from_secs(15);
const CLIENTS: Duration = Duration::from_secs(8);
const OTHER: Duration = Duration::from_secs(2);

/// Runs the consumer until `shutdown`.
///
/// # Errors
/// The consumer cannot start, or its Kafka client has failed permanently.
pub async fn run(
    live: Live<ConsumerConfig>,
    listeners: Listeners,
    shutdown: CancellationToken,
) -> anyhow::Result<()> {
    let config = (*live.current()).clone();
    let http_listener = listeners
        .http
        .context("the consumer needs an HTTP listener")?;
    let (registry, health) = (Registry::new(), Health::default());
    let metrics = Arc::new(Metrics::new(&registry).context("registering metrics")?);
    let tokens: [CancellationToken; 5] = std::array::from_fn(|_| CancellationToken::new());
    let [stop_group, stop_webhook, stop_hub, stop_http, stop_ops] = &tokens;
    let _stop_all = tokens.clone().map(CancellationToken::drop_guard);

    let ops = ops::serve(listeners.ops, registry, health.clone(), stop_ops.clone());
    let lookups = Lookups::new(&config.kafka)?;
    let (kept, stop) = (lookups.clone(), stop_http.clone());
    tokio::spawn(async move { stop.run_until_cancelled(kept.keep()).await });
    let epoch = live::epoch(lookups.clone(), &config.kafka.group).await;
    let (hub, hub_task) = Hub::start(
        live::settings(&config, epoch.clone()),
        live::counts(&metrics),
        metrics.hub.clone(),
        stop_hub.clone(),
    );
    let (keeping, stop) = (
        live::keep_interval(live.clone(), hub.clone()),
        stop_hub.clone(),
    );
    tokio::spawn(async move { stop.run_until_cancelled(keeping).await });
    let store = health.component("store");
    let store = Arc::new(Keeper::open(&config, metrics.store.clone(), store)?);
    let http = http::serve(
        http_listener,
        hub.clone(),
        metrics.http.clone(),
        live::http_settings(&live, &config.windows, epoch),
        stop_http.clone(),
    );
    let dead_letters = DeadLetters::new(
        &config.kafka,
        &config.dead_letter,
        metrics.dead_letter.clone(),
        health.component("dead_letter"),
    )?;
    let outputs = Outputs::new(
        &config.outputs,
        dead_letters.producer(),
        metrics.outputs.clone(),
        health.component("outputs"),
    );
    let mut topics = Outputs::topics(&config.outputs);
    topics.push(dead_letter::topic(&config.dead_letter));
    tokio::spawn(kafka::topic::create(
        config.kafka.clone(),
        topics,
        health.component("topics"),
        stop_group.clone(),
    ));

    let (letters, stop) = (dead_letters.clone(), stop_http.clone());
    tokio::spawn(async move { stop.run_until_cancelled(letters.keep()).await });
    let ends = Ends::start(lookups);
    let record_times = health.component("record_times");
    let record_times = RecordTimes::start(config.kafka.clone(), record_times);
    let (webhook, webhook_task) = Webhook::start(
        live,
        metrics.webhook.clone(),
        health.component("webhook"),
        stop_webhook.clone(),
    )?;
    let (commits, committed) = mpsc::channel(COMMITS);
    let state = health.component("state");
    let budget = kafka::fetch::budget(&config.limits, metrics.kafka.buffered_bytes.clone());
    let shared = Arc::new(Shared {
        store: store.clone(),
        hub,
        dead_letters,
        record_times,
        outputs,
        webhook,
        metrics: metrics.clone(),
        fetcher: Fetcher::start(kafka::fetch::settings(&config.kafka, budget.clone())?),
        budget,
        commits,
        state: SharedReadiness::new(state.clone()),
        config: config.clone(),
    });
    state.ready();
    let stop_greeting = stop_group.clone();
    tokio::spawn(async move { store.greet(&stop_greeting).await });
    let mut group = start_group(Member {
        config: config.kafka,
        commits: committed,
        start_owner: owner_starter(shared),
        ends,
        metrics: metrics.kafka.clone(),
        health: health.component("kafka"),
        stop: stop_group.clone(),
    })?;

    let ended = tokio::select! {
        () = shutdown.cancelled() => None,
        ended = &mut group => Some(ended),
    };
    let steps = Steps::begin(&health);
    stop_group.cancel();
    let result = match ended {
        Some(ended) => ended.context("the thread of the consumer group died")?,
        None => {
            let left = steps
                .step("store state and leave the group", LEAVE, group)
                .await;
            left.map_or(Ok(()), |left| left.unwrap_or(Ok(())))
        }
    };
    stop_webhook.cancel();
    steps
        .step("send the last alerts", OTHER, webhook_task)
        .await;
    stop_hub.cancel();
    steps.step("disconnect clients", OTHER, hub_task).await;
    stop_http.cancel();
    steps.step("close connections", CLIENTS, http).await;
    stop_ops.cancel();
    steps.step("ops", OTHER, ops).await;
    result
}

/// Starts the thread that is a member of the group. The receiver gets its result.
fn start_group(member: Member) -> anyhow::Result<oneshot::Receiver<anyhow::Result<()>>> {
    let (end, ended) = oneshot::channel();
    std::thread::Builder::new()
        .name("kafka-group".into())
        .spawn(move || {
            // Nothing receives it after the deadline of the shutdown.
            let _ = end.send(group::run(member));
        })
        .context("starting the thread of the consumer group")?;
    Ok(ended)
}

fn owner_starter(shared: Arc<Shared>) -> group::StartOwner {
    let runtime = tokio::runtime::Handle::current();
    Box::new(move |inbox| runtime.spawn(owner::run(shared.clone(), inbox)))
}
