//! The limits of a device's sensor: those of the catalogue, unless rules of section
//! `thresholds` are for that device or its place. They follow from the settings and from
//! what the log has said of the device so far, and from nothing else.

use std::cmp::Reverse;
use std::collections::HashMap;

use serde::{Deserialize, Deserializer, Serialize};
use serde_json::Value;

use crate::catalogue::{Catalogue, Limits};
use crate::model::{DeviceKey, Place};

/// A limit, in the unit of its sensor.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "Value", into = "Value")]
pub enum Limit {
    /// Nothing is said about it.
    #[default]
    Unset,
    /// There is none: `none`.
    None,
    /// This number.
    At(f64),
}

impl Limit {
    /// The number; `usual` where nothing is said, and `none` where there is none.
    #[must_use]
    pub fn or(self, usual: f64, none: f64) -> f64 {
        match self {
            Self::Unset => usual,
            Self::None => none,
            Self::At(limit) => limit,
        }
    }

    /// Whether nothing is said about it.
    #[must_use]
    pub fn is_unset(&self) -> bool {
        *self == Self::Unset
    }

    /// The number, if there is one.
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
            // A number that is too large comes as nothing.
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

/// A rule of section `thresholds`: other limits for a sensor of some devices. What is
/// not said of a device may be anything.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ThresholdRule {
    /// Name of the sensor, which the catalogue has.
    pub sensor: String,
    /// Whose devices.
    #[serde(skip_serializing_if = "Option::is_none", deserialize_with = "given")]
    pub tenant: Option<String>,
    /// Devices of which project.
    #[serde(skip_serializing_if = "Option::is_none", deserialize_with = "given")]
    pub project: Option<String>,
    /// Devices in which building.
    #[serde(skip_serializing_if = "Option::is_none", deserialize_with = "given")]
    pub building: Option<String>,
    /// Devices on which floor.
    #[serde(skip_serializing_if = "Option::is_none", deserialize_with = "given")]
    pub floor: Option<String>,
    /// Devices in which room.
    #[serde(skip_serializing_if = "Option::is_none", deserialize_with = "given")]
    pub room: Option<String>,
    /// Which device.
    #[serde(skip_serializing_if = "Option::is_none", deserialize_with = "given")]
    pub device: Option<String>,
    /// Greater values raise an alert.
    #[serde(skip_serializing_if = "Limit::is_unset")]
    pub above: Limit,
    /// Lesser values raise an alert.
    #[serde(skip_serializing_if = "Limit::is_unset")]
    pub below: Limit,
}

/// A text that is there: what is empty by mistake must not mean everybody.
fn given<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<String>, D::Error> {
    String::deserialize(deserializer).map(Some)
}

impl ThresholdRule {
    /// What it says of devices, with the names of the settings.
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

/// Limits by the name of their sensor.
#[derive(Debug, Clone, PartialEq)]
pub struct LimitRules(HashMap<String, OfSensor>);

#[derive(Debug, Clone, PartialEq)]
struct OfSensor {
    usual: Limits,
    /// Those that say most of a device first, and of equals the later.
    rules: Vec<ThresholdRule>,
}

impl LimitRules {
    /// The limits of the catalogue, and rules for some devices.
    #[must_use]
    pub fn new(catalogue: &Catalogue, rules: &[ThresholdRule]) -> Self {
        let of_sensor = catalogue.all().iter().map(|known| {
            let rules = rules
                .iter()
                .rev()
                .filter(|rule| *rule.sensor == *known.name);
            let mut rules: Vec<_> = rules.cloned().collect();
            let said = |rule: &ThresholdRule| {
                let conditions = rule.conditions().into_iter();
                conditions.filter(|(_, value)| value.is_some()).count()
            };
            // Stable: of equals the later stays first.
            rules.sort_by_key(|rule| Reverse(said(rule)));
            let usual = known.limits;
            (known.name.to_string(), OfSensor { usual, rules })
        });
        Self(of_sensor.collect())
    }

    /// The limits of that sensor of a device that is there.
    pub(crate) fn find(&self, sensor: &str, key: &DeviceKey, place: Option<&Place>) -> Limits {
        let Some(OfSensor { usual, rules }) = self.0.get(sensor) else {
            return Limits::NONE;
        };
        let first = |side: fn(&ThresholdRule) -> Limit| {
            let matching = rules.iter().filter(|rule| matches(rule, key, place));
            let mut said = matching.map(side).filter(|limit| *limit != Limit::Unset);
            said.next().unwrap_or_default()
        };
        Limits {
            above: first(|rule| rule.above).or(usual.above, Limits::NONE.above),
            below: first(|rule| rule.below).or(usual.below, Limits::NONE.below),
        }
    }
}

/// Whether all that the rule says is true of the device.
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
        let limits = rules.find("temperature", &key, place.as_ref());
        assert_eq!(rules.find("dust", &key, place.as_ref()), Limits::NONE);
        (limits.above, limits.below)
    }

    const NO: f64 = f64::NEG_INFINITY;

    #[test]
    fn a_rule_is_for_devices_of_which_all_is_true_that_it_says() {
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
        assert_eq!(find(&rules, "acme", None), (50.0, NO), "nobody knows where");
    }

    #[test]
    fn the_rule_that_says_most_wins_and_of_equals_the_later() {
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
        // Each side is that of the first rule which says something of it.
        assert_eq!(find(&rules, "acme", None), (f64::INFINITY, 1.0));
        assert_eq!(find(&rules, "other", None), (90.0, 1.0));
        assert_eq!(find(&rules[1..3], "other", None), (50.0, NO));
    }
}
