//! From an address to a connection that the broker has accepted.

use std::fmt;
use std::time::Duration;

use rumqttc::v5::mqttbytes::v5::{ConnAck, ConnectReturnCode};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::timeout_at;

use crate::dial::Deadline;
use crate::{
    ConnectError, ConnectionError, Explanation, MqttStream, MqttUrl, Packet, Protocol, Reader,
    TlsConfig, WriteError, Writer,
};

/// What a CONNECT says (MQTT 5, section 3.1).
#[derive(Debug, Clone, Default)]
pub struct Connect {
    /// Names the session at the broker.
    pub client_id: String,
    /// Whether the broker drops an earlier session.
    pub clean_start: bool,
    /// Who logs in, if anyone.
    pub login: Option<Login>,
    /// Seconds without a packet after which the broker closes the connection; 0: never.
    pub keep_alive: u16,
    /// Seconds for which the broker keeps the session without a connection. Without
    /// it the session ends with the connection. MQTT 5 only.
    pub session_expiry: Option<u32>,
    /// Unacknowledged messages that the broker may send, 65,535 without it. MQTT 5 only.
    pub receive_maximum: Option<u16>,
}

/// User name and password.
#[derive(Clone, PartialEq, Eq)]
pub struct Login {
    /// User name.
    pub username: String,
    /// Password.
    pub password: String,
}

impl fmt::Debug for Login {
    /// Without the password, which must not get into logs.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Login")
            .field("username", &self.username)
            .finish_non_exhaustive()
    }
}

/// What the broker grants in its CONNACK (MQTT 5, section 3.2.2.3). Where it says
/// nothing, and always with MQTT 3.1.1, there are no limits but those of the protocol.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Granted {
    /// Unacknowledged messages that it accepts; not how many it sends.
    pub receive_maximum: Option<u16>,
    /// The largest packet that it accepts, bytes.
    pub maximum_packet_size: Option<u32>,
    /// How long it keeps the session, if not as long as asked for.
    pub session_expiry: Option<Duration>,
    /// The keep-alive that replaces the one asked for; zero: none.
    pub keep_alive: Option<Duration>,
    /// Whether it has shared subscriptions.
    pub shared_subscriptions: Option<bool>,
    /// Whether filters may have wildcards.
    pub wildcard_subscriptions: Option<bool>,
    /// The highest quality of service that it accepts.
    pub maximum_qos: Option<u8>,
}

