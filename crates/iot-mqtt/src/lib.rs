//! The client's side of MQTT 5 and 3.1.1: packets, connections, TLS and
//! addresses. The bridge, the simulator and the ledger speak MQTT through this
//! crate and through nothing else.
//!
//! A session (what is subscribed to, what is in flight, when to ping and when to
//! reconnect) is different in each of them and stays with its owner. What they
//! share is here:
//!
//! | type | what it does |
//! |---|---|
//! | [`MqttUrl`] | the address of a broker |
//! | [`TlsConfig`] | section `mqtt.tls` of a configuration |
//! | [`MqttStream`] | a TCP or TLS connection to a broker |
//! | [`Connection`] | such a stream after CONNECT and CONNACK, with what the broker [granted](Granted) |
//! | [`Reader`] | bytes from the broker to [`Packet`]s |
//! | [`Writer`] | packets to bytes for the broker |
//!
//! [`Connection::open`] connects and returns the parts that a session is made of:
//!
//! ```no_run
//! # use std::time::Duration;
//! use iot_mqtt::{Connect, Connection, Packet, Protocol, QoS, TlsConfig};
//!
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! let broker = "mqtt://localhost:1883".parse()?;
//! let connect = Connect {
//!     client_id: "example".into(),
//!     clean_start: true,
//!     keep_alive: 60,
//!     ..Connect::default()
//! };
//! let deadline = Duration::from_secs(10);
//! let tls = TlsConfig::default();
//! let Connection { mut stream, mut reader, mut writer, .. } =
//!     Connection::open(&broker, &tls, Protocol::V5, &connect, deadline).await?;
//! writer.subscribe(1, &["sensors/#".into()], QoS::AtLeastOnce);
//! loop {
//!     writer.flush(&mut stream).await?;
//!     if let Packet::Publish(message) = reader.receive(&mut stream).await? {
//!         writer.acknowledge(message.pkid, message.qos);
//!     }
//! }
//! # }
//! ```
//!
//! # Versions
//!
//! Both [versions](Protocol) of the protocol read as the same packets: what MQTT
//! 3.1.1 does not have (properties, reasons) is absent.
//!
//! # Limits
//!
//! - A [frame](MAX_FRAME) takes at most 8.25 MiB of memory. A larger message is read as
//!   [`Oversize`], with the first 64 KiB of its payload ([`KEPT`]), its size and its
//!   SHA-256; any other larger packet is [malformed](Malformed).
//! - Texts (topics, filters, client ids) have at most 65,535 bytes (MQTT 5, section 1.5.4).
//! - A connection ends with a [`ConnectionError`] on the first malformed packet.
//!
//! # rumqttc
//!
//! The rare packets are read and written by the codec of [`rumqttc`], and its types are
//! used for them. Its event loop is not used (docs/decisions/0003-mqtt-session.md).

mod codec;
mod dial;
mod error;
mod handshake;
mod protocol;
mod stream;
mod tls;
mod url;

pub use codec::{
    Defective, KEPT, MAX_FRAME, Malformed, Oversize, Packet, Reader, WriteError, Writer,
};
pub use dial::Unreachable;
pub use error::{ConnectionError, Explanation};
pub use handshake::{Connect, Connection, Granted, HandshakeError, Login};
pub use protocol::{FILTERS_PER_REQUEST, Protocol};
pub use rumqttc::v5::mqttbytes::v5::{
    ConnAck, ConnectReturnCode, DisconnectReasonCode, PubAck, PubAckReason, PubRec, PubRecReason,
    Publish, PublishProperties, SubAck, SubscribeReasonCode, UnsubAck, UnsubAckReason,
};
pub use rumqttc::v5::mqttbytes::{QoS, valid_filter};
pub use stream::{ConnectError, MqttStream};
pub use tls::{TlsConfig, TlsError};
pub use url::{MqttUrl, MqttUrlError};
