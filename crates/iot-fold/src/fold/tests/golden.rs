//! Stored keys and bytes, compared with those of an earlier build: a store that was
//! written by any version with this layout must stay readable.

use std::fmt::Write as _;

use super::*;
use crate::log_time::LogPosition;

/// Two devices in Kafka partition 3, with every part of the layout in use: units, places, qualities, open and
/// sealed windows, alerts of sensors and of a device.
fn folded() -> Fold {
    let mut fold = Fold::new(rules(), "device-data", 3);
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
        let event = Event {
            offset: at,
            recorded: Some(1_000 + at * 5),
            tenant: "t",
            project: "p",
            message: &message,
            is_undated: false,
            unmatched: &[],
        };
        fold.apply(&event).unwrap();
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
    let lines = include_str!("golden_3.txt").lines();
    let live = lines.filter_map(|line| {
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
    let mut taken_over = Fold::restore(rules(), "device-data", 3, &entries).unwrap();
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
    assert_eq!(keys, [("d\0t\0p\0d0", 4), ("p\0time", 1)]);
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
