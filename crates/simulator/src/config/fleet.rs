//! Settings of the fleet and its load.

use std::fmt;
use std::str::FromStr;

use iot_service::config::HumanDuration;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// Section `fleet`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct FleetConfig {
    /// Number of devices.
    pub devices: u32,
    /// Number of the first one. Several simulators with ranges that don't
    /// overlap make one fleet.
    pub first_device: u32,
    /// Which of the devices this simulator plays.
    pub shard: Shard,
    /// Device ids are this and the number in six digits.
    pub id_prefix: String,
    /// How often each device sends.
    pub interval: HumanDuration,
    /// Messages a second of the whole fleet: all intervals are made longer or
    /// shorter by the same factor.
    pub rate: Rate,
    /// Whether nobody sends.
    pub paused: bool,
    /// Kinds of devices; none for devices that are all alike.
    pub profiles: Vec<ProfileConfig>,
    /// Seed of all values.
    pub seed: u64,
    /// Tenants that devices are spread over.
    pub tenants: Vec<String>,
    /// Projects that the devices of each tenant are spread over.
    pub projects: Vec<String>,
    /// Tasks that make messages; 0 for one per CPU.
    pub workers: u16,
    /// Whether fewer are used while they have little to do.
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
            rate: Rate::None,
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

/// One of `fleet.profiles`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ProfileConfig {
    /// What it is called.
    pub name: String,
    /// Its share of the devices, beside the weights of the others.
    #[serde(default = "one")]
    pub weight: u32,
    /// Sensors, in the order of the readings; none for `sensors.enabled`.
    #[serde(default)]
    pub sensors: Vec<String>,
    /// How often each device sends; none for `fleet.interval`.
    #[serde(default)]
    pub interval: Option<HumanDuration>,
}

fn one() -> u32 {
    1
}

/// Section `load`: what part of the full rate there is, over time.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LoadConfig {
    /// The shape.
    pub shape: Shape,
    /// The least part, 0 to 1.
    pub least: f64,
    /// How long a ramp or all steps take, or one wave, or from burst to burst.
    pub period: HumanDuration,
    /// Number of steps.
    pub steps: u32,
    /// How long a burst lasts.
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
    /// From the least to the full rate, and there it stays.
    Ramp,
    /// The same in equal steps.
    Step,
    /// A wave between the least and the full rate.
    Sine,
    /// The full rate for a while, then the least.
    Burst,
}

/// One of several simulators that play a fleet together: `I/N`, I from 0.
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
    /// About its part of what the whole fleet does.
    #[must_use]
    pub fn part_of(self, whole: u64) -> u64 {
        whole / u64::from(self.count.max(1))
    }

    /// Whether this simulator plays the device in this place of the fleet.
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

/// Messages a second of the whole fleet: `none` (the interval decides), a
/// number, or `max` (as fast as the sink confirms).
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Rate {
    /// The interval decides.
    None,
    /// So many messages a second.
    PerSecond(f64),
    /// As fast as the sink confirms.
    Max,
}

impl fmt::Display for Rate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::None => f.write_str("none"),
            Self::Max => f.write_str("max"),
            Self::PerSecond(rate) => write!(f, "{rate}"),
        }
    }
}

impl FromStr for Rate {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.trim() {
            "none" => Ok(Self::None),
            "max" => Ok(Self::Max),
            number => match number.parse::<f64>() {
                Ok(rate) if rate > 0.0 && rate <= 1e9 => Ok(Self::PerSecond(rate)),
                _ => Err(format!(
                    "{text:?} is not \"none\", \"max\" or messages a second, above 0"
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
