//! Readiness and metrics of followers.

use std::time::Duration;

use iot_core::partition::TopicPartition;
use iot_service::health::Component;
use tokio::time::Instant;

use super::metrics::FollowerMetrics;
use super::status::Status;
use crate::kafka::progress::Lag;

/// A follower that is further behind makes the replica degraded.
const BEHIND: f64 = 10.0;
/// A follower that does not read for longer makes the replica degraded.
const STUCK: Duration = Duration::from_secs(10);
/// While followers catch up, the numbers in the reason change this often: each change is logged.
const REPEAT: Duration = Duration::from_secs(10);

/// How a follower stands.
#[derive(Debug, Clone)]
pub(super) struct Standing {
    pub(super) partition: TopicPartition,
    pub(super) lag: Option<Lag>,
    pub(super) has_caught_up: bool,
    pub(super) has_other_rules: bool,
    /// For how long it has not been read, and why.
    pub(super) not_read: Option<(Duration, Option<String>)>,
    pub(super) store: Option<String>,
}

impl Standing {
    pub(super) fn of(partition: &TopicPartition, status: &Status, lag: Option<Lag>) -> Self {
        Self {
            partition: partition.clone(),
            lag,
            has_caught_up: status.has_caught_up(),
            has_other_rules: status.has_other_rules(),
            not_read: status.progress.not_read(),
            store: status.store(),
        }
    }

    fn name(&self) -> String {
        let (topic, partition) = self.partition.parts();
        format!("{topic}, partition {partition}")
    }

    /// How far it is behind, for a reason.
    fn behind(&self) -> String {
        match (&self.lag, &self.not_read) {
            (_, Some((_, Some(reason)))) => reason.clone(),
            (Some(lag), _) => format!("{} messages behind", lag.messages),
            (None, _) => "its state is being loaded".into(),
        }
    }
}

/// Reports readiness.
pub(super) struct Report {
    health: Component,
    /// All followers have caught up once.
    was_ready: bool,
    /// What was waited for, without numbers that change all the time, and when it was reported.
    reported: Option<(String, Instant)>,
}

/// What readiness says.
#[derive(Debug, PartialEq, Eq)]
enum Judgement {
    Ready,
    Degraded(String),
    /// Also without the numbers that change all the time.
    NotReady {
        reason: String,
        short: String,
    },
}

impl Report {
    pub(super) fn new(health: Component) -> Self {
        Self {
            health,
            was_ready: false,
            reported: None,
        }
    }

    /// Whether all followers have caught up once.
    pub(super) fn was_ready(&self) -> bool {
        self.was_ready
    }

    /// Reports all followers; `waiting` is why others may not have been started yet.
    pub(super) fn all(
        &mut self,
        standings: &[Standing],
        waiting: Option<String>,
        metrics: &FollowerMetrics,
    ) {
        metrics.partitions.set(standings.len() as i64);
        for Standing { partition, lag, .. } in standings {
            if let Some(lag) = lag {
                let (topic, number) = partition.parts();
                metrics.lag.set(topic, number, *lag);
            }
        }
        match judge(standings, waiting, self.was_ready) {
            Judgement::Ready => {
                self.was_ready = true;
                self.health.ready();
            }
            Judgement::Degraded(reason) => {
                self.was_ready = true;
                self.health.degraded(reason);
            }
            Judgement::NotReady { reason, short } => {
                let last = self.reported.as_ref();
                if last.is_none_or(|(last, at)| *last != short || at.elapsed() >= REPEAT) {
                    self.reported = Some((short, Instant::now()));
                    self.health.not_ready(reason);
                }
            }
        }
    }
}

fn judge(standings: &[Standing], waiting: Option<String>, was_ready: bool) -> Judgement {
    let ready = standings.iter().filter(|one| one.has_caught_up).count();
    if !was_ready {
        if let Some(reason) = waiting {
            return Judgement::NotReady {
                short: reason.clone(),
                reason,
            };
        }
        let behind = standings.iter().filter(|one| !one.has_caught_up);
        // One whose lag is not known is further behind than any other.
        let furthest = behind.max_by_key(|one| one.lag.map_or(i64::MAX, |lag| lag.messages));
        if let Some(furthest) = furthest {
            let reason = format!(
                "{ready} of {} followed partitions have caught up; furthest behind is {}: {}",
                standings.len(),
                furthest.name(),
                furthest.behind()
            );
            let short = format!("{ready} of {}", standings.len());
            return Judgement::NotReady { reason, short };
        }
    }
    match degraded(standings).or(waiting) {
        Some(reason) => Judgement::Degraded(reason),
        None => Judgement::Ready,
    }
}

