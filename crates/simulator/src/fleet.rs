//! The devices: who and where they are, and what they say next.

use std::borrow::Cow;
use std::sync::Arc;

use iot_core::message::{DeviceMessage, Location, Quality, Reading};
use rand_pcg::Pcg32;

use crate::config::{FleetConfig, SimulatorConfig};
use crate::sensors::{self, Conditions, Profile};

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

/// What all devices of a fleet have in common.
#[derive(Debug, Clone)]
pub(crate) struct Habits {
    /// The sensors every device has.
    pub profiles: Vec<&'static Profile>,
    /// How their values come about.
    pub conditions: Conditions,
}

impl Habits {
    /// The habits that the settings ask for.
    pub(crate) fn new(config: &SimulatorConfig) -> Self {
        let names = config.sensors.enabled.iter();
        Self {
            profiles: names.filter_map(|name| sensors::find(name)).collect(),
            conditions: Conditions {
                anomaly_rate: config.anomaly.rate,
                trend: if config.sensors.trend_enabled {
                    config.sensors.trend_strength
                } else {
                    0.0
                },
                variation: config.sensors.variation,
            },
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
    states: Box<[f64]>,
}

impl Device {
    /// A device that has not said anything yet. What it will say depends on
    /// the seed and its number alone, not on the fleet around it.
    pub(crate) fn new(config: &SimulatorConfig, habits: &Habits, number: u32) -> Self {
        let number64 = u64::from(number);
        let seed = scramble(config.fleet.seed ^ scramble(number64));
        let mut rng = Pcg32::new(seed, number64);
        let profiles = habits.profiles.iter();
        let states = profiles.map(|profile| profile.first_state(&mut rng));
        Self {
            identity: Arc::new(Identity::new(&config.fleet, number)),
            seq: 0,
            states: states.collect(),
            rng,
        }
    }

    /// Measures, and appends the next message to `out` as JSON. `timestamp` is
    /// in milliseconds since the epoch, `elapsed` the simulated time in hours.
    /// Returns the true labels of what is anomalous in it.
    pub(crate) fn speak(
        &mut self,
        habits: &Habits,
        timestamp: i64,
        elapsed: f64,
        out: &mut Vec<u8>,
    ) -> Option<String> {
        let mut labels: Option<String> = None;
        let mut readings = Vec::with_capacity(habits.profiles.len());
        for (profile, state) in habits.profiles.iter().zip(&mut self.states) {
            let sample = profile.sample(state, elapsed, &habits.conditions, &mut self.rng);
            if let Some(label) = sample.label {
                let labels = labels.get_or_insert_default();
                if !labels.is_empty() {
                    labels.push(',');
                }
                labels.push_str(profile.name);
                labels.push('=');
                labels.push_str(label);
            }
            readings.push(Reading {
                sensor: Cow::Borrowed(profile.name),
                value: sample.value,
                unit: Some(Cow::Borrowed(profile.unit)),
                quality: Quality::Good,
            });
        }
        let who = &*self.identity;
        DeviceMessage {
            device_id: Cow::Borrowed(&who.device_id),
            tenant: Some(Cow::Borrowed(&who.tenant)),
            project: Some(Cow::Borrowed(&who.project)),
            seq: Some(self.seq),
            timestamp,
            location: Some(Location {
                building: Cow::Borrowed(&who.location.building),
                floor: Cow::Borrowed(&who.location.floor),
                room: Cow::Borrowed(&who.location.room),
            }),
            readings,
        }
        .write_json(out);
        self.seq += 1;
        labels
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
    use std::collections::HashSet;

    fn config(seed: u64) -> SimulatorConfig {
        let mut config = SimulatorConfig::default();
        config.fleet.seed = seed;
        config
    }

    fn stream(config: &SimulatorConfig, number: u32, count: usize) -> Vec<String> {
        let habits = Habits::new(config);
        let mut device = Device::new(config, &habits, number);
        (0..count)
            .map(|n| {
                let mut out = Vec::new();
                let label = device.speak(&habits, 1_000, n as f64, &mut out);
                format!("{} {label:?}", String::from_utf8(out).unwrap())
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
        let state = |number| Device::new(&config(1), &habits, number).states[0];
        let pairs: Vec<(f64, f64)> = (0..20_000).map(|n| (state(n), state(n + 1))).collect();
        let product = pairs.iter().map(|(a, b)| a * b).sum::<f64>() / pairs.len() as f64;
        assert!(product.abs() < 0.03, "{product}");
    }

    #[test]
    fn a_message_reads_back_with_its_place_and_five_readings() {
        let config = config(1);
        let habits = Habits::new(&config);
        let mut device = Device::new(&config, &habits, 257);
        let mut out = Vec::new();
        device.speak(&habits, 1_767_225_600_123, 0.0, &mut out);
        out.clear();
        device.speak(&habits, 1_767_225_601_123, 0.0, &mut out);
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
        config.anomaly.rate = 1.0;
        let labels = stream(&config, 0, 1).remove(0);
        let expected = "temperature=spike,humidity=spike,pressure=spike,current=spike";
        assert!(labels.ends_with(&format!("Some({expected:?})")), "{labels}");
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
