//! The devices: their identity, place and profile, and their messages.

use std::borrow::Cow;
use std::ops::Range;
use std::time::Duration;

use iot_core::message::{DeviceMessage, Location, Quality, ReadingTemplate, Template};
use rand_pcg::Pcg32;
use serde::{Deserialize, Serialize};

use crate::config::{FleetConfig, Format, Rate, SimulatorConfig};
use crate::sensors::anomaly::{Episode, Kind, Odds};
use crate::sensors::{self, Conditions, Moment, Process, Profile, State};

/// Devices per room, rooms per floor, floors per building.
const ROOM: u32 = 10;
const FLOOR: u32 = 5;
const BUILDING: u32 = 4;

/// Tenant and project of a device, as an index into [`origins`].
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Origin(u32);

impl Origin {
    /// Devices are assigned to the tenants in turn, and those of each tenant to the
    /// projects in turn.
    fn of(fleet: &FleetConfig, number: u32) -> Self {
        let (tenants, projects) = (fleet.tenants.len() as u32, fleet.projects.len() as u32);
        let (tenant, project) = (number % tenants, number / tenants % projects);
        Self(tenant * projects + project)
    }

    pub(crate) fn index(self) -> usize {
        self.0 as usize
    }
}

/// All pairs of tenant and project.
pub(crate) fn origins(fleet: &FleetConfig) -> Vec<(&str, &str)> {
    let tenants = fleet.tenants.iter();
    let pairs = tenants.flat_map(|tenant| {
        let projects = fleet.projects.iter();
        projects.map(move |project| (tenant.as_str(), project.as_str()))
    });
    pairs.collect()
}

/// Identity and place of a device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Identity {
    /// Device id, unique within tenant and project.
    pub device_id: String,
    /// Tenant.
    pub tenant: String,
    /// Project.
    pub project: String,
    /// Place.
    pub location: Location<'static>,
}

impl Identity {
    /// The identity of the device with this number; its place follows from the number.
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

/// The id of the device with this number.
pub(crate) fn device_id(fleet: &FleetConfig, number: u32) -> String {
    format!("{}{number:06}", fleet.id_prefix)
}

/// What the devices of one profile have in common.
#[derive(Debug, Clone)]
pub(crate) struct DeviceProfile {
    /// Sensors of a device.
    pub sensors: Vec<DeviceSensor>,
    /// How often a device sends, before scaling to the rate.
    pub interval: Duration,
    /// Settings of the values.
    pub conditions: Conditions,
}

/// A sensor of a profile's devices.
#[derive(Debug, Clone)]
pub(crate) struct DeviceSensor {
    /// The kind of sensor.
    pub profile: &'static Profile,
    /// Its normal values.
    pub process: Process,
    /// Probabilities of anomalies.
    pub odds: Odds,
    /// The encoding of its readings.
    template: ReadingTemplate,
}

impl DeviceProfile {
    /// All profiles, in the order of the settings.
    pub(crate) fn all(config: &SimulatorConfig) -> Vec<Self> {
        let speed = speed(config);
        let intervals = profile_intervals(&config.fleet);
        let profiles = intervals.into_iter().enumerate().map(|(index, interval)| {
            let profile = config.fleet.profiles.get(index);
            let sensors = profile.map(|profile| &profile.sensors);
            let sensors = sensors.filter(|sensors| !sensors.is_empty());
            let sensors = sensors.unwrap_or(&config.sensors.enabled);
            Self::new(config, sensors, interval, speed)
        });
        profiles.collect()
    }

