//! The devices: who and where they are, and what they say next.

use std::borrow::Cow;
use std::ops::Range;
use std::time::Duration;

use iot_core::message::{DeviceMessage, Location, Quality, ReadingTemplate, Template};
use rand_pcg::Pcg32;
use serde::{Deserialize, Serialize};

use crate::config::{FleetConfig, Format, SimulatorConfig};
use crate::sensors::anomaly::{Episode, Kind, Odds};
use crate::sensors::{self, Conditions, Moment, Profile, State};

/// Devices in a room, rooms on a floor, floors of a building.
const ROOM: u32 = 10;
const FLOOR: u32 = 5;
const BUILDING: u32 = 4;

/// Tenant and project of a device, by their number in [`origins`].
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Origin(u32);

impl Origin {
    /// The device of that number goes round the tenants, those of each tenant go
    /// round its projects.
    fn of(fleet: &FleetConfig, number: u32) -> Self {
        let (tenants, projects) = (fleet.tenants.len() as u32, fleet.projects.len() as u32);
        let (tenant, project) = (number % tenants, number / tenants % projects);
        Self(tenant * projects + project)
    }

    pub(crate) fn index(self) -> usize {
        self.0 as usize
    }
}

/// Every tenant with every project.
pub(crate) fn origins(fleet: &FleetConfig) -> Vec<(&str, &str)> {
    let tenants = fleet.tenants.iter();
    let pairs = tenants.flat_map(|tenant| {
        let projects = fleet.projects.iter();
        projects.map(move |project| (tenant.as_str(), project.as_str()))
    });
    pairs.collect()
}

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
    /// The device of that number: its place follows from the number.
    pub(crate) fn new(fleet: &FleetConfig, number: u32) -> Self {
        let room = number / ROOM;
        let floor = room / FLOOR;
        let building = floor / BUILDING;
        let (tenant, project) = origins(fleet)[Origin::of(fleet, number).index()];
        Self {
            device_id: device_id(fleet, number),
            tenant: tenant.to_owned(),
            project: project.to_owned(),
            location: Location {
                building: format!("building-{}", building + 1).into(),
                floor: format!("floor-{}", floor % BUILDING + 1).into(),
                room: format!("room-{}{:02}", floor % BUILDING + 1, room % FLOOR + 1).into(),
            },
        }
    }
}

