//! Why a client has no identity.

use std::borrow::Cow;
use std::fmt;

/// Why a client was refused. `Display` is for the log: a client learns no more than that it was
/// refused, and whether its token has expired.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    reason: Reason,
    detail: Cow<'static, str>,
}

/// The reason, as the metric has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Reason {
    /// There is no token, or no header of a proxy.
    Missing,
    /// It is not a token, or headers contradict each other.
    Malformed,
    /// It is longer than any token.
    TooLong,
    /// Its algorithm is not the one of the key.
    Algorithm,
    /// Its key, or the token itself, is unknown.
    Unknown,
    /// It was not signed with the key, or changed since.
    Signature,
    /// Its time has passed.
    Expired,
    /// Its time has not come.
    NotYetValid,
    /// Someone else issued it.
    Issuer,
    /// It is for something else.
    Audience,
    /// Its claims are not as the settings say.
    Claims,
    /// Headers of a proxy came from an address that is not trusted.
    Untrusted,
    /// Keys could not be fetched yet.
    Unavailable,
}

impl Reason {
    pub(crate) const ALL: [Self; 13] = [
        Self::Missing,
        Self::Malformed,
        Self::TooLong,
        Self::Algorithm,
        Self::Unknown,
        Self::Signature,
        Self::Expired,
        Self::NotYetValid,
        Self::Issuer,
        Self::Audience,
        Self::Claims,
        Self::Untrusted,
        Self::Unavailable,
    ];

    pub(crate) fn label(self) -> &'static str {
        match self {
            Self::Missing => "missing",
            Self::Malformed => "malformed",
            Self::TooLong => "too_long",
            Self::Algorithm => "algorithm",
            Self::Unknown => "unknown",
            Self::Signature => "signature",
            Self::Expired => "expired",
            Self::NotYetValid => "not_yet_valid",
            Self::Issuer => "issuer",
            Self::Audience => "audience",
            Self::Claims => "claims",
            Self::Untrusted => "untrusted",
            Self::Unavailable => "unavailable",
        }
    }
}

impl Refusal {
    pub(crate) fn new(reason: Reason, detail: impl Into<Cow<'static, str>>) -> Self {
        let detail = detail.into();
        Self { reason, detail }
    }

    pub(crate) fn reason(&self) -> Reason {
        self.reason
    }

    /// Whether the client gave nothing by which to know it: it may never have signed in.
    #[must_use]
    pub fn is_missing(&self) -> bool {
        self.reason == Reason::Missing
    }

    /// Whether a new token would help: the old one was valid once.
    #[must_use]
    pub fn is_expired(&self) -> bool {
        self.reason == Reason::Expired
    }

    /// Whether the same token may be accepted later: keys have not been fetched yet.
    #[must_use]
    pub fn is_temporary(&self) -> bool {
        self.reason == Reason::Unavailable
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.detail)
    }
}

impl std::error::Error for Refusal {}
