//! Tests the layout with bytes written by hand from docs/state.md.

use proptest::prelude::*;

use super::super::model::Values;
use super::reader::DETECTORS;
use super::*;

/// Builds a stored value.
struct Bytes(Vec<u8>);

impl Bytes {
    fn new() -> Self {
        Self(vec![2])
    }

    /// A device in version 4 with one sensor, both of which were ahead of their records.
    fn ahead() -> Self {
        Self::ahead_in(4, Self(Vec::new()))
    }

    /// A current device with a stuck sensor, of which a threshold alert is over, and whose value
    /// waits to raise the next one.
    fn current() -> Self {
        let alert = |kind| {
            let alert = Self(vec![kind, 0, 1, 1]).number(33).float(61.0).float(50.0);
            alert.number(900).number(800).number(4).number(850)
        };
        let mut detection = Self(vec![2]);
        detection.0.extend(alert(2).0);
        detection.0.extend(alert(0).0);
        detection.0.extend([7; DETECTORS]);
        Self::ahead_in(5, detection.byte(1).number(950).byte(1))
    }

    fn ahead_in(version: u8, detection: Self) -> Self {
        let sensor = Self(Vec::new()).text("s").float(1.0).byte(0).byte(0);
        let mut sensor = sensor.number(100).byte(0).byte(1).short(0);
        sensor.0.extend(detection.0);
        let device = Self::new().number(200).number(100).byte(0).byte(1).byte(0);
        let device = device.short(7).short(1).part(sensor);
        let heard = device
            .byte(1)
            .number(41)
            .number(1_000)
            .number(900)
            .number(950);
        let mut device = heard.byte(0);
        device.0[0] = version;
        device
    }

    /// The time of a partition.
    fn time() -> Self {
        let time = Self(vec![1])
            .number(41)
            .number(1_000)
            .number(900)
            .number(950)
            .byte(1);
        time.short(2).number(990).number(1_001)
    }

    /// Turns a device into version 3, with the state of silence detection.
    fn heard(mut self, silent: bool) -> Self {
        self.0[0] = 3;
        let heard = self.byte(1).number(41).number(1_000).number(900);
        if !silent {
            return heard.byte(0);
        }
        // Kind, raised, warning, above; offset; value and limit; times, count, time.
        let alert = heard.byte(1).byte(5).byte(1).byte(0).byte(1).number(44);
        let times = alert.float(13.0).float(12.0).number(1_000).number(1_000);
        times.number(1).number(1_000)
    }

    fn byte(mut self, byte: u8) -> Self {
        self.0.push(byte);
        self
    }

    fn number(mut self, number: u64) -> Self {
        self.0.extend(number.to_le_bytes());
        self
    }

