//! Compares what clients have received with the fold of a partition's log.

use std::collections::HashSet;
use std::sync::Arc;

use iot_core::partition::TopicPartition;
use rskafka::record::RecordAndOffset;

use super::filter::{Filter, Takers};
use super::report::{Finding, Kind, Report};
use super::seen::{Seen, describe};
use super::view::Device;
use super::views::{Outcome, Shown, Views};
use super::watch::Clients;
use crate::committed::Committed;
use crate::log::{Log, OfPartition, Read, Refused};
use crate::reading::{Units, message, owner};
use crate::verify_state::fold::{self, Fold, Rules};

/// A partition of the log, and how it is folded.
pub(super) struct Source<'a> {
    pub(super) at: &'a TopicPartition,
    pub(super) log: &'a Log,
    pub(super) committed: &'a Committed,
    pub(super) letters: &'a OfPartition,
    pub(super) units: &'a Units,
    pub(super) rules: &'a Rules,
}

/// Follows the fold of a log.
pub(super) trait Follow {
    /// Before the record at this offset.
    fn before(&mut self, fold: &Fold, offset: i64);
    /// After the message of a device at this offset.
    fn after(&mut self, fold: &Fold, offset: i64, device: &str);
    /// A record that is no message and has no dead letter.
    fn unreadable(&mut self, offset: i64, why: String);
}

impl Source<'_> {
    /// Folds the log; `new` makes what follows it.
    ///
    /// # Errors
    /// Kafka does not answer, or records are missing.
    pub(super) async fn fold<F: Follow>(&self, new: impl Fn() -> F) -> anyhow::Result<(Fold, F)> {
        let begin = self.log.begin;
        let (mut fold, mut follow) = (Fold::new(self.rules.clone()), new());
        let mut reader = self.log.read_from(begin);
        loop {
            match reader.next().await? {
                Read::Records(records) => {
                    for record in &records {
                        self.record(record, &mut fold, &mut follow);
                    }
                }
                Read::End => return Ok((fold, follow)),
                Read::Transaction => break,
            }
        }
        // In a log with transactions not all records count, so start again.
        (fold, follow) = (Fold::new(self.rules.clone()), new());
        let mut records = self.committed.read(self.at, begin)?;
        while let Some(record) = records.recv().await.transpose()? {
            if record.offset >= self.log.end {
                break;
            }
            self.record(&record, &mut fold, &mut follow);
        }
        Ok((fold, follow))
    }

    fn record(&self, record: &RecordAndOffset, fold: &mut Fold, follow: &mut impl Follow) {
        let offset = record.offset;
        follow.before(fold, offset);
        let refused = match self.letters.get(&offset) {
            None => None,
            Some(Refused::Whole) => return,
            Some(Refused::Readings(readings)) => Some(readings),
        };
        let message = message(&record.record, self.units, refused);
        let taken = message.and_then(|message| {
            let (tenant, project) = owner(&self.at.topic, &message)?;
            fold.take(&fold::Entry {
                offset,
                recorded: record.record.timestamp.timestamp_millis(),
                tenant,
                project,
                message: &message,
            });
            Ok(format!("{tenant}\0{project}\0{}", message.device_id))
        });
        match taken {
            Ok(device) => follow.after(fold, offset, &device),
            Err(error) => follow.unreadable(offset, format!("{error:#}")),
        }
    }
}

/// The last change of a partition: a client that has it has all that came before.
#[derive(Debug, Clone)]
pub(super) struct Last {
    pub(super) offset: i64,
    device: Arc<str>,
    change: Arc<Device>,
}

impl Last {
    /// Whether a client has it, or was shown it or what is newer in a snapshot.
    pub(super) fn is_in(&self, at: &str, seen: &Seen) -> bool {
        let partition = seen.partitions.get(at);
        let last = partition.and_then(|partition| partition.entries.last_key_value());
        let is_received = last.is_some_and(|(offset, _)| *offset >= self.offset);
        let view = seen.view.get(&self.device);
        is_received
            || view.is_some_and(|view| {
                self.change.values.iter().all(|(sensor, value)| {
                    let shown = view.values.get(sensor);
                    shown.is_some_and(|shown| shown.timestamp >= value.timestamp)
                })
            })
    }
}

