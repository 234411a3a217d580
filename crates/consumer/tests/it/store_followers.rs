//! Followers of state in Redis, on a real Kafka: in the end they show what a consumer shows that
//! reads the topic from its start.

use iot_consumer::{ConsumerConfig, Role};
use testkit::redis::RedisServer;
use testkit::wait_for;

use crate::process::Process;
use crate::real::Real;
use crate::service::{Endpoints, Service};
use crate::store::{MESSAGES, fill, settings, wait_exact, wait_stored};

const FOLLOWED: &str = "iot_follower_messages_total";

fn config(kafka: &Real, redis: &RedisServer, role: Role) -> ConsumerConfig {
    let mut config = kafka.config(&[&kafka.run]);
    config.store.url = redis.url().as_str().into();
    config.role = role;
    config
}

/// What readiness says of followers.
async fn reason(of: &Endpoints) -> Option<String> {
    let (status, report) = of.readyz().await;
    let followers = &report["components"]["followers"];
    let reason = followers["reason"].as_str()?;
    (status == 200 && followers["state"] == "degraded").then(|| reason.to_owned())
}

async fn wait_reason(of: &Endpoints, part: &str) {
    wait_for(part, async || {
        let found = reason(of).await;
        let found = found.filter(|reason| reason.contains(part));
        match found {
            Some(_) => Ok(()),
            None => Err(of.readyz().await.1.to_string()),
        }
    })
    .await;
}

async fn wait_reloads(of: &Endpoints, reason: &str, least: f64) {
    let name = format!("iot_follower_reloads_total{{reason=\"{reason}\"}}");
    of.ops.wait_metric_at_least(&name, least).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs the stack"]
async fn followers_are_exact_while_owners_are_killed() {
    let kafka = Real::new("follow-killed");
    let redis = RedisServer::start(&[]).await;
    let url = redis.url();
    let filling = fill(&kafka).await;
    let mut owner = Process::start(&settings(&kafka, &url)).await;
    wait_stored(&redis, &kafka, MESSAGES / 8).await;
    // It starts in the middle: from a copy of the state.
    let replica = Service::start(config(&kafka, &redis, Role::Serve)).await;
    replica.wait_ready().await;
    owner.kill();
    let next = Process::start(&settings(&kafka, &url)).await;
    filling.await.unwrap();
    // Before the next owner has anything: it waits for the session of the one that was killed.
    wait_exact(&replica, &kafka).await;
    wait_exact(&next, &kafka).await;
    wait_stored(&redis, &kafka, MESSAGES / 2).await;
    wait_exact(&replica, &kafka).await;
    let read = replica.metric(FOLLOWED).await.unwrap();
    assert!(read < MESSAGES as f64, "{read}: it began with a copy");
    replica.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs the stack"]
async fn followers_go_on_while_redis_is_away_and_load_again_what_was_flushed() {
    let kafka = Real::new("follow-away");
    let mut redis = RedisServer::start(&[]).await;
    let owner = Service::start(config(&kafka, &redis, Role::Fold)).await;
    let filling = fill(&kafka).await;
    wait_stored(&redis, &kafka, MESSAGES / 8).await;
    let replica = Service::start(config(&kafka, &redis, Role::Serve)).await;
    replica.wait_ready().await;
    redis.kill();
    wait_reason(&replica, "followed partitions are shown from the log").await;
    filling.await.unwrap();
    let last = wait_for("the last message", async || {
        let (_, devices) = replica.get("/api/v1/devices?limit=100").await;
        let devices = devices["devices"].as_array()?;
        devices
            .iter()
            .filter_map(|one| one["timestamp"].as_i64())
            .max()
            .filter(|last| *last >= kafka.begun - 20)
    })
    .await;
    assert!(last < kafka.begun);
    assert_eq!(replica.readyz().await.0, 200);
    // Without any state: it is another beginning.
    redis.start_again().await;
    redis.cli(&["FLUSHALL"]);
    wait_reloads(&replica, "reset", 2.0).await;
    wait_exact(&replica, &kafka).await;
    replica.stop().await;
    owner.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs the stack"]
async fn other_rules_are_reported_and_the_state_is_loaded_again_once_they_are_equal() {
    let kafka = Real::new("follow-rules");
    let redis = RedisServer::start(&[]).await;
    let mut other = config(&kafka, &redis, Role::Fold);
    other.windows.keep += 1;
    let owner = Service::start(other).await;
    let filling = fill(&kafka).await;
    wait_stored(&redis, &kafka, MESSAGES / 8).await;
    let replica = Service::start(config(&kafka, &redis, Role::Serve)).await;
    wait_reason(&replica, "it folds with other settings or another version").await;
    // A rolling upgrade.
    owner.stop().await;
    let owner = Service::start(config(&kafka, &redis, Role::Fold)).await;
    wait_reloads(&replica, "rules", 2.0).await;
    filling.await.unwrap();
    wait_for("the reason to be gone", async || {
        reason(&replica).await.is_none().then_some(())
    })
    .await;
    wait_stored(&redis, &kafka, MESSAGES / 2).await;
    wait_exact(&replica, &kafka).await;
    replica.stop().await;
    owner.stop().await;
}
