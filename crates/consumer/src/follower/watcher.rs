//! What the store says of a followed partition, and what follows from it.

use std::sync::Arc;
use std::time::Duration;

use iot_core::partition::TopicPartition;
use iot_service::Backoff;
use tokio::sync::watch;
use tokio::task::JoinSet;

use super::metrics::Reload;
use crate::store::{Keeper, LoadError, LogId, Stored};

/// How often the store is asked.
const EVERY: Duration = Duration::from_secs(1);

/// The state as of one question.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Seen {
    pub(super) offset: Option<i64>,
    pub(super) log: LogId,
    pub(super) begun: Option<String>,
    pub(super) rules: Option<String>,
}

impl Seen {
    /// What was loaded, or asked for without its values.
    pub(super) fn of(stored: &Stored) -> Self {
        Self {
            offset: stored.offset,
            log: stored.log,
            begun: stored.begun.clone(),
            rules: stored.rules.clone(),
        }
    }
}

/// What a follower has to do.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Continue: everything before this offset is stored.
    Stored {
        offset: i64,
        /// By an owner with the same rules, or unknown ones.
        same_rules: bool,
    },
    /// Continue: the store does not tell anything, for this reason.
    Unknown(String),
    Reload(Reload),
}

/// Asks the store regularly. A store in memory has nothing to tell.
pub(super) struct Watcher {
    answers: watch::Receiver<Option<Result<Seen, String>>>,
    /// Ends when it is dropped.
    _task: JoinSet<()>,
    rules: String,
    /// The last state that was seen.
    last: Option<Seen>,
    has_other_rules: bool,
}

impl Watcher {
    pub(super) fn start(
        store: Arc<Keeper>,
        partition: TopicPartition,
        rules: String,
        loaded: Option<Seen>,
    ) -> Self {
        let (answer, answers) = watch::channel(None);
        let mut task = JoinSet::new();
        if store.is_durable() {
            task.spawn(ask(store, partition, answer));
        }
        let is_other = |seen: &Seen| seen.rules.as_ref().is_some_and(|found| *found != rules);
        Self {
            answers,
            _task: task,
            has_other_rules: loaded.as_ref().is_some_and(is_other),
            rules,
            last: loaded,
        }
    }

    /// The next answer. Cancel safe.
    pub(super) async fn changed(&mut self) -> Result<Seen, String> {
        loop {
            if self.answers.changed().await.is_err() {
                return std::future::pending().await;
            }
            if let Some(answer) = self.answers.borrow_and_update().clone() {
                return answer;
            }
        }
    }

    /// Compares an answer with what was known, and with the log that is followed.
    pub(super) fn judge(&mut self, answer: Result<Seen, String>, log: LogId) -> Verdict {
        let seen = match answer {
            Ok(seen) => seen,
            Err(reason) => return Verdict::Unknown(reason),
        };
        let Some(offset) = seen.offset else {
            return match self.last {
                // The state is gone.
                Some(_) => Verdict::Reload(Reload::Reset),
                // Of a partition that is followed since its owner ended here.
                None => Verdict::Unknown("the store has no state".into()),
            };
        };
        if let (Some(found), Some(followed)) = (seen.log.topic_id, log.topic_id)
            && found != followed
        {
            return Verdict::Reload(Reload::AnotherLog);
        }
        let last = self.last.as_ref();
        let is_reset = last.is_some_and(|last| {
            let is_behind = last.offset.is_some_and(|before| offset < before);
            is_behind || seen.begun != last.begun
        });
        if is_reset {
            return Verdict::Reload(Reload::Reset);
        }
        if let Some(rules) = &seen.rules {
            let before = std::mem::replace(&mut self.has_other_rules, *rules != self.rules);
            // What was folded meanwhile is not what the owner has.
            if before && !self.has_other_rules {
                return Verdict::Reload(Reload::Rules);
            }
        }
        self.last = Some(seen);
        Verdict::Stored {
            offset,
            same_rules: !self.has_other_rules,
        }
    }
}

