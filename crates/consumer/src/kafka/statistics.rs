//! What the consumer takes from librdkafka's statistics.

use std::collections::HashMap;

use serde::Deserialize;

/// The few fields of a report that matter here; see librdkafka's STATISTICS.md.
#[derive(Debug, Default, Deserialize)]
pub(crate) struct Statistics {
    #[serde(default)]
    brokers: HashMap<String, Broker>,
    #[serde(default)]
    topics: HashMap<String, Topic>,
    cgrp: Option<Group>,
}

#[derive(Debug, Deserialize)]
struct Broker {
    source: String,
    state: String,
}

#[derive(Debug, Deserialize)]
struct Topic {
    partitions: HashMap<i32, Partition>,
}

#[derive(Debug, Deserialize)]
struct Partition {
    hi_offset: i64,
    ls_offset: i64,
    /// What is fetched next, and what waits to be taken (of all partitions).
    next_offset: i64,
    fetchq_cnt: u64,
}

#[derive(Debug, Deserialize)]
struct Group {
    join_state: String,
}

/// Where the membership stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Membership {
    /// No broker is connected.
    NoBroker,
    /// Connected, and nothing to subscribe to.
    NoTopic,
    /// On the way, in one of librdkafka's states.
    Joining(String),
    /// A member.
    Steady,
}

impl Statistics {
    /// # Errors
    /// Not the JSON that librdkafka documents.
    pub(crate) fn parse(json: &[u8]) -> Result<Self, serde_json::Error> {
        serde_json::from_slice(json)
    }

    pub(crate) fn membership(&self) -> Membership {
        let real = self
            .brokers
            .values()
            .filter(|broker| broker.source != "internal");
        if !real.into_iter().any(|broker| broker.state == "UP") {
            return Membership::NoBroker;
        }
        match self.cgrp.as_ref().map(|group| group.join_state.as_str()) {
            Some("steady") => Membership::Steady,
            // It looks for topics time and again, and joins once it finds one.
            Some("init" | "wait-metadata") | None => Membership::NoTopic,
            Some(state) => Membership::Joining(state.to_owned()),
        }
    }

    /// The offset after the last record that can be read, if a fetch told.
    pub(crate) fn end(&self, topic: &str, partition: i32) -> Option<i64> {
        self.partition(topic, partition)?.end()
    }

    /// Whether everything up to the end was fetched and taken. The last offsets may be
    /// no records, but the end of a transaction.
    pub(crate) fn is_at_end(&self, topic: &str, partition: i32) -> bool {
        let Some(partition) = self.partition(topic, partition) else {
            return false;
        };
        let fetched = |end: i64| partition.next_offset >= end;
        partition.end().is_some_and(fetched) && partition.fetchq_cnt == 0
    }

    fn partition(&self, topic: &str, partition: i32) -> Option<&Partition> {
        self.topics.get(topic)?.partitions.get(&partition)
    }
}

impl Partition {
    fn end(&self) -> Option<i64> {
        let mut offsets = [self.ls_offset, self.hi_offset].into_iter();
        offsets.find(|offset| *offset >= 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(broker: &str, join_state: &str) -> Statistics {
        let json = format!(
            r#"{{"ts": 5, "brokers": {{
                "a:1/bootstrap": {{"source": "configured", "state": "{broker}", "tx": 1}},
                ":0/internal": {{"source": "internal", "state": "UP"}}}},
            "topics": {{"device-data": {{"age": 1, "partitions": {{
                "0": {{"hi_offset": 12, "ls_offset": 10, "lo_offset": 0,
                    "next_offset": 10, "fetchq_cnt": 0}},
                "1": {{"hi_offset": -1001, "ls_offset": -1001,
                    "next_offset": 0, "fetchq_cnt": 0}},
                "2": {{"hi_offset": 9, "ls_offset": 9, "next_offset": 8, "fetchq_cnt": 0}},
                "3": {{"hi_offset": 9, "ls_offset": 9, "next_offset": 9, "fetchq_cnt": 1}},
                "-1": {{"hi_offset": -1001, "ls_offset": -1001,
                    "next_offset": -1001, "fetchq_cnt": 0}}}}}}}},
            "cgrp": {{"state": "up", "join_state": "{join_state}"}}}}"#
        );
        Statistics::parse(json.as_bytes()).unwrap()
    }

    #[test]
    fn tells_where_the_membership_stands() {
        assert_eq!(
            report("CONNECT", "steady").membership(),
            Membership::NoBroker
        );
        for looking in ["init", "wait-metadata"] {
            assert_eq!(report("UP", looking).membership(), Membership::NoTopic);
        }
        assert_eq!(
            report("UP", "wait-sync").membership(),
            Membership::Joining("wait-sync".into())
        );
        assert_eq!(report("UP", "steady").membership(), Membership::Steady);
    }

    #[test]
    fn the_end_is_what_a_committed_reader_can_reach() {
        let report = report("UP", "steady");
        assert_eq!(report.end("device-data", 0), Some(10));
        assert_eq!(report.end("device-data", 1), None);
        assert_eq!(report.end("other", 0), None);
    }

    #[test]
    fn at_the_end_is_who_has_fetched_and_taken_everything() {
        let report = report("UP", "steady");
        let at_end = [0, 1, 2, 3, 4].map(|partition| report.is_at_end("device-data", partition));
        assert_eq!(at_end, [true, false, false, false, false]);
    }
}
