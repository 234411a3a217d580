//! The fold against a naive model, and against itself cut in other places.

mod clock;
mod doubt;
mod duration;
mod golden;
mod limits;
mod retention;
mod silence;
mod updates;
mod windows;

use std::collections::BTreeMap;

use iot_core::message::{DeviceMessage, Location, Quality, Reading};
use proptest::prelude::*;

use super::*;
use crate::catalogue::{Catalogue, Known, Limits};
use crate::detect::Detection;
use crate::limits::{Limit, ThresholdRule};
use crate::model::{Alert, AlertStatus};

/// None is the multiple of another.
const SIZES: [i64; 3] = [60, 90, 250];

const NAMES: [&str; 3] = ["temperature", "humidity", "vibration"];

/// One message of a test: device, time, seq, and a value for one sensor.
type Sent = (u8, i64, Option<u64>, usize, f64);

impl Fold {
    /// The changes of alerts since the last call; those of devices are lost.
    fn take_alerts(&mut self) -> Vec<Alert> {
        let alerts = self.take_updates().alerts.into_iter();
        alerts.map(|(_, alert)| alert).collect()
    }
}

fn rules() -> FoldRules {
    let windows = WindowRules {
        sizes: SIZES.into(),
        lateness: 30,
        keep: 20,
    };
    FoldRules {
        windows,
        detect: DetectRules::new(eager()),
        limits: limits(15.0),
        silence: Some(12),
        retention: None,
        devices: 100,
        sensors: 8,
    }
}

/// One more sensor, with limits on both sides, another limit for temperatures in room r1, and
/// a minimum duration for humidity.
fn limits(in_r1: f64) -> LimitRules {
    let humidity = ThresholdRule {
        sensor: "humidity".into(),
        min_duration: Some(40),
        ..ThresholdRule::default()
    };
    limits_with(in_r1, &[humidity])
}

fn limits_with(in_r1: f64, further: &[ThresholdRule]) -> LimitRules {
    let vibration = Known {
        name: "vibration".into(),
        unit: "mm/s".into(),
        physical: f64::NEG_INFINITY..=f64::INFINITY,
        limits: Limits {
            above: 40.0,
            below: 0.0,
            min_duration: 0,
        },
        kind: None,
    };
    let rule = ThresholdRule {
        sensor: "temperature".into(),
        room: Some("r1".into()),
        above: Limit::At(in_r1),
        ..ThresholdRule::default()
    };
    let rules = [std::slice::from_ref(&rule), further].concat();
    LimitRules::new(&Catalogue::new([vibration]), &rules)
}

/// Detectors that have learnt enough after a few readings of a short log.
fn eager() -> Detection {
    let mut config = Detection::default();
    (config.spike.warm_up, config.spike.limit) = (3, 1.5);
    (config.stuck.warm_up, config.stuck.readings) = (2, 2);
    config.stuck.varies = 0.1;
    (config.drift.warm_up, config.drift.slack) = (3, 0.2);
    config.drift.limit = 1.0;
    (config.toggling.changes, config.toggling.readings) = (2, 3);
    config
}

fn message((device, timestamp, seq, sensor, value): Sent) -> DeviceMessage<'static> {
    DeviceMessage {
        device_id: format!("d{device}").into(),
        tenant: None,
        project: None,
        seq,
        timestamp,
        location: Some(Location {
            room: format!("r{}", timestamp % 3).into(),
            ..Location::default()
        }),
        readings: vec![Reading {
            sensor: NAMES[sensor].into(),
            value,
            unit: None,
            quality: Quality::Good,
        }],
    }
}

fn feed(fold: &mut Fold, offset: usize, sent: Sent) -> Result<Folded, Refusal> {
    feed_at(fold, offset, recorded(offset), sent)
}

/// A message in a record with this offset and time.
fn event<'m>(offset: i64, recorded: Option<i64>, message: &'m DeviceMessage<'m>) -> Event<'m> {
    Event {
        offset,
        recorded,
        tenant: "t",
        project: "p",
        message,
        is_undated: false,
        unmatched: &[],
    }
}

/// With this record time.
fn feed_at(
    fold: &mut Fold,
    offset: usize,
    recorded: Option<i64>,
    sent: Sent,
) -> Result<Folded, Refusal> {
    let message = message(sent);
    apply(fold, &event(offset as i64, recorded, &message))
}

/// Applies one event.
fn apply(fold: &mut Fold, event: &Event<'_>) -> Result<Folded, Refusal> {
    let mut folded = Folded::default();
    fold.apply(event, &mut folded)?;
    Ok(folded)
}

