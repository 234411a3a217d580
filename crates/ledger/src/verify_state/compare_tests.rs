//! What a comparison must find, on a state that is exact until the test changes it.

use iot_core::message::{DeviceMessage, Reading};

use super::*;
use crate::verify_state::fold::{Entry, Rules};

/// Bytes of a window, as docs/state.md has them.
fn window_bytes(window: &Window) -> Vec<u8> {
    let mut bytes = Vec::new();
    for number in [window.start, window.end] {
        bytes.extend(number.to_le_bytes());
    }
    bytes.extend(window.count.to_le_bytes());
    for (_, field) in window.values() {
        let Field::Float(value) = field else {
            panic!("{field}")
        };
        bytes.extend(value.to_le_bytes());
    }
    for number in [window.first_at, window.last_at] {
        bytes.extend(number.to_le_bytes());
    }
    bytes
}

fn text(text: &str) -> Vec<u8> {
    [&(text.len() as u32).to_le_bytes(), text.as_bytes()].concat()
}

fn moment_bytes(moment: Moment) -> Vec<u8> {
    let mut bytes = moment.timestamp.to_le_bytes().to_vec();
    bytes.push(u8::from(moment.seq.is_some()));
    moment
        .seq
        .iter()
        .for_each(|seq| bytes.extend(seq.to_le_bytes()));
    bytes
}

/// What a consumer would have stored.
fn stored(fold: &Fold) -> Snapshot {
    let mut snapshot = Snapshot {
        offset: 1_000,
        ..Snapshot::default()
    };
    for (name, device) in &fold.devices {
        let mut value = vec![1];
        value.extend(device.watermark.unwrap().to_le_bytes());
        value.extend(moment_bytes(device.newest.unwrap()));
        value.push(0);
        snapshot.live.insert(layout::device_field(name), value);
        for (sensor, state) in &device.sensors {
            let newest = state.newest.as_ref().unwrap();
            let mut value = vec![1];
            value.extend(newest.value.to_le_bytes());
            value.push(u8::from(newest.unit.is_some()));
            newest.unit.iter().for_each(|unit| value.extend(text(unit)));
            value.push(0);
            value.extend(moment_bytes(newest.moment));
            value.push(0);
            value.extend((state.open.len() as u64).to_le_bytes());
            let open = state.open.values();
            open.for_each(|tally| value.extend(window_bytes(&tally.window)));
            let field = layout::sensor_field(name, sensor);
            snapshot.live.insert(field, value);
        }
    }
    for ((device, span), sealed) in &fold.sealed {
        let mut value = vec![1];
        value.extend((sealed.windows.len() as u64).to_le_bytes());
        for (sensor, tally) in &sealed.windows {
            value.extend(text(sensor));
            value.extend(window_bytes(&tally.window));
        }
        let key = layout::window_key(device, *span);
        snapshot.sealed.insert(key, value);
    }
    snapshot
}

/// Two devices, each with one window that is sealed and two that are open.
fn fold() -> Fold {
    let mut fold = Fold::new(Rules {
        sizes: vec![60],
        lateness: 30,
    });
    for (number, timestamp) in [0, 30, 59, 61, 100, 119, 149].into_iter().enumerate() {
        for device in ["d1", "d2"] {
            let message = DeviceMessage {
                device_id: device.into(),
                tenant: None,
                project: None,
                seq: Some(number as u64),
                timestamp,
                location: None,
                readings: vec![Reading {
                    sensor: "temperature".into(),
                    value: timestamp as f64 / 7.0,
                    unit: None,
                    quality: Quality::Good,
                }],
            };
            fold.take(&Entry {
                offset: number as i64,
                recorded: timestamp,
                tenant: "t",
                project: "p",
                message: &message,
            });
        }
    }
    fold
}

/// After 59, so that windows from 60 on are compared.
const CUT: Kept = Kept::After(59);

fn compare(kept: Kept, snapshot: &Snapshot) -> Report {
    let partition = ("device-data".to_owned(), 0);
    let mut comparison = Comparison::new(&partition);
    comparison.kept = kept;
    comparison.retention = 1_000_000;
    comparison.report.records = 14;
    let fold = fold();
    comparison.live(&fold, snapshot);
    comparison.sealed(&fold, snapshot);
    comparison.report
}

const SENSOR: &str = "s\x00t\x00p\x00d1\x00temperature";
const SEALED: &str = "w\x00t\x00p\x00d1\x0060\x000";

#[test]
fn what_is_the_same_is_exact() {
    let report = compare(Kept::Whole, &stored(&fold()));
    assert!(report.is_exact(), "{report:?}");
    assert_eq!((report.devices, report.sensors), (2, 2));
    assert_eq!(report.values_compared, 4);
    assert_eq!(report.open_windows_compared, 2 * 2);
    assert_eq!(
        (report.sealed_windows_compared, report.not_comparable),
        (2, 0)
    );
}

#[test]
fn any_bit_that_is_changed_is_found() {
    let exact = stored(&fold());
    let mut tried = 0;
    for (sealed, key) in [
        (false, SENSOR),
        (false, "d\x00t\x00p\x00d2"),
        (true, SEALED),
    ] {
        let values = |snapshot: &mut Snapshot| {
            let of = if sealed {
                &mut snapshot.sealed
            } else {
                &mut snapshot.live
            };
            of.get(key).unwrap().clone()
        };
        let length = values(&mut stored(&fold())).len();
        for at in 0..length * 8 {
            let mut snapshot = stored(&fold());
            let of = if sealed {
                &mut snapshot.sealed
            } else {
                &mut snapshot.live
            };
            of.get_mut(key).unwrap()[at / 8] ^= 1 << (at % 8);
            let report = compare(Kept::Whole, &snapshot);
            assert!(!report.is_exact(), "{key:?} bit {at}");
            tried += 1;
        }
    }
    assert!(tried > 1_000 && compare(Kept::Whole, &exact).is_exact());
}

