//! What the fold gives to clients: everything that it has, and then what each message changed.

use std::mem::take;
use std::sync::Arc;

use super::{Event, Fold, Tracked};
use crate::model::{Alert, Device, DeviceKey, Place};
use crate::new_values::{NewValues, PackedReading};
use crate::state::DeviceState;

/// What messages changed, in the order of the log. A message that changed nothing that clients
/// see is not in it.
#[derive(Debug, Default, Clone, PartialEq)]
pub struct Updates {
    changes: Vec<Packed>,
    /// The readings of all changes, in their order.
    readings: Vec<PackedReading>,
    /// Names and units of the readings, each once. Most devices share them: with an owner for each
    /// reading, several threads would change the same few counts all the time.
    texts: Vec<Arc<str>>,
    /// Changes of alerts, in order, each with the offset of the record that made it.
    pub alerts: Vec<(i64, Alert)>,
}

/// A change without its readings: those of all messages are in one list, so that most messages
/// allocate nothing.
#[derive(Debug, Clone, PartialEq)]
struct Packed {
    offset: i64,
    place: usize,
    what: What,
}

#[derive(Debug, Clone, PartialEq)]
enum What {
    Removed(Box<DeviceKey>),
    Described(Box<(DeviceKey, Option<Arc<Place>>)>),
    Message {
        seq: Option<u64>,
        timestamp: i64,
        is_ahead: bool,
        /// How many readings it has.
        readings: u32,
    },
}

/// What one message changed in one device.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Update<'u> {
    /// Offset of the record.
    pub offset: i64,
    /// The number of the device in this partition. A later device can have it again after the
    /// device was removed.
    pub place: usize,
    /// What changed.
    pub change: Change<'u>,
}

/// A change of a device.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Change<'u> {
    /// The device was removed.
    Removed(&'u DeviceKey),
    /// The device is new, or has another location now. A [`Change::Message`] follows.
    Described {
        /// The device.
        key: &'u DeviceKey,
        /// Where it is, if it has said so.
        location: Option<&'u Arc<Place>>,
    },
    /// The device has sent a message.
    Message {
        /// Sequence number of its newest message.
        seq: Option<u64>,
        /// Event time of its newest message.
        timestamp: i64,
        /// Whether that is ahead of the record's time.
        is_ahead: bool,
        /// The readings that replaced the newest value of their sensor.
        readings: NewValues<'u>,
    },
}

impl Updates {
    /// The changes of devices, in order.
    pub fn iter(&self) -> impl Iterator<Item = Update<'_>> {
        let mut rest = &self.readings[..];
        self.changes.iter().map(move |packed| Update {
            offset: packed.offset,
            place: packed.place,
            change: match &packed.what {
                What::Removed(key) => Change::Removed(key),
                What::Described(described) => Change::Described {
                    key: &described.0,
                    location: described.1.as_ref(),
                },
                What::Message {
                    seq,
                    timestamp,
                    is_ahead,
                    readings,
                } => {
                    let (readings, after) = rest.split_at(*readings as usize);
                    rest = after;
                    let texts = &self.texts[..];
                    Change::Message {
                        seq: *seq,
                        timestamp: *timestamp,
                        is_ahead: *is_ahead,
                        readings: NewValues { readings, texts },
                    }
                }
            },
        })
    }

    /// How many changes of devices.
    #[must_use]
    pub fn len(&self) -> usize {
        self.changes.len()
    }

    /// Whether there is nothing to show.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.changes.is_empty() && self.alerts.is_empty()
    }

    /// Approximate bytes in memory, without shared texts and alerts.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.changes.capacity() * size_of::<Packed>()
            + self.readings.capacity() * size_of::<PackedReading>()
            + self.texts.capacity() * size_of::<Arc<str>>()
    }

    /// Those of the records before an offset, and the others.
    #[must_use]
    pub fn split(mut self, at: i64) -> (Self, Self) {
        let first = self.changes.partition_point(|change| change.offset < at);
        let of_message = |change: &Packed| match change.what {
            What::Message { readings, .. } => readings as usize,
            _ => 0,
        };
        let readings = self.changes[..first].iter().map(of_message).sum();
        let alerts = self.alerts.partition_point(|(offset, _)| *offset < at);
        let after = Self {
            changes: self.changes.split_off(first),
            readings: self.readings.split_off(readings),
            texts: self.texts.clone(),
            alerts: self.alerts.split_off(alerts),
        };
        (self, after)
    }
}

