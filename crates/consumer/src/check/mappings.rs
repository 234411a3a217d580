//! Section `mappings`.

use iot_service::config::Problems;

use crate::config::MappingsConfig;
use crate::mapping::{is_filter, level};

/// Adds all problems of the section.
pub(super) fn check(config: &MappingsConfig, problems: &mut Problems) {
    for (number, mapping) in config.own.iter().enumerate() {
        let mut add = |key: &str, message: &str| {
            problems.add(format!("mappings.own[{number}].{key}"), message);
        };
        if mapping.topic.is_empty() && mapping.mqtt.is_empty() {
            add("mqtt", "or topic must say which messages are meant");
        }
        if !is_filter(&mapping.mqtt) {
            add("mqtt", "is not an MQTT topic filter");
        }
        if !is_pointer(&mapping.device) && level(&mapping.device).is_none() {
            add("device", "must be a JSON pointer, such as /id, or mqtt:N");
        }
        if !mapping.time.is_empty() && !is_pointer(&mapping.time) {
            add("time", "must be a JSON pointer, such as /time");
        }
        if mapping.readings.is_empty() && mapping.fields.is_none() {
            add(
                "readings",
                "is empty and fields is not set: set one of them",
            );
        }
        let mut names = mapping.rename.keys().chain(mapping.units.keys());
        if names.any(|name| name.chars().any(char::is_uppercase)) {
            add(
                "rename",
                "must have keys in lower case, like sensor names (also in units)",
            );
        }
        if mapping
            .ignore
            .iter()
            .any(|name| name.chars().any(char::is_uppercase))
        {
            add("ignore", "must have names in lower case, as readings have");
        }
        if !mapping.bare.is_empty() && !mapping.nested {
            add("bare", "is set but ignored without nested: true");
        }
        let only = mapping.nested
            || !mapping.rename.is_empty()
            || !mapping.units.is_empty()
            || !mapping.ignore.is_empty();
        if only && mapping.fields.is_none() {
            let message = "is missing: nested, rename, units and ignore need it";
            add("fields", message);
        }
        if mapping.readings.iter().any(|one| one.sensor.is_empty()) {
            add("readings", "must name their sensors");
        }
        let single = mapping.readings.iter().map(|reading| &reading.value);
        let fields = mapping.fields.iter().filter(|pointer| !pointer.is_empty());
        if !single.chain(fields).all(|pointer| is_pointer(pointer)) {
            add(
                "readings",
                "must have values that are JSON pointers, such as /temp",
            );
        }
    }
}

fn is_pointer(text: &str) -> bool {
    text.starts_with('/')
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::MappingConfig;
    use crate::config::mappings::ReadingConfig;

    type Change<'c> = &'c dyn Fn(&mut MappingConfig);

    #[test]
    fn whatever_a_mapping_lacks_is_named() {
        let reading = |sensor: &str, value: &str| ReadingConfig {
            sensor: sensor.into(),
            value: value.into(),
            unit: None,
        };
        let good = MappingConfig {
            mqtt: "plc/+".into(),
            device: "mqtt:2".into(),
            readings: vec![reading("temperature", "/t")],
            ..MappingConfig::default()
        };
        let problems = |change: Change<'_>| {
            let mut bad = good.clone();
            change(&mut bad);
            let config = MappingsConfig {
                ready: Vec::new(),
                own: vec![good.clone(), bad],
            };
            let mut problems = Problems::default();
            check(&config, &mut problems);
            problems.to_string()
        };
        assert_eq!(problems(&|_| {}), "");
        let lower = |name: &str| [(name.to_owned(), "kelvin".to_owned())].into();
        let cases: [(&str, &str, Change<'_>); 13] = [
            ("mqtt", "which messages", &|bad| bad.mqtt.clear()),
            ("mqtt", "is not an MQTT topic filter", &|bad| {
                bad.mqtt = "a/#/b".into()
            }),
            ("device", "mqtt:N", &|bad| bad.device = "id".into()),
            ("device", "mqtt:N", &|bad| bad.device = "mqtt:0".into()),
            ("time", "JSON pointer", &|bad| bad.time = "t".into()),
            ("readings", "fields is not set", &|bad| bad.readings.clear()),
            ("readings", "/temp", &|bad| {
                bad.readings = vec![reading("x", "t")]
            }),
            ("readings", "sensors", &|bad| {
                bad.readings = vec![reading("", "/t")]
            }),
            ("readings", "/temp", &|bad| {
                bad.fields = Some("values".into())
            }),
            ("fields", "is missing", &|bad| bad.units = lower("t")),
            ("rename", "lower case", &|bad| bad.units = lower("T")),
            ("ignore", "lower case", &|bad| {
                bad.ignore = vec!["Id".into()]
            }),
            ("bare", "nested", &|bad| bad.bare = "ENERGY".into()),
        ];
        for (key, reason, change) in cases {
            let problems = problems(change);
            let named = problems.lines().any(|line| {
                line.starts_with(&format!("mappings.own[1].{key}: ")) && line.contains(reason)
            });
            assert!(named, "{key}: {problems}");
        }
    }
}
