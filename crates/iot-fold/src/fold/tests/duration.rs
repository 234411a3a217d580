//! Thresholds with a minimum duration.

use super::*;

const SECOND: i64 = 1_000;
/// A moment in 2026, in milliseconds.
const NOW: i64 = 1_780_000_000_000;

/// Vibration above 40 for 30 s, or below 0 for as long; temperature above 50 for 30 s, and above
/// 15 in room r1.
fn lasting() -> FoldRules {
    let lasting = |sensor: &str| ThresholdRule {
        sensor: sensor.into(),
        min_duration: Some(30 * SECOND),
        ..ThresholdRule::default()
    };
    FoldRules {
        limits: limits_with(15.0, &[lasting("vibration"), lasting("temperature")]),
        silence: None,
        ..rules()
    }
}

/// A reading: event time, time of its record, both in seconds from `NOW`, and a value.
type At = (i64, i64, f64);

fn send(fold: &mut Fold, offset: usize, (at, recorded, value): At) {
    let mut message = message((0, NOW + at * SECOND, None, 2, value));
    message.location = None;
    let event = event(offset as i64, Some(NOW + recorded * SECOND), &message);
    super::apply(fold, &event).unwrap();
}

/// When alerts of the threshold were raised and cleared (`-`), in seconds from `NOW`.
fn changes(readings: &[At]) -> Vec<String> {
    let mut fold = Fold::new(lasting(), "device-data", 0);
    for (offset, reading) in readings.iter().enumerate() {
        send(&mut fold, offset, *reading);
    }
    let alerts = fold.take_alerts().into_iter();
    let of_kind = alerts.filter(|alert| alert.kind == AlertKind::Threshold);
    let changed = of_kind.filter(|alert| alert.count == 1 || !alert.is_active());
    let text = changed.map(|alert| {
        let sign = if alert.is_active() { "" } else { "-" };
        format!("{sign}{}", (alert.timestamp - NOW) / SECOND)
    });
    text.collect()
}

/// Readings of a device whose clock and link are good.
fn in_time(readings: &[(i64, f64)]) -> Vec<At> {
    let readings = readings.iter();
    readings.map(|(at, value)| (*at, *at, *value)).collect()
}

#[test]
fn an_alert_is_raised_when_the_value_has_stayed_beyond_the_limit() {
    let stays = [
        (0, 20.0),
        (10, 50.0),
        (25, 41.0),
        (39, 45.0),
        (40, 60.0),
        (50, 20.0),
    ];
    assert_eq!(changes(&in_time(&stays)), ["40", "-50"]);
    let mut fold = Fold::new(lasting(), "device-data", 3);
    for (offset, reading) in in_time(&stays[..5]).into_iter().enumerate() {
        send(&mut fold, offset + 7, reading);
    }
    let alerts = fold.all().alerts;
    let alert = alerts
        .iter()
        .find(|alert| alert.kind == AlertKind::Threshold);
    let alert = alert.unwrap();
    // It is of the reading that raised it.
    assert_eq!(&*alert.id, "device-data:3:11:vibration:threshold");
    assert_eq!((alert.value, alert.count), (60.0, 1));
    assert_eq!(alert.raised_at, NOW + 40 * SECOND);
}

#[test]
fn a_value_back_inside_begins_the_wait_again() {
    // Inside, however little: the band is only for alerts that are active.
    let back = [(0, 50.0), (20, 39.99), (21, 50.0), (50, 50.0), (51, 50.0)];
    assert_eq!(changes(&in_time(&back)), ["51"]);
    let cleared = [
        (0, 50.0),
        (30, 50.0),
        (40, 39.9),
        (50, 20.0),
        (60, 50.0),
        (90, 50.0),
    ];
    assert_eq!(changes(&in_time(&cleared)), ["30", "-50", "90"]);
}

#[test]
fn the_other_limit_has_its_own_wait() {
    let both = [
        (0, 50.0),
        (29, -1.0),
        (58, -1.0),
        (59, -1.0),
        // Back beyond the first one: the alert of the second is over at once.
        (70, 50.0),
        (100, 50.0),
    ];
    assert_eq!(changes(&in_time(&both)), ["59", "-70", "100"]);
}

#[test]
fn late_readings_neither_begin_a_wait_nor_end_one() {
    let in_order = in_time(&[(10, 50.0), (20, 50.0), (30, 50.0), (40, 50.0)]);
    let mut late = in_order.clone();
    // Inside and beyond, older than the newest value.
    late.insert(2, (15, 21, 20.0));
    late.insert(3, (0, 22, 50.0));
    assert_eq!(changes(&in_order), ["40"]);
    assert_eq!(changes(&late), ["40"]);
    // Uploaded an hour later, all at once.
    let uploaded = in_order
        .iter()
        .map(|(at, _, value)| (*at, 3_600, *value))
        .collect::<Vec<_>>();
    assert_eq!(changes(&uploaded), ["40"]);
}

