//! Stored keys and bytes, compared with those of an earlier build: a store that was
//! written by any version with this layout must stay readable.

use std::fmt::Write as _;

use super::*;

/// Two devices, with every part of the layout in use: units, places, qualities, open and
/// sealed windows, alerts of sensors and of a device.
fn changes() -> Changes {
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
        };
        fold.apply(&event).unwrap();
    }
    fold.take_changes()
}

#[test]
fn keys_and_bytes_are_those_of_schema_2() {
    let mut lines = String::new();
    let changes = changes();
    let devices = changes.devices.into_iter();
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