impl From<&ConnAck> for Granted {
    fn from(ack: &ConnAck) -> Self {
        let Some(said) = &ack.properties else {
            return Self::default();
        };
        Self {
            receive_maximum: said.receive_max,
            maximum_packet_size: said.max_packet_size,
            session_expiry: said
                .session_expiry_interval
                .map(|seconds| Duration::from_secs(seconds.into())),
            keep_alive: said
                .server_keep_alive
                .map(|seconds| Duration::from_secs(seconds.into())),
            shared_subscriptions: said.shared_subscription_available.map(|on| on != 0),
            wildcard_subscriptions: said.wildcard_subscription_available.map(|on| on != 0),
            maximum_qos: said.max_qos,
        }
    }
}

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub enum HandshakeError {
    /// TCP or TLS failed.
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// No CONNACK arrived in time.
    #[error("no answer within {} s", .0.as_secs_f64())]
    Timeout(Duration),
    /// The broker closed the connection after CONNECT, as some do that do not know
    /// the version of MQTT.
    #[error("the broker closed the connection without an answer to CONNECT")]
    Unanswered,
    /// The broker does not support this version of MQTT.
    #[error("the broker does not support MQTT {0}")]
    Version(Protocol),
    /// The broker refused the connection with this reason.
    #[error("the broker refused the connection: {reason:?}{explanation}")]
    Refused {
        /// Its reason code.
        reason: ConnectReturnCode,
        /// What it adds to that.
        explanation: Explanation,
    },
    /// The connection ended before a CONNACK.
    #[error(transparent)]
    Connection(#[from] ConnectionError),
    /// CONNECT can't be written as asked for.
    #[error(transparent)]
    Write(#[from] WriteError),
}

/// A connection that the broker has accepted, in the parts that a session is made of.
#[derive(Debug)]
pub struct Connection<S = MqttStream> {
    /// The bytes to and from the broker.
    pub stream: S,
    /// Reads packets from `stream`; has what arrived behind the CONNACK.
    pub reader: Reader,
    /// Writes packets to `stream`.
    pub writer: Writer,
    /// Whether the broker kept the session of an earlier connection.
    pub session_present: bool,
    /// The broker's limits.
    pub granted: Granted,
}

impl Connection {
    /// Connects to `broker`, TLS and CONNACK included, within `deadline`. `tls` is
    /// used only if the address asks for it.
    ///
    /// # Errors
    /// When the broker does not answer or does not accept the connection.
    pub async fn open(
        broker: &MqttUrl,
        tls: &TlsConfig,
        protocol: Protocol,
        connect: &Connect,
        deadline: Duration,
    ) -> Result<Self, HandshakeError> {
        // One deadline for all steps, each of which says what it waited for.
        let deadline = Deadline::after(deadline);
        let stream = MqttStream::connect_by(broker, tls, deadline).await?;
        let handshake = Self::handshake(stream, protocol, connect);
        let opened = timeout_at(deadline.at, handshake).await;
        opened.unwrap_or(Err(HandshakeError::Timeout(deadline.within)))
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> Connection<S> {
    /// Sends CONNECT over `stream` and waits for CONNACK, without a deadline.
    ///
    /// # Errors
    /// When the broker does not accept the connection.
    pub async fn handshake(
        mut stream: S,
        protocol: Protocol,
        connect: &Connect,
    ) -> Result<Self, HandshakeError> {
        let (mut reader, mut writer) = (Reader::new(protocol), Writer::new(protocol));
        writer.connect(connect)?;
        writer.flush(&mut stream).await?;
        let ack = match reader.receive(&mut stream).await {
            Ok(Packet::ConnAck(ack)) => ack,
            Ok(other) => return Err(ConnectionError::Unexpected(other.name()).into()),
            Err(ConnectionError::Closed) => return Err(HandshakeError::Unanswered),
            Err(error) => return Err(error.into()),
        };
        match ack.code {
            ConnectReturnCode::Success => {}
            ConnectReturnCode::RefusedProtocolVersion
            | ConnectReturnCode::UnsupportedProtocolVersion => {
                return Err(HandshakeError::Version(protocol));
            }
            reason => {
                let said = ack.properties;
                let explanation = said.map_or_else(Explanation::default, |said| Explanation {
                    text: said.reason_string,
                    server: said.server_reference,
                });
                return Err(HandshakeError::Refused {
                    reason,
                    explanation,
                });
            }
        }
        let granted = Granted::from(&ack);
        writer.set_max_packet_size(granted.maximum_packet_size);
        Ok(Self {
            stream,
            reader,
            writer,
            session_present: ack.session_present,
            granted,
        })
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};

    use super::*;

    /// What comes of a handshake with a broker that answers with `answer`.
    async fn handshake(
        protocol: Protocol,
        answer: &[u8],
    ) -> Result<Connection<DuplexStream>, String> {
        let (own, mut broker) = duplex(1000);
        let connect = Connect::default();
        let shaking = Connection::handshake(own, protocol, &connect);
        let answering = async move {
            assert_ne!(broker.read_buf(&mut Vec::new()).await.unwrap(), 0);
            broker.write_all(answer).await.unwrap();
            broker.shutdown().await.unwrap();
            broker
        };
        let (shaken, _) = tokio::join!(shaking, answering);
        shaken.map_err(|error| error.to_string())
    }

    #[tokio::test]
    async fn an_accepted_connection_has_the_grants_and_what_follows_them() {
        let ack = [
            0x20, 9, 1, 0, 6, // session present, success
            33, 0, 100, // Receive Maximum
            19, 0, 7, // Server Keep Alive
        ];
        let answer = [&ack[..], &[0xD0, 0]].concat();
        let mut connection = handshake(Protocol::V5, &answer).await.unwrap();
        assert!(connection.session_present);
        let granted = Granted {
            receive_maximum: Some(100),
            keep_alive: Some(Duration::from_secs(7)),
            ..Granted::default()
        };
        assert_eq!(connection.granted, granted);
        assert_eq!(connection.reader.packet().unwrap(), Some(Packet::PingResp));
    }

    #[tokio::test]
    async fn a_refusal_has_a_reason() {
        let not_authorized = "the broker refused the connection: NotAuthorized";
        for (protocol, answer, expected) in [
            (Protocol::V5, &[0x20, 3, 0, 0x87, 0][..], not_authorized),
            (Protocol::V311, &[0x20, 2, 0, 5], not_authorized),
            (
                Protocol::V5,
                &[0x20, 2, 0, 1],
                "the broker does not support MQTT 5",
            ),
            (
                Protocol::V5,
                &[0x20, 3, 0, 0x84, 0],
                "the broker does not support MQTT 5",
            ),
            (
                Protocol::V5,
                &[0x20, 11, 0, 0x8A, 8, 0x1F, 0, 1, b'x', 0x1C, 0, 1, b'y'],
                r#"the broker refused the connection: Banned ("x") (it refers to the server "y")"#,
            ),
            (
                Protocol::V5,
                &[0xE0, 1, 0x89],
                "the broker ended the connection: ServerBusy",
            ),
            (
                Protocol::V5,
                &[
                    0xE0, 12, 0x9C, 10, 0x1F, 0, 3, b'b', 0xF6, b'z', 0x1C, 0, 1, b'y',
                ],
                "the broker ended the connection: UseAnotherServer (\"b\u{FFFD}z\") (it refers to the server \"y\")",
            ),
            (
                Protocol::V311,
                &[],
                "the broker closed the connection without an answer to CONNECT",
            ),
            (
                Protocol::V5,
                &[0xD0, 0],
                "the broker sent an unexpected PINGRESP",
            ),
        ] {
            let error = handshake(protocol, answer).await.expect_err(expected);
            assert_eq!(error, expected);
        }
    }

    #[tokio::test]
    async fn messages_larger_than_the_broker_accepts_are_not_queued() {
        let ack = [0x20, 8, 0, 0, 5, 39, 0, 0, 0, 20];
        let mut connection = handshake(Protocol::V5, &ack).await.unwrap();
        let publish = |size| {
            let payload = vec![0; size];
            crate::Publish::new("a/b", crate::QoS::AtMostOnce, payload, None)
        };
        // Two bytes of header, two of the topic's length, three of topic, one of properties.
        connection.writer.publish(&publish(12)).unwrap();
        assert_eq!(connection.writer.queued_bytes(), 20);
        let error = connection.writer.publish(&publish(13)).unwrap_err();
        assert!(
            matches!(
                error,
                WriteError::TooLarge {
                    size: 21,
                    limit: 20
                }
            ),
            "{error}"
        );
        assert_eq!(connection.writer.queued_bytes(), 20);
    }

    #[test]
    fn a_password_is_not_shown() {
        let login = Login {
            username: "bridge".into(),
            password: "secret".into(),
        };
        let shown = format!("{login:?}");
        assert!(
            shown.contains("bridge") && !shown.contains("secret"),
            "{shown}"
        );
    }
}
