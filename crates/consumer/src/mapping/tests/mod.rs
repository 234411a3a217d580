mod folded;

use super::*;
use crate::config::Ready;
use crate::config::mappings::ReadingConfig;

const RECORDED: i64 = 1_767_225_600_000;

fn mapped(config: &MappingsConfig, mqtt: &str, payload: &str) -> Option<Mapped> {
    let around = Around {
        topic: "acme.plant",
        mqtt: Some(mqtt),
        is_retained: false,
        recorded: Some(RECORDED),
    };
    let mappings = Mappings::new(config, &Catalogue::new([]));
    let message =
        mappings
            .find(&around)?
            .message(payload.as_bytes(), &around, None, &mut Beside::default());
    Some(message.map_err(|error| error.reason()).map(|message| {
        let readings = message.readings.into_iter().map(|reading| {
            let unit = reading.unit.map(Cow::into_owned);
            (reading.sensor.into_owned(), reading.value, unit)
        });
        let device = message.device_id.into_owned();
        (device, message.timestamp, readings.collect())
    }))
}

type Readings = Vec<(String, f64, Option<String>)>;
type Mapped = Result<(String, i64, Readings), &'static str>;

fn ready(ready: Ready) -> MappingsConfig {
    MappingsConfig {
        ready: vec![ready],
        own: Vec::new(),
    }
}

fn reading(sensor: &str, value: f64, unit: Option<&str>) -> (String, f64, Option<String>) {
    (sensor.to_owned(), value, unit.map(str::to_owned))
}

/// From Zigbee2MQTT's documentation of the device WSDCGQ11LM, with its state.
#[test]
fn zigbee2mqtt_is_understood() {
    let config = ready(Ready::Zigbee2mqtt);
    let payload = r#"{"battery":100,"humidity":54.22,"linkquality":115,"pressure":998.7,
        "temperature":21.45,"voltage":3015,"state":"ON","last_seen":"2026-01-01T00:00:05.250Z",
        "update":{"state":"idle"}}"#;
    let (device, time, readings) = mapped(&config, "zigbee2mqtt/kitchen", payload)
        .unwrap()
        .unwrap();
    assert_eq!((device.as_str(), time), ("kitchen", RECORDED + 5_250));
    let expected = [
        reading("battery", 100.0, None),
        reading("humidity", 54.22, Some("percent")),
        reading("linkquality", 115.0, None),
        reading("pressure", 998.7, Some("hectopascal")),
        reading("switch", 1.0, Some("state")),
        reading("temperature", 21.45, Some("celsius")),
        reading("voltage", 3015.0, None),
    ];
    assert_eq!(readings, expected);
    assert!(mapped(&config, "zigbee2mqtt/bridge/state", payload).is_none());
    let no_time = r#"{"temperature":1}"#;
    let (_, time, _) = mapped(&config, "zigbee2mqtt/x", no_time).unwrap().unwrap();
    assert_eq!(time, RECORDED);
}

/// From ChirpStack's documentation of the event `up`, shortened.
#[test]
fn chirpstack_is_understood() {
    let payload = r#"{"deduplicationId":"3ac7e3c4","time":"2026-01-01T01:00:00.775+01:00",
        "deviceInfo":{"tenantName":"ChirpStack","devEui":"0101010101010101"},"fPort":1,
        "object":{"temperature":22.5,"door":true,"name":"x"}}"#;
    let topic = "application/1/device/0101010101010101/event/up";
    let (device, time, readings) = mapped(&ready(Ready::Chirpstack), topic, payload)
        .unwrap()
        .unwrap();
    assert_eq!(
        (device.as_str(), time),
        ("0101010101010101", RECORDED + 775)
    );
    let expected = [
        reading("door", 1.0, None),
        reading("temperature", 22.5, None),
    ];
    assert_eq!(readings, expected);
    let status = "application/1/device/0101010101010101/event/status";
    assert!(mapped(&ready(Ready::Chirpstack), status, payload).is_none());
}

