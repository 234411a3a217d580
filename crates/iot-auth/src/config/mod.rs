//! Section `auth`.

mod jwt;
mod proxy;

use iot_service::config::Problems;
use serde::{Deserialize, Serialize};

use crate::host;
pub use jwt::{ClaimsConfig, JwtConfig, RolesConfig};
pub(crate) use jwt::{SHORTEST_SECRET, TOO_SHORT};
pub use proxy::ProxyConfig;
pub(crate) use proxy::network;

/// Section `auth`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct AuthConfig {
    /// How clients prove who they are.
    pub mode: Mode,
    /// File with the hashes of tokens, for `tokens_file`.
    pub tokens_file: String,
    /// Signed tokens, for `jwt`.
    pub jwt: JwtConfig,
    /// Headers of a proxy, for `proxy`.
    pub proxy: ProxyConfig,
}

/// How clients prove who they are.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Mode {
    /// Nothing is said: only clients on this machine are served.
    #[default]
    #[serde(rename = "")]
    Unset,
    /// Not at all: everybody may see and do everything.
    None,
    /// By a JSON Web Token (RFC 7519).
    Jwt,
    /// By a token whose hash is in a file.
    TokensFile,
    /// They do to a proxy, which says who they are.
    Proxy,
}

impl AuthConfig {
    /// Adds all problems of the section, and of an HTTP listener at `listen` (`host:port`) that
    /// it protects.
    pub fn validate(&self, listen: &str, problems: &mut Problems) {
        match self.mode {
            Mode::Unset if !is_loopback(listen) => problems.add(
                "http.listen",
                format!(
                    "{listen} can be reached by others: set auth.mode (jwt, tokens_file or \
                     proxy), or write auth: none"
                ),
            ),
            Mode::Unset | Mode::None => {}
            Mode::Jwt => self.jwt.validate(problems),
            Mode::TokensFile => self.check_tokens_file(problems),
            Mode::Proxy => self.proxy.validate(problems),
        }
        self.check_unused(problems);
    }

    /// Adds what is valid and may not be what is wanted.
    pub fn warnings(&self, listen: &str, warnings: &mut Problems) {
        match self.mode {
            Mode::None if !is_loopback(listen) => warnings.add(
                "auth.mode",
                format!("none: anyone who reaches {listen} sees and changes everything"),
            ),
            Mode::Jwt => self.jwt.warnings(warnings),
            _ => {}
        }
    }

    fn check_tokens_file(&self, problems: &mut Problems) {
        if self.tokens_file.is_empty() {
            problems.add("auth.tokens_file", "is needed with auth.mode: tokens_file");
        } else if let Err(message) = crate::tokens::check_file(self.tokens_file.as_ref()) {
            problems.add("auth.tokens_file", message);
        }
    }

    /// A setting that has no effect may be a protection that someone believes in.
    fn check_unused(&self, problems: &mut Problems) {
        let unused = [
            (
                Mode::TokensFile,
                "auth.tokens_file",
                self.tokens_file.is_empty(),
            ),
            (Mode::Jwt, "auth.jwt", self.jwt == JwtConfig::default()),
            (
                Mode::Proxy,
                "auth.proxy",
                self.proxy == ProxyConfig::default(),
            ),
        ];
        for (mode, path, is_default) in unused {
            if self.mode != mode && !is_default {
                problems.add(
                    path,
                    format!("has no effect: auth.mode is {}", self.mode.name()),
                );
            }
        }
    }
}

impl Mode {
    fn name(self) -> &'static str {
        match self {
            Self::Unset => "not set",
            Self::None => "none",
            Self::Jwt => "jwt",
            Self::TokensFile => "tokens_file",
            Self::Proxy => "proxy",
        }
    }
}

/// Whether only this machine reaches a listener at `listen` (`host:port`).
#[must_use]
pub fn is_loopback(listen: &str) -> bool {
    host::is_loopback(listen)
}

#[cfg(test)]
mod tests;
