//! The layout against bytes written out by hand after docs/state.md.

use proptest::prelude::*;

use super::*;

/// A value under way.
struct Bytes(Vec<u8>);

impl Bytes {
    fn new() -> Self {
        Self(vec![1])
    }

    fn byte(mut self, byte: u8) -> Self {
        self.0.push(byte);
        self
    }

    fn number(mut self, number: u64) -> Self {
        self.0.extend(number.to_le_bytes());
        self
    }

    fn float(self, float: f64) -> Self {
        self.number(float.to_bits())
    }

    fn text(mut self, text: &str) -> Self {
        self.0.extend((text.len() as u32).to_le_bytes());
        self.0.extend(text.as_bytes());
        self
    }

    fn window(mut self) -> Self {
        self = self.number(60).number(120).number(2);
        for value in [1.0, 2.0, 1.5, 0.5, 1.0, 2.0] {
            self = self.float(value);
        }
        self.number(61).number(119)
    }

    fn sensor(alert: bool) -> Self {
        let bytes = Self::new().float(-0.0).byte(1).text("celsius");
        let mut bytes = bytes.byte(1).number(100).byte(1).number(7);
        bytes = bytes.byte(u8::from(alert));
        if alert {
            bytes = bytes.text("device-data:0:4:temperature:threshold");
            bytes = bytes.byte(1).byte(0).byte(1);
            for number in 0..6 {
                bytes = bytes.number(number);
            }
        }
        bytes.number(1).window()
    }
}

const WINDOW: Window = Window {
    start: 60,
    end: 120,
    count: 2,
    min: 1.0,
    max: 2.0,
    mean: 1.5,
    squares: 0.5,
    first: 1.0,
    last: 2.0,
    first_at: 61,
    last_at: 119,
};

#[test]
fn a_sensor_is_read_with_and_without_an_alert_and_with_more_behind() {
    for alert in [false, true] {
        for more in [&[][..], b"state of detectors"] {
            let mut bytes = Bytes::sensor(alert).0;
            bytes.extend(more);
            let sensor = sensor(&bytes).unwrap();
            assert_eq!(sensor.value.to_bits(), (-0.0_f64).to_bits());
            assert_eq!(sensor.unit.as_deref(), Some("celsius"));
            assert_eq!(sensor.quality, Quality::Uncertain);
            assert_eq!((sensor.newest.timestamp, sensor.newest.seq), (100, Some(7)));
            assert_eq!(sensor.open, [WINDOW]);
        }
    }
}

#[test]
fn a_device_is_read_with_and_without_a_place() {
    let bare = Bytes::new().number(200).number(100).byte(0);
    let newest = Moment {
        timestamp: 100,
        seq: None,
    };
    let expected = |place| StoredDevice {
        watermark: 200,
        newest,
        place,
    };
    let somewhere = Bytes(bare.0.clone()).byte(1);
    let somewhere = somewhere.text("b1").text("").text("r3");
    let place = ["b1", "", "r3"].map(str::to_owned);
    assert_eq!(device(&somewhere.0), Ok(expected(Some(place))));
    let nowhere = bare.byte(0);
    assert_eq!(device(&nowhere.0), Ok(expected(None)));
    assert!(device(&nowhere.byte(0).0).is_err(), "longer than it is");
}

#[test]
fn sealed_windows_are_read_with_their_sensors() {
    let bytes = Bytes::new().number(1).text("temperature").window();
    assert_eq!(sealed(&bytes.0), Ok(vec![("temperature".into(), WINDOW)]));
    assert!(sealed(&bytes.byte(0).0).is_err());
}

#[test]
fn another_version_is_not_read() {
    for bytes in [&[][..], &[2, 0, 0]] {
        assert!(device(bytes).is_err() && sensor(bytes).is_err() && sealed(bytes).is_err());
    }
}

#[test]
fn names_are_those_that_the_docs_have() {
    let device = device_name("acme", "plant", "d1");
    assert_eq!(key_prefix("iot", "device-data", 3), "iot:{device-data:3}:");
    assert_eq!(device_field(&device), "d\x00acme\x00plant\x00d1");
    assert_eq!(sensor_field(&device, "s"), "s\x00acme\x00plant\x00d1\x00s");
    let span = Span {
        size: 60_000,
        start: -60_000,
    };
    let key = window_key(&device, span);
    assert_eq!(key, "w\x00acme\x00plant\x00d1\x0060000\x00-60000");
    assert_eq!(parse_window_key(&key), Some((device, span)));
    for other in [
        "w\x00a\x00p\x00d\x0060000",
        "w\x00a\x00p\x00d\x00+60000\x000",
        "d\x00a\x00p\x00d\x001\x002",
    ] {
        assert_eq!(parse_window_key(other), None, "{other:?}");
    }
}

proptest! {
    #[test]
    fn a_value_cut_short_is_an_error(length in 0_usize..200) {
        let bytes = Bytes::sensor(true).0;
        prop_assume!(length < bytes.len());
        prop_assert!(sensor(&bytes[..length]).is_err());
    }

    #[test]
    fn no_bytes_make_it_panic(bytes: Vec<u8>) {
        let bytes = [&[1], &bytes[..]].concat();
        let _ = (device(&bytes), sensor(&bytes), sealed(&bytes));
    }
}
