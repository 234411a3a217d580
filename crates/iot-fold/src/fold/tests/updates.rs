//! What messages changed, applied to what was there before.

use std::sync::Arc;

use super::*;
use crate::model::{Device, Place, Readings, Value};

/// The devices that updates remove.
pub(super) fn removed(updates: &Updates) -> Vec<String> {
    let gone = updates.iter().filter_map(|update| match update.change {
        Change::Removed(key) => Some(key.device.to_string()),
        _ => None,
    });
    gone.collect()
}

pub(super) fn readings(update: Update<'_>) -> Vec<(Arc<str>, Value)> {
    match update.change {
        Change::Message { readings, .. } => readings.named().collect(),
        _ => Vec::new(),
    }
}

/// A client that knows contents and applies updates to them.
#[derive(Debug, Default, PartialEq)]
struct Client {
    devices: BTreeMap<usize, Device>,
    /// Device, sensor and kind, and then what stays the same while it is only repeated.
    alerts: BTreeMap<(String, String, usize), (String, bool)>,
}

impl Client {
    fn new(all: Contents) -> Self {
        let mut client = Self {
            devices: all.devices.into_iter().collect(),
            ..Self::default()
        };
        all.alerts.iter().for_each(|alert| client.alert(alert));
        client
    }

    fn alert(&mut self, alert: &Alert) {
        let device = alert.key.device.to_string();
        let of = (device, alert.sensor.to_string(), alert.kind as usize);
        let now = (alert.id.to_string(), alert.is_active());
        self.alerts.insert(of, now);
    }

    fn apply(&mut self, updates: &Updates) {
        let mut alerts = updates.alerts.iter().peekable();
        for update in updates.iter() {
            while let Some((_, alert)) = alerts.next_if(|(at, _)| *at <= update.offset) {
                self.alert(alert);
            }
            match update.change {
                Change::Removed(key) => {
                    let gone = self.devices.remove(&update.place).unwrap();
                    assert_eq!(gone.key, *key);
                    self.alerts.retain(|of, _| *of.0 != *key.device);
                }
                Change::Described { key, location } => {
                    let known = self.devices.entry(update.place);
                    let device = known.or_insert_with(|| Device {
                        key: key.clone(),
                        location: None,
                        seq: None,
                        timestamp: 0,
                        is_ahead: false,
                        readings: Readings::default(),
                    });
                    assert_eq!(device.key, *key);
                    device.location = location.cloned();
                }
                Change::Message {
                    seq,
                    timestamp,
                    is_ahead,
                    readings,
                } => {
                    let device = self.devices.get_mut(&update.place).unwrap();
                    device.update((seq, timestamp, is_ahead), readings);
                }
            }
        }
        alerts.for_each(|(_, alert)| self.alert(alert));
    }
}

/// Few devices that come and go, and move.
fn log() -> impl Strategy<Value = Vec<(Sent, Option<i64>)>> {
    let sent = (
        0..6_u8,
        0..9_i64,
        prop::option::of(0..3_u64),
        0..3_usize,
        0..80_u8,
    );
    let step = prop_oneof![8 => 0..3_i64, 1 => 30..60_i64];
    prop::collection::vec((sent, step), 1..200).prop_map(|steps| {
        let mut time = 1_000;
        let sent = steps
            .into_iter()
            .map(|((device, back, seq, sensor, value), step)| {
                time += step;
                let sent = (device, time - back, seq, sensor, f64::from(value));
                (sent, Some(time))
            });
        sent.collect()
    })
}

proptest! {
    #[test]
    fn updates_on_earlier_contents_give_later_ones(
        log in log(),
        cuts in prop::collection::vec(0..3_u8, 200),
    ) {
        let keeping = FoldRules { retention: Some(40), ..rules() };
        let mut fold = Fold::new(keeping, "device-data", 0);
        let (mut client, mut last) = (Client::default(), -1);
        for (offset, (sent, recorded)) in log.iter().enumerate() {
            feed_at(&mut fold, offset, *recorded, *sent).unwrap();
            if cuts[offset] == 0 {
                let updates = fold.take_updates();
                // In two parts, as when a feed takes over from another.
                let middle = (last + offset as i64) / 2;
                let (before, after) = updates.clone().split(middle);
                let of = |updates: &Updates| updates.iter().map(|update| update.offset).collect();
                let (first, second): (Vec<_>, Vec<_>) = (of(&before), of(&after));
                prop_assert!(first.iter().all(|at| *at < middle));
                prop_assert!(second.iter().all(|at| *at >= middle));
                let offsets: Vec<_> = updates.iter().map(|update| update.offset).collect();
                prop_assert!(offsets.is_sorted() && offsets.iter().all(|at| *at > last));
                last = offset as i64;
                client.apply(&before);
                client.apply(&after);
                prop_assert_eq!(&client, &Client::new(fold.all()));
            }
        }
    }
}

#[test]
fn only_what_changed_is_shown_in_the_order_of_the_log() {
    let mut fold = Fold::new(rules(), "device-data", 0);
    feed(&mut fold, 7, (0, 100, None, 0, 1.0)).unwrap();
    feed(&mut fold, 8, (0, 102, None, 1, 2.0)).unwrap();
    // Older than what is known.
    feed(&mut fold, 9, (0, 101, None, 1, 3.0)).unwrap();
    feed(&mut fold, 10, (0, 101, None, 0, 4.0)).unwrap();
    let updates = fold.take_updates();
    let shown = updates.iter().filter_map(|update| match update.change {
        Change::Message {
            timestamp,
            readings,
            ..
        } => {
            let named = readings.named();
            let named = named.map(|(sensor, value)| (sensor.to_string(), value.value));
            Some((update.offset, timestamp, named.collect::<Vec<_>>()))
        }
        _ => None,
    });
    let expected = [
        (7, 100, vec![("temperature".to_owned(), 1.0)]),
        (8, 102, vec![("humidity".to_owned(), 2.0)]),
        // The newest value of its sensor, in a message that is not the newest.
        (10, 102, vec![("temperature".to_owned(), 4.0)]),
    ];
    assert_eq!(shown.collect::<Vec<_>>(), expected);
    assert!(fold.take_updates().is_empty());
}

#[test]
fn a_device_is_described_when_it_is_new_and_when_it_moves() {
    let mut fold = Fold::new(rules(), "device-data", 0);
    // The rooms are r1, r1, r2.
    for (offset, at) in [(0, 1), (1, 4), (2, 5)] {
        feed(&mut fold, offset, (0, at, None, 0, 1.0)).unwrap();
    }
    let updates = fold.take_updates();
    let described = updates.iter().filter_map(|update| match update.change {
        Change::Described { location, .. } => {
            let room = |place: &Arc<Place>| place.room.to_string();
            Some((update.offset, location.map(room)))
        }
        _ => None,
    });
    let expected = [(0, Some("r1".to_owned())), (2, Some("r2".to_owned()))];
    assert_eq!(described.collect::<Vec<_>>(), expected);
}
