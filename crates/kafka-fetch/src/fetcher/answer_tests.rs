//! What is reported of each answer to a fetch.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

use super::tests::{in_time, next, partition, wait_for};
use super::*;
use crate::observer::{Answer, LogEnd, Replica};
use crate::records::tests::{EPOCH, plain};
use crate::scripted::{self, Cluster};

/// What was reported, in order.
#[derive(Debug, Default)]
struct Answers(Mutex<Vec<Answer>>);

impl Answers {
    fn all(&self) -> Vec<Answer> {
        self.0.lock().unwrap().clone()
    }
}

impl Observer for Answers {
    fn answered(&self, answer: &Answer) {
        self.0.lock().unwrap().push(*answer);
    }
}

fn micros() -> i64 {
    let since = std::time::UNIX_EPOCH.elapsed().unwrap();
    since.as_micros() as i64
}

#[tokio::test]
async fn answers_are_reported_with_their_times_also_without_records_and_not_errors() {
    let cluster = Cluster::start(1, |_, number, _| match number {
        0 => Some(scripted::Answer::records(Vec::new())),
        // Not the leader.
        1 => Some(scripted::Answer::error(6)),
        2 => Some(scripted::Answer::records(plain(10, &[b"a"]))),
        _ => Some(scripted::Answer::records(Vec::new())),
    });
    let cluster = cluster.await;
    let (fetcher, answers) = (cluster.fetcher(), Arc::<Answers>::default());
    let before = micros();
    let mut subscription = fetcher.subscribe(partition(), 10, answers.clone());
    assert_eq!(next(&mut subscription).await.unwrap(), (1, 11));
    let known = answers.all();
    assert!(known.len() >= 2, "reported before its records: {known:?}");
    wait_for(|| answers.all().len() >= 4).await;
    let (all, after) = (answers.all(), micros());
    // One was an error.
    assert!(all.len() < cluster.asked().len());
    let mut last = before;
    for answer in all {
        assert_eq!(
            answer.end,
            LogEnd {
                high_watermark: 100,
                last_stable_offset: 90
            }
        );
        assert_eq!(
            (answer.replica, answer.leader_epoch),
            (Replica::Leader, Some(EPOCH))
        );
        assert_eq!((answer.sent.steps, answer.arrived.steps), (0, 0));
        assert!(last <= answer.sent.micros, "{last} {answer:?}");
        // The scripted broker takes a millisecond.
        assert!(answer.sent.micros < answer.arrived.micros, "{answer:?}");
        last = answer.arrived.micros;
    }
    assert!(last <= after);
}

#[tokio::test]
async fn answers_of_a_preferred_replica_are_those_of_a_follower() {
    let cluster = Cluster::start(2, |broker, number, _| match (broker, number) {
        (0, 0) => Some(scripted::Answer {
            preferred: 1,
            ..scripted::Answer::records(Vec::new())
        }),
        _ => Some(scripted::Answer::records(Vec::new())),
    });
    let cluster = cluster.await;
    let (fetcher, answers) = (cluster.fetcher(), Arc::<Answers>::default());
    let _subscription = fetcher.subscribe(partition(), 10, answers.clone());
    wait_for(|| answers.all().len() >= 2).await;
    let all = answers.all();
    assert!(
        all.iter().all(|answer| answer.replica == Replica::Follower),
        "{all:?}"
    );
}

#[tokio::test]
async fn a_new_leader_is_reported_with_its_epoch() {
    let fence = Arc::new(AtomicBool::new(false));
    let is_fenced = fence.clone();
    let cluster = Cluster::start(1, move |_, _, _| {
        // A fetch that names the epoch before.
        let fenced = is_fenced.swap(false, Ordering::Relaxed);
        Some(if fenced {
            scripted::Answer::error(74)
        } else {
            scripted::Answer::records(Vec::new())
        })
    });
    let cluster = cluster.await;
    let (fetcher, answers) = (cluster.fetcher(), Arc::<Answers>::default());
    let _subscription = fetcher.subscribe(partition(), 10, answers.clone());
    wait_for(|| !answers.all().is_empty()).await;
    cluster.state.change(|known| known.epoch += 1);
    fence.store(true, Ordering::Relaxed);
    in_time(async {
        while answers.all().last().and_then(|answer| answer.leader_epoch) != Some(EPOCH + 1) {
            tokio::task::yield_now().await;
        }
    })
    .await;
    assert_eq!(answers.all()[0].leader_epoch, Some(EPOCH));
}
