//! Tokens whose hashes are in a file.
//!
//! A token is 256 random bits, so a fast hash hides it: nobody can try out so many (a slow hash
//! protects passwords, of which there are few). Tokens are looked up by their hash, in a table
//! with a random seed. How long that takes depends on the hash at most, and who knew all of a
//! hash would know nothing of its token.

use std::collections::{BTreeSet, HashMap};
use std::fmt;
use std::path::Path;
use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use iot_service::config::{Problems, Secret, extract, parse_yaml_as};
use jiff::Timestamp;
use ring::rand::{SecureRandom, SystemRandom};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::claims::names;
use crate::identity::{Identity, Role, Scope};
use crate::refusal::{Reason, Refusal};
use crate::reloaded;

/// What tokens begin with, so that scanners for secrets and people recognise them.
const PREFIX: &str = "iot_";

/// SHA-256 of a token.
type Hash = [u8; 32];

/// The identities by the hashes of their tokens.
type Tokens = HashMap<Hash, Identity>;

/// The tokens of a file, which is polled.
#[derive(Debug)]
pub(crate) struct TokensFile(watch::Receiver<Tokens>);

impl TokensFile {
    /// # Errors
    /// The file cannot be read, or is not as [`Entry`] says.
    pub(crate) fn start(path: &Path, stop: &CancellationToken) -> anyhow::Result<Self> {
        let tokens = reloaded::follow(path, parse, stop).map_err(anyhow::Error::msg)?;
        Ok(Self(tokens))
    }

    pub(crate) fn verify(&self, token: &str) -> Result<Identity, Refusal> {
        let hash: Hash = Sha256::digest(token).into();
        let known = self.0.borrow().get(&hash).cloned();
        let unknown = || Refusal::new(Reason::Unknown, "the token is not in auth.tokens_file");
        let identity = known.ok_or_else(unknown)?;
        match identity.expires {
            Some(expires) if expires <= Timestamp::now() => {
                let detail = format!("the token of {} expired at {expires}", identity.name);
                Err(Refusal::new(Reason::Expired, detail))
            }
            _ => Ok(identity),
        }
    }
}

/// Checks a file of tokens.
///
/// # Errors
/// Its problem.
pub(crate) fn check_file(path: &Path) -> Result<(), String> {
    reloaded::read(path, parse).map(drop)
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    tokens: Vec<Entry>,
}

/// One token of the file.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    /// The bearer, for the audit log.
    name: String,
    /// SHA-256 of the token, as 64 hexadecimal digits.
    sha256: String,
    role: Role,
    /// Tenants; `*` for all.
    tenants: Vec<String>,
    #[serde(default = "all", skip_serializing_if = "is_all")]
    projects: Vec<String>,
    #[serde(default = "all", skip_serializing_if = "is_all")]
    places: Vec<String>,
    /// From when on the token is refused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    expires: Option<Timestamp>,
}

fn all() -> Vec<String> {
    vec!["*".into()]
}

fn is_all(names: &[String]) -> bool {
    names == ["*"]
}

impl Entry {
    fn identity(&self) -> Identity {
        let part = |given: &[String]| names(given.iter().map(String::as_str));
        Identity {
            name: self.name.as_str().into(),
            role: self.role,
            scope: Arc::new(Scope {
                tenants: part(&self.tenants),
                projects: part(&self.projects),
                places: part(&self.places),
            }),
            expires: self.expires,
        }
    }
}

fn parse(text: &str) -> Result<Tokens, Problems> {
    let mut problems = Problems::default();
    // All of it is text: a name or a hash may look like a number.
    let tree = parse_yaml_as(text, |_| true).map_err(|message| {
        let mut problems = Problems::default();
        problems.add("tokens", message);
        problems
    })?;
    let file: Option<File> = extract(&tree, "", &mut problems);
    let (mut tokens, mut names) = (Tokens::new(), BTreeSet::new());
    for (index, entry) in file.iter().flat_map(|file| &file.tokens).enumerate() {
        let path = |key: &str| format!("tokens[{index}].{key}");
        if entry.name.is_empty() || !names.insert(&entry.name) {
            problems.add(path("name"), "must be given, and different for each token");
        }
        match hash(&entry.sha256) {
            None => problems.add(path("sha256"), "must be 64 hexadecimal digits"),
            Some(hash) => {
                if tokens.insert(hash, entry.identity()).is_some() {
                    problems.add(path("sha256"), "is that of another entry");
                }
            }
        }
    }
    problems.or(tokens)
}

fn hash(text: &str) -> Option<Hash> {
    let mut hash = Hash::default();
    if text.len() != 2 * hash.len() || !text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return None;
    }
    for (byte, digits) in hash.iter_mut().zip(text.as_bytes().chunks(2)) {
        let digits = std::str::from_utf8(digits).ok()?;
        *byte = u8::from_str_radix(digits, 16).ok()?;
    }
    Some(hash)
}

/// A new token with its entry in the file.
#[derive(Debug)]
pub struct NewToken {
    /// The token, which nobody can find out from the entry.
    pub token: Secret,
    entry: Entry,
}

impl NewToken {
    /// A random token of the bearer `name` with `role`, for these tenants, projects and places
    /// (`*` for all).
    ///
    /// # Errors
    /// The system has no random numbers.
    pub fn new(
        name: &str,
        role: Role,
        [tenants, projects, places]: [&[String]; 3],
        expires: Option<Timestamp>,
    ) -> anyhow::Result<Self> {
        let mut random = [0; 32];
        let filled = SystemRandom::new().fill(&mut random);
        filled.map_err(|_| anyhow::anyhow!("the system has no random numbers"))?;
        let token = format!("{PREFIX}{}", URL_SAFE_NO_PAD.encode(random));
        let digest = Sha256::digest(&token);
        let entry = Entry {
            name: name.to_owned(),
            sha256: digest.iter().map(|byte| format!("{byte:02x}")).collect(),
            role,
            tenants: tenants.to_vec(),
            projects: projects.to_vec(),
            places: places.to_vec(),
            expires,
        };
        let token = Secret::from(token);
        Ok(Self { token, entry })
    }
}

impl fmt::Display for NewToken {
    /// The entry of the file: an item of the list `tokens`, in one line.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // JSON is YAML.
        let entry = serde_json::to_string(&self.entry).map_err(|_| fmt::Error)?;
        write!(f, "  - {entry}")
    }
}

#[cfg(test)]
mod tests;