/// Times of records: they mostly go on, not always; some have none, and some are from the
/// future.
fn recorded(offset: usize) -> Option<i64> {
    let at = offset as i64;
    match offset % 13 {
        3 => None,
        5 => Some(at - 4),
        7 => Some(at + 9),
        9 => Some(3_800_000_000_000),
        _ => Some(at),
    }
}

fn states(fold: &Fold) -> BTreeMap<DeviceKey, DeviceState> {
    let devices = fold.devices.iter().filter(|device| !device.is_vacant);
    let states = devices.map(|device| &device.state);
    states
        .map(|state| (state.key.clone(), state.clone()))
        .collect()
}

/// How far a message takes the watermark of its device.
fn reaches(offset: usize, timestamp: i64) -> i64 {
    recorded(offset).map_or(timestamp, |at| timestamp.min(at))
}

/// Whether its clock was ahead of its record.
fn is_ahead(offset: usize, timestamp: i64) -> bool {
    recorded(offset).is_some_and(|at| timestamp > at + 1_000)
}

/// Some clocks are far ahead.
fn log() -> impl Strategy<Value = Vec<Sent>> {
    let time = prop_oneof![4 => 0..600_i64, 1 => 1_100..1_290_i64];
    let sent = (
        0..3_u8,
        time,
        prop::option::of(0..4_u64),
        0..3_usize,
        -10.0..80.0_f64,
    );
    prop::collection::vec(sent, 1..200)
}

fn straight(log: &[Sent]) -> Fold {
    let mut fold = Fold::new(rules(), "device-data", 0);
    for (offset, sent) in log.iter().enumerate() {
        feed(&mut fold, offset, *sent).unwrap();
    }
    fold
}

/// What a store would keep.
#[derive(Debug, Default, PartialEq)]
struct Kept {
    live: BTreeMap<String, Vec<u8>>,
    /// With the times they expire.
    windows: BTreeMap<String, (Vec<u8>, i64)>,
}

fn save(fold: &mut Fold, kept: &mut Kept) {
    let (announced, bytes) = (fold.changed(), fold.changed_bytes());
    let changes = fold.take_changes();
    assert_eq!(
        announced,
        changes.len(),
        "changed() counts what take_changes() gives"
    );
    let windows: Vec<_> = changes.windows.iter().map(Sealed::encode).collect();
    let values = changes.live.iter().map(|(_, value)| value);
    let removed: usize = changes.removed.iter().map(String::len).sum();
    let real = values.chain(&windows).map(Vec::len).sum::<usize>() + removed;
    // Devices that are removed, and may come back within the step, are announced too.
    let removes = fold.rules.retention.is_some();
    assert!(
        real <= bytes && (bytes <= 2 * real + 200 || removes),
        "{bytes} bytes were announced, {real} came"
    );
    for key in &changes.removed {
        kept.live.remove(key);
    }
    kept.live.extend(changes.live);
    for (sealed, value) in changes.windows.iter().zip(windows) {
        let stored = (value, sealed.expires);
        let before = kept.windows.insert(sealed.store_key(), stored);
        assert_eq!(before, None, "a window is sealed once");
    }
}

fn reload(kept: &Kept) -> Fold {
    reload_with(rules(), kept)
}

fn reload_with(rules: FoldRules, kept: &Kept) -> Fold {
    let entries = kept.live.iter().rev();
    let entries: Vec<_> = entries.map(|(k, v)| (k.clone(), v.clone())).collect();
    Fold::restore(rules, "device-data", 0, &entries).unwrap()
}

