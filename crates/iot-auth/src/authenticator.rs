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

#[cfg(test)]
mod tests {
    use http::header::{AUTHORIZATION, HOST};
    use http::{HeaderName, HeaderValue};
    use iot_service::metrics::Registrar;
    use prometheus::{Registry, TextEncoder};

    use super::*;
    use crate::identity::Names;
    use crate::tokens::NewToken;

    const PEER: IpAddr = IpAddr::V4(std::net::Ipv4Addr::LOCALHOST);

    struct Started {
        authenticator: Authenticator,
        registry: Registry,
        _stop: tokio_util::sync::DropGuard,
    }

    impl Started {
        fn new(config: &AuthConfig) -> Self {
            let (registry, stop) = (Registry::new(), CancellationToken::new());
            let metrics = AuthMetrics::new(&Registrar(&registry)).unwrap();
            Self {
                authenticator: Authenticator::start(config, metrics, &stop).unwrap(),
                registry,
                _stop: stop.drop_guard(),
            }
        }

        async fn identify(&self, header: Option<(HeaderName, &str)>) -> Result<Identity, Refusal> {
            let mut headers = HeaderMap::new();
            if let Some((name, value)) = header {
                headers.insert(name, value.parse().unwrap());
            }
            self.authenticator.identify(&headers, PEER).await
        }

        fn has_metric(&self, line: &str) -> bool {
            let text = TextEncoder::new().encode_to_string(&self.registry.gather());
            text.unwrap().lines().any(|other| other == line)
        }
    }

    fn mode(mode: Mode) -> AuthConfig {
        AuthConfig {
            mode,
            ..AuthConfig::default()
        }
    }

    #[tokio::test]
    async fn without_auth_only_this_machine_is_named() {
        for (given, host, is_allowed) in [
            (Mode::Unset, "localhost:8080", true),
            (Mode::Unset, "evil.example:8080", false),
            (Mode::None, "evil.example:8080", true),
        ] {
            let started = Started::new(&mode(given));
            let headers = HeaderMap::from_iter([(HOST, HeaderValue::from_static(host))]);
            assert_eq!(started.authenticator.host_allowed(&headers), is_allowed);
            let identity = started.identify(None).await.unwrap();
            assert_eq!((&*identity.name, identity.role), ("anonymous", Role::Admin));
            assert_eq!(*identity.scope, Scope::ALL);
            assert!(!started.authenticator.uses_tokens());
            // A token that nobody asked for says that the client expects another mode.
            assert!(started.authenticator.identify_token("token").await.is_err());
        }
    }

    #[tokio::test]
    async fn tokens_come_in_headers_or_frames_and_refusals_are_counted() {
        let token = NewToken::new("ada", Role::Viewer, [&["acme".into()]; 3], None).unwrap();
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), format!("tokens:\n{token}\n")).unwrap();
        let started = Started::new(&AuthConfig {
            tokens_file: file.path().to_str().unwrap().into(),
            ..mode(Mode::TokensFile)
        });
        let bearer = format!("Bearer {}", token.token.expose());
        let identity = started.identify(Some((AUTHORIZATION, &bearer))).await;
        assert_eq!(&*identity.unwrap().name, "ada");
        let authenticator = &started.authenticator;
        let identity = authenticator.identify_token(token.token.expose()).await;
        assert!(matches!(&identity.unwrap().scope.tenants, Names::Only(names) if names.len() == 1));

        assert!(started.identify(None).await.unwrap_err().is_missing());
        let other = started
            .identify(Some((AUTHORIZATION, "Bearer other")))
            .await;
        assert!(!other.unwrap_err().is_missing());
        let long = "a".repeat(10_000_000);
        assert!(authenticator.identify_token(&long).await.is_err());
        // Headers of a proxy are of another mode.
        let user = HeaderName::from_static("x-forwarded-user");
        assert!(
            started
                .identify(Some((user, "root")))
                .await
                .unwrap_err()
                .is_missing()
        );
        for line in [
            "iot_auth_refusals_total{reason=\"missing\"} 2",
            "iot_auth_refusals_total{reason=\"unknown\"} 1",
            "iot_auth_refusals_total{reason=\"too_long\"} 1",
            "iot_auth_refusals_total{reason=\"expired\"} 0",
        ] {
            assert!(started.has_metric(line), "{line}");
        }
    }

    #[tokio::test]
    async fn what_cannot_be_read_at_the_start_is_an_error() {
        let stop = CancellationToken::new();
        let metrics = AuthMetrics::new(&Registrar(&Registry::new())).unwrap();
        let config = AuthConfig {
            tokens_file: "/nowhere/tokens".into(),
            ..mode(Mode::TokensFile)
        };
        let error = Authenticator::start(&config, metrics, &stop).unwrap_err();
        let error = format!("{error:#}");
        assert!(
            error.starts_with("auth.tokens_file: /nowhere/tokens: "),
            "{error}"
        );
    }
}
