//! The stores. A store keeps the state of partitions together with the offset up to which
//! it was applied; both change in one atomic step or not at all. docs/state.md describes what
//! a store holds.

mod keeper;
mod log_id;
mod memory;
mod metrics;
mod redis;
mod settings;
mod url;

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use iot_core::partition::TopicPartition;
use iot_fold::{Changes, Sealed, TIME_KEY};

use crate::config::StoreConfig;
use crate::config::millis;
pub(crate) use keeper::{Keeper, Unloaded, Unstored};
pub(crate) use log_id::LogId;
use memory::Memory;
pub(crate) use metrics::StoreMetrics;
use redis::Redis;
use url::Target;

/// How long state of another log is kept: enough to notice that a topic was deleted by mistake.
pub(crate) const KEPT_ASIDE: Duration = Duration::from_secs(7 * 24 * 60 * 60);

/// Changes that move a partition from one offset to another.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Step<'a> {
    pub(crate) partition: &'a TopicPartition,
    /// The offset that the store must have before the step; `None` if it must have none.
    pub(crate) from: Option<i64>,
    /// The offset that is stored afterwards. The same as `from` to store `log` only.
    pub(crate) to: i64,
    /// The log that has the offset.
    pub(crate) log: LogId,
    pub(crate) changes: &'a Changes,
}

/// A partition whose state is of a log that is gone.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Replaced<'a> {
    pub(crate) partition: &'a TopicPartition,
    /// The offset that must be stored, and its log.
    pub(crate) from: i64,
    pub(crate) before: LogId,
    /// Where the partition begins again, and in which log.
    pub(crate) to: i64,
    pub(crate) log: LogId,
}

/// The live state of a partition, without its sealed windows.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Stored {
    /// Next offset to apply; `None` if nothing was ever stored.
    pub(crate) offset: Option<i64>,
    /// The log that has the offset.
    pub(crate) log: LogId,
    /// Another one if the state was begun again; `None` if it is not known.
    pub(crate) begun: Option<String>,
    /// Names the rules of the fold; `None` if they are not known.
    pub(crate) rules: Option<String>,
    /// All live values, in no particular order.
    pub(crate) entries: Vec<(String, Vec<u8>)>,
}

impl Stored {
    /// How many devices it has; the entries also have the partition's time.
    pub(crate) fn devices(&self) -> usize {
        let names = self.entries.iter().map(|(name, _)| name);
        names.filter(|name| *name != TIME_KEY).count()
    }
}

/// A step was refused because the stored offset is not the expected one: another consumer
/// has stored state of this partition, or the store has lost some.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the stored offset is {}, expected {}", shown(*stored), shown(*expected))]
pub(crate) struct Conflict {
    pub(crate) stored: Option<i64>,
    pub(crate) expected: Option<i64>,
}

fn shown(offset: Option<i64>) -> String {
    offset.map_or_else(|| "none".to_owned(), |offset| offset.to_string())
}

/// Why a store is unavailable, for metrics.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Trouble {
    /// There is no connection.
    Unreachable,
    /// It did not answer in time.
    Timeout,
    /// It cannot serve the request now: it is starting, runs a script or changes roles, or
    /// another consumer keeps writing to the state.
    Busy,
    /// It has no memory left.
    Full,
    /// It denied the login or a command.
    Denied,
    /// It answered with another error.
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

/// The store is unavailable. Whether a step was applied is unknown; the same step may be
/// retried.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub(crate) struct Unavailable {
    pub(crate) trouble: Trouble,
    pub(crate) message: String,
}