#[test]
fn a_difference_is_named() {
    let mut snapshot = stored(&fold());
    snapshot.live.get_mut(SENSOR).unwrap()[1] ^= 1;
    let report = compare(Kept::Whole, &snapshot);
    assert_eq!((report.differences, report.findings.len()), (1, 1));
    let finding = &report.findings[0];
    assert_eq!(finding.key, "s·t·p·d1·temperature");
    assert_eq!(
        (finding.field.as_str(), finding.expected.as_str()),
        ("value", "21.285714285714285")
    );
}

#[test]
fn what_is_missing_is_found() {
    for key in [SENSOR, "d\x00t\x00p\x00d1"] {
        let mut snapshot = stored(&fold());
        snapshot.live.remove(key).unwrap();
        let report = compare(Kept::Whole, &snapshot);
        assert_eq!((report.missing, report.is_exact()), (1, false));
    }
    let report = compare(Kept::Whole, &Snapshot::default());
    assert_eq!(report.missing, 4);
    assert!(!report.is_exact());
}

#[test]
fn what_is_too_much_is_found() {
    let exact = stored(&fold());
    let sensor = &exact.live[SENSOR];
    for key in [
        "s\x00t\x00p\x00d3\x00temperature",
        "s\x00t\x00p\x00d1\x00humidity",
        "other",
        "d\x00t\x00p",
    ] {
        let mut snapshot = stored(&fold());
        snapshot.live.insert(key.into(), sensor.clone());
        assert_eq!(compare(Kept::Whole, &snapshot).extra, 1, "{key:?}");
    }
    for key in [
        "w\x00t\x00p\x00d1\x0060\x0060",
        "w\x00t\x00p\x00d1\x00300\x000",
        "w\x00x",
    ] {
        let mut snapshot = stored(&fold());
        snapshot
            .sealed
            .insert(key.into(), exact.sealed[SEALED].clone());
        assert_eq!(compare(Kept::Whole, &snapshot).extra, 1, "{key:?}");
    }
}

#[test]
fn a_sealed_window_may_be_missing_only_when_it_may_have_expired() {
    let mut snapshot = stored(&fold());
    snapshot.sealed.remove(SEALED).unwrap();
    // Sealed at 100 and kept for 1,000,000.
    snapshot.read_at = 1_000_100 - MARGIN - 1;
    assert_eq!(compare(Kept::Whole, &snapshot).missing, 1);
    snapshot.read_at += 1;
    let report = compare(Kept::Whole, &snapshot);
    assert_eq!(
        (report.missing, report.expired, report.is_exact()),
        (0, 1, true)
    );
    // The record that seals it is not applied yet.
    (snapshot.read_at, snapshot.offset) = (0, 4);
    assert_eq!(compare(Kept::Whole, &snapshot).missing, 0);
}

#[test]
fn a_sealed_window_may_be_there_before_the_offset_moves_but_not_another_one() {
    let mut snapshot = stored(&fold());
    // A step that failed half way: the record that seals is not applied yet.
    snapshot.offset = 4;
    let report = compare(Kept::Whole, &snapshot);
    assert_eq!((report.extra, report.sealed_windows_compared), (0, 2));
    *snapshot.sealed.get_mut(SEALED).unwrap().last_mut().unwrap() ^= 1;
    assert_eq!(compare(Kept::Whole, &snapshot).differences, 1);
}

#[test]
fn of_a_log_without_its_begin_only_what_it_has_is_compared() {
    let mut snapshot = stored(&fold());
    // Of a record that is gone: another window of the sensor, and another device.
    let bytes = snapshot.live["d\x00t\x00p\x00d1"].clone();
    snapshot.live.insert("d\x00t\x00p\x00gone".into(), bytes);
    *snapshot.sealed.get_mut(SEALED).unwrap().last_mut().unwrap() ^= 1;
    let report = compare(CUT, &snapshot);
    assert!(report.is_exact(), "{report:?}");
    assert_eq!(report.open_windows_compared, 4);
    // Two sealed windows, the places of two devices, one device.
    assert_eq!(report.not_comparable, 5);
    // What only records that are kept account for is compared as ever.
    let last = snapshot.live.get_mut(SENSOR).unwrap().last_mut().unwrap();
    *last ^= 1;
    assert_eq!(compare(CUT, &snapshot).differences, 1);
}

#[test]
fn state_that_is_newer_than_a_cut_log_is_not_comparable_and_older_is_wrong() {
    for (change, differences) in [(1, 0), (-1, 1)] {
        let mut snapshot = stored(&fold());
        let value = snapshot.live.get_mut(SENSOR).unwrap();
        // Value, unit and quality are before the time.
        let at = 1 + 8 + 1 + 4 + "celsius".len() + 1;
        value[at] = value[at].wrapping_add_signed(change);
        assert_eq!(compare(CUT, &snapshot).differences, differences);
        assert_eq!(compare(Kept::Whole, &snapshot).differences, 1);
    }
}
