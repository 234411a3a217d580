use iot_core::message::parse_partial;
use iot_service::health::Health;
use iot_service::metrics::Registrar;
use prometheus::Registry;
use rdkafka::Timestamp as Time;
use rdkafka::message::OwnedMessage;
use rdkafka::types::{RDKafkaApiKey, RDKafkaRespErr};
use testkit::kafka::MockKafka;

use super::*;
use crate::config::Partial;
use crate::partial::Refused;
use crate::record::batch_of;
use crate::record::tests::message;

fn letter_of(message: &OwnedMessage) -> Letter {
    let batch = batch_of(message);
    let record = batch.records().next().unwrap();
    let refusal = Refusal::ImpossibleValue {
        sensor: "temperature".into(),
        least: -90.0,
        greatest: 200.0,
        found: 999.0,
    };
    Letter::new(&TopicPartition::new("device-data", 3), &record, &refusal)
}

fn letter(payload: &[u8]) -> Letter {
    letter_of(&message(42, Some(payload)))
}

/// With a key, a payload, and a header.
fn special(key: usize, payload: usize, header: (&str, &str)) -> Letter {
    let headers = OwnedHeaders::new().insert(Header {
        key: header.0,
        value: Some(header.1),
    });
    letter_of(&OwnedMessage::new(
        Some(vec![b'p'; payload]),
        Some(vec![b'k'; key]),
        "device-data".into(),
        Time::NotAvailable,
        3,
        42,
        Some(headers),
    ))
}

fn header(letter: &Letter, name: &str) -> Option<String> {
    let header = letter.headers.iter().find(|header| header.key == name)?;
    Some(String::from_utf8_lossy(header.value?).into_owned())
}

#[test]
fn a_letter_has_the_message_and_its_origin() {
    let letter = letter(b"payload");
    assert_eq!(letter.payload.as_deref(), Some(&b"payload"[..]));
    assert_eq!(letter.key.as_deref(), Some(&b"key"[..]));
    for (name, value) in [
        ("mqtt-topic", "a/b"),
        ("dlq-reason", "impossible_value"),
        (
            "dlq-detail",
            "the value of temperature must be from -90.0 to 200.0, not 999.0",
        ),
        ("dlq-sensor", "temperature"),
        ("dlq-topic", "device-data"),
        ("dlq-partition", "3"),
        ("dlq-offset", "42"),
    ] {
        assert_eq!(header(&letter, name).as_deref(), Some(value), "{name}");
    }
    assert!(header(&letter, "dlq-time").is_some());
    assert_eq!(header(&letter, dead_letter::SIZE), None);
}

#[test]
fn a_letter_of_a_part_lists_the_refused_readings() {
    let json = br#"{"device_id":"d","timestamp":1,"readings":[{"sensor":"a","value":1},
        {"sensor":"b,c","value":null},{"value":1}]}"#;
    let mut refused = Refused::new(Partial::Accept);
    let parsed = refused
        .parse(|list| parse_partial(json, list.unwrap()))
        .unwrap();
    refused.settle(!parsed.readings.is_empty()).unwrap();
    let message = message(42, Some(json));
    let batch = batch_of(&message);
    let record = batch.records().next().unwrap();
    let origin = TopicPartition::new("device-data", 3);
    let letter = Letter::partial(&origin, &record, refused.listed().unwrap());
    let list = r#"[{"reading":1,"sensor":"b,c","reason":"not_a_number"},{"reading":2,"reason":"missing_sensor"}]"#;
    for (name, value) in [
        ("dlq-partial", list),
        ("dlq-reason", "not_a_number"),
        (
            "dlq-detail",
            "readings[1]: value must be a number, not null",
        ),
        ("dlq-sensor", "b,c"),
        ("dlq-offset", "42"),
    ] {
        assert_eq!(header(&letter, name).as_deref(), Some(value), "{name}");
    }
    assert_eq!(letter.payload.as_deref(), Some(&json[..]));
    let whole = letter_of(&message);
    assert_eq!(header(&whole, dead_letter::PARTIAL), None);
}

