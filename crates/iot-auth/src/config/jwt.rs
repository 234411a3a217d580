//! Section `auth.jwt`.

use http::Uri;
use iot_service::config::{HumanDuration, Problems, Secret};
use iot_service::tls::file_problems;
use serde::{Deserialize, Serialize};

use crate::host;
use crate::jwt::{KeySet, read_secret};

/// Shortest secret, in bytes: an HMAC's key is at least as long as its hash (RFC 7518, 3.2).
pub(crate) const SHORTEST_SECRET: usize = 32;

/// Section `auth.jwt`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct JwtConfig {
    /// Where the issuer publishes its keys (RFC 7517).
    pub jwks_url: String,
    /// PEM file with the certificates to trust at `jwks_url`; empty for those of the system.
    pub ca_file: String,
    /// File with the issuer's keys.
    pub jwks_file: String,
    /// A secret that issuer and service share, for HS256.
    pub secret: Secret,
    /// File with the secret.
    pub secret_file: String,
    /// How often keys are fetched.
    pub refresh: HumanDuration,
    /// How long a fetch may take.
    pub timeout: HumanDuration,
    /// Who must have issued a token (`iss`).
    pub issuer: String,
    /// Audiences: one of these must be in `aud`; `*` for any.
    pub audience: Vec<String>,
    /// By how much the clocks of issuer and service may differ.
    pub leeway: HumanDuration,
    /// Where in a token it says what its bearer may see.
    pub claims: ClaimsConfig,
    /// The issuer's names of roles.
    pub roles: RolesConfig,
}

/// Claims, each by its name, or by a JSON pointer (RFC 6901) to a place within one.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ClaimsConfig {
    /// The name of the bearer.
    pub name: String,
    /// Its tenants; none if the claim is absent.
    pub tenants: String,
    /// Its projects; all those of its tenants if the claim is absent.
    pub projects: String,
    /// Its places; all those of its projects if the claim is absent.
    pub places: String,
    /// Its role; viewer if the claim is absent.
    pub role: String,
}

/// Names of roles. Who has none of them is a viewer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RolesConfig {
    /// Names that make an operator.
    pub operator: Vec<String>,
    /// Names that make an admin.
    pub admin: Vec<String>,
}

impl Default for JwtConfig {
    fn default() -> Self {
        Self {
            jwks_url: String::new(),
            ca_file: String::new(),
            jwks_file: String::new(),
            secret: Secret::default(),
            secret_file: String::new(),
            refresh: HumanDuration::from_secs(600),
            timeout: HumanDuration::from_secs(5),
            issuer: String::new(),
            audience: Vec::new(),
            leeway: HumanDuration::from_secs(30),
            claims: ClaimsConfig::default(),
            roles: RolesConfig::default(),
        }
    }
}

impl Default for ClaimsConfig {
    fn default() -> Self {
        Self {
            name: "sub".into(),
            tenants: "tenants".into(),
            projects: "projects".into(),
            places: "places".into(),
            role: "role".into(),
        }
    }
}

impl Default for RolesConfig {
    fn default() -> Self {
        Self {
            operator: vec!["operator".into()],
            admin: vec!["admin".into()],
        }
    }
}

impl JwtConfig {
    /// Whether issuer and service share a secret.
    pub(crate) fn is_secret(&self) -> bool {
        !self.secret.is_empty() || !self.secret_file.is_empty()
    }

    pub(super) fn validate(&self, problems: &mut Problems) {
        let sources = [
            self.jwks_url.is_empty(),
            self.jwks_file.is_empty(),
            self.secret.is_empty(),
            self.secret_file.is_empty(),
        ];
        match sources.iter().filter(|is_empty| !**is_empty).count() {
            1 => {}
            0 => problems.add(
                "auth.jwt",
                "needs keys: set jwks_url, jwks_file, secret_file or secret",
            ),
            _ => problems.add(
                "auth.jwt",
                "has keys from several places: set one of jwks_url, jwks_file, secret_file and \
                 secret",
            ),
        }
        self.check_url(problems);
        self.check_files(problems);
        self.check_times(problems);
        self.check_names(problems);
    }

