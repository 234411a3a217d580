//! Streams of bytes to and from brokers, in the clear or with TLS.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::timeout_at;
use tokio_rustls::client::TlsStream;

use crate::dial::{Deadline, dial};
use crate::{MqttUrl, TlsConfig, TlsError, Unreachable, tls};

/// Why there is no stream.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// The system did not resolve the name in time.
    #[error("{host} was not resolved within {} s", within.as_secs_f64())]
    Resolve {
        /// The name.
        host: String,
        /// The deadline.
        within: Duration,
    },
    /// None of the name's addresses accepted a connection.
    #[error(transparent)]
    Unreachable(#[from] Unreachable),
    /// The TLS handshake was not answered in time.
    #[error("no answer within {} s", .0.as_secs_f64())]
    Timeout(Duration),
    /// TCP or TLS failed.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// The settings of TLS can't be used.
    #[error(transparent)]
    Tls(#[from] TlsError),
}

/// A connection to a broker. Reads and writes are independent of each other:
/// one can wait while the other is not polled.
#[derive(Debug)]
pub enum MqttStream {
    /// In the clear.
    Plain(TcpStream),
    /// With TLS.
    Tls(Box<TlsStream<TcpStream>>),
}

impl MqttStream {
    /// Connects to `broker`, TLS handshake included, within `deadline`. Of several
    /// addresses the first that answers is used (RFC 8305). The files of `tls` are read
    /// again every time, so that certificates can be replaced.
    ///
    /// # Errors
    /// When there is no connection; the message names every address that was tried, or
    /// says what to do about a certificate that is not accepted.
    pub async fn connect(
        broker: &MqttUrl,
        tls: &TlsConfig,
        deadline: Duration,
    ) -> Result<Self, ConnectError> {
        Self::connect_by(broker, tls, Deadline::after(deadline)).await
    }

    pub(crate) async fn connect_by(
        broker: &MqttUrl,
        tls: &TlsConfig,
        deadline: Deadline,
    ) -> Result<Self, ConnectError> {
        let stream = dial(&broker.host, broker.port, deadline).await?;
        stream.set_nodelay(true)?;
        if !broker.tls {
            return Ok(Self::Plain(stream));
        }
        let encrypted = timeout_at(deadline.at, Self::encrypt(stream, broker, tls)).await;
        encrypted.unwrap_or(Err(ConnectError::Timeout(deadline.within)))
    }

    async fn encrypt(
        stream: TcpStream,
        broker: &MqttUrl,
        tls: &TlsConfig,
    ) -> Result<Self, ConnectError> {
        let (connector, name) = tls.connector(&broker.host).await?;
        let stream = connector
            .connect(name, stream)
            .await
            .map_err(tls::explain)?;
        Ok(Self::Tls(Box::new(stream)))
    }
}

impl AsyncRead for MqttStream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_read(cx, buf),
            Self::Tls(stream) => match Pin::new(stream).poll_read(cx, buf) {
                // Some brokers close without close_notify, which is an ordinary end here: a
                // truncated stream is noticed, because MQTT packets carry their length.
                Poll::Ready(Err(error)) if error.kind() == io::ErrorKind::UnexpectedEof => {
                    Poll::Ready(Ok(()))
                }
                read => read.map_err(tls::explain),
            },
        }
    }
}

impl AsyncWrite for MqttStream {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_write(cx, buf),
            Self::Tls(stream) => Pin::new(stream).poll_write(cx, buf).map_err(tls::explain),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_flush(cx),
            Self::Tls(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Tls(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}
