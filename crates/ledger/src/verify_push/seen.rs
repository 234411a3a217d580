//! What one client has received, and whether it came in order.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::sync::Arc;

use serde_json::Value as Json;

use super::client::Event;
use super::report::{Finding, Kind, Report};
use super::view::{Device, Names, View, device_name, shown};
use super::wire::{Channel, Data, Publication, Subscribed};

/// A change of a device by one record.
#[derive(Debug, PartialEq)]
pub(super) struct Entry {
    pub(super) device: Arc<str>,
    pub(super) change: Device,
}

/// The changes of a partition, each once.
#[derive(Debug, Default)]
pub(super) struct Partition {
    /// By offset.
    pub(super) entries: BTreeMap<i64, Entry>,
    /// The last offset of each device.
    devices: HashMap<Arc<str>, i64>,
    /// The first and the last offset of each segment.
    pub(super) segments: BTreeMap<usize, (i64, i64)>,
}

/// What follows a snapshot without a gap.
#[derive(Debug, Default)]
pub(super) struct Segment {
    /// What the client was shown first, if that is known.
    pub(super) snapshot: Option<View>,
    /// Whether all pages of the snapshot have come.
    is_whole: bool,
}

/// An alert's last event.
#[derive(Debug)]
struct Told {
    is_cleared: bool,
    count: u64,
    /// In which subscription it came.
    subscription: u64,
}

impl Told {
    /// Whether it must not come before the other one. Another replica may be behind, and tell
    /// again what the client knows.
    fn is_after(&self, other: &Self) -> bool {
        let is_later = self.count > other.count || (self.is_cleared && !other.is_cleared);
        is_later && self.subscription == other.subscription
    }
}

/// What a client has received.
#[derive(Debug, Default)]
pub(super) struct Seen {
    pub(super) name: String,
    /// The number of its filter.
    pub(super) filter: usize,
    names: Names,
    /// By `topic:partition`.
    pub(super) partitions: HashMap<Arc<str>, Partition>,
    pub(super) segments: Vec<Segment>,
    /// What it shows now.
    pub(super) view: View,
    /// By id.
    pub(super) alerts: BTreeMap<String, Json>,
    /// Whether a snapshot of the alerts has come.
    pub(super) has_alerts: bool,
    told: HashMap<String, Told>,
    /// Subscriptions to alerts until now.
    subscriptions: u64,
    /// The offset of the last publication, by channel.
    positions: [u64; 2],
    /// Changes, without copies.
    pub(super) received: u64,
}

impl Seen {
    pub(super) fn new(name: String, filter: usize) -> Self {
        Self {
            name,
            filter,
            ..Self::default()
        }
    }

    /// Whether it has a whole snapshot.
    pub(super) fn is_ready(&self) -> bool {
        self.has_alerts && self.segments.last().is_some_and(|segment| segment.is_whole)
    }

    pub(super) fn take(&mut self, event: Event, report: &mut Report) {
        match event {
            Event::Connected => {}
            Event::Broken(why) => report.broke(format!("{}: {why}", self.name)),
            Event::Subscribed(channel, answer) => self.subscribed(channel, answer, report),
            Event::Published(channel, publication) => {
                self.position(channel, publication.offset, report);
                self.data(channel, &publication.data, false, report);
            }
        }
    }

    fn subscribed(&mut self, channel: Channel, answer: Subscribed, report: &mut Report) {
        self.positions[channel as usize] = 0;
        self.subscriptions += u64::from(channel == Channel::Alerts);
        if answer.recovered {
            report.recovered += 1;
            for Publication { offset, data } in answer.publications {
                self.position(channel, offset, report);
                self.data(channel, &data, true, report);
            }
            self.positions[channel as usize] = answer.offset.max(self.positions[channel as usize]);
            return;
        }
        let data = answer.data.unwrap_or_default();
        match channel {
            Channel::Readings => {
                // Cut between two pages, a client has seen nothing yet.
                if self
                    .segments
                    .last()
                    .is_some_and(|segment| !segment.is_whole)
                {
                    self.segments.pop();
                } else if !self.segments.is_empty() {
                    self.gap(report, "readings", "what was missed", "a snapshot");
                }
                self.begin(data.partial.is_empty().then(View::new));
                self.page(&data);
            }
            Channel::Alerts => {
                if self.has_alerts && !report.alert_gaps_allowed {
                    self.gap(report, "alerts", "what was missed", "a snapshot");
                }
                self.alerts.clear();
                self.told.clear();
                self.has_alerts = !data.more;
                self.take_alerts(&data, true, report);
            }
        }
        self.positions[channel as usize] = answer.offset;
    }

