//! Names of the headers on Kafka records. Those of dead letters are in
//! [`dead_letter`](crate::dead_letter).

/// MQTT topic that a bridged message was published to, UTF-8.
pub const MQTT_TOPIC: &str = "mqtt-topic";
/// QoS the message was received with: `0`, `1` or `2`.
pub const MQTT_QOS: &str = "mqtt-qos";
/// Retain flag of the message: `true` or `false`.
pub const MQTT_RETAIN: &str = "mqtt-retain";
/// When the bridge received the message, milliseconds since the epoch, decimal.
pub const MQTT_RECEIVED_AT: &str = "mqtt-received-at";
/// Message expiry interval that was left when the bridge received the message (MQTT 5,
/// 3.3.2.3.3), seconds, decimal.
pub const MQTT_MESSAGE_EXPIRY: &str = "mqtt-message-expiry";
/// MQTT topic for a response (MQTT 5, 3.3.2.3.5), UTF-8.
pub const MQTT_RESPONSE_TOPIC: &str = "mqtt-response-topic";
/// What the response has to repeat (MQTT 5, 3.3.2.3.6), bytes.
pub const MQTT_CORRELATION_DATA: &str = "mqtt-correlation-data";

/// Identifies one delivery of a message by MQTT, to distinguish a redelivery from another
/// message with the same content: session, number, packet identifier and hash, 34 bytes,
/// big endian.
pub const MQTT_DELIVERY: &str = "mqtt-delivery";

/// True label of a simulated anomaly, such as `temperature=spike`; several are separated by
/// commas. Never part of the payload, so that a detector can be scored against it.
pub const LABEL: &str = "iot-label";
/// Media type of the payload, such as [`APPLICATION_JSON`].
pub const CONTENT_TYPE: &str = "content-type";
/// Value of [`CONTENT_TYPE`] for JSON.
pub const APPLICATION_JSON: &str = "application/json";
/// Value of [`CONTENT_TYPE`] for Protobuf.
pub const APPLICATION_PROTOBUF: &str = "application/protobuf";

/// Compacted topic in which each bridge session records how far it has numbered its
/// deliveries.
pub const BRIDGE_SESSIONS_TOPIC: &str = "iot.bridge-sessions";
