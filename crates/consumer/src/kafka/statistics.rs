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
    state: String,
    join_state: String,
}

/// State of the membership.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Membership {
    /// No broker is connected.
    NoBroker,
    /// Connected, but not to the broker that coordinates the group.
    NoCoordinator,
    /// Connected, without a topic to subscribe to, or before another attempt to join.
    NoTopic,
    /// Joining.
    Joining,
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
        let Some(group) = &self.cgrp else {
            return Membership::NoTopic;
        };
        match (group.state.as_str(), group.join_state.as_str()) {
            ("up", "steady") => Membership::Steady,
            // It keeps looking for topics, and joins once it finds one.
            ("up", "init" | "wait-metadata") => Membership::NoTopic,
            ("up", _) => Membership::Joining,
            _ => Membership::NoCoordinator,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(broker: &str, join_state: &str) -> Statistics {
        in_state(broker, "up", join_state)
    }

    fn in_state(broker: &str, state: &str, join_state: &str) -> Statistics {
        let json = format!(
            r#"{{"ts": 5, "brokers": {{
                "a:1/bootstrap": {{"source": "configured", "state": "{broker}", "tx": 1}},
                ":0/internal": {{"source": "internal", "state": "UP"}}}},
            "cgrp": {{"state": "{state}", "join_state": "{join_state}"}}}}"#
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
        assert_eq!(report("UP", "wait-sync").membership(), Membership::Joining);
        for state in ["query-coord", "wait-coord", "wait-broker-transport"] {
            let looking = in_state("UP", state, "init");
            assert_eq!(looking.membership(), Membership::NoCoordinator);
        }
        assert_eq!(report("UP", "steady").membership(), Membership::Steady);
    }
}
