//! Metrics of the API and of its clients.

use iot_service::metrics::Registrar;
use iot_service::server;
use prometheus::{IntCounter, IntCounterVec, IntGauge};

use crate::protocol::codes;

/// Why a client left.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Leave {
    /// It closed the connection, or the connection broke.
    Client,
    /// It could not keep up.
    Slow,
    /// It stopped answering pings.
    Silent,
    /// It sent something that is not of the protocol.
    Malformed,
    /// It sent no connect request.
    NoConnect,
    /// The subscription of an event stream was ended: it begins again.
    Resync,
    /// Its token has expired.
    Expired,
    /// The service stops.
    Shutdown,
}

impl Leave {
    const ALL: [Self; 8] = [
        Self::Client,
        Self::Slow,
        Self::Silent,
        Self::Malformed,
        Self::NoConnect,
        Self::Resync,
        Self::Expired,
        Self::Shutdown,
    ];

    fn label(self) -> &'static str {
        match self {
            Self::Client => "client",
            Self::Slow => "slow",
            Self::Silent => "silent",
            Self::Malformed => "malformed",
            Self::NoConnect => "no_connect",
            Self::Resync => "resync",
            Self::Expired => "expired",
            Self::Shutdown => "shutdown",
        }
    }

    /// The reason that a close code stands for.
    pub(crate) fn by_code(code: u16) -> Self {
        match code {
            codes::SLOW => Self::Slow,
            codes::NO_PONG => Self::Silent,
            codes::EXPIRED => Self::Expired,
            codes::NO_CONNECT => Self::NoConnect,
            codes::BAD_FRAME | codes::PROTOCOL_ERROR => Self::Malformed,
            _ => Self::Shutdown,
        }
    }
}

/// How a client is connected.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Transport {
    /// By WebSocket.
    WebSocket,
    /// By Server-Sent Events.
    EventStream,
}

/// What the API counts. Clones share the metrics.
#[derive(Debug, Clone)]
pub struct HttpMetrics {
    pub(crate) web_sockets: SessionMetrics,
    pub(crate) event_streams: SessionMetrics,
    /// Connected clients of both kinds.
    pub clients: IntGauge,
    /// Connections that the listener refused.
    pub(super) refused: IntCounter,
}

impl HttpMetrics {
    /// Registers them; labels of a fixed set start at zero.
    ///
    /// # Errors
    /// A name is taken.
    pub fn new(registrar: &Registrar<'_>) -> prometheus::Result<Self> {
        let closed = registrar.counters(
            "iot_websocket_closed_total",
            "Clients that left, by reason and kind of connection",
            &["reason", "connection"],
        )?;
        let messages = registrar.counters(
            "iot_push_messages_total",
            "WebSocket messages and events written to clients",
            &["connection"],
        )?;
        let bytes = registrar.counters(
            "iot_push_sent_bytes_total",
            "Bytes of WebSocket messages and events written to clients",
            &["connection"],
        )?;
        let commands_refused = registrar.counters(
            "iot_push_commands_refused_total",
            "Requests of clients answered with an error, by code",
            &["code"],
        )?;
        for code in codes::ERRORS {
            commands_refused.with_label_values(&[code.to_string()]);
        }
        let of = |transport| {
            SessionMetrics::new(transport, &closed, &messages, &bytes, &commands_refused)
        };
        Ok(Self {
            web_sockets: of(Transport::WebSocket),
            event_streams: of(Transport::EventStream),
            clients: registrar.int_gauge(
                "iot_websocket_clients",
                "Connected clients (WebSocket and Server-Sent Events)",
            )?,
            refused: server::refused("http", registrar.0),
        })
    }
}

/// What clients of one kind of connection count.
#[derive(Debug, Clone)]
pub(crate) struct SessionMetrics {
    transport: &'static str,
    closed: IntCounterVec,
    messages: IntCounter,
    bytes: IntCounter,
    refused: IntCounterVec,
}

impl SessionMetrics {
    fn new(
        transport: Transport,
        closed: &IntCounterVec,
        messages: &IntCounterVec,
        bytes: &IntCounterVec,
        refused: &IntCounterVec,
    ) -> Self {
        let transport = match transport {
            Transport::WebSocket => "websocket",
            Transport::EventStream => "sse",
        };
        for leave in Leave::ALL {
            closed.with_label_values(&[leave.label(), transport]);
        }
        Self {
            transport,
            closed: closed.clone(),
            messages: messages.with_label_values(&[transport]),
            bytes: bytes.with_label_values(&[transport]),
            refused: refused.clone(),
        }
    }

    pub(crate) fn left(&self, leave: Leave) {
        self.closed
            .with_label_values(&[leave.label(), self.transport])
            .inc();
    }

    /// Counts a message of so many bytes.
    pub(crate) fn sent(&self, bytes: usize) {
        self.messages.inc();
        self.bytes.inc_by(bytes as u64);
    }

    /// Counts a request that is answered with this code.
    pub(crate) fn refused(&self, code: u32) {
        self.refused.with_label_values(&[code.to_string()]).inc();
    }
}
