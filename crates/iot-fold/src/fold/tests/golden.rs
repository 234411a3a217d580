//! Stored keys and bytes, compared with those of an earlier build: a store that was
//! written by any version with this layout must stay readable.

use std::fmt::Write as _;

use super::*;
use crate::log_time::LogPosition;

/// Those of the builds that wrote the earlier formats.
fn earlier_rules() -> FoldRules {
    FoldRules {
        limits: limits_with(15.0, &[]),
        ..rules()
    }
}

/// Two devices in Kafka partition 3, with every part of the layout in use: units, places, qualities, open and
/// sealed windows, alerts of sensors and of a device.
fn folded() -> Fold {
    let mut fold = Fold::new(earlier_rules(), "device-data", 3);
    for at in 0..70_i64 {
        let seq = (at % 2 == 0).then_some(at as u64);
        let device = u8::from(at == 1);
        let value = [20.0, 61.5, 20.25, -3.0][(at % 4) as usize];
        let mut message = message((device, at * 7, seq, (at % 3) as usize, value));
        let reading = &mut message.readings[0];
        reading.unit = (at % 3 == 2).then(|| "mm/s".into());
        reading.quality = [Quality::Good, Quality::Uncertain, Quality::Bad][(at / 3 % 3) as usize];
        if at % 5 == 0 {
            message.location = None;
        }
        let event = event(at, Some(1_000 + at * 5), &message);
        super::apply(&mut fold, &event).unwrap();
    }
    fold
}

#[test]
fn keys_and_bytes_are_those_of_schema_2() {
    let mut lines = String::new();
    let changes = folded().take_changes();
    let devices = changes.live.into_iter();
    let devices = devices.map(|(key, value)| (key, value, None));
    let windows = changes.windows.iter();
    let windows = windows.map(|sealed| (sealed.store_key(), sealed.encode(), Some(sealed.expires)));
    for (key, value, expires) in devices.chain(windows) {
        write!(lines, "{} {expires:?} ", key.replace('\0', "|")).unwrap();
        for byte in value {
            write!(lines, "{byte:02x}").unwrap();
        }
        lines.push('\n');
    }
    assert_eq!(lines, include_str!("golden.txt"));
}

/// The entries in the lines that a build wrote which stored devices in format 3.
fn entries_of_format_3() -> Vec<(String, Vec<u8>)> {
    entries(include_str!("golden_3.txt"))
}

fn entries(lines: &str) -> Vec<(String, Vec<u8>)> {
    let live = lines.lines().filter_map(|line| {
        let (key, value) = line.split_once(" None ")?;
        let bytes = (0..value.len()).step_by(2);
        let bytes = bytes.map(|at| u8::from_str_radix(&value[at..at + 2], 16).unwrap());
        Some((key.replace('|', "\0"), bytes.collect()))
    });
    live.collect()
}

#[test]
fn bytes_of_format_3_are_taken_over() {
    let entries = entries_of_format_3();
    assert!(entries.iter().all(|(_, value)| value[0] == 3));
    let mut taken_over = Fold::restore(earlier_rules(), "device-data", 3, &entries).unwrap();
    let mut same = states(&folded());
    let old = states(&taken_over);
    assert_eq!(old.len(), 2);
    for (key, state) in &mut same {
        // Format 3 went by the highest record time.
        let heard = old[key].heard.unwrap();
        assert_eq!(heard.offset, state.heard.unwrap().offset);
        assert!(heard.recorded >= state.heard.unwrap().recorded);
        (state.heard, state.silence) = (Some(heard), old[key].silence.clone());
    }
    assert_eq!(old, same);
    let highest = LogPosition {
        offset: 69,
        recorded: 1_345,
        clock: 1_345,
        age: 1_345,
    };
    let time = taken_over.watch.time().unwrap();
    assert_eq!(*time, LogTime::taken_over(highest));
    feed(&mut taken_over, 70, (0, 500, None, 0, 20.0)).unwrap();
    let written = taken_over.take_changes().live;
    let keys: Vec<_> = written
        .iter()
        .map(|(key, value)| (key.as_str(), value[0]))
        .collect();
    assert_eq!(keys, [("d\0t\0p\0d0", 5), ("p\0time", 1)]);
}

#[test]
fn bytes_of_format_4_are_taken_over() {
    let entries = entries(include_str!("golden_4.txt"));
    let versions: Vec<_> = entries.iter().map(|(_, value)| value[0]).collect();
    assert_eq!(versions, [4, 4, 1]);
    let mut taken_over = Fold::restore(earlier_rules(), "device-data", 3, &entries).unwrap();
    let mut same = folded();
    same.take_changes();
    assert_eq!(states(&taken_over), states(&same));
    assert_eq!(taken_over.watch.time(), same.watch.time());
    for fold in [&mut taken_over, &mut same] {
        feed(fold, 70, (0, 500, None, 0, 20.0)).unwrap();
    }
    let changes = taken_over.take_changes();
    assert_eq!(changes, same.take_changes());
    assert_eq!(changes.live[0].1[0], 5);
}

/// No record of it had a time, so that there is none to take over.
#[test]
fn state_of_format_4_without_a_time_lacks_no_earlier_record_times() {
    let mut fold = Fold::new(rules(), "device-data", 3);
    feed_at(&mut fold, 0, None, (0, 100, None, 0, 20.0)).unwrap();
    let mut entries = fold.take_changes().live;
    assert_eq!(entries.len(), 1);
    let value = &mut entries[0].1;
    // The sensor in format 4: without its last byte.
    let length = value.len();
    value.remove(length - 3);
    let at = value.windows(4).position(|four| four == b"temp").unwrap() - 8;
    value[at] -= 1;
    value[0] = 4;
    let mut restored = Fold::restore(rules(), "device-data", 3, &entries).unwrap();
    assert_eq!(states(&restored), states(&fold));
    feed_at(&mut restored, 1, Some(7), (0, 101, None, 0, 20.0)).unwrap();
    assert!(!restored.watch.time().unwrap().is_taken_over);
}

#[test]
fn the_time_of_state_without_one_is_not_complete_before_sixteen_records() {
    let (key, newer) = &entries_of_format_3()[0];
    let entries = [(key.clone(), in_format_2(newer))];
    let mut fold = Fold::restore(rules(), "device-data", 3, &entries).unwrap();
    assert_eq!(fold.watch.time(), None);
    for number in 0..16 {
        let time = fold.watch.time();
        assert!(time.is_none_or(|time| time.is_taken_over), "{number}");
        let (offset, recorded) = (70 + number as usize, Some(2_000 + number));
        feed_at(
            &mut fold,
            offset,
            recorded,
            (0, 500 + number, None, 0, 20.0),
        )
        .unwrap();
    }
    assert!(!fold.watch.time().unwrap().is_taken_over);
}

/// A value of format 3, with a position and no alert, in format 2.
fn in_format_2(newer: &[u8]) -> Vec<u8> {
    let mut older = newer[..newer.len() - 1 - 24 - 1].to_vec();
    older[0] = 2;
    older
}

#[test]
fn bytes_of_format_2_are_those_of_format_3_without_silence() {
    let entries = entries_of_format_3();
    let (key, newer) = &entries[0];
    let state = DeviceState::unpack(key, newer).unwrap();
    assert!(state.heard.is_some() && state.silence.is_none());
    let older = in_format_2(newer);
    let expected = DeviceState {
        heard: None,
        ..state
    };
    assert_eq!(DeviceState::unpack(key, &older), Ok(expected));
}
