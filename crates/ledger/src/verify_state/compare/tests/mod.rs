//! Each test changes an exact state and checks the findings.

mod clock;
mod threshold;

use iot_core::message::{DeviceMessage, Reading};

use super::*;
use crate::verify_state::fold::{Entry, Rules};
use crate::verify_state::model::{Values, Window};

/// The bytes after the open windows of a sensor, which are not compared.
const DETECTORS: &[u8] = b"alerts and detectors";

fn values_bytes(values: &Values) -> Vec<u8> {
    let mut bytes = values.count.to_le_bytes().to_vec();
    for value in [
        values.min,
        values.max,
        values.mean,
        values.squared_deviations,
        values.first,
        values.last,
    ] {
        bytes.extend(value.to_le_bytes());
    }
    bytes
}

fn window_bytes(window: &Window) -> Vec<u8> {
    let mut bytes = (window.span.size as u32).to_le_bytes().to_vec();
    bytes.extend(window.span.start.to_le_bytes());
    bytes.extend(values_bytes(&window.values));
    for number in [window.first_at, window.last_at] {
        bytes.extend((number as u32).to_le_bytes());
    }
    for value in [
        window.time_mean,
        window.time_squared_deviations,
        window.deviation_products,
    ] {
        bytes.extend(value.to_le_bytes());
    }
    bytes
}

fn count(count: usize) -> [u8; 4] {
    (count as u32).to_le_bytes()
}

