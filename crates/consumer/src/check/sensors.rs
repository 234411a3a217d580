//! Sections `sensors` and `thresholds`.

use std::collections::HashSet;
use std::time::Duration;

use iot_fold::{Catalogue, Known, Limit, Limits, ThresholdRule};
use iot_service::config::{HumanDuration, Problems};

use crate::config::{SensorConfig, ThresholdRuleConfig};
use crate::validate::{is_sensor, is_unit};

/// The longest minimum duration of thresholds.
const LONGEST: Duration = Duration::from_secs(30 * 24 * 3_600);

/// Adds all problems of the two sections.
pub(super) fn check(
    sensors: &[SensorConfig],
    thresholds: &[ThresholdRuleConfig],
    problems: &mut Problems,
) {
    let rules: Vec<_> = thresholds.iter().map(ThresholdRuleConfig::rule).collect();
    let mut names = HashSet::new();
    for (number, sensor) in sensors.iter().enumerate() {
        let mut add = |key: &str, message: String| {
            problems.add(format!("sensors[{number}].{key}"), message);
        };
        if !is_sensor(&sensor.name) {
            add("name", "must be 1 to 128 bytes of text".into());
        }
        if !names.insert(&sensor.name) {
            add("name", format!("{:?} is listed twice", sensor.name));
        }
        if !is_unit(&sensor.unit) {
            add("unit", "must be 1 to 32 bytes of text".into());
        }
        let known = sensor.known();
        if known.physical.is_empty() {
            add("min", "must not be greater than max".into());
        } else {
            check_limits((sensor.above, sensor.below), &known, &mut add);
        }
        check_duration(sensor.min_duration, &known, &rules, &mut add);
    }
    let catalogue = Catalogue::new(sensors.iter().map(SensorConfig::known));
    for (number, (rule, config)) in rules.iter().zip(thresholds).enumerate() {
        let mut add = |key: &str, message: String| {
            problems.add(format!("thresholds[{number}].{key}"), message);
        };
        check_rule(rule, &catalogue, &mut add);
        if let Some(known) = catalogue.find(&rule.sensor) {
            check_duration(config.min_duration, known, &rules, &mut add);
        }
    }
}

/// Checks `for` of a sensor or of a rule for it.
fn check_duration(
    duration: Option<HumanDuration>,
    known: &Known,
    rules: &[ThresholdRule],
    add: &mut impl FnMut(&str, String),
) {
    let Some(duration) = duration else { return };
    if *duration > LONGEST {
        add("for", "must be at most 720h".into());
    }
    let Limits { above, below, .. } = known.limits;
    let mut of_sensor = rules.iter().filter(|rule| *rule.sensor == *known.name);
    let has_limit = above.is_finite()
        || below.is_finite()
        || of_sensor.any(|rule| rule.above.number().or(rule.below.number()).is_some());
    if !has_limit {
        let message = format!("has no effect: {} has no threshold", known.name);
        add("for", message);
    }
}

fn check_rule(rule: &ThresholdRule, catalogue: &Catalogue, add: &mut impl FnMut(&str, String)) {
    match catalogue.find(&rule.sensor) {
        Some(known) => {
            check_limits((rule.above, rule.below), known, add);
            check_sides(rule, known, add);
        }
        None => {
            let message = format!(
                "{:?} is not in the catalogue: add it to sensors",
                rule.sensor
            );
            add("sensor", message);
        }
    }
    if rule.above.is_unset() && rule.below.is_unset() && rule.min_duration.is_none() {
        let message =
            "is missing: a rule must set above, below (a number or none) or for (a duration)";
        add("above", message.into());
    }
    for (key, value) in rule.conditions() {
        if value.is_some_and(str::is_empty) {
            add(key, "must not be empty".into());
        }
    }
}

/// A rule with one limit keeps the other one of the catalogue, which it must fit.
fn check_sides(rule: &ThresholdRule, known: &Known, add: &mut impl FnMut(&str, String)) {
    let Limits { above, below, .. } = known.limits;
    match (rule.above.number(), rule.below.number()) {
        (Some(limit), None) if rule.below.is_unset() && limit < below => {
            add(
                "above",
                format!(
                    "must not be less than below, which is {below} in the catalogue: give both"
                ),
            );
        }
        (None, Some(limit)) if rule.above.is_unset() && limit > above => {
            add(
                "below",
                format!(
                    "must not be greater than above, which is {above} in the catalogue: give both"
                ),
            );
        }
        _ => {}
    }
}

