//! What clients were shown as a whole: snapshots, and their views at the end.
//!
//! A snapshot names no offsets. But what follows it without a gap does: it was taken before the
//! first change that came after it, or later. So each value must be the one that the fold has
//! there, or one that the log has after it.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use super::filter::Filter;
use super::report::{Finding, Kind, Report};
use super::seen::Seen;
use super::view::{self, Device, View};
use crate::verify_state::fold::Fold;

/// A value of a sensor of a device; without a sensor what belongs to the device as a whole.
type Cell = (Arc<str>, Option<Arc<str>>);

/// A view that a client had.
pub(super) struct Shown<'a> {
    pub(super) client: usize,
    /// The segment that begins with it; `None` for what the client shows at the end.
    pub(super) segment: Option<usize>,
    view: &'a View,
}

/// How a view compares with the log.
#[derive(Debug, Default)]
pub(super) struct Outcome {
    matched: HashSet<Cell>,
    unequal: HashMap<Cell, Finding>,
}

/// The views of all clients, compared with all partitions.
pub(super) struct Views<'a> {
    pub(super) shown: Vec<Shown<'a>>,
}

impl<'a> Views<'a> {
    pub(super) fn of(clients: &'a [Seen]) -> Self {
        let mut shown = Vec::new();
        for (client, seen) in clients.iter().enumerate() {
            let snapshots = seen.segments.iter().enumerate();
            let snapshots = snapshots
                .filter_map(|(number, segment)| Some((Some(number), segment.snapshot.as_ref()?)));
            for (segment, view) in snapshots.chain([(None, &seen.view)]) {
                shown.push(Shown {
                    client,
                    segment,
                    view,
                });
            }
        }
        Self { shown }
    }

    /// Reports what differs, from the outcomes in all partitions.
    pub(super) fn report(&self, outcomes: Vec<Outcome>, clients: &[Seen], report: &mut Report) {
        for (shown, outcome) in self.shown.iter().zip(outcomes) {
            let Outcome {
                matched,
                mut unequal,
            } = outcome;
            report.values_compared += matched.len() as u64;
            // A device can be in several partitions, of which one has the newest value.
            unequal.retain(|cell, _| !matched.contains(cell));
            for (device, known) in shown.view {
                for cell in cells(device, known) {
                    if !matched.contains(&cell) && !unequal.contains_key(&cell) {
                        let found = known.describe(cell.1.as_deref());
                        let client = &clients[shown.client].name;
                        let finding = shown.finding(&cell, client, "none".into(), found);
                        unequal.insert(cell, finding);
                    }
                }
            }
            let mut unequal: Vec<_> = unequal.into_iter().collect();
            unequal.sort_unstable_by(|(a, _), (b, _)| a.cmp(b));
            for (_, finding) in unequal {
                report.find(finding);
            }
        }
    }
}

impl Shown<'_> {
    fn has(&self, (device, sensor): &Cell, expected: &Device) -> bool {
        let found = self.view.get(device);
        found.is_some_and(|found| found.agrees(expected, sensor.as_deref()))
    }

    fn finding(
        &self,
        (device, sensor): &Cell,
        client: &str,
        expected: String,
        found: String,
    ) -> Finding {
        let of = match self.segment {
            Some(0) => "first snapshot".to_owned(),
            Some(number) => format!("snapshot {}", number + 1),
            None => "final view".to_owned(),
        };
        let sensor = sensor.as_deref().unwrap_or("device");
        Finding {
            kind: Kind::Difference,
            client: client.to_owned(),
            at: format!("{of}: {} {sensor}", view::shown(device)),
            expected,
            found,
        }
    }
}

impl Outcome {
    /// Adds the outcome of the same view in another partition.
    pub(super) fn add(&mut self, other: Self) {
        self.matched.extend(other.matched);
        self.unequal.extend(other.unequal);
    }

    /// Compares with all that a partition has at one offset and the client's filter takes.
    pub(super) fn compare(
        &mut self,
        shown: &Shown<'_>,
        fold: &Fold,
        (client, filter): (&str, &Filter),
    ) {
        let devices = fold.devices.iter();
        for (name, device) in
            devices.filter(|(name, device)| filter.takes(name, device.place.as_ref()))
        {
            let Some(expected) = Device::folded(device, None) else {
                continue;
            };
            for cell in cells(&name.as_str().into(), &expected) {
                if shown.has(&cell, &expected) {
                    self.matched.insert(cell);
                    continue;
                }
                let sensor = cell.1.as_deref();
                let found = shown.view.get(&cell.0);
                let found = found.map_or_else(|| "none".into(), |found| found.describe(sensor));
                let expected = expected.describe(sensor);
                let finding = shown.finding(&cell, client, expected, found);
                self.unequal.insert(cell, finding);
            }
        }
    }

    /// Takes what a later record has changed of a device.
    pub(super) fn later(&mut self, shown: &Shown<'_>, name: &Arc<str>, change: &Device) {
        if !shown.view.contains_key(name) {
            return;
        }
        for cell in cells(name, change) {
            if !self.matched.contains(&cell) && shown.has(&cell, change) {
                self.unequal.remove(&cell);
                self.matched.insert(cell);
            }
        }
    }

    /// Forgets devices that were not in the view and have been removed later.
    pub(super) fn forget_removed(&mut self, fold: &Fold) {
        self.unequal
            .retain(|(device, _), _| fold.devices.contains_key(&**device));
    }
}

fn cells(name: &Arc<str>, device: &Device) -> Vec<Cell> {
    let mut cells = vec![(name.clone(), None)];
    let sensors = device.values.keys();
    cells.extend(sensors.map(|sensor| (name.clone(), Some(sensor.clone()))));
    cells
}
