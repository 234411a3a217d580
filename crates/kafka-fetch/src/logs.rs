//! Where logs start and end, and which logs they are. Questions that wait together are asked
//! together: one request for metadata, and one connection to each leader.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use iot_core::partition::TopicPartition;
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;

use crate::connection::{Connection, ConnectionError};
use crate::directory::{Directory, Source, ask};
use crate::error::FetchError;
use crate::protocol::list_offsets::{Asked, ListOffsetsRequest, Side};
use crate::protocol::metadata::{Metadata, TopicId};
use crate::settings::Settings;
use crate::start::Start;

/// Brokers that are asked to confirm a leader, one after the other until one answers.
const WITNESSES: usize = 3;

/// The log of a partition, as its leader has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LogState {
    /// Id of the topic; `None` where brokers do not tell (before Kafka 2.8).
    pub topic_id: Option<TopicId>,
    /// Epoch of the leader; `None` if it is not known.
    pub leader_epoch: Option<i32>,
    /// The first offset that is kept.
    pub start: i64,
    /// The offset after the last replicated record: the high watermark.
    pub end: i64,
}

/// The answer to a question. Several questions may fail with the same error.
pub(crate) type Answer = Result<LogState, Arc<FetchError>>;

#[derive(Debug)]
pub(crate) struct Question {
    pub(crate) partition: TopicPartition,
    /// What is known of the log.
    pub(crate) known: Start,
    pub(crate) answer: oneshot::Sender<Answer>,
}

/// A question, and the leader that it is for.
#[derive(Debug)]
struct Addressed {
    question: Question,
    leader_epoch: i32,
    topic_id: Option<TopicId>,
}

impl Addressed {
    fn key(&self) -> (&str, i32) {
        self.question.partition.parts()
    }

    /// Whether it would be grave to believe this answer: the log is not what it was, which a
    /// broker that is behind may say too.
    fn is_grave(&self, end: i64) -> bool {
        let known = &self.question.known;
        let is_other = |id| self.topic_id.is_some_and(|found| found != id);
        end < known.offset || known.topic_id.is_some_and(is_other)
    }

    fn answer(self, answer: Answer) {
        // Nobody may wait any longer.
        let _ = self.question.answer.send(answer);
    }
}

/// What the questions of one round have in common.
struct Round {
    metadata: Arc<Metadata>,
    settings: Arc<Settings>,
    /// Set if the metadata cannot be believed: the next round asks another broker first.
    doubt: Arc<AtomicBool>,
}

/// Answers all questions until `stop`.
pub(crate) async fn run(
    settings: Arc<Settings>,
    mut inbox: mpsc::UnboundedReceiver<Question>,
    stop: CancellationToken,
) {
    let mut directory = Directory::new(settings);
    let doubt = Arc::new(AtomicBool::new(false));
    let mut questions = Vec::new();
    while inbox.recv_many(&mut questions, usize::MAX).await > 0 {
        questions.retain(|question| !question.answer.is_closed());
        questions.sort_by(|one, other| one.partition.cmp(&other.partition));
        let mut topics: Vec<&str> = questions.iter().map(|one| &*one.partition.topic).collect();
        topics.dedup();
        if topics.is_empty() {
            continue;
        }
        if doubt.swap(false, Ordering::Relaxed) {
            directory.rotate();
        }
        match directory.look_up(&topics).await {
            Ok(metadata) => {
                let metadata = Arc::new(metadata);
                let questions = std::mem::take(&mut questions);
                for (leader, questions) in by_leader(questions, &metadata, &doubt) {
                    let round = Round {
                        metadata: metadata.clone(),
                        settings: directory.settings.clone(),
                        doubt: doubt.clone(),
                    };
                    let asking = ask_leader(leader, questions, round);
                    let stop = stop.clone();
                    tokio::spawn(async move { stop.run_until_cancelled(asking).await });
                }
            }
            Err(error) => {
                let error = Arc::new(error);
                for question in questions.drain(..) {
                    // Nobody may wait any longer.
                    let _ = question.answer.send(Err(error.clone()));
                }
            }
        }
    }
}

/// Questions by the number of the partition's leader; those without a leader are answered.
fn by_leader(
    questions: Vec<Question>,
    metadata: &Metadata,
    doubt: &AtomicBool,
) -> BTreeMap<i32, Vec<Addressed>> {
    let mut all: BTreeMap<i32, Vec<Addressed>> = BTreeMap::new();
    for question in questions {
        let known = &question.known;
        let found = Source::find(metadata, question.partition.parts(), None);
        let found = found.and_then(|source| {
            if source.other_than(known.topic_id).is_none() {
                source.is_current(known.newest_epoch())?;
            }
            Ok(source)
        });
        match found {
            Ok(source) => all
                .entry(source.broker.node_id)
                .or_default()
                .push(Addressed {
                    question,
                    leader_epoch: source.leader_epoch,
                    topic_id: source.topic_id,
                }),
            Err(error) => {
                let is_doubted = matches!(error, FetchError::StaleLeader { .. });
                doubt.fetch_or(is_doubted, Ordering::Relaxed);
                // Nobody may wait any longer.
                let _ = question.answer.send(Err(Arc::new(error)));
            }
        }
    }
    all
}

