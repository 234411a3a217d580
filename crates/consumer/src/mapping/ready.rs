//! Built-in mappings.

use crate::config::{MappingConfig, Ready};

/// The mapping that a name in `mappings.ready` stands for.
pub(super) fn mapping(ready: Ready) -> MappingConfig {
    let pairs = |pairs: &[(&str, &str)]| {
        let pairs = pairs.iter();
        pairs
            .map(|(a, b)| ((*a).to_owned(), (*b).to_owned()))
            .collect()
    };
    let texts = |texts: &[&str]| texts.iter().map(|text| (*text).to_owned()).collect();
    match ready {
        Ready::Zigbee2mqtt => MappingConfig {
            mqtt: "zigbee2mqtt/+".into(),
            device: "mqtt:2".into(),
            time: "/last_seen".into(),
            fields: Some(String::new()),
            ignore: texts(&["last_seen", "elapsed", "update_available"]),
            rename: pairs(&[("state", "switch")]),
            units: pairs(&[
                ("temperature", "celsius"),
                ("humidity", "percent"),
                ("pressure", "hectopascal"),
                ("current", "ampere"),
                ("switch", "state"),
                ("energy", "kWh"),
                ("produced_energy", "kWh"),
            ]),
            ..MappingConfig::default()
        },
        Ready::Chirpstack => MappingConfig {
            mqtt: "application/+/device/+/event/up".into(),
            device: "/deviceInfo/devEui".into(),
            time: "/time".into(),
            fields: Some("/object".into()),
            ..MappingConfig::default()
        },
        Ready::Tasmota => MappingConfig {
            // Its Time is local and without a zone, so the record's is used.
            mqtt: "tele/+/SENSOR".into(),
            device: "mqtt:2".into(),
            fields: Some(String::new()),
            nested: true,
            // A device has one meter, and any number of other chips.
            bare: "ENERGY".into(),
            ignore: texts(&["id"]),
            units: pairs(&[
                ("temperature", "/TempUnit"),
                ("pressure", "/PressureUnit"),
                ("humidity", "percent"),
                ("current", "ampere"),
                ("dewpoint", "/TempUnit"),
                ("total", "kWh"),
                ("today", "kWh"),
                ("yesterday", "kWh"),
            ]),
            ..MappingConfig::default()
        },
    }
}
