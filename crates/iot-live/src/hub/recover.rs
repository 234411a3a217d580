//! Positions: what of a channel a client has seen, and what it has missed.

use std::sync::Arc;

use bytes::Bytes;
use iot_fold::{Change, Device};

use super::history::{AlertChange, Head};
use super::json::{self, Field};
use super::pending::{Latest, Lines};
use super::shown::{Reading, Shown};
use super::view::{EntryId, View};
use crate::channel::{Channel, Kind};

/// The most changes that are searched for a client. One that missed more gets a
/// snapshot, which clients share.
const MOST_SEARCHED: usize = 50_000;
/// The most bytes of data that a client has missed. A session sends them before anything newer,
/// which it holds back up to the same size, so they do not fill the client's queue.
const MOST_MISSED: usize = 1 << 20;
/// A device is at least so many bytes of JSON.
const LEAST: usize = 64;

impl Shown {
    /// The time before which everything that was committed is in the view, in microseconds;
    /// `None` if that is unknown.
    pub(super) fn frontier(&self) -> Option<u64> {
        let frontiers = self.parts.values();
        let frontiers = frontiers.map(|part| part.marks.frontier(part.reached));
        let least = frontiers.min()??;
        u64::try_from(least).ok().filter(|least| *least > 0)
    }

    /// What a client has missed since a position of this log and scope; `None` if not all of it is
    /// known, or it is much.
    pub(super) fn missed(
        &self,
        channel: &Channel,
        since: u64,
        frontier: u64,
    ) -> Option<Vec<(u64, Bytes)>> {
        let settings = &self.channels.settings;
        let now = jiff::Timestamp::now().as_microsecond();
        let reached = i64::try_from(since).ok()?;
        let skew = i64::try_from(settings.skew.as_micros()).ok()?;
        if since == 0 || reached > now + skew {
            return None;
        }
        let time = reached.saturating_sub(skew);
        if time <= self.lost_at {
            return None;
        }
        let data = match channel.kind {
            Kind::Stats => return None,
            Kind::Alerts => self.missed_alerts(channel, time)?,
            _ if channel.is_conflated() => self.missed_values(channel, time)?,
            _ => self.missed_changes(channel, time)?,
        };
        let bytes: usize = data.iter().map(Vec::len).sum();
        if bytes > MOST_MISSED {
            return None;
        }
        // Only with the last one a client has everything, and the position of this replica, which
        // is newer than what it has.
        let newest = frontier.max(since + 1);
        let last = data.len().checked_sub(1);
        let missed = data.into_iter().enumerate().map(|(number, data)| {
            let is_last = Some(number) == last;
            (if is_last { newest } else { 0 }, data.into())
        });
        Some(missed.collect())
    }

    /// A removed device as another partition knows it, if the channel shows it still.
    fn still_shown(&self, channel: &Channel, head: &Head) -> Option<(EntryId, Arc<Device>)> {
        let id = self.view.id(&head.key)?;
        let device = self.view.shown(id)?;
        let is_selected = channel
            .filter
            .takes_device(&device.key, device.location.as_deref());
        is_selected.then_some((id, device))
    }

    fn missed_values(&self, channel: &Channel, time: i64) -> Option<Vec<Vec<u8>>> {
        let mut latest = Latest::default();
        let mut searched = 0;
        let mut removed = Vec::new();
        let selects = |head: &super::history::Head| {
            let place = head.location.as_deref();
            channel.filter.takes_device(&head.key, place)
        };
        for part in self.parts.values() {
            let from = part.marks.offset_at(time)?;
            for batch in part.history.devices_since(from)? {
                searched += batch.heads.len();
                if searched > MOST_SEARCHED || latest.len() > MOST_MISSED / LEAST {
                    return None;
                }
                for (update, head, before) in batch.iter() {
                    if update.offset < from {
                        continue;
                    }
                    match update.change {
                        Change::Removed(_) if selects(head) => {
                            latest.remove(head.id, &head.key);
                            removed.push(head);
                        }
                        Change::Described { .. } => {
                            let before = before.flatten().is_some_and(|before| selects(before));
                            match (before, selects(head)) {
                                (true, false) => {
                                    latest.remove(head.id, &head.key);
                                    removed.push(head);
                                }
                                (false, true) => latest.whole(head.id),
                                _ => {}
                            }
                        }
                        Change::Message { readings, .. } if selects(head) => {
                            let sensors = readings.iter().map(|new| new.sensor);
                            latest.change(head.id, &channel.filter, sensors);
                        }
                        _ => {}
                    }
                }
            }
        }
        for head in removed {
            if let Some((id, _)) = self.still_shown(channel, head) {
                latest.whole(id);
            }
        }
        let (mut data, mut bytes) = (Vec::new(), 0);
        while !latest.is_empty() {
            let batch = latest.take(&self.view, channel, self.channels.settings.frame());
            bytes += batch.data.len();
            if bytes > MOST_MISSED {
                return None;
            }
            if !batch.is_empty() {
                data.push(batch.data);
            }
        }
        Some(data)
    }

