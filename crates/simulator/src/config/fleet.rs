//! Settings of the fleet and its load.

use std::fmt;
use std::str::FromStr;

use iot_service::config::HumanDuration;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// Section `fleet`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct FleetConfig {
    /// Number of devices, over all shards.
    pub devices: u32,
    /// Number of the first device. Simulators whose ranges do not overlap have different
    /// devices.
    pub first_device: u32,
    /// Which share of the devices this simulator simulates.
    pub shard: Shard,
    /// Device ids are this prefix and the device's number, zero-padded to six digits.
    pub id_prefix: String,
    /// How often each device sends.
    pub interval: HumanDuration,
    /// Messages per second of all devices of this configuration, over all its shards; scales
    /// all intervals by the same factor.
    pub rate: Rate,
    /// Whether the fleet is paused.
    pub paused: bool,
    /// Kinds of devices; empty if all devices are alike.
    pub profiles: Vec<ProfileConfig>,
    /// Seed of all values.
    pub seed: u64,
    /// Tenants over which devices are spread.
    pub tenants: Vec<String>,
    /// Projects over which the devices of each tenant are spread.
    pub projects: Vec<String>,
    /// Maximum number of workers; 0 for one per CPU.
    pub workers: u16,
    /// Whether fewer workers are used while they have little to do.
    pub autoscale: bool,
}

impl Default for FleetConfig {
    fn default() -> Self {
        Self {
            devices: 100,
            first_device: 0,
            shard: Shard::default(),
            id_prefix: "device-".into(),
            interval: HumanDuration::from_secs(5),
            rate: Rate::ByInterval,
            paused: false,
            profiles: Vec::new(),
            seed: 1,
            tenants: vec!["acme".into(), "globex".into()],
            projects: vec!["plant".into(), "office".into()],
            workers: 0,
            autoscale: true,
        }
    }
}

/// An entry of `fleet.profiles`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ProfileConfig {
    /// Name of the profile.
    pub name: String,
    /// Share of the devices, relative to the weights of the other profiles.
    #[serde(default = "one")]
    pub weight: u32,
    /// Sensors, in the order of the readings; empty for `sensors.enabled`.
    #[serde(default)]
    pub sensors: Vec<String>,
    /// How often each device sends; `None` for `fleet.interval`.
    #[serde(default)]
    pub interval: Option<HumanDuration>,
}

fn one() -> u32 {
    1
}

/// Section `load`: which share of the full rate is sent, over time.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LoadConfig {
    /// Shape of the load.
    pub shape: Shape,
    /// Minimum share, 0 to 1.
    pub least: f64,
    /// Depends on the shape:
    ///
    /// - `ramp`: duration of the rise;
    /// - `step`: duration of all steps together;
    /// - `sine`: duration of one wave;
    /// - `burst`: time from the start of one burst to the start of the next.
    pub period: HumanDuration,
    /// Number of steps, for `step`.
    pub steps: u32,
    /// Duration of a burst, for `burst`.
    pub burst: HumanDuration,
}

impl Default for LoadConfig {
    fn default() -> Self {
        Self {
            shape: Shape::Constant,
            least: 0.1,
            period: HumanDuration::from_secs(60),
            steps: 5,
            burst: HumanDuration::from_secs(5),
        }
    }
}

/// The shape of the load.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Shape {
    /// The full rate.
    Constant,
    /// Rises from the minimum share to the full rate and stays there.
    Ramp,
    /// The same in equal steps.
    Step,
    /// A wave between the minimum share and the full rate.
    Sine,
    /// The full rate for the duration of a burst, then the minimum share; repeats.
    Burst,
}

/// One of N simulators that share a fleet, written as `I/N` with I from 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shard {
    index: u32,
    count: u32,
}

impl Default for Shard {
    fn default() -> Self {
        Self { index: 0, count: 1 }
    }
}

impl Shard {
    /// This shard's approximate share of a fleet-wide total.
    #[must_use]
    pub fn part_of(self, total: u64) -> u64 {
        total / u64::from(self.count)
    }

    /// Whether this shard has the device at this position of the fleet.
    #[must_use]
    pub fn has(self, position: u32) -> bool {
        position % self.count == self.index
    }
}

impl fmt::Display for Shard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.index, self.count)
    }
}

impl FromStr for Shard {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let parts = text.trim().split_once('/');
        let numbers = parts.and_then(|(i, n)| Some((i.parse().ok()?, n.parse().ok()?)));
        match numbers {
            Some((index, count)) if index < count => Ok(Self { index, count }),
            _ => Err(format!(
                "{text:?} is not I/N with I from 0 to N-1, such as 0/3, 1/3 and 2/3"
            )),
        }
    }
}

impl Serialize for Shard {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Shard {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(de::Error::custom)
    }
}

/// Messages per second of the whole fleet, written as `none`, a number or `max`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Rate {
    /// `none`: the intervals decide.
    ByInterval,
    /// A number: messages per second.
    PerSecond(f64),
    /// `max`: as fast as the sink confirms.
    Max,
}

impl fmt::Display for Rate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::ByInterval => f.write_str("none"),
            Self::Max => f.write_str("max"),
            Self::PerSecond(rate) => write!(f, "{rate}"),
        }
    }
}

impl FromStr for Rate {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.trim() {
            "none" => Ok(Self::ByInterval),
            "max" => Ok(Self::Max),
            number => match number.parse::<f64>() {
                Ok(rate) if rate > 0.0 && rate <= 1e9 => Ok(Self::PerSecond(rate)),
                _ => Err(format!(
                    "{text:?} is not \"none\", \"max\" or a number of messages per second above 0 and at most 1000000000"
                )),
            },
        }
    }
}

impl Serialize for Rate {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Rate {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Given {
            Number(f64),
            Text(String),
        }
        let text = match Given::deserialize(deserializer)? {
            Given::Number(rate) => rate.to_string(),
            Given::Text(text) => text,
        };
        text.parse().map_err(de::Error::custom)
    }
}
