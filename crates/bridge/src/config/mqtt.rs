//! Section `mqtt`.

use iot_core::partition::fnv1a_32;
use iot_mqtt::{MqttUrl, Protocol, TlsConfig};
use iot_service::config::{HumanDuration, Problems, Secret};
use serde::{Deserialize, Serialize};

use super::filter::overlap;

/// A string is at most 65,535 bytes long (MQTT 5, section 1.5.4); `$share//` is
/// part of a shared filter.
const LONGEST_FILTER: usize = 65_535 - "$share//".len();

/// How messages are divided among MQTT sessions.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Isolation {
    /// One session carries everything.
    #[default]
    None,
    /// Each filter has a session.
    Filter,
    /// Each of `mqtt.tenants` has a session.
    Tenant,
}

/// Stands for each of `mqtt.tenants` in a filter.
const TENANT: &str = "{tenant}";
/// Each session has a Kafka producer with its threads.
const MAX_SESSIONS: usize = 64;

/// One MQTT session of the bridge.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct SessionPlan {
    /// Identifies the session at the broker.
    pub(crate) client_id: String,
    /// Topic filters to subscribe to, with `$share/<group>/` if configured.
    pub(crate) filters: Vec<String>,
}

/// Section `mqtt`: the brokers and the sessions.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct MqttConfig {
    /// `mqtt://host:port`, or `mqtts://host:port` with TLS, the preferred
    /// broker first.
    pub brokers: Vec<String>,
    /// While connected to a backup: how often to check whether a preferred broker
    /// accepts connections again. Zero: never.
    pub fail_back: HumanDuration,
    /// Certificates for `mqtts://`.
    pub tls: TlsConfig,
    /// Protocol version of the brokers.
    pub protocol: Protocol,
    /// Topic filters to subscribe to; `{tenant}` in one stands for each of
    /// `tenants`.
    pub filters: Vec<String>,
    /// The tenants that `{tenant}` stands for.
    pub tenants: Vec<String>,
    /// How messages are divided among sessions, which don't block each other.
    pub isolation: Isolation,
    /// Quality of service of the subscription: 0, 1 or 2.
    pub qos: u8,
    /// Identifies the session at the broker: stable across restarts, and unique.
    pub client_id: String,
    /// Shares the subscription among replicas (MQTT 5, section 4.8.2), unless
    /// empty.
    pub share_group: String,
    /// User name, unless empty.
    pub username: String,
    /// Its password.
    pub password: Secret,
    /// File that holds the password, instead of `password`.
    pub password_file: String,
    /// MQTT keep-alive: the broker closes a connection that is idle for longer.
    pub keep_alive: HumanDuration,
    /// How long the broker keeps the session, and queues messages for it, while
    /// the bridge is not connected.
    pub session_expiry: HumanDuration,
    /// How many unacknowledged messages the broker may send (MQTT 5, section
    /// 3.1.2.11.3).
    pub receive_maximum: u16,
}

impl Default for MqttConfig {
    fn default() -> Self {
        Self {
            brokers: vec!["mqtt://localhost:1883".into()],
            fail_back: HumanDuration::default(),
            tls: TlsConfig::default(),
            protocol: Protocol::V5,
            filters: vec!["mtic/msg/client/realtime/+/#".into()],
            tenants: Vec::new(),
            isolation: Isolation::None,
            qos: 1,
            client_id: "iot-bridge".into(),
            share_group: String::new(),
            username: String::new(),
            password: Secret::default(),
            password_file: String::new(),
            keep_alive: HumanDuration::from_secs(60),
            session_expiry: HumanDuration::from_secs(24 * 3600),
            receive_maximum: 4000,
        }
    }
}

