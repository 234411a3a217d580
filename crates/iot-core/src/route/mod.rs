//! Routing: the mapping from an MQTT topic to a Kafka topic and a record key.
//!
//! The MQTT topic is split on `/`; one part names the tenant, another the project:
//! `mtic/msg/client/realtime/tenant123/project456` maps to topic
//! `tenant123.project456` with key `project456`. Names are `[a-zA-Z0-9_-]+`: if
//! they could contain a dot, tenant `a.b` with project `c` would share the Kafka
//! topic of tenant `a` with project `b.c`.

use std::borrow::Cow;

use serde::{Deserialize, Serialize};

use crate::dead_letter;

/// Longest topic name that Kafka accepts, in bytes.
pub const MAX_TOPIC_LENGTH: usize = 249;

/// An MQTT topic has at most 65,535 bytes (MQTT 5, 1.5.4), so it has no more parts.
const MAX_PART: usize = 65_535;
/// Errors show at most this many characters of a refused name.
const SHOWN: usize = 80;

const TENANT: &str = "{tenant}";
const PROJECT: &str = "{project}";

/// The rules of routing, section `route`; [`validate`](Self::validate) checks them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RouteRules {
    /// Index of the MQTT topic's part that is the tenant, from 0.
    pub tenant_part: usize,
    /// Index of the MQTT topic's part that is the project, from 0.
    pub project_part: usize,
    /// Template of the Kafka topic, with the placeholders `{tenant}` and `{project}`.
    pub topic: String,
    /// Key of the records.
    pub key: RouteKey,
    /// What a message without a payload becomes.
    pub empty: EmptyPayload,
}

impl Default for RouteRules {
    fn default() -> Self {
        Self {
            tenant_part: 4,
            project_part: 5,
            topic: format!("{TENANT}.{PROJECT}"),
            key: RouteKey::Project,
            empty: EmptyPayload::Empty,
        }
    }
}

/// The record of a message whose payload is empty.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EmptyPayload {
    /// Its value is empty.
    #[default]
    Empty,
    /// Its value is null if it has a key: in a compacted topic it deletes the key (Kafka,
    /// log compaction).
    Tombstone,
}

impl EmptyPayload {
    /// The value of the record; `None` is null.
    #[must_use]
    pub fn value(self, payload: &[u8], has_key: bool) -> Option<&[u8]> {
        let is_tombstone = self == Self::Tombstone && payload.is_empty() && has_key;
        (!is_tombstone).then_some(payload)
    }
}

/// The record key of routed messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RouteKey {
    /// The project: all messages of a project are in one partition, in order.
    #[default]
    Project,
    /// The MQTT topic: messages of one MQTT topic stay in order.
    MqttTopic,
    /// No key: records are spread over the partitions.
    None,
}

/// Destination of a message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Route {
    /// Kafka topic.
    pub topic: String,
    /// Tenant in the MQTT topic.
    pub tenant: String,
    /// Project in the MQTT topic.
    pub project: String,
    /// Key of the record, UTF-8.
    pub key: Option<String>,
}

/// Why an MQTT topic cannot be routed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RouteError {
    /// The MQTT topic has too few parts to name a tenant and a project.
    #[error("the MQTT topic has {found} parts, {needed} are needed")]
    TooFewParts {
        /// Number of parts in the topic.
        found: usize,
        /// Number of parts that the rules need.
        needed: usize,
    },
    /// The tenant is not `[a-zA-Z0-9_-]+`.
    #[error("tenant {tenant:?} must consist of letters, digits, _ and -")]
    InvalidTenant {
        /// The tenant, truncated if long.
        tenant: String,
    },
    /// The project is not `[a-zA-Z0-9_-]+`.
    #[error("project {project:?} must consist of letters, digits, _ and -")]
    InvalidProject {
        /// The project, truncated if long.
        project: String,
    },
    /// The Kafka topic would be longer than [`MAX_TOPIC_LENGTH`].
    #[error("the Kafka topic would have {length} bytes, at most {MAX_TOPIC_LENGTH} are allowed")]
    TooLong {
        /// Length of the topic in bytes.
        length: usize,
    },
    /// The Kafka topic is reserved; see [`is_reserved`].
    #[error("the Kafka topic {topic:?} is reserved")]
    Reserved {
        /// The topic.
        topic: String,
    },
    /// Kafka refuses the name of the Kafka topic; see [`is_kafka_topic`].
    #[error("{topic:?} is not a valid Kafka topic")]
    InvalidTopic {
        /// The topic.
        topic: String,
    },
}

