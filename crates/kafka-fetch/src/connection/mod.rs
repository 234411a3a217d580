//! A connection to a broker: encrypted and logged in where that is wanted, with one request
//! in flight at a time.

mod sasl;
mod transport;

use std::time::Duration;

use bytes::Buf;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::timeout;

use crate::protocol::api_versions::{ApiVersions, ApiVersionsRequest};
use crate::protocol::primitives::Malformed;
use crate::protocol::{self, ApiKey, ErrorCode, Request};
use crate::settings::{BoxError, Settings};
use transport::Stream;

/// How long connecting may take in all: TCP, TLS, versions and login.
const OPEN: Duration = Duration::from_secs(5);
/// How long nothing may come of a response, besides the time that the broker may wait.
const SILENCE: Duration = Duration::from_secs(5);
/// A longer response is none.
const MAX_RESPONSE: usize = 256 << 20;
/// Memory that is reserved for a response by its length alone, and kept for the next one.
const KEPT: usize = 16 << 20;

/// Why a broker can't be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConnectionError {
    /// The connection failed.
    #[error("{0}")]
    Io(#[from] std::io::Error),
    /// A deadline passed.
    #[error("no answer in time")]
    Timeout,
    /// The server sent something of this length that is no response.
    #[error(
        "it sent a response of {0} bytes, which is none of Kafka's: is this a listener of \
         Kafka, and does it have TLS just as the client does?"
    )]
    NotKafka(usize),
    /// A response is not what the protocol says.
    #[error(transparent)]
    Malformed(#[from] Malformed),
    /// The broker has no version of the request that this crate speaks.
    #[error("it does not support {api} {versions}: Kafka {kafka} or newer is needed")]
    Unsupported {
        /// The request.
        api: ApiKey,
        /// The versions of it that this crate speaks.
        versions: String,
        /// The first Kafka that has one of them.
        kafka: &'static str,
    },
    /// The login failed.
    #[error("login failed: {0}")]
    Login(String),
    /// The broker answered the whole request with an error.
    #[error("{0}")]
    Broker(ErrorCode),
    /// The source of the security settings failed.
    #[error("{0}")]
    Security(BoxError),
    /// TLS needs a name that a certificate can be for.
    #[error("a certificate can't be for {0:?}")]
    ServerName(String),
}

/// A broker that is connected. Not to be used again after an error, or after the future of a
/// request was dropped.
pub(crate) struct Connection {
    stream: Box<dyn Stream>,
    client_id: String,
    /// What the broker speaks; known after the first request.
    versions: Option<ApiVersions>,
    correlation_id: i32,
    request: Vec<u8>,
    response: Vec<u8>,
}

impl Connection {
    /// Connects to a `host:port`.
    ///
    /// # Errors
    /// It can't be reached, rejects the login, or is no broker that can be read from.
    pub(crate) async fn open(address: &str, settings: &Settings) -> Result<Self, ConnectionError> {
        let opened = timeout(OPEN, Self::open_in_time(address, settings)).await;
        opened.map_err(|_| ConnectionError::Timeout)?
    }

    async fn open_in_time(address: &str, settings: &Settings) -> Result<Self, ConnectionError> {
        let security = settings.security.load();
        let security = security.map_err(ConnectionError::Security)?;
        let mut connection = Self {
            stream: transport::connect(address, security.tls).await?,
            client_id: settings.client_id.clone(),
            versions: None,
            correlation_id: 0,
            request: Vec::new(),
            response: Vec::new(),
        };
        connection.negotiate().await?;
        if let Some(sasl) = &security.sasl {
            sasl::log_in(&mut connection, sasl).await?;
        }
        Ok(connection)
    }

    /// Asks for the broker's versions, and fails if fetching is impossible with them.
    async fn negotiate(&mut self) -> Result<(), ConnectionError> {
        let versions = self.request(&ApiVersionsRequest, Duration::ZERO).await?;
        if let Some(error) = versions.error {
            return Err(ConnectionError::Broker(error));
        }
        self.versions = Some(versions);
        for api in [ApiKey::Metadata, ApiKey::Fetch] {
            self.version(api)?;
        }
        Ok(())
    }

