//! One test for each rule of docs/state.md.

use iot_core::message::Location;

use super::*;

/// Length and allowed lateness of windows in these tests.
const RULES: (i64, i64) = (60, 30);

fn fold() -> Fold {
    Fold::new(Rules {
        sizes: vec![RULES.0],
        lateness: RULES.1,
        retention: None,
        thresholds: BTreeMap::new(),
    })
}

fn reading(sensor: &str, value: f64) -> Reading<'_> {
    Reading {
        sensor: sensor.into(),
        value,
        unit: None,
        quality: Quality::Good,
    }
}

fn message(timestamp: i64, seq: Option<u64>, readings: Vec<Reading<'_>>) -> DeviceMessage<'_> {
    DeviceMessage {
        device_id: "d".into(),
        tenant: None,
        project: None,
        seq,
        timestamp,
        location: None,
        readings,
    }
}

fn take(fold: &mut Fold, message: &DeviceMessage<'_>) {
    let offset = 7;
    fold.take(&Entry {
        offset,
        recorded: message.timestamp + 5,
        tenant: "t",
        project: "p",
        message,
    });
}

/// Takes a temperature at `timestamp` from a record with another time.
fn take_at(fold: &mut Fold, offset: i64, recorded: i64, timestamp: i64, value: f64) {
    let message = message(timestamp, None, vec![reading("temperature", value)]);
    fold.take(&Entry {
        offset,
        recorded,
        tenant: "t",
        project: "p",
        message: &message,
    });
}

/// The fold of messages with one value of `temperature` each.
fn fed(log: &[(i64, Option<u64>, f64)]) -> Fold {
    let mut fold = fold();
    for (timestamp, seq, value) in log {
        let readings = vec![reading("temperature", *value)];
        take(&mut fold, &message(*timestamp, *seq, readings));
    }
    fold
}

fn device(fold: &Fold) -> &Device {
    &fold.devices["t\0p\0d"]
}

fn open(fold: &Fold) -> Vec<(i64, u64)> {
    let windows = &device(fold).sensors["temperature"].open;
    let counts = windows
        .iter()
        .map(|(span, window)| (span.start, window.values.count));
    counts.collect()
}

fn sealed(fold: &Fold) -> Vec<(i64, u64)> {
    let sealed = fold.sealed.iter().map(|((device, span), sealed)| {
        assert_eq!((device.as_str(), span.size), ("t\0p\0d", 60));
        (span.start, sealed.windows["temperature"].values.count)
    });
    sealed.collect()
}

#[test]
fn a_window_includes_its_start_and_not_its_end() {
    let fold = fed(&[(60, None, 1.0), (119, None, 2.0), (120, None, 3.0)]);
    assert_eq!(open(&fold), [(60, 2), (120, 1)]);
    assert_eq!(sealed(&fold), []);
}

#[test]
fn a_window_is_sealed_after_its_allowed_lateness() {
    let mut log = vec![(60, None, 1.0), (149, None, 2.0), (119, None, 3.0)];
    assert_eq!(
        open(&fed(&log)),
        [(60, 2), (120, 1)],
        "late, but not too late"
    );
    log.extend([(150, None, 4.0), (119, None, 5.0)]);
    let fold = fed(&log);
    assert_eq!(
        (open(&fold), sealed(&fold)),
        (vec![(120, 2)], vec![(60, 2)])
    );
    let sealed = &fold.sealed.values().next().unwrap();
    assert_eq!((sealed.by, sealed.at), (7, 155));
}

#[test]
fn any_sensor_of_the_device_seals_a_window() {
    let mut fold = fed(&[(60, None, 1.0)]);
    take(
        &mut fold,
        &message(150, None, vec![reading("humidity", 40.0)]),
    );
    assert_eq!((open(&fold), sealed(&fold)), (vec![], vec![(60, 1)]));
    let mut other = message(1_000, None, vec![reading("temperature", 2.0)]);
    other.device_id = "e".into();
    let mut fold = fed(&[(60, None, 1.0)]);
    take(&mut fold, &other);
    assert_eq!(sealed(&fold), [], "another device");
}

#[test]
fn times_before_the_epoch_have_windows() {
    assert_eq!(open(&fed(&[(-1, None, 1.0)])), [(-60, 1)]);
}

#[test]
fn without_a_record_time_windows_are_sealed_at_the_event_time() {
    let mut fold = fed(&[(60, None, 1.0)]);
    let message = message(150, None, vec![reading("temperature", 1.0)]);
    fold.take(&Entry {
        offset: 9,
        recorded: -1,
        tenant: "t",
        project: "p",
        message: &message,
    });
    assert_eq!(fold.sealed.values().next().unwrap().at, 150);
}

#[test]
fn a_duplicate_of_the_newest_numbered_message_is_ignored() {
    let fold = fed(&[(100, Some(7), 1.0), (100, Some(7), 2.0)]);
    assert_eq!(open(&fold), [(60, 1)]);
    let newest = device(&fold).sensors["temperature"].newest.clone().unwrap();
    assert_eq!(newest.value, 1.0);
    // No longer the newest, or without a number: not recognised as a duplicate.
    let counts = |log: &[_]| open(&fed(log))[0].1;
    assert_eq!(
        counts(&[
            (100, Some(7), 1.0),
            (101, Some(8), 2.0),
            (100, Some(7), 1.0)
        ]),
        3
    );
    assert_eq!(counts(&[(100, None, 1.0), (100, None, 1.0)]), 2);
}

#[test]
fn newest_is_by_event_time_and_then_by_number() {
    let value = |log: &[_]| {
        let fold = fed(log);
        device(&fold).sensors["temperature"]
            .newest
            .as_ref()
            .unwrap()
            .value
    };
    assert_eq!(value(&[(100, None, 1.0), (99, Some(9), 2.0)]), 1.0);
    assert_eq!(value(&[(100, Some(2), 1.0), (100, Some(1), 2.0)]), 1.0);
    assert_eq!(value(&[(100, Some(2), 1.0), (100, None, 2.0)]), 1.0);
    assert_eq!(value(&[(100, None, 1.0), (100, None, 2.0)]), 2.0);
    assert_eq!(
        device(&fed(&[(100, None, 1.0), (50, None, 2.0)])).watermark,
        Some(100)
    );
}

#[test]
fn the_place_is_that_of_the_newest_message_with_a_place() {
    let mut fold = fold();
    for (timestamp, room) in [(100, "a"), (99, "b"), (101, ""), (100, "c")] {
        let mut message = message(timestamp, None, vec![reading("s", 1.0)]);
        message.location = (!room.is_empty()).then(|| Location {
            room: room.into(),
            ..Location::default()
        });
        take(&mut fold, &message);
    }
    let device = device(&fold);
    assert_eq!(device.place, Some(["", "", "a"].map(str::to_owned)));
    assert!(!device.place_is_newest);
}

#[test]
fn a_bad_reading_is_the_latest_value_but_in_no_window() {
    let mut bad = reading("temperature", 9.0);
    bad.quality = Quality::Bad;
    let mut fold = fed(&[(100, None, 1.0)]);
    take(&mut fold, &message(101, None, vec![bad]));
    let newest = device(&fold).sensors["temperature"].newest.clone().unwrap();
    assert_eq!((newest.value, newest.quality), (9.0, Quality::Bad));
    assert_eq!(open(&fold), [(60, 1)]);
}

#[test]
fn a_window_aggregates_its_values() {
    let fold = fed(&[
        (70, None, 2.0),
        (60, None, 4.0),
        (119, None, 9.0),
        (119, None, 5.0),
    ]);
    let open = &device(&fold).sensors["temperature"].open;
    let window = open.values().next().unwrap();
    let values = Values {
        count: 4,
        min: 2.0,
        max: 9.0,
        mean: 5.0,
        squared_deviations: 26.0,
        first: 4.0,
        last: 5.0,
    };
    assert_eq!(window.values, values);
    assert_eq!((window.first_at, window.last_at), (0, 59));
    // Computed by hand: the mean of the times 10, 0, 59 and 59 is 32.
    for (found, expected) in [
        (window.time_mean, 32.0),
        (window.time_squared_deviations, 2_966.0),
        (window.deviation_products, 206.0),
    ] {
        assert!((found - expected).abs() < 1e-9, "{window:?}");
    }
    let slope = window.clone().summary().slope.unwrap();
    assert!((slope / HOUR - 206.0 / 2_966.0).abs() < 1e-12, "{slope}");
}

#[test]
fn values_of_the_same_time_have_no_slope() {
    let fold = fed(&[(60, None, 1.0), (60, None, 2.0), (150, None, 3.0)]);
    let sealed = fold.sealed.values().next().unwrap();
    let window = &sealed.windows["temperature"];
    assert_eq!((window.values.count, window.slope), (2, None));
}

#[test]
fn each_length_has_its_own_windows() {
    let mut fold = Fold::new(Rules {
        sizes: vec![60, 300],
        lateness: 30,
        retention: None,
        thresholds: BTreeMap::new(),
    });
    for timestamp in [0, 59, 90, 299] {
        let readings = vec![reading("temperature", 1.0)];
        take(&mut fold, &message(timestamp, None, readings));
    }
    let spans = |open: &BTreeMap<Span, Window>| {
        let spans = open.iter().map(|(s, w)| (s.size, s.start, w.values.count));
        spans.collect::<Vec<_>>()
    };
    let sensor = &device(&fold).sensors["temperature"];
    assert_eq!(spans(&sensor.open), [(60, 240, 1), (300, 0, 4)]);
    assert_eq!(fold.sealed.len(), 2);
}

#[test]
fn a_clock_that_was_ahead_is_older_than_the_next_one_that_is_not() {
    let mut fold = fold();
    let newest = |fold: &Fold| {
        let newest = device(fold).sensors["temperature"].newest.clone().unwrap();
        let of_device = device(fold).newest.unwrap();
        assert_eq!(of_device, newest.timing);
        (newest.timing.moment.timestamp, newest.timing.ahead)
    };
    for (offset, recorded, timestamp, expected) in [
        (0, 10_000, 10_000, (10_000, false)),
        (1, 10_010, 90_000, (90_000, true)),
        // Less ahead, but ahead.
        (2, 10_020, 80_000, (90_000, true)),
        (3, 10_030, 10_030, (10_030, false)),
        (4, 10_040, 10_020, (10_030, false)),
        // Not so far that it counts as ahead.
        (5, 10_050, 11_050, (11_050, false)),
        (6, 10_060, 10_060, (11_050, false)),
    ] {
        take_at(&mut fold, offset, recorded, timestamp, 1.0);
        assert_eq!(newest(&fold), expected, "offset {offset}");
    }
}

#[test]
fn the_watermark_is_never_later_than_the_records() {
    let mut fold = fold();
    take_at(&mut fold, 0, 100, 90, 1.0);
    take_at(&mut fold, 1, 110, 500, 2.0);
    assert_eq!(device(&fold).watermark, Some(110));
    take_at(&mut fold, 2, 120, 119, 3.0);
    assert_eq!(open(&fold), [(60, 2), (480, 1)]);
    take_at(&mut fold, 3, 150, 150, 4.0);
    assert_eq!(
        (open(&fold), sealed(&fold)),
        (vec![(120, 1), (480, 1)], vec![(60, 2)])
    );
    // Without a record time nothing limits it.
    take_at(&mut fold, 4, -1, 700, 5.0);
    assert_eq!(device(&fold).watermark, Some(700));
}

/// Takes a message of a device that is recorded at its event time.
fn hear(fold: &mut Fold, offset: i64, name: &str, at: i64) {
    let mut message = message(at, None, vec![reading("temperature", 1.0)]);
    message.device_id = name.into();
    fold.take(&Entry {
        offset,
        recorded: at,
        tenant: "t",
        project: "p",
        message: &message,
    });
}

#[test]
fn a_device_without_messages_is_removed_after_the_retention() {
    let mut fold = Fold::new(Rules {
        retention: Some(100),
        thresholds: BTreeMap::new(),
        ..fold().rules
    });
    hear(&mut fold, 0, "gone", 1_020);
    for offset in 1..=20 {
        hear(&mut fold, offset, &format!("d{offset}"), 1_000);
    }
    // The partition's time is three records behind. It fell to 1,000 with the second record.
    let mut counts = Vec::new();
    for (offset, at) in (21..).zip(1_000..1_106) {
        hear(&mut fold, offset, "on", at);
        counts.push(fold.devices.len());
    }
    assert_eq!(counts[103..], [22, 6, 1]);
    // One that comes back is a new device.
    hear(&mut fold, 200, "gone", 1_106);
    let device = &fold.devices["t\0p\0gone"];
    assert_eq!(device.sensors["temperature"].open.len(), 1);
    // Without a retention they stay.
    let mut fold = self::fold();
    hear(&mut fold, 0, "gone", 1_000);
    (1..500).for_each(|offset| hear(&mut fold, offset, "on", 1_000 + offset));
    assert_eq!(fold.devices.len(), 2);
}

#[test]
fn a_gap_in_the_whole_partition_removes_no_device() {
    let mut fold = Fold::new(Rules {
        retention: Some(100),
        thresholds: BTreeMap::new(),
        ..fold().rules
    });
    for (round, at) in (0..).zip([1_000, 1_010, 9_000, 9_010, 99_000]) {
        for device in 0..5 {
            hear(&mut fold, round * 5 + device, &format!("d{device}"), at);
        }
    }
    assert_eq!(fold.devices.len(), 5);
}
