//! The part of librdkafka's statistics that the consumer uses.

use std::collections::HashMap;

use serde::Deserialize;

/// The fields of a report that are used; see librdkafka's STATISTICS.md.
#[derive(Debug, Default, Deserialize)]
pub(crate) struct Statistics {
    #[serde(default)]
    brokers: HashMap<String, Broker>,
    cgrp: Option<Group>,
}

#[derive(Debug, Deserialize)]
struct Broker {
    source: String,
    state: String,
}

#[derive(Debug, Deserialize)]
struct Group {
    join_state: String,
}

/// State of the membership.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Membership {
    /// No broker is connected.
    NoBroker,
    /// Connected, without a topic to subscribe to.
    NoTopic,
    /// Joining, in one of librdkafka's states.
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
            // It keeps looking for topics, and joins once it finds one.
            Some("init" | "wait-metadata") | None => Membership::NoTopic,
            Some(state) => Membership::Joining(state.to_owned()),
        }
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
            "cgrp": {{"state": "up", "join_state": "{join_state}"}}}}"#
        );
        Statistics::parse(json.as_bytes()).unwrap()
    }

    #[test]
    fn the_membership_follows_from_connections_and_join_state() {
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
}
