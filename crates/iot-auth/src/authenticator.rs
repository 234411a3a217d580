//! From a request to an identity, by the mode of the settings.

use std::net::IpAddr;
use std::sync::Arc;

use anyhow::Context;
use http::HeaderMap;
use tokio_util::sync::CancellationToken;

use crate::config::{AuthConfig, Mode};
use crate::identity::{Identity, Role, Scope};
use crate::jwt::Verifier;
use crate::metrics::AuthMetrics;
use crate::proxy::Proxy;
use crate::refusal::{Reason, Refusal};
use crate::tokens::TokensFile;
use crate::{bearer, host};

/// Finds out who a client is. Clones share keys and metrics.
#[derive(Debug, Clone)]
pub struct Authenticator(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    method: Method,
    /// `None` if nobody is refused.
    metrics: Option<AuthMetrics>,
}

#[derive(Debug)]
enum Method {
    /// Everybody who reaches the listener, by any name of the host.
    Everybody,
    /// Everybody on this machine: the listener is on loopback.
    Local,
    Jwt(Box<Verifier>),
    TokensFile(TokensFile),
    Proxy(Proxy),
}

impl Authenticator {
    /// The authenticator of `config`. It keeps keys and files up to date until `stop`.
    ///
    /// # Errors
    /// A file cannot be read, or has no usable keys or tokens. That keys cannot be fetched is no
    /// error: clients are refused until they are.
    pub fn start(
        config: &AuthConfig,
        metrics: AuthMetrics,
        stop: &CancellationToken,
    ) -> anyhow::Result<Self> {
        let method = match config.mode {
            Mode::Unset => Method::Local,
            Mode::None => Method::Everybody,
            Mode::Jwt => {
                let verifier = Verifier::start(&config.jwt, metrics.clone(), stop);
                Method::Jwt(Box::new(verifier.context("auth.jwt")?))
            }
            Mode::TokensFile => {
                let tokens = TokensFile::start(config.tokens_file.as_ref(), stop);
                Method::TokensFile(tokens.context("auth.tokens_file")?)
            }
            Mode::Proxy => Method::Proxy(Proxy::new(&config.proxy)?),
        };
        let metrics = Some(metrics);
        Ok(Self(Arc::new(Inner { method, metrics })))
    }

    /// Everybody is an admin who may see everything, named `anonymous`.
    #[must_use]
    pub fn none() -> Self {
        Self(Arc::new(Inner {
            method: Method::Everybody,
            metrics: None,
        }))
    }

    /// Whether clients have tokens; otherwise there is none that they could send.
    #[must_use]
    pub fn uses_tokens(&self) -> bool {
        matches!(self.0.method, Method::Jwt(_) | Method::TokensFile(_))
    }

    /// Whether a request with these headers may be answered. Without `auth` only those that name
    /// this machine as `Host` may: the page of another site, whose name was made to point to this
    /// machine (DNS rebinding), has the other site's name. Others are to be answered with 421
    /// (RFC 9110, 15.5.20).
    #[must_use]
    pub fn host_allowed(&self, headers: &HeaderMap) -> bool {
        !matches!(self.0.method, Method::Local) || host::is_this_machine(headers)
    }

    /// The identity behind a request, by its headers and the address that it came from. Refusals
    /// are counted and logged here.
    ///
    /// # Errors
    /// Why there is none.
    pub async fn identify(&self, headers: &HeaderMap, peer: IpAddr) -> Result<Identity, Refusal> {
        let identity = match &self.0.method {
            Method::Everybody | Method::Local => Ok(anonymous()),
            Method::Proxy(proxy) => proxy.identify(headers, peer),
            Method::Jwt(_) | Method::TokensFile(_) => match bearer::token(headers) {
                Ok(token) => self.verify(token).await,
                Err(refusal) => Err(refusal),
            },
        };
        self.note(identity)
    }

    /// The identity behind a token that came in a frame of the push protocol. Refusals are
    /// counted and logged here.
    ///
    /// # Errors
    /// Why there is none; also if clients of this mode have no tokens.
    pub async fn identify_token(&self, token: &str) -> Result<Identity, Refusal> {
        let identity = match bearer::check(token) {
            Ok(token) => self.verify(token).await,
            Err(refusal) => Err(refusal),
        };
        self.note(identity)
    }

    async fn verify(&self, token: &str) -> Result<Identity, Refusal> {
        match &self.0.method {
            Method::Jwt(verifier) => verifier.verify(token).await,
            Method::TokensFile(tokens) => tokens.verify(token),
            Method::Everybody | Method::Local | Method::Proxy(_) => {
                let detail = "a token was sent, but this mode of auth has none";
                Err(Refusal::new(Reason::Malformed, detail))
            }
        }
    }

    fn note(&self, identity: Result<Identity, Refusal>) -> Result<Identity, Refusal> {
        if let (Err(refusal), Some(metrics)) = (&identity, &self.0.metrics) {
            metrics.refused(refusal);
        }
        identity
    }
}

fn anonymous() -> Identity {
    Identity {
        name: "anonymous".into(),
        role: Role::Admin,
        scope: Arc::new(Scope::ALL),
        expires: None,
    }
}
