//! Silence against a naive model, and against itself after crashes.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::*;
use crate::fold::silence::MOST_REVEALED;
use crate::model::AlertStatus;

/// As in the rules of the tests.
const AFTER: i64 = 12;

/// One record: its device, and when Kafka recorded it.
type Sent = (u8, Option<i64>);

/// What becomes of a device, and at which offset.
type Change = (i64, String, AlertStatus);

fn feed(fold: &mut Fold, offset: usize, (device, recorded): Sent) -> Folded {
    let sent = (device, offset as i64, None, 1, 20.0);
    feed_at(fold, offset, recorded, sent).unwrap()
}

fn silences(alerts: Vec<Alert>) -> Vec<Alert> {
    let alerts = alerts.into_iter();
    let of_kind = alerts.filter(|alert| alert.kind == AlertKind::Silence);
    of_kind.collect()
}

/// Bursts, steps, long gaps, steps back, and records without a time.
fn log() -> impl Strategy<Value = Vec<Sent>> {
    let step = prop_oneof![
        6 => Just(Some(0)),
        6 => (1..4_i64).prop_map(Some),
        2 => (5..60_i64).prop_map(Some),
        1 => (-40..0_i64).prop_map(Some),
        1 => Just(None),
    ];
    let sent = (prop_oneof![0..3_u8, 0..60_u8], step);
    prop::collection::vec(sent, 1..300).prop_map(|steps| {
        let mut time = 1_000;
        let sent = steps.into_iter().map(|(device, step)| {
            time += step.unwrap_or(0).max(0);
            (device, step.map(|step| time + step.min(0)))
        });
        sent.collect()
    })
}

/// Looks at every device after every record.
fn naive(log: &[Sent]) -> Vec<Change> {
    let (mut time, mut changes) = (None::<(i64, i64)>, Vec::new());
    let mut times = Vec::<i64>::new();
    let mut heard = BTreeMap::<u8, (i64, i64)>::new();
    let mut silent = BTreeSet::new();
    for (offset, (device, recorded)) in (0..).zip(log) {
        if let Some(at) = *recorded {
            times.push(at);
            let mut last = times[times.len().saturating_sub(16)..].to_vec();
            last.sort_unstable_by(|a, b| b.cmp(a));
            time = match time {
                Some((newest, clock)) if times.len() > 4 => {
                    let step = (last[3] - newest).clamp(0, AFTER / 2);
                    Some((newest.max(last[3]), clock + step))
                }
                _ => last.last().map(|least| (*least, *least)),
            };
            for (_, clock) in heard.values_mut().filter(|_| times.len() <= 4) {
                *clock = time.map_or(*clock, |(_, now)| now.min(*clock));
            }
        }
        let Some((_, clock)) = time else { continue };
        if silent.remove(device) {
            changes.push((offset, format!("d{device}"), AlertStatus::Cleared));
        }
        heard.insert(*device, (offset, clock));
        let watched = heard.iter().filter(|(device, _)| !silent.contains(*device));
        let over = watched.filter(|(_, (_, at))| clock - at > AFTER);
        let mut over: Vec<_> = over.map(|(device, (last, _))| (*last, *device)).collect();
        over.sort_unstable();
        for (_, device) in over.into_iter().take(MOST_REVEALED) {
            silent.insert(device);
            changes.push((offset, format!("d{device}"), AlertStatus::Raised));
        }
    }
    changes
}

/// Raised with the offset in the id, cleared when `offset` was fed.
fn change(offset: i64, alert: &Alert) -> Change {
    (offset, alert.key.device.to_string(), alert.state)
}

proptest! {
    #[test]
    fn devices_are_silent_as_in_a_naive_model_whatever_crashes(
        log in log(),
        cuts in prop::collection::vec(0..4_u8, 300),
    ) {
        let mut kept = Kept::default();
        let (mut fold, mut whole) = (reload(&kept), reload(&kept));
        let (mut changes, mut ids) = (Vec::new(), BTreeSet::new());
        for (offset, sent) in log.iter().enumerate() {
            let folded = feed(&mut fold, offset, *sent);
            prop_assert_eq!(folded, feed(&mut whole, offset, *sent));
            let alerts = fold.take_alerts();
            prop_assert_eq!(&alerts, &whole.take_alerts());
            for alert in silences(alerts) {
                let raised = alert.state == AlertStatus::Raised;
                prop_assert_eq!(raised, ids.insert(alert.id.clone()), "an id is raised once");
                changes.push(change(offset as i64, &alert));
            }
            if cuts[offset] == 0 {
                save(&mut fold, &mut kept);
                fold = reload(&kept);
            }
        }
        prop_assert_eq!(changes, naive(&log));
        prop_assert_eq!(states(&fold), states(&whole));
    }
}