/// From Tasmota's documentation of `SENSOR`.
#[test]
fn tasmota_is_understood() {
    let payload = r#"{"Time":"2026-01-01T12:00:00","AM2301":{"Temperature":68.5,"Humidity":35.2},
        "DS18B20":{"Id":"01131B123456","Temperature":70.1},
        "ENERGY":{"TotalStartTime":"2025-01-01T00:00:00","Power":12,"Current":0.055},
        "TempUnit":"F"}"#;
    let (device, time, readings) = mapped(&ready(Ready::Tasmota), "tele/plug-3/SENSOR", payload)
        .unwrap()
        .unwrap();
    assert_eq!((device.as_str(), time), ("plug-3", RECORDED));
    let expected = [
        reading("am2301-humidity", 35.2, Some("percent")),
        reading("am2301-temperature", 68.5, Some("F")),
        reading("current", 0.055, Some("ampere")),
        reading("ds18b20-temperature", 70.1, Some("F")),
        reading("power", 12.0, None),
    ];
    assert_eq!(readings, expected);
    // A chip that can't be read keeps its name.
    let payload = r#"{"AM2301":{"Temperature":null},"DS18B20":{"Temperature":70.1}}"#;
    let found = mapped(&ready(Ready::Tasmota), "tele/plug-3/SENSOR", payload);
    let (_, _, readings) = found.unwrap().unwrap();
    assert_eq!(readings, [reading("ds18b20-temperature", 70.1, None)]);
}

/// The names of the readings in messages of one device.
fn names(config: &MappingsConfig, mqtt: &str, payload: &str) -> Vec<String> {
    let (.., readings) = mapped(config, mqtt, payload).unwrap().unwrap();
    readings.into_iter().map(|(name, ..)| name).collect()
}

/// The second chip alone, as after a bad contact of the first. From Tasmota's documentation of
/// the DS18x20, the BME280 and the ESP32.
#[test]
fn a_chip_has_its_name_whether_or_not_there_are_others() {
    let config = ready(Ready::Tasmota);
    for (payload, expected) in [
        (
            r#"{"Time":"2019-11-03T20:45:37","DS18B20-1":{"Id":"01131B123456","Temperature":20.6},
            "DS18B20-2":{"Id":"01131B654321","Temperature":23.1},"TempUnit":"C"}"#,
            &["ds18b20-1-temperature", "ds18b20-2-temperature"][..],
        ),
        (
            r#"{"DS18B20-2":{"Id":"01131B654321","Temperature":23.1},"TempUnit":"C"}"#,
            &["ds18b20-2-temperature"],
        ),
        (
            r#"{"BME280":{"Temperature":24.6,"Humidity":44.4,"DewPoint":11.5,"Pressure":1007.1},
            "ESP32":{"Temperature":53.3},"PressureUnit":"hPa","TempUnit":"C"}"#,
            &[
                "bme280-dewpoint",
                "bme280-humidity",
                "bme280-pressure",
                "bme280-temperature",
                "esp32-temperature",
            ],
        ),
        (
            r#"{"ESP32":{"Temperature":53.3},"TempUnit":"C"}"#,
            &["esp32-temperature"],
        ),
        // A number instead of a text.
        (
            r#"{"DS18B20":{"Id":1131,"Temperature":53.3}}"#,
            &["ds18b20-temperature"],
        ),
        (
            r#"{"ENERGY":{"TotalStartTime":"2018-11-23T16:40:55","Total":1.219,"Today":0.008,
            "Power":0,"Voltage":233,"Current":0.000}}"#,
            &["current", "power", "today", "total", "voltage"],
        ),
    ] {
        assert_eq!(names(&config, "tele/plug-3/SENSOR", payload), expected);
    }
}

#[test]
fn the_name_of_one_chip_comes_before_that_of_all() {
    let own = |rename: &[(&str, &str)]| MappingConfig {
        mqtt: "chips/+".into(),
        device: "mqtt:2".into(),
        fields: Some(String::new()),
        nested: true,
        rename: rename
            .iter()
            .map(|(from, to)| ((*from).to_owned(), (*to).to_owned()))
            .collect(),
        ..MappingConfig::default()
    };
    for (rename, expected) in [
        (
            &[("temperature", "temp"), ("am2301-temperature", "air")][..],
            ["air", "ds18b20-temp"],
        ),
        (
            &[("temperature", "temp"), ("am2301-temp", "air")],
            ["air", "ds18b20-temp"],
        ),
        (
            &[("am2301-temperature", "air")],
            ["air", "ds18b20-temperature"],
        ),
    ] {
        let config = MappingsConfig {
            ready: Vec::new(),
            own: vec![own(rename)],
        };
        let payload = r#"{"AM2301":{"Temperature":1},"DS18B20":{"Temperature":2}}"#;
        assert_eq!(names(&config, "chips/1", payload), expected);
    }
}

