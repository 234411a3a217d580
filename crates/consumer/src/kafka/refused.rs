//! Errors with which Kafka refuses this consumer its group membership or a topic. librdkafka reports
//! each of these errors once or at every attempt, so the last one is kept until it is over.

use std::collections::BTreeMap;

use iot_kafka::errors::Named;
use rdkafka::error::RDKafkaErrorCode as Code;

/// How librdkafka begins the reason of an error of one topic, before `NAME: ERROR`.
const TOPIC: &str = "Subscribed topic not available: ";

/// What to do about an error of the group or of one of its topics.
fn advice(code: Code) -> Option<&'static str> {
    Some(match code {
        Code::InconsistentGroupProtocol => {
            "other members of the group use another assignment strategy than cooperative-sticky: \
             stop them, or set another kafka.group"
        }
        Code::InvalidSessionTimeout => {
            "kafka.session_timeout is not between the broker's group.min.session.timeout.ms and \
             group.max.session.timeout.ms: change one of them"
        }
        Code::GroupAuthorizationFailed => {
            "allow the user of kafka.security the operation READ on the group (kafka.group)"
        }
        Code::TopicAuthorizationFailed => {
            "allow the user of kafka.security the operations READ and DESCRIBE on the topic"
        }
        Code::FencedInstanceId => {
            "another consumer has the same kafka.group_instance_id: give each replica its own"
        }
        Code::GroupMaxSizeReached => {
            "the group has as many members as the broker's group.max.size: run fewer consumers, \
             or raise it"
        }
        Code::InvalidGroupId => "correct kafka.group",
        Code::CoordinatorNotAvailable | Code::NotCoordinator | Code::CoordinatorLoadInProgress => {
            COORDINATOR
        }
        Code::UnknownTopicOrPartition => "create the topic, or correct kafka.topics",
        Code::InvalidTopic => "correct the name in kafka.topics",
        _ => return None,
    })
}

/// What to do without a coordinator, which librdkafka does not report as an error.
pub(super) const COORDINATOR: &str = "check the broker that coordinates the group, and that all \
                                      partitions of __consumer_offsets have a leader; retrying";

/// An error by Kafka's name, with what to do about it.
pub(super) fn explain(code: Code) -> String {
    match advice(code) {
        Some(advice) => format!("{}: {advice}", Named(code)),
        None => Named(code).to_string(),
    }
}

/// The errors that are not over.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Refused {
    group: Option<Code>,
    topics: BTreeMap<String, Code>,
}

impl Refused {
    /// Whether an error is a broker's answer, and not one of connections: librdkafka's own are
    /// negative.
    pub(crate) fn is_answer(code: Code) -> bool {
        code as i32 > 0
    }

    /// Keeps an answer that librdkafka reports, with the reason that it gives.
    pub(crate) fn note(&mut self, code: Code, reason: &str) {
        match reason.strip_prefix(TOPIC) {
            // The name of a topic has no colon.
            Some(topic) => {
                let name = topic.split(':').next().unwrap_or(topic);
                self.topics.insert(name.to_owned(), code);
            }
            None => self.group = Some(code),
        }
    }

    /// A rebalance has ended with this member in the group.
    pub(crate) fn joined(&mut self) {
        self.group = None;
    }

    /// That topic is assigned to this member, or a look-up has found it.
    pub(crate) fn readable(&mut self, topic: &str) {
        self.topics.remove(topic);
    }

    /// Why this is not a member.
    pub(super) fn group(&self) -> Option<String> {
        let code = self.group?;
        Some(format!("not a member of the group: {}", explain(code)))
    }

    /// Why a topic cannot be read, unless it just does not exist: it may be created later.
    pub(super) fn topics(&self) -> Option<String> {
        let missing = |code: &Code| *code == Code::UnknownTopicOrPartition;
        let mut refused = self.topics.iter().filter(|(_, code)| !missing(code));
        let (topic, code) = refused.next()?;
        Some(format!("topic {topic} cannot be read: {}", explain(*code)))
    }

    /// All topics with an error.
    pub(super) fn topic_names(&self) -> Vec<String> {
        self.topics.keys().cloned().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_of_the_group_are_kept_until_the_member_has_joined() {
        let mut refused = Refused::default();
        refused.note(
            Code::InconsistentGroupProtocol,
            "JoinGroup failed: Broker: Inconsistent group protocol",
        );
        let reason = refused.group().unwrap();
        assert!(
            reason.starts_with("not a member of the group: INCONSISTENT_GROUP_PROTOCOL: "),
            "{reason}"
        );
        refused.note(
            Code::GroupMaxSizeReached,
            "JoinGroup failed: Broker: Consumer group has reached maximum size",
        );
        let reason = refused.group().unwrap();
        assert!(reason.contains("group.max.size"), "{reason}");
        refused.joined();
        assert_eq!(refused.group(), None);
    }

    #[test]
    fn errors_of_topics_are_kept_until_they_are_read() {
        let mut refused = Refused::default();
        refused.note(
            Code::UnknownTopicOrPartition,
            "Subscribed topic not available: other: Broker: Unknown topic or partition",
        );
        assert_eq!(refused.topics(), None, "it may be created later");
        refused.note(
            Code::TopicAuthorizationFailed,
            "Subscribed topic not available: device-data: Broker: Topic authorization failed",
        );
        let reason = refused.topics().unwrap();
        let start = "topic device-data cannot be read: TOPIC_AUTHORIZATION_FAILED: ";
        assert!(reason.starts_with(start), "{reason}");
        assert_eq!(refused.group(), None);
        refused.readable("device-data");
        assert_eq!(refused.topics(), None);
    }

    #[test]
    fn every_error_that_an_operator_can_correct_has_advice() {
        for code in [
            Code::InconsistentGroupProtocol,
            Code::InvalidSessionTimeout,
            Code::GroupAuthorizationFailed,
            Code::TopicAuthorizationFailed,
            Code::FencedInstanceId,
            Code::GroupMaxSizeReached,
            Code::InvalidGroupId,
            Code::CoordinatorNotAvailable,
            Code::UnknownTopicOrPartition,
            Code::InvalidTopic,
        ] {
            assert!(advice(code).is_some(), "{code}");
        }
    }
}
