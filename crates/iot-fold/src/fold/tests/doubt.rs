//! Retained messages without a time, states in words, and counters.

use super::*;

const SECOND: i64 = 1_000;
const NOW: i64 = 1_767_225_600_000;

fn reading(sensor: &'static str, value: f64, unit: Option<&'static str>) -> Reading<'static> {
    Reading {
        sensor: sensor.into(),
        value,
        unit: unit.map(Into::into),
        quality: Quality::Good,
    }
}

fn sent(at: i64, readings: Vec<Reading<'static>>) -> DeviceMessage<'static> {
    DeviceMessage {
        readings,
        location: None,
        ..message((0, at, None, 0, 0.0))
    }
}

/// Applies a message that is recorded 2 s after its time.
fn apply(
    fold: &mut Fold,
    offset: i64,
    message: &DeviceMessage<'_>,
    (is_undated, unmatched): (bool, &[String]),
) -> Result<Folded, Refusal> {
    let recorded = Some(message.timestamp + 2 * SECOND);
    let event = Event {
        is_undated,
        unmatched,
        ..event(offset, recorded, message)
    };
    super::apply(fold, &event)
}

const LIVE: (bool, &[String]) = (false, &[]);
const OLD: (bool, &[String]) = (true, &[]);

/// Value, quality, time and whether it was ahead.
fn values(fold: &Fold) -> BTreeMap<String, (f64, Quality, i64, bool)> {
    let all = fold.all();
    let readings = all
        .devices
        .iter()
        .flat_map(|(_, device)| device.readings.iter());
    let values = readings.map(|(sensor, v)| {
        (
            sensor.to_string(),
            (v.value, v.quality, v.timestamp, v.is_ahead),
        )
    });
    values.collect()
}

fn minutes() -> FoldRules {
    FoldRules {
        windows: WindowRules::new(vec![60 * SECOND], 30 * SECOND, 15),
        limits: LimitRules::new(&Catalogue::new([]), &[]),
        silence: Some(60 * SECOND),
        ..rules()
    }
}

#[test]
fn an_undated_message_replaces_no_value() {
    let mut fold = Fold::new(minutes(), "device-data", 0);
    let live = sent(NOW, vec![reading("temperature", 20.0, None)]);
    apply(&mut fold, 0, &live, LIVE).unwrap();
    let (before, alerts) = (states(&fold), fold.take_alerts());
    assert_eq!(alerts, []);
    // It would raise an alert.
    let old = sent(NOW + 5 * SECOND, vec![reading("temperature", 99.0, None)]);
    let folded = apply(&mut fold, 1, &old, OLD).unwrap();
    assert_eq!((folded.readings, folded.stale), (1, 1));
    assert_eq!((states(&fold), fold.take_alerts()), (before, vec![]));
}

#[test]
fn an_undated_message_sets_a_missing_value_until_a_live_one_comes() {
    let mut fold = Fold::new(minutes(), "device-data", 0);
    let old = sent(
        NOW,
        vec![
            reading("temperature", 99.0, None),
            reading("door", 1.0, None),
        ],
    );
    apply(&mut fold, 0, &old, OLD).unwrap();
    let expected = (99.0, Quality::Good, NOW, true);
    assert_eq!(values(&fold)["temperature"], expected);
    assert_eq!(fold.take_alerts(), [], "it may be over for a long time");
    let key = fold.all().devices[0].1.key.clone();
    let windows = fold.windows(&key, 60 * SECOND).unwrap();
    assert!(windows.here.values().all(Vec::is_empty), "{windows:?}");
    // Even if the clock of the device is behind.
    let live = sent(NOW - 5 * SECOND, vec![reading("temperature", 20.0, None)]);
    apply(&mut fold, 1, &live, LIVE).unwrap();
    let values = values(&fold);
    let expected = (20.0, Quality::Good, NOW - 5 * SECOND, false);
    assert_eq!((values["temperature"], values["door"].0), (expected, 1.0));
    // What the device has not reported yet is set, and it is still not heard.
    let old = sent(
        NOW + SECOND,
        vec![reading("door", 0.0, None), reading("fan", 3.0, None)],
    );
    let heard = fold.devices[0].state.heard;
    apply(&mut fold, 2, &old, OLD).unwrap();
    let values = self::values(&fold);
    assert_eq!((values["door"].0, values["fan"].0), (1.0, 3.0));
    let state = &fold.devices[0].state;
    assert_eq!(
        (state.heard, state.newest.timestamp),
        (heard, NOW - 5 * SECOND)
    );
}

#[test]
fn undated_messages_do_not_end_a_silence() {
    let mut fold = Fold::new(minutes(), "device-data", 0);
    let mut other = sent(NOW, vec![reading("x", 1.0, None)]);
    other.device_id = "other".into();
    apply(
        &mut fold,
        0,
        &sent(NOW, vec![reading("x", 1.0, None)]),
        LIVE,
    )
    .unwrap();
    for offset in 1..20 {
        other.timestamp = NOW + offset * 10 * SECOND;
        apply(&mut fold, offset, &other, LIVE).unwrap();
    }
    let silence = fold.take_alerts();
    assert_eq!((silence.len(), silence[0].kind), (1, AlertKind::Silence));
    apply(
        &mut fold,
        20,
        &sent(NOW + 200 * SECOND, vec![reading("x", 1.0, None)]),
        OLD,
    )
    .unwrap();
    assert_eq!(fold.take_alerts(), []);
    apply(
        &mut fold,
        21,
        &sent(NOW + 201 * SECOND, vec![reading("x", 1.0, None)]),
        LIVE,
    )
    .unwrap();
    assert_eq!(fold.take_alerts()[0].state, AlertStatus::Cleared);
}

#[test]
fn the_state_with_undated_messages_is_the_same_after_a_restart() {
    let log: Vec<_> = (0..40)
        .map(|n| {
            let sensor = NAMES[n as usize % 3];
            let old = n % 5 < 2;
            let message = sent(NOW + n * SECOND, vec![reading(sensor, n as f64, None)]);
            (n, message, if old { OLD } else { LIVE })
        })
        .collect();
    let mut whole = Fold::new(minutes(), "device-data", 0);
    for (offset, message, says) in &log {
        apply(&mut whole, *offset, message, *says).unwrap();
    }
    for cut in 1..log.len() {
        let mut fold = Fold::new(minutes(), "device-data", 0);
        for (offset, message, says) in &log[..cut] {
            apply(&mut fold, *offset, message, *says).unwrap();
        }
        let stored = fold.take_changes().live;
        let mut fold = Fold::restore(minutes(), "device-data", 0, &stored).unwrap();
        for (offset, message, says) in &log[cut..] {
            apply(&mut fold, *offset, message, *says).unwrap();
        }
        assert_eq!(states(&fold), states(&whole), "cut at {cut}");
    }
}

#[test]
fn a_state_that_matches_no_number_makes_the_value_uncertain() {
    let mut fold = Fold::new(minutes(), "device-data", 0);
    let unmatched = ["mode".to_owned(), "name".to_owned()];
    let heating = (false, &unmatched[..]);
    // It says nothing about a sensor that has had no number.
    let other = sent(NOW, vec![reading("temperature", 20.0, None)]);
    apply(&mut fold, 0, &other, heating).unwrap();
    assert_eq!(values(&fold).len(), 1);
    let off = sent(NOW + SECOND, vec![reading("mode", 0.0, None)]);
    apply(&mut fold, 1, &off, LIVE).unwrap();
    let late = sent(NOW, vec![reading("temperature", 20.0, None)]);
    apply(&mut fold, 2, &late, heating).unwrap();
    let mode = |fold: &Fold| values(fold)["mode"];
    assert_eq!(mode(&fold), (0.0, Quality::Good, NOW + SECOND, false));
    let only = sent(NOW + 2 * SECOND, Vec::new());
    apply(&mut fold, 3, &only, heating).unwrap();
    let expected = (0.0, Quality::Uncertain, NOW + 2 * SECOND, false);
    assert_eq!((values(&fold).len(), mode(&fold)), (2, expected));
    let key = fold.all().devices[0].1.key.clone();
    let windows = fold.windows(&key, 60 * SECOND).unwrap();
    assert_eq!(windows.here["mode"][0].count, 1, "it is counted once");
    apply(
        &mut fold,
        4,
        &sent(NOW + 3 * SECOND, vec![reading("mode", 0.0, None)]),
        LIVE,
    )
    .unwrap();
    assert_eq!(mode(&fold).1, Quality::Good);
}

#[test]
fn a_message_that_says_nothing_is_refused_and_makes_no_device() {
    let mut fold = Fold::new(minutes(), "device-data", 0);
    let unmatched = ["mode".to_owned()];
    let nothing = sent(NOW, Vec::new());
    for says in [LIVE, OLD, (false, &unmatched[..]), (true, &unmatched[..])] {
        let refused = apply(&mut fold, 0, &nothing, says).unwrap_err();
        assert_eq!((refused.reason(), fold.devices()), ("no_readings", 0));
    }
}

#[test]
fn counters_do_not_drift() {
    let drifts = |unit| {
        let mut fold = Fold::new(minutes(), "device-data", 0);
        let readings = (0..600).map(|n| {
            let used = f64::from(n) * 0.25 + f64::from(n % 3) * 0.1;
            let message = sent(
                NOW + i64::from(n) * SECOND,
                vec![reading("total", used, unit)],
            );
            let folded = apply(&mut fold, n.into(), &message, LIVE).unwrap();
            folded.raised[AlertKind::Drift as usize]
        });
        readings.sum::<u64>()
    };
    assert_eq!(drifts(Some("kWh")), 0);
    assert!(drifts(Some("m")) > 0);
}