/// Finds the last change that each filter takes.
pub(super) struct FindLast<'a> {
    filters: &'a [Filter],
    takers: Takers,
    /// By filter.
    pub(super) last: Vec<Option<Last>>,
}

impl<'a> FindLast<'a> {
    pub(super) fn new(filters: &'a [Filter]) -> Self {
        Self {
            filters,
            takers: Takers::default(),
            last: vec![None; filters.len()],
        }
    }
}

impl Follow for FindLast<'_> {
    fn before(&mut self, _: &Fold, _: i64) {}

    fn after(&mut self, fold: &Fold, offset: i64, device: &str) {
        if let Some(change) = change(fold, offset, device) {
            let place = change.place();
            let last = Last {
                offset,
                device: device.into(),
                change: Arc::new(change),
            };
            for filter in self.takers.of(self.filters, device, place.as_ref()).iter() {
                self.last[*filter] = Some(last.clone());
            }
        }
    }

    fn unreadable(&mut self, _: i64, _: String) {}
}

/// What the record at an offset has changed, if any value.
fn change(fold: &Fold, offset: i64, device: &str) -> Option<Device> {
    let device = fold.devices.get(device)?;
    let change = Device::folded(device, Some(offset))?;
    (!change.values.is_empty()).then_some(change)
}

/// Compares what clients have received of a partition.
pub(super) struct Proof<'a> {
    at: &'a str,
    /// The end of the log when the clients were to stop: they have what is below it.
    goal: i64,
    clients: &'a [Seen],
    filters: &'a [Filter],
    takers: Takers,
    /// The clients with each filter.
    with_filter: Vec<Vec<usize>>,
    views: &'a Views<'a>,
    pub(super) report: Report,
    /// Of each view.
    pub(super) outcomes: Vec<Outcome>,
    /// Where views are compared: offset, and number of the view. The first one is last.
    cuts: Vec<(i64, usize)>,
    /// The views behind their cuts, of each client.
    passed: Vec<Vec<usize>>,
    /// The entries of each client that were compared.
    compared: Vec<HashSet<i64>>,
}

impl<'a> Proof<'a> {
    pub(super) fn new(at: &'a str, goal: i64, clients: &'a Clients, views: &'a Views<'a>) -> Self {
        let Clients {
            seen: clients,
            filters,
            ..
        } = clients;
        let mut with_filter = vec![Vec::new(); filters.len()];
        for (number, client) in clients.iter().enumerate() {
            with_filter[client.filter].push(number);
        }
        let cut = |view: &Shown<'_>| {
            let seen = &clients[view.client];
            let ranges = seen.partitions.get(at).map(|partition| &partition.segments);
            match view.segment {
                // What a client shows in the end has all that it received.
                None => {
                    let ranges = ranges.and_then(|ranges| ranges.last_key_value());
                    ranges.map_or(goal, |(_, (_, last))| goal.max(last + 1))
                }
                Some(number) => match ranges.and_then(|ranges| ranges.get(&number)) {
                    Some((first, _)) => *first,
                    None if number + 1 == seen.segments.len() => goal,
                    // Nothing tells where it was taken: it may be anywhere.
                    None => 0,
                },
            }
        };
        let cuts = views.shown.iter().map(cut).zip(0..);
        let mut cuts: Vec<_> = cuts.collect();
        cuts.sort_unstable();
        cuts.reverse();
        Self {
            at,
            goal,
            clients,
            filters,
            takers: Takers::default(),
            with_filter,
            views,
            report: Report {
                partitions: 1,
                ..Report::default()
            },
            outcomes: views.shown.iter().map(|_| Outcome::default()).collect(),
            cuts,
            passed: vec![Vec::new(); clients.len()],
            compared: clients.iter().map(|_| HashSet::new()).collect(),
        }
    }

    /// Whether a client must have received a change of this offset.
    fn is_required(&self, seen: &Seen, offset: i64) -> bool {
        let Some(partition) = seen.partitions.get(self.at) else {
            return false;
        };
        let last = seen.segments.len().saturating_sub(1);
        partition.segments.iter().any(|(number, (first, until))| {
            let until = if *number == last {
                (self.goal - 1).max(*until)
            } else {
                *until
            };
            (*first..=until).contains(&offset)
        })
    }

    fn find(&mut self, kind: Kind, client: usize, offset: i64, expected: String, found: String) {
        self.report.find(Finding {
            kind,
            client: self.clients[client].name.clone(),
            at: format!("{}@{offset}", self.at),
            expected,
            found,
        });
    }

    /// Reports what is left when the log has been read.
    pub(super) fn finish(&mut self, fold: &Fold) {
        self.before(fold, i64::MAX);
        for (number, client) in self.clients.iter().enumerate() {
            let entries = client.partitions.get(self.at).map(|at| &at.entries);
            for (offset, entry) in entries.into_iter().flatten() {
                if !self.compared[number].contains(offset) {
                    let found = entry.to_string();
                    self.find(Kind::Invented, number, *offset, "no change".into(), found);
                }
            }
        }
        for outcome in &mut self.outcomes {
            outcome.forget_removed(fold);
        }
    }
}

