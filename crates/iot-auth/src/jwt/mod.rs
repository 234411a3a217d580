//! JSON Web Tokens (RFC 7519), signed with a key of their issuer.
//!
//! A token names its key (`kid`), and the key has its algorithm: what the token says of the
//! algorithm is only compared. So it can neither choose `none` nor pass a public key off as the
//! secret of an HMAC (RFC 8725, 3.1 and 3.2).

mod crypto;
mod fetch;
mod keys;
#[cfg(test)]
mod tests;

use std::path::Path;
use std::sync::Arc;

use anyhow::Context;
use jiff::Timestamp;
use jsonwebtoken::errors::{Error, ErrorKind};
use jsonwebtoken::{Header, Validation, decode, decode_header};
use serde_json::Value;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::claims::{self, Claims};
use crate::config::{JwtConfig, SHORTEST_SECRET, TOO_SHORT};
use crate::identity::Identity;
use crate::metrics::AuthMetrics;
use crate::refusal::{Reason, Refusal};
use crate::reloaded;
use fetch::Fetched;
use keys::Key;
pub(crate) use keys::KeySet;

/// Verifies tokens.
#[derive(Debug)]
pub(crate) struct Verifier {
    keys: Keys,
    config: JwtConfig,
}

/// Where keys come from.
#[derive(Debug)]
enum Keys {
    /// A file, or the settings.
    Kept(watch::Receiver<Arc<KeySet>>),
    Fetched(Fetched),
}

impl Verifier {
    /// Verifies with the keys of `config`, which are kept up to date until `stop`.
    ///
    /// # Errors
    /// A file cannot be read, or has no usable key.
    pub(crate) fn start(
        config: &JwtConfig,
        metrics: AuthMetrics,
        stop: &CancellationToken,
    ) -> anyhow::Result<Self> {
        crypto::install();
        let keys = if !config.jwks_url.is_empty() {
            Keys::Fetched(Fetched::start(config, fetch::BETWEEN, metrics, stop)?)
        } else if !config.jwks_file.is_empty() {
            let parse = |text: &str| KeySet::of_file(text).map(Arc::new);
            Keys::Kept(follow(&config.jwks_file, parse, stop)?)
        } else if !config.secret_file.is_empty() {
            let parse = |text: &str| secret(text).map(Arc::new);
            Keys::Kept(follow(&config.secret_file, parse, stop)?)
        } else {
            let keys = secret(config.secret.expose()).map_err(anyhow::Error::msg);
            Keys::Kept(watch::channel(Arc::new(keys.context("secret")?)).1)
        };
        let config = config.clone();
        Ok(Self { keys, config })
    }

    /// The identity of a token's bearer.
    ///
    /// # Errors
    /// Why there is none.
    pub(crate) async fn verify(&self, token: &str) -> Result<Identity, Refusal> {
        let header = decode_header(token).map_err(|error| refusal(&error))?;
        let key = self.key(&header).await?;
        let decoded = decode::<Claims>(token, &key.decoding, &self.validation(&key));
        let claims = decoded.map_err(|error| refusal(&error))?.claims;
        self.identity(&claims)
    }

    async fn key(&self, header: &Header) -> Result<Arc<Key>, Refusal> {
        let kid = header.kid.as_deref();
        match &self.keys {
            Keys::Kept(keys) => keys.borrow().find(kid),
            Keys::Fetched(keys) => keys.find(kid).await,
        }
    }

    fn validation(&self, key: &Key) -> Validation {
        let mut validation = Validation::new(key.algorithm);
        validation.leeway = self.config.leeway.as_secs();
        validation.validate_nbf = true;
        let mut required = vec!["exp"];
        if !self.config.issuer.is_empty() {
            validation.set_issuer(&[&self.config.issuer]);
            required.push("iss");
        }
        match self.config.audience.as_slice() {
            [any] if any == "*" => validation.validate_aud = false,
            // A secret is shared with nobody else.
            [] => validation.validate_aud = false,
            audience => {
                validation.set_audience(audience);
                required.push("aud");
            }
        }
        validation.set_required_spec_claims(&required);
        validation
    }

    fn identity(&self, claims: &Claims) -> Result<Identity, Refusal> {
        let leeway = self.config.leeway.as_secs_f64();
        let time = |claim: &str| claims.get(claim).and_then(Value::as_f64);
        let now = Timestamp::now().as_duration().as_secs_f64();
        if time("iat").is_some_and(|issued| issued > now + leeway) {
            let detail = "the token was issued in the future (iat)";
            return Err(Refusal::new(Reason::NotYetValid, detail));
        }
        let config = &self.config.claims;
        Ok(Identity {
            name: claims::name(claims, config)?,
            role: claims::role_of(claims, config, &self.config.roles)?,
            scope: Arc::new(claims::scope(claims, config)?),
            expires: time("exp").map(|expires| timestamp(expires + leeway)),
        })
    }
}

/// A time in seconds since 1970; the last one that there is, if it is later.
fn timestamp(seconds: f64) -> Timestamp {
    // Saturates.
    Timestamp::from_second(seconds as i64).unwrap_or(Timestamp::MAX)
}

fn follow(
    path: &str,
    parse: impl Fn(&str) -> Result<Arc<KeySet>, String> + Send + 'static,
    stop: &CancellationToken,
) -> anyhow::Result<watch::Receiver<Arc<KeySet>>> {
    reloaded::follow(path.as_ref(), parse, stop).map_err(anyhow::Error::msg)
}

/// Reads a file with a secret.
///
/// # Errors
/// Its problem.
pub(crate) fn read_secret(path: &Path) -> Result<KeySet, String> {
    reloaded::read(path, secret).map(|(_, keys)| keys)
}

fn secret(text: &str) -> Result<KeySet, String> {
    let secret = text.trim_end_matches(['\n', '\r']);
    if secret.len() < SHORTEST_SECRET {
        return Err(TOO_SHORT.into());
    }
    KeySet::of_secret(secret.as_bytes())
}

/// What a token was refused for. Errors of the library do not have its content.
fn refusal(error: &Error) -> Refusal {
    let reason = match error.kind() {
        ErrorKind::InvalidSignature => Reason::Signature,
        ErrorKind::ExpiredSignature => Reason::Expired,
        ErrorKind::ImmatureSignature => Reason::NotYetValid,
        ErrorKind::InvalidIssuer => Reason::Issuer,
        ErrorKind::InvalidAudience => Reason::Audience,
        ErrorKind::InvalidAlgorithm
        | ErrorKind::InvalidAlgorithmName
        | ErrorKind::UnsupportedAlgorithm => Reason::Algorithm,
        ErrorKind::MissingRequiredClaim(claim) => match claim.as_str() {
            "aud" => Reason::Audience,
            "iss" => Reason::Issuer,
            _ => Reason::Claims,
        },
        ErrorKind::InvalidClaimFormat(_) => Reason::Claims,
        _ => Reason::Malformed,
    };
    Refusal::new(reason, format!("the token is not valid: {error}"))
}
