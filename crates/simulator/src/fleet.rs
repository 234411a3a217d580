//! The devices: who and where they are, and what they say next.

use std::borrow::Cow;
use std::sync::Arc;

use iot_core::message::{DeviceMessage, Location, Quality, Reading};
use rand_pcg::Pcg32;
use serde::Serialize;

use crate::config::{FleetConfig, Format, SimulatorConfig};
use crate::sensors::anomaly::{Episode, Kind, Odds};
use crate::sensors::{self, Conditions, Moment, Profile, State};

/// Devices in a room, rooms on a floor, floors of a building.
const ROOM: u32 = 10;
const FLOOR: u32 = 5;
const BUILDING: u32 = 4;

/// Who and where a device is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Identity {
    /// Identity inside tenant and project.
    pub device_id: String,
    /// Tenant it belongs to.
    pub tenant: String,
    /// Project it belongs to.
    pub project: String,
    /// Place.
    pub location: Location<'static>,
}

impl Identity {
    /// The device of that number: its place follows from the number, its
    /// tenant and project go round the lists.
    pub(crate) fn new(fleet: &FleetConfig, number: u32) -> Self {
        let room = number / ROOM;
        let floor = room / FLOOR;
        let building = floor / BUILDING;
        let index = number as usize;
        let tenant = index % fleet.tenants.len();
        let project = index / fleet.tenants.len() % fleet.projects.len();
        Self {
            device_id: format!("{}{number:06}", fleet.id_prefix),
            tenant: fleet.tenants[tenant].clone(),
            project: fleet.projects[project].clone(),
            location: Location {
                building: format!("building-{}", building + 1).into(),
                floor: format!("floor-{}", floor % BUILDING + 1).into(),
                room: format!("room-{}{:02}", floor % BUILDING + 1, room % FLOOR + 1).into(),
            },
        }
    }
}

impl Identity {
    fn truth(&self, profile: &Profile, episode: Episode) -> Truth {
        Truth {
            tenant: self.tenant.clone(),
            project: self.project.clone(),
            device: self.device_id.clone(),
            sensor: profile.name,
            kind: episode.kind,
            from: episode.from,
            to: episode.to,
        }
    }
}

/// What all devices of a fleet have in common.
#[derive(Debug, Clone)]
pub(crate) struct Habits {
    /// The sensors every device has, and how likely they fail.
    pub sensors: Vec<(&'static Profile, Odds)>,
    /// How their values come about.
    pub conditions: Conditions,
    /// How they say it.
    pub format: Format,
}

impl Habits {
    /// The habits that the settings ask for.
    pub(crate) fn new(config: &SimulatorConfig) -> Self {
        let names = config.sensors.enabled.iter();
        Self {
            sensors: names
                .filter_map(|name| sensors::find(name))
                .map(|profile| {
                    let odds = Odds::new(&config.anomaly, profile.anomalies());
                    (profile, odds)
                })
                .collect(),
            conditions: Conditions {
                trend: if config.sensors.trend_enabled {
                    config.sensors.trend_strength
                } else {
                    0.0
                },
                variation: config.sensors.variation,
            },
            format: config.format,
        }
    }
}

/// One simulated device.
#[derive(Debug)]
pub(crate) struct Device {
    /// Who it is.
    pub identity: Arc<Identity>,
    /// Number of the next message.
    pub seq: u64,
    rng: Pcg32,
    states: Box<[State]>,
}

/// What a device had to say.
#[derive(Debug, PartialEq)]
pub(crate) enum Said {
    /// Nothing: all its sensors have dropped out.
    Nothing,
    /// A message, and the true labels of what is anomalous in it.
    Message(Option<String>),
}

/// An anomaly from its first reading to its last: a line of the truth file.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct Truth {
    tenant: String,
    project: String,
    device: String,
    sensor: &'static str,
    kind: Kind,
    /// Milliseconds since the epoch.
    from: i64,
    to: i64,
}

impl Device {
    /// A device that has not said anything yet. What it will say depends on
    /// the seed and its number alone, not on the fleet around it.
    pub(crate) fn new(config: &SimulatorConfig, habits: &Habits, number: u32) -> Self {
        let number64 = u64::from(number);
        let seed = scramble(config.fleet.seed ^ scramble(number64));
        let mut rng = Pcg32::new(seed, number64);
        let sensors = habits.sensors.iter();
        let states = sensors.map(|(profile, _)| profile.first_state(&mut rng));
        Self {
            identity: Arc::new(Identity::new(&config.fleet, number)),
            seq: 0,
            states: states.collect(),
            rng,
        }
    }

