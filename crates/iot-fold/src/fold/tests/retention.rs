//! The removal of devices against a naive model, and against itself after crashes.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::*;
use crate::fold::retention::MOST_REMOVED;
use crate::model::{AlertStatus, ClearReason};

/// Longer than the allowed silence of the rules.
const RETENTION: i64 = 40;

/// One record: its device, and when Kafka recorded it.
type Recorded = (u8, Option<i64>);

fn keeping() -> FoldRules {
    FoldRules {
        retention: Some(RETENTION),
        ..rules()
    }
}

fn new() -> Fold {
    Fold::new(keeping(), "device-data", 0)
}

fn feed(fold: &mut Fold, offset: usize, (device, recorded): Recorded) -> Folded {
    let value = f64::from(device) * 10.0;
    let sent = (device, offset as i64, None, 0, value);
    feed_at(fold, offset, recorded, sent).unwrap()
}

fn names(fold: &Fold) -> Vec<String> {
    let keys = states(fold).into_keys();
    keys.map(|key| key.device.to_string()).collect()
}

/// The devices that the store was told to delete since the last call.
fn removed(fold: &mut Fold) -> Vec<String> {
    updates::removed(&fold.take_updates())
}

/// Steps, gaps, records from the future, and records without a time; a few devices send often
/// and many rarely.
fn log() -> impl Strategy<Value = Vec<Recorded>> {
    let step = prop_oneof![
        10 => (0..4_i64).prop_map(Some),
        2 => (20..90_i64).prop_map(Some),
        1 => Just(Some(-1)),
        1 => Just(None),
    ];
    let sent = (prop_oneof![0..3_u8, 0..90_u8], step);
    prop::collection::vec(sent, 1..300).prop_map(|steps| {
        let mut time = 1_000;
        let sent = steps.into_iter().map(|(device, step)| match step {
            Some(-1) => (device, Some(3_800_000_000_000)),
            step => {
                time += step.unwrap_or(0);
                (device, step.map(|_| time))
            }
        });
        sent.collect()
    })
}

/// Looks at every device after every record, and gives the devices that each record removes.
fn naive(log: &[Recorded]) -> Vec<Vec<String>> {
    let (mut times, mut now) = (Vec::new(), None::<(i64, i64)>);
    let mut heard = BTreeMap::<u8, (usize, i64)>::new();
    let records = log.iter().enumerate().map(|(offset, (device, recorded))| {
        if let Some(at) = *recorded {
            times.push(at);
            let mut last: Vec<i64> = times.iter().rev().take(16).copied().collect();
            last.sort_unstable();
            now = match now {
                Some((time, age)) if times.len() > 4 => {
                    let newer = last[last.len() - 4].max(time);
                    Some((newer, age + (newer - time).min(RETENTION / 2)))
                }
                _ => Some((last[0], last[0])),
            };
            let most = now.map_or(i64::MAX, |(_, age)| age);
            heard
                .values_mut()
                .for_each(|(_, age)| *age = most.min(*age));
        }
        let Some((_, age)) = now else {
            return Vec::new();
        };
        heard.insert(*device, (offset, age));
        let gone = heard.iter().filter(|(_, (_, at))| age - at > RETENTION);
        let mut gone: Vec<_> = gone.map(|(device, (last, _))| (*last, *device)).collect();
        gone.sort_unstable();
        gone.truncate(MOST_REMOVED);
        let gone = gone.into_iter().map(|(_, device)| {
            heard.remove(&device);
            format!("d{device}")
        });
        gone.collect()
    });
    records.collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn devices_are_removed_as_in_a_naive_model_whatever_crashes(
        log in log(),
        cuts in prop::collection::vec(0..4_u8, 300),
    ) {
        let mut kept = Kept::default();
        let (mut fold, mut whole) = (reload_with(keeping(), &kept), new());
        let expected = naive(&log);
        let mut raised = BTreeSet::new();
        for (offset, sent) in log.iter().enumerate() {
            let folded = feed(&mut fold, offset, *sent);
            prop_assert_eq!(folded, feed(&mut whole, offset, *sent));
            let (updates, of_whole) = (fold.take_updates(), whole.take_updates());
            prop_assert_eq!(&updates.alerts, &of_whole.alerts);
            let gone = updates::removed(&updates);
            prop_assert_eq!(&gone, &expected[offset]);
            prop_assert_eq!(updates::removed(&of_whole), gone);
            prop_assert_eq!(folded.removed, expected[offset].len() as u64);
            for (_, alert) in updates.alerts {
                match alert.state {
                    AlertStatus::Raised => drop(raised.insert(alert.id)),
                    AlertStatus::Cleared => drop(raised.remove(&alert.id)),
                }
            }
            match cuts[offset] {
                0 => {
                    save(&mut fold, &mut kept);
                    fold = reload_with(keeping(), &kept);
                }
                1 => save(&mut fold, &mut kept),
                _ => {}
            }
        }
        prop_assert_eq!(states(&fold), states(&whole));
        prop_assert_eq!(fold.devices(), states(&fold).len());
        save(&mut fold, &mut kept);
        prop_assert_eq!(states(&reload_with(keeping(), &kept)), states(&whole));
        // No alert is left of a device that is gone.
        let active = fold.all().alerts.into_iter();
        let active = active.filter(|alert| alert.state == AlertStatus::Raised);
        prop_assert_eq!(active.map(|alert| alert.id).collect::<BTreeSet<_>>(), raised);
    }
}

