//! Best effort on a real Kafka: it confirms less, and order is still kept.

use iot_bridge::{Acks, DeliveryGuarantee};
use testkit::kafka::read;
use testkit::mqtt_broker::Broker;
use testkit::stack::{kafka_brokers, unique};

use crate::{Bridge, TOPIC};

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the stack"]
async fn fewer_acks_deliver_in_order() {
    for (name, acks) in [("leader", Acks::One), ("nobody", Acks::Zero)] {
        let (broker, tenant) = (Broker::start().await, unique(name));
        let bridge = Bridge::start(broker.address(), &kafka_brokers(), |config| {
            config.topics.create = true;
            config.kafka.delivery = DeliveryGuarantee::BestEffort;
            config.kafka.acks = acks;
        })
        .await;
        let mut peer = broker.accept_subscribed(false).await;
        let topic = TOPIC.replace("tenant123", &tenant);
        for id in 1..=100u16 {
            peer.publish(id, &topic, id.to_string().as_bytes()).await;
        }
        let all: Vec<u16> = (1..=100).collect();
        assert_eq!(peer.acknowledgements(100).await, all);
        let records = read(&kafka_brokers(), &format!("{tenant}.project456"), 100).await;
        let numbers = records.iter().map(|record| record.text().parse().unwrap());
        assert_eq!(numbers.collect::<Vec<u16>>(), all, "{acks}");
        bridge.stop().await;
    }
}
