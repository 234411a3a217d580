//! What readiness says when Kafka refuses the group or a topic to the consumer.

use rdkafka::types::{RDKafkaApiKey, RDKafkaRespErr};
use testkit::wait_for;

use crate::service::{Kafka, Service, config, message, now};

/// Waits until the consumer is not ready for a reason with that text.
async fn wait_reason(service: &Service, part: &str) {
    wait_for(part, async || {
        let (status, report) = service.readyz().await;
        let reason = report["components"]["kafka"]["reason"].as_str()?.to_owned();
        (status == 503 && reason.contains(part)).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_error_of_the_group_is_the_reason_until_the_consumer_has_joined() {
    for (error, name, advice) in [
        (
            RDKafkaRespErr::RD_KAFKA_RESP_ERR_INCONSISTENT_GROUP_PROTOCOL,
            "INCONSISTENT_GROUP_PROTOCOL",
            "cooperative-sticky",
        ),
        (
            RDKafkaRespErr::RD_KAFKA_RESP_ERR_INVALID_SESSION_TIMEOUT,
            "INVALID_SESSION_TIMEOUT",
            "kafka.session_timeout",
        ),
        (
            RDKafkaRespErr::RD_KAFKA_RESP_ERR_GROUP_AUTHORIZATION_FAILED,
            "GROUP_AUTHORIZATION_FAILED",
            "READ on the group",
        ),
        (
            RDKafkaRespErr::RD_KAFKA_RESP_ERR_GROUP_MAX_SIZE_REACHED,
            "GROUP_MAX_SIZE_REACHED",
            "group.max.size",
        ),
    ] {
        let kafka = Kafka::new(&["device-data"]);
        kafka.request_errors(RDKafkaApiKey::JoinGroup, &[error; 1_000]);
        let service = Service::start(config(&kafka.brokers())).await;
        wait_reason(&service, name).await;
        wait_reason(&service, advice).await;
        kafka.clear_request_errors(RDKafkaApiKey::JoinGroup);
        service.wait_ready().await;
        service.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_missing_coordinator_is_the_reason_until_it_is_back() {
    let kafka = Kafka::new(&["device-data"]);
    let error = RDKafkaRespErr::RD_KAFKA_RESP_ERR_COORDINATOR_NOT_AVAILABLE;
    kafka.request_errors(RDKafkaApiKey::FindCoordinator, &[error; 1_000]);
    let service = Service::start(config(&kafka.brokers())).await;
    wait_reason(&service, "no coordinator of the group").await;
    kafka.clear_request_errors(RDKafkaApiKey::FindCoordinator);
    service.wait_ready().await;
    service.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_topic_that_may_not_be_read_is_the_reason_until_it_may() {
    let kafka = Kafka::new(&["device-data"]);
    let error = RDKafkaRespErr::RD_KAFKA_RESP_ERR_TOPIC_AUTHORIZATION_FAILED;
    kafka.topic_error("device-data", error).unwrap();
    let service = Service::start(config(&kafka.brokers())).await;
    let reason = "topic device-data cannot be read: TOPIC_AUTHORIZATION_FAILED";
    wait_reason(&service, reason).await;
    let none = RDKafkaRespErr::RD_KAFKA_RESP_ERR_NO_ERROR;
    kafka.topic_error("device-data", none).unwrap();
    service.wait_ready().await;
    kafka
        .send("device-data", message("d", now(), "temperature", 20.0))
        .await;
    service.wait_consumed(1).await;
    service.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_topic_that_may_not_be_read_beside_another_is_shown_until_it_may() {
    let kafka = Kafka::new(&["device-data", "other"]);
    let error = RDKafkaRespErr::RD_KAFKA_RESP_ERR_TOPIC_AUTHORIZATION_FAILED;
    kafka.topic_error("other", error).unwrap();
    let mut config = config(&kafka.brokers());
    config.kafka.topics = vec!["device-data".into(), "other".into()];
    let service = Service::start(config).await;
    wait_for("the topic to be shown", async || {
        let (status, report) = service.readyz().await;
        let kafka = &report["components"]["kafka"];
        let reason = kafka["reason"].as_str()?;
        let names = reason.starts_with("topic other cannot be read: TOPIC_AUTHORIZATION_FAILED");
        (status == 200 && kafka["state"] == "degraded" && names).then_some(())
    })
    .await;
    let none = RDKafkaRespErr::RD_KAFKA_RESP_ERR_NO_ERROR;
    kafka.topic_error("other", none).unwrap();
    wait_for("it to be over", async || {
        let (_, report) = service.readyz().await;
        (report["components"]["kafka"]["state"] == "ready").then_some(())
    })
    .await;
    service.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_consumer_that_is_fenced_by_its_own_new_membership_joins_again() {
    let kafka = Kafka::new(&["device-data"]);
    let mut config = config(&kafka.brokers());
    config.kafka.group_instance_id = "a".into();
    let service = Service::start(config).await;
    service.wait_ready().await;
    // The group forgets the member, which joins again; then a commit is refused, as if it were
    // that of the former membership. The mock cluster does not survive it before.
    let unknown = RDKafkaRespErr::RD_KAFKA_RESP_ERR_UNKNOWN_MEMBER_ID;
    kafka.request_errors(RDKafkaApiKey::Heartbeat, &[unknown]);
    let lost = r#"kafka_consumer_rebalances_total{event="lost"}"#;
    service.wait_metric(lost, 1.0).await;
    let joined = r#"kafka_consumer_rebalances_total{event="assigned"}"#;
    service.wait_metric(joined, 2.0).await;
    let fenced = RDKafkaRespErr::RD_KAFKA_RESP_ERR_FENCED_INSTANCE_ID;
    kafka.request_errors(RDKafkaApiKey::OffsetCommit, &[fenced]);
    let send = async |at| {
        let message = message("d", at, "temperature", 20.0);
        kafka.send("device-data", message).await;
    };
    let mut sent = 0;
    // Each message leads to a commit, of which the first is refused.
    wait_for("a third membership", async || {
        send(now() + sent).await;
        sent += 1;
        (service.metric(joined).await? >= 3.0).then_some(())
    })
    .await;
    service.wait_ready().await;
    service.wait_consumed(sent as u64).await;
    service.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_fenced_consumer_ends_and_says_which_setting_to_change() {
    let kafka = Kafka::new(&["device-data"]);
    let error = RDKafkaRespErr::RD_KAFKA_RESP_ERR_FENCED_INSTANCE_ID;
    kafka.request_errors(RDKafkaApiKey::JoinGroup, &[error]);
    let mut config = config(&kafka.brokers());
    config.kafka.group_instance_id = "a".into();
    let error = Service::start(config).await.failure().await;
    assert!(error.contains("FENCED_INSTANCE_ID"), "{error}");
    assert!(error.contains("kafka.group_instance_id"), "{error}");
}
