//! The limits of a device's sensor: those of the catalogue, unless a rule of section
//! `thresholds` matches the device or its place. They follow from the settings and from
//! what the log has said about the device so far, and from nothing else.

use std::cmp::Reverse;
use std::collections::HashMap;

use iot_core::unit;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::catalogue::{Catalogue, Limits, SensorKind, without_chip};
use crate::model::{DeviceKey, Place};

/// A limit, in the unit of its sensor.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "Value", into = "Value")]
pub enum Limit {
    /// Not set.
    #[default]
    Unset,
    /// No limit: `none`.
    None,
    /// A number.
    At(f64),
}

impl Limit {
    /// The number; `usual` if it is not set, and `none` if there is no limit.
    #[must_use]
    pub fn or(self, usual: f64, none: f64) -> f64 {
        match self {
            Self::Unset => usual,
            Self::None => none,
            Self::At(limit) => limit,
        }
    }

    /// Whether it is not set.
    #[must_use]
    pub fn is_unset(&self) -> bool {
        *self == Self::Unset
    }

    /// The number, if it is one.
    #[must_use]
    pub fn number(self) -> Option<f64> {
        match self {
            Self::At(limit) => Some(limit),
            Self::Unset | Self::None => None,
        }
    }
}

impl TryFrom<Value> for Limit {
    type Error = &'static str;

    fn try_from(value: Value) -> Result<Self, Self::Error> {
        match (value.as_f64(), value.as_str()) {
            (Some(limit), _) => Ok(Self::At(limit)),
            (_, Some("none")) => Ok(Self::None),
            // A number that is too large arrives as null.
            _ => Err("must be a number or none"),
        }
    }
}

impl From<Limit> for Value {
    fn from(limit: Limit) -> Self {
        match limit {
            Limit::Unset => Self::Null,
            Limit::None => "none".into(),
            Limit::At(limit) => limit.into(),
        }
    }
}

/// A rule of section `thresholds`: other limits for a sensor of some devices. A rule
/// without a condition matches all devices.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct ThresholdRule {
    /// Name of the sensor, which must be in the catalogue.
    pub sensor: String,
    /// Only devices of this tenant.
    pub tenant: Option<String>,
    /// Only devices of this project.
    pub project: Option<String>,
    /// Only devices in this building.
    pub building: Option<String>,
    /// Only devices on this floor.
    pub floor: Option<String>,
    /// Only devices in this room.
    pub room: Option<String>,
    /// Only this device.
    pub device: Option<String>,
    /// Greater values raise an alert.
    pub above: Limit,
    /// Lesser values raise an alert.
    pub below: Limit,
    /// As [`Limits::min_duration`], if it is set.
    pub min_duration: Option<i64>,
}

impl ThresholdRule {
    /// Its conditions, with the names of their settings.
    #[must_use]
    pub fn conditions(&self) -> [(&'static str, Option<&str>); 6] {
        [
            ("tenant", self.tenant.as_deref()),
            ("project", self.project.as_deref()),
            ("building", self.building.as_deref()),
            ("floor", self.floor.as_deref()),
            ("room", self.room.as_deref()),
            ("device", self.device.as_deref()),
        ]
    }
}

/// The limits and kinds of sensors in the catalogue.
#[derive(Debug, Clone, PartialEq)]
pub struct LimitRules {
    of: HashMap<String, OfSensor>,
    /// As in the [`Catalogue`].
    has_chips: bool,
}

#[derive(Debug, Clone, PartialEq)]
struct OfSensor {
    /// The unit of its limits.
    unit: Box<str>,
    usual: Limits,
    kind: Option<SensorKind>,
    /// Rules with most conditions first; of equals the later.
    rules: Vec<ThresholdRule>,
}

impl LimitRules {
    /// The limits of the catalogue and the rules for some devices.
    #[must_use]
    pub fn new(catalogue: &Catalogue, rules: &[ThresholdRule]) -> Self {
        let of_sensor = catalogue.all().iter().map(|known| {
            let rules = rules
                .iter()
                .rev()
                .filter(|rule| *rule.sensor == *known.name);
            let mut rules: Vec<_> = rules.cloned().collect();
            let conditions = |rule: &ThresholdRule| {
                let all = rule.conditions().into_iter();
                all.filter(|(_, value)| value.is_some()).count()
            };
            // The sort is stable: of equals the later stays first.
            rules.sort_by_key(|rule| Reverse(conditions(rule)));
            let of_sensor = OfSensor {
                unit: known.unit.clone(),
                usual: known.limits,
                kind: known.kind,
                rules,
            };
            (known.name.to_string(), of_sensor)
        });
        Self {
            of: of_sensor.collect(),
            has_chips: catalogue.has_chips(),
        }
    }

