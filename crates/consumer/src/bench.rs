//! What benchmarks need of the inside.

use iot_core::partition::TopicPartition;
use std::borrow::Cow;
use std::time::Duration;

use iot_core::message::{DeviceMessage, Quality, Reading, ReadingTemplate, Template};
use iot_fold::{AlertKind, Catalogue, Event, Fold, Folded};
use rdkafka::Timestamp;
use rdkafka::message::{Header, OwnedHeaders, OwnedMessage};

use crate::config::{ConsumerConfig, Ready, StoreConfig};
use crate::mapping::{Beside, Mappings};
use crate::parse;
use crate::record::batch_of;
use crate::store::{LogId, Step, Store};

const TOPIC: &str = "device-data";
/// Time of the first message, milliseconds since the epoch.
const BEGIN: i64 = 1_750_000_000_000;

/// A format, and a function that parses a message in it and returns the number of readings.
pub type Parser = (&'static str, Box<dyn Fn() -> usize>);

/// One for each format.
///
/// # Panics
/// An example is not in its format.
#[must_use]
pub fn parsers() -> Vec<Parser> {
    let legacy = br#"{"deviceId":"b1-f2-r3-0004","timestamp":1750000000,"temperature":21.5,"humidity":60.2}"#;
    let zigbee = br#"{"temperature":21.5,"humidity":60.2,"battery":97,"linkquality":120,"last_seen":"2026-01-01T00:00:00Z"}"#;
    let ours = |sensors, protobuf| payload(&message(0, 0, sensors), protobuf);
    let (one, five) = (&NAMES[..1], &NAMES[..]);
    let examples = [
        ("json, readings 1", ours(one, false), "", ""),
        ("json, readings 5", ours(five, false), "", ""),
        ("protobuf, readings 1", ours(one, true), PROTOBUF, ""),
        ("protobuf, readings 5", ours(five, true), PROTOBUF, ""),
        ("legacy", legacy.to_vec(), "", ""),
        ("zigbee2mqtt", zigbee.to_vec(), "", "zigbee2mqtt/kitchen"),
    ];
    let parser = |(name, payload, content_type, mqtt)| (name, parser(payload, content_type, mqtt));
    examples.into_iter().map(parser).collect()
}

const PROTOBUF: &str = iot_core::headers::APPLICATION_PROTOBUF;
const NAMES: [&str; 5] = ["temperature", "humidity", "pressure", "switch", "current"];

fn parser(payload: Vec<u8>, content_type: &str, mqtt: &str) -> Box<dyn Fn() -> usize> {
    let mut headers = OwnedHeaders::new();
    let known = [
        (iot_core::headers::CONTENT_TYPE, content_type),
        (iot_core::headers::MQTT_TOPIC, mqtt),
    ];
    for (key, value) in known.into_iter().filter(|(_, value)| !value.is_empty()) {
        let value = Some(value);
        headers = headers.insert(Header { key, value });
    }
    let time = Timestamp::CreateTime(BEGIN);
    let message = OwnedMessage::new(Some(payload), None, TOPIC.into(), time, 0, 0, Some(headers));
    let batch = batch_of(&message);
    let mut config = ConsumerConfig::default().mappings;
    config.ready = vec![Ready::Zigbee2mqtt];
    let mappings = Mappings::new(&config, &Catalogue::new([]));
    Box::new(move || {
        let mut records = batch.records();
        let record = records.next().expect("one was pushed");
        let message = parse::message(&record, TOPIC, &mappings, None, &mut Beside::default());
        message.expect("an example in its format").readings.len()
    })
}

fn message(device: usize, round: u64, sensors: &[&'static str]) -> DeviceMessage<'static> {
    let value = |place: usize| ((device * 7 + place) as u64 + round * 13) % 97;
    let readings = sensors.iter().enumerate().map(|(place, sensor)| Reading {
        sensor: Cow::Borrowed(sensor),
        value: 20.0 + value(place) as f64 / 50.0,
        unit: None,
        quality: Quality::Good,
    });
    DeviceMessage {
        device_id: format!("b1-f2-r3-{device:04}").into(),
        tenant: None,
        project: None,
        seq: Some(round),
        timestamp: BEGIN + round as i64 * 1_000,
        location: None,
        readings: readings.collect(),
    }
}

fn payload(message: &DeviceMessage<'_>, protobuf: bool) -> Vec<u8> {
    let reading = |reading: &Reading<'_>| {
        if protobuf {
            ReadingTemplate::protobuf(&reading.sensor, None, reading.quality)
        } else {
            ReadingTemplate::json(&reading.sensor, None, reading.quality)
        }
    };
    let readings: Vec<_> = message.readings.iter().map(reading).collect();
    let template = if protobuf {
        Template::protobuf(message)
    } else {
        Template::json(message)
    };
    let values = message.readings.iter().map(|reading| reading.value);
    let mut out = Vec::new();
    template.write(0, message.timestamp, readings.iter().zip(values), &mut out);
    out
}

/// A function that folds the next message of so many devices in turn, a second apart, with
/// or without detection.
pub fn fold(devices: usize, sensors: &[&'static str], detect: bool) -> impl FnMut() {
    let mut partition = Partition::new(devices, sensors, detect);
    move || {
        partition.next();
        // Changes and updates would accumulate.
        if partition.offset % 10_000 == 0 {
            partition.fold.take_changes();
            partition.fold.take_updates();
        }
    }
}

/// A function that encodes a step in which each device has changed, and returns its size in
/// bytes.
///
/// # Panics
/// Never: the settings are valid.
pub fn step(devices: usize, sensors: &[&'static str]) -> impl FnMut() -> usize {
    let mut partition = Partition::new(devices, sensors, true);
    let settings = StoreConfig {
        url: "redis://127.0.0.1".into(),
        ..StoreConfig::default()
    };
    let store = Store::open(&settings, Duration::from_secs(3_600)).expect("valid settings");
    move || {
        (0..devices).for_each(|_| partition.next());
        let changes = partition.fold.take_changes();
        partition.fold.take_updates();
        store.encoded_len(&Step {
            partition: &TopicPartition::new(TOPIC, 0),
            from: Some(0),
            to: 1,
            log: LogId::default(),
            changes: &changes,
        })
    }
}

/// A partition and its next messages.
struct Partition {
    fold: Fold,
    folded: Folded,
    devices: usize,
    messages: Vec<DeviceMessage<'static>>,
    offset: i64,
}

impl Partition {
    fn new(devices: usize, sensors: &[&'static str], detect: bool) -> Self {
        let mut config = ConsumerConfig::default();
        if !detect {
            let off = AlertKind::ALL
                .into_iter()
                .filter(|kind| !kind.is_of_device());
            let off: Vec<_> = off.collect();
            let sensors = sensors.iter().map(|sensor| (*sensor).to_owned());
            config.detect.off = sensors.map(|sensor| (sensor, off.clone())).collect();
        }
        Self {
            fold: Fold::new(config.fold_rules(), TOPIC, 0),
            folded: Folded::default(),
            devices,
            messages: (0..devices)
                .map(|device| message(device, 0, sensors))
                .collect(),
            offset: 0,
        }
    }

    fn next(&mut self) {
        let (device, round) = (
            self.offset as usize % self.devices,
            self.offset / self.devices as i64,
        );
        let message = &mut self.messages[device];
        message.seq = Some(round as u64);
        message.timestamp = BEGIN + round * 1_000;
        for (place, reading) in message.readings.iter_mut().enumerate() {
            reading.value =
                20.0 + ((device * 7 + place) as i64 + round * 13).rem_euclid(97) as f64 / 50.0;
        }
        let event = Event {
            offset: self.offset,
            recorded: Some(message.timestamp),
            tenant: "default",
            project: "default",
            message,
            is_undated: false,
            unmatched: &[],
        };
        let applied = self.fold.apply(&event, &mut self.folded);
        applied.expect("within the limits");
        self.offset += 1;
    }
}