/// The id of the device of that number.
pub(crate) fn device_id(fleet: &FleetConfig, number: u32) -> String {
    format!("{}{number:06}", fleet.id_prefix)
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

/// What the devices of one profile have in common.
#[derive(Debug, Clone)]
pub(crate) struct Habits {
    /// Their sensors.
    pub sensors: Vec<Habit>,
    /// How often each sends, unless the rate says otherwise.
    pub interval: Duration,
    /// How their values come about.
    pub conditions: Conditions,
}

/// A sensor of the devices of a profile.
#[derive(Debug, Clone)]
pub(crate) struct Habit {
    /// Its kind.
    pub profile: &'static Profile,
    /// How likely it fails.
    pub odds: Odds,
    /// How its readings look.
    template: ReadingTemplate,
}

impl Habits {
    /// Those of every profile, in the order of the settings.
    pub(crate) fn all(config: &SimulatorConfig) -> Vec<Self> {
        let (sensors, interval) = (&config.sensors.enabled, *config.fleet.interval);
        let profiles = config.fleet.profiles.iter().map(|profile| {
            let sensors = match profile.sensors.is_empty() {
                true => sensors,
                false => &profile.sensors,
            };
            let interval = profile.interval.map_or(interval, |interval| *interval);
            Self::new(config, sensors, interval)
        });
        match config.fleet.profiles.is_empty() {
            true => vec![Self::new(config, sensors, interval)],
            false => profiles.collect(),
        }
    }

    fn new(config: &SimulatorConfig, sensors: &[String], interval: Duration) -> Self {
        Self {
            interval,
            sensors: sensors
                .iter()
                .filter_map(|name| sensors::find(name))
                .map(|profile| Habit {
                    profile,
                    odds: Odds::new(&config.anomaly, profile.anomalies()),
                    template: reading_template(config.format, profile),
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
        }
    }
}

fn reading_template(format: Format, profile: &Profile) -> ReadingTemplate {
    let (name, unit) = (profile.name, Some(profile.unit));
    match format {
        Format::Json => ReadingTemplate::json(name, unit, Quality::Good),
        Format::Protobuf => ReadingTemplate::protobuf(name, unit, Quality::Good),
    }
}

fn template(format: Format, who: &Identity) -> Template {
    let message = DeviceMessage {
        device_id: Cow::Borrowed(&who.device_id),
        tenant: Some(Cow::Borrowed(&who.tenant)),
        project: Some(Cow::Borrowed(&who.project)),
        seq: None,
        timestamp: 0,
        location: Some(who.location.clone()),
        readings: Vec::new(),
    };
    match format {
        Format::Json => Template::json(&message),
        Format::Protobuf => Template::protobuf(&message),
    }
}

/// The profile of a device, in the order of the settings. Like its values it
/// follows from the number alone, not from the fleet around it.
pub(crate) fn profile_of(fleet: &FleetConfig, number: u32) -> usize {
    let weights = || {
        fleet
            .profiles
            .iter()
            .map(|profile| u64::from(profile.weight))
    };
    let all: u64 = weights().sum();
    let mut drawn = scramble(u64::from(number)) % all.max(1);
    let mut is_beyond = |weight: u64| {
        let beyond = drawn >= weight;
        drawn = drawn.saturating_sub(weight);
        beyond
    };
    weights().take_while(|weight| is_beyond(*weight)).count()
}

/// How often each device of the whole fleet sends, in the order of their places.
pub(crate) fn intervals(config: &SimulatorConfig) -> Vec<Duration> {
    let habits = Habits::all(config);
    let first = config.fleet.first_device;
    let numbers = first..first + config.fleet.devices;
    let profiles = numbers.map(|number| profile_of(&config.fleet, number));
    profiles.map(|profile| habits[profile].interval).collect()
}

/// Messages a second of the whole fleet, if all devices keep to their intervals.
pub(crate) fn natural_rate(config: &SimulatorConfig) -> f64 {
    let intervals = intervals(config);
    intervals
        .iter()
        .map(|interval| 1.0 / interval.as_secs_f64())
        .sum()
}

/// Which anomaly begins now, and where.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Injection {
    pub(crate) kind: Kind,
    /// None for every one that can have that kind.
    pub(crate) sensor: Option<String>,
    /// How many readings it lasts; none for as many as those by chance.
    pub(crate) readings: Option<u32>,
    device: Option<String>,
    building: Option<String>,
    floor: Option<String>,
    room: Option<String>,
}

impl Injection {
    /// What it has to match, and what a device has in its place.
    fn filters<'a>(&'a self, who: &'a Identity) -> [(&'a Option<String>, &'a str); 4] {
        [
            (&self.device, &who.device_id),
            (&self.building, &who.location.building),
            (&self.floor, &who.location.floor),
            (&self.room, &who.location.room),
        ]
    }

    fn is_for(&self, who: &Identity) -> bool {
        let filters = self.filters(who);
        filters
            .iter()
            .all(|(wanted, is)| wanted.as_ref().is_none_or(|wanted| wanted == is))
    }

    /// What is wrong with it.
    pub(crate) fn check(&self) -> Result<(), String> {
        let places = [&self.device, &self.building, &self.floor, &self.room];
        if places.iter().all(|place| place.is_none()) {
            return Err("device, building, floor or room is missing".into());
        }
        if self
            .readings
            .is_some_and(|readings| !(1..=100_000).contains(&readings))
        {
            return Err("readings must be from 1 to 100000".into());
        }
        let Some(name) = &self.sensor else {
            return Ok(());
        };
        match sensors::find(name) {
            None => Err(format!("there is no sensor {name:?}")),
            Some(profile) if !profile.anomalies().contains(&self.kind) => {
                Err(format!("{name} can't have {}", self.kind.label()))
            }
            Some(_) => Ok(()),
        }
    }
}

/// One simulated device.
#[derive(Debug)]
pub(crate) struct Device {
    /// Who it is: not looked at for a message.
    pub identity: Box<Identity>,
    /// Its tenant and project.
    pub origin: Origin,
    /// Its profile, in the order of the settings.
    pub profile: usize,
    /// Number of the next message.
    pub seq: u64,
    rng: Pcg32,
    template: Template,
    states: Box<[State]>,
}

/// What a device had to say.
#[derive(Debug, PartialEq)]
pub(crate) enum Said {
    /// Nothing: all its sensors have dropped out.
    Nothing,
    /// A message.
    Message {
        /// The true labels of what is anomalous in it.
        label: Option<String>,
        /// Where in it the device's id is.
        id: Range<usize>,
    },
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
    pub(crate) fn new(config: &SimulatorConfig, habits: &[Habits], number: u32) -> Self {
        let profile = profile_of(&config.fleet, number);
        let number64 = u64::from(number);
        let seed = scramble(config.fleet.seed ^ scramble(number64));
        let mut rng = Pcg32::new(seed, number64);
        let sensors = habits[profile].sensors.iter();
        let states = sensors.map(|habit| habit.profile.first_state(&mut rng));
        let identity = Identity::new(&config.fleet, number);
        Self {
            template: template(config.format, &identity),
            identity: Box::new(identity),
            origin: Origin::of(&config.fleet, number),
            profile,
            seq: 0,
            states: states.collect(),
            rng,
        }
    }

    /// Measures, and appends the next message to `out`. Anomalies that
    /// are over go to `truths`. `habits` are those of all profiles, as everywhere
    /// here.
    pub(crate) fn speak(
        &mut self,
        habits: &[Habits],
        at: Moment,
        out: &mut Vec<u8>,
        truths: &mut Vec<Truth>,
    ) -> Said {
        let habits = &habits[self.profile];
        let mut label: Option<String> = None;
        let (identity, rng) = (&self.identity, &mut self.rng);
        let sensors = habits.sensors.iter().zip(&mut self.states);
        let readings = sensors.filter_map(|(habit, state)| {
            let (profile, odds) = (habit.profile, &habit.odds);
            let sample = profile.sample(state, at, &habits.conditions, odds, rng);
            if let Some(kind) = sample.anomaly {
                let label = label.get_or_insert_default();
                if !label.is_empty() {
                    label.push(',');
                }
                label.push_str(profile.name);
                label.push('=');
                label.push_str(kind.label());
            }
            if let Some(episode) = sample.ended {
                truths.push(identity.truth(profile, episode));
            }
            Some((&habit.template, sample.value?))
        });
        if !self.template.write(self.seq, at.timestamp, readings, out) {
            return Said::Nothing;
        }
        self.seq += 1;
        let id = self.template.id();
        Said::Message { label, id }
    }

    /// Begins an anomaly if it is meant for this device. What it takes the place
    /// of goes to `truths`.
    pub(crate) fn inject(
        &mut self,
        habits: &[Habits],
        injection: &Injection,
        readings: u32,
        truths: &mut Vec<Truth>,
    ) -> bool {
        if !injection.is_for(&self.identity) {
            return false;
        }
        let mut begun = false;
        let sensors = habits[self.profile].sensors.iter().zip(&mut self.states);
        for (Habit { profile, .. }, state) in sensors {
            let wanted = injection.sensor.as_ref();
            let is_wanted = wanted.is_none_or(|wanted| wanted == profile.name);
            if !is_wanted || !profile.anomalies().contains(&injection.kind) {
                continue;
            }
            let before = state
                .episode
                .replace(Episode::new(injection.kind, readings));
            if let Some(before) = before.filter(|before| before.done > 0) {
                truths.push(self.identity.truth(profile, before));
            }
            begun = true;
        }
        begun
    }

    /// The anomalies that have begun and are not over.
    pub(crate) fn unfinished(&self, habits: &[Habits]) -> impl Iterator<Item = Truth> {
        let sensors = habits[self.profile].sensors.iter().zip(&self.states);
        sensors.filter_map(|(Habit { profile, .. }, state)| {
            let episode = state.episode.filter(|episode| episode.done > 0)?;
            Some(self.identity.truth(profile, episode))
        })
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
mod tests;