impl MqttConfig {
    pub(super) fn validate(&self, problems: &mut Problems) {
        if self.brokers.is_empty() {
            problems.add("mqtt.brokers", "must have at least one mqtt://host:port");
        }
        for broker in &self.brokers {
            if let Err(error) = broker.parse::<MqttUrl>() {
                // Without the address: it may contain a password.
                problems.add("mqtt.brokers", error.to_string());
            }
        }
        self.tls.validate(&self.brokers, problems);
        if !self.fail_back.is_zero() && self.fail_back.as_secs() < 1 {
            problems.add("mqtt.fail_back", "must be 0s or at least 1s");
        }
        if self.filters.is_empty() {
            problems.add("mqtt.filters", "must have at least one topic filter");
        }
        for filter in &self.filters {
            if !iot_mqtt::valid_filter(filter) {
                problems.add("mqtt.filters", format!("{filter:?} is not a topic filter"));
            }
            if filter.len() + self.share_group.len() > LONGEST_FILTER {
                problems.add("mqtt.filters", "a filter is longer than MQTT allows");
            }
        }
        self.validate_sessions(problems);
        if self.qos > 2 {
            problems.add("mqtt.qos", "must be 0, 1 or 2");
        }
        if self.client_id.is_empty() {
            problems.add(
                "mqtt.client_id",
                "must not be empty: it identifies the session",
            );
        }
        if self.share_group.contains(['/', '+', '#']) {
            problems.add("mqtt.share_group", "must not contain /, + or #");
        }
        if !self.password.is_empty() && !self.password_file.is_empty() {
            problems.add("mqtt.password_file", "set either this or mqtt.password");
        }
        let has_password = !self.password.is_empty() || !self.password_file.is_empty();
        if self.username.is_empty() && has_password {
            problems.add("mqtt.username", "is required with a password");
        }
        if u16::try_from(self.keep_alive.as_secs()).is_err() || self.keep_alive.as_secs() < 10 {
            problems.add("mqtt.keep_alive", "must be between 10s and 18h");
        }
        if !(60..=u64::from(u32::MAX)).contains(&self.session_expiry.as_secs()) {
            let message =
                "must be at least 1m: the broker discards queued messages with the session";
            problems.add("mqtt.session_expiry", message);
        }
        if self.receive_maximum == 0 {
            problems.add("mqtt.receive_maximum", "must be at least 1");
        }
    }

    /// The sessions that filters, tenants and isolation make.
    pub(crate) fn sessions(&self) -> Vec<SessionPlan> {
        let mut sessions: Vec<SessionPlan> = Vec::new();
        for (tenant, filter) in self.expanded() {
            let client_id = match (self.isolation, tenant) {
                (Isolation::None, _) => self.client_id.clone(),
                // Independent of the order of the filters.
                (Isolation::Filter, _) => {
                    format!("{}-{:08x}", self.client_id, fnv1a_32(filter.as_bytes()))
                }
                (Isolation::Tenant, Some(tenant)) => format!("{}-{tenant}", self.client_id),
                (Isolation::Tenant, None) => format!("{}-others", self.client_id),
            };
            let filter = match self.share_group.as_str() {
                "" => filter,
                group => format!("$share/{group}/{filter}"),
            };
            match sessions.iter_mut().find(|plan| plan.client_id == client_id) {
                Some(plan) => plan.filters.push(filter),
                None => sessions.push(SessionPlan {
                    client_id,
                    filters: vec![filter],
                }),
            }
        }
        sessions
    }

    /// Pairs of filters of one session that match the same topics. Brokers may deliver such
    /// a message once for each (MQTT 5, section 3.3.4).
    pub(crate) fn overlaps(&self) -> Vec<(String, String)> {
        let mut overlaps = Vec::new();
        for SessionPlan { filters, .. } in self.sessions() {
            for (index, filter) in filters.iter().enumerate() {
                let others = filters[index + 1..].iter();
                let others = others.filter(|other| overlap(filter, other));
                overlaps.extend(others.map(|other| (filter.clone(), other.clone())));
            }
        }
        overlaps
    }

    /// What works, and may not be what is wanted.
    pub(super) fn warnings(&self, warnings: &mut Problems) {
        for (filter, other) in self.overlaps() {
            let message = format!(
                "{filter:?} and {other:?} overlap: some brokers deliver messages that match both twice"
            );
            warnings.add("mqtt.filters", message);
        }
    }

    /// Filters with `{tenant}` replaced, and the tenant if it was.
    fn expanded(&self) -> Vec<(Option<&str>, String)> {
        let mut expanded = Vec::new();
        for filter in &self.filters {
            if filter.contains(TENANT) {
                let tenants = self.tenants.iter();
                expanded.extend(
                    tenants.map(|tenant| (Some(tenant.as_str()), filter.replace(TENANT, tenant))),
                );
            } else {
                expanded.push((None, filter.clone()));
            }
        }
        expanded
    }

