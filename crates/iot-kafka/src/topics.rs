//! Creation of topics, and what Kafka's answers mean.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::ClientContext;
use rdkafka::error::{KafkaResult, RDKafkaErrorCode};

/// How many topics one request creates.
const BATCH: usize = 100;

/// A topic to create.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Topic {
    /// Its name.
    pub name: String,
    /// Number of partitions; -1 for the brokers' default.
    pub partitions: i32,
    /// Replicas of each partition; -1 for the brokers' default.
    pub replication: i32,
    /// Topic settings by Kafka's names, such as `retention.ms`.
    pub configs: BTreeMap<String, String>,
}

impl Topic {
    fn request(&self) -> NewTopic<'_> {
        let replication = TopicReplication::Fixed(self.replication);
        let request = NewTopic::new(&self.name, self.partitions, replication);
        let configs = self.configs.iter();
        configs.fold(request, |request, (name, value)| request.set(name, value))
    }
}

/// A topic that exists.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Existing {
    /// It was created by this request, or would be.
    New,
    /// It existed before.
    Before,
}

/// Kafka's answer for one topic.
pub type Answer = Result<Existing, RDKafkaErrorCode>;

/// What an answer means for the code that needs the topic. No other place decides this.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// The topic exists.
    Done,
    /// Another attempt gets the same answer, however long one waits.
    Permanent(Permanent),
    /// Another attempt may succeed: brokers start, somebody grants a right or changes a
    /// policy. Ask again, with a capped backoff, and do not remember the answer.
    Transient(Transient),
}

/// Why a topic can never be created.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Permanent {
    /// There is no topic of that name, and there never is: Kafka does not take the name, or
    /// it collides with another topic's.
    Name,
    /// Not with these settings, or not by a request to these brokers. Somebody else may
    /// create it.
    Settings,
}

/// Why a topic is not created yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transient {
    /// It does not exist, as far as Kafka answers at all.
    Absent,
    /// Kafka does not authorise this client to create it. It may exist.
    NotAuthorized,
}

/// The meaning of an answer.
#[must_use]
pub fn outcome(answer: Answer) -> Outcome {
    use RDKafkaErrorCode as Code;
    match answer {
        Ok(_) => Outcome::Done,
        Err(Code::InvalidTopic) => Outcome::Permanent(Permanent::Name),
        Err(
            Code::InvalidConfig
            | Code::InvalidPartitions
            | Code::InvalidReplicaAssignment
            | Code::InvalidRequest
            | Code::UnsupportedVersion
            | Code::UnsupportedFeature,
        ) => Outcome::Permanent(Permanent::Settings),
        Err(Code::TopicAuthorizationFailed | Code::ClusterAuthorizationFailed) => {
            Outcome::Transient(Transient::NotAuthorized)
        }
        // Also INVALID_REPLICATION_FACTOR, the answer while too few brokers are up.
        Err(_) => Outcome::Transient(Transient::Absent),
    }
}

/// Creates topics. A topic without an answer may or may not have been created.
///
/// # Errors
/// A whole request failed, for example because no broker answered within `deadline`. Each request
/// creates up to 100 topics and has its own deadline.
pub async fn create<C: ClientContext>(
    admin: &AdminClient<C>,
    topics: &[Topic],
    deadline: Duration,
) -> KafkaResult<HashMap<String, Answer>> {
    request(admin, topics, &options(deadline)).await
}

/// Asks Kafka whether it would create topics, and creates none.
///
/// # Errors
/// As [`create`].
pub async fn validate<C: ClientContext>(
    admin: &AdminClient<C>,
    topics: &[Topic],
    deadline: Duration,
) -> KafkaResult<HashMap<String, Answer>> {
    request(admin, topics, &options(deadline).validate_only(true)).await
}

fn options(deadline: Duration) -> AdminOptions {
    AdminOptions::new()
        .request_timeout(Some(deadline))
        .operation_timeout(Some(deadline))
}

async fn request<C: ClientContext>(
    admin: &AdminClient<C>,
    topics: &[Topic],
    options: &AdminOptions,
) -> KafkaResult<HashMap<String, Answer>> {
    let mut answers = HashMap::new();
    for batch in topics.chunks(BATCH) {
        let requests: Vec<NewTopic<'_>> = batch.iter().map(Topic::request).collect();
        for result in admin.create_topics(&requests, options).await? {
            let (name, answer) = match result {
                Ok(name) => (name, Ok(Existing::New)),
                Err((name, RDKafkaErrorCode::TopicAlreadyExists)) => (name, Ok(Existing::Before)),
                Err((name, code)) => (name, Err(code)),
            };
            answers.insert(name, answer);
        }
    }
    Ok(answers)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_answer_has_one_meaning() {
        use RDKafkaErrorCode as Code;
        let settings = Outcome::Permanent(Permanent::Settings);
        let (absent, not_authorized) = (
            Outcome::Transient(Transient::Absent),
            Outcome::Transient(Transient::NotAuthorized),
        );
        for (answer, expected) in [
            (Ok(Existing::New), Outcome::Done),
            (Ok(Existing::Before), Outcome::Done),
            (Err(Code::InvalidTopic), Outcome::Permanent(Permanent::Name)),
            (Err(Code::InvalidConfig), settings),
            (Err(Code::InvalidPartitions), settings),
            (Err(Code::UnsupportedVersion), settings),
            (Err(Code::InvalidReplicationFactor), absent),
            (Err(Code::PolicyViolation), absent),
            (Err(Code::BrokerTransportFailure), absent),
            (Err(Code::NotController), absent),
            (Err(Code::RequestTimedOut), absent),
            (Err(Code::TopicAuthorizationFailed), not_authorized),
            (Err(Code::ClusterAuthorizationFailed), not_authorized),
        ] {
            assert_eq!(outcome(answer), expected, "{answer:?}");
        }
    }
}
