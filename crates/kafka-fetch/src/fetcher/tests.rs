//! Fetching from a cluster of scripted brokers.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicUsize, Ordering};
use std::time::Duration;

use futures::FutureExt;

use super::*;
use crate::error::{FetchError, SubscriptionError};
use crate::observer::LogEnd;
use crate::records::tests::{batch, plain, record};
use crate::scripted::{Answer, Cluster, PARTITION, TOPIC, TOPIC_ID};
use crate::subscription::AHEAD;

impl Cluster {
    pub(super) fn fetcher(&self) -> Fetcher {
        Fetcher::start(Settings::new([self.brokers[0].to_string()]))
    }

    fn subscribe(&self) -> (Subscription, Fetcher, Arc<Observed>) {
        let (fetcher, observed) = (self.fetcher(), Arc::<Observed>::default());
        let subscription = fetcher.subscribe(partition(), 10, observed.clone());
        (subscription, fetcher, observed)
    }
}

pub(super) fn partition() -> TopicPartition {
    TopicPartition::new(TOPIC, PARTITION)
}

/// What a subscription has reported.
#[derive(Debug, Default)]
struct Observed {
    end: Mutex<Option<LogEnd>>,
    failures: AtomicUsize,
    reason: Mutex<Option<String>>,
    buffered: AtomicUsize,
    paused: AtomicBool,
}

impl Observed {
    fn waiting(&self) -> usize {
        self.buffered.load(Ordering::Relaxed)
    }

    fn reason(&self) -> Option<String> {
        self.reason.lock().unwrap().clone()
    }
}

impl Observer for Observed {
    fn end(&self, end: LogEnd) {
        *self.end.lock().unwrap() = Some(end);
    }

    fn succeeded(&self) {
        *self.reason.lock().unwrap() = None;
    }

    fn failed(&self, error: &FetchError) {
        self.failures.fetch_add(1, Ordering::Relaxed);
        *self.reason.lock().unwrap() = Some(error.to_string());
    }

    fn paused(&self, paused: bool) {
        self.paused.store(paused, Ordering::Relaxed);
    }

    fn buffered(&self, records: usize) {
        self.buffered.fetch_add(records, Ordering::Relaxed);
    }

    fn released(&self, records: usize) {
        self.buffered.fetch_sub(records, Ordering::Relaxed);
    }
}

pub(super) async fn in_time<T>(work: impl Future<Output = T>) -> T {
    let done = tokio::time::timeout(Duration::from_secs(60), work).await;
    done.expect("in time")
}

pub(super) async fn wait_for(condition: impl Fn() -> bool) {
    let wait = async {
        while !condition() {
            tokio::task::yield_now().await;
        }
    };
    in_time(wait).await;
}

/// The number of records of the next batch, and the offset after it.
pub(super) async fn next(
    subscription: &mut Subscription,
) -> Result<(usize, i64), SubscriptionError> {
    let batch = in_time(subscription.next()).await?;
    Ok((batch.len(), batch.next_offset()))
}

#[tokio::test]
async fn fetching_continues_at_the_same_offset_after_every_error() {
    let cluster = Cluster::start(1, |_, number, _| match number {
        0 => Some(Answer::records(plain(10, &[b"a", b"b"]))),
        // Not the leader, no such topic, not authorized; a connection that ends.
        1 => Some(Answer::error(6)),
        2 => Some(Answer::error(3)),
        3 => Some(Answer::error(29)),
        4 => None,
        5 => Some(Answer::records(plain(12, &[b"c"]))),
        _ => Some(Answer::records(Vec::new())),
    });
    let cluster = cluster.await;
    let (mut subscription, _fetcher, observed) = cluster.subscribe();
    assert_eq!(next(&mut subscription).await.unwrap(), (2, 12));
    assert_eq!(next(&mut subscription).await.unwrap(), (1, 13));
    let asked = cluster.asked();
    assert_eq!(
        asked[..6],
        [(0, 10), (0, 12), (0, 12), (0, 12), (0, 12), (0, 12)]
    );
    assert_eq!(observed.failures.load(Ordering::Relaxed), 4);
    let end = LogEnd {
        high_watermark: 100,
        last_stable_offset: 90,
    };
    assert_eq!(*observed.end.lock().unwrap(), Some(end));
    assert_eq!(observed.reason(), None);
}

