//! A message on its way, and the Kafka record it becomes.

use std::sync::Arc;

use bytes::Bytes;
use iot_core::headers::{self, CONTENT_TYPE};
use iot_mqtt::{KEPT, Publish, PublishProperties, QoS};
use rdkafka::message::{Header, OwnedHeaders};
use sha2::{Digest, Sha256};
use tokio::time::Instant;

use crate::deliveries::Fingerprint;
use crate::metrics::Refusal;
use crate::topics::TopicId;

/// What a message occupies besides its topic and payload: the slot, and what
/// librdkafka keeps with a record.
const OVERHEAD: usize = 512;
/// The same for a user property: two strings and a header.
const PROPERTY: usize = 64;
/// What a record has besides payload, topic and properties: names and values of
/// headers, key, lengths.
const HEADERS: usize = 200;

/// A message between its arrival and its acknowledgement.
#[derive(Debug)]
pub(crate) struct Message {
    /// The connection that brought it.
    pub(crate) connection: u32,
    pub(crate) packet_id: u16,
    pub(crate) qos: QoS,
    retain: bool,
    /// The MQTT topic.
    pub(crate) topic: Bytes,
    pub(crate) payload: Bytes,
    /// What the publisher says about it, if anything.
    properties: Option<Box<PublishProperties>>,
    /// Milliseconds since the epoch.
    pub(crate) received_at: i64,
    pub(crate) since: Instant,
    pub(crate) target: Target,
    /// Size and SHA-256 of a payload of which only the beginning is here.
    pub(crate) cut: Option<Box<Cut>>,
    /// Which delivery it is, where that can be told.
    pub(crate) fingerprint: Option<Fingerprint>,
    /// An earlier process may have written it: the log has to be asked.
    pub(crate) asks_log: bool,
}

// There are thousands of them.
const _: () = assert!(size_of::<Message>() <= 256);

/// What is left of a payload whose end was thrown away.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Cut {
    /// Bytes.
    pub(crate) size: u64,
    pub(crate) sha256: [u8; 32],
}

/// Where a message goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Target {
    Topic {
        topic: TopicId,
        key: Option<Arc<str>>,
    },
    DeadLetter {
        topic: TopicId,
        why: Box<Why>,
    },
    /// No message of MQTT, but where the numbering of deliveries stands.
    Checkpoint {
        topic: TopicId,
        key: Arc<str>,
    },
}

/// Why a message is a dead letter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Why {
    pub(crate) reason: Refusal,
    pub(crate) detail: String,
}

impl Target {
    pub(crate) fn dead_letter(topic: TopicId, reason: Refusal, detail: String) -> Self {
        let why = Box::new(Why { reason, detail });
        Self::DeadLetter { topic, why }
    }

    pub(crate) fn topic(&self) -> TopicId {
        match self {
            Self::Topic { topic, .. }
            | Self::DeadLetter { topic, .. }
            | Self::Checkpoint { topic, .. } => *topic,
        }
    }
}

impl Message {
    /// A message that arrives at `since` (`received_at`, in milliseconds since
    /// the epoch) for `target`.
    pub(crate) fn new(
        publish: Publish,
        connection: u32,
        (since, received_at): (Instant, i64),
        target: Target,
    ) -> Self {
        let Publish {
            qos,
            retain,
            topic,
            pkid: packet_id,
            payload,
            properties,
            ..
        } = publish;
        Self {
            connection,
            packet_id,
            qos,
            retain,
            topic,
            payload,
            properties: properties.filter(says_something).map(Box::new),
            received_at,
            since,
            target,
            cut: None,
            fingerprint: None,
            asks_log: false,
        }
    }

    /// A note of the bridge's own: nothing of it is acknowledged.
    pub(crate) fn checkpoint(
        topic: TopicId,
        key: Arc<str>,
        payload: Vec<u8>,
        received_at: i64,
    ) -> Self {
        let publish = Publish::new("", QoS::AtMostOnce, payload, None);
        let target = Target::Checkpoint { topic, key };
        Self::new(publish, 0, (Instant::now(), received_at), target)
    }

    /// The memory that it occupies, in bytes; librdkafka holds a copy.
    pub(crate) fn bytes(&self) -> usize {
        let properties = self.properties.as_deref().map_or(0, properties_size);
        2 * (self.payload.len() + self.topic.len() + properties) + OVERHEAD
    }