#[test]
fn a_clock_that_is_ahead_does_not_shorten_the_wait() {
    let mut readings = in_time(&[(0, 50.0), (10, 50.0), (29, 50.0), (30, 50.0)]);
    readings.insert(1, (290, 5, 50.0));
    assert_eq!(changes(&readings), ["30"]);
    // Nor does one at the beginning lengthen it.
    readings = in_time(&[(10, 50.0), (29, 50.0), (30, 50.0)]);
    readings.insert(0, (290, 0, 50.0));
    assert_eq!(changes(&readings), ["30"]);
    // It gives way to older readings, which do not let the wait begin before a value inside.
    let older = [
        (0, 0, 20.0),
        (290, 5, 50.0),
        (-100, 6, 50.0),
        (7, 7, 50.0),
        (34, 34, 50.0),
        (35, 35, 50.0),
    ];
    assert_eq!(changes(&older), ["35"]);
}

#[test]
fn without_record_times_event_times_count() {
    let mut fold = Fold::new(lasting(), "device-data", 0);
    let raised = [0, 29, 30].map(|second| {
        let sent = (0, NOW + second * SECOND, None, 2, 50.0);
        let folded = feed_at(&mut fold, second as usize, None, sent).unwrap();
        folded.raised[AlertKind::Threshold as usize]
    });
    assert_eq!(raised, [0, 0, 1]);
}

#[test]
fn the_wait_is_part_of_the_state() {
    let mut kept = Kept::default();
    let mut fold = Fold::new(lasting(), "device-data", 0);
    let mut raised = Vec::new();
    for (offset, at) in [0, 10, 20, 29, 30].into_iter().enumerate() {
        send(&mut fold, offset, (at, at, 50.0));
        raised.push(active_alerts(&fold));
        save(&mut fold, &mut kept);
        let before = states(&fold);
        fold = reload_with(lasting(), &kept);
        assert_eq!(states(&fold), before);
    }
    assert_eq!(raised, [0, 0, 0, 0, 1]);
}

#[test]
fn the_limits_and_durations_at_hand_decide() {
    let mut kept = Kept::default();
    let mut fold = Fold::new(lasting(), "device-data", 0);
    send(&mut fold, 0, (0, 0, 50.0));
    save(&mut fold, &mut kept);
    // With a shorter duration the wait may be over, with none it is.
    let with = |rule: ThresholdRule| FoldRules {
        limits: limits_with(15.0, &[rule]),
        ..lasting()
    };
    let vibration = || ThresholdRule {
        sensor: "vibration".into(),
        ..ThresholdRule::default()
    };
    let shorter = ThresholdRule {
        min_duration: Some(5 * SECOND),
        ..vibration()
    };
    let higher = ThresholdRule {
        above: Limit::At(55.0),
        min_duration: Some(5 * SECOND),
        ..vibration()
    };
    for (rule, active) in [(shorter, 1), (vibration(), 1), (higher, 0)] {
        let mut fold = reload_with(with(rule), &kept);
        send(&mut fold, 1, (6, 6, 50.0));
        assert_eq!(active_alerts(&fold), active);
    }
    // An active alert stays, however long the duration is now.
    let mut fold = reload_with(with(vibration()), &kept);
    send(&mut fold, 1, (6, 6, 50.0));
    save(&mut fold, &mut kept);
    let mut fold = reload_with(lasting(), &kept);
    send(&mut fold, 2, (7, 7, 50.0));
    assert_eq!(active_alerts(&fold), 1);
}

proptest! {
    /// The same as the definition, applied to readings that are all taken: in order, except that
    /// one whose clock was ahead may give way to an older one.
    #[test]
    fn alerts_are_those_of_the_definition(
        readings in prop::collection::vec(
            (1..20_i64, -20.0..60.0_f64, prop::bool::weighted(0.1), 0..60_i64),
            1..80,
        )
    ) {
        let (mut recorded, mut was_ahead) = (0, false);
        let readings: Vec<_> = readings.into_iter().map(|(step, value, is_ahead, back)| {
            recorded += step;
            let back = if was_ahead { back } else { 0 };
            was_ahead = is_ahead;
            let at = if is_ahead { recorded + 290 } else { recorded - back };
            (at, recorded, value)
        }).collect();
        let side = |value: f64| i8::from(value > 40.0) - i8::from(value < 0.0);
        let (mut expected, mut active) = (Vec::new(), 0_i8);
        for (number, (at, recorded, value)) in readings.iter().enumerate() {
            let now = side(*value);
            let band = if active > 0 { 40.0 - value < 0.4 } else { *value < 0.0 };
            if active != 0 && now != active && (now != 0 || !band) {
                expected.push(format!("-{at}"));
                active = 0;
            }
            let run = readings[..=number].iter().rev().take_while(|(_, _, v)| side(*v) == now);
            // The first of the run in the log, whatever the times of the others.
            let first = run.last().unwrap();
            let since = first.0.min(first.1);
            if now != 0 && active == 0 && at.min(recorded) - since >= 30 {
                expected.push(at.to_string());
                active = now;
            }
        }
        prop_assert_eq!(changes(&readings), expected);
    }
}