/// Asks a leader for both ends of logs, and answers the questions.
async fn ask_leader(leader: i32, questions: Vec<Addressed>, round: Round) {
    let Round {
        metadata, settings, ..
    } = &round;
    let mut brokers = metadata.brokers.iter();
    let Some(broker) = brokers.find(|broker| broker.node_id == leader) else {
        return;
    };
    let ends = match ends(&broker.address, &questions, settings).await {
        Ok(ends) => ends,
        Err(error) => {
            let address = broker.address.clone();
            let error = Arc::new(FetchError::Broker { address, error });
            for question in questions {
                question.answer(Err(error.clone()));
            }
            return;
        }
    };
    let mut grave = Vec::new();
    for (question, ends) in questions.into_iter().zip(ends) {
        match ends {
            Ok((_, end)) if question.is_grave(end) => grave.push((question, ends)),
            ends => question.resolve(ends),
        }
    }
    if grave.is_empty() {
        return;
    }
    let witness = witness(leader, &grave, metadata, settings).await;
    for (question, ends) in grave {
        match witness
            .as_ref()
            .map(|witness| question.is_confirmed(witness))
        {
            Ok(true) => question.resolve(ends),
            Ok(false) => {
                round.doubt.store(true, Ordering::Relaxed);
                question.answer(Err(Arc::new(FetchError::Unconfirmed)));
            }
            Err(Alone) => question.resolve(ends),
        }
    }
}

type Ends = Result<(i64, i64), FetchError>;

impl Addressed {
    fn resolve(self, ends: Ends) {
        let answer = ends.map(|(start, end)| LogState {
            topic_id: self.topic_id,
            leader_epoch: (self.leader_epoch >= 0).then_some(self.leader_epoch),
            start,
            end,
        });
        self.answer(answer.map_err(Arc::new));
    }

    /// Whether another broker knows the same log, and no newer leader. It may itself be the one
    /// that is behind.
    fn is_confirmed(&self, witness: &Metadata) -> bool {
        Source::find(witness, self.key(), None).is_ok_and(|source| {
            source.topic_id == self.topic_id && source.leader_epoch <= self.leader_epoch
        })
    }
}

/// The leader is the only broker.
struct Alone;

/// The metadata of another broker than the leader; without any topic if none answers.
async fn witness(
    leader: i32,
    questions: &[(Addressed, Ends)],
    metadata: &Metadata,
    settings: &Settings,
) -> Result<Metadata, Alone> {
    let mut topics: Vec<&str> = questions.iter().map(|(one, _)| one.key().0).collect();
    topics.dedup();
    let mut others = Vec::new();
    for broker in &metadata.brokers {
        if broker.node_id != leader {
            others.push(broker.address.as_str());
        }
    }
    if others.is_empty() {
        return Err(Alone);
    }
    for broker in others.into_iter().take(WITNESSES) {
        match ask(broker, &topics, settings).await {
            Ok(metadata) => return Ok(metadata),
            Err(error) => tracing::debug!(broker, %error, "no witness"),
        }
    }
    Ok(Metadata {
        brokers: Vec::new(),
        topics: Vec::new(),
    })
}

/// Start and end of the log of each question, in their order.
async fn ends(
    address: &str,
    questions: &[Addressed],
    settings: &Settings,
) -> Result<Vec<Ends>, ConnectionError> {
    let asked = questions.iter().map(|question| {
        let (topic, partition) = question.key();
        let leader_epoch = question.leader_epoch;
        Asked {
            topic,
            partition,
            leader_epoch,
        }
    });
    let mut asked: Vec<Asked<'_>> = asked.collect();
    asked.dedup_by_key(|asked| (asked.topic, asked.partition));
    let mut connection = Connection::open(address, settings).await?;
    let starts = side(&mut connection, Side::Start, &asked).await?;
    let ends = side(&mut connection, Side::End, &asked).await?;
    let of = |question: &Addressed| {
        let (topic, partition) = question.key();
        let key = (topic.to_owned(), partition);
        let missing = || Err(FetchError::NoPartition);
        let start = starts
            .get(&key)
            .map_or_else(missing, |found| found.map_err(FetchError::Partition))?;
        let end = ends
            .get(&key)
            .map_or_else(missing, |found| found.map_err(FetchError::Partition))?;
        Ok((start, end))
    };
    Ok(questions.iter().map(of).collect())
}

type Offsets = BTreeMap<(String, i32), Result<i64, crate::protocol::ErrorCode>>;

async fn side(
    connection: &mut Connection,
    side: Side,
    partitions: &[Asked<'_>],
) -> Result<Offsets, ConnectionError> {
    let request = ListOffsetsRequest { side, partitions };
    let found = connection.request(&request, Duration::ZERO).await?;
    let found = found.into_iter();
    Ok(found
        .map(|found| ((found.topic.to_owned(), found.partition), found.offset))
        .collect())
}
