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
    match ready {
        Ready::Zigbee2mqtt => MappingConfig {
            mqtt: "zigbee2mqtt/+".into(),
            device: "mqtt:2".into(),
            time: "/last_seen".into(),
            fields: Some(String::new()),
            rename: pairs(&[("state", "switch")]),
            units: pairs(&[
                ("temperature", "celsius"),
                ("humidity", "percent"),
                ("pressure", "hectopascal"),
                ("current", "ampere"),
                ("switch", "state"),
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
            units: pairs(&[
                ("temperature", "/TempUnit"),
                ("pressure", "/PressureUnit"),
                ("humidity", "percent"),
                ("current", "ampere"),
            ]),
            ..MappingConfig::default()
        },
    }
}