    fn validate_sessions(&self, problems: &mut Problems) {
        let names_tenants = self.filters.iter().any(|filter| filter.contains(TENANT));
        if names_tenants == self.tenants.is_empty() {
            let message = "requires {tenant} in mqtt.filters, and the reverse";
            problems.add("mqtt.tenants", message);
        }
        if self.tenants.iter().any(|tenant| !is_name(tenant)) {
            problems.add(
                "mqtt.tenants",
                "a tenant must consist of letters, digits, _ and -",
            );
        }
        if self.isolation == Isolation::Tenant && self.tenants.is_empty() {
            let message = "tenant requires mqtt.tenants, and {tenant} in mqtt.filters";
            problems.add("mqtt.isolation", message);
        }
        let sessions = self.sessions().len();
        if sessions > MAX_SESSIONS {
            let message = format!("makes {sessions} sessions; at most {MAX_SESSIONS} are allowed");
            problems.add("mqtt.isolation", message);
        }
        if self.isolation == Isolation::None {
            return;
        }
        let filters = self.expanded();
        for (index, (_, filter)) in filters.iter().enumerate() {
            let others = filters[index + 1..].iter();
            for (_, other) in others.filter(|(_, other)| overlap(filter, other)) {
                let message = format!(
                    "{filter:?} and {other:?} overlap: with mqtt.isolation, messages that match both would be duplicates"
                );
                problems.add("mqtt.filters", message);
            }
        }
    }
}

fn is_name(text: &str) -> bool {
    let allowed = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
    !text.is_empty() && text.chars().all(allowed)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(filters: &[&str], tenants: &[&str], isolation: Isolation) -> MqttConfig {
        let texts = |texts: &[&str]| texts.iter().map(ToString::to_string).collect();
        MqttConfig {
            filters: texts(filters),
            tenants: texts(tenants),
            isolation,
            ..MqttConfig::default()
        }
    }

    fn ids(config: &MqttConfig) -> Vec<(String, usize)> {
        let sessions = config.sessions().into_iter();
        sessions
            .map(|plan| (plan.client_id, plan.filters.len()))
            .collect()
    }

    #[test]
    fn sessions_follow_the_isolation() {
        let filters = ["m/{tenant}/#", "n/{tenant}/#", "o/#"];
        let of = |isolation| config(&filters, &["a", "b"], isolation);
        assert_eq!(ids(&of(Isolation::None)), [("iot-bridge".into(), 5)]);
        assert_eq!(
            ids(&of(Isolation::Tenant)),
            [
                ("iot-bridge-a".into(), 2),
                ("iot-bridge-b".into(), 2),
                ("iot-bridge-others".into(), 1)
            ]
        );
        let by_filter = ids(&of(Isolation::Filter));
        assert_eq!(by_filter.len(), 5);
        let mut turned = of(Isolation::Filter);
        turned.filters.reverse();
        assert!(by_filter.iter().all(|id| ids(&turned).contains(id)));
    }

    #[test]
    fn overlaps_are_those_within_a_session() {
        let filters = ["m/{tenant}/#", "m/a/x", "o/#"];
        let of = |isolation| config(&filters, &["a", "b"], isolation).overlaps();
        let expected = [("m/a/#".to_string(), "m/a/x".to_string())];
        assert_eq!(of(Isolation::None), expected);
        assert_eq!(of(Isolation::Filter), []);
        let mut shared = config(&["a/#", "a/b", "c"], &[], Isolation::None);
        shared.share_group = "g".into();
        let mut warnings = Problems::default();
        shared.warnings(&mut warnings);
        assert_eq!(
            warnings.to_string(),
            r#"mqtt.filters: "$share/g/a/#" and "$share/g/a/b" overlap: some brokers deliver messages that match both twice"#
        );
    }

    #[test]
    fn overlapping_filters_and_missing_tenants_are_rejected() {
        for (config, expected) in [
            (config(&["a/#", "a/b"], &[], Isolation::Filter), "overlap"),
            (
                config(&["a/{tenant}/#"], &[], Isolation::None),
                "mqtt.tenants",
            ),
            (config(&["a/#"], &["x"], Isolation::None), "mqtt.tenants"),
            (config(&["a/#"], &[], Isolation::Tenant), "mqtt.isolation"),
            (
                config(&["a/{tenant}"], &["x/y"], Isolation::Tenant),
                "letters",
            ),
        ] {
            let mut problems = Problems::default();
            config.validate(&mut problems);
            assert!(problems.to_string().contains(expected), "{problems}");
        }
        let mut problems = Problems::default();
        config(&["a/#", "a/b"], &[], Isolation::None).validate(&mut problems);
        assert!(problems.is_empty(), "{problems}");
    }
}