/// From Shelly's documentation of `NotifyStatus` (Plus Uni, with two probes).
#[test]
fn own_mappings_name_readings_by_chip_too() {
    let own = MappingConfig {
        mqtt: "+/events/rpc".into(),
        device: "/src".into(),
        time: "/params/ts".into(),
        fields: Some("/params".into()),
        nested: true,
        bare: "switch:0".into(),
        ignore: vec!["id".into(), "tf".into()],
        rename: [
            ("tc", "temperature"),
            ("temperature:101-temperature", "inlet"),
        ]
        .map(|(a, b)| (a.to_owned(), b.to_owned()))
        .into(),
        ..MappingConfig::default()
    };
    let config = MappingsConfig {
        ready: Vec::new(),
        own: vec![own],
    };
    let both = r#"{"src":"shellyplusuni-a8","dst":"a8/events","method":"NotifyStatus","params":{
        "ts":1767225600.5,"temperature:100":{"id":100,"tC":21.3,"tF":70.3},
        "temperature:101":{"id":101,"tC":4.5,"tF":40.1},"switch:0":{"id":0,"output":true}}}"#;
    let expected = ["inlet", "output", "temperature:100-temperature"];
    assert_eq!(names(&config, "a8/events/rpc", both), expected);
    let one = r#"{"src":"shellyplusuni-a8","method":"NotifyStatus","params":{
        "ts":1767225601.5,"temperature:101":{"id":101,"tC":4.6,"tF":40.3}}}"#;
    assert_eq!(names(&config, "a8/events/rpc", one), ["inlet"]);
}

/// `last_seen` in milliseconds, which is one of Zigbee2MQTT's settings.
#[test]
fn metadata_are_no_readings() {
    let config = ready(Ready::Zigbee2mqtt);
    let payload = r#"{"child_lock":"UNLOCK","current":0.04,"elapsed":3021,"energy":12.36,
        "last_seen":1767225600250,"linkquality":94,"state":"OFF","update_available":false}"#;
    let (_, time, readings) = mapped(&config, "zigbee2mqtt/plug", payload)
        .unwrap()
        .unwrap();
    assert_eq!(time, RECORDED + 250);
    let expected = [
        reading("current", 0.04, Some("ampere")),
        reading("energy", 12.36, Some("kWh")),
        reading("linkquality", 94.0, None),
        reading("switch", 0.0, Some("state")),
    ];
    assert_eq!(readings, expected);
    // In own mappings the time and the device at least.
    let own = MappingConfig {
        mqtt: "plc/#".into(),
        device: "/v/unit~1no".into(),
        time: "/v/t".into(),
        fields: Some("/v".into()),
        ..MappingConfig::default()
    };
    let config = MappingsConfig {
        ready: Vec::new(),
        own: vec![own],
    };
    let payload = r#"{"v":{"unit/no":7,"t":1767225600,"level":3}}"#;
    assert_eq!(names(&config, "plc/1", payload), ["level"]);
}