    /// Adds to the readings of a message those of other sensors of its device. Values that are newer
    /// come with their messages.
    fn complete(&self, readings: &mut Vec<Reading>, id: EntryId, timestamp: i64) {
        let shown = self.view.shown(id);
        let all = shown.iter().flat_map(|device| device.readings.iter());
        let others = all.filter(|(name, value)| {
            value.timestamp <= timestamp && !readings.iter().any(|(other, _)| other == name)
        });
        let others: Vec<_> = others.cloned().collect();
        readings.extend(others);
    }

    fn missed_changes(&self, channel: &Channel, time: i64) -> Option<Vec<Vec<u8>>> {
        let mut lines = Lines::default();
        let (mut searched, frame) = (0, self.channels.settings.frame());
        let mut removed = Vec::new();
        for part in self.parts.values() {
            let from = part.marks.offset_at(time)?;
            for batch in part.history.devices_since(from)? {
                searched += batch.heads.len();
                if searched > MOST_SEARCHED {
                    return None;
                }
                let mut entered = false;
                for (update, head, before) in batch.iter() {
                    if update.offset < from {
                        continue;
                    }
                    if lines.bytes() > MOST_MISSED {
                        return None;
                    }
                    let place = head.location.as_deref();
                    let selects = channel.filter.takes_device(&head.key, place);
                    let mut item = Vec::new();
                    match update.change {
                        Change::Removed(_) if selects => {
                            json::key(&mut item, &head.key);
                            lines.add(Field::Removed, &item, frame);
                            removed.push(head);
                        }
                        Change::Described { .. } => {
                            let was = before.flatten().is_some_and(|before| {
                                let place = before.location.as_deref();
                                channel.filter.takes_device(&before.key, place)
                            });
                            // A new device has nothing but its message.
                            entered = selects && !was && before.flatten().is_some();
                            if was && !selects {
                                json::key(&mut item, &head.key);
                                lines.add(Field::Removed, &item, frame);
                                removed.push(head);
                            }
                        }
                        Change::Message {
                            seq,
                            timestamp,
                            is_ahead,
                            readings,
                        } if selects => {
                            let device = Device {
                                location: head.location.clone(),
                                seq,
                                timestamp,
                                is_ahead,
                                ..View::empty(&head.key)
                            };
                            let mut readings: Vec<_> = readings.named().collect();
                            // A device that has come into the channel with it is shown whole.
                            if std::mem::take(&mut entered) {
                                self.complete(&mut readings, head.id, timestamp);
                            }
                            let takes = |name: &str| channel.filter.takes_sensor(name);
                            if channel.filter.sensor.is_some()
                                && !readings.iter().any(|(name, _)| takes(name))
                            {
                                continue;
                            }
                            let origin = Some((&*part.name, update.offset));
                            json::device(&mut item, &device, &readings, takes, origin);
                            lines.add(Field::Devices, &item, frame);
                        }
                        _ => {}
                    }
                }
            }
        }
        for head in removed {
            if let Some((_, device)) = self.still_shown(channel, head) {
                let takes = |name: &str| channel.filter.takes_sensor(name);
                if !device.readings.iter().any(|(name, _)| takes(name)) {
                    continue;
                }
                let mut item = Vec::new();
                json::device(&mut item, &device, &device.readings, takes, None);
                lines.add(Field::Devices, &item, frame);
            }
            if lines.bytes() > MOST_MISSED {
                return None;
            }
        }
        Some(lines.take(true))
    }

    fn missed_alerts(&self, channel: &Channel, time: i64) -> Option<Vec<Vec<u8>>> {
        let mut lines = Lines::default();
        // Without what can change in an alert: those that have left the channel are gone.
        let mut wide = channel.clone();
        (wide.filter.state, wide.filter.building) = (None, None);
        (wide.filter.floor, wide.filter.room) = (None, None);
        wide.filter.scope = None;
        let frame = self.channels.settings.frame();
        for part in self.parts.values() {
            let from = part.marks.offset_at(time)?;
            for change in part.history.alerts_since(from)? {
                let AlertChange { alert, is_gone, .. } = change;
                if lines.bytes() > MOST_MISSED {
                    return None;
                }
                let mut item = Vec::new();
                if !is_gone && channel.filter.takes_alert(alert) {
                    json::value(&mut item, alert);
                    lines.add(Field::Alerts, &item, frame);
                } else if wide.filter.takes_alert(alert) && change.was_in_scope(&channel.filter) {
                    json::value(&mut item, &alert.id);
                    lines.add(Field::Gone, &item, frame);
                }
            }
        }
        Some(lines.take(false))
    }
}