#[test]
fn producers_cannot_forge_the_headers_of_the_contract() {
    for name in ["dlq-topic", "dlq-size", "dlq-anything"] {
        let letter = special(1, 1, (name, "forged"));
        let forged = letter.headers.iter().any(|h| h.value == Some(b"forged"));
        assert!(!forged, "{name}");
        assert_eq!(header(&letter, "dlq-topic").as_deref(), Some("device-data"));
    }
}

#[test]
fn large_records_are_truncated() {
    let payload = letter(&vec![7; 9 << 20]);
    assert_eq!(payload.payload.as_ref().map(Vec::len), Some(KEPT));
    assert_eq!(header(&payload, "dlq-size"), Some((9 << 20).to_string()));
    // head -c 9437184 /dev/zero | tr '\0' '\7' | sha256sum
    let digest = "108c2c561ebe9d5557ea1468799eabb7832494df0b4f3f1b51e56a3f213ee210";
    assert_eq!(header(&payload, "dlq-sha256").as_deref(), Some(digest));
    let key = special(9 << 20, 5, ("a", "b"));
    assert_eq!(key.key.as_ref().map(Vec::len), Some(KEPT_KEY));
    assert_eq!(header(&key, "dlq-size").as_deref(), Some("5"));
    let headers = special(1, 5, ("a", &"x".repeat(9 << 20)));
    assert_eq!(header(&headers, "a"), None);
    for letter in [payload, key, headers] {
        assert!(letter.truncated && letter.bytes() < MAX_RECORD - OVERHEAD);
        assert_eq!(header(&letter, "dlq-cut").as_deref(), Some("true"));
        assert_eq!(header(&letter, "dlq-offset").as_deref(), Some("42"));
        assert!(header(&letter, "dlq-detail").is_some());
    }
}

fn letters(cluster: &MockKafka) -> (DeadLetters, DeadLetterMetrics) {
    let kafka = KafkaConfig {
        brokers: vec![cluster.brokers()],
        ..KafkaConfig::default()
    };
    let metrics = DeadLetterMetrics::new(&Registrar(&Registry::new())).unwrap();
    let health = Health::default().component("dead_letter");
    let config = DeadLetterConfig::default();
    let letters = DeadLetters::new(&kafka, &config, metrics.clone(), health).unwrap();
    (letters, metrics)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn letters_stand_in_the_order_of_the_calls_whatever_is_awaited_first() {
    let cluster = MockKafka::start(&["iot.dead-letter"]);
    let (letters, _) = letters(&cluster);
    let payloads: Vec<_> = (0..50).map(|number| number.to_string()).collect();
    let delivered = payloads
        .iter()
        .map(|text| letters.deliver(letter(text.as_bytes())));
    let delivered: Vec<_> = delivered.collect();
    for delivered in delivered.into_iter().rev() {
        delivered.await;
    }
    let found = cluster.read("iot.dead-letter", payloads.len()).await;
    let found: Vec<_> = found.iter().map(|letter| letter.text()).collect();
    assert_eq!(found, payloads);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_letter_too_large_for_the_topic_is_truncated_once_and_retried() {
    let cluster = MockKafka::start(&["iot.dead-letter"]);
    let too_large = RDKafkaRespErr::RD_KAFKA_RESP_ERR_MSG_SIZE_TOO_LARGE;
    cluster.request_errors(RDKafkaApiKey::Produce, &[too_large; 3]);
    let (letters, metrics) = letters(&cluster);
    letters.deliver(letter(b"small")).await;
    assert_eq!(metrics.written.get(), 1);
    assert_eq!(metrics.truncated.get(), 1);
    assert_eq!(
        metrics.retries.get(),
        2,
        "the first rejection truncated the letter"
    );
}