#[test]
fn own_mappings_come_first_and_say_what_is_missing() {
    let own = MappingConfig {
        mqtt: "plc/#".into(),
        device: "/unit".into(),
        time: "/t".into(),
        readings: vec![ReadingConfig {
            sensor: "temperature".into(),
            value: "/values/0".into(),
            unit: Some("kelvin".into()),
        }],
        ..MappingConfig::default()
    };
    let config = MappingsConfig {
        ready: vec![Ready::Tasmota],
        own: vec![own],
    };
    let read = |payload: &str| mapped(&config, "plc/hall/2", payload).unwrap();
    let expected = vec![reading("temperature", 300.5, Some("kelvin"))];
    let good = r#"{"unit":7,"t":1767225600.5,"values":[300.5]}"#;
    assert_eq!(read(good), Ok(("7".into(), RECORDED + 500, expected)));
    assert_eq!(read(r#"{"t":1,"values":[1]}"#), Err("missing_device_id"));
    assert_eq!(read(r#"{"unit":"a","values":["x"]}"#), Err("no_readings"));
    assert_eq!(read("ouch"), Err("not_json"));
    let local = r#"{"unit":7,"t":"2026-01-01T12:00:00","values":[1]}"#;
    assert_eq!(read(local), Err("invalid_timestamp"));
    for (device, expected) in [
        ("null", "missing_device_id"),
        (r#""""#, "empty_device_id"),
        ("[7]", "wrong_type"),
    ] {
        let payload = format!(r#"{{"unit":{device},"t":1,"values":[1]}}"#);
        assert_eq!(read(&payload), Err(expected));
    }
}

#[test]
fn an_unreadable_time_is_quoted_with_its_place() {
    let config = ready(Ready::Zigbee2mqtt);
    let around = Around {
        topic: "acme.plant",
        mqtt: Some("zigbee2mqtt/kitchen"),
        is_retained: false,
        recorded: Some(RECORDED),
    };
    let mappings = Mappings::new(&config, &Catalogue::new([]));
    let mapping = mappings.find(&around).unwrap();
    for (time, found) in [(r#""yesterday""#, r#""yesterday""#), ("[1]", "an array")] {
        let payload = format!(r#"{{"temperature":1,"last_seen":{time}}}"#);
        let error = mapping
            .message(payload.as_bytes(), &around, None, &mut Beside::default())
            .unwrap_err();
        assert_eq!(error.reason(), "invalid_timestamp");
        let text = error.to_string();
        assert!(text.starts_with("/last_seen must be a time"), "{text}");
        assert!(text.ends_with(&format!("not {found}")), "{text}");
    }
}

#[test]
fn readings_without_a_number_are_refused_alone() {
    let single = |sensor: &str, value: &str| ReadingConfig {
        sensor: sensor.into(),
        value: value.into(),
        unit: None,
    };
    let mapping = MappingConfig {
        device: "/id".into(),
        readings: vec![
            single("text", "/v/0"),
            single("null", "/v/1"),
            single("nan", "/v/2"),
            single("good", "/v/3"),
            single("absent", "/v/9"),
            single("twice", "/v/0"),
        ],
        fields: Some("/f".into()),
        ..MappingConfig::default()
    };
    let around = Around {
        topic: "acme.plant",
        mqtt: None,
        is_retained: false,
        recorded: Some(RECORDED),
    };
    let read = |payload: &str| {
        let mut refused = Vec::new();
        let message = mapping.message(
            payload.as_bytes(),
            &around,
            Some(&mut refused),
            &mut Beside::default(),
        );
        let message = message.map_err(|error| error.reason())?;
        let names: Vec<_> = message.readings.iter().map(|r| r.sensor.clone()).collect();
        let refused = refused.into_iter();
        let refused = refused.map(|r| (r.index, r.sensor.unwrap(), r.defect.reason()));
        Ok::<_, &str>((names, refused.collect::<Vec<_>>()))
    };
    let reason = "not_a_number";
    let (names, refused) = read(
        r#"{"id":"d","v":["21.5",null,NaN,4],"f":{"a":1,"b":"x","c":null,"d":-inf,"twice":2}}"#,
    )
    .unwrap();
    assert_eq!(names, ["a", "good", "twice"]);
    // By name: a, d, good, nan, null, text, twice.
    let expected = [(1, "d"), (3, "nan"), (4, "null"), (5, "text")];
    let expected = expected.map(|(index, sensor)| (index, sensor.to_owned(), reason));
    assert_eq!(refused, expected);
    for (payload, expected) in [
        (r#"{"id":"d","v":["21.5",null]}"#, "no_readings"),
        (r#"{"id":"d","v":[1,1,NaN],"x":NaN}"#, "not_json"),
        (r#"{"id":NaN,"v":[1]}"#, "not_json"),
        (r#"{"id":"d","v":[NaN]}"#, "not_json"),
        (r#"{"id":null,"v":[1,null]}"#, "missing_device_id"),
    ] {
        assert_eq!(read(payload).unwrap_err(), expected, "{payload}");
    }
}

#[test]
fn filters_match_as_mqtt_has_it() {
    for (filter, topic, expected) in [
        ("a/+/c", "a/b/c", true),
        ("a/+/c", "a/b/d", false),
        ("a/#", "a", true),
        ("a/#", "a/b/c", true),
        ("+", "a/b", false),
        ("#", "$SYS/x", false),
        ("a/b", "a/b", true),
        ("a/b", "a", false),
    ] {
        assert_eq!(matches(filter, topic), expected, "{filter} {topic}");
    }
    assert!(is_filter("a/+/#") && !is_filter("a/#/b") && !is_filter("a+"));
}