    fn begin(&mut self, snapshot: Option<View>) {
        self.view.clear();
        let is_whole = false;
        self.segments.push(Segment { snapshot, is_whole });
    }

    /// A page of a snapshot.
    fn page(&mut self, data: &Data) {
        for device in &data.devices {
            let name = self.names.get(&device_name(&device.key));
            let device = Device::received(device, &mut self.names);
            self.view.insert(name, device);
        }
        let Some(segment) = self.segments.last_mut() else {
            return;
        };
        if !data.more {
            segment.is_whole = true;
            if let Some(snapshot) = &mut segment.snapshot {
                snapshot.clone_from(&self.view);
            }
        }
    }

    /// The offset of a publication must rise within a subscription.
    fn position(&mut self, channel: Channel, offset: u64, report: &mut Report) {
        let last = &mut self.positions[channel as usize];
        if offset == 0 {
            return;
        }
        if offset <= *last {
            let expected = format!("an offset above {last}");
            report.find(Finding {
                kind: Kind::Violation,
                client: self.name.clone(),
                at: channel.name().into(),
                expected,
                found: offset.to_string(),
            });
        }
        *last = offset;
    }

    fn data(&mut self, channel: Channel, data: &Data, is_recovered: bool, report: &mut Report) {
        if channel == Channel::Alerts {
            self.has_alerts |= !data.more;
            self.take_alerts(data, is_recovered, report);
            return;
        }
        if self
            .segments
            .last()
            .is_some_and(|segment| !segment.is_whole)
        {
            self.page(data);
            return;
        }
        if data.skipped > 0 {
            let skipped = format!("{} skipped", data.skipped);
            let client = self.name.clone();
            report.find(Finding {
                kind: Kind::Missing,
                client,
                at: channel.name().into(),
                expected: "every change".into(),
                found: skipped,
            });
        }
        for key in &data.removed {
            self.view.remove(&*device_name(key));
        }
        let mut is_restated = false;
        for device in &data.devices {
            let name = self.names.get(&device_name(&device.key));
            let change = Device::received(device, &mut self.names);
            match self.view.get_mut(&name) {
                Some(known) => known.update(&change),
                None => {
                    self.view.insert(name.clone(), change.clone());
                }
            }
            if let (Some(partition), Some(offset)) = (&device.partition, device.offset) {
                let entry = Entry {
                    device: name,
                    change,
                };
                self.entry(partition, offset, entry, is_recovered, report);
            } else if !std::mem::replace(&mut is_restated, true) {
                let found = "changes without partition and offset";
                self.gap(report, &shown(&name), "changes of the log", found);
            }
        }
        // Whatever came before, what comes now need not follow it.
        if is_restated {
            let is_whole = true;
            let snapshot = None;
            self.segments.push(Segment { snapshot, is_whole });
        }
    }