/// Feeds records of device 0 with the times, and returns the next offset.
fn advance(fold: &mut Fold, offset: usize, times: impl IntoIterator<Item = i64>) -> usize {
    let mut next = offset;
    for at in times {
        feed(fold, next, (0, Some(at)));
        next += 1;
    }
    next
}

#[test]
fn a_device_that_is_gone_leaves_nothing_but_cleared_alerts() {
    let mut fold = new();
    // Its temperature is above the limit, and later it is silent.
    feed(&mut fold, 0, (9, Some(1_000)));
    let next = advance(&mut fold, 1, 1_000..1_045);
    assert_eq!(names(&fold), ["d0"]);
    let updates = fold.take_updates();
    assert_eq!(updates::removed(&updates), ["d9"]);
    let alerts: Vec<_> = updates.alerts.iter().map(|(_, alert)| alert).collect();
    let cleared = alerts.iter().filter(|alert| alert.reason.is_some());
    let cleared: Vec<_> = cleared.collect();
    assert_eq!(cleared.len(), 2);
    for alert in cleared {
        assert_eq!(
            (alert.state, &*alert.key.device),
            (AlertStatus::Cleared, "d9")
        );
        assert_eq!(alert.reason, Some(ClearReason::DeviceRemoved));
        assert_eq!(alert.timestamp, 1_041);
        assert_eq!(
            alert.message,
            "the device was removed after 0.041 s without a message"
        );
        let raised = alerts.iter().find(|other| other.id == alert.id);
        assert_eq!(raised.unwrap().state, AlertStatus::Raised);
    }
    let changes = fold.take_changes();
    assert_eq!(changes.removed, ["d\0t\0p\0d9"]);
    assert!(changes.live.iter().all(|(key, _)| key != "d\0t\0p\0d9"));
    assert_eq!(changes.windows, [], "its open windows are dropped");
    // It comes back as a new device, in the place that it had.
    feed(&mut fold, next, (9, Some(1_044)));
    let updates = fold.take_updates();
    let described = updates.iter().find_map(|update| match update.change {
        Change::Described { key, .. } => Some(key),
        _ => None,
    });
    let windows = fold.windows(described.unwrap(), 60).unwrap();
    assert_eq!(windows.here["temperature"][0].count, 1);
    assert_eq!(fold.devices.len(), 2);
}

#[test]
fn a_record_removes_a_bounded_number_of_devices() {
    let mut fold = new();
    for device in 1..=40_u8 {
        feed(&mut fold, device.into(), (device, Some(1_000)));
    }
    fold.take_changes();
    let next = advance(&mut fold, 41, 1_000..1_043);
    assert_eq!(removed(&mut fold).len(), 0);
    let mut counts = Vec::new();
    for (offset, at) in (next..).zip(1_043..1_048) {
        feed(&mut fold, offset, (0, Some(at)));
        let changes = fold.take_changes();
        counts.push((removed(&mut fold).len(), changes.removed.len()));
    }
    assert_eq!(counts, [(0, 0), (16, 16), (16, 16), (8, 8), (0, 0)]);
    assert_eq!(fold.devices(), 1);
}

#[test]
fn neither_an_outage_nor_a_record_from_the_future_removes_who_sends_again() {
    let mut fold = new();
    let mut offset = 0;
    for at in [
        1_000,
        1_010,
        1_020,
        3_800_000_000_000,
        1_030,
        9_000_000,
        9_000_010,
    ] {
        for device in 0..5_u8 {
            // One record of the future.
            let at = if device > 0 { at.min(9_000_010) } else { at };
            feed(&mut fold, offset, (device, Some(at)));
            offset += 1;
        }
        assert_eq!(removed(&mut fold).len(), 0, "{at}");
    }
    assert_eq!(fold.devices(), 5);
}

#[test]
fn a_device_in_a_freed_place_has_no_changes_of_the_one_before() {
    let mut fold = new();
    feed(&mut fold, 0, (1, Some(1_000)));
    // Nothing is taken in between: removed and replaced within one step.
    let next = advance(&mut fold, 1, 1_000..1_050);
    feed(&mut fold, next, (2, Some(1_050)));
    assert_eq!(names(&fold), ["d0", "d2"]);
    let updates = fold.take_updates();
    let of_place = updates.iter().filter(|update| update.place == 0);
    let of_place: Vec<_> = of_place.map(|update| update.change).collect();
    let names = of_place.iter().filter_map(|change| match change {
        Change::Removed(key) | Change::Described { key, .. } => Some(&*key.device),
        Change::Message { .. } => None,
    });
    assert_eq!(names.collect::<Vec<_>>(), ["d1", "d1", "d2"]);
    assert!(matches!(of_place[2], Change::Removed(_)));
    let changes = fold.take_changes();
    assert_eq!((changes.live.len(), changes.removed.len()), (3, 1));
}

#[test]
fn without_a_retention_devices_stay() {
    let mut fold = Fold::new(rules(), "device-data", 0);
    feed(&mut fold, 0, (1, Some(1_000)));
    advance(&mut fold, 1, 1_000..2_000);
    assert_eq!(names(&fold), ["d0", "d1"]);
    // A retention that is set later counts from its last message.
    let mut kept = Kept::default();
    save(&mut fold, &mut kept);
    let mut fold = reload_with(keeping(), &kept);
    advance(&mut fold, 1_001, [2_000]);
    assert_eq!(names(&fold), ["d0"]);
}
