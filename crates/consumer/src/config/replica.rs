//! What a replica does: settings `role`, `follow` and `follow_topics`.

use serde::{Deserialize, Serialize};

/// What a replica does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// It owns partitions, follows the others and serves clients.
    All,
    /// It owns partitions. It follows none, and has no page, API or WebSocket.
    Fold,
    /// It follows partitions and serves clients. It is no member of the group and writes nothing.
    Serve,
}

impl Role {
    /// Whether it is a member of the group.
    pub(crate) fn is_member(self) -> bool {
        self != Self::Serve
    }

    /// Whether it shows partitions to clients.
    pub(crate) fn serves(self) -> bool {
        self != Self::Fold
    }
}

/// Which partitions a replica follows, of those that others own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Follow {
    /// Those of all topics in `kafka.topics`.
    All,
    /// Those of topics that are in `follow_topics` too.
    Topics,
    /// None: clients see only the partitions that this replica owns.
    None,
}