fn text(text: &str) -> Vec<u8> {
    [&count(text.len()), text.as_bytes()].concat()
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

fn timing_bytes(version: u8, timing: Timing) -> Vec<u8> {
    let mut bytes = moment_bytes(timing.moment);
    if version > 3 {
        bytes.push(u8::from(timing.ahead));
    }
    bytes
}

fn sensor_bytes(version: u8, name: &str, sensor: &Sensor) -> Vec<u8> {
    let newest = sensor.newest.as_ref().unwrap();
    let mut bytes = text(name);
    bytes.extend(newest.value.to_le_bytes());
    bytes.push(u8::from(newest.unit.is_some()));
    newest.unit.iter().for_each(|unit| bytes.extend(text(unit)));
    bytes.push(0);
    bytes.extend(timing_bytes(version, newest.timing));
    bytes.extend(count(sensor.open.len()));
    let open = sensor.open.values();
    open.for_each(|window| bytes.extend(window_bytes(window)));
    if version < 5 {
        bytes.extend(DETECTORS);
        return bytes;
    }
    let crossing = sensor.crossing.unwrap_or_default();
    bytes.push(u8::from(crossing.alert.is_some()));
    if let Some(alert) = crossing.alert {
        let flags = [alert.raised, alert.critical, alert.above].map(u8::from);
        bytes.extend([&[0][..], &flags].concat());
        bytes.extend(alert.offset.to_le_bytes());
        bytes.extend(alert.value.to_le_bytes());
        bytes.extend(alert.limit.to_le_bytes());
        bytes.extend(alert.timestamp.to_le_bytes());
        bytes.extend(alert.raised_at.to_le_bytes());
        bytes.extend(alert.count.to_le_bytes());
        // When it was published last, which is not compared.
        bytes.extend([7; 8]);
    }
    bytes.extend([7; 102]);
    bytes.push(u8::from(crossing.waiting.is_some()));
    if let Some(waiting) = crossing.waiting {
        bytes.extend(waiting.since.to_le_bytes());
        bytes.push(u8::from(waiting.above));
    }
    bytes
}

/// The value of a device, as a consumer stores it in this format.
pub(in crate::verify_state) fn device_bytes(version: u8, device: &Device) -> Vec<u8> {
    let mut bytes = vec![version];
    bytes.extend(device.watermark.unwrap().to_le_bytes());
    bytes.extend(timing_bytes(version, device.newest.unwrap()));
    bytes.push(0);
    bytes.extend(count(7));
    bytes.extend(count(device.sensors.len()));
    for (name, sensor) in &device.sensors {
        let sensor = sensor_bytes(version, name, sensor);
        bytes.extend(count(sensor.len()));
        bytes.extend(sensor);
    }
    if version > 2 {
        // Where it was heard last, and no silence.
        bytes.push(1);
        bytes.extend(device.heard.unwrap().to_le_bytes());
        let clocks = if version > 3 { 3 } else { 2 };
        bytes.extend(vec![0; clocks * 8 + 1]);
    }
    bytes
}

/// The state that the first version of the consumer would have stored.
fn stored(fold: &Fold) -> Snapshot {
    stored_in(2, fold)
}

/// The state that a consumer would have stored, with devices in this format.
fn stored_in(version: u8, fold: &Fold) -> Snapshot {
    let mut snapshot = Snapshot {
        offset: 1_000,
        ..Snapshot::default()
    };
    for (name, device) in &fold.devices {
        let value = device_bytes(version, device);
        snapshot.live.insert(layout::device_field(name), value);
    }
    for ((device, span), sealed) in &fold.sealed {
        let mut value = vec![2];
        value.extend(span.start.to_le_bytes());
        value.extend(span.end().to_le_bytes());
        value.extend(count(sealed.windows.len()));
        for (sensor, window) in &sealed.windows {
            value.extend(text(sensor));
            value.extend(values_bytes(&window.values));
            value.push(u8::from(window.slope.is_some()));
            let slope = window.slope.iter();
            slope.for_each(|slope| value.extend(slope.to_le_bytes()));
        }
        let key = layout::window_key(device, *span);
        snapshot.sealed.insert(key, value);
    }
    snapshot
}

/// The state that a consumer would have stored, with devices in this format and the time of the
/// partition.
fn stored_with_time(version: u8, fold: &Fold) -> Snapshot {
    let mut snapshot = stored_in(version, fold);
    let mut value = vec![1];
    value.extend(fold.time.offset.to_le_bytes());
    value.extend(fold.time.time.unwrap().to_le_bytes());
    value.extend([0; 2 * 8 + 1]);
    value.extend(count(fold.time.recent.len()));
    let recent = fold.time.recent.iter();
    recent.for_each(|time| value.extend(time.to_le_bytes()));
    snapshot.live.insert(layout::TIME_FIELD.into(), value);
    snapshot
}

/// Folds a temperature; the times are the message's and its record's.
fn take(fold: &mut Fold, number: i64, device: &str, (timestamp, recorded): (i64, i64), value: f64) {
    let message = DeviceMessage {
        device_id: device.into(),
        tenant: None,
        project: None,
        seq: Some(number as u64),
        timestamp,
        location: None,
        readings: vec![Reading {
            sensor: "temperature".into(),
            value,
            unit: Some("celsius".into()),
            quality: Quality::Good,
        }],
    };
    fold.take(&Entry {
        offset: number,
        recorded,
        tenant: "t",
        project: "p",
        message: &message,
    });
}

/// Two devices, each with one sealed and two open windows.
fn fold() -> Fold {
    let mut fold = Fold::new(Rules {
        sizes: vec![60],
        lateness: 30,
        retention: None,
        thresholds: BTreeMap::new(),
    });
    for (number, timestamp) in [0, 30, 59, 61, 100, 119, 149].into_iter().enumerate() {
        for device in ["d1", "d2"] {
            let value = timestamp as f64 / 7.0;
            take(
                &mut fold,
                number as i64,
                device,
                (timestamp, timestamp),
                value,
            );
        }
    }
    fold
}

/// A log without its start, of which windows from 60 on are compared.
const TRUNCATED: Kept = Kept::After(59);

fn compare(kept: Kept, snapshot: &Snapshot) -> Report {
    compare_with(&fold(), kept, snapshot)
}

fn compare_with(fold: &Fold, kept: Kept, snapshot: &Snapshot) -> Report {
    let partition = TopicPartition::new("device-data", 0);
    let mut comparison = Comparison::new(&partition);
    comparison.kept = kept;
    comparison.keep = 1_000;
    comparison.report.records = 14;
    comparison.live(fold, snapshot);
    comparison.sealed(fold, snapshot);
    comparison.report
}

const DEVICE: &str = "d\x00t\x00p\x00d1";
/// Start of its only sensor, after format, watermark, time and `seq`, place, rules and
/// number of sensors; and start of the sensor's value, after length and name.
const SENSOR_AT: usize = 1 + 8 + 17 + 1 + 4 + 4;
const VALUE_AT: usize = SENSOR_AT + 4 + 4 + "temperature".len();
const SEALED: &str = "w\x00t\x00p\x00d1\x0060\x000";

#[test]
fn the_expected_state_is_exact() {
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
fn any_changed_bit_is_found() {
    let exact = stored(&fold());
    let length = exact.live[DEVICE].len() - DETECTORS.len();
    // The hash of the rules belongs to the detectors.
    let rules = SENSOR_AT - 8..SENSOR_AT - 4;
    for at in (0..length).filter(|at| !rules.contains(at)) {
        for bit in 0..8 {
            let mut snapshot = stored(&fold());
            snapshot.live.get_mut(DEVICE).unwrap()[at] ^= 1 << bit;
            let report = compare(Kept::Whole, &snapshot);
            assert!(!report.is_exact(), "bit {bit} of byte {at}");
        }
    }
    for at in 0..exact.sealed[SEALED].len() {
        for bit in 0..8 {
            let mut snapshot = stored(&fold());
            snapshot.sealed.get_mut(SEALED).unwrap()[at] ^= 1 << bit;
            let report = compare(Kept::Whole, &snapshot);
            assert!(!report.is_exact(), "bit {bit} of byte {at}");
        }
    }
    assert!(length > 200 && compare(Kept::Whole, &exact).is_exact());
}

#[test]
fn detectors_are_not_compared() {
    let mut snapshot = stored(&fold());
    let value = snapshot.live.get_mut(DEVICE).unwrap();
    *value.last_mut().unwrap() ^= 1;
    value[SENSOR_AT - 8] ^= 1;
    assert!(compare(Kept::Whole, &snapshot).is_exact());
}

#[test]
fn a_difference_is_reported_with_its_field() {
    let mut snapshot = stored(&fold());
    snapshot.live.get_mut(DEVICE).unwrap()[VALUE_AT] ^= 1;
    let report = compare(Kept::Whole, &snapshot);
    assert_eq!((report.differences, report.findings.len()), (1, 1));
    let finding = &report.findings[0];
    assert_eq!(finding.key, "d·t·p·d1");
    assert_eq!(
        (finding.field.as_str(), finding.expected.as_str()),
        ("temperature value", "21.285714285714285")
    );
    let mut snapshot = stored(&fold());
    let slope = snapshot.sealed.get_mut(SEALED).unwrap();
    *slope.last_mut().unwrap() ^= 1;
    let report = compare(Kept::Whole, &snapshot);
    assert_eq!(report.findings[0].field, "temperature slope");
}

#[test]
fn missing_values_are_found() {
    let mut snapshot = stored(&fold());
    snapshot.live.remove(DEVICE).unwrap();
    let report = compare(Kept::Whole, &snapshot);
    assert_eq!((report.missing, report.is_exact()), (1, false));
    let report = compare(Kept::Whole, &Snapshot::default());
    assert_eq!(report.missing, 2);
    assert!(!report.is_exact());
}

/// The state with these sensors in the device.
fn with_sensors(sensors: &[Vec<u8>]) -> Snapshot {
    let mut snapshot = stored(&fold());
    let value = snapshot.live.get_mut(DEVICE).unwrap();
    value.truncate(SENSOR_AT - 4);
    value.extend(count(sensors.len()));
    for sensor in sensors {
        value.extend(count(sensor.len()));
        value.extend(sensor);
    }
    snapshot
}

#[test]
fn missing_extra_and_duplicate_sensors_are_found() {
    let fold = fold();
    let sensor = &fold.devices["t\x00p\x00d1"].sensors["temperature"];
    let sensor = |name: &str| sensor_bytes(2, name, sensor);
    let (own, other) = (sensor("temperature"), sensor("humidity"));
    for (sensors, missing, extra) in [
        (&[own.clone()][..], 0, 0),
        (&[], 1, 0),
        (std::slice::from_ref(&other), 1, 1),
        (&[own.clone(), other.clone()], 0, 1),
        (&[own.clone(), own.clone()], 0, 1),
    ] {
        let report = compare(Kept::Whole, &with_sensors(sensors));
        assert_eq!((report.missing, report.extra), (missing, extra));
        assert_eq!(report.is_exact(), missing + extra == 0);
    }
    // The other sensor may come from a deleted record.
    let report = compare(TRUNCATED, &with_sensors(&[own, other]));
    assert!(report.is_exact(), "{report:?}");
}

#[test]
fn windows_of_an_earlier_log_are_not_comparable() {
    let mut snapshot = stored(&fold());
    let (name, sealed) = snapshot.sealed.iter().next().unwrap();
    let earlier = (name.replace("\0d", "\0earlier"), sealed.clone());
    assert_ne!(&earlier.0, name);
    snapshot.sealed.insert(earlier.0, earlier.1);
    assert_eq!(compare(Kept::Whole, &snapshot).extra, 1);
    snapshot.has_earlier_log = true;
    let report = compare(Kept::Whole, &snapshot);
    assert_eq!((report.extra, report.not_comparable), (0, 1));
}

#[test]
fn extra_values_are_found() {
    let exact = stored(&fold());
    let device = &exact.live[DEVICE];
    for key in [
        "d\x00t\x00p\x00d3",
        "s\x00t\x00p\x00d1\x00temperature",
        "other",
        "d\x00t\x00p",
    ] {
        let mut snapshot = stored(&fold());
        snapshot.live.insert(key.into(), device.clone());
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
fn a_sealed_window_may_be_missing_only_after_its_expiry() {
    let mut snapshot = stored(&fold());
    snapshot.sealed.remove(SEALED).unwrap();
    // Sealed at 100 and kept for 1,000 times its length.
    snapshot.read_at = 60_100 - MARGIN - 1;
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
fn a_sealed_window_may_be_stored_before_the_offset_moves() {
    let mut snapshot = stored(&fold());
    // A step that failed half way: the record that seals the window is not applied yet.
    snapshot.offset = 4;
    let report = compare(Kept::Whole, &snapshot);
    assert_eq!((report.extra, report.sealed_windows_compared), (0, 2));
    *snapshot.sealed.get_mut(SEALED).unwrap().last_mut().unwrap() ^= 1;
    assert_eq!(compare(Kept::Whole, &snapshot).differences, 1);
}

#[test]
fn only_windows_after_a_truncated_log_start_are_compared() {
    let mut snapshot = stored(&fold());
    // From deleted records: another device, and another value of the sealed window.
    let bytes = snapshot.live["d\x00t\x00p\x00d1"].clone();
    snapshot.live.insert("d\x00t\x00p\x00gone".into(), bytes);
    *snapshot.sealed.get_mut(SEALED).unwrap().last_mut().unwrap() ^= 1;
    let report = compare(TRUNCATED, &snapshot);
    assert!(report.is_exact(), "{report:?}");
    assert_eq!(report.open_windows_compared, 4);
    // Two sealed windows, the places of two devices, one device.
    assert_eq!(report.not_comparable, 5);
    // Windows of which Kafka has all records are still compared.
    let value = snapshot.live.get_mut(DEVICE).unwrap();
    let end_of_windows = value.len() - DETECTORS.len();
    value[end_of_windows - 1] ^= 1;
    assert_eq!(compare(TRUNCATED, &snapshot).differences, 1);
}

#[test]
fn with_a_truncated_log_only_older_state_is_a_difference() {
    for (change, differences) in [(1, 0), (-1, 1)] {
        let mut snapshot = stored(&fold());
        let value = snapshot.live.get_mut(DEVICE).unwrap();
        // Value, unit and quality are before the time.
        let at = VALUE_AT + 8 + 1 + 4 + "celsius".len() + 1;
        value[at] = value[at].wrapping_add_signed(change);
        assert_eq!(compare(TRUNCATED, &snapshot).differences, differences);
        assert_eq!(compare(Kept::Whole, &snapshot).differences, 1);
    }
}
