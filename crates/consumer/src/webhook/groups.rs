//! Groups alerts into notifications as Alertmanager does (`group_by`, `group_wait`,
//! `group_interval`), so that a storm makes few of them.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use iot_fold::{Alert, AlertKind, AlertStatus};
use serde::Serialize;
use tokio::time::Instant;

use crate::config::WebhookConfig;

/// The most groups: devices choose their names.
const MOST_GROUPS: usize = 1_000;

/// There are too many groups for another one.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct TooManyGroups;

/// What the alerts of a group have in common.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub(super) struct GroupKey {
    tenant: Arc<str>,
    /// Empty if it is unknown.
    building: Arc<str>,
    kind: AlertKind,
}

/// The news of a group: the body of a notification.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(super) struct Notification {
    #[serde(flatten)]
    key: GroupKey,
    /// How many alerts were raised since the last notification.
    raised: u64,
    /// How many were cleared.
    cleared: u64,
    /// How many of both are not in `alerts`.
    pub(super) truncated: u64,
    /// The others, each in its last state: the most severe first, then in order of arrival.
    pub(super) alerts: Vec<Alert>,
}

#[derive(Debug)]
struct Group {
    /// When its next notification may be sent.
    due: Instant,
    new: Option<Notification>,
}

/// Alerts that wait for their notification.
#[derive(Debug)]
pub(super) struct Groups {
    wait: Duration,
    interval: Duration,
    /// Alerts in one notification.
    most: usize,
    groups: BTreeMap<GroupKey, Group>,
}

impl GroupKey {
    fn of(alert: &Alert) -> Self {
        let place = alert.location.as_deref();
        Self {
            tenant: alert.key.tenant.clone(),
            building: place.map_or_else(|| "".into(), |place| place.building.clone()),
            kind: alert.kind,
        }
    }
}

impl Notification {
    fn new(key: GroupKey) -> Self {
        Self {
            key,
            raised: 0,
            cleared: 0,
            truncated: 0,
            alerts: Vec::new(),
        }
    }

    fn add(&mut self, alert: Alert, most: usize) {
        match alert.state {
            AlertStatus::Raised => self.raised += 1,
            AlertStatus::Cleared => self.cleared += 1,
        }
        let has_room = self.alerts.len() < most;
        let listed = self.alerts.iter_mut().find(|known| known.id == alert.id);
        match listed {
            Some(known) => *known = alert,
            None if has_room => self.alerts.push(alert),
            None => {
                self.truncated += 1;
                let less_severe = |known: &Alert| known.level < alert.level;
                if let Some(last) = self.alerts.iter().rposition(less_severe) {
                    self.alerts.remove(last);
                    self.alerts.push(alert);
                }
            }
        }
    }

    /// With the most severe alerts first.
    fn sorted(mut self) -> Self {
        self.alerts.sort_by_key(|alert| Reverse(alert.level));
        self
    }
}

impl Groups {
    pub(super) fn new(config: &WebhookConfig) -> Self {
        Self {
            wait: *config.group_wait,
            interval: *config.group_interval,
            most: config.max_alerts,
            groups: BTreeMap::new(),
        }
    }

    /// Adopts changed settings.
    pub(super) fn adopt(&mut self, config: &WebhookConfig) {
        let groups = std::mem::take(&mut self.groups);
        *self = Self::new(config);
        self.groups = groups;
    }

    /// Adds an alert to its group.
    ///
    /// # Errors
    /// There are too many groups for another one.
    pub(super) fn add(&mut self, alert: Alert, now: Instant) -> Result<(), TooManyGroups> {
        let key = GroupKey::of(&alert);
        if self.groups.len() >= MOST_GROUPS && !self.groups.contains_key(&key) {
            return Err(TooManyGroups);
        }
        let group = self.groups.entry(key.clone()).or_insert_with(|| Group {
            due: now + self.wait,
            new: None,
        });
        let new = group.new.get_or_insert_with(|| Notification::new(key));
        new.add(alert, self.most);
        Ok(())
    }

    /// When the next group is due.
    pub(super) fn due(&self) -> Option<Instant> {
        self.groups.values().map(|group| group.due).min()
    }

    /// The notification that has been due for longest. Groups without news since their last
    /// one are dropped: their next alert waits again.
    pub(super) fn take_due(&mut self, now: Instant) -> Option<Notification> {
        self.groups
            .retain(|_, group| group.due > now || group.new.is_some());
        let due = self.groups.values_mut().filter(|group| group.due <= now);
        let group = due.min_by_key(|group| group.due)?;
        group.due = now + self.interval;
        group.new.take().map(Notification::sorted)
    }

    /// All news, due or not.
    pub(super) fn take_all(&mut self) -> impl Iterator<Item = Notification> {
        let groups = std::mem::take(&mut self.groups).into_values();
        groups.filter_map(|group| group.new.map(Notification::sorted))
    }
}

#[cfg(test)]
mod tests {
    use iot_fold::Level;
    use iot_service::config::HumanDuration;

    use super::*;
    use crate::webhook::sample::alert;

