//! A connection to a broker: encrypted and logged in where that is wanted, with one
//! request on its way at a time.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use bytes::{Buf, BufMut};
use iot_kafka::security::Login;
use rsasl::config::SASLConfig;
use rsasl::prelude::{Mechname, SASLClient, Session};
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

use super::Settings;
use super::wire::{self, Api, Malformed};

/// How long an address may take to be reached, of which a name can have several.
const REACHED: Duration = Duration::from_secs(5);
/// How long a broker may take to be there: reached, encrypted, logged in.
const OPEN: Duration = Duration::from_secs(15);
/// How long nothing may come of an answer, besides the time that it is asked to wait.
const SILENCE: Duration = Duration::from_secs(15);
/// An answer that says it is longer is none.
const LONGEST: usize = 256 << 20;
/// Memory that is kept for the next answer.
const KEPT: usize = 16 << 20;

/// Why a broker can't be asked.
#[derive(Debug, thiserror::Error)]
pub(super) enum Failed {
    #[error("{0}")]
    Io(#[from] std::io::Error),
    #[error("no answer in time")]
    Late,
    #[error(
        "it has answered with {0} bytes of something else: is this Kafka, and is \
         kafka.security.protocol the listener's?"
    )]
    NotKafka(usize),
    #[error(transparent)]
    Malformed(#[from] Malformed),
    #[error("it is older than Kafka 2.3, or speaks no version of {0:?} that is spoken here")]
    Version(Api),
    #[error("the login is refused: {0}")]
    Login(String),
    #[error("{0}")]
    Refused(String),
    #[error("{0:#}")]
    Access(#[from] anyhow::Error),
}

trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}

impl<T: AsyncRead + AsyncWrite + Unpin + Send> Stream for T {}

/// One broker, connected.
pub(super) struct Connection {
    stream: Box<dyn Stream>,
    client_id: String,
    requests: i32,
    request: Vec<u8>,
    answer: Vec<u8>,
}

impl Connection {
    /// Connects to a `host:port`.
    ///
    /// # Errors
    /// It can't be reached, refuses the login, or is no broker of Kafka.
    pub(super) async fn open(address: &str, settings: &Settings) -> Result<Self, Failed> {
        let opened = timeout(OPEN, Self::open_in_time(address, settings)).await;
        opened.map_err(|_| Failed::Late)?
    }

    async fn open_in_time(address: &str, settings: &Settings) -> Result<Self, Failed> {
        // Each time, as files may have been changed.
        let access = settings.security.access()?;
        let stream = reach(address).await?;
        stream.set_nodelay(true)?;
        let stream: Box<dyn Stream> = match access.tls {
            None => Box::new(stream),
            Some(tls) => {
                let name = server_name(address)?;
                Box::new(TlsConnector::from(tls).connect(name, stream).await?)
            }
        };
        let mut connection = Self {
            stream,
            client_id: settings.client_id.clone(),
            requests: 0,
            request: Vec::new(),
            answer: Vec::new(),
        };
        connection.check_version().await?;
        if let Some(login) = &access.login {
            connection.log_in(login).await?;
        }
        Ok(connection)
    }

    async fn check_version(&mut self) -> Result<(), Failed> {
        let answer = self.ask(Api::Versions, Duration::ZERO, |_| {}).await?;
        for api in [Api::Metadata, Api::Fetch] {
            if !wire::is_spoken(answer, api)? {
                return Err(Failed::Version(api));
            }
        }
        Ok(())
    }

