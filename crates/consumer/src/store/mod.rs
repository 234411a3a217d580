//! Where the state of partitions is kept, together with the offset up to which
//! it has been applied: both change in one atomic step or not at all.

mod memory;

use memory::Memory;

/// One value that changed; `None` deletes it. Keys are unique in a partition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Change {
    pub(crate) key: String,
    pub(crate) value: Option<Vec<u8>>,
}

/// What a store holds of a partition.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Stored {
    /// Next offset to apply; `None` if nothing was ever stored.
    pub(crate) offset: Option<i64>,
    /// All values, in no particular order.
    pub(crate) entries: Vec<(String, Vec<u8>)>,
}

/// A step was refused because the stored offset is not the expected one:
/// somebody else applied to this partition.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the store is at offset {stored:?}, not at {expected:?}")]
pub(crate) struct Conflict {
    pub(crate) stored: Option<i64>,
    pub(crate) expected: Option<i64>,
}

/// Partition of a topic.
pub(crate) type Partition<'a> = (&'a str, i32);

/// A store, by the scheme of its URL.
#[derive(Debug)]
pub(crate) enum Store {
    /// `memory://`: lives as long as the process.
    Memory(Memory),
}

impl Store {
    /// Opens the store of a URL.
    ///
    /// # Errors
    /// See [`check_url`](Self::check_url).
    pub(crate) fn open(url: &str) -> anyhow::Result<Self> {
        Self::check_url(url).map_err(anyhow::Error::msg)?;
        Ok(Self::Memory(Memory::default()))
    }

    /// Whether a URL names a store that exists.
    ///
    /// # Errors
    /// What is wrong with it, for the user.
    pub(crate) fn check_url(url: &str) -> Result<(), String> {
        match url.split_once("://") {
            Some(("memory", "")) => Ok(()),
            Some(("memory", _)) => Err("memory:// takes nothing after it".into()),
            Some(("redis" | "rediss", _)) => {
                Err("Redis is not supported yet: use memory://".into())
            }
            _ => Err(format!("{url:?} is not a store: use memory://")),
        }
    }

    /// Everything stored of a partition, as of one moment.
    pub(crate) async fn load(&self, partition: Partition<'_>) -> Stored {
        match self {
            Self::Memory(memory) => memory.load(partition),
        }
    }

    /// Writes `changes` and moves the offset from `from` to `to` in one step.
    ///
    /// # Errors
    /// The stored offset is neither `from` nor already `to`; nothing is written.
    pub(crate) async fn apply(
        &self,
        partition: Partition<'_>,
        from: Option<i64>,
        to: i64,
        changes: Vec<Change>,
    ) -> Result<(), Conflict> {
        match self {
            Self::Memory(memory) => memory.apply(partition, from, to, changes),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_stores_that_exist_are_taken() {
        assert!(Store::open("memory://").is_ok());
        for (url, expected) in [
            ("redis://localhost:6379", "not supported yet"),
            ("memory://x", "takes nothing"),
            ("localhost", "is not a store"),
        ] {
            let error = Store::open(url).unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        }
    }
}