#[tokio::test]
async fn failures_are_reported_with_kafkas_name() {
    let cluster = Cluster::start(1, |_, _, _| Some(Answer::error(29))).await;
    let (_subscription, _fetcher, observed) = cluster.subscribe();
    wait_for(|| observed.reason().is_some()).await;
    assert_eq!(
        observed.reason().unwrap(),
        "TOPIC_AUTHORIZATION_FAILED (not authorized to read the topic)"
    );
}

#[tokio::test]
async fn an_offset_that_is_not_in_the_log_ends_the_subscription() {
    let cluster = Cluster::start(1, |_, _, _| Some(Answer::error(1))).await;
    let (mut subscription, _fetcher, _) = cluster.subscribe();
    let next = next(&mut subscription).await;
    assert!(
        matches!(next, Err(SubscriptionError::OffsetOutOfRange(10))),
        "{next:?}"
    );
}

#[tokio::test]
async fn a_corrupt_batch_is_reported_after_what_precedes_it() {
    let mut log = plain(11, &[b"b"]);
    *log.last_mut().unwrap() ^= 1;
    let log = [plain(10, &[b"a"]), log].concat();
    let cluster = Cluster::start(1, move |_, _, _| Some(Answer::records(log.clone()))).await;
    let (mut subscription, _fetcher, _) = cluster.subscribe();
    assert_eq!(next(&mut subscription).await.unwrap(), (1, 11));
    let error = next(&mut subscription).await.unwrap_err();
    assert!(
        matches!(&error, SubscriptionError::Corrupt(batch) if batch.offset() == 11),
        "{error}"
    );
}

#[tokio::test]
async fn a_preferred_replica_is_fetched_from_until_it_fails() {
    let cluster = Cluster::start(2, |broker, number, _| match (broker, number) {
        (0, 0) => Some(Answer {
            preferred: 1,
            ..Answer::records(Vec::new())
        }),
        (1, 1) => Some(Answer::records(plain(10, &[b"a"]))),
        // A replica that is behind does not have what the leader has.
        (1, 2) => Some(Answer::error(1)),
        (0, 3) => Some(Answer::records(plain(11, &[b"b"]))),
        _ => Some(Answer::records(Vec::new())),
    });
    let cluster = cluster.await;
    let (mut subscription, _fetcher, _) = cluster.subscribe();
    assert_eq!(next(&mut subscription).await.unwrap(), (1, 11));
    assert_eq!(next(&mut subscription).await.unwrap(), (1, 12));
    assert_eq!(cluster.asked()[..4], [(0, 10), (1, 10), (1, 11), (0, 11)]);
}