impl RouteError {
    /// All values that [`reason`](Self::reason) returns, so that the counter of
    /// each can be created at zero.
    pub const REASONS: &'static [&'static str] = &[
        "too_few_parts",
        "invalid_tenant",
        "invalid_project",
        "topic_too_long",
        "reserved_topic",
        "invalid_topic",
    ];

    /// Short reason for metrics labels and the `dlq-reason` header.
    #[must_use]
    pub fn reason(&self) -> &'static str {
        match self {
            Self::TooFewParts { .. } => "too_few_parts",
            Self::InvalidTenant { .. } => "invalid_tenant",
            Self::InvalidProject { .. } => "invalid_project",
            Self::TooLong { .. } => "topic_too_long",
            Self::Reserved { .. } => "reserved_topic",
            Self::InvalidTopic { .. } => "invalid_topic",
        }
    }
}

impl RouteRules {
    /// The destination of a message published to `mqtt_topic`.
    ///
    /// # Errors
    /// The MQTT topic has no valid tenant and project, or the resulting Kafka topic
    /// is reserved, too long or invalid.
    pub fn route(&self, mqtt_topic: &str) -> Result<Route, RouteError> {
        let (tenant, project) = self.names(mqtt_topic)?;
        let topic = self.fill(tenant, project)?;
        let key = match self.key {
            RouteKey::Project => Some(project.to_owned()),
            RouteKey::MqttTopic => Some(mqtt_topic.to_owned()),
            RouteKey::None => None,
        };
        Ok(Route {
            topic,
            tenant: tenant.to_owned(),
            project: project.to_owned(),
            key,
        })
    }

    /// The Kafka topic of a tenant's project.
    ///
    /// # Errors
    /// As [`route`](Self::route).
    pub fn kafka_topic(&self, tenant: &str, project: &str) -> Result<String, RouteError> {
        check_names(tenant, project)?;
        self.fill(tenant, project)
    }

    /// The tenant and project whose messages are routed to a Kafka topic: the inverse
    /// of [`kafka_topic`](Self::kafka_topic). The outer `None` means that no message is
    /// routed there, an inner one that the template has no such placeholder.
    #[must_use]
    pub fn names_in<'t>(&self, kafka_topic: &'t str) -> Option<(Option<&'t str>, Option<&'t str>)> {
        check_topic(kafka_topic).ok()?;
        let whole = |name: &'t str| is_name(name).then_some(name);
        let (tenant, project) = (self.topic.find(TENANT), self.topic.find(PROJECT));
        match (tenant, project) {
            (None, None) => (kafka_topic == self.topic).then_some((None, None)),
            (Some(_), None) => {
                let name = between(kafka_topic, self.topic.split_once(TENANT)?)?;
                Some((Some(whole(name)?), None))
            }
            (None, Some(_)) => {
                let name = between(kafka_topic, self.topic.split_once(PROJECT)?)?;
                Some((None, Some(whole(name)?)))
            }
            (Some(tenant), Some(project)) => {
                let tenant_first = tenant < project;
                let (first, second) = if tenant_first {
                    (TENANT, PROJECT)
                } else {
                    (PROJECT, TENANT)
                };
                let (begin, rest) = self.topic.split_once(first)?;
                let (middle, end) = rest.split_once(second)?;
                // The middle contains a dot and names do not, so the split is unique.
                let (one, other) = between(kafka_topic, (begin, end))?.split_once(middle)?;
                let (one, other) = (Some(whole(one)?), Some(whole(other)?));
                Some(if tenant_first {
                    (one, other)
                } else {
                    (other, one)
                })
            }
        }
    }

    fn fill(&self, tenant: &str, project: &str) -> Result<String, RouteError> {
        let topic = self.topic.replace(TENANT, tenant).replace(PROJECT, project);
        check_topic(&topic)?;
        Ok(topic)
    }

    fn names<'t>(&self, mqtt_topic: &'t str) -> Result<(&'t str, &'t str), RouteError> {
        let part = |index| {
            mqtt_topic
                .split('/')
                .nth(index)
                .ok_or_else(|| RouteError::TooFewParts {
                    found: mqtt_topic.split('/').count(),
                    needed: self.tenant_part.max(self.project_part).saturating_add(1),
                })
        };
        let (tenant, project) = (part(self.tenant_part)?, part(self.project_part)?);
        check_names(tenant, project)?;
        Ok((tenant, project))
    }

    /// All problems of the rules, as the name of the setting and what it must be.
    #[must_use]
    pub fn validate(&self) -> Vec<(&'static str, String)> {
        let mut problems = Vec::new();
        for (field, part) in [
            ("tenant_part", self.tenant_part),
            ("project_part", self.project_part),
        ] {
            if part > MAX_PART {
                problems.push((field, format!("must be at most {MAX_PART}, not {part}")));
            }
        }
        if self.tenant_part == self.project_part {
            let message = "must not be the same part as the tenant";
            problems.push(("project_part", message.to_owned()));
        }
        if let Err(message) = check_template(&self.topic) {
            problems.push(("topic", message));
        }
        if self.empty == EmptyPayload::Tombstone && self.key == RouteKey::None {
            let message = "a tombstone needs a key: set route.key, or empty";
            problems.push(("empty", message.to_owned()));
        }
        problems
    }
}