    /// About how large its record is, in bytes.
    pub(crate) fn record_size(&self) -> usize {
        let properties = self.properties.as_deref().map_or(0, properties_size);
        self.payload.len() + self.topic.len() + properties + HEADERS
    }

    pub(crate) fn is_checkpoint(&self) -> bool {
        matches!(self.target, Target::Checkpoint { .. })
    }

    pub(crate) fn key(&self) -> Option<&str> {
        match &self.target {
            Target::Topic { key, .. } => key.as_deref(),
            Target::Checkpoint { key, .. } => Some(key),
            Target::DeadLetter { .. } => None,
        }
    }

    /// Throws away all but the beginning of the payload; `false` if that was
    /// done before.
    pub(crate) fn cut(&mut self) -> bool {
        if self.cut.is_some() {
            return false;
        }
        let payload = &mut self.payload;
        self.cut = Some(Box::new(Cut {
            size: payload.len() as u64,
            sha256: Sha256::digest(&payload).into(),
        }));
        // Copies, so that the memory of the whole is free.
        *payload = Bytes::copy_from_slice(&payload[..payload.len().min(KEPT)]);
        self.topic = Bytes::copy_from_slice(&self.topic);
        true
    }

    /// Throws away all but what its acknowledgement needs.
    pub(crate) fn empty(&mut self) {
        self.payload = Bytes::new();
        // It shares the payload's memory.
        self.topic = Bytes::new();
        self.properties = None;
    }

    /// The headers of its record. With `origin` off a routed message has none;
    /// a dead letter always says where it came from.
    pub(crate) fn headers(&self, origin: bool) -> OwnedHeaders {
        match &self.target {
            Target::Checkpoint { .. } => OwnedHeaders::new_with_capacity(0),
            Target::Topic { .. } if !origin => OwnedHeaders::new_with_capacity(0),
            Target::Topic { .. } => self.properties(self.origin()),
            Target::DeadLetter { why, .. } => {
                // What a publisher adds may be all that makes it too large.
                let letter = match &self.cut {
                    Some(cut) => cut.headers(self.origin()),
                    None => self.properties(self.origin()),
                };
                let letter = text(letter, headers::DLQ_REASON, why.reason.as_str());
                let letter = text(letter, "dlq-detail", &why.detail);
                let letter = bytes(letter, headers::DLQ_TOPIC, &self.topic);
                text(letter, headers::DLQ_TIME, &self.received_at.to_string())
            }
        }
    }

    fn origin(&self) -> OwnedHeaders {
        let mut own = bytes(
            OwnedHeaders::new_with_capacity(8),
            headers::MQTT_TOPIC,
            &self.topic,
        );
        own = text(own, headers::MQTT_QOS, qos_text(self.qos));
        own = text(
            own,
            headers::MQTT_RETAIN,
            if self.retain { "true" } else { "false" },
        );
        own = text(
            own,
            headers::MQTT_RECEIVED_AT,
            &self.received_at.to_string(),
        );
        match &self.fingerprint {
            Some(fingerprint) => bytes(own, headers::MQTT_DELIVERY, &fingerprint.to_bytes()),
            None => own,
        }
    }

    /// Adds what the publisher says about its message.
    fn properties(&self, mut headers: OwnedHeaders) -> OwnedHeaders {
        let Some(properties) = &self.properties else {
            return headers;
        };
        if let Some(content_type) = &properties.content_type {
            headers = text(headers, CONTENT_TYPE, content_type);
        }
        for (name, value) in &properties.user_properties {
            // Headers that the bridge vouches for can't be set by a publisher.
            if !name.starts_with("mqtt-") && !name.starts_with("dlq-") {
                headers = text(headers, name, value);
            }
        }
        headers
    }
}

/// Whether anything of it is carried over.
fn says_something(properties: &PublishProperties) -> bool {
    properties.content_type.is_some() || !properties.user_properties.is_empty()
}

fn properties_size(properties: &PublishProperties) -> usize {
    let user = properties.user_properties.iter();
    let user: usize = user
        .map(|(name, value)| name.len() + value.len() + PROPERTY)
        .sum();
    user + properties.content_type.as_ref().map_or(0, String::len)
}

