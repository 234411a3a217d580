//! Where the state of partitions is kept, together with the offset up to which
//! it has been applied: both change in one atomic step or not at all.
//! docs/state.md describes what a store holds.

mod keeper;
mod memory;
mod metrics;
mod outage;
mod redis;
mod settings;
mod url;

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use iot_core::partition::TopicPartition;
use iot_fold::Changes;

use crate::config::StoreConfig;
pub(crate) use keeper::{Keeper, Unloaded, Unstored};
use memory::Memory;
pub(crate) use metrics::StoreMetrics;
use redis::Redis;
use url::Target;

/// Changes that move a partition from one offset to another.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Step<'a> {
    pub(crate) partition: &'a TopicPartition,
    /// The offset that must be stored now; `None` if nothing may be stored.
    pub(crate) from: Option<i64>,
    /// The offset that is stored afterwards.
    pub(crate) to: i64,
    pub(crate) changes: &'a Changes,
}

/// What a store holds of a partition, without its sealed windows.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Stored {
    /// Next offset to apply; `None` if nothing was ever stored.
    pub(crate) offset: Option<i64>,
    /// All live values, in no particular order.
    pub(crate) entries: Vec<(String, Vec<u8>)>,
}

/// A step was refused because the stored offset is not the expected one:
/// somebody else applied to this partition, or the store lost what it had.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the store is at offset {stored:?}, not at {expected:?}")]
pub(crate) struct Conflict {
    pub(crate) stored: Option<i64>,
    pub(crate) expected: Option<i64>,
}

/// Why a store can't be used for now, for metrics.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Trouble {
    /// No connection.
    Unreachable,
    /// No answer in time.
    Timeout,
    /// It starts, or its replicas change roles.
    Busy,
    /// It has no memory left.
    Full,
    /// The login or the rights of the user.
    Denied,
    /// Anything else that it answered.
    Refused,
}

impl Trouble {
    pub(crate) const ALL: [Self; 6] = [
        Self::Unreachable,
        Self::Timeout,
        Self::Busy,
        Self::Full,
        Self::Denied,
        Self::Refused,
    ];

    pub(crate) fn label(self) -> &'static str {
        match self {
            Self::Unreachable => "unreachable",
            Self::Timeout => "timeout",
            Self::Busy => "busy",
            Self::Full => "full",
            Self::Denied => "denied",
            Self::Refused => "refused",
        }
    }
}

/// The store can't be used now. Whether a step was taken is not known: the same
/// step may be tried again.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub(crate) struct Unavailable {
    pub(crate) trouble: Trouble,
    pub(crate) message: String,
}

/// Why a step was not taken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum ApplyError {
    /// It never will be.
    #[error(transparent)]
    Conflict(#[from] Conflict),
    /// It may be later, or was already.
    #[error(transparent)]
    Unavailable(#[from] Unavailable),
}

/// Why there is no state to load.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum LoadError {
    /// There may be later.
    #[error(transparent)]
    Unavailable(#[from] Unavailable),
    /// Another version wrote it, or somebody else.
    #[error("{0}")]
    Unusable(String),
}

/// A store, by the scheme of its URL.
#[derive(Debug)]
pub(crate) enum Store {
    /// `memory://`: lives as long as the process.
    Memory(Memory),
    /// `redis://` and its relatives.
    Redis(Redis),
}

impl Store {
    /// Opens the store of `config`, which keeps windows for `retention` at most;
    /// nothing is connected yet.
    ///
    /// # Errors
    /// The settings are not valid.
    pub(crate) fn open(config: &StoreConfig, retention: Duration) -> anyhow::Result<Self> {
        let target = Target::parse(config.url.expose()).map_err(anyhow::Error::msg)?;
        let longest = i64::try_from(retention.as_millis()).unwrap_or(i64::MAX);
        Ok(match target {
            Target::Memory => Self::Memory(Memory::new(longest)),
            Target::Redis(servers) => Self::Redis(Redis::new(servers, config, longest)),
        })
    }

    /// How many bytes a step has on its way into the store.
    pub(crate) fn encoded(&self, step: &Step<'_>) -> usize {
        match self {
            Self::Memory(_) => 0,
            Self::Redis(redis) => redis.encode(step, now()).len(),
        }
    }

    /// Whether state outlives the process.
    pub(crate) fn is_durable(&self) -> bool {
        match self {
            Self::Memory(_) => false,
            Self::Redis(_) => true,
        }
    }

    /// Asks whether it answers, and warns of what would lose state.
    ///
    /// # Errors
    /// It doesn't.
    pub(crate) async fn ping(&self) -> Result<(), Unavailable> {
        match self {
            Self::Memory(_) => Ok(()),
            Self::Redis(redis) => redis.ping().await,
        }
    }

    /// Live state and offset of a partition, as of one moment.
    ///
    /// # Errors
    /// It can't be read now, or not by this version.
    pub(crate) async fn load(&self, partition: &TopicPartition) -> Result<Stored, LoadError> {
        match self {
            Self::Memory(memory) => Ok(memory.load(partition)),
            Self::Redis(redis) => redis.load(partition).await,
        }
    }

    /// Takes a step as a whole or not at all. The same step a second time is one.
    ///
    /// # Errors
    /// The stored offset is neither `from` nor already `to`, and nothing is
    /// written; or the store doesn't say, and the step may be taken or not.
    pub(crate) async fn apply(&self, step: &Step<'_>) -> Result<(), ApplyError> {
        match self {
            Self::Memory(memory) => Ok(memory.apply(step, now())?),
            Self::Redis(redis) => redis.apply(step, now()).await,
        }
    }

    /// Forgets the live state of a partition and begins at `offset`, whatever is
    /// stored. Sealed windows stay until they expire.
    ///
    /// # Errors
    /// The store can't be used now.
    pub(crate) async fn reset(
        &self,
        partition: &TopicPartition,
        offset: i64,
    ) -> Result<(), Unavailable> {
        match self {
            Self::Memory(memory) => {
                memory.reset(partition, offset);
                Ok(())
            }
            Self::Redis(redis) => redis.reset(partition, offset).await,
        }
    }

    /// Those of the sealed windows with these keys that are still kept.
    ///
    /// # Errors
    /// They can't be read now.
    pub(crate) async fn windows(
        &self,
        partition: &TopicPartition,
        keys: &[String],
    ) -> Result<Vec<Vec<u8>>, Unavailable> {
        match self {
            Self::Memory(memory) => Ok(memory.windows(partition, keys, now())),
            Self::Redis(redis) => redis.windows(partition, keys).await,
        }
    }
}

/// Milliseconds since the epoch. Only how long windows are kept goes by it.
fn now() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |since| {
        i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
    })
}

#[cfg(test)]
pub(crate) mod tests {
    use iot_fold::{DeviceKey, Sealed};

    /// Sealed windows without any sensor. Their start tells devices apart, so that each has
    /// a value of its own.
    pub(crate) fn sealed(device: &str, expires: i64) -> Sealed {
        let start = device.bytes().map(i64::from).sum::<i64>();
        Sealed {
            key: DeviceKey {
                tenant: "t".into(),
                project: "p".into(),
                device: device.into(),
            },
            size: 60_000,
            start,
            expires,
            sensors: Vec::new(),
        }
    }
}
