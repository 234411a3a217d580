//! A log that is damaged on Kafka's disk.

use testkit::kafka::create_topic;
use testkit::stack::{OwnStack, unique};

use crate::support::{Way, produce_to};

const CONSUMED: &str = "kafka_consumer_messages_consumed_total";

#[tokio::test]
#[ignore = "needs the stack"]
async fn a_damaged_batch_is_reported_and_other_partitions_continue() {
    let stack = OwnStack::up().await;
    let mut way = Way::new("damage");
    way.kafka_brokers = stack.variable("KAFKA_BROKERS");
    let messages = ["d0", "d1", "d2"].map(|device| {
        let rest = r#""timestamp":1767225600,"temperature":20.5}"#;
        format!(r#"{{"deviceId":"{device}",{rest}"#).into_bytes()
    });
    let (damaged, sound) = (unique("damaged"), unique("sound"));
    for topic in [&damaged, &sound] {
        create_topic(&way.kafka_brokers, topic, 1).await;
        produce_to(&way.kafka_brokers, topic, &messages).await;
    }
    let first_segment = format!("kafka/{damaged}-0/00000000000000000000.log");
    let log = stack.dir().join(first_segment);
    let good = std::fs::read(&log).unwrap();
    let mut bad = good.clone();
    let place = bad.windows(4).position(|bytes| bytes == b"\"d1\"").unwrap();
    bad[place + 1] = b'D';
    std::fs::write(&log, &bad).unwrap();

    let mut consumer = way.consumer(&format!("{damaged},{sound}"));
    let reason = format!(
        "{damaged}, partition 0 is not read: the batch at offset 1 can't be read: checksum mismatch"
    );
    consumer.not_ready_because(&[("kafka", &reason)]).await;
    // The one before it, and all of the other topic.
    assert_eq!(consumer.metric(CONSUMED).await, Ok(4.0));

    std::fs::write(&log, &good).unwrap();
    consumer.metric_reaches(CONSUMED, 6.0).await;
    consumer.ready().await;
    assert_eq!(consumer.metric(CONSUMED).await, Ok(6.0));
    assert_eq!(consumer.process.stop().await, Some(0));
}