    fn short(mut self, number: u32) -> Self {
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

    fn part(self, part: Self) -> Self {
        let mut bytes = self.short(part.0.len() as u32);
        bytes.0.extend(part.0);
        bytes
    }

    fn values(self) -> Self {
        let values = [1.0, 2.0, 1.5, 0.5, 1.0, 2.0];
        values.into_iter().fold(self.number(2), Self::float)
    }

    /// A sensor with one open window, followed by `more`.
    fn sensor(more: &[u8]) -> Self {
        let sensor = Self(Vec::new()).text("temperature").float(-0.0);
        let sensor = sensor.byte(1).text("celsius").byte(1);
        let sensor = sensor.number(100).byte(1).number(7);
        let window = sensor.short(1).short(60).number(60).values();
        let mut sensor = window.short(1).short(59);
        for value in [30.0, 1_682.0, 29.0] {
            sensor = sensor.float(value);
        }
        sensor.0.extend(more);
        sensor
    }

    /// A device up to the number of its sensors.
    fn device(place: bool, sensors: u32) -> Self {
        let mut bytes = Self::new().number(200).number(100).byte(0);
        bytes = bytes.byte(u8::from(place));
        if place {
            bytes = bytes.text("b1").text("").text("r3");
        }
        bytes.short(0xdead_beef).short(sensors)
    }

    fn sealed() -> Self {
        let bytes = Self::new().number(60).number(120).short(2);
        let bytes = bytes.text("humidity").values().byte(0);
        bytes.text("temperature").values().byte(1).float(-1.5)
    }
}

const VALUES: Values = Values {
    count: 2,
    min: 1.0,
    max: 2.0,
    mean: 1.5,
    squared_deviations: 0.5,
    first: 1.0,
    last: 2.0,
};

#[test]
fn a_device_is_read_with_and_without_a_place() {
    let somewhere = device(&Bytes::device(true, 0).0).unwrap();
    assert_eq!(somewhere.place, Some(["b1", "", "r3"].map(str::to_owned)));
    let newest = Moment {
        timestamp: 100,
        seq: None,
    };
    let expected = StoredDevice {
        watermark: 200,
        newest,
        ahead: None,
        place: None,
        sensors: Vec::new(),
        heard: None,
    };
    let nowhere = Bytes::device(false, 0);
    assert_eq!(device(&nowhere.0), Ok(expected));
    assert!(device(&nowhere.byte(0).0).is_err(), "trailing bytes");
}

#[test]
fn only_the_state_of_silence_detection_is_skipped() {
    let older = Bytes::device(true, 1).part(Bytes::sensor(b""));
    let expected = StoredDevice {
        heard: Some(41),
        ..device(&older.0).unwrap()
    };
    for silent in [false, true] {
        let newer = Bytes::device(true, 1).part(Bytes::sensor(b""));
        let newer = newer.heard(silent);
        assert_eq!(device(&newer.0), Ok(expected.clone()));
        assert!(device(&newer.byte(0).0).is_err(), "trailing bytes");
    }
    let mut unknown = older.heard(false);
    unknown.0[0] = 6;
    let error = Unreadable("unknown version 6; expected 2 or 3 or 4 or 5".into());
    assert_eq!(device(&unknown.0), Err(error));
}

#[test]
fn from_version_4_on_it_says_what_was_ahead() {
    for bytes in [Bytes::ahead(), Bytes::current()] {
        let found = device(&bytes.0).unwrap();
        assert_eq!((found.ahead, found.heard), (Some(true), Some(41)));
        assert_eq!(found.sensors[0].1.ahead, Some(true));
        assert!(is_with_time(&bytes.0));
    }
    let older = device(&Bytes::device(true, 1).part(Bytes::sensor(b"")).0).unwrap();
    assert_eq!((older.ahead, older.sensors[0].1.ahead), (None, None));
    assert!(!is_with_time(&Bytes::device(true, 0).0));
}

#[test]
fn the_current_version_has_the_alert_of_thresholds_and_the_wait_for_the_next() {
    let detection = |bytes: Bytes| device(&bytes.0).unwrap().sensors[0].1.detection;
    let alert = ThresholdAlert {
        raised: false,
        critical: true,
        above: true,
        offset: 33,
        value: 61.0,
        limit: 50.0,
        timestamp: 900,
        raised_at: 800,
        count: 4,
    };
    let expected = StoredDetection {
        alert: Some(alert),
        waiting: Some(Waiting {
            since: 950,
            above: true,
        }),
    };
    assert_eq!(detection(Bytes::current()), Some(expected));
    assert_eq!(detection(Bytes::ahead()), None);
    let mut none = Bytes(vec![0]);
    none.0.extend([7; DETECTORS]);
    let none = none.byte(0);
    let more = Bytes([&none.0[..], &[0]].concat());
    assert_eq!(
        detection(Bytes::ahead_in(5, none)),
        Some(StoredDetection::default())
    );
    assert!(
        device(&Bytes::ahead_in(5, more).0).is_err(),
        "trailing bytes"
    );
}

#[test]
fn the_time_of_a_partition_is_decoded() {
    let expected = StoredTime {
        offset: 41,
        time: 1_000,
        taken_over: true,
        recent: vec![990, 1_001],
    };
    assert_eq!(time(&Bytes::time().0), Ok(expected));
    assert!(time(&Bytes::time().byte(0).0).is_err());
}

#[test]
fn sensors_are_decoded_up_to_their_detectors() {
    let bytes = Bytes::device(false, 2).part(Bytes::sensor(b"alerts and detectors"));
    let bytes = bytes.part(Bytes::sensor(b""));
    let device = device(&bytes.0).unwrap();
    assert_eq!((device.watermark, device.sensors.len()), (200, 2));
    for (name, sensor) in device.sensors {
        assert_eq!(name, "temperature");
        assert_eq!(sensor.value.to_bits(), (-0.0_f64).to_bits());
        assert_eq!(sensor.unit.as_deref(), Some("celsius"));
        assert_eq!(sensor.quality, Quality::Uncertain);
        assert_eq!((sensor.newest.timestamp, sensor.newest.seq), (100, Some(7)));
        let window = Window {
            span: Span {
                size: 60,
                start: 60,
            },
            values: VALUES,
            first_at: 1,
            last_at: 59,
            time_mean: 30.0,
            time_squared_deviations: 1_682.0,
            deviation_products: 29.0,
        };
        assert_eq!(sensor.open, [window]);
    }
}

#[test]
fn sealed_windows_are_decoded() {
    let bytes = Bytes::sealed();
    let window = |sensor: &str, slope| {
        let values = VALUES;
        (sensor.to_owned(), Summary { values, slope })
    };
    let expected = StoredWindows {
        start: 60,
        end: 120,
        windows: vec![window("humidity", None), window("temperature", Some(-1.5))],
    };
    assert_eq!(sealed(&bytes.0), Ok(expected));
    assert!(sealed(&bytes.byte(0).0).is_err());
}

#[test]
fn other_versions_are_refused() {
    for mut bytes in [Bytes::device(true, 0).0, Bytes::sealed().0] {
        bytes[0] = 1;
        assert!(device(&bytes).is_err() && sealed(&bytes).is_err());
    }
    assert!(device(&[]).is_err() && sealed(&[]).is_err());
}

#[test]
fn names_agree_with_the_documentation() {
    let device = device_name("acme", "plant", "d1");
    assert_eq!(key_prefix("iot", "device-data", 3), "iot:{device-data:3}:");
    assert_eq!(device_field(&device), "d\x00acme\x00plant\x00d1");
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
    fn truncated_values_are_refused(length in 0_usize..300) {
        let bytes = Bytes::device(true, 1).part(Bytes::sensor(b"detectors"));
        let heard = Bytes::device(true, 1).heard(true);
        let all = [bytes, heard, Bytes::ahead(), Bytes::current(), Bytes::time(), Bytes::sealed()];
        for Bytes(bytes) in all {
            if let Some(cut) = bytes.get(..length).filter(|cut| cut.len() < bytes.len()) {
                prop_assert!(device(cut).is_err() && sealed(cut).is_err() && time(cut).is_err());
            }
        }
    }

    #[test]
    fn decoding_never_panics(bytes: Vec<u8>) {
        for version in [1, 2, 3, 4, 5] {
            let bytes = [&[version], &bytes[..]].concat();
            let part = Bytes::device(false, 1).part(Bytes(bytes.clone()));
            let _ = (device(&bytes), device(&part.0), sealed(&bytes), time(&bytes));
        }
    }
}