/// The changes that a record makes.
fn told(fold: &mut Fold, offset: usize, sent: Sent) -> Vec<Alert> {
    feed(fold, offset, sent);
    silences(fold.take_alerts())
}

#[test]
fn a_device_is_silent_until_it_is_heard_again() {
    let mut fold = Fold::new(rules(), "device-data", 3);
    assert_eq!(told(&mut fold, 0, (1, Some(1_000))), []);
    let mut offsets = 1..;
    // The fourth record with a time moves the partition's.
    let mut move_to = |fold: &mut Fold, at| {
        let of_four = offsets.by_ref().take(4);
        let told = of_four.map(|offset| told(fold, offset, (0, Some(at))));
        told.collect::<Vec<_>>()
    };
    for at in [1_000, 1_006, 1_012] {
        assert_eq!(move_to(&mut fold, at).concat(), []);
    }
    let told_at_last = move_to(&mut fold, 1_013);
    assert_eq!(told_at_last[..3].concat(), []);
    let [raised] = &told_at_last[3][..] else {
        panic!("just longer than allowed");
    };
    assert_eq!(&*raised.id, "device-data:3:16:t/p/d1:silence");
    assert_eq!((&*raised.sensor, raised.raised_at), ("", 1_013));
    assert_eq!(
        raised.message,
        "nothing heard for 0.01 s, which is more than 0.01 s"
    );
    assert_eq!((raised.value, raised.limit), (0.013, 0.012));
    assert_eq!(silences(fold.all().alerts), std::slice::from_ref(raised));
    assert_eq!(move_to(&mut fold, 1_019).concat(), []);
    let [cleared] = &told(&mut fold, 21, (1, Some(1_019)))[..] else {
        panic!("heard again");
    };
    assert_eq!((&cleared.id, cleared.value), (&raised.id, 0.019));
    assert_eq!(cleared.state, AlertStatus::Cleared);
}

#[test]
fn a_time_without_any_record_makes_nobody_silent() {
    let mut fold = Fold::new(rules(), "device-data", 0);
    for (offset, device) in (0..5_u8).enumerate() {
        feed(&mut fold, offset, (device, Some(1_000 + i64::from(device))));
    }
    for (offset, device) in (0..5_u8).enumerate() {
        let sent = (device, Some(9_000 + i64::from(device)));
        assert_eq!(told(&mut fold, 5 + offset, sent), []);
    }
}

#[test]
fn who_is_no_longer_watched_is_not_silent() {
    let (mut fold, mut kept) = (reload(&Kept::default()), Kept::default());
    for offset in 0..16 {
        let at = 1_000 + offset as i64 / 4 * 6;
        feed(&mut fold, offset, (u8::from(offset > 0), Some(at)));
    }
    save(&mut fold, &mut kept);
    let entries: Vec<_> = kept.live.into_iter().collect();
    let unwatched = FoldRules {
        silence: None,
        ..rules()
    };
    let mut restored = Fold::restore(unwatched, "device-data", 0, &entries).unwrap();
    let [alert] = &silences(restored.all().alerts)[..] else {
        panic!("it was silent");
    };
    assert_eq!(alert.state, AlertStatus::Cleared);
    for offset in 16..24 {
        assert_eq!(told(&mut restored, offset, (1, Some(2_000))), []);
    }
}

#[test]
fn one_record_from_the_future_makes_nobody_silent() {
    let mut fold = Fold::new(rules(), "device-data", 0);
    let future = 3_800_000_000_000;
    let mut silent = Vec::new();
    for offset in 0..200_usize {
        // Device 0 stops in the middle.
        let device = if offset < 100 {
            (offset % 3) as u8
        } else {
            (offset % 2 + 1) as u8
        };
        let at = if offset % 40 == 10 {
            future
        } else {
            1_000 + offset as i64
        };
        for alert in told(&mut fold, offset, (device, Some(at))) {
            silent.push((alert.key.device.to_string(), alert.raised_at < future));
        }
    }
    assert_eq!(silent, [("d0".to_owned(), true)]);
}