    fn entry(&mut self, at: &str, offset: i64, entry: Entry, recovered: bool, report: &mut Report) {
        let segment = self.segments.len().saturating_sub(1);
        let partition = self.partitions.entry(self.names.get(at)).or_default();
        let at = format!("{at}@{offset}");
        let range = partition.segments.get(&segment).copied();
        if let Some(first) = partition.entries.get(&offset) {
            report.copies += 1;
            if *first != entry {
                let (expected, found) = (first.to_string(), entry.to_string());
                let client = self.name.clone();
                let kind = Kind::Wrong;
                report.find(Finding {
                    kind,
                    client,
                    at,
                    expected,
                    found,
                });
            }
        } else {
            // What is sent again can begin before the snapshot.
            let is_earlier = recovered && range.is_none_or(|(first, _)| offset < first);
            let last = partition.devices.entry(entry.device.clone());
            let last = last.or_insert(i64::MIN);
            if offset < *last && !is_earlier {
                let found = format!("after offset {last}: {entry}");
                let client = self.name.clone();
                report.find(Finding {
                    kind: Kind::OutOfOrder,
                    client,
                    at,
                    expected: "changes of a device in order".into(),
                    found,
                });
            }
            *last = offset.max(*last);
            partition.entries.insert(offset, entry);
            self.received += 1;
        }
        let (first, last) = range.unwrap_or((offset, offset));
        let range = (first.min(offset), last.max(offset));
        partition.segments.insert(segment, range);
    }

    /// What is sent again may be older than what is known; what is new may not.
    fn take_alerts(&mut self, data: &Data, may_be_old: bool, report: &mut Report) {
        for id in &data.gone {
            self.alerts.remove(id);
            self.told.remove(id);
        }
        for alert in &data.alerts {
            let id = alert["id"].as_str().unwrap_or_default();
            let told = Told {
                is_cleared: alert["state"] == "cleared",
                count: alert["count"].as_u64().unwrap_or_default(),
                subscription: self.subscriptions,
            };
            let before = self.told.get(id).filter(|before| before.is_after(&told));
            if let (Some(before), false) = (before, may_be_old) {
                report.find(Finding {
                    kind: Kind::OutOfOrder,
                    client: self.name.clone(),
                    at: id.to_owned(),
                    expected: format!("events after {before:?}"),
                    found: format!("{told:?}"),
                });
            }
            self.told.insert(id.to_owned(), told);
            self.alerts.insert(id.to_owned(), alert.clone());
        }
    }

    fn gap(&self, report: &mut Report, at: &str, expected: &str, found: &str) {
        report.find(Finding {
            kind: Kind::Gap,
            client: self.name.clone(),
            at: at.to_owned(),
            expected: expected.to_owned(),
            found: found.to_owned(),
        });
    }
}

/// A change, for people.
pub(super) fn describe(device: &str, change: &Device) -> String {
    format!("{} {change}", shown(device))
}

impl fmt::Display for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&describe(&self.device, &self.change))
    }
}

/// Reports changes of partitions that are not among `known`.
pub(super) fn of_other_partitions<'n>(
    clients: &[Seen],
    known: impl Iterator<Item = &'n str> + Clone,
    report: &mut Report,
) {
    for client in clients {
        let others = client.partitions.iter();
        for (name, partition) in others.filter(|(name, _)| !known.clone().any(|of| of == &***name))
        {
            for (offset, entry) in &partition.entries {
                report.find(Finding {
                    kind: Kind::Invented,
                    client: client.name.clone(),
                    at: format!("{name}@{offset}"),
                    expected: "no change: the topic is not among --topic".into(),
                    found: entry.to_string(),
                });
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn alerts_go_back_only_at_another_replica() {
        let (mut seen, mut report) = (Seen::new("client".into(), 0), Report::default());
        let state = |state: &str| Data {
            alerts: vec![json!({"id": "a", "state": state, "count": 1})],
            ..Data::default()
        };
        let published = |data| {
            let publication = Publication { offset: 0, data };
            Event::Published(Channel::Alerts, publication)
        };
        let again = || Subscribed {
            recovered: true,
            ..Subscribed::default()
        };
        seen.take(Event::Subscribed(Channel::Alerts, again()), &mut report);
        seen.take(published(state("cleared")), &mut report);
        // The next one is behind, and comes to it.
        seen.take(Event::Subscribed(Channel::Alerts, again()), &mut report);
        for of in ["raised", "cleared"] {
            seen.take(published(state(of)), &mut report);
        }
        assert_eq!(report.out_of_order, 0, "{report:?}");
        seen.take(published(state("raised")), &mut report);
        assert_eq!(report.out_of_order, 1, "{report:?}");
    }
}
