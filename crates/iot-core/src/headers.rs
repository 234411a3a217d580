//! Names of the headers on Kafka records, and of the topic for dead letters.

/// MQTT topic that a bridged message was published to, UTF-8.
pub const MQTT_TOPIC: &str = "mqtt-topic";
/// QoS the message was received with: `0`, `1` or `2`.
pub const MQTT_QOS: &str = "mqtt-qos";
/// Retain flag of the message: `true` or `false`.
pub const MQTT_RETAIN: &str = "mqtt-retain";
/// When the bridge received the message, milliseconds since the epoch, decimal.
pub const MQTT_RECEIVED_AT: &str = "mqtt-received-at";

/// Tells two deliveries of a message by MQTT from two messages: 34 bytes of
/// which session, number, packet identifier and hash are made, big endian.
pub const MQTT_DELIVERY: &str = "mqtt-delivery";

/// Why a message is a dead letter: one of the short reasons such as
/// [`ParseError::reason`](crate::message::ParseError::reason) or
/// [`RouteError::reason`](crate::route::RouteError::reason).
pub const DLQ_REASON: &str = "dlq-reason";
/// Kafka topic the dead letter was read from, or the MQTT topic it came from.
pub const DLQ_TOPIC: &str = "dlq-topic";
/// Partition the dead letter was read from, decimal.
pub const DLQ_PARTITION: &str = "dlq-partition";
/// Offset the dead letter was read from, decimal.
pub const DLQ_OFFSET: &str = "dlq-offset";
/// When the message was received, or given up, milliseconds since the epoch,
/// decimal.
pub const DLQ_TIME: &str = "dlq-time";

/// True label of a simulated anomaly, such as `temperature=spike`; several are
/// separated by commas. Never part of the payload, so that a detector can be
/// scored against it.
pub const LABEL: &str = "iot-label";
/// Media type of the payload, such as [`APPLICATION_JSON`].
pub const CONTENT_TYPE: &str = "content-type";
/// Value of [`CONTENT_TYPE`] for JSON.
pub const APPLICATION_JSON: &str = "application/json";
/// The same for Protobuf.
pub const APPLICATION_PROTOBUF: &str = "application/protobuf";

/// Topic that takes every message no service could use.
pub const DEAD_LETTER_TOPIC: &str = "iot.dead-letter";

/// Topic in which every bridge notes how far it numbered its deliveries.
pub const BRIDGE_SESSIONS_TOPIC: &str = "iot.bridge-sessions";