    /// Measures, and appends the next message to `out`. Anomalies that
    /// are over go to `truths`.
    pub(crate) fn speak(
        &mut self,
        habits: &Habits,
        at: Moment,
        out: &mut Vec<u8>,
        truths: &mut Vec<Truth>,
    ) -> Said {
        let mut labels: Option<String> = None;
        let mut readings = Vec::with_capacity(habits.sensors.len());
        for ((profile, odds), state) in habits.sensors.iter().zip(&mut self.states) {
            let sample = profile.sample(state, at, &habits.conditions, odds, &mut self.rng);
            if let Some(kind) = sample.anomaly {
                let labels = labels.get_or_insert_default();
                if !labels.is_empty() {
                    labels.push(',');
                }
                labels.push_str(profile.name);
                labels.push('=');
                labels.push_str(kind.label());
            }
            if let Some(episode) = sample.ended {
                truths.push(self.identity.truth(profile, episode));
            }
            if let Some(value) = sample.value {
                readings.push(Reading {
                    sensor: Cow::Borrowed(profile.name),
                    value,
                    unit: Some(Cow::Borrowed(profile.unit)),
                    quality: Quality::Good,
                });
            }
        }
        if readings.is_empty() {
            return Said::Nothing;
        }
        let who = &*self.identity;
        let message = DeviceMessage {
            device_id: Cow::Borrowed(&who.device_id),
            tenant: Some(Cow::Borrowed(&who.tenant)),
            project: Some(Cow::Borrowed(&who.project)),
            seq: Some(self.seq),
            timestamp: at.timestamp,
            location: Some(Location {
                building: Cow::Borrowed(&who.location.building),
                floor: Cow::Borrowed(&who.location.floor),
                room: Cow::Borrowed(&who.location.room),
            }),
            readings,
        };
        match habits.format {
            Format::Json => message.write_json(out),
            Format::Protobuf => message.write_protobuf(out),
        }
        self.seq += 1;
        Said::Message(labels)
    }

    /// The anomalies that are not over.
    pub(crate) fn unfinished(&self, habits: &Habits) -> impl Iterator<Item = Truth> {
        let sensors = habits.sensors.iter().zip(&self.states);
        sensors
            .filter_map(|((profile, _), state)| Some(self.identity.truth(profile, state.episode?)))
    }
}

/// The finaliser of SplitMix64 (Steele, Lea, Flood 2014): neighbouring numbers
/// become unrelated seeds.
fn scramble(number: u64) -> u64 {
    let mut z = number.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::KindWeights;
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
        let habits = Habits::new(config);
        let mut device = Device::new(config, &habits, number);
        (0..count)
            .map(|n| {
                let mut out = Vec::new();
                let said = device.speak(&habits, at(1_000, n as f64), &mut out, &mut Vec::new());
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
    fn other_seeds_and_other_devices_give_other_values() {
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
        let habits = Habits::new(&config(1));
        let device = |number| Device::new(&config(1), &habits, number);
        let value = |number: u32| {
            let mut out = Vec::new();
            device(number).speak(&habits, at(0, 0.0), &mut out, &mut Vec::new());
            let message = iot_core::message::parse(&out).unwrap();
            (message.readings[0].value - 24.0) / 5.0
        };
        let pairs: Vec<(f64, f64)> = (0..20_000).map(|n| (value(n), value(n + 1))).collect();
        let product = pairs.iter().map(|(a, b)| a * b).sum::<f64>() / pairs.len() as f64;
        assert!(product.abs() < 0.03, "{product}");
    }

    #[test]
    fn a_message_reads_back_with_its_place_and_five_readings() {
        let config = config(1);
        let habits = Habits::new(&config);
        let mut device = Device::new(&config, &habits, 257);
        let mut out = Vec::new();
        for timestamp in [1_767_225_600_123, 1_767_225_601_123] {
            out.clear();
            device.speak(&habits, at(timestamp, 0.0), &mut out, &mut Vec::new());
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
        let expected =
            "temperature=spike,humidity=spike,pressure=spike,switch=toggling,current=spike";
        assert!(
            said.ends_with(&format!("Message(Some({expected:?}))")),
            "{said}"
        );
    }

    #[test]
    fn a_device_whose_sensors_have_all_dropped_out_says_nothing() {
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
        let habits = Habits::new(&config);
        let mut device = Device::new(&config, &habits, 0);
        let (mut out, mut truths) = (Vec::new(), Vec::new());
        for n in 0..5 {
            let said = device.speak(&habits, at(1_000 * n, 0.0), &mut out, &mut truths);
            assert_eq!((said, out.len(), device.seq), (Said::Nothing, 0, 0));
        }
        let truth = serde_json::to_string(&truths).unwrap();
        assert_eq!(
            truth,
            r#"[{"tenant":"acme","project":"plant","device":"device-000000","sensor":"temperature","kind":"dropout","from":0,"to":4000}]"#
        );
        assert_eq!(device.unfinished(&habits).count(), 0);
    }

    #[test]
    fn every_room_has_its_devices() {
        let fleet = FleetConfig::default();
        let places: HashSet<_> = (0..1_000)
            .map(|n| Identity::new(&fleet, n).location)
            .map(|l| (l.building, l.floor, l.room))
            .collect();
        assert_eq!(places.len(), 100);
    }
}
