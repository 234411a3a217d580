//! What is shown: feeds of partitions begin and end, and tell what changed.

mod give;

use std::collections::{BTreeMap, HashSet};
use std::mem::{replace, take};
use std::sync::Arc;

use iot_core::partition::TopicPartition;
use iot_fold::{Alert, Change, Contents, DeviceKey, Place, Update, Updates, Value};

use super::channels::Channels;
use super::groups::{Concerned, Groups};
use super::history::{AlertChange, Head, History};
use super::part::{Part, Shadow, Turn, What, turns};
use super::view::{EntryId, PartId, View};
use super::{Opening, Times};
use give::Changed;

/// Everything that is shown, and the channels that show it.
pub(super) struct Shown {
    pub(super) view: View,
    pub(super) parts: BTreeMap<PartId, Part>,
    pub(super) groups: Groups,
    pub(super) channels: Channels,
    next: PartId,
    /// When something was last shown or hidden that is in no history, in microseconds since the
    /// epoch: a client that left before needs a snapshot.
    pub(super) lost_at: i64,
    /// Kept to reuse its memory.
    concerned: Concerned,
}

pub(super) type Reading = (Arc<str>, Value);

/// The offset of a change, the alert after it, and where its device was before if it has moved.
type Told = (i64, Alert, Option<Option<Arc<Place>>>);

impl Shown {
    pub(super) fn new(view: View, channels: Channels) -> Self {
        Self {
            view,
            parts: BTreeMap::new(),
            groups: Groups::default(),
            channels,
            next: 0,
            lost_at: 0,
            concerned: Concerned::default(),
        }
    }

    /// Finds a partition.
    pub(super) fn part_of(&self, partition: &TopicPartition) -> Option<PartId> {
        let mut parts = self.parts.iter();
        let part = parts.find(|(_, part)| *part.partition == *partition);
        part.map(|(id, _)| *id)
    }

    /// A feed begins. It replaces what another one of the same partition has shown by difference,
    /// as soon as it has reached what is shown.
    pub(super) fn open(&mut self, opening: Opening, feed: u64) {
        let Some(id) = self.part_of(&opening.partition) else {
            self.next += 1;
            let shadow = Shadow::new(opening, feed);
            let (part, contents) = Part::new(shadow);
            self.parts.insert(self.next, part);
            self.replace(self.next, contents);
            if let Some(part) = self.parts.get_mut(&self.next) {
                // Nobody has missed what was there at first.
                part.history = History::new(part.reached);
            }
            self.channels.resync_large(&mut self.groups);
            return;
        };
        let Some(part) = self.parts.get_mut(&id) else {
            return;
        };
        let shadow = Shadow::new(opening, feed);
        if shadow.reached < part.reached {
            part.next = Some(shadow);
        } else {
            self.swap(id, shadow);
        }
    }

    /// Shows what another feed of a partition knows. It is at least as new as what is shown.
    fn swap(&mut self, id: PartId, shadow: Shadow) {
        let Some(part) = self.parts.get_mut(&id) else {
            return;
        };
        let is_gap = shadow.reached > part.reached;
        let contents = part.follow(shadow);
        let has_changed = self.replace(id, contents);
        if has_changed {
            self.lost_at = jiff::Timestamp::now().as_microsecond();
        }
        // The messages between the two feeds are not known one by one.
        if is_gap && has_changed {
            for channel in self.channels.of_all_changes() {
                self.channels.resync(channel, &mut self.groups);
            }
        }
        self.channels.resync_large(&mut self.groups);
    }

    /// A feed has ended. What only it showed goes, unless another one has begun.
    pub(super) fn close(&mut self, partition: &TopicPartition, feed: u64) {
        let Some(id) = self.part_of(partition) else {
            return;
        };
        let Some(part) = self.parts.get_mut(&id) else {
            return;
        };
        if part.next.as_ref().is_some_and(|next| next.feed == feed) {
            part.next = None;
            if !part.is_over {
                return;
            }
        } else if part.feed != feed {
            return;
        } else if part.next.is_some() {
            part.is_over = true;
            return;
        }
        self.lost_at = jiff::Timestamp::now().as_microsecond();
        self.replace(id, Contents::default());
        for alert in self.view.forget_alerts(id, |_| true) {
            self.gone(&alert);
        }
        self.parts.remove(&id);
        self.channels.resync_large(&mut self.groups);
    }

    /// A feed tells what changed.
    pub(super) fn update(
        &mut self,
        partition: &TopicPartition,
        feed: u64,
        (updates, reached): (Updates, i64),
        times: Times,
    ) {
        let Some(id) = self.part_of(partition) else {
            return;
        };
        let Some(part) = self.parts.get_mut(&id) else {
            return;
        };
        if part.feed == feed {
            self.apply(id, (updates, reached), times);
            return;
        }
        let shown = part.reached;
        let Some(mut shadow) = part.next.take_if(|next| next.feed == feed) else {
            return;
        };
        if reached < shown {
            shadow.apply(&updates, reached);
            part.next = Some(shadow);
            return;
        }
        let (before, after) = updates.split(shown);
        shadow.apply(&before, shown);
        self.swap(id, shadow);
        self.apply(id, (after, reached), times);
    }

