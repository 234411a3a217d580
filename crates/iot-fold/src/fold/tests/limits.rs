//! Limits by place, and by the settings at hand.

use super::*;
use crate::model::AlertStatus;

/// What became of threshold alerts with each value of a sensor, at the times 0, 1, ...:
/// their limit and status.
fn threshold_alerts(sensor: usize, values: &[f64]) -> Vec<Vec<(f64, AlertStatus)>> {
    let mut fold = Fold::new(rules(), "device-data", 0);
    let told = values.iter().enumerate().map(|(at, value)| {
        feed(&mut fold, at, (0, at as i64, None, sensor, *value)).unwrap();
        let alerts = fold.take_alerts().into_iter();
        let of_kind = alerts.filter(|alert| alert.kind == AlertKind::Threshold);
        of_kind.map(|alert| (alert.limit, alert.state)).collect()
    });
    told.collect()
}

#[test]
fn limits_are_those_of_the_place_where_the_device_is() {
    use AlertStatus::{Cleared, Raised};
    // The rooms are r0, r1, r2, r0, r1, r2.
    let told = threshold_alerts(0, &[20.0, 20.0, 20.0, 60.0, 60.0, 40.0]);
    let expected = [
        vec![],
        vec![(15.0, Raised)],
        vec![(50.0, Cleared)],
        vec![(50.0, Raised)],
        // It is worse than before by that.
        vec![(15.0, Raised)],
        vec![(50.0, Cleared)],
    ];
    assert_eq!(told, expected);
}

#[test]
fn from_beyond_one_limit_to_beyond_the_other_is_another_alert() {
    use AlertStatus::{Cleared, Raised};
    let told = threshold_alerts(2, &[20.0, 60.0, -1.0, 39.9, 41.0]);
    let expected = [
        vec![],
        vec![(40.0, Raised)],
        vec![(40.0, Cleared), (0.0, Raised)],
        vec![(0.0, Cleared)],
        vec![(40.0, Raised)],
    ];
    assert_eq!(told, expected);
}

#[test]
fn other_limits_hold_at_once_and_nothing_is_learnt_anew() {
    let log: Vec<_> = (0..50_u8)
        .map(|n| (0, 3 * i64::from(n) + 1, None, 0, f64::from(n % 3) + 12.0))
        .collect();
    let mut fold = straight(&log);
    let alerts = fold.all().alerts;
    assert!(
        alerts
            .iter()
            .all(|alert| alert.kind != AlertKind::Threshold)
    );
    let mut kept = Kept::default();
    save(&mut fold, &mut kept);
    let entries: Vec<_> = kept.live.into_iter().collect();
    let mut other = rules();
    other.limits = limits(5.0);
    let mut restored = Fold::restore(other, "device-data", 0, &entries).unwrap();
    assert_eq!(states(&restored), states(&fold));
    feed(&mut restored, 50, (0, 151, None, 0, 13.0)).unwrap();
    let told = restored.take_alerts();
    let told = told.iter().find(|alert| alert.kind == AlertKind::Threshold);
    assert_eq!(told.map(|alert| alert.limit), Some(5.0));
}

#[test]
fn what_was_learnt_in_another_unit_is_forgotten() {
    let mut fold = straight(&[]);
    let mut read = |at: i64, unit: Option<&'static str>| {
        let mut message = message((0, at, None, 2, 20.0));
        message.readings[0].unit = unit.map(Into::into);
        let event = event(at, None, &message);
        super::apply(&mut fold, &event).unwrap();
        fold.devices[0].state.sensors[0].detectors.readings
    };
    let learnt = [None, Some("a"), Some("a"), Some("b"), Some("b")];
    let learnt: Vec<_> = (0..).zip(learnt).map(|(at, unit)| read(at, unit)).collect();
    assert_eq!(learnt, [1, 2, 3, 1, 2]);
}

#[test]
fn limits_of_a_plain_name_hold_for_a_chip_only_in_their_unit() {
    let rules = FoldRules {
        limits: LimitRules::new(&Catalogue::new([]).with_chips(true), &[]),
        ..rules()
    };
    let mut fold = Fold::new(rules.clone(), "device-data", 0);
    let mut active = Vec::new();
    let units = [Some("degF"), Some("celsius"), Some("degF"), None];
    for (at, unit) in (0..).zip(units) {
        let mut message = message((0, at, None, 0, 120.0));
        message.readings[0].sensor = "core-temperature".into();
        message.readings[0].unit = unit.map(Into::into);
        let event = event(at, None, &message);
        super::apply(&mut fold, &event).unwrap();
        active.push(active_alerts(&fold));
        let mut kept = Kept::default();
        save(&mut fold, &mut kept);
        let entries: Vec<_> = kept.live.into_iter().collect();
        fold = Fold::restore(rules.clone(), "device-data", 0, &entries).unwrap();
    }
    assert_eq!(active, [0, 1, 0, 0]);
}

#[test]
fn readings_for_which_there_is_no_room_are_found() {
    let mut rules = rules();
    rules.sensors = 3;
    let mut fold = Fold::new(rules, "device-data", 0);
    let mut message = message((0, 1, None, 0, 1.0));
    let known = message.readings.remove(0);
    let mut places = |names: &[&'static str]| {
        message.readings.clear();
        let new = names.iter().map(|name| Reading {
            sensor: (*name).into(),
            ..known.clone()
        });
        message.readings.extend(new);
        let event = event(0, None, &message);
        let excess = fold.excess(&event);
        let refused = super::apply(&mut fold, &event) == Err(Refusal::TooManySensors);
        assert_eq!(refused, !excess.is_empty(), "{names:?}");
        excess
    };
    // A sensor that repeats takes the place of one.
    assert_eq!(places(&["a", "b", "a", "c", "d", "b", "e"]), [4, 6]);
    assert_eq!(places(&["a", "a", "a", "b"]), [0; 0]);
    assert_eq!(places(&["c", "d", "a", "d"]), [1, 3]);
}
