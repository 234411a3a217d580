//! Followers with a mock cluster, and a store in memory.

use iot_live::Filter;
use iot_live::hub::Page;
use iot_service::health::Health;
use kafka_fetch::LogEnd;
use rdkafka::mocking::MockCluster;
use testkit::wait_for;
use tokio::sync::watch;

use super::*;
use crate::config::From;
use crate::kafka::group::Assigned;
use crate::kafka::lookups::Lookups;
use crate::kafka::progress::Progress;
use crate::owner::tests::{Bench, bench_of, fill};
use crate::record::batch_of;
use crate::record::tests::message;
use crate::store::LogId;

/// A supervisor of followers, and what owners need.
struct Fleet {
    bench: Bench,
    assigned: watch::Sender<Assigned>,
    health: Health,
    _stop: DropGuard,
}

impl Fleet {
    fn new(cluster: &MockCluster<'_, impl rdkafka::ClientContext>) -> Self {
        let (assigned, assignment) = watch::channel(Assigned::default());
        let (health, mut made) = (Health::default(), None);
        let bench = bench_of(
            cluster,
            From::Earliest,
            |_| (),
            |config| {
                let component = || health.component("followers");
                let (followers, supervisor) =
                    Supervisor::new(config, assignment, component).unwrap();
                made = supervisor;
                followers
            },
        );
        let stop = CancellationToken::new();
        let lookups = Lookups::new(&bench.shared.config.kafka).unwrap();
        let supervisor = made.unwrap();
        tokio::spawn(supervisor.run(bench.shared.clone(), lookups, stop.clone()));
        Self {
            bench,
            assigned,
            health,
            _stop: stop.drop_guard(),
        }
    }

    /// A rebalance that assigns nothing.
    fn join(&self) {
        self.assigned.send_modify(|assigned| assigned.joined = true);
    }

    /// The time of the one device, if it is shown, in seconds after that of the first record.
    async fn shown(&self) -> Option<i64> {
        let page = Page {
            limit: 1,
            ..Page::default()
        };
        let page = self.bench.shared.hub.devices(page).await.unwrap();
        let device = page.devices.first()?;
        Some(device.timestamp / 1_000 - 1_767_225_600)
    }

    async fn wait_shown(&self, time: i64) {
        wait_for("the device", async || {
            (self.shown().await == Some(time)).then_some(())
        })
        .await;
    }

    /// Waits until this is reported of partitions.
    async fn wait_partial(&self, expected: &[&str]) {
        wait_for("the report", async || {
            let stats = self
                .bench
                .shared
                .hub
                .stats(Filter::default())
                .await
                .unwrap();
            (stats.partial == expected).then_some(())
        })
        .await;
    }