    async fn log_in(&mut self, login: &Login) -> Result<(), Failed> {
        let mechanism = login.mechanism.to_string();
        let answer = self.ask(Api::SaslHandshake, Duration::ZERO, |out| {
            wire::put_text(out, &mechanism);
        });
        if let Err(has) = wire::handshake(answer.await?)? {
            let reason = format!("it takes {has}, not {mechanism} (kafka.security.mechanism)");
            return Err(Failed::Login(reason));
        }
        let mut session = session(login, &mechanism)?;
        let mut theirs: Option<Vec<u8>> = None;
        loop {
            let mut ours = Vec::new();
            let state = session
                .step(theirs.as_deref(), &mut ours)
                .map_err(|error| Failed::Login(error.to_string()))?;
            if state.has_sent_message() {
                let answer = self.ask(Api::SaslAuthenticate, Duration::ZERO, |out| {
                    out.put_i32(ours.len() as i32);
                    out.extend_from_slice(&ours);
                });
                let part = wire::authenticated(answer.await?)?.map_err(Failed::Login)?;
                theirs = Some(part.to_vec());
            }
            if state.is_finished() {
                return Ok(());
            }
        }
    }

    /// Sends a request and returns what comes after the head of its answer, which the
    /// broker may keep waiting for so long. Not to be used again after an error, nor if
    /// this was dropped.
    ///
    /// # Errors
    /// The connection or the broker fails.
    pub(super) async fn ask(
        &mut self,
        api: Api,
        wait: Duration,
        body: impl FnOnce(&mut Vec<u8>),
    ) -> Result<&[u8], Failed> {
        self.requests = self.requests.wrapping_add(1);
        wire::begin(api, self.requests, &self.client_id, &mut self.request);
        body(&mut self.request);
        wire::end(&mut self.request);
        in_time(SILENCE, self.stream.write_all(&self.request)).await?;
        in_time(SILENCE, self.stream.flush()).await?;
        let length = in_time(wait + SILENCE, self.stream.read_u32()).await? as usize;
        if !(4..=LONGEST).contains(&length) {
            return Err(Failed::NotKafka(length));
        }
        self.read_answer(length).await?;
        match (&self.answer[..4]).get_i32() == self.requests {
            true => Ok(&self.answer[4..]),
            false => Err(Failed::NotKafka(length)),
        }
    }

    /// However long it takes, as long as something comes.
    async fn read_answer(&mut self, length: usize) -> Result<(), Failed> {
        self.answer.clear();
        self.answer.shrink_to(KEPT);
        self.answer.reserve(length);
        let mut rest = (&mut self.stream).take(length as u64);
        while self.answer.len() < length {
            if in_time(SILENCE, rest.read_buf(&mut self.answer)).await? == 0 {
                return Err(std::io::Error::from(std::io::ErrorKind::UnexpectedEof).into());
            }
        }
        Ok(())
    }
}

async fn in_time<T>(
    time: Duration,
    work: impl Future<Output = std::io::Result<T>>,
) -> Result<T, Failed> {
    Ok(timeout(time, work).await.map_err(|_| Failed::Late)??)
}

/// The first of the addresses of a `host:port` that answers.
async fn reach(address: &str) -> Result<TcpStream, Failed> {
    let mut failed = std::io::Error::other("the name has no address").into();
    for address in tokio::net::lookup_host(address).await? {
        match in_time(REACHED, TcpStream::connect(address)).await {
            Ok(stream) => return Ok(stream),
            Err(error) => failed = error,
        }
    }
    Err(failed)
}

fn server_name(address: &str) -> anyhow::Result<ServerName<'static>> {
    let (host, _) = address.rsplit_once(':').unwrap_or((address, ""));
    let host = host.trim_start_matches('[').trim_end_matches(']');
    let name = ServerName::try_from(host.to_owned());
    name.with_context(|| format!("{host} is no name that a certificate can be for"))
}

fn session(login: &Login, mechanism: &str) -> Result<Session, Failed> {
    let failed = |error: &dyn std::fmt::Display| Failed::Login(error.to_string());
    let (name, password) = (login.username.clone(), login.password.expose().to_owned());
    let config: Arc<SASLConfig> =
        SASLConfig::with_credentials(None, name, password).map_err(|error| failed(&error))?;
    let wanted = Mechname::parse(mechanism.as_bytes()).map_err(|error| failed(&error))?;
    let client = SASLClient::new(config);
    client
        .start_suggested(&[wanted])
        .map_err(|error| failed(&error))
}