    /// The sensor of that name, or that of the name without its chip.
    fn of(&self, sensor: &str) -> Option<&OfSensor> {
        let names = self.has_chips.then(|| without_chip(sensor));
        let mut others = names.into_iter().flatten();
        self.of
            .get(sensor)
            .or_else(|| others.find_map(|other| self.of.get(other)))
    }

    /// Whether the values of a sensor in this unit are a total that rises.
    pub(crate) fn is_counter(&self, sensor: &str, unit: Option<&str>) -> bool {
        match self.of(sensor).and_then(|of_sensor| of_sensor.kind) {
            Some(kind) => kind == SensorKind::Counter,
            None => unit.is_some_and(unit::is_energy),
        }
    }

    /// As in the [`Catalogue`].
    pub(crate) fn has_chips(&self) -> bool {
        self.has_chips
    }

    /// The limits of a device's sensor with its unit, while the device is at `place`.
    pub(crate) fn find(
        &self,
        (sensor, unit): (&str, Option<&str>),
        key: &DeviceKey,
        place: Option<&Place>,
    ) -> Limits {
        // A sensor that is only named like one of a chip can have another unit.
        let fits =
            |of_sensor: &&OfSensor| self.of.contains_key(sensor) || unit == Some(&*of_sensor.unit);
        let Some(OfSensor { usual, rules, .. }) = self.of(sensor).filter(fits) else {
            return Limits::NONE;
        };
        let matching = || rules.iter().filter(|rule| matches(rule, key, place));
        let first = |side: fn(&ThresholdRule) -> Limit| {
            let mut set = matching().map(side).filter(|limit| !limit.is_unset());
            set.next().unwrap_or_default()
        };
        let min_duration = matching().find_map(|rule| rule.min_duration);
        Limits {
            above: first(|rule| rule.above).or(usual.above, Limits::NONE.above),
            below: first(|rule| rule.below).or(usual.below, Limits::NONE.below),
            min_duration: min_duration.unwrap_or(usual.min_duration),
        }
    }
}

/// Whether all conditions of the rule are true.
fn matches(rule: &ThresholdRule, key: &DeviceKey, place: Option<&Place>) -> bool {
    let wanted = [
        (&rule.tenant, Some(&key.tenant)),
        (&rule.project, Some(&key.project)),
        (&rule.device, Some(&key.device)),
        (&rule.building, place.map(|place| &place.building)),
        (&rule.floor, place.map(|place| &place.floor)),
        (&rule.room, place.map(|place| &place.room)),
    ];
    wanted.into_iter().all(|(wanted, found)| match wanted {
        Some(wanted) => found.is_some_and(|found| **found == **wanted),
        None => true,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(change: impl FnOnce(&mut ThresholdRule)) -> ThresholdRule {
        let mut rule = ThresholdRule {
            sensor: "temperature".into(),
            ..ThresholdRule::default()
        };
        change(&mut rule);
        rule
    }

    /// Above and below for a temperature of device `d` in that room of building `b`.
    fn find(rules: &[ThresholdRule], tenant: &str, room: Option<&str>) -> (f64, f64) {
        let rules = LimitRules::new(&Catalogue::new([]), rules);
        let key = DeviceKey {
            tenant: tenant.into(),
            project: "p".into(),
            device: "d".into(),
        };
        let place = room.map(|room| Place {
            building: "b".into(),
            floor: "1".into(),
            room: room.into(),
        });
        let limits = rules.find(("temperature", None), &key, place.as_ref());
        let dust = rules.find(("dust", None), &key, place.as_ref());
        assert_eq!(dust, Limits::NONE);
        (limits.above, limits.below)
    }

    const NO: f64 = f64::NEG_INFINITY;

    #[test]
    fn a_rule_matches_when_all_its_conditions_are_true() {
        let rules = [
            rule(|rule| {
                (rule.tenant, rule.room) = (Some("acme".into()), Some("r1".into()));
                (rule.above, rule.below) = (Limit::At(30.0), Limit::At(5.0));
            }),
            rule(|rule| (rule.building, rule.above) = (Some("b".into()), Limit::At(40.0))),
        ];
        assert_eq!(find(&rules, "acme", Some("r1")), (30.0, 5.0));
        assert_eq!(find(&rules, "acme", Some("r2")), (40.0, NO));
        assert_eq!(find(&rules, "other", Some("r1")), (40.0, NO));
        assert_eq!(find(&rules, "acme", None), (50.0, NO), "an unknown place");
    }

    #[test]
    fn the_rule_with_most_conditions_wins_and_of_equals_the_later() {
        let of = |tenant: &str, above| {
            rule(|rule| (rule.tenant, rule.above) = (Some(tenant.into()), above))
        };
        let device = rule(|rule| {
            (rule.project, rule.device) = (Some("p".into()), Some("d".into()));
            rule.below = Limit::At(1.0);
        });
        let all = rule(|rule| (rule.above, rule.below) = (Limit::At(90.0), Limit::None));
        let rules = [
            device,
            of("acme", Limit::At(60.0)),
            of("acme", Limit::None),
            all,
        ];
        // Each side comes from the first rule that sets it.
        assert_eq!(find(&rules, "acme", None), (f64::INFINITY, 1.0));
        assert_eq!(find(&rules, "other", None), (90.0, 1.0));
        assert_eq!(find(&rules[1..3], "other", None), (50.0, NO));
    }

    #[test]
    fn the_kind_of_a_sensor_is_set_or_follows_from_its_unit() {
        let sensor = |name: &str, kind| crate::Known {
            name: name.into(),
            unit: "x".into(),
            physical: 0.0..=1.0,
            limits: Limits::NONE,
            kind,
        };
        let configured = [
            sensor("water", Some(SensorKind::Counter)),
            sensor("battery", Some(SensorKind::Gauge)),
            sensor("dust", None),
        ];
        let rules = LimitRules::new(&Catalogue::new(configured).with_chips(true), &[]);
        for (sensor, unit, expected) in [
            ("water", Some("m3"), true),
            ("main-water", None, true),
            ("battery", Some("kWh"), false),
            ("dust", Some("x"), false),
            ("total", Some("kWh"), true),
            ("total", Some("WH"), true),
            ("total", Some("kW"), false),
            ("total", None, false),
            ("temperature", Some("celsius"), false),
        ] {
            assert_eq!(
                rules.is_counter(sensor, unit),
                expected,
                "{sensor} {unit:?}"
            );
        }
    }

    #[test]
    fn a_sensor_of_a_chip_has_the_limits_of_its_sensor() {
        let place = Place::default();
        let key = DeviceKey {
            tenant: "t".into(),
            project: "p".into(),
            device: "d".into(),
        };
        let of_one = rule(|rule| {
            (rule.sensor, rule.above) = ("temperature".into(), Limit::At(60.0));
            rule.device = Some("d".into());
        });
        let above = |has_chips, sensor, unit| {
            let catalogue = Catalogue::new([]).with_chips(has_chips);
            let rules = LimitRules::new(&catalogue, std::slice::from_ref(&of_one));
            rules.find((sensor, unit), &key, Some(&place)).above
        };
        let celsius = Some("celsius");
        assert_eq!(above(true, "ds18b20-1-temperature", celsius), 60.0);
        assert_eq!(above(true, "ds18b20-current", Some("ampere")), 8.0);
        assert_eq!(
            above(false, "ds18b20-1-temperature", celsius),
            f64::INFINITY
        );
        // A reading that is only named like one of a chip may have another unit, or none.
        for unit in [Some("degF"), None] {
            assert_eq!(above(true, "core-temperature", unit), f64::INFINITY);
            assert_eq!(above(true, "temperature", unit), 60.0);
        }
    }

    #[test]
    fn the_minimum_duration_comes_from_the_first_rule_that_sets_it() {
        let all = rule(|rule| rule.min_duration = Some(1_000));
        let acme = rule(|rule| {
            (rule.tenant, rule.above) = (Some("acme".into()), Limit::At(60.0));
        });
        let boiler = rule(|rule| {
            (rule.tenant, rule.room) = (Some("acme".into()), Some("boiler".into()));
            rule.min_duration = Some(0);
        });
        let rules = LimitRules::new(&Catalogue::new([]), &[all, acme, boiler]);
        let find = |tenant: &str, room: &str| {
            let key = DeviceKey {
                tenant: tenant.into(),
                project: "p".into(),
                device: "d".into(),
            };
            let place = Place {
                room: room.into(),
                ..Place::default()
            };
            let limits = rules.find(("temperature", None), &key, Some(&place));
            (limits.above, limits.min_duration)
        };
        assert_eq!(find("other", "r1"), (50.0, 1_000));
        assert_eq!(find("acme", "r1"), (60.0, 1_000));
        assert_eq!(find("acme", "boiler"), (60.0, 0));
    }
}
