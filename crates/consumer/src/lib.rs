//! Consumer group: reads devices' messages from Kafka, validates them, keeps
//! newest values, windows and alerts, and streams them to browsers.
//!
//! [`run`] is the only entry point. `pipeline.rs` shows the path of a message.

mod access;
#[doc(hidden)]
pub mod bench;
mod check;
mod cli;
mod config;
mod dead_letter;
mod follower;
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
mod shared;
mod showing;
mod state;
mod store;
mod token;
mod transform;
mod validate;
mod webhook;
mod writer;

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use iot_live::{Hub, http};
use iot_service::config::Live;
use iot_service::health::Health;
use iot_service::shutdown::Steps;
use iot_service::{Listeners, ops};
use prometheus::Registry;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

pub use cli::Cli;
pub use config::{
    ConsumerConfig, DeadLetterConfig, DetectConfig, Follow, From, KafkaConfig, LimitsConfig,
    Missing, OutputsConfig, PushConfig, RetentionConfig, Role, SensorConfig, SilenceConfig,
    StoreConfig, StoreUrl, ThresholdRuleConfig, ValidateConfig, WebhookConfig, WindowsConfig,
};
use dead_letter::DeadLetters;
use follower::{Followers, Supervisor};
use kafka::ends::Ends;
use kafka::group::{self, Assigned, Commit, Member};
use kafka::lookups::Lookups;
use kafka::record_times::RecordTimes;
use kafka_fetch::Fetcher;
use metrics::Metrics;
use outputs::Outputs;
use readiness::SharedReadiness;
pub use replay::{ReplayArgs, replay};
use shared::Shared;
pub use state::StateCommand;
use store::Keeper;
pub use token::TokenCommand;
use webhook::Webhook;
use writer::Outlets;

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
    let role = config.role;
    let (registry, health) = (Registry::new(), Health::default());
    let metrics = Arc::new(Metrics::new(&registry).context("registering metrics")?);
    let tokens: [CancellationToken; 6] = std::array::from_fn(|_| CancellationToken::new());
    let [
        stop_group,
        stop_webhook,
        stop_hub,
        stop_followers,
        stop_http,
        stop_ops,
    ] = &tokens;
    let _stop_all = tokens.clone().map(CancellationToken::drop_guard);

    // Before anyone can ask: without any component a service is ready.
    let store = health.component("store");
    let ops = ops::serve(listeners.ops, registry, health.clone(), stop_ops.clone());
    let lookups = Lookups::new(&config.kafka)?;
    let (kept, stop) = (lookups.clone(), stop_http.clone());
    tokio::spawn(async move { stop.run_until_cancelled(kept.keep()).await });
    let epoch = live::epoch(lookups.clone(), &config).await;
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
    let store = Arc::new(Keeper::open(&config, metrics.store.clone(), store)?);
    let http = if role.serves() {
        let listener = listeners.http;
        let listener = listener.context("the consumer needs an HTTP listener")?;
        let auth = access::start(&config.auth, &listener, &metrics, stop_http)?;
        let serving = http::serve(
            listener,
            hub.clone(),
            metrics.http.clone(),
            live::http_settings(&live, &config.windows, epoch, auth),
            stop_http.clone(),
        );
        Some(serving)
    } else {
        None
    };
    let (assigned, assignment) = watch::channel(Assigned::default());
    let (followers, supervisor) =
        Supervisor::new(&config, assignment, || health.component("followers"))
            .map_err(anyhow::Error::msg)?;
    let followers = followers.holding(stop_group.clone());
    // Clients see what owners have left until they are disconnected.
    let held = followers.clone();
    let state = health.component("state");
    let budget = kafka::fetch::budget(&config.limits, metrics.kafka.buffered_bytes.clone());
    let shared = Arc::new(Shared {
        store: store.clone(),
        hub,
        metrics: metrics.clone(),
        fetcher: Fetcher::start(kafka::fetch::settings(
            &config.kafka,
            *config.push.gather,
            budget.clone(),
        )?),
        budget,
        state: SharedReadiness::new(state.clone()),
        config: config.clone(),
    });
    state.ready();
    let following = supervisor.map(|supervisor| {
        let (lookups, stop) = (lookups.clone(), stop_followers.clone());
        tokio::spawn(supervisor.run(shared.clone(), lookups, stop))
    });
    let stop_greeting = stop_group.clone();
    tokio::spawn(async move { store.greet(&stop_greeting).await });
    let stops = (stop_group, stop_webhook, stop_http);
    let (mut group, webhook_task) = if role.is_member() {
        let (outlets, webhook_task, committed) = open_outlets(live, &metrics, &health, stops)?;
        let group = start_group(Member {
            config: config.kafka,
            commits: committed,
            start_owner: owner_starter(shared, outlets, followers),
            ends: Ends::start(lookups),
            assigned,
            metrics: metrics.kafka.clone(),
            health: health.component("kafka"),
            stop: stop_group.clone(),
        })?;
        (Some(group), Some(webhook_task))
    } else {
        (None, None)
    };

    let ended = tokio::select! {
        () = shutdown.cancelled() => None,
        ended = async {
            match &mut group {
                Some(group) => group.await,
                None => std::future::pending().await,
            }
        } => Some(ended),
    };
    let steps = Steps::begin(&health);
    stop_group.cancel();
    let result = match (ended, group) {
        (Some(ended), _) => ended.context("the thread of the consumer group died")?,
        (None, Some(group)) => {
            let left = steps
                .step("store state and leave the group", LEAVE, group)
                .await;
            left.map_or(Ok(()), |left| left.unwrap_or(Ok(())))
        }
        (None, None) => Ok(()),
    };
    stop_webhook.cancel();
    if let Some(task) = webhook_task {
        steps.step("send the last alerts", OTHER, task).await;
    }
    stop_hub.cancel();
    steps.step("disconnect clients", OTHER, hub_task).await;
    // Until then they show what owners have left.
    drop(held);
    stop_followers.cancel();
    if let Some(task) = following {
        steps.step("end followers", OTHER, task).await;
    }
    stop_http.cancel();
    if let Some(http) = http {
        steps.step("close connections", CLIENTS, http).await;
    }
    stop_ops.cancel();
    steps.step("ops", OTHER, ops).await;
    result
}