/// Everything that clients see of a partition at one moment.
#[derive(Debug, Default, Clone, PartialEq)]
pub struct Contents {
    /// Devices with all of their readings, each with its number in this partition.
    pub devices: Vec<(usize, Device)>,
    /// The last alert of each kind, of each sensor and device.
    pub alerts: Vec<Alert>,
}

/// What a message has changed so far.
#[derive(Debug, Clone, Copy)]
pub(super) struct Noted {
    /// Whether the device is new or has moved.
    pub(super) described: bool,
    /// Whether it is the newest message of its device.
    pub(super) newest: bool,
    /// How many readings there were before those of the message.
    pub(super) readings: usize,
}

impl Fold {
    /// Collects changes of devices from now on, as it does at first, or only those of alerts.
    pub fn collect_changes(&mut self, collects: bool) {
        self.is_unobserved = !collects;
    }

    /// What messages changed since the last call.
    pub fn take_updates(&mut self) -> Updates {
        self.numbers.clear();
        take(&mut self.updates)
    }

    /// All devices and all alerts.
    pub fn all(&self) -> Contents {
        let full = |state: &DeviceState| {
            let readings = state.sensors.iter().map(|s| (s.name.clone(), s.describe()));
            state.describe(readings.collect())
        };
        let mut all = Contents::default();
        let places = self.devices.iter().enumerate();
        for (at, Tracked { state, .. }) in places.filter(|(_, device)| !device.is_vacant) {
            all.devices.push((at, full(state)));
            for sensor in &state.sensors {
                let alerts = sensor.alerts.iter();
                let alerts = alerts.map(|a| state.describe_alert(sensor, a, &self.origin));
                all.alerts.extend(alerts);
            }
            all.alerts.extend(state.describe_silence(&self.origin));
        }
        all
    }

    /// Adds an alert as it is now.
    pub(super) fn tell(&mut self, offset: i64, alert: Alert) {
        self.updates.alerts.push((offset, alert));
    }

    /// Adds the newest value of a sensor to the message that is being applied.
    pub(super) fn show(&mut self, at: usize, number: usize) {
        if self.is_unobserved {
            return;
        }
        let sensor = &self.devices[at].state.sensors[number];
        let Updates {
            readings, texts, ..
        } = &mut self.updates;
        readings.push(PackedReading {
            value: sensor.value,
            timestamp: sensor.newest.timestamp,
            sensor: self.numbers.of(&sensor.name, texts),
            unit: self.numbers.of_unit(sensor.unit.as_ref(), texts),
            quality: sensor.quality,
            is_ahead: sensor.newest.is_ahead,
        });
    }

    /// Before the readings of a message.
    pub(super) fn note(&self, described: bool, newest: bool) -> Noted {
        Noted {
            described,
            newest,
            readings: self.updates.readings.len(),
        }
    }

    /// Adds what a message has changed, after its readings.
    pub(super) fn show_message(&mut self, at: usize, event: &Event<'_>, noted: Noted) {
        let readings = self.updates.readings.len() - noted.readings;
        let is_unchanged = readings == 0 && !noted.newest && !noted.described;
        if self.is_unobserved || is_unchanged {
            return;
        }
        let state = &self.devices[at].state;
        let (offset, place) = (event.offset, at);
        if noted.described {
            let what = What::Described(Box::new((state.key.clone(), state.place.clone())));
            let described = Packed {
                offset,
                place,
                what,
            };
            self.updates.changes.push(described);
        }
        let what = What::Message {
            seq: state.newest.seq,
            timestamp: state.newest.timestamp,
            is_ahead: state.newest.is_ahead,
            // A device has few sensors.
            readings: readings as u32,
        };
        self.updates.changes.push(Packed {
            offset,
            place,
            what,
        });
    }

    /// Adds that a device was removed.
    pub(super) fn show_removed(&mut self, at: usize, offset: i64, key: DeviceKey) {
        if self.is_unobserved {
            return;
        }
        self.updates.changes.push(Packed {
            offset,
            place: at,
            what: What::Removed(Box::new(key)),
        });
    }
}
