//! Looks up the leaders of partitions: takes cursors that no broker's task holds, and passes each
//! to the task of the broker to fetch from.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::StreamExt;
use futures::stream::FuturesUnordered;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::broker::BrokerTask;
use crate::connection::{Connection, ConnectionError};
use crate::error::FetchError;
use crate::protocol::metadata::{Broker, Metadata, MetadataRequest, TopicId};
use crate::settings::Settings;
use crate::subscription::Cursor;

/// A failure this long after the last one has nothing to do with it.
const CALM: Duration = Duration::from_secs(10);
/// The delays after failures: doubled each time, from the first to the longest.
const FIRST_DELAY: Duration = Duration::from_millis(50);
const LONGEST_DELAY: Duration = Duration::from_secs(1);
/// A broker that has not answered a look-up after this time may hang: another one is asked too.
const TURN: Duration = Duration::from_secs(1);

/// Passes cursors to brokers, and takes back those that brokers can't serve.
pub(crate) struct Leaders {
    settings: Arc<Settings>,
    /// Where brokers give cursors back.
    back: mpsc::UnboundedSender<Cursor>,
    stop: CancellationToken,
    /// By number: address and inbox of the broker's task.
    brokers: HashMap<i32, (String, mpsc::UnboundedSender<Cursor>)>,
    /// Addresses from the latest metadata, starting with the broker that answered. Rotated after a
    /// failure.
    known: Vec<String>,
    /// Failures in succession, and when the last one was.
    failures: u32,
    failed_at: Option<Instant>,
}

impl Leaders {
    pub(crate) fn new(
        settings: Arc<Settings>,
        back: mpsc::UnboundedSender<Cursor>,
        stop: CancellationToken,
    ) -> Self {
        Self {
            settings,
            back,
            stop,
            brokers: HashMap::new(),
            known: Vec::new(),
            failures: 0,
            failed_at: None,
        }
    }

    pub(crate) async fn run(mut self, mut inbox: mpsc::UnboundedReceiver<Cursor>) {
        let mut cursors = Vec::new();
        while inbox.recv_many(&mut cursors, usize::MAX).await > 0 {
            while !cursors.is_empty() {
                self.back_off(&mut cursors).await;
                while let Ok(cursor) = inbox.try_recv() {
                    cursors.push(cursor);
                }
                cursors.retain(|cursor| !cursor.is_over());
                self.place(&mut cursors).await;
            }
        }
    }

    /// Waits if any cursor comes from a failure.
    async fn back_off(&mut self, cursors: &mut [Cursor]) {
        let mut any = false;
        for cursor in cursors {
            any |= std::mem::take(&mut cursor.failed);
        }
        if !any {
            return;
        }
        if self.failed_at.is_none_or(|last| last.elapsed() > CALM) {
            self.failures = 0;
        }
        // The broker that answered last may know less than others.
        if !self.known.is_empty() {
            self.known.rotate_left(1);
        }
        tokio::time::sleep(delay(self.failures)).await;
        self.failures = self.failures.saturating_add(1);
        self.failed_at = Some(Instant::now());
    }

    /// Hands out the cursors whose broker is known; the others stay.
    async fn place(&mut self, cursors: &mut Vec<Cursor>) {
        if cursors.is_empty() {
            return;
        }
        let topics = cursors.iter().map(|cursor| &*cursor.partition.topic);
        let mut topics: Vec<&str> = topics.collect();
        topics.sort_unstable();
        topics.dedup();
        match self.look_up(&topics).await {
            Ok(metadata) => {
                for mut cursor in std::mem::take(cursors) {
                    match Source::find(&metadata, &cursor) {
                        Ok(source) => self.send(cursor, &source),
                        Err(error) => {
                            cursor.fail(&error);
                            cursors.push(cursor);
                        }
                    }
                }
            }
            Err(error) => {
                for cursor in cursors {
                    cursor.fail(&error);
                }
            }
        }
    }

    /// The leaders of topics, from the first broker that answers.
    async fn look_up(&mut self, topics: &[&str]) -> Result<Metadata, FetchError> {
        let configured = self.settings.brokers.iter();
        let configured = configured.filter(|address| !self.known.contains(address));
        let all: Vec<_> = self.known.iter().chain(configured).cloned().collect();
        let (address, metadata) = ask_in_turns(all, topics, &self.settings).await?;
        let all = metadata.brokers.iter().map(|broker| &broker.address);
        let others = all.filter(|other| **other != address).cloned();
        self.known = std::iter::once(address.clone()).chain(others).collect();
        Ok(metadata)
    }

    /// Passes a cursor to the broker that it is to be fetched from.
    fn send(&mut self, mut cursor: Cursor, source: &Source<'_>) {
        cursor.leader_epoch = source.leader_epoch;
        cursor.set_topic_id(source.topic_id);
        let Broker { node_id, address } = source.broker;
        let is_there = |(other, _): &(String, _)| other == address;
        if !self.brokers.get(node_id).is_some_and(is_there) {
            let inbox = self.start(*node_id, address);
            self.brokers.insert(*node_id, (address.clone(), inbox));
        }
        // The task lives as long as the inbox.
        let _ = self.brokers[node_id].1.send(cursor);
    }

    fn start(&self, number: i32, address: &str) -> mpsc::UnboundedSender<Cursor> {
        let (sender, inbox) = mpsc::unbounded_channel();
        let settings = self.settings.clone();
        let broker = BrokerTask::new(number, address, settings, inbox, self.back.clone());
        let stop = self.stop.clone();
        tokio::spawn(async move { stop.run_until_cancelled(broker.run()).await });
        sender
    }
}