proptest! {
    #[test]
    fn batches_and_crashes_leave_no_trace(log in log(), cuts in prop::collection::vec(0..3_u8, 200)) {
        let mut kept = Kept::default();
        let mut fold = Fold::new(rules(), "device-data", 0);
        let mut alerts = Vec::new();
        for (offset, sent) in log.iter().enumerate() {
            feed(&mut fold, offset, *sent).unwrap();
            match cuts[offset] {
                0 => {}
                1 => save(&mut fold, &mut kept),
                _ => {
                    alerts.extend(fold.take_alerts());
                    save(&mut fold, &mut kept);
                    fold = reload(&kept);
                }
            }
        }
        alerts.extend(fold.take_alerts());
        save(&mut fold, &mut kept);
        let mut whole = straight(&log);
        prop_assert_eq!(states(&fold), states(&whole));
        prop_assert_eq!(states(&reload(&kept)), states(&whole));
        prop_assert_eq!(alerts, whole.take_alerts());
        let mut straight = Kept::default();
        save(&mut whole, &mut straight);
        prop_assert_eq!(kept, straight);
    }

    #[test]
    fn the_newest_value_wins_whatever_the_order(log in log()) {
        let fold = straight(&log);
        for (key, state) in states(&fold) {
            for sensor in &state.sensors {
                let of_sensor = taken(&log, &key.device);
                let of_sensor = of_sensor.filter(|(_, sent)| NAMES[sent.3] == &*sensor.name);
                let newest = of_sensor.reduce(|old, new| if replaces(old, new) { new } else { old });
                let (offset, sent) = newest.unwrap();
                let stamp = (sensor.newest.timestamp, sensor.newest.seq, sensor.newest.is_ahead);
                prop_assert_eq!(stamp, (sent.1, sent.2, is_ahead(offset, sent.1)));
                prop_assert_eq!(sensor.value, sent.4);
            }
        }
    }
}

/// Whether a message replaces an earlier one of the log: it is not older, or the other was
/// ahead of its record and it is not.
fn replaces(old: (usize, Sent), new: (usize, Sent)) -> bool {
    let ahead = |(offset, sent): (usize, Sent)| is_ahead(offset, sent.1);
    (new.1.1, new.1.2) >= (old.1.1, old.1.2) || (ahead(old) && !ahead(new))
}

/// Of each message whether it is no immediate repetition of the newest of its device.
fn straight_taken(log: &[Sent]) -> Vec<bool> {
    let mut newest = BTreeMap::<u8, (usize, Sent)>::new();
    let taken = log.iter().copied().enumerate().map(|new| {
        let Some(old) = newest.get_mut(&new.1.0) else {
            newest.insert(new.1.0, new);
            return true;
        };
        let repeated = new.1.2.is_some() && (new.1.1, new.1.2) == (old.1.1, old.1.2);
        if !repeated && replaces(*old, new) {
            *old = new;
        }
        !repeated
    });
    taken.collect()
}

/// The messages of a device that are taken, with their offsets.
fn taken<'l>(log: &'l [Sent], device: &'l str) -> impl Iterator<Item = (usize, Sent)> + 'l {
    let fresh = log.iter().copied().enumerate().zip(straight_taken(log));
    let fresh = fresh.filter_map(|(sent, fresh)| fresh.then_some(sent));
    fresh.filter(move |(_, sent)| format!("d{}", sent.0) == device)
}

#[test]
fn a_repetition_is_not_counted_twice() {
    let mut fold = Fold::new(rules(), "device-data", 0);
    let sent = (0, 100, Some(7), 0, 20.0);
    assert_eq!(feed(&mut fold, 0, sent).unwrap().duplicates, 0);
    assert_eq!(feed(&mut fold, 1, sent).unwrap().duplicates, 1);
    let windows = fold
        .windows(&fold.devices[0].state.key.clone(), 60)
        .unwrap();
    assert_eq!(windows.here["temperature"][0].count, 1);
}

#[test]
fn limits_refuse_and_leave_the_state_alone() {
    let mut fold = Fold::new(
        FoldRules {
            devices: 1,
            sensors: 2,
            ..rules()
        },
        "device-data",
        0,
    );
    feed(&mut fold, 0, (0, 1, None, 0, 1.0)).unwrap();
    assert_eq!(
        feed(&mut fold, 1, (1, 1, None, 0, 1.0)),
        Err(Refusal::TooManyDevices)
    );
    feed(&mut fold, 2, (0, 2, None, 1, 1.0)).unwrap();
    assert_eq!(
        feed(&mut fold, 3, (0, 3, None, 2, 1.0)),
        Err(Refusal::TooManySensors)
    );
    feed(&mut fold, 4, (0, 4, None, 0, 1.0)).unwrap();
    assert_eq!(fold.devices[0].state.sensors.len(), 2);
}

fn active_alerts(fold: &Fold) -> usize {
    fold.all()
        .alerts
        .iter()
        .filter(|alert| alert.state == AlertStatus::Raised)
        .count()
}