    /// Replaces everything that a partition shows. Returns whether any of its devices changed.
    fn replace(&mut self, id: PartId, contents: Contents) -> bool {
        let Some(part) = self.parts.get_mut(&id) else {
            return false;
        };
        let mut before: HashSet<_> = take(&mut part.places).into_iter().flatten().collect();
        let mut has_changed = false;
        let last = contents.devices.iter().map(|(place, _)| place + 1).max();
        let mut places = vec![None; last.unwrap_or(0)];
        for (place, device) in contents.devices {
            let known = self.view.id(&device.key);
            let old = known.and_then(|known| self.view.known(known, id));
            let old = old.map(|known| known.device.clone());
            if let (Some(known), Some(old)) = (known, &old)
                && **old == device
            {
                before.remove(&known);
                places[place] = Some(known);
                continue;
            }
            has_changed = true;
            let shown = known.map(|known| self.place(known));
            let device = Arc::new(device);
            let (entry, _) = self.view.put(id, device.clone());
            before.remove(&entry);
            places[place] = Some(entry);
            let differs = |reading: &&Reading| {
                let old = old.as_ref();
                old.is_none_or(|old| !old.readings.contains(reading))
            };
            let readings: Vec<_> = device.readings.iter().filter(differs).cloned().collect();
            self.changed(&Changed {
                id: entry,
                device: &device,
                readings: &readings,
                before: Some(shown),
                origin: None,
                times: None,
            });
        }
        for entry in before {
            has_changed = true;
            self.forget(entry, id);
        }
        if let Some(part) = self.parts.get_mut(&id) {
            part.places = places;
        }
        let known: HashSet<_> = contents
            .alerts
            .iter()
            .map(|alert| alert.id.clone())
            .collect();
        let (mut told, mut gone) = (Vec::new(), Vec::new());
        for alert in contents.alerts {
            // It is known, or was already too many.
            if self.view.alert(&alert.id) != Some(&alert) && self.view.has_room_for(&alert) {
                gone.extend(self.alert(id, alert.clone(), None));
                told.push(alert);
            }
        }
        let goes = |alert: &Alert| !known.contains(&alert.id);
        gone.extend(self.view.forget_alerts(id, goes));
        self.all_gone(&gone);
        // Clients that are away need not begin again for them.
        let told = told.into_iter().map(|alert| (alert, false));
        let gone = gone.into_iter().map(|alert| (alert, true));
        if let Some(part) = self.parts.get_mut(&id) {
            for (alert, is_gone) in told.chain(gone) {
                let change = AlertChange {
                    alert,
                    is_gone,
                    moved_from: None,
                };
                part.history.add_alert(part.reached, change);
            }
        }
        has_changed
    }

    /// Tells channels that alerts are not listed any more.
    fn all_gone(&mut self, alerts: &[Alert]) {
        for alert in alerts {
            self.gone(alert);
        }
    }

    /// Where a device is shown.
    fn place(&self, id: EntryId) -> Option<Arc<Place>> {
        self.view
            .shown(id)
            .and_then(|device| device.location.clone())
    }