async fn ask(
    store: Arc<Keeper>,
    partition: TopicPartition,
    answer: watch::Sender<Option<Result<Seen, String>>>,
) {
    // At random, so that many followers do not ask at the same time.
    let mut pause = Backoff::new(EVERY, EVERY);
    loop {
        tokio::time::sleep(pause.next_delay()).await;
        let head = store.head(&partition).await;
        let seen = head.map(|stored| Seen::of(&stored));
        let seen = seen.map_err(|error| match error {
            LoadError::Unavailable(error) => error.to_string(),
            LoadError::Unusable(reason) => format!("the stored state can't be read: {reason}"),
        });
        if answer.send(Some(seen)).is_err() {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(offset: i64) -> Seen {
        Seen {
            offset: Some(offset),
            log: log(7),
            begun: Some("1".into()),
            rules: Some("own".into()),
        }
    }

    fn log(id: u8) -> LogId {
        LogId {
            topic_id: kafka_fetch::TopicId::from_bytes([id; 16]),
            leader_epoch: None,
        }
    }

    /// After state was loaded at offset 10.
    fn watcher(loaded: Option<Seen>) -> Watcher {
        Watcher {
            answers: watch::channel(None).1,
            _task: JoinSet::new(),
            rules: "own".into(),
            last: loaded,
            has_other_rules: false,
        }
    }

    fn stored(offset: i64, same_rules: bool) -> Verdict {
        Verdict::Stored { offset, same_rules }
    }

    #[test]
    fn a_follower_continues_while_the_same_state_moves_on() {
        let mut watcher = watcher(Some(seen(10)));
        assert_eq!(watcher.judge(Ok(seen(10)), log(7)), stored(10, true));
        let away = Err("Redis is away".to_owned());
        assert_eq!(
            watcher.judge(away, log(7)),
            Verdict::Unknown("Redis is away".into())
        );
        // An unknown id is no other one.
        let unknown = Seen {
            log: LogId::default(),
            ..seen(11)
        };
        assert_eq!(watcher.judge(Ok(unknown), log(7)), stored(11, true));
        assert_eq!(
            watcher.judge(Ok(seen(12)), LogId::default()),
            stored(12, true)
        );
    }

    #[test]
    fn another_state_is_loaded_again() {
        let none = Seen {
            offset: None,
            begun: None,
            rules: None,
            log: LogId::default(),
        };
        let begun = Seen {
            begun: Some("2".into()),
            ..seen(500)
        };
        let of_before = Seen {
            begun: None,
            ..seen(500)
        };
        let other = Seen {
            log: log(8),
            ..seen(11)
        };
        for (found, expected) in [
            (none.clone(), Reload::Reset),
            (begun, Reload::Reset),
            (of_before, Reload::Reset),
            (seen(9), Reload::Reset),
            (other, Reload::AnotherLog),
        ] {
            let verdict = watcher(Some(seen(10))).judge(Ok(found.clone()), log(7));
            assert_eq!(verdict, Verdict::Reload(expected), "{found:?}");
        }
        // After an owner that has ended here there is nothing to compare with at first.
        let mut watcher = watcher(None);
        assert!(matches!(
            watcher.judge(Ok(none), log(7)),
            Verdict::Unknown(_)
        ));
        assert_eq!(watcher.judge(Ok(seen(3)), log(7)), stored(3, true));
        assert_eq!(
            watcher.judge(Ok(seen(2)), log(7)),
            Verdict::Reload(Reload::Reset)
        );
    }

    #[test]
    fn other_rules_are_reported_until_they_are_equal_and_then_the_state_is_loaded_again() {
        let with = |offset, rules: Option<&str>| {
            Ok(Seen {
                rules: rules.map(str::to_owned),
                ..seen(offset)
            })
        };
        let mut watcher = watcher(Some(seen(10)));
        assert_eq!(
            watcher.judge(with(11, Some("other")), log(7)),
            stored(11, false)
        );
        // A version that does not know the field says nothing about it.
        assert_eq!(watcher.judge(with(12, None), log(7)), stored(12, false));
        let reload = Verdict::Reload(Reload::Rules);
        assert_eq!(watcher.judge(with(13, Some("own")), log(7)), reload);
    }
}