#[test]
fn alerts_are_told_with_an_id_from_the_log() {
    let mut fold = Fold::new(rules(), "device-data", 3);
    feed(&mut fold, 41, (0, 100, None, 0, 55.0)).unwrap();
    let told = fold.take_alerts();
    assert_eq!(told.len(), 1);
    assert_eq!(&*told[0].id, "device-data:3:41:temperature:threshold");
    assert_eq!(active_alerts(&fold), 1);
    // Older than the newest value: neither value nor alert change.
    assert_eq!(
        feed(&mut fold, 42, (0, 50, None, 0, 20.0)).unwrap().stale,
        1
    );
    assert_eq!(active_alerts(&fold), 1);
    feed(&mut fold, 43, (0, 101, None, 0, 20.0)).unwrap();
    assert_eq!(active_alerts(&fold), 0);
    assert_eq!(fold.take_alerts()[0].state, AlertStatus::Cleared);
}

#[test]
fn a_bad_reading_is_shown_but_neither_counted_nor_alerted() {
    let mut fold = Fold::new(rules(), "device-data", 0);
    let mut bad = message((0, 100, None, 0, 90.0));
    bad.readings[0].quality = Quality::Bad;
    apply(&mut fold, &event(0, None, &bad)).unwrap();
    let told = fold.take_updates();
    let shown: Vec<_> = told.iter().flat_map(updates::readings).collect();
    assert_eq!(shown[0].1.quality, Quality::Bad);
    assert_eq!(told.alerts, []);
    let key = fold.all().devices[0].1.key.clone();
    assert_eq!(fold.windows(&key, 60).unwrap().here["temperature"], []);
}

proptest! {
    /// Few values, so that sensors are stuck and switches toggle.
    #[test]
    fn detectors_leave_no_trace_of_crashes_either(
        values in prop::collection::vec((0..3_usize, 0..2_u8, 0..6_u8), 50..300),
        cuts in prop::collection::vec(0..4_u8, 300),
    ) {
        let sent = |at: usize, (sensor, kind, value): (usize, u8, u8)| {
            let value = if kind == 0 { value / 5 } else { value * value };
            (0, at as i64, None, sensor, f64::from(value) * 9.0)
        };
        let (mut kept, mut raised) = (Kept::default(), [0; AlertKind::ALL.len()]);
        let (mut fold, mut whole) = (straight(&[]), straight(&[]));
        let (mut alerts, mut expected) = (Vec::new(), Vec::new());
        for (at, value) in values.into_iter().enumerate() {
            let folded = feed(&mut fold, at, sent(at, value)).unwrap();
            prop_assert_eq!(folded, feed(&mut whole, at, sent(at, value)).unwrap());
            for (all, one) in raised.iter_mut().zip(folded.raised) {
                *all += one;
            }
            if cuts[at] == 0 {
                alerts.extend(fold.take_alerts());
                save(&mut fold, &mut kept);
                fold = reload(&kept);
            }
        }
        alerts.extend(fold.take_alerts());
        expected.extend(whole.take_alerts());
        prop_assert_eq!(alerts, expected);
        prop_assert_eq!(states(&fold), states(&whole));
    }
}

#[test]
fn other_rules_start_anew_and_leave_values_and_windows_alone() {
    let log = (0..50_u8).map(|n| (0, i64::from(n), None, 0, f64::from(n % 7)));
    let mut fold = straight(&log.chain([(0, 50, None, 0, 60.0)]).collect::<Vec<_>>());
    let mut kept = Kept::default();
    save(&mut fold, &mut kept);
    let entries: Vec<_> = kept.live.into_iter().collect();
    let mut other = rules();
    other.detect = DetectRules::new(Detection::default());
    let restored = Fold::restore(other, "device-data", 0, &entries).unwrap();
    let (before, after) = (&fold.devices[0].state, &restored.devices[0].state);
    let (old, new) = (&before.sensors[0], &after.sensors[0]);
    assert_ne!((old.detectors.readings, before.rules), (0, after.rules));
    assert_eq!(new.detectors.readings, 0);
    assert_eq!((old.value, &old.windows), (new.value, &new.windows));
    assert!(active_alerts(&fold) > 0);
    assert_eq!(active_alerts(&restored), 0);
    assert_eq!(old.alerts.len(), new.alerts.len());
}

#[test]
fn a_device_has_no_room_for_more_than_it_needs() {
    let mut fold = Fold::new(rules(), "device-data", 0);
    feed(&mut fold, 0, (0, 0, None, 0, 1.0)).unwrap();
    let Tracked { state, marks, .. } = &fold.devices[0];
    assert_eq!((state.sensors.capacity(), marks.capacity()), (1, 1));
    assert_eq!(state.sensors[0].windows.open.capacity(), SIZES.len());
}
