//! Records of librdkafka as a [`Batch`], for what reads through it: `replay` and tests.

use iot_kafka::headers;
use kafka_fetch::Batch;
use rdkafka::Message;
use rdkafka::message::OwnedMessage;

/// Copies a message into a batch of its own.
pub(crate) fn batch_of(message: &OwnedMessage) -> Batch {
    let mut batch = Batch::default();
    let headers = headers::owned(message);
    batch.push(
        message.offset(),
        message.timestamp().to_millis(),
        message.key(),
        message.payload(),
        headers.map(|header| (header.key, header.value)),
    );
    batch
}

#[cfg(test)]
pub(crate) mod tests {
    use rdkafka::Timestamp;
    use rdkafka::message::{Header, OwnedHeaders};

    use super::*;

    /// A message as librdkafka hands it out.
    pub(crate) fn message(offset: i64, payload: Option<&[u8]>) -> OwnedMessage {
        let headers = OwnedHeaders::new()
            .insert(Header {
                key: "mqtt-topic",
                value: Some("a/b"),
            })
            .insert(Header {
                key: "empty",
                value: None::<&str>,
            });
        OwnedMessage::new(
            payload.map(<[u8]>::to_vec),
            Some(b"key".to_vec()),
            "device-data".into(),
            Timestamp::CreateTime(1_767_225_600_000),
            3,
            offset,
            Some(headers),
        )
    }

    #[test]
    fn messages_are_copied_whole() {
        for value in [Some(&b"one"[..]), None] {
            let batch = batch_of(&message(10, value));
            assert_eq!((batch.len(), batch.next_offset()), (1, 11));
            let record = batch.records().next().unwrap();
            assert_eq!((record.offset(), record.value()), (10, value));
            assert_eq!(record.key(), Some(&b"key"[..]));
            assert_eq!(record.timestamp(), Some(1_767_225_600_000));
            let headers: Vec<_> = record.headers().collect();
            assert_eq!(
                headers,
                [("mqtt-topic", Some(&b"a/b"[..])), ("empty", None)]
            );
        }
    }
}