    fn followed(&self) -> i64 {
        self.bench.shared.metrics.followers.partitions.get()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_follower_shows_the_log_and_writes_nothing() {
    let cluster = MockCluster::new(1).unwrap();
    let fleet = Fleet::new(&cluster);
    fill(&cluster, 0).await;
    wait_for("the reason to wait", async || {
        let health = format!("{:?}", fleet.health);
        health.contains("waiting for the group").then_some(())
    })
    .await;
    assert_eq!(fleet.shown().await, None);
    let waiting = "device-data-0: waiting for the group to assign partitions";
    fleet.wait_partial(&[waiting]).await;
    fleet.join();
    fleet.wait_shown(9).await;
    fleet.wait_partial(&[]).await;
    fill(&cluster, 10).await;
    fleet.wait_shown(19).await;
    wait_for("readiness", async || {
        let health = format!("{:?}", fleet.health);
        (fleet.followed() == 1 && !health.contains("NotReady")).then_some(())
    })
    .await;
    let metrics = &fleet.bench.shared.metrics;
    assert_eq!(metrics.followers.messages.get(), 20);
    assert_eq!(
        (metrics.owner.consumed.get(), metrics.store.values.get()),
        (0, 0)
    );
    assert_eq!(fleet.bench.stored().await, None);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_see_a_partition_without_a_gap_while_it_comes_and_goes() {
    let cluster = MockCluster::new(1).unwrap();
    let fleet = Fleet::new(&cluster);
    fill(&cluster, 0).await;
    fleet.join();
    fleet.wait_shown(9).await;
    let mut seen = 9;
    let mut from = 10;
    for _ in 0..3 {
        let owner = fleet.bench.spawn();
        fill(&cluster, from).await;
        from += 10;
        wait_for("the owner to be shown", async || {
            let shown = fleet.shown().await.expect("never blank");
            assert!(shown >= seen, "{shown} after {seen}");
            seen = shown;
            let is_read = owner.progress.position() == Some(from);
            (is_read && fleet.followed() == 0 && shown == from - 1).then_some(())
        })
        .await;
        fleet.wait_partial(&[]).await;
        owner.end().await;
        assert_eq!(fleet.bench.stored().await, Some(from));
        assert_eq!(fleet.shown().await, Some(from - 1));
        fill(&cluster, from).await;
        from += 10;
        wait_for("the follower to go on", async || {
            let shown = fleet.shown().await.expect("never blank");
            assert!(shown >= seen, "{shown} after {seen}");
            seen = shown;
            (fleet.followed() == 1 && shown == from - 1).then_some(())
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn devices_of_a_follower_go_with_it() {
    let cluster = MockCluster::new(1).unwrap();
    let fleet = Fleet::new(&cluster);
    fill(&cluster, 0).await;
    fleet.join();
    fleet.wait_shown(9).await;
    let partition = TopicPartition::new("device-data", 0);
    let (tenure, follower) = fleet.bench.followers.take(&partition).await;
    let follower = follower.expect("a follower");
    assert_eq!(follower.shown(), Some(10));
    let showing = follower.stop().await;
    assert_eq!(fleet.shown().await, Some(9), "until the owner is there");
    drop(showing);
    wait_for("it to go", async || {
        fleet.shown().await.is_none().then_some(())
    })
    .await;
    // An owner that died leaves nothing, and the partition is followed again.
    drop(tenure);
    fleet.wait_shown(9).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn devices_stay_shown_until_clients_are_disconnected() {
    let stop = CancellationToken::new();
    for is_stopping in [false, true] {
        let cluster = MockCluster::new(1).unwrap();
        let followers = |_: &_| Followers::none().holding(stop.clone());
        let bench = bench_of(&cluster, From::Earliest, |_| (), followers);
        fill(&cluster, 0).await;
        let hub = bench.shared.hub.clone();
        let devices = async || hub.devices(Page::default()).await.unwrap().total;
        let owner = bench.spawn();
        wait_for("the device", async || (devices().await == 1).then_some(())).await;
        if is_stopping {
            stop.cancel();
        }
        owner.end().await;
        assert_eq!(devices().await, usize::from(is_stopping));
    }
}

#[tokio::test]
async fn a_partition_that_is_far_behind_is_shown_now_and_then_until_it_is_near_the_end() {
    let cluster = MockCluster::new(1).unwrap();
    let Fleet { bench, .. } = &Fleet::new(&cluster);
    let partition = TopicPartition::new("device-data", 0);
    let (shared, progress) = (&bench.shared, Arc::new(Progress::default()));
    let fold = Fold::new(shared.config.fold_rules(), "device-data", 0);
    let place = Place {
        next: 0,
        log: LogId::default(),
    };
    let effects = Unwritten::new(shared.clone());
    let (shared, read) = (shared.clone(), progress.clone());
    let mut pipeline = Pipeline::new(shared, partition, fold, place, read, effects);
    let (source, _asked) = Source::new(None);
    let mut showing = Showing::default();
    let mut shown = Vec::new();
    let hub = bench.shared.hub.clone();
    let (one, two) = (1, 2);
    for (end, sent, period) in [
        (1_000, None, one),
        (100_000, Some("a"), one),
        (100_003, Some("b"), one),
        (50_004, Some("c"), one),
        (50_005, Some("d"), two),
        (50_006, Some("e"), two),
        (50_005, None, two),
        (60_000, Some("f"), two),
    ] {
        progress.ends_at(LogEnd {
            high_watermark: end,
            last_stable_offset: end,
        });
        if let Some(device) = sent {
            let json =
                format!(r#"{{"deviceId":"{device}","timestamp":1767225600,"temperature":20}}"#);
            let message = message(pipeline.next(), Some(json.as_bytes()));
            pipeline.process(&batch_of(&message)).await.unwrap();
        }
        showing
            .turn_at(period, &mut pipeline, &source, &progress)
            .await;
        let devices = hub.devices(Page::default()).await.unwrap().total;
        shown.push((pipeline.is_shown(), showing.is_shown(), devices));
    }
    let (live, frozen) = (
        |devices| (true, false, devices),
        |devices| (false, true, devices),
    );
    let expected = [
        live(0),
        live(1),
        frozen(2),
        frozen(2),
        frozen(4),
        frozen(4),
        live(5),
        live(6),
    ];
    assert_eq!(shown, expected);
}