    fn apply(&mut self, id: PartId, (mut updates, reached): (Updates, i64), times: Times) {
        let Some(part) = self.parts.get_mut(&id) else {
            return;
        };
        part.reached = part.reached.max(reached);
        let (mut places, name) = (take(&mut part.places), part.name.clone());
        let mut heads = Vec::with_capacity(updates.len());
        let mut renamed = Vec::new();
        let mut described = None;
        let mut changed = Vec::new();
        for (number, update) in updates.iter().enumerate() {
            let Update {
                offset,
                place,
                change,
            } = update;
            if places.len() <= place {
                places.resize(place + 1, None);
            }
            match change {
                Change::Removed(key) => {
                    let known = places[place].take();
                    let head = known.and_then(|known| self.forget(known, id));
                    heads.push(head.unwrap_or_else(|| unknown(key)));
                }
                Change::Described { key, location } => {
                    let shown = self.view.id(key).map(|known| self.place(known));
                    let known = places[place].and_then(|known| self.view.known(known, id));
                    let device = known.map(|known| (*known.device).clone());
                    let mut device = device.unwrap_or_else(|| View::empty(key));
                    device.location = location.cloned();
                    let (entry, before) = self.view.put(id, Arc::new(device));
                    places[place] = Some(entry);
                    renamed.push((number, before));
                    described = Some(shown);
                    let head = self.view.known(entry, id).map(|known| known.head.clone());
                    heads.push(head.unwrap_or_else(|| unknown(key)));
                }
                Change::Message {
                    seq,
                    timestamp,
                    is_ahead,
                    readings,
                } => {
                    let before = described.take();
                    let entry = places[place];
                    let known = entry.and_then(|entry| Some((entry, self.view.known(entry, id)?)));
                    let Some((entry, known)) = known else {
                        // No partition says this before it has described the device.
                        heads.push(unknown(&View::nobody()));
                        continue;
                    };
                    let device = Arc::make_mut(&mut known.device);
                    device.update((seq, timestamp, is_ahead), readings);
                    heads.push(known.head.clone());
                    if self.groups.is_empty() {
                        continue;
                    }
                    let device = known.device.clone();
                    changed.clear();
                    changed.extend(readings.named());
                    self.changed(&Changed {
                        id: entry,
                        device: &device,
                        readings: &changed,
                        before,
                        origin: Some((&name, offset)),
                        times: Some(times),
                    });
                }
            }
        }
        let alerts = take(&mut updates.alerts);
        let mut turns = turns(&updates).into_iter().peekable();
        let (mut told, mut gone) = (Vec::new(), Vec::new());
        for (offset, alert) in alerts {
            while let Some(turn) = turns.next_if(|turn| turn.is_before(offset)) {
                self.turn(id, turn, times, (&mut told, &mut gone));
            }
            gone.extend(self.alert(id, alert.clone(), Some(times)));
            told.push((offset, alert, None));
        }
        for turn in turns {
            self.turn(id, turn, times, (&mut told, &mut gone));
        }
        self.all_gone(&gone);
        if let Some(part) = self.parts.get_mut(&id) {
            part.places = places;
            part.history.add(updates, heads, renamed);
            let told = told.into_iter().map(|(offset, alert, moved_from)| {
                let change = AlertChange {
                    alert,
                    is_gone: false,
                    moved_from,
                };
                (offset, change)
            });
            let gone = gone.into_iter().map(|alert| {
                let change = AlertChange {
                    alert,
                    is_gone: true,
                    moved_from: None,
                };
                (reached, change)
            });
            for (offset, change) in told.chain(gone) {
                part.history.add_alert(offset, change);
            }
        }
        self.bound_history();
    }

    /// Lists the alerts of a device as they are after it has moved or was removed.
    fn turn(
        &mut self,
        id: PartId,
        Turn { offset, key, what }: Turn,
        times: Times,
        (told, gone): (&mut Vec<Told>, &mut Vec<Alert>),
    ) {
        let What::Moved(location) = what else {
            gone.extend(self.view.forget_alerts_of(id, &key));
            return;
        };
        for mut alert in self.view.alerts_of(id, &key) {
            if alert.location != location {
                let before = replace(&mut alert.location, location.clone());
                gone.extend(self.alert(id, alert.clone(), Some(times)));
                told.push((offset, alert, Some(before)));
            }
        }
    }

    /// Drops the oldest changes where there are most, while there are too many.
    fn bound_history(&mut self) {
        let limit = self.channels.settings.history;
        let total = |parts: &BTreeMap<PartId, Part>, of: fn(&Part) -> usize| {
            parts.values().map(of).sum::<usize>()
        };
        let of_devices = |part: &Part| part.history.device_bytes;
        while total(&self.parts, of_devices) > limit / 4 * 3 {
            let most = self.parts.values_mut().max_by_key(|part| of_devices(part));
            if !most.is_some_and(|part| part.history.drop_devices()) {
                break;
            }
        }
        let of_alerts = |part: &Part| part.history.alert_bytes;
        while total(&self.parts, of_alerts) > limit / 4 {
            let most = self.parts.values_mut().max_by_key(|part| of_alerts(part));
            if !most.is_some_and(|part| part.history.drop_alert()) {
                break;
            }
        }
    }

    /// Forgets what a partition knows of a device, and tells so.
    fn forget(&mut self, id: EntryId, part: PartId) -> Option<Arc<Head>> {
        let shown = self.place(id);
        let (head, stays) = self.view.forget(id, part)?;
        let rest = if stays { self.view.shown(id) } else { None };
        if let Some(device) = rest {
            // What the other partitions know of it.
            self.changed(&Changed {
                id,
                device: &device,
                readings: &device.readings,
                before: Some(Some(shown)),
                origin: None,
                times: None,
            });
            return Some(head);
        }
        let places = (Some(shown.as_deref()), None);
        let (_, leaves) = self.groups.moved(&head.key, id, places, |_| false);
        self.left(id, &head.key, &leaves, None);
        Some(head)
    }
}

/// The name of a device of which nothing is known.
fn unknown(key: &DeviceKey) -> Arc<Head> {
    Arc::new(Head {
        id: 0,
        key: key.clone(),
        location: None,
    })
}