/// Whether `name` can be a tenant or a project: `[a-zA-Z0-9_-]+`.
#[must_use]
pub fn is_name(name: &str) -> bool {
    !name.is_empty()
        && name
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-'))
}

/// Whether a Kafka topic is reserved by the platform or by Kafka: such a topic is
/// never a routing target and never matches a consumer's pattern.
#[must_use]
pub fn is_reserved(kafka_topic: &str) -> bool {
    kafka_topic.starts_with("iot.")
        || kafka_topic.starts_with("__")
        || matches!(
            kafka_topic,
            "device-aggregates" | "alert-events" | dead_letter::DEFAULT_TOPIC
        )
}

/// The key by which Kafka detects topic collisions. Kafka's metric names replace `.`
/// by `_`, so Kafka refuses to create a topic that differs from an existing one only
/// in these characters.
#[must_use]
pub fn collision_key(kafka_topic: &str) -> String {
    kafka_topic.replace('.', "_")
}

/// Whether Kafka accepts `name` as a topic name: 1 to 249 bytes of `[a-zA-Z0-9._-]`,
/// and neither `.` nor `..` (Kafka's `Topic.validate`).
#[must_use]
pub fn is_kafka_topic(name: &str) -> bool {
    name.len() <= MAX_TOPIC_LENGTH
        && !matches!(name, "" | "." | "..")
        && name.bytes().all(is_topic_byte)
}

fn check_names(tenant: &str, project: &str) -> Result<(), RouteError> {
    if !is_name(tenant) {
        return Err(RouteError::InvalidTenant {
            tenant: shown(tenant).into_owned(),
        });
    }
    if !is_name(project) {
        return Err(RouteError::InvalidProject {
            project: shown(project).into_owned(),
        });
    }
    Ok(())
}

fn between<'t>(text: &'t str, (begin, end): (&str, &str)) -> Option<&'t str> {
    text.strip_prefix(begin)?.strip_suffix(end)
}

fn check_topic(topic: &str) -> Result<(), RouteError> {
    if topic.len() > MAX_TOPIC_LENGTH {
        return Err(RouteError::TooLong {
            length: topic.len(),
        });
    }
    if is_reserved(topic) {
        return Err(RouteError::Reserved {
            topic: topic.to_owned(),
        });
    }
    if !is_kafka_topic(topic) {
        return Err(RouteError::InvalidTopic {
            topic: topic.to_owned(),
        });
    }
    Ok(())
}

fn is_topic_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-')
}

fn check_template(template: &str) -> Result<(), String> {
    for placeholder in [TENANT, PROJECT] {
        if template.matches(placeholder).count() > 1 {
            return Err(format!("must not repeat {placeholder}"));
        }
    }
    let literal = template.replacen(TENANT, "", 1).replacen(PROJECT, "", 1);
    if let Some(character) = literal
        .chars()
        .find(|c| !u8::try_from(*c).is_ok_and(is_topic_byte))
    {
        return Err(format!(
            "must consist of {TENANT}, {PROJECT}, letters, digits, ., _ and -, not {character:?}"
        ));
    }
    if !separates_names(template) {
        return Err(format!(
            "needs a dot between {TENANT} and {PROJECT}, otherwise different tenants could share a topic"
        ));
    }
    // The shortest topic that the template can produce.
    let shortest = template.replace(TENANT, "t").replace(PROJECT, "p");
    check_topic(&shortest).map_err(|error| error.to_string())
}

/// Names have no dot, so a dot between them makes the topic of every pair unique.
fn separates_names(template: &str) -> bool {
    let (Some(tenant), Some(project)) = (template.find(TENANT), template.find(PROJECT)) else {
        return true;
    };
    let between = if tenant < project {
        &template[tenant + TENANT.len()..project]
    } else {
        &template[project + PROJECT.len()..tenant]
    };
    between.contains('.')
}

fn shown(name: &str) -> Cow<'_, str> {
    match name.char_indices().nth(SHOWN) {
        None => Cow::Borrowed(name),
        Some((end, _)) => Cow::Owned(format!("{}...", &name[..end])),
    }
}

#[cfg(test)]
mod tests;