impl Follow for Proof<'_> {
    fn before(&mut self, fold: &Fold, offset: i64) {
        while let Some((_, number)) = self.cuts.pop_if(|(cut, _)| *cut <= offset) {
            let shown = &self.views.shown[number];
            let client = &self.clients[shown.client];
            let client = (&*client.name, &self.filters[client.filter]);
            self.outcomes[number].compare(shown, fold, client);
            self.passed[shown.client].push(number);
        }
    }

    fn after(&mut self, fold: &Fold, offset: i64, device: &str) {
        self.report.records += 1;
        let change = change(fold, offset, device);
        let place = fold
            .devices
            .get(device)
            .and_then(|device| device.place.as_ref());
        let takers = self.takers.of(self.filters, device, place);
        let takers = takers
            .iter()
            .flat_map(|filter| self.with_filter[*filter].iter().copied());
        let takers: Vec<_> = takers.collect();
        for number in takers.iter().copied() {
            let client = &self.clients[number];
            let partition = client.partitions.get(self.at);
            let entry = partition.and_then(|partition| partition.entries.get(&offset));
            let is_required = self.is_required(client, offset);
            self.report.expected += u64::from(is_required && change.is_some());
            match (&change, entry) {
                (Some(change), Some(entry)) => {
                    self.report.received += 1;
                    self.compared[number].insert(offset);
                    if *entry.device != *device || entry.change != *change {
                        let expected = describe(device, change);
                        let found = entry.to_string();
                        self.find(Kind::Wrong, number, offset, expected, found);
                    }
                }
                (Some(change), None) if is_required => {
                    let expected = describe(device, change);
                    self.find(Kind::Missing, number, offset, expected, "none".into());
                }
                // A device that has moved, without a newer value.
                (None, Some(entry)) if entry.change.values.is_empty() => {
                    self.compared[number].insert(offset);
                }
                (_, None) | (None, Some(_)) => {}
            }
        }
        let Some(folded) = fold.devices.get(device) else {
            return;
        };
        let Some(now) = Device::folded(folded, Some(offset)) else {
            return;
        };
        let device: Arc<str> = device.into();
        for number in takers.iter().flat_map(|client| &self.passed[*client]) {
            self.outcomes[*number].later(&self.views.shown[*number], &device, &now);
        }
    }

    fn unreadable(&mut self, offset: i64, why: String) {
        self.report.find(Finding {
            kind: Kind::Unreadable,
            client: "log".into(),
            at: format!("{}@{offset}", self.at),
            expected: "a dead letter, or a message".into(),
            found: why,
        });
    }
}
