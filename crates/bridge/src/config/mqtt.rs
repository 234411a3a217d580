//! Section `mqtt`.

use iot_core::partition::fnv1a_32;
use iot_mqtt::{MqttUrl, Protocol, TlsConfig};
use iot_service::config::{HumanDuration, Problems, Secret};
use serde::{Deserialize, Serialize};

use crate::mqtt::SessionPlan;

/// Texts have a length of two bytes (MQTT 5, section 1.5.4); `$share//` is part
/// of a shared filter.
const LONGEST_FILTER: usize = 65_535 - "$share//".len();

/// What has an MQTT session of its own.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Isolation {
    /// One session carries everything.
    #[default]
    None,
    /// Each filter.
    Filter,
    /// Each of `mqtt.tenants`.
    Tenant,
}

/// Stands for each of `mqtt.tenants` in a filter.
const TENANT: &str = "{tenant}";
/// Each session has a Kafka producer, and its threads.
const MAX_SESSIONS: usize = 64;

/// Section `mqtt`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct MqttConfig {
    /// `mqtt://host:port`, or `mqtts://host:port` with TLS, the preferred
    /// broker first.
    pub brokers: Vec<String>,
    /// While connected to another broker than the first: how often to see
    /// whether one before it is back. Zero stays until the connection is lost.
    pub fail_back: HumanDuration,
    /// Certificates, for brokers with TLS.
    pub tls: TlsConfig,
    /// The version that the brokers speak.
    pub protocol: Protocol,
    /// Topic filters to subscribe to; `{tenant}` in one stands for each of
    /// `tenants`.
    pub filters: Vec<String>,
    /// The tenants that `{tenant}` stands for.
    pub tenants: Vec<String>,
    /// What has an MQTT session of its own, so that it can't hold up others.
    pub isolation: Isolation,
    /// Quality of service of the subscription: 0, 1 or 2.
    pub qos: u8,
    /// Names the session at the broker: stable, and not used by anyone else.
    pub client_id: String,
    /// Shares the subscription among replicas, if not empty.
    pub share_group: String,
    /// User name, if not empty.
    pub username: String,
    /// Its password.
    pub password: Secret,
    /// File that holds the password, instead of `password`.
    pub password_file: String,
    /// How long the broker waits for a sign of life.
    pub keep_alive: HumanDuration,
    /// How long the broker keeps the session, and what arrives for it, while
    /// the bridge is away.
    pub session_expiry: HumanDuration,
    /// How many unacknowledged messages the broker may send.
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
            problems.add("mqtt.brokers", "needs at least one mqtt://host:port");
        }
        for broker in &self.brokers {
            if let Err(error) = broker.parse::<MqttUrl>() {
                // Without the text itself: a password may be in it.
                problems.add("mqtt.brokers", error.to_string());
            }
        }
        self.tls.validate(&self.brokers, problems);
        if !self.fail_back.is_zero() && self.fail_back.as_secs() < 1 {
            problems.add("mqtt.fail_back", "must be 0s or at least 1s");
        }
        if self.filters.is_empty() {
            problems.add("mqtt.filters", "needs at least one topic filter");
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
            problems.add("mqtt.client_id", "must not be empty: it names the session");
        }
        if self.share_group.contains(['/', '+', '#']) {
            problems.add("mqtt.share_group", "must not contain /, + or #");
        }
        if !self.password.is_empty() && !self.password_file.is_empty() {
            problems.add("mqtt.password_file", "set either this or mqtt.password");
        }
        let has_password = !self.password.is_empty() || !self.password_file.is_empty();
        if self.username.is_empty() && has_password {
            problems.add("mqtt.username", "is needed with a password");
        }
        if u16::try_from(self.keep_alive.as_secs()).is_err() || self.keep_alive.as_secs() < 10 {
            problems.add("mqtt.keep_alive", "must be between 10s and 18h");
        }
        if !(60..=u64::from(u32::MAX)).contains(&self.session_expiry.as_secs()) {
            let message = "must be at least 1m: the broker drops messages with the session";
            problems.add("mqtt.session_expiry", message);
        }
        if self.receive_maximum == 0 {
            problems.add("mqtt.receive_maximum", "must be at least 1");
        }
    }

    /// The sessions that the filters make, each with the filters as they are
    /// subscribed to.
    pub(crate) fn sessions(&self) -> Vec<SessionPlan> {
        let mut sessions: Vec<SessionPlan> = Vec::new();
        for (tenant, filter) in self.expanded() {
            let client_id = match (self.isolation, tenant) {
                (Isolation::None, _) => self.client_id.clone(),
                // Stable, wherever the filter stands in the list.
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

    /// Filters with their tenant, where they name one.
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
            let message =
                "belongs together with {tenant} in mqtt.filters: there is only one of them";
            problems.add("mqtt.tenants", message);
        }
        if self.tenants.iter().any(|tenant| !is_name(tenant)) {
            problems.add(
                "mqtt.tenants",
                "a tenant is made of letters, digits, _ and - only",
            );
        }
        if self.isolation == Isolation::Tenant && self.tenants.is_empty() {
            let message = "tenant needs mqtt.tenants, and {tenant} in mqtt.filters";
            problems.add("mqtt.isolation", message);
        }
        let sessions = self.sessions().len();
        if sessions > MAX_SESSIONS {
            let message = format!("makes {sessions} sessions, {MAX_SESSIONS} are the most");
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
                    "{filter:?} and {other:?} overlap: with mqtt.isolation their messages would come twice"
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

/// Whether some topic matches both filters (MQTT 5, section 4.7.1).
fn overlap(one: &str, other: &str) -> bool {
    let (mut one, mut other) = (one.split('/'), other.split('/'));
    loop {
        match (one.next(), other.next()) {
            (None, None) => return true,
            // `a/#` matches `a` itself too.
            (Some("#"), _) | (_, Some("#")) => return true,
            (Some(a), Some(b)) if a == b || a == "+" || b == "+" => {}
            _ => return false,
        }
    }
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
    fn filters_that_share_topics_overlap() {
        for (one, other, expected) in [
            ("a/b", "a/b", true),
            ("a/+", "a/b", true),
            ("a/#", "a", true),
            ("a/#", "b/#", false),
            ("a/+/c", "a/b/d", false),
            ("a/+/c", "+/b/#", true),
            ("a/b", "a/b/c", false),
        ] {
            assert_eq!(overlap(one, other), expected, "{one} {other}");
            assert_eq!(overlap(other, one), expected, "{other} {one}");
        }
    }

    #[test]
    fn sessions_that_would_share_messages_or_lack_tenants_are_refused() {
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
