use super::*;
use crate::config::{KindWeights, ProfileConfig};
use iot_service::config::HumanDuration;
use std::collections::HashSet;

fn config(seed: u64) -> SimulatorConfig {
    let mut config = SimulatorConfig::default();
    config.fleet.seed = seed;
    config
}

fn at(timestamp: i64, elapsed: f64) -> Moment {
    Moment { timestamp, elapsed }
}

fn stream(config: &SimulatorConfig, number: u32, count: usize) -> Vec<String> {
    let profiles = DeviceProfile::all(config);
    let mut device = Device::new(config, &profiles, number);
    (0..count)
        .map(|n| {
            let mut out = Vec::new();
            let said = device.emit(&profiles, at(1_000, n as f64), &mut out, &mut Vec::new());
            format!("{} {said:?}", String::from_utf8(out).unwrap())
        })
        .collect()
}

#[test]
fn the_same_seed_gives_the_same_stream() {
    let mut other_fleet = config(42);
    other_fleet.fleet.devices = 7;
    assert_eq!(stream(&config(42), 3, 200), stream(&other_fleet, 3, 200));
}

#[test]
fn values_differ_between_seeds_and_devices() {
    let values = |seed, number| {
        let first = stream(&config(seed), number, 1).remove(0);
        first.split_once("readings").unwrap().1.to_owned()
    };
    let mut all = HashSet::new();
    for number in 0..50 {
        assert!(all.insert(values(1, number)) && all.insert(values(2, number)));
    }
}

#[test]
fn neighbouring_devices_are_not_correlated() {
    let profiles = DeviceProfile::all(&config(1));
    let device = |number| Device::new(&config(1), &profiles, number);
    let value = |number: u32| {
        let mut out = Vec::new();
        device(number).emit(&profiles, at(0, 0.0), &mut out, &mut Vec::new());
        let message = iot_core::message::parse(&out).unwrap();
        (message.readings[0].value - 24.0) / 5.0
    };
    let pairs: Vec<(f64, f64)> = (0..20_000).map(|n| (value(n), value(n + 1))).collect();
    let product = pairs.iter().map(|(a, b)| a * b).sum::<f64>() / pairs.len() as f64;
    assert!(product.abs() < 0.03, "{product}");
}

#[test]
fn a_message_has_identity_place_and_all_readings() {
    let config = config(1);
    let profiles = DeviceProfile::all(&config);
    let mut device = Device::new(&config, &profiles, 257);
    let mut out = Vec::new();
    for timestamp in [1_767_225_600_123, 1_767_225_601_123] {
        out.clear();
        device.emit(&profiles, at(timestamp, 0.0), &mut out, &mut Vec::new());
    }
    let message = iot_core::message::parse(&out).unwrap();
    assert_eq!(message.device_id, "device-000257");
    assert_eq!(
        (message.seq, message.timestamp),
        (Some(1), 1_767_225_601_123)
    );
    assert_eq!(message.tenant.as_deref(), Some("globex"));
    assert_eq!(message.project.as_deref(), Some("plant"));
    let location = message.location.unwrap();
    assert_eq!(
        (&*location.building, &*location.floor, &*location.room),
        ("building-2", "floor-2", "room-201")
    );
    let names: Vec<_> = message.readings.iter().map(|r| &*r.sensor).collect();
    assert_eq!(names, config.sensors.enabled);
}

#[test]
fn labels_name_every_anomaly_of_a_message() {
    let mut config = config(1);
    config.anomaly.rate = 0.999;
    config.anomaly.kinds = KindWeights {
        stuck: 0.0,
        drift: 0.0,
        dropout: 0.0,
        ..KindWeights::default()
    };
    let said = stream(&config, 0, 1).remove(0);
    let expected = "temperature=spike,humidity=spike,pressure=spike,switch=toggling,current=spike";
    let label = format!("label: Some({expected:?})");
    assert!(said.contains(&label), "{said}");
}