/// Why a step was not applied.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum ApplyError {
    /// It is refused permanently.
    #[error(transparent)]
    Conflict(#[from] Conflict),
    /// It may be retried.
    #[error(transparent)]
    Unavailable(#[from] Unavailable),
}

/// Why state could not be loaded.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum LoadError {
    /// It may be retried.
    #[error(transparent)]
    Unavailable(#[from] Unavailable),
    /// Another version or another program wrote it.
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
        let longest = millis(retention);
        Ok(match target {
            Target::Memory => Self::Memory(Memory::new(longest)),
            Target::Redis(servers) => Self::Redis(Redis::new(servers, config, longest)),
        })
    }

    /// Stores these rules of the fold with each step.
    pub(crate) fn with_rules(mut self, rules: String) -> Self {
        match &mut self {
            // Nobody else reads them there.
            Self::Memory(_) => {}
            Self::Redis(redis) => redis.set_rules(rules),
        }
        self
    }

    /// Size of a step as it is sent to the store, in bytes; 0 for memory. For benchmarks.
    pub(crate) fn encoded_len(&self, step: &Step<'_>) -> usize {
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

    /// Checks that it answers, and warns about settings that would lose state.
    ///
    /// # Errors
    /// It does not answer.
    pub(crate) async fn ping(&self) -> Result<(), Unavailable> {
        match self {
            Self::Memory(_) => Ok(()),
            Self::Redis(redis) => redis.ping().await,
        }
    }

    /// Loads live state and offset of a partition, which belong to the same step.
    ///
    /// # Errors
    /// The store is unavailable, or this version cannot read the state.
    pub(crate) async fn load(&self, partition: &TopicPartition) -> Result<Stored, LoadError> {
        match self {
            Self::Memory(memory) => Ok(memory.load(partition)),
            Self::Redis(redis) => redis.load(partition).await,
        }
    }

    /// The same without the values, which costs little.
    ///
    /// # Errors
    /// The store is unavailable, or this version cannot read the state.
    pub(crate) async fn head(&self, partition: &TopicPartition) -> Result<Stored, LoadError> {
        match self {
            Self::Memory(memory) => Ok(memory.head(partition)),
            Self::Redis(redis) => redis.head(partition).await,
        }
    }

    /// Keeps sealed windows for this process, without an offset, if nothing else keeps them: a
    /// follower can't expect that anybody else stores them here.
    pub(crate) fn keep_windows(&self, partition: &TopicPartition, windows: &[Sealed]) {
        match self {
            Self::Memory(memory) => memory.keep(partition, windows, now()),
            Self::Redis(_) => {}
        }
    }

    /// Applies a step as a whole or not at all. The same step a second time changes nothing.
    ///
    /// # Errors
    /// The stored offset is neither `from` nor already `to`, and nothing was written; or the
    /// store is unavailable, and the step may have been applied.
    pub(crate) async fn apply(&self, step: &Step<'_>) -> Result<(), ApplyError> {
        match self {
            Self::Memory(memory) => Ok(memory.apply(step, now())?),
            Self::Redis(redis) => redis.apply(step, now()).await,
        }
    }

    /// Deletes the live state of a partition and sets its offset, whatever is stored. Sealed
    /// windows stay until they expire.
    ///
    /// # Errors
    /// The store is unavailable.
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

    /// Sets the live state of a partition aside, where it expires after [`KEPT_ASIDE`], and
    /// stores `to` in `log` without any values. In memory nothing could read it there, so it is
    /// dropped. Sealed windows stay until they expire.
    ///
    /// # Errors
    /// The stored offset is not `from`, and nothing was changed; or the store is unavailable.
    pub(crate) async fn set_aside(&self, replaced: &Replaced<'_>) -> Result<(), ApplyError> {
        match self {
            Self::Memory(memory) => Ok(memory.set_aside(replaced)?),
            Self::Redis(redis) => redis.set_aside(replaced).await,
        }
    }

    /// The values of the sealed windows with these keys, as far as they are still kept.
    ///
    /// # Errors
    /// The store is unavailable.
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

/// Milliseconds since the Unix epoch. Only the retention of windows depends on it.
fn now() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, millis)
}

#[cfg(test)]
pub(crate) mod tests {
    use iot_fold::DeviceKey;

    use super::Sealed;

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