impl Cut {
    fn headers(&self, letter: OwnedHeaders) -> OwnedHeaders {
        let digest: String = self
            .sha256
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect();
        let letter = text(letter, "dlq-cut", "true");
        let letter = text(letter, "dlq-size", &self.size.to_string());
        text(letter, "dlq-sha256", &digest)
    }
}

fn text(headers: OwnedHeaders, key: &str, value: &str) -> OwnedHeaders {
    bytes(headers, key, value.as_bytes())
}

fn bytes(headers: OwnedHeaders, key: &str, value: &[u8]) -> OwnedHeaders {
    headers.insert(Header {
        key,
        value: Some(value),
    })
}

fn qos_text(qos: QoS) -> &'static str {
    match qos {
        QoS::AtMostOnce => "0",
        QoS::AtLeastOnce => "1",
        QoS::ExactlyOnce => "2",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rdkafka::message::Headers;

    fn message(payload: Vec<u8>, target: Target) -> Message {
        let properties = PublishProperties {
            user_properties: vec![
                ("iot-label".into(), "temperature=spike".into()),
                ("dlq-reason".into(), "forged".into()),
            ],
            ..PublishProperties::default()
        };
        let publish = Publish::new("a/b", QoS::AtLeastOnce, payload, Some(properties));
        Message::new(publish, 1, (Instant::now(), 1_700_000_000_123), target)
    }

    fn header<'a>(headers: &'a OwnedHeaders, key: &str) -> Option<&'a str> {
        let mut found = headers.iter().filter(|header| header.key == key);
        let value = found
            .next()
            .and_then(|header| std::str::from_utf8(header.value?).ok());
        assert!(found.next().is_none(), "{key} is there twice");
        value
    }

    #[test]
    fn a_routed_message_says_where_it_came_from() {
        let target = Target::Topic {
            topic: TopicId::of(0),
            key: Some("p".into()),
        };
        let message = message(b"x".to_vec(), target);
        let headers = message.headers(true);
        assert_eq!(header(&headers, "mqtt-topic"), Some("a/b"));
        assert_eq!(header(&headers, "mqtt-qos"), Some("1"));
        assert_eq!(header(&headers, "mqtt-retain"), Some("false"));
        assert_eq!(header(&headers, "mqtt-received-at"), Some("1700000000123"));
        assert_eq!(header(&headers, "iot-label"), Some("temperature=spike"));
        assert_eq!(header(&headers, "dlq-reason"), None);
        assert_eq!(message.headers(false).count(), 0);
        assert_eq!(&*message.payload, b"x");
    }

    #[test]
    fn what_a_publisher_adds_counts_as_memory() {
        let target = || Target::Topic {
            topic: TopicId::of(0),
            key: None,
        };
        let mut large = message(Vec::new(), target());
        let small = large.bytes();
        let properties = large.properties.get_or_insert_default();
        properties
            .user_properties
            .push(("k".into(), "v".repeat(60_000)));
        assert!(large.bytes() > small + 120_000);
    }

    #[test]
    fn a_dead_letter_that_is_too_large_keeps_its_beginning_and_its_hash() {
        let dead = || {
            let detail = "too large".into();
            Target::dead_letter(TopicId::of(0), Refusal::TooLarge, detail)
        };
        let whole = message(vec![7; 100_000], dead());
        assert_eq!(whole.payload.len(), 100_000);
        assert_eq!(
            header(&whole.headers(false), "dlq-reason"),
            Some("too_large")
        );
        let mut cut = message(b"abc".repeat(100_000), dead());
        assert!(cut.cut() && !cut.cut());
        assert_eq!(cut.payload.len(), KEPT);
        let headers = cut.headers(false);
        assert_eq!(header(&headers, "dlq-size"), Some("300000"));
        // printf abc%.0s {1..100000} | sha256sum
        let digest = "a77aedfe2e4a7232ea628a71745a966224c4521d93134b993cde5b65ea2f6e3c";
        assert_eq!(header(&headers, "dlq-sha256"), Some(digest));
        assert_eq!(
            header(&headers, "iot-label"),
            None,
            "properties may be what is too large"
        );
    }
}