#[tokio::test]
async fn a_leader_that_does_not_know_of_its_successor_is_left() {
    let cluster = Cluster::start(2, |_, _, _| Some(Answer::records(Vec::new()))).await;
    let (_subscription, _fetcher, observed) = cluster.subscribe();
    let is_asked_again = async || {
        let before = cluster.asked().len();
        while cluster.asked().len() == before {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    is_asked_again().await;
    cluster.state.change(|known| known.leader = 1);
    // More than a minute, of which none passes while an answer is awaited.
    for _ in 0..40 {
        tokio::time::pause();
        tokio::time::advance(Duration::from_secs(2)).await;
        tokio::time::resume();
        is_asked_again().await;
    }
    assert_eq!(cluster.asked().last(), Some(&(1, 10)));
    assert_eq!(observed.failures.load(Ordering::Relaxed), 0);
}

#[tokio::test]
async fn a_subscriber_that_is_behind_is_not_fetched_for() {
    let cluster = Cluster::start(1, |_, number, _| {
        Some(Answer::records(plain(10 + number as i64, &[b"x"])))
    });
    let cluster = cluster.await;
    let (mut subscription, fetcher, observed) = cluster.subscribe();
    for expected in 11..20 {
        assert_eq!(next(&mut subscription).await.unwrap(), (1, expected));
    }
    // The batch taken last counts as waiting until the next one is taken.
    while observed.waiting() <= AHEAD {
        tokio::task::yield_now().await;
    }
    // A fetch that is due at any later time is sent now.
    tokio::time::pause();
    tokio::time::advance(Duration::from_secs(1)).await;
    for _ in 0..10 {
        tokio::task::yield_now().await;
    }
    tokio::time::resume();
    // The fetch of another subscription comes after all others on the same connection.
    let other = fetcher.subscribe(partition(), 1_000, Arc::new(()));
    while cluster.asked().last() != Some(&(0, 1_000)) {
        tokio::task::yield_now().await;
    }
    let taken_and_waiting = 10..19 + AHEAD as i64;
    let asked = taken_and_waiting.chain([1_000]).map(|offset| (0, offset));
    assert_eq!(cluster.asked(), asked.collect::<Vec<_>>());
    drop((subscription, other, fetcher));
    while observed.waiting() > 0 {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn topic_ids_are_known_where_brokers_tell_them() {
    for (version, expected) in [(13, Some(TOPIC_ID)), (9, None), (7, None)] {
        let cluster = Cluster::start(1, |_, _, _| Some(Answer::records(plain(10, &[b"a"]))));
        let cluster = cluster.await;
        cluster.state.metadata.store(version, Ordering::Relaxed);
        let (mut subscription, _fetcher, _) = cluster.subscribe();
        assert_eq!(subscription.topic_id(), None, "before the first lookup");
        assert_eq!(next(&mut subscription).await.unwrap(), (1, 11));
        let id = subscription.topic_id().map(|id| id.to_bytes());
        assert_eq!(id, expected.map(u128::to_be_bytes), "Metadata {version}");
    }
}

/// A log that ends at `end`, of which a fetch brings up to three records.
async fn log(end: &Arc<AtomicI64>) -> Cluster {
    let end = end.clone();
    let cluster = Cluster::start(1, move |_, _, offset| {
        let count = (end.load(Ordering::Relaxed) - offset).clamp(0, 3);
        Some(Answer::records(match count {
            0 => Vec::new(),
            count => plain(offset, &vec![&b"x"[..]; count as usize]),
        }))
    });
    cluster.await
}

/// The offsets of the records up to `end`.
async fn read_to(subscription: &mut Subscription, end: i64) -> Vec<i64> {
    let mut offsets = Vec::new();
    loop {
        let batch = in_time(subscription.next()).await.unwrap();
        offsets.extend(batch.records().map(|record| record.offset()));
        if batch.next_offset() >= end {
            return offsets;
        }
    }
}

#[tokio::test]
async fn subscriptions_of_one_partition_do_not_affect_each_other() {
    let end = Arc::new(AtomicI64::new(30));
    let cluster = log(&end).await;
    let fetcher = cluster.fetcher();
    let subscribe = |offset| fetcher.subscribe(partition(), offset, Arc::new(()));
    let (mut first, mut second, third) = (subscribe(0), subscribe(10), subscribe(4));
    let both = tokio::join!(read_to(&mut first, 30), read_to(&mut second, 30));
    assert!(both.0.into_iter().eq(0..30));
    assert!(both.1.into_iter().eq(10..30));
    // The third has not read anything yet, and is the last that is behind.
    drop(first);
    end.store(40, Ordering::Relaxed);
    assert!(read_to(&mut second, 40).await.into_iter().eq(30..40));
    let mut third = third;
    assert!(read_to(&mut third, 40).await.into_iter().eq(4..40));
    drop(second);
    let mut fourth = subscribe(35);
    end.store(50, Ordering::Relaxed);
    let both = tokio::join!(read_to(&mut third, 50), read_to(&mut fourth, 50));
    assert!(both.0.into_iter().eq(40..50));
    assert!(both.1.into_iter().eq(35..50));
}

#[tokio::test]
async fn subscriptions_at_the_same_offset_share_a_fetch() {
    let end = Arc::new(AtomicI64::new(15));
    let cluster = log(&end).await;
    let fetcher = cluster.fetcher();
    let subscribe = || fetcher.subscribe(partition(), 10, Arc::new(()));
    let (mut first, mut second) = (subscribe(), subscribe());
    let both = tokio::join!(read_to(&mut first, 15), read_to(&mut second, 15));
    assert_eq!(both.0, both.1);
    let asked = cluster.asked();
    for offset in [10, 13] {
        let count = asked.iter().filter(|asked| asked.1 == offset).count();
        assert_eq!(count, 1, "offset {offset} in {asked:?}");
    }
}

#[tokio::test]
async fn an_offset_out_of_range_ends_only_its_own_subscription() {
    let cluster = Cluster::start(1, |_, _, offset| match offset {
        0..10 => Some(Answer::error(1)),
        _ => Some(Answer::records(plain(offset, &[b"x"]))),
    });
    let cluster = cluster.await;
    let fetcher = cluster.fetcher();
    let subscribe = |offset| fetcher.subscribe(partition(), offset, Arc::new(()));
    let (mut gone, mut good) = (subscribe(5), subscribe(10));
    assert!(matches!(
        next(&mut gone).await,
        Err(SubscriptionError::OffsetOutOfRange(5))
    ));
    assert!(read_to(&mut good, 20).await.into_iter().eq(10..20));
}

/// A batch of one record with a value of so many zeros, compressed with zstd.
fn compressed(offset: i64, size: usize) -> Vec<u8> {
    let records = record(0, None, Some(&vec![0; size]));
    // As a stream, so that the frame does not tell its size.
    let records = zstd::encode_all(&records[..], 3).unwrap();
    batch(offset, 4, -1, 1, &records)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn decompressed_batches_of_all_subscriptions_share_a_budget() {
    const SIZE: usize = 100 << 20;
    const TOTAL: usize = 256 << 20;
    const SUBSCRIPTIONS: usize = 10;
    let small = compressed(10, SIZE);
    assert!(small.len() < 64 << 10);
    let cluster = Cluster::start(1, move |_, _, offset| {
        Some(Answer::records(match offset {
            10 => small.clone(),
            _ => Vec::new(),
        }))
    });
    let cluster = cluster.await;
    let (held, peak) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let (reported, highest) = (held.clone(), peak.clone());
    let mut settings = Settings::new([cluster.brokers[0].to_string()]);
    settings.budget = Budget::new(TOTAL, move |bytes| {
        reported.store(bytes, Ordering::Relaxed);
        highest.fetch_max(bytes, Ordering::Relaxed);
    });
    let fetcher = Fetcher::start(settings);
    let (read, mut batches) = mpsc::unbounded_channel();
    let go = Arc::new(tokio::sync::Semaphore::new(0));
    let mut readers = tokio::task::JoinSet::new();
    for _ in 0..SUBSCRIPTIONS {
        let mut subscription = fetcher.subscribe(partition(), 10, Arc::new(()));
        let (read, go) = (read.clone(), go.clone());
        readers.spawn(async move {
            let batch = subscription.next().await.unwrap();
            let size = batch.records().next().unwrap().value().unwrap().len();
            read.send(size).unwrap();
            go.acquire().await.unwrap().forget();
        });
    }
    for number in 0..SUBSCRIPTIONS {
        assert_eq!(in_time(batches.recv()).await, Some(SIZE));
        if number > 0 {
            // Two fit beside each other, and the next one only after one is read.
            assert!(held.load(Ordering::Relaxed) > 2 * SIZE);
            assert!(batches.is_empty());
            go.add_permits(1);
        }
    }
    go.add_permits(1);
    in_time(async { while readers.join_next().await.is_some() {} }).await;
    let peak = peak.load(Ordering::Relaxed);
    assert!((2 * SIZE..=TOTAL).contains(&peak), "{peak}");
    assert_eq!(held.load(Ordering::Relaxed), 0);
}

#[tokio::test]
async fn a_batch_larger_than_the_budget_is_read_alone() {
    let cluster = Cluster::start(1, |_, _, offset| {
        Some(Answer::records(match offset {
            10 => [compressed(10, 8 << 20), compressed(11, 8 << 20)].concat(),
            12 => plain(12, &[b"small"]),
            _ => Vec::new(),
        }))
    });
    let cluster = cluster.await;
    let mut settings = Settings::new([cluster.brokers[0].to_string()]);
    settings.budget = Budget::new(1, |_| ());
    let fetcher = Fetcher::start(settings);
    let mut first = fetcher.subscribe(partition(), 10, Arc::new(()));
    let mut second = fetcher.subscribe(partition(), 10, Arc::new(()));
    for end in [11, 12, 13] {
        assert_eq!(next(&mut first).await.unwrap(), (1, end));
    }
    assert!(
        second.next().now_or_never().is_none(),
        "the first one has a batch"
    );
    drop(first);
    for end in [11, 12, 13] {
        assert_eq!(next(&mut second).await.unwrap(), (1, end));
    }
}
