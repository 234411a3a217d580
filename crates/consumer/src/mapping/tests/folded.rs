//! Mapped records through all stages, up to what clients see.

use iot_core::message::Quality;
use iot_fold::{AlertKind, Fold, Folded, Limit};
use rdkafka::Timestamp;
use rdkafka::message::{Header, OwnedHeaders, OwnedMessage};

use super::*;
use crate::config::{ConsumerConfig, SensorConfig};
use crate::partial::Refused;
use crate::record::batch_of;
use crate::refusal::Refusal;
use crate::transform::to_known_units;
use crate::validate::check_readings;

/// The stages of a partition, without the last ones.
struct Stages {
    config: ConsumerConfig,
    fold: Fold,
    offset: i64,
}

impl Stages {
    fn new(mappings: MappingsConfig) -> Self {
        Self::of(ConsumerConfig {
            mappings,
            ..ConsumerConfig::default()
        })
    }

    fn of(config: ConsumerConfig) -> Self {
        Self {
            fold: Fold::new(config.fold_rules(), "acme.plant", 0),
            config,
            offset: 0,
        }
    }

    /// Folds a record of the bridge, recorded `second` seconds after [`RECORDED`].
    fn take(
        &mut self,
        mqtt: &str,
        retain: &str,
        second: i64,
        payload: &str,
    ) -> Result<Folded, Refusal> {
        let headers = [("mqtt-topic", mqtt), ("mqtt-retain", retain)];
        let headers = headers
            .iter()
            .fold(OwnedHeaders::new(), |headers, (key, value)| {
                headers.insert(Header {
                    key,
                    value: Some(*value),
                })
            });
        let time = Timestamp::CreateTime(RECORDED + second * 1_000);
        let payload = Some(payload.as_bytes().to_vec());
        let topic = "acme.plant".to_owned();
        let message = OwnedMessage::new(payload, None, topic, time, 0, self.offset, Some(headers));
        self.offset += 1;
        let batch = batch_of(&message);
        let record = batch.records().next().unwrap();
        let catalogue = self.config.catalogue();
        let mappings = Mappings::new(&self.config.mappings, &catalogue);
        let mut refused = Refused::new(self.config.validate.partial);
        let mut beside = Beside::default();
        let mut message = refused.parse(|refused| {
            crate::parse::message(&record, "acme.plant", &mappings, refused, &mut beside)
        })?;
        to_known_units(&mut message, &catalogue, beside.has_chips);
        let catalogue = (&catalogue, beside.has_chips);
        check_readings(&mut message.readings, catalogue, &mut refused)?;
        let identity = ("acme", "plant");
        let mut folded = Folded::default();
        let applied = refused.fold(
            &mut self.fold,
            &record,
            identity,
            &mut message,
            &beside,
            &mut folded,
        );
        applied.map(|()| folded)
    }

    /// Value, unit, quality and seconds after [`RECORDED`].
    fn value(&self, sensor: &str) -> Option<(f64, Option<String>, Quality, i64)> {
        let all = self.fold.all();
        let (_, device) = all.devices.first()?;
        let (_, found) = device.readings.iter().find(|(name, _)| **name == *sensor)?;
        let unit = found.unit.as_deref().map(str::to_owned);
        let second = (found.timestamp - RECORDED) / 1_000;
        Some((found.value, unit, found.quality, second))
    }
}

fn good(
    value: f64,
    unit: Option<&str>,
    second: i64,
) -> Option<(f64, Option<String>, Quality, i64)> {
    Some((value, unit.map(str::to_owned), Quality::Good, second))
}

#[test]
fn each_chip_of_tasmota_keeps_its_value_in_the_units_of_the_catalogue() {
    let mut stages = Stages::new(ready(Ready::Tasmota));
    let topic = "tele/cellar/SENSOR";
    let both = r#"{"Time":"2026-01-01T12:00:00","AM2301":{"Temperature":68.0,"Humidity":35.2},
        "DS18B20":{"Id":"01131B123456","Temperature":140.0},"TempUnit":"F"}"#;
    let folded = stages.take(topic, "false", 0, both).unwrap();
    assert_eq!(
        folded.raised[AlertKind::Threshold as usize],
        1,
        "60 celsius is above 50"
    );
    let one = r#"{"DS18B20":{"Id":"01131B123456","Temperature":122.0},"TempUnit":"F"}"#;
    stages.take(topic, "false", 10, one).unwrap();
    let celsius = Some("celsius");
    assert_eq!(stages.value("am2301-temperature"), good(20.0, celsius, 0));
    assert_eq!(stages.value("ds18b20-temperature"), good(50.0, celsius, 10));
    assert_eq!(stages.value("temperature"), None);
    // 85 degrees are what the chip says after a reset, -127 that it is not there.
    let absent = r#"{"DS18B20":{"Temperature":-127.0},"TempUnit":"C"}"#;
    let refusal = stages.take(topic, "false", 20, absent).unwrap_err();
    assert_eq!(refusal.reason(), "impossible_value");
}