    const WAIT: Duration = Duration::from_secs(10);
    const INTERVAL: Duration = Duration::from_secs(60);

    fn new(max_alerts: usize) -> Groups {
        Groups::new(&WebhookConfig {
            group_wait: HumanDuration::from_secs(10),
            group_interval: HumanDuration::from_secs(60),
            max_alerts,
            ..WebhookConfig::default()
        })
    }

    fn raised(id: &str) -> Alert {
        alert(id, 1, AlertStatus::Raised)
    }

    fn ids(notification: &Notification) -> Vec<&str> {
        let alerts = notification.alerts.iter();
        alerts.map(|alert| &*alert.id).collect()
    }

    #[test]
    fn the_first_waits_and_the_others_keep_a_distance() {
        let (mut groups, begin) = (new(9), Instant::now());
        assert_eq!((groups.due(), groups.take_due(begin)), (None, None));
        groups.add(raised("a"), begin).unwrap();
        groups.add(raised("b"), begin + WAIT / 2).unwrap();
        let due = begin + WAIT;
        assert_eq!(groups.due(), Some(due));
        assert_eq!(groups.take_due(begin + WAIT / 2), None);
        assert_eq!(ids(&groups.take_due(due).unwrap()), ["a", "b"]);
        groups.add(raised("c"), due).unwrap();
        assert_eq!(groups.take_due(due + WAIT), None);
        let next = due + INTERVAL;
        assert_eq!(groups.due(), Some(next));
        assert_eq!(ids(&groups.take_due(next).unwrap()), ["c"]);
        // Nothing new for so long: forgotten, and the next alert waits again.
        let later = next + INTERVAL;
        assert_eq!((groups.take_due(later), groups.due()), (None, None));
        groups.add(raised("d"), later).unwrap();
        assert_eq!(groups.due(), Some(later + WAIT));
        assert_eq!(groups.take_all().count(), 1);
    }

    #[test]
    fn a_group_has_a_tenant_a_building_and_a_kind() {
        let (mut groups, now) = (new(9), Instant::now());
        let (mut other_tenant, mut elsewhere) = (raised("b"), raised("c"));
        other_tenant.key.tenant = "other".into();
        elsewhere.location = Some(Arc::new(iot_fold::Place {
            building: "b2".into(),
            ..Default::default()
        }));
        let mut other_kind = raised("d");
        other_kind.kind = AlertKind::Silence;
        for alert in [
            raised("a"),
            other_tenant,
            elsewhere,
            other_kind,
            raised("e"),
        ] {
            groups.add(alert, now).unwrap();
        }
        let mut counts: Vec<_> = groups.take_all().map(|all| all.raised).collect();
        counts.sort_unstable();
        assert_eq!(counts, [1, 1, 1, 2]);
    }

    #[test]
    fn what_is_not_listed_is_counted_and_what_changes_is_listed_once() {
        let (mut groups, now) = (new(2), Instant::now());
        for id in ["a", "b", "c", "d"] {
            groups.add(raised(id), now).unwrap();
        }
        groups
            .add(alert("a", 1, AlertStatus::Cleared), now)
            .unwrap();
        let all = groups.take_due(now + WAIT).unwrap();
        assert_eq!((all.raised, all.cleared, all.truncated), (4, 1, 2));
        assert_eq!(ids(&all), ["a", "b"]);
        assert_eq!(all.alerts[0].state, AlertStatus::Cleared);
        let json = serde_json::to_value(&all).unwrap();
        assert_eq!(
            (&json["tenant"], &json["building"], &json["kind"]),
            (&"t".into(), &"".into(), &"threshold".into())
        );
        assert_eq!(json["alerts"][1]["id"], "b");
    }

    #[test]
    fn a_critical_alert_is_listed_however_many_warnings_came_before() {
        let (mut groups, now) = (new(2), Instant::now());
        let critical = |id: &str| {
            let mut alert = raised(id);
            alert.level = Level::Critical;
            alert
        };
        for alert in [raised("a"), raised("b"), critical("boiler"), raised("c")] {
            groups.add(alert, now).unwrap();
        }
        let all = groups.take_due(now + WAIT).unwrap();
        assert_eq!((all.raised, all.truncated), (4, 2));
        assert_eq!(ids(&all), ["boiler", "a"]);
        for id in ["d", "e", "f"] {
            groups.add(critical(id), now).unwrap();
        }
        let all: Vec<_> = groups.take_all().collect();
        assert_eq!((ids(&all[0]), all[0].truncated), (vec!["d", "e"], 1));
    }

    #[test]
    fn there_are_not_more_groups_than_memory() {
        let (mut groups, now) = (new(1), Instant::now());
        let of = |tenant: usize| {
            let mut alert = raised("a");
            alert.key.tenant = tenant.to_string().into();
            alert
        };
        for tenant in 0..MOST_GROUPS {
            groups.add(of(tenant), now).unwrap();
        }
        assert_eq!(groups.add(of(MOST_GROUPS), now), Err(TooManyGroups));
        assert_eq!(groups.add(of(0), now), Ok(()), "a group that is there");
    }
}
