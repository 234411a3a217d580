//! Who asks: the identity behind a request, and what it may see.
//!
//! [`AuthConfig`] is the section `auth` of a service, [`Authenticator`] finds the [`Identity`]
//! of a client by it. What an identity is allowed to do with a given thing is decided elsewhere.

mod authenticator;
mod bearer;
mod claims;
mod config;
mod host;
mod identity;
mod jwt;
mod metrics;
mod proxy;
mod refusal;
mod reloaded;
mod tokens;

pub use authenticator::Authenticator;
pub use config::{
    AuthConfig, ClaimsConfig, JwtConfig, Mode, ProxyConfig, RolesConfig, is_loopback,
};
pub use identity::{Identity, Names, Role, Scope};
pub use metrics::AuthMetrics;
pub use refusal::Refusal;
pub use tokens::NewToken;
