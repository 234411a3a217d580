//! An MQTT message in flight, and the Kafka record that it becomes.

use std::sync::Arc;

use bytes::Bytes;
use iot_core::dead_letter::{self, KEPT, Truncated};
use iot_core::headers::{self, CONTENT_TYPE};
use iot_mqtt::{Publish, PublishProperties, QoS};
use rdkafka::message::{Header, OwnedHeaders};
use sha2::{Digest, Sha256};
use tokio::time::Instant;

use crate::dedupe::{ReceiveId, content_hash};
use crate::refusal::Refusal;
use crate::topic_id::TopicId;

/// Memory of a message besides topic and payload, in bytes: its slot in the ring,
/// and what librdkafka keeps with a record.
const OVERHEAD: usize = 512;
/// The same for a user property: two strings and a record header.
const PROPERTY: usize = 64;
/// Size of a record besides payload, topic and properties, in bytes: headers, key
/// and lengths.
const HEADERS: usize = 200;

/// A message between its arrival and its acknowledgement.
#[derive(Debug)]
pub(crate) struct Message {
    /// Number of the connection that it arrived on.
    pub(crate) connection: u32,
    pub(crate) packet_id: u16,
    pub(crate) qos: QoS,
    retain: bool,
    /// The MQTT topic.
    pub(crate) topic: Bytes,
    pub(crate) payload: Bytes,
    /// The publisher's properties, if any of them go into headers.
    properties: Option<Box<PublishProperties>>,
    /// When it arrived, in milliseconds since the Unix epoch.
    pub(crate) received_at: i64,
    /// The same on the monotonic clock.
    pub(crate) since: Instant,
    pub(crate) target: Target,
    /// Size and SHA-256 of the whole payload, if it is truncated.
    pub(crate) cut: Option<Box<Truncated>>,
    /// `None` if it can't be told apart from other messages.
    pub(crate) receive_id: Option<ReceiveId>,
    /// An earlier process may have written it: it waits for a lookup in Kafka.
    pub(crate) needs_lookup: bool,
}

// There are thousands of them.
const _: () = assert!(size_of::<Message>() <= 256);
// Messages that the connection truncates become dead letters.
const _: () = assert!(iot_mqtt::KEPT == KEPT);

/// Where a message goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Target {
    Topic {
        topic: TopicId,
        key: Option<Arc<str>>,
    },
    DeadLetter {
        topic: TopicId,
        cause: Box<DeadLetterCause>,
    },
    /// Not an MQTT message, but a checkpoint of the session's numbering.
    Checkpoint { topic: TopicId, key: Arc<str> },
}

/// Why a message is a dead letter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct DeadLetterCause {
    pub(crate) reason: Refusal,
    /// For people, such as the name of the topic.
    pub(crate) detail: String,
}

impl Target {
    /// A dead letter in the dead-letter topic `topic`.
    pub(crate) fn dead_letter(topic: TopicId, reason: Refusal, detail: String) -> Self {
        let cause = Box::new(DeadLetterCause { reason, detail });
        Self::DeadLetter { topic, cause }
    }

    /// The Kafka topic.
    pub(crate) fn topic(&self) -> TopicId {
        match self {
            Self::Topic { topic, .. }
            | Self::DeadLetter { topic, .. }
            | Self::Checkpoint { topic, .. } => *topic,
        }
    }
}