    pub(super) fn warnings(&self, warnings: &mut Problems) {
        let url = self.jwks_url.parse::<Uri>().ok();
        let authority = url.as_ref().and_then(Uri::authority);
        let is_plain = url.as_ref().and_then(Uri::scheme_str) == Some("http");
        if is_plain && authority.is_some_and(|host| !host::is_loopback(host.as_str())) {
            let message = "is not encrypted: someone on the way can replace the keys";
            warnings.add("auth.jwt.jwks_url", message);
        }
    }

    fn check_url(&self, problems: &mut Problems) {
        if self.jwks_url.is_empty() {
            if !self.ca_file.is_empty() {
                problems.add("auth.jwt.ca_file", "has no effect without jwks_url");
            }
            return;
        }
        let url = self.jwks_url.parse::<Uri>().ok();
        let scheme = url.as_ref().and_then(Uri::scheme_str);
        let authority = url.as_ref().and_then(Uri::authority);
        if !matches!(scheme, Some("http" | "https"))
            || authority.is_none_or(|host| host.as_str().contains('@'))
        {
            let message = "must be https://HOST... or http://HOST..., without a login";
            problems.add("auth.jwt.jwks_url", message);
        }
        for error in file_problems(&self.ca_file, "", "") {
            problems.add(format!("auth.jwt.{}", error.setting), error.problem);
        }
    }

    fn check_files(&self, problems: &mut Problems) {
        if !self.jwks_file.is_empty()
            && let Err(message) = KeySet::read(self.jwks_file.as_ref())
        {
            problems.add("auth.jwt.jwks_file", message);
        }
        if !self.secret_file.is_empty()
            && let Err(message) = read_secret(self.secret_file.as_ref())
        {
            problems.add("auth.jwt.secret_file", message);
        }
        let secret = self.secret.expose().len();
        if (1..SHORTEST_SECRET).contains(&secret) {
            problems.add("auth.jwt.secret", TOO_SHORT);
        }
    }

    fn check_times(&self, problems: &mut Problems) {
        let seconds = HumanDuration::from_secs;
        for (path, value, least, most) in [
            ("refresh", self.refresh, seconds(10), seconds(86_400)),
            ("timeout", self.timeout, seconds(1), seconds(60)),
            ("leeway", self.leeway, seconds(0), seconds(300)),
        ] {
            if !(least..=most).contains(&value) {
                problems.add(
                    format!("auth.jwt.{path}"),
                    format!("must be between {least} and {most}"),
                );
            }
        }
    }

    /// With a shared secret there is one issuer, and it knows the service. With public keys other
    /// applications get tokens from the same issuer, and those must not open this one (RFC 8725,
    /// 3.8 and 3.9).
    fn check_names(&self, problems: &mut Problems) {
        if !self.is_secret() {
            if self.issuer.is_empty() {
                problems.add("auth.jwt.issuer", "is needed: the `iss` of tokens");
            }
            if self.audience.is_empty() {
                let message = "is needed, or tokens that were issued for another application would \
                               be accepted here; [\"*\"] accepts those of any";
                problems.add("auth.jwt.audience", message);
            }
        }
        if self.audience.len() > 1 && self.audience.iter().any(|audience| audience == "*") {
            problems.add("auth.jwt.audience", "has \"*\" beside others");
        }
        let claims = &self.claims;
        for (key, claim) in [
            ("name", &claims.name),
            ("tenants", &claims.tenants),
            ("projects", &claims.projects),
            ("places", &claims.places),
            ("role", &claims.role),
        ] {
            if claim.is_empty() {
                let message = "must be the name of a claim, or a JSON pointer such as \
                               /realm_access/roles";
                problems.add(format!("auth.jwt.claims.{key}"), message);
            }
        }
    }
}

/// The problem of a secret that could be guessed.
pub(crate) const TOO_SHORT: &str = "must be 32 bytes or longer";