#[test]
fn a_retained_message_without_a_time_replaces_no_live_value() {
    let mut stages = Stages::new(ready(Ready::Zigbee2mqtt));
    let topic = "zigbee2mqtt/plug";
    stages
        .take(topic, "true", 0, r#"{"state":"ON","power":99}"#)
        .unwrap();
    assert_eq!(
        stages.value("switch"),
        good(1.0, Some("state"), 0),
        "there was none"
    );
    stages
        .take(topic, "false", 1, r#"{"state":"OFF","power":0}"#)
        .unwrap();
    let folded = stages
        .take(topic, "true", 2, r#"{"state":"ON","power":99}"#)
        .unwrap();
    assert_eq!((folded.readings, folded.stale), (2, 2));
    assert_eq!(stages.value("switch"), good(0.0, Some("state"), 1));
    // With a time it is as old as it says.
    let older = r#"{"state":"ON","last_seen":"2025-12-31T00:00:00Z"}"#;
    stages.take(topic, "true", 3, older).unwrap();
    assert_eq!(stages.value("switch"), good(0.0, Some("state"), 1));
    let newer = r#"{"state":"ON","last_seen":"2026-01-01T00:00:02Z"}"#;
    stages.take(topic, "true", 4, newer).unwrap();
    assert_eq!(stages.value("switch"), good(1.0, Some("state"), 2));
}

/// From Zigbee2MQTT's documentation of the thermostat TS0601.
#[test]
fn a_state_that_is_no_number_makes_the_value_uncertain() {
    let mut stages = Stages::new(ready(Ready::Zigbee2mqtt));
    let topic = "zigbee2mqtt/heater";
    let payload = |mode: &str| {
        format!(
            r#"{{"child_lock":"UNLOCK","current_heating_setpoint":21,"local_temperature":20.5,
            "preset":"schedule","system_mode":{mode},"window_detection":"OFF"}}"#
        )
    };
    stages
        .take(topic, "false", 0, &payload(r#""off""#))
        .unwrap();
    assert_eq!(stages.value("system_mode"), good(0.0, None, 0));
    for (second, mode) in [(1, r#""heat""#), (2, "null")] {
        stages.take(topic, "false", second, &payload(mode)).unwrap();
        let expected = Some((0.0, None, Quality::Uncertain, second));
        assert_eq!(stages.value("system_mode"), expected);
    }
    // Without any number in the message.
    stages
        .take(topic, "false", 3, r#"{"system_mode":"off"}"#)
        .unwrap();
    stages
        .take(topic, "false", 4, r#"{"system_mode":"auto"}"#)
        .unwrap();
    assert_eq!(stages.value("system_mode").unwrap().2, Quality::Uncertain);
    let words = stages
        .take(topic, "false", 5, r#"{"action":"single"}"#)
        .unwrap_err();
    assert_eq!(words.reason(), "no_readings");
    assert_eq!(stages.value("preset"), None);
    assert_eq!(stages.value("window_detection"), good(0.0, None, 2));
}

/// From Shelly's documentation of the relay (first generation, as an entry of an array).
#[test]
fn a_state_of_a_single_reading_may_be_unknown() {
    let single = |sensor: &str, value: &str, unit: Option<&str>| ReadingConfig {
        sensor: sensor.into(),
        value: value.into(),
        unit: unit.map(str::to_owned),
    };
    let own = MappingConfig {
        mqtt: "+/status/switch:0".into(),
        device: "mqtt:1".into(),
        readings: vec![
            single("switch", "/state", None),
            single("temperature", "/temperature/tC", Some("celsius")),
            single("energy", "/aenergy/total", Some("Wh")),
        ],
        ..MappingConfig::default()
    };
    let mut stages = Stages::new(MappingsConfig {
        ready: Vec::new(),
        own: vec![own],
    });
    let payload = |state: &str, temperature: &str| {
        format!(
            r#"{{"id":0,"source":"init","state":"{state}","apower":8.9,"voltage":237.5,
            "aenergy":{{"total":6.532,"by_minute":[45.199],"minute_ts":1626935779}},
            "temperature":{{"tC":{temperature},"tF":74.3}}}}"#
        )
    };
    let topic = "shellyplus1pm-a8/status/switch:0";
    stages
        .take(topic, "false", 0, &payload("off", "23.5"))
        .unwrap();
    stages
        .take(topic, "false", 1, &payload("overpower", "23.5"))
        .unwrap();
    let expected = Some((0.0, Some("state".to_owned()), Quality::Uncertain, 1));
    assert_eq!(stages.value("switch"), expected);
    // A word where a quantity is expected is still refused alone.
    stages
        .take(topic, "false", 2, &payload("on", r#""hot""#))
        .unwrap();
    assert_eq!(stages.value("switch"), good(1.0, Some("state"), 2));
    assert_eq!(stages.value("temperature"), good(23.5, Some("celsius"), 1));
    // Without a good reading the state counts too.
    for (second, temperature) in [(3, r#""n/a""#), (5, "NaN")] {
        stages
            .take(topic, "false", second, r#"{"state":"on"}"#)
            .unwrap();
        let lost = format!(r#"{{"state":"overpower","temperature":{{"tC":{temperature}}}}}"#);
        stages.take(topic, "false", second + 1, &lost).unwrap();
        let (value, _, quality, at) = stages.value("switch").unwrap();
        assert_eq!((value, quality, at), (1.0, Quality::Uncertain, second + 1));
        // Of a device without the sensor it is no message.
        let other = "shellyplus1pm-b9/status/switch:0";
        assert!(stages.take(other, "false", second, &lost).is_err());
    }
}

/// A state of section `sensors`.
#[test]
fn a_state_of_the_catalogue_may_be_a_word_or_null() {
    let own = MappingConfig {
        mqtt: "door/+".into(),
        device: "mqtt:2".into(),
        readings: vec![ReadingConfig {
            sensor: "door".into(),
            value: "/contact".into(),
            unit: None,
        }],
        ..MappingConfig::default()
    };
    let mut config = ConsumerConfig::default();
    config.mappings.own = vec![own];
    config.sensors = vec![SensorConfig {
        name: "door".into(),
        unit: "state".into(),
        min: Limit::At(0.0),
        max: Limit::At(1.0),
        ..SensorConfig::default()
    }];
    let mut stages = Stages::of(config);
    for (second, contact) in [(0, r#""tampered""#), (2, "null")] {
        stages
            .take("door/1", "false", second, r#"{"contact":true}"#)
            .unwrap();
        let unmatched = format!(r#"{{"contact":{contact}}}"#);
        stages
            .take("door/1", "false", second + 1, &unmatched)
            .unwrap();
        let expected = Some((
            1.0,
            Some("state".to_owned()),
            Quality::Uncertain,
            second + 1,
        ));
        assert_eq!(stages.value("door"), expected);
    }
}

#[test]
fn only_mappings_with_chips_name_sensors_after_them() {
    let own = MappingConfig {
        mqtt: "plc/+".into(),
        device: "mqtt:2".into(),
        readings: vec![ReadingConfig {
            sensor: "boiler-pressure".into(),
            value: "/p".into(),
            unit: Some("bar".into()),
        }],
        ..MappingConfig::default()
    };
    let mut stages = Stages::new(MappingsConfig {
        ready: vec![Ready::Tasmota],
        own: vec![own],
    });
    stages.take("plc/1", "false", 0, r#"{"p":2.5}"#).unwrap();
    assert_eq!(stages.value("boiler-pressure"), good(2.5, Some("bar"), 0));
}

/// A meter of which each message says a little more, for hours.
#[test]
fn counters_raise_no_drift() {
    let mut drifts = 0;
    let mut stages = Stages::new(ready(Ready::Tasmota));
    for n in 0..1_000 {
        let total = 100.0 + f64::from(n) * 0.02 + f64::from(n % 3) * 0.004;
        let payload = format!(r#"{{"ENERGY":{{"Total":{total},"Voltage":230}}}}"#);
        let folded = stages.take("tele/meter/SENSOR", "false", i64::from(n) * 10, &payload);
        drifts += folded.unwrap().raised[AlertKind::Drift as usize];
    }
    assert_eq!(stages.value("total").unwrap().1.as_deref(), Some("kWh"));
    assert_eq!(drifts, 0);
}
