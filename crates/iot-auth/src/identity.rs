//! What a verified token, or a trusted proxy, says about a client.

use std::collections::BTreeSet;
use std::sync::Arc;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

/// What an identity may do. A later role may do all that an earlier one may.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Read.
    Viewer,
    /// Acknowledge, comment and shelve alerts.
    Operator,
    /// Remove devices, and read dead letters whose tenant is unknown.
    Admin,
}

/// All names, or only some.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Names {
    /// Any name.
    All,
    /// These names; none if empty.
    Only(BTreeSet<Arc<str>>),
}

impl Names {
    /// Whether `name` is one of them.
    #[must_use]
    pub fn contains(&self, name: &str) -> bool {
        match self {
            Self::All => true,
            Self::Only(names) => names.contains(name),
        }
    }
}

/// Which devices an identity may see: those for which every part says so.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Scope {
    /// Their tenants.
    pub tenants: Names,
    /// Their projects.
    pub projects: Names,
    /// Their places: `building`, `building/floor` or `building/floor/room`, each with all that
    /// is inside. Devices without a place are visible only to those who may see all places.
    pub places: Names,
}

impl Scope {
    /// Everything.
    pub const ALL: Self = Self {
        tenants: Names::All,
        projects: Names::All,
        places: Names::All,
    };
}

/// A client that has proved who it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// Its name, for the audit log: the subject of a token, or the user that a proxy names.
    pub name: Arc<str>,
    /// What it may do.
    pub role: Role,
    /// What it may see.
    pub scope: Arc<Scope>,
    /// When it has to prove who it is again; `None` for never.
    pub expires: Option<Timestamp>,
}
