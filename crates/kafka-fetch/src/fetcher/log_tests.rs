//! Logs that are not what they were, and leaders that do not know of their successor.

use std::sync::atomic::Ordering;

use super::tests::{in_time, next, partition, wait_for};
use super::*;
use crate::error::SubscriptionError;
use crate::protocol::metadata::TopicId;
use crate::records::tests::{EPOCH, plain};
use crate::scripted::{Answer, Cluster, Known, TOPIC_ID};

const OTHER_ID: u128 = 8;

fn id(number: u128) -> Option<TopicId> {
    TopicId::from_bytes(number.to_be_bytes())
}

/// What is known of the log after reading up to an offset.
fn read_to(offset: i64) -> Start {
    Start {
        offset,
        topic_id: id(TOPIC_ID),
        last_epoch: Some(EPOCH),
        leader_epoch: None,
    }
}

/// A cluster whose fetches bring one record each.
async fn cluster(size: usize) -> Cluster {
    let records = |_, _, offset| Some(Answer::records(plain(offset, &[b"x"])));
    let cluster = Cluster::start(size, records).await;
    cluster.state.change(|known| known.epoch = EPOCH);
    cluster
}

#[tokio::test]
async fn batches_have_topic_and_leader_epoch_and_the_next_fetch_names_them() {
    let cluster = cluster(1).await;
    let fetcher = cluster.fetcher();
    let mut subscription = fetcher.subscribe(partition(), 10, Arc::new(()));
    let batch = in_time(subscription.next()).await.unwrap();
    let log = (batch.topic_id(), batch.partition_leader_epoch());
    assert_eq!(log, (id(TOPIC_ID), Some(EPOCH)));
    wait_for(|| cluster.state.epochs.lock().unwrap().len() > 1).await;
    let epochs = cluster.state.epochs.lock().unwrap().clone();
    assert_eq!(epochs[..2], [[EPOCH, -1], [EPOCH, EPOCH]]);
}

#[tokio::test]
async fn a_topic_that_is_created_again_ends_the_subscription_although_the_offset_exists() {
    let cluster = cluster(1).await;
    let fetcher = cluster.fetcher();
    let mut subscription = fetcher.subscribe(partition(), 10, Arc::new(()));
    assert_eq!(next(&mut subscription).await.unwrap(), (1, 11));
    // As long as the old one, and with the same leader epoch.
    cluster.state.change(|known| known.topic_id = OTHER_ID);
    let error = loop {
        if let Err(error) = next(&mut subscription).await {
            break error;
        }
    };
    let SubscriptionError::AnotherLog { expected, found } = error else {
        panic!("{error}")
    };
    assert_eq!((Some(expected), Some(found)), (id(TOPIC_ID), id(OTHER_ID)));
    assert_eq!(subscription.topic_id(), id(TOPIC_ID));
}

#[tokio::test]
async fn a_log_that_is_not_the_known_one_is_not_read() {
    let cluster = cluster(1).await;
    cluster.state.change(|known| known.topic_id = OTHER_ID);
    let fetcher = cluster.fetcher();
    let mut subscription = fetcher.subscribe(partition(), read_to(10), Arc::new(()));
    let error = next(&mut subscription).await.unwrap_err();
    assert!(
        matches!(error, SubscriptionError::AnotherLog { .. }),
        "{error}"
    );
    assert_eq!(cluster.asked(), []);
}

#[tokio::test]
async fn an_unknown_id_is_no_other_one() {
    let cluster = cluster(1).await;
    cluster.state.metadata.store(9, Ordering::Relaxed);
    let fetcher = cluster.fetcher();
    let mut subscription = fetcher.subscribe(partition(), read_to(10), Arc::new(()));
    assert_eq!(next(&mut subscription).await.unwrap(), (1, 11));
    assert_eq!(
        subscription.topic_id(),
        id(TOPIC_ID),
        "it keeps what it knows"
    );
    let log = in_time(fetcher.log(&partition(), read_to(10)))
        .await
        .unwrap();
    assert_eq!((log.topic_id, log.end), (None, 100));
}

#[tokio::test]
async fn a_truncated_log_ends_the_subscription() {
    let cluster = Cluster::start(1, |_, _, _| {
        Some(Answer {
            diverging: Some((EPOCH - 1, 7)),
            ..Answer::records(Vec::new())
        })
    });
    let cluster = cluster.await;
    cluster.state.change(|known| known.epoch = EPOCH + 1);
    let fetcher = cluster.fetcher();
    let mut subscription = fetcher.subscribe(partition(), read_to(10), Arc::new(()));
    let error = next(&mut subscription).await.unwrap_err();
    let expected = format!(
        "the log was truncated: the records before offset 10 were read from leader epoch {EPOCH}, \
         and the log's records of epoch {} end at 7",
        EPOCH - 1
    );
    assert_eq!(error.to_string(), expected);
}