/// The delay after a failure that follows `failures` others. Jittered, so that clients that lost
/// the same broker do not come back in step.
fn delay(failures: u32) -> Duration {
    let step = FIRST_DELAY * 2_u32.pow(failures.min(10));
    step.min(LONGEST_DELAY)
        .mul_f64(rand::random_range(0.5..=1.0))
}

/// The first answer, and who gave it. Each further broker is asked when one has failed, or
/// after a [`TURN`] without an answer.
///
/// # Errors
/// That of the last broker to fail, once all have.
async fn ask_in_turns(
    addresses: Vec<String>,
    topics: &[&str],
    settings: &Settings,
) -> Result<(String, Metadata), FetchError> {
    let mut waiting = addresses.into_iter();
    let mut asked = FuturesUnordered::new();
    let mut failed = FetchError::NoBroker;
    loop {
        match waiting.next() {
            Some(address) => asked.push(async move {
                let answer = ask(&address, topics, settings).await;
                (address, answer)
            }),
            None if asked.is_empty() => return Err(failed),
            None => {}
        }
        let turn = if waiting.len() > 0 {
            TURN
        } else {
            Duration::MAX
        };
        match tokio::time::timeout(turn, asked.next()).await {
            Ok(Some((address, Ok(metadata)))) => return Ok((address, metadata)),
            Ok(Some((address, Err(error)))) => failed = FetchError::Broker { address, error },
            Ok(None) | Err(_) => {}
        }
    }
}

async fn ask(
    address: &str,
    topics: &[&str],
    settings: &Settings,
) -> Result<Metadata, ConnectionError> {
    let mut connection = Connection::open(address, settings).await?;
    let request = MetadataRequest { topics };
    connection.request(&request, Duration::ZERO).await
}

/// Where a cursor is to be fetched from.
struct Source<'m> {
    broker: &'m Broker,
    leader_epoch: i32,
    topic_id: Option<TopicId>,
}

impl<'m> Source<'m> {
    /// The leader of the partition, or the replica that the leader prefers.
    fn find(metadata: &'m Metadata, cursor: &Cursor) -> Result<Self, FetchError> {
        let (name, number) = cursor.key();
        let mut topics = metadata.topics.iter();
        let topic = topics.find(|topic| topic.name == name);
        let topic = topic.ok_or(FetchError::NoTopic)?;
        let mut partitions = topic.partitions.iter();
        let Some(partition) = partitions.find(|one| one.partition_index == number) else {
            let error = topic.error.map(FetchError::Partition);
            return Err(error.unwrap_or(FetchError::NoPartition));
        };
        if partition.leader_id < 0 {
            return Err(FetchError::NoLeader);
        }
        let number = cursor.preferred.unwrap_or(partition.leader_id);
        let mut brokers = metadata.brokers.iter();
        let broker = brokers.find(|broker| broker.node_id == number);
        Ok(Self {
            broker: broker.ok_or(FetchError::UnknownBroker(number))?,
            leader_epoch: partition.leader_epoch,
            topic_id: topic.topic_id,
        })
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};

    use tokio::io::{AsyncReadExt, copy_bidirectional};
    use tokio::net::{TcpListener, TcpStream};

    use super::*;
    use crate::scripted::{Cluster, TOPIC};

    #[tokio::test]
    async fn a_broker_that_hangs_does_not_keep_others_from_being_asked() {
        let cluster = Cluster::start(1, |_, _, _| None).await;
        let (hung, front) = (
            TcpListener::bind("127.0.0.1:0").await.unwrap(),
            TcpListener::bind("127.0.0.1:0").await.unwrap(),
        );
        let addresses = [&hung, &front].map(|one| one.local_addr().unwrap().to_string());
        let given_up = Arc::new(AtomicBool::new(false));
        let is_given_up = given_up.clone();
        tokio::spawn(async move {
            let (mut stream, _) = hung.accept().await.unwrap();
            let mut asked = Vec::new();
            let _ = stream.read_to_end(&mut asked).await;
            is_given_up.store(true, Ordering::SeqCst);
        });
        let behind = cluster.brokers[0];
        let forwarding = tokio::spawn(async move {
            let (mut client, _) = front.accept().await.unwrap();
            let given_up = given_up.load(Ordering::SeqCst);
            let mut broker = TcpStream::connect(behind).await.unwrap();
            let _ = copy_bidirectional(&mut client, &mut broker).await;
            given_up
        });
        let settings = Settings::new(addresses.clone());
        let (answered, _) = ask_in_turns(addresses.to_vec(), &[TOPIC], &settings)
            .await
            .unwrap();
        assert_eq!(answered, addresses[1]);
        assert!(!forwarding.await.unwrap(), "the first was waited for");
    }

    #[tokio::test]
    async fn without_any_answer_the_last_failure_is_reported() {
        let closed = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = closed.local_addr().unwrap().to_string();
        drop(closed);
        let settings = Settings::new([address.clone()]);
        let failed = ask_in_turns(vec![address.clone()], &[TOPIC], &settings).await;
        let failed = failed.err().unwrap().to_string();
        assert!(failed.contains(&address), "{failed}");
        let nobody = ask_in_turns(Vec::new(), &[TOPIC], &settings).await;
        assert!(matches!(nobody, Err(FetchError::NoBroker)));
    }

    #[test]
    fn delays_double_up_to_a_second() {
        for (failures, step) in [(0, 50), (1, 100), (4, 800), (5, 1_000), (u32::MAX, 1_000)] {
            let (delay, step) = (delay(failures), Duration::from_millis(step));
            assert!((step / 2..=step).contains(&delay), "{failures}: {delay:?}");
        }
    }
}