impl Message {
    /// A message that arrived on a connection at `since` (`received_at`, in
    /// milliseconds since the Unix epoch), for `target`.
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
            properties: properties.filter(has_headers).map(Box::new),
            received_at,
            since,
            target,
            cut: None,
            receive_id: None,
            needs_lookup: false,
        }
    }

    /// A checkpoint: it takes part in the flow, but nothing is acknowledged for it.
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

    /// The memory that it occupies, in bytes, including librdkafka's copy.
    pub(crate) fn bytes(&self) -> usize {
        let properties = self.properties.as_deref().map_or(0, properties_size);
        2 * (self.payload.len() + self.topic.len() + properties) + OVERHEAD
    }

    /// The approximate size of its record, in bytes.
    pub(crate) fn record_size(&self) -> usize {
        let properties = self.properties.as_deref().map_or(0, properties_size);
        self.payload.len() + self.topic.len() + properties + HEADERS
    }

    pub(crate) fn is_checkpoint(&self) -> bool {
        matches!(self.target, Target::Checkpoint { .. })
    }

    /// The key of its record.
    pub(crate) fn key(&self) -> Option<&str> {
        match &self.target {
            Target::Topic { key, .. } => key.as_deref(),
            Target::Checkpoint { key, .. } => Some(key),
            Target::DeadLetter { .. } => None,
        }
    }

    /// The hash that it shares with its redeliveries.
    pub(crate) fn content_hash(&self) -> u128 {
        match &self.cut {
            Some(cut) => content_hash(&self.topic, &cut.sha256),
            None => content_hash(&self.topic, &self.payload),
        }
    }

    /// Truncates the payload; `false` if it is truncated already.
    pub(crate) fn cut(&mut self) -> bool {
        if self.cut.is_some() {
            return false;
        }
        let payload = &mut self.payload;
        self.cut = Some(Box::new(Truncated {
            size: payload.len() as u64,
            sha256: Sha256::digest(&payload).into(),
        }));
        // Copies, to free the memory of the whole packet.
        *payload = Bytes::copy_from_slice(&payload[..payload.len().min(KEPT)]);
        self.topic = Bytes::copy_from_slice(&self.topic);
        true
    }

    /// Discards everything that its acknowledgement does not need.
    pub(crate) fn empty(&mut self) {
        self.payload = Bytes::new();
        // It shares memory with the payload.
        self.topic = Bytes::new();
        self.properties = None;
    }

    /// The headers of its record. Without `origin` only dead letters have any.
    pub(crate) fn headers(&self, origin: bool) -> OwnedHeaders {
        match &self.target {
            Target::Checkpoint { .. } => OwnedHeaders::new_with_capacity(0),
            Target::Topic { .. } if !origin => OwnedHeaders::new_with_capacity(0),
            Target::Topic { .. } => self.properties(self.origin()),
            Target::DeadLetter { cause, .. } => {
                // User properties may be what makes it too large.
                let letter = match &self.cut {
                    Some(cut) => {
                        let cut = cut.headers().into_iter();
                        cut.fold(self.origin(), |letter, (name, value)| {
                            text(letter, name, &value)
                        })
                    }
                    None => self.properties(self.origin()),
                };
                let letter = text(letter, dead_letter::REASON, cause.reason.as_str());
                let detail = dead_letter::detail(&cause.detail);
                let letter = text(letter, dead_letter::DETAIL, &detail);
                let letter = bytes(letter, dead_letter::TOPIC, &self.topic);
                text(letter, dead_letter::TIME, &self.received_at.to_string())
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
        match &self.receive_id {
            Some(id) => bytes(own, headers::MQTT_DELIVERY, &id.to_bytes()),
            None => own,
        }
    }

    /// Adds the publisher's properties.
    fn properties(&self, mut all: OwnedHeaders) -> OwnedHeaders {
        let Some(properties) = &self.properties else {
            return all;
        };
        if let Some(content_type) = &properties.content_type {
            all = text(all, CONTENT_TYPE, content_type);
        }
        if let Some(expiry) = properties.message_expiry_interval {
            all = text(all, headers::MQTT_MESSAGE_EXPIRY, &expiry.to_string());
        }
        if let Some(topic) = &properties.response_topic {
            all = text(all, headers::MQTT_RESPONSE_TOPIC, topic);
        }
        if let Some(data) = &properties.correlation_data {
            all = bytes(all, headers::MQTT_CORRELATION_DATA, data);
        }
        for (name, value) in &properties.user_properties {
            // A publisher must not forge the bridge's headers.
            if !name.starts_with("mqtt-") && !name.starts_with(dead_letter::PREFIX) {
                all = text(all, name, value);
            }
        }
        all
    }
}

/// Whether any of them become headers.
fn has_headers(properties: &PublishProperties) -> bool {
    properties.content_type.is_some()
        || properties.message_expiry_interval.is_some()
        || properties.response_topic.is_some()
        || properties.correlation_data.is_some()
        || !properties.user_properties.is_empty()
}

fn properties_size(properties: &PublishProperties) -> usize {
    let user = properties.user_properties.iter();
    let user: usize = user
        .map(|(name, value)| name.len() + value.len() + PROPERTY)
        .sum();
    let texts = [&properties.content_type, &properties.response_topic];
    let texts: usize = texts.into_iter().flatten().map(String::len).sum();
    user + texts + properties.correlation_data.as_ref().map_or(0, Bytes::len)
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
        assert!(found.next().is_none(), "{key} is a duplicate");
        value
    }

    #[test]
    fn a_routed_message_has_headers_with_its_origin() {
        let target = Target::Topic {
            topic: TopicId(0),
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
    fn properties_for_requests_and_their_expiry_are_headers() {
        let properties = PublishProperties {
            message_expiry_interval: Some(90),
            response_topic: Some("answers/7".into()),
            correlation_data: Some(Bytes::from_static(&[0xff, 7])),
            ..PublishProperties::default()
        };
        let publish = Publish::new("a/b", QoS::AtLeastOnce, "x", Some(properties));
        let target = Target::Topic {
            topic: TopicId(0),
            key: None,
        };
        let message = Message::new(publish, 1, (Instant::now(), 0), target);
        let headers = message.headers(true);
        assert_eq!(header(&headers, "mqtt-message-expiry"), Some("90"));
        assert_eq!(header(&headers, "mqtt-response-topic"), Some("answers/7"));
        let data = headers.iter().find(|h| h.key == "mqtt-correlation-data");
        assert_eq!(data.unwrap().value, Some(&[0xff, 7][..]));
    }

    #[test]
    fn user_properties_count_as_memory() {
        let target = || Target::Topic {
            topic: TopicId(0),
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
    fn a_dead_letter_that_is_too_large_is_truncated_and_keeps_its_hash() {
        let dead = || {
            let detail = "too large".into();
            Target::dead_letter(TopicId(0), Refusal::TooLarge, detail)
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
            "user properties may be what is too large"
        );
    }
}