/// What owners write to, and where the group takes offsets to commit.
type Opened = (Arc<Outlets>, JoinHandle<()>, mpsc::Receiver<Commit>);

/// Opens what owners write to, which only members of the group need. The second value is the task
/// of the webhook.
fn open_outlets(
    live: Live<ConsumerConfig>,
    metrics: &Metrics,
    health: &Health,
    (stop_group, stop_webhook, stop_http): (
        &CancellationToken,
        &CancellationToken,
        &CancellationToken,
    ),
) -> anyhow::Result<Opened> {
    let config = live.current();
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
    let record_times = health.component("record_times");
    let record_times = RecordTimes::start(config.kafka.clone(), record_times);
    let (webhook, webhook_task) = Webhook::start(
        live.clone(),
        metrics.webhook.clone(),
        health.component("webhook"),
        stop_webhook.clone(),
    )?;
    let (commits, committed) = mpsc::channel(COMMITS);
    let outlets = Arc::new(Outlets {
        dead_letters,
        record_times,
        outputs,
        webhook,
        commits,
    });
    Ok((outlets, webhook_task, committed))
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

fn owner_starter(
    shared: Arc<Shared>,
    outlets: Arc<Outlets>,
    followers: Followers,
) -> group::StartOwner {
    let runtime = tokio::runtime::Handle::current();
    Box::new(move |inbox| {
        let owner = owner::run(shared.clone(), outlets.clone(), followers.clone(), inbox);
        runtime.spawn(owner)
    })
}