/// What is wrong with followers that have caught up once; the same text while it lasts.
fn degraded(standings: &[Standing]) -> Option<String> {
    let of = |wrong: &dyn Fn(&Standing) -> bool| {
        let mut all = standings.iter().filter(|one| wrong(one));
        let first = all.next()?;
        let others = match all.count() {
            0 => String::new(),
            more => format!(" and {more} more"),
        };
        Some((first, format!("{}{others}", first.name())))
    };
    let rules = || {
        let (_, names) = of(&|one| one.has_other_rules)?;
        Some(format!(
            "{names} may not be shown as the owner has it: it folds with other settings or another \
             version"
        ))
    };
    let stuck = || {
        let (first, names) = of(&|one| {
            one.not_read
                .as_ref()
                .is_some_and(|(since, _)| *since > STUCK)
        })?;
        let reason = first
            .not_read
            .as_ref()
            .and_then(|(_, reason)| reason.clone());
        let reason = reason.unwrap_or_else(|| "its state is being loaded".into());
        Some(format!("not followed: {names}: {reason}"))
    };
    let behind = || {
        let (_, names) = of(&|one| one.lag.is_some_and(|lag| lag.seconds > BEHIND))?;
        Some(format!("more than {BEHIND} s behind: {names}"))
    };
    let store = || {
        let (first, _) = of(&|one| one.store.is_some())?;
        let reason = first.store.clone()?;
        Some(format!(
            "{reason}; followed partitions are shown from the log"
        ))
    };
    stuck().or_else(rules).or_else(behind).or_else(store)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn standing(partition: i32, messages: i64, seconds: f64) -> Standing {
        Standing {
            partition: TopicPartition::new("device-data", partition),
            lag: Some(Lag { messages, seconds }),
            has_caught_up: messages == 0,
            has_other_rules: false,
            not_read: None,
            store: None,
        }
    }

    #[test]
    fn the_replica_is_not_ready_until_all_have_caught_up_once() {
        let all = [
            standing(0, 0, 0.0),
            standing(1, 5, 1.0),
            standing(2, 700, 3.0),
        ];
        let not_ready = |all: &[Standing]| match judge(all, None, false) {
            Judgement::NotReady { reason, short } => (reason, short),
            other => panic!("{other:?}"),
        };
        let (reason, short) = not_ready(&all);
        assert_eq!(short, "1 of 3");
        assert_eq!(
            reason,
            "1 of 3 followed partitions have caught up; furthest behind is device-data, partition \
             2: 700 messages behind"
        );
        let loading = Standing {
            lag: None,
            not_read: Some((
                Duration::ZERO,
                Some("its owner has not stored any state yet".into()),
            )),
            ..standing(3, 1, 0.0)
        };
        let (reason, _) = not_ready(&[all[2].clone(), loading]);
        let end =
            "furthest behind is device-data, partition 3: its owner has not stored any state yet";
        assert!(reason.ends_with(end), "{reason}");
        assert_eq!(
            judge(&[], None, false),
            Judgement::Ready,
            "there is nothing to follow"
        );
        let waiting = judge(&[], Some("asking".into()), false);
        let expected = Judgement::NotReady {
            reason: "asking".into(),
            short: "asking".into(),
        };
        assert_eq!(waiting, expected);
        assert_eq!(
            judge(&all, None, true),
            Judgement::Ready,
            "they may fall behind again"
        );
    }

    #[test]
    fn later_trouble_makes_it_degraded() {
        let wrong = |change: &dyn Fn(&mut Standing)| {
            let mut other = standing(1, 0, 0.0);
            change(&mut other);
            match judge(&[standing(0, 0, 0.0), other.clone(), other], None, true) {
                Judgement::Degraded(reason) => reason,
                other => panic!("{other:?}"),
            }
        };
        type Change<'c> = &'c dyn Fn(&mut Standing);
        let cases: [(Change<'_>, &str); 4] = [
            (
                &|one| {
                    one.lag = Some(Lag {
                        messages: 9,
                        seconds: 11.0,
                    })
                },
                "more than 10 s behind",
            ),
            (
                &|one| one.has_other_rules = true,
                "may not be shown as the owner has it",
            ),
            (
                &|one| one.not_read = Some((Duration::from_secs(11), Some("no leader".into()))),
                "not followed: device-data, partition 1 and 1 more: no leader",
            ),
            (
                &|one| one.store = Some("Redis is away".into()),
                "Redis is away; followed",
            ),
        ];
        for (change, part) in cases {
            let reason = wrong(change);
            assert!(reason.contains(part), "{reason}");
        }
        let reason = judge(&[standing(0, 0, 0.0)], Some("no answer".into()), true);
        assert_eq!(reason, Judgement::Degraded("no answer".into()));
    }
}