#[tokio::test]
async fn brokers_without_fetch_12_are_read_from_by_name() {
    for fetch in [11, 12] {
        let cluster = cluster(1).await;
        cluster.state.fetch.store(fetch, Ordering::Relaxed);
        let fetcher = cluster.fetcher();
        let mut subscription = fetcher.subscribe(partition(), 10, Arc::new(()));
        assert_eq!(
            next(&mut subscription).await.unwrap(),
            (1, 11),
            "Fetch {fetch}"
        );
        assert_eq!(
            next(&mut subscription).await.unwrap(),
            (1, 12),
            "Fetch {fetch}"
        );
    }
}

/// Two brokers: 1 leads with a log up to 10,380, and 0 still thinks that it leads, with one up to
/// 1,779.
async fn resumed() -> Cluster {
    let cluster = Cluster::start(2, |broker, _, offset| match (broker, offset) {
        (0, 1_780..) => Some(Answer::error(1)),
        _ => Some(Answer::records(plain(offset, &[b"x"]))),
    });
    let cluster = cluster.await;
    let stale = Known {
        leader: 0,
        epoch: EPOCH - 1,
        topic_id: TOPIC_ID,
        end: 1_779,
    };
    cluster.state.behind.lock().unwrap().insert(0, stale);
    cluster.state.change(|known| {
        (known.leader, known.epoch, known.end) = (1, EPOCH, 10_380);
    });
    cluster
}

/// Asks until the answer is believed.
async fn log(fetcher: &Fetcher, known: Start) -> (LogState, Vec<String>) {
    let mut refused = Vec::new();
    loop {
        match in_time(fetcher.log(&partition(), known)).await {
            Ok(state) => return (state, refused),
            Err(error) => refused.push(error.to_string()),
        }
    }
}

#[tokio::test]
async fn a_former_leader_is_not_read_from() {
    let cluster = resumed().await;
    let fetcher = cluster.fetcher();
    let mut subscription = fetcher.subscribe(partition(), read_to(4_912), Arc::new(()));
    assert_eq!(next(&mut subscription).await.unwrap(), (1, 4_913));
    assert!(cluster.asked().iter().all(|(broker, _)| *broker == 1));
}

#[tokio::test]
async fn the_end_of_a_former_leaders_log_is_not_believed() {
    let cluster = resumed().await;
    let fetcher = cluster.fetcher();
    let (state, refused) = log(&fetcher, read_to(4_912)).await;
    let expected = LogState {
        topic_id: id(TOPIC_ID),
        leader_epoch: Some(EPOCH),
        start: 0,
        end: 10_380,
    };
    assert_eq!(state, expected);
    assert!(refused[0].contains("that broker is behind"), "{refused:?}");
    // State of which no epoch is stored: another broker knows better.
    let fetcher = cluster.fetcher();
    let (state, refused) = log(&fetcher, Start::from(4_912)).await;
    assert_eq!(state.end, 10_380);
    assert!(
        refused[0].contains("no other broker confirms"),
        "{refused:?}"
    );
}

#[tokio::test]
async fn another_id_needs_a_second_broker_too() {
    let cluster = resumed().await;
    let change = |known: &mut Known| known.topic_id = OTHER_ID;
    change(cluster.state.behind.lock().unwrap().get_mut(&0).unwrap());
    let fetcher = cluster.fetcher();
    let known = Start {
        last_epoch: None,
        ..read_to(1_000)
    };
    let (state, refused) = log(&fetcher, known).await;
    assert_eq!(state.topic_id, id(TOPIC_ID));
    assert!(
        refused[0].contains("no other broker confirms"),
        "{refused:?}"
    );
    // Both brokers say so, although one still does not know the leader.
    cluster.state.change(change);
    let (state, _) = log(&fetcher, known).await;
    assert_eq!(state.topic_id, id(OTHER_ID));
}

#[tokio::test]
async fn the_only_broker_is_believed() {
    let cluster = cluster(1).await;
    let fetcher = cluster.fetcher();
    let (state, refused) = log(&fetcher, read_to(101)).await;
    assert_eq!((state.start, state.end, refused.len()), (0, 100, 0));
    // A lower epoch of another log says nothing.
    cluster.state.change(|known| {
        (known.topic_id, known.epoch) = (OTHER_ID, 0);
    });
    let (state, refused) = log(&fetcher, read_to(101)).await;
    assert_eq!((state.topic_id, refused.len()), (id(OTHER_ID), 0));
}

#[tokio::test]
async fn questions_without_a_broker_are_answered_too() {
    let fetcher = Fetcher::start(Settings::new(["127.0.0.1:1"]));
    let (here, there) = (partition(), TopicPartition::new("other", 1));
    let both = in_time(async {
        tokio::join!(
            fetcher.log(&here, Start::from(0)),
            fetcher.log(&there, Start::from(0))
        )
    });
    let (one, other) = both.await;
    assert!(one.is_err() && other.is_err());
}