#[test]
fn a_device_without_readings_emits_nothing() {
    let mut config = config(1);
    config.sensors.enabled = vec!["temperature".into()];
    config.anomaly.rate = 0.999;
    config.anomaly.readings = 5;
    config.anomaly.kinds = KindWeights {
        spike: 0.0,
        stuck: 0.0,
        drift: 0.0,
        ..KindWeights::default()
    };
    let profiles = DeviceProfile::all(&config);
    let mut device = Device::new(&config, &profiles, 0);
    let (mut out, mut truths) = (Vec::new(), Vec::new());
    for n in 0..5 {
        let said = device.emit(&profiles, at(1_000 * n, 0.0), &mut out, &mut truths);
        assert_eq!((said, out.len(), device.seq), (Emitted::Nothing, 0, 0));
    }
    let truth = serde_json::to_string(&truths).unwrap();
    assert_eq!(
        truth,
        r#"[{"tenant":"acme","project":"plant","device":"device-000000","sensor":"temperature","kind":"dropout","from":0,"to":4000}]"#
    );
    assert_eq!(device.unfinished(&profiles).count(), 0);
}

#[test]
fn devices_are_spread_over_all_rooms() {
    let fleet = FleetConfig::default();
    let places: HashSet<_> = (0..1_000)
        .map(|n| Identity::new(&fleet, n).location)
        .map(|l| (l.building, l.floor, l.room))
        .collect();
    assert_eq!(places.len(), 100);
}

#[test]
fn profiles_have_their_shares_sensors_and_intervals() {
    let mut config = config(1);
    let profile = |name: &str, weight, sensors: &[&str]| ProfileConfig {
        name: name.into(),
        weight,
        sensors: sensors.iter().map(|name| (*name).to_owned()).collect(),
        interval: None,
    };
    config.fleet.profiles = vec![
        profile("climate", 3, &["humidity"]),
        profile("power", 1, &[]),
    ];
    config.fleet.profiles[0].interval = Some(HumanDuration::from_secs(10));
    config.fleet.devices = 10_000;
    let profiles = DeviceProfile::all(&config);
    let devices = (0..10_000).map(|number| Device::new(&config, &profiles, number));
    let climate = devices.filter(|device| device.profile == 0).count();
    assert!((7_300..7_700).contains(&climate), "{climate}");
    let natural = climate as f64 / 10.0 + (10_000 - climate) as f64 / 5.0;
    assert!((natural_rate(&config) - natural).abs() < 1e-6);
    let sensors = |profile: usize| profiles[profile].sensors.len();
    assert_eq!((sensors(0), sensors(1)), (1, 5));
}

#[test]
fn an_injected_anomaly_affects_only_matching_devices() {
    let mut config = config(1);
    config.anomaly.rate = 0.0;
    let profiles = DeviceProfile::all(&config);
    let injection: Injection = serde_json::from_str(
        r#"{"kind": "stuck", "building": "building-1", "room": "room-102", "sensor": "current"}"#,
    )
    .unwrap();
    injection.check().unwrap();
    let (mut truths, mut out) = (Vec::new(), Vec::new());
    for number in 0..40 {
        let mut device = Device::new(&config, &profiles, number);
        let injected = device.inject(&profiles, &injection, 2, &mut truths);
        assert_eq!(injected, (10..20).contains(&number), "{number}");
        let said = device.emit(&profiles, at(7, 0.0), &mut out, &mut truths);
        let expected = injected.then(|| "current=stuck".to_owned());
        assert!(matches!(said, Emitted::Message { label, .. } if label == expected));
        if injected {
            assert!(
                device.inject(&profiles, &injection, 2, &mut truths),
                "again"
            );
        }
    }
    assert_eq!(truths.len(), 10, "those that were replaced");
    assert_eq!((truths[0].from, truths[0].to), (7, 7));
}

#[test]
fn invalid_injections_are_refused() {
    let error = |json: &str| {
        let injection: Injection = serde_json::from_str(json).unwrap();
        injection.check().unwrap_err()
    };
    let missing = error(r#"{"kind": "spike"}"#);
    assert_eq!(missing, "device, building, floor or room is missing");
    let no_sensor = error(r#"{"kind": "spike", "room": "r", "sensor": "smell"}"#);
    assert_eq!(no_sensor, "unknown sensor \"smell\"");
    let switch = error(r#"{"kind": "spike", "room": "r", "sensor": "switch"}"#);
    assert_eq!(switch, "switch cannot have spike");
}