    fn version(&self, api: ApiKey) -> Result<i16, ConnectionError> {
        let support = api.support();
        let version = match &self.versions {
            // It has not been asked yet, which is what this request is for.
            None => Some(*support.versions.end()),
            Some(versions) => versions.negotiate(api),
        };
        version.ok_or_else(|| ConnectionError::Unsupported {
            api,
            versions: format!("{} to {}", support.versions.start(), support.versions.end()),
            kafka: support.kafka,
        })
    }

    /// Sends a request and waits for the response, which the broker may keep waiting for
    /// `wait`.
    ///
    /// # Errors
    /// The connection or the broker fails.
    pub(crate) async fn request<R: Request>(
        &mut self,
        request: &R,
        wait: Duration,
    ) -> Result<R::Response<'_>, ConnectionError> {
        let version = self.version(R::API)?.min(request.newest());
        self.correlation_id = self.correlation_id.wrapping_add(1);
        let (number, client_id) = (self.correlation_id, &self.client_id);
        protocol::encode(request, version, number, client_id, &mut self.request);
        in_time(SILENCE, self.stream.write_all(&self.request)).await?;
        in_time(SILENCE, self.stream.flush()).await?;
        let length = in_time(wait + SILENCE, self.stream.read_u32()).await? as usize;
        if !(4..=MAX_RESPONSE).contains(&length) {
            return Err(ConnectionError::NotKafka(length));
        }
        self.read_response(length).await?;
        let mut response = &self.response[..];
        if response.get_i32() != self.correlation_id {
            return Err(ConnectionError::NotKafka(length));
        }
        Ok(protocol::decode::<R>(version, response)?)
    }

    /// It may take as long as it wants, as long as something comes.
    async fn read_response(&mut self, length: usize) -> Result<(), ConnectionError> {
        self.response.clear();
        self.response.shrink_to(KEPT);
        self.response.reserve(length.min(KEPT));
        let mut rest = (&mut self.stream).take(length as u64);
        while self.response.len() < length {
            if in_time(SILENCE, rest.read_buf(&mut self.response)).await? == 0 {
                return Err(std::io::Error::from(std::io::ErrorKind::UnexpectedEof).into());
            }
        }
        Ok(())
    }
}

async fn in_time<T>(
    time: Duration,
    work: impl Future<Output = std::io::Result<T>>,
) -> Result<T, ConnectionError> {
    let done = timeout(time, work).await;
    Ok(done.map_err(|_| ConnectionError::Timeout)??)
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

    use super::*;

    /// Why a server can't be used that answers everything with these bytes.
    async fn error(answer: &'static [u8]) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let _ = stream.write_all(answer).await;
                // Open until the client has read it and hangs up.
                let _ = stream.read_to_end(&mut Vec::new()).await;
            }
        });
        let opened = Connection::open(&address, &Settings::new([address.as_str()])).await;
        opened.err().unwrap().to_string()
    }

    #[tokio::test]
    async fn servers_that_are_not_kafka_are_recognized() {
        let error = error(b"HTTP/1.1 400 Bad Request\r\n\r\n").await;
        assert!(error.contains("is this a listener of Kafka"), "{error}");
    }

    #[tokio::test]
    async fn responses_to_other_requests_are_rejected() {
        let error = error(b"\0\0\0\x0a\0\0\0\x02\0\0\0\0\0\0").await;
        assert!(error.contains("is this a listener of Kafka"), "{error}");
    }

    #[tokio::test]
    async fn brokers_that_are_too_old_are_named() {
        // Metadata 0 to 13, Fetch 0 to 10.
        let error = error(
            b"\0\0\0\x16\0\0\0\x01\0\0\0\0\0\x02\
              \0\x03\0\0\0\x0d\0\x01\0\0\0\x0a",
        );
        let expected = "it does not support Fetch 11 to 13: Kafka 2.3 or newer is needed";
        assert_eq!(error.await, expected);
    }

    #[tokio::test]
    async fn a_response_that_ends_early_is_malformed() {
        let error = error(b"\0\0\0\x0a\0\0\0\x01\0\0\0\0\0\x02").await;
        assert_eq!(error, "malformed response: it ends too early");
    }
}