    fn new(config: &SimulatorConfig, sensors: &[String], interval: Duration, speed: f64) -> Self {
        // Too slow a fleet has the longest interval.
        let between = interval.as_secs_f64() / speed;
        let between = Duration::try_from_secs_f64(between).unwrap_or(Duration::MAX);
        Self {
            interval,
            sensors: sensors
                .iter()
                .filter_map(|name| sensors::find(name))
                .map(|profile| DeviceSensor {
                    profile,
                    process: Process::new(profile, &config.sensors, between),
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

fn template(format: Format, identity: &Identity) -> Template {
    let message = DeviceMessage {
        device_id: Cow::Borrowed(&identity.device_id),
        tenant: Some(Cow::Borrowed(&identity.tenant)),
        project: Some(Cow::Borrowed(&identity.project)),
        seq: None,
        timestamp: 0,
        location: Some(identity.location.clone()),
        readings: Vec::new(),
    };
    match format {
        Format::Json => Template::json(&message),
        Format::Protobuf => Template::protobuf(&message),
    }
}

/// Index of a device's profile, in the order of the settings. For given profiles it depends on
/// the number alone, not on the seed or the size of the fleet.
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

/// How often each device of the whole fleet sends, by position.
pub(crate) fn intervals(config: &SimulatorConfig) -> Vec<Duration> {
    let profiles = profile_intervals(&config.fleet);
    let first = config.fleet.first_device;
    let numbers = first..first + config.fleet.devices;
    let intervals = numbers.map(|number| profiles[profile_of(&config.fleet, number)]);
    intervals.collect()
}

/// How often the devices of each profile send, in the order of the settings.
fn profile_intervals(fleet: &FleetConfig) -> Vec<Duration> {
    let usual = *fleet.interval;
    if fleet.profiles.is_empty() {
        return vec![usual];
    }
    let profiles = fleet.profiles.iter();
    let intervals = profiles.map(|profile| profile.interval.map_or(usual, |interval| *interval));
    intervals.collect()
}

/// The speed of fleet time that gives the configured rate.
pub(crate) fn speed(config: &SimulatorConfig) -> f64 {
    match config.fleet.rate {
        Rate::PerSecond(rate) => rate / natural_rate(config),
        Rate::ByInterval | Rate::Max => 1.0,
    }
}

/// Messages per second of the whole fleet when all devices send at their intervals.
pub(crate) fn natural_rate(config: &SimulatorConfig) -> f64 {
    let intervals = intervals(config);
    intervals
        .iter()
        .map(|interval| 1.0 / interval.as_secs_f64())
        .sum()
}

/// A request to start an anomaly now, and a filter of devices.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Injection {
    pub(crate) kind: Kind,
    /// `None` for all sensors that can have this kind.
    pub(crate) sensor: Option<String>,
    /// How many readings it lasts; `None` for the setting.
    pub(crate) readings: Option<u32>,
    device: Option<String>,
    building: Option<String>,
    floor: Option<String>,
    room: Option<String>,
}

impl Injection {
    fn matches(&self, identity: &Identity) -> bool {
        let location = &identity.location;
        let filters: [(_, &str); 4] = [
            (&self.device, &identity.device_id),
            (&self.building, &location.building),
            (&self.floor, &location.floor),
            (&self.room, &location.room),
        ];
        filters
            .iter()
            .all(|(wanted, actual)| wanted.as_ref().is_none_or(|wanted| wanted == actual))
    }

    /// Checks the filter, the sensor and the number of readings.
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
            None => Err(format!("unknown sensor {name:?}")),
            Some(profile) if !profile.anomalies().contains(&self.kind) => {
                Err(format!("{name} cannot have {}", self.kind.label()))
            }
            Some(_) => Ok(()),
        }
    }
}

/// One simulated device.
#[derive(Debug)]
pub(crate) struct Device {
    /// Identity and place. Boxed, because messages do not need it.
    pub identity: Box<Identity>,
    /// Tenant and project.
    pub origin: Origin,
    /// Index of its profile.
    pub profile: usize,
    /// Sequence number of the next message.
    pub seq: u64,
    rng: Pcg32,
    template: Template,
    states: Box<[State]>,
}

/// What a device emitted on its turn.
#[derive(Debug, PartialEq)]
pub(crate) enum Emitted {
    /// No message, because all sensors have a dropout.
    Nothing,
    /// A message.
    Message {
        /// Labels of its anomalies.
        label: Option<String>,
        /// Range of the device id in the payload.
        id: Range<usize>,
    },
}

/// An anomaly from its first to its last reading: a line of the truth file.
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
    /// A device before its first message. Its values depend on the seed and its number
    /// alone, not on the rest of the fleet.
    pub(crate) fn new(config: &SimulatorConfig, profiles: &[DeviceProfile], number: u32) -> Self {
        let profile = profile_of(&config.fleet, number);
        let number64 = u64::from(number);
        let seed = scramble(config.fleet.seed ^ scramble(number64));
        let mut rng = Pcg32::new(seed, number64);
        let sensors = profiles[profile].sensors.iter();
        let states = sensors.map(|sensor| sensor.profile.first_state(&sensor.process, &mut rng));
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

    /// Takes the readings and appends the next message to `out`. Anomalies that ended
    /// are added to `truths`.
    pub(crate) fn emit(
        &mut self,
        profiles: &[DeviceProfile],
        at: Moment,
        out: &mut Vec<u8>,
        truths: &mut Vec<Truth>,
    ) -> Emitted {
        let DeviceProfile {
            sensors,
            conditions,
            ..
        } = &profiles[self.profile];
        let mut label: Option<String> = None;
        let (identity, rng) = (&self.identity, &mut self.rng);
        let sensors = sensors.iter().zip(&mut self.states);
        let readings = sensors.filter_map(|(sensor, state)| {
            let (profile, process, odds) = (sensor.profile, &sensor.process, &sensor.odds);
            let sample = profile.sample(process, state, at, conditions, odds, rng);
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
            Some((&sensor.template, sample.value?))
        });
        if !self.template.write(self.seq, at.timestamp, readings, out) {
            return Emitted::Nothing;
        }
        self.seq += 1;
        let id = self.template.id();
        Emitted::Message { label, id }
    }

    /// Starts an anomaly if the filter matches this device, and returns whether it
    /// did. Anomalies that it replaces are added to `truths`.
    pub(crate) fn inject(
        &mut self,
        profiles: &[DeviceProfile],
        injection: &Injection,
        readings: u32,
        truths: &mut Vec<Truth>,
    ) -> bool {
        if !injection.matches(&self.identity) {
            return false;
        }
        let mut started = false;
        let sensors = profiles[self.profile].sensors.iter().zip(&mut self.states);
        for (DeviceSensor { profile, .. }, state) in sensors {
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
            started = true;
        }
        started
    }

    /// The anomalies that have started and not ended.
    pub(crate) fn unfinished(&self, profiles: &[DeviceProfile]) -> impl Iterator<Item = Truth> {
        let sensors = profiles[self.profile].sensors.iter().zip(&self.states);
        sensors.filter_map(|(DeviceSensor { profile, .. }, state)| {
            let episode = state.episode.filter(|episode| episode.done > 0)?;
            Some(self.identity.truth(profile, episode))
        })
    }
}

/// The finaliser of SplitMix64 (Steele, Lea, Flood 2014), which turns neighbouring
/// numbers into unrelated seeds.
fn scramble(number: u64) -> u64 {
    let mut z = number.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests;