fn check_limits((above, below): (Limit, Limit), known: &Known, add: &mut impl FnMut(&str, String)) {
    for (key, limit) in [("above", above), ("below", below)] {
        let (least, most) = (known.physical.start(), known.physical.end());
        if limit
            .number()
            .is_some_and(|limit| !known.physical.contains(&limit))
        {
            add(
                key,
                format!("must be in the physical limits, {least} to {most}"),
            );
        }
    }
    if let (Some(above), Some(below)) = (above.number(), below.number())
        && below > above
    {
        add("below", "must not be greater than above".into());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::ConsumerConfig;
    use crate::config::aliases;

    fn read(yaml: &str) -> Result<ConsumerConfig, String> {
        aliases::tests::read(yaml, &[])
    }

    #[test]
    fn sensors_and_thresholds_are_read_and_printed_as_they_were() {
        let config = read(
            "sensors: [{name: vibration, unit: mm/s, min: 0, above: 7.1}]\n\
             thresholds: [{sensor: vibration, room: r1, above: none, below: 1}]\n",
        );
        let config = config.unwrap();
        let [sensor] = &config.sensors[..] else {
            panic!("{:?}", config.sensors)
        };
        assert_eq!((sensor.min, sensor.max), (Limit::At(0.0), Limit::Unset));
        let rule = &config.thresholds[0];
        assert_eq!((rule.above, rule.below), (Limit::None, Limit::At(1.0)));
        assert_eq!((rule.room.as_deref(), &rule.tenant), (Some("r1"), &None));
        let printed = serde_json::to_string(&(sensor, rule)).unwrap();
        let expected = r#"[{"name":"vibration","unit":"mm/s","min":0.0,"above":7.1},{"sensor":"vibration","room":"r1","above":"none","below":1.0}]"#;
        assert_eq!(printed, expected);
    }

    #[test]
    fn every_problem_is_named_with_its_path() {
        let found = read(
            "sensors:\n\
             - {name: a, unit: mm/s, min: 5, max: 1}\n\
             - {name: a, unit: ''}\n\
             - {name: b, unit: volt, min: 0, max: 9, above: 10, below: -1}\n\
             - {name: c, unit: volt, above: 1, below: 2}\n\
             thresholds:\n\
             - {sensor: dust, above: 1}\n\
             - {sensor: temperature, room: ''}\n\
             - {sensor: temperature, above: 201, below: none}\n",
        );
        let found = found.unwrap_err();
        for expected in [
            "sensors[0].min: must not be greater than max",
            "sensors[1].name: \"a\" is listed twice",
            "sensors[1].unit: must be 1 to 32 bytes",
            "sensors[2].above: must be in the physical limits, 0 to 9",
            "sensors[2].below: must be in the physical limits, 0 to 9",
            "sensors[3].below: must not be greater than above",
            "thresholds[0].sensor: \"dust\" is not in the catalogue",
            "thresholds[1].above: is missing: a rule must set",
            "thresholds[1].room: must not be empty",
            "thresholds[2].above: must be in the physical limits, -90 to 200",
        ] {
            assert!(found.contains(expected), "{expected} is not in:\n{found}");
        }
        assert_eq!(found.lines().count(), 10, "{found}");
    }

    #[test]
    fn an_empty_kind_is_refused() {
        let found = read("sensors: [{name: a, unit: m3, kind: }]\n").unwrap_err();
        assert!(found.starts_with("sensors[0].kind: "), "{found}");
    }

    #[test]
    fn a_limit_fits_the_one_that_the_catalogue_keeps() {
        for (rule, problem) in [
            (
                "{sensor: temperature, below: 60}",
                "below: must not be greater than above, which is 50",
            ),
            (
                "{sensor: humidity, above: 10}",
                "above: must not be less than below, which is 20",
            ),
        ] {
            let found = read(&format!("thresholds: [{rule}]")).unwrap_err();
            assert!(
                found.contains(&format!("thresholds[0].{problem}")),
                "{found}"
            );
        }
        for fits in [
            "below: 60, above: none",
            "below: 60, above: 70",
            "below: 40",
        ] {
            let rule = format!("thresholds: [{{sensor: temperature, {fits}}}]");
            assert!(read(&rule).is_ok(), "{fits}");
        }
    }

    #[test]
    fn a_minimum_duration_is_read_printed_and_given_to_the_fold() {
        let config = read(
            "sensors: [{name: vibration, unit: mm/s, above: 7.1, for: 90s}]\n\
             thresholds: [{sensor: temperature, room: boiler, for: 10m}]\n",
        );
        let config = config.unwrap();
        let minutes = |count: u64| Some(HumanDuration::from_secs(60 * count));
        assert_eq!(config.thresholds[0].min_duration, minutes(10));
        let printed = serde_json::to_string(&(&config.sensors, &config.thresholds)).unwrap();
        let expected = r#"[[{"name":"vibration","unit":"mm/s","above":7.1,"for":"1m 30s"}],[{"sensor":"temperature","room":"boiler","for":"10m"}]]"#;
        assert_eq!(printed, expected);
        assert_eq!(config.sensors[0].known().limits.min_duration, 90_000);
        assert_eq!(config.thresholds[0].rule().min_duration, Some(600_000));
        // It is no rule of the detectors, which would start to learn again.
        let rules = config.fold_rules();
        let without = ConsumerConfig::default().fold_rules();
        assert_eq!(rules.detect, without.detect);
        assert_ne!(rules.limits, without.limits);
    }

    #[test]
    fn a_minimum_duration_that_is_none_or_has_no_effect_is_refused_by_name() {
        let sensors = "sensors: [{name: a, unit: b, FIELDS}]";
        let thresholds = "thresholds: [{sensor: temperature, FIELDS}]";
        let of_switch = "thresholds: [{sensor: switch, FIELDS}]";
        for (yaml, fields, expected) in [
            (
                sensors,
                "above: 1, for: soon",
                "sensors[0].for: \"soon\" is not a duration",
            ),
            (
                sensors,
                "above: 1, for: -5s",
                "sensors[0].for: \"-5s\" is not a duration",
            ),
            (sensors, "above: 1, for: 30", "sensors[0].for: "),
            (
                sensors,
                "above: 1, for: 721h",
                "sensors[0].for: must be at most 720h",
            ),
            (
                sensors,
                "for: 30s",
                "sensors[0].for: has no effect: a has no threshold",
            ),
            (
                thresholds,
                "for: soon",
                "thresholds[0].for: \"soon\" is not a duration",
            ),
            (thresholds, "above: 60, for: ", "thresholds[0].for: "),
            (
                of_switch,
                "for: 30s",
                "thresholds[0].for: has no effect: switch has no",
            ),
        ] {
            let found = read(&yaml.replace("FIELDS", fields)).unwrap_err();
            assert!(found.contains(expected), "{fields}: {found}");
            assert_eq!(found.lines().count(), 1, "{found}");
        }
        for yaml in [
            "thresholds: [{sensor: temperature, for: 0s}]",
            "thresholds: [{sensor: switch, above: 0, for: 720h}]",
            "sensors: [{name: a, unit: b, for: 30s}]\nthresholds: [{sensor: a, above: 1}]",
        ] {
            assert!(read(yaml).is_ok(), "{yaml}");
        }
    }

    #[test]
    fn a_condition_that_is_empty_does_not_mean_everybody() {
        let found = read("thresholds: [{sensor: temperature, tenant: , above: none}]");
        let found = found.unwrap_err();
        assert!(found.contains("thresholds[0].tenant"), "{found}");
    }

    #[test]
    fn what_is_no_number_is_no_limit() {
        for value in ["1e999", "much", "", "[1]"] {
            let yaml = format!("sensors: [{{name: a, unit: b, max: {value}}}]\n");
            let found = read(&yaml).unwrap_err();
            let expected = "sensors[0].max: must be a number or none";
            assert!(found.contains(expected), "{value}: {found}");
        }
        for value in [".nan", ".inf"] {
            let yaml = format!("sensors: [{{name: a, unit: b, max: {value}}}]\n");
            assert!(read(&yaml).is_err(), "{value} is no number in a file");
        }
    }
}
