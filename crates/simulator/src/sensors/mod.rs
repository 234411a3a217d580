//! The sensors of the devices.
//!
//! A sensor is one [`Profile`] in a file of its own and one line in
//! [`PROFILES`]; `sensors.enabled` selects from them by name. A value is created
//! in this order: normal value, smoothed, plus trend, clipped to the bounds of
//! normal values; only then a possible anomaly, which is meant to stand out and
//! so is bounded by the physical limits alone.

pub(crate) mod anomaly;
mod current;
mod humidity;
mod pressure;
mod switch;
mod temperature;

use std::time::Duration;

use rand::{Rng, RngExt};
use rand_distr::StandardNormal;

use self::anomaly::{Episode, Kind, Odds};
use crate::config::SensorsConfig;

/// All sensors.
pub(crate) const PROFILES: &[Profile] = &[
    temperature::PROFILE,
    humidity::PROFILE,
    pressure::PROFILE,
    switch::PROFILE,
    current::PROFILE,
];

/// Coefficient of the first-order autoregressive process, AR(1), of normal values that have
/// no correlation time.
const SMOOTHING: f64 = 0.7;
/// The hour of the day at which the simulated time starts.
const FIRST_HOUR: f64 = 8.0;
/// Minimum and maximum factor of a spike.
const SPIKE: (f64, f64) = (2.0, 5.0);
/// Minimum distance of a spike from the mean, in standard deviations of normal values.
const APART: f64 = 3.0;
/// Distance at the end of a drift, in standard deviations of normal values.
const DRIFT: f64 = 6.0;

/// One kind of sensor.
#[derive(Debug, Clone)]
pub(crate) struct Profile {
    /// Name in a reading.
    pub name: &'static str,
    /// Unit of the values.
    pub unit: &'static str,
    /// Distribution of normal values.
    pub normal: Normal,
    /// Minimum and maximum of normal values.
    pub bounds: (f64, f64),
    /// Physical limits: minimum and maximum that a real sensor can report.
    pub physical: (f64, f64),
    /// Resolution in steps per unit: 100 for two decimals.
    pub steps: f64,
    /// Addition to the mean (or to the probability) at an hour of simulated time;
    /// hour 0 is midnight of the first day.
    pub trend: fn(hours: f64) -> f64,
    /// Direction of spikes.
    pub spike: Spike,
}

/// Distribution of normal values.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Normal {
    /// N(mean, deviation).
    Gauss {
        /// Mean, in the unit of the sensor.
        mean: f64,
        /// Standard deviation, in the unit of the sensor.
        deviation: f64,
    },
    /// 1 with this probability, otherwise 0.
    Bernoulli {
        /// Probability of 1.
        on: f64,
    },
}

/// How the normal values of a sensor are distributed, and how they follow each other.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Process {
    normal: Normal,
    /// Coefficient of the AR(1), the correlation of consecutive readings.
    coefficient: f64,
    /// Weights of the device's own level and of the AR(1) in the deviation from the mean. The
    /// sum of their squares is 1, so that they do not change the distribution over all devices.
    own: f64,
    moving: f64,
}

impl Process {
    /// The process of a sensor whose devices send at this interval.
    pub(crate) fn new(profile: &Profile, config: &SensorsConfig, interval: Duration) -> Self {
        let (normal, correlation, own_level) = match config.normal_of(profile.name) {
            Some(sensor) => {
                let normal = Normal::Gauss {
                    mean: sensor.mean,
                    deviation: sensor.deviation,
                };
                (normal, sensor.correlation, sensor.own_level)
            }
            None => (profile.normal, config.switch.correlation, 0.0),
        };
        let coefficient = if correlation.is_zero() {
            SMOOTHING
        } else {
            (-interval.as_secs_f64() / correlation.as_secs_f64()).exp()
        };
        Self {
            normal,
            coefficient,
            own: own_level.sqrt(),
            moving: (1.0 - own_level).sqrt(),
        }
    }

    fn mean(&self) -> f64 {
        match self.normal {
            Normal::Gauss { mean, .. } => mean,
            Normal::Bernoulli { on } => on,
        }
    }

    fn deviation(&self) -> f64 {
        match self.normal {
            Normal::Gauss { deviation, .. } => deviation,
            Normal::Bernoulli { .. } => 1.0,
        }
    }

    /// The deviation from the mean, in standard deviations.
    fn away(&self, state: &State) -> f64 {
        self.own * state.level + self.moving * state.smooth
    }
}

/// Direction of a sensor's spikes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Spike {
    /// The value rises.
    Up,
    /// The value falls, for sensors with an alert below a threshold.
    Down,
    /// No spikes, for switches.
    None,
}

/// The settings that all sensors share.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Conditions {
    /// Factor of trends, 0 for none.
    pub trend: f64,
    /// Factor of deviations.
    pub variation: f64,
}

/// State of one sensor of a device.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct State {
    /// The value of the AR(1), in standard deviations, or the state of a switch.
    smooth: f64,
    /// The device's own level, in standard deviations.
    level: f64,
    /// The last reported value other than a spike.
    last: f64,
    /// The anomaly in progress.
    pub(crate) episode: Option<Episode>,
}

/// A reading and its anomaly.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Sample {
    /// Value in the unit of the sensor; `None` during a dropout.
    pub value: Option<f64>,
    /// The kind of its anomaly.
    pub anomaly: Option<Kind>,
    /// The anomaly that ends with this reading.
    pub ended: Option<Episode>,
}

/// When a reading is taken.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Moment {
    /// Milliseconds since the Unix epoch.
    pub timestamp: i64,
    /// Simulated time since the start, in hours.
    pub elapsed: f64,
}

/// Finds a sensor by name.
pub(crate) fn find(name: &str) -> Option<&'static Profile> {
    PROFILES.iter().find(|profile| profile.name == name)
}

impl Profile {
    /// The kinds of anomalies that this sensor can have.
    pub(crate) fn anomalies(&self) -> &'static [Kind] {
        match self.normal {
            Normal::Gauss { .. } => &[Kind::Spike, Kind::Stuck, Kind::Drift, Kind::Dropout],
            Normal::Bernoulli { .. } => &[Kind::Toggling, Kind::Dropout],
        }
    }

    /// The state of a new device, drawn from the stationary distribution of the process,
    /// so that the first values are distributed like later ones.
    pub(crate) fn first_state(&self, process: &Process, rng: &mut impl Rng) -> State {
        let mut state = State {
            smooth: 0.0,
            level: 0.0,
            last: 0.0,
            episode: None,
        };
        let last = match process.normal {
            Normal::Gauss { mean, deviation } => {
                state.smooth = rng.sample(StandardNormal);
                if process.own > 0.0 {
                    state.level = rng.sample(StandardNormal);
                }
                mean + deviation * process.away(&state)
            }
            Normal::Bernoulli { on } => {
                state.smooth = f64::from(rng.random::<f64>() < on);
                state.smooth
            }
        };
        state.last = self.rounded(last.clamp(self.bounds.0, self.bounds.1));
        state
    }

    /// The next reading.
    pub(crate) fn sample(
        &self,
        process: &Process,
        state: &mut State,
        at: Moment,
        conditions: &Conditions,
        odds: &Odds,
        rng: &mut impl Rng,
    ) -> Sample {
        let normal = self.normal(process, state, at.elapsed, conditions, rng);
        // Drawn with every reading, so that the anomaly rate does not change later
        // values.
        let (chance, size): (f64, f64) = (rng.random(), rng.random());
        if state.episode.is_none() {
            let drawn = odds.draw(chance);
            state.episode = drawn.map(|(kind, readings)| Episode::new(kind, readings));
        }
        let Some(episode) = &mut state.episode else {
            state.last = self.rounded(normal);
            return Sample {
                value: Some(state.last),
                anomaly: None,
                ended: None,
            };
        };
        if episode.done == 0 {
            (episode.from, episode.up) = (at.timestamp, size < 0.5);
        }
        episode.done += 1;
        episode.to = at.timestamp;
        let (kind, episode) = (episode.kind, *episode);
        let value = self.anomalous(process, &episode, normal, state.last, size);
        let value = value.map(|value| self.rounded(value));
        if kind != Kind::Spike {
            state.last = value.unwrap_or(state.last);
        }
        Sample {
            value,
            anomaly: Some(kind),
            ended: state.episode.take_if(|episode| episode.is_over()),
        }
    }

    /// The next normal value.
    fn normal(
        &self,
        process: &Process,
        state: &mut State,
        elapsed: f64,
        conditions: &Conditions,
        rng: &mut impl Rng,
    ) -> f64 {
        let trend = if conditions.trend > 0.0 {
            conditions.trend * (self.trend)(FIRST_HOUR + elapsed)
        } else {
            0.0
        };
        let coefficient = process.coefficient;
        let value = match process.normal {
            Normal::Gauss { mean, deviation } => {
                // Scaling the innovation keeps the deviation at 1; plain smoothing with
                // 0.7 and 0.3 would reduce it to 0.42.
                let innovation: f64 = rng.sample(StandardNormal);
                state.smooth = coefficient * state.smooth
                    + (1.0 - coefficient * coefficient).sqrt() * innovation;
                mean + deviation * conditions.variation * process.away(state) + trend
            }
            Normal::Bernoulli { on } => {
                // The same correlation for two states: keep the old one with this
                // probability, otherwise draw a new one.
                let (keep, draw): (f64, f64) = (rng.random(), rng.random());
                if keep >= coefficient {
                    state.smooth = f64::from(draw < on + trend);
                }
                state.smooth
            }
        };
        value.clamp(self.bounds.0, self.bounds.1)
    }

    /// The anomalous value in place of `normal`, after `last`; `size` is random in 0..1.
    fn anomalous(
        &self,
        process: &Process,
        episode: &Episode,
        normal: f64,
        last: f64,
        size: f64,
    ) -> Option<f64> {
        match episode.kind {
            Kind::Spike => {
                let value = self.spiked(process.mean(), normal, size);
                Some(self.set_apart(process, value, normal, size))
            }
            Kind::Stuck => Some(last),
            Kind::Drift => {
                let part = f64::from(episode.done) / f64::from(episode.readings);
                let away = DRIFT * part * process.deviation();
                let away = if episode.up { away } else { -away };
                Some((normal + away).clamp(self.physical.0, self.physical.1))
            }
            Kind::Dropout => None,
            Kind::Toggling => Some(1.0 - last),
        }
    }

    fn spiked(&self, mean: f64, normal: f64, size: f64) -> f64 {
        let factor = SPIKE.0 + (SPIKE.1 - SPIKE.0) * size;
        match self.spike {
            // A spike from a value below the mean might not stand out.
            Spike::Up => {
                let base = normal.max(mean);
                let most = (base * SPIKE.1).min(self.physical.1);
                base + (most - base) * (factor - 1.0) / (SPIKE.1 - 1.0)
            }
            Spike::Down => (normal.min(mean) / factor).max(self.physical.0),
            Spike::None => normal,
        }
    }

    /// The spike `value`, or one at a distance in deviations if it does not stand out: a factor
    /// does not move a mean near zero.
    fn set_apart(&self, process: &Process, value: f64, normal: f64, size: f64) -> f64 {
        let mean = process.mean();
        // Values that hardly vary still need a distance.
        let least = (self.bounds.1 - self.bounds.0) / 20.0;
        let deviation = process.deviation().max(least);
        let moved = match self.spike {
            Spike::Up => value - mean,
            Spike::Down => mean - value,
            Spike::None => return value,
        };
        if moved >= APART * deviation {
            return value;
        }
        let distance = APART * deviation * (1.0 + size);
        let (above, below) = (normal.max(mean) + distance, normal.min(mean) - distance);
        let (least, most) = self.physical;
        let up = match self.spike {
            Spike::Up => above <= most || most - mean >= mean - least,
            Spike::Down | Spike::None => below < least && most - mean > mean - least,
        };
        (if up { above } else { below }).clamp(least, most)
    }

    fn rounded(&self, value: f64) -> f64 {
        (value * self.steps).round() / self.steps
    }
}

/// A cosine wave with this period (hours) and amplitude, and its maximum at hour `peak`.
fn wave(hours: f64, period: f64, peak: f64, amplitude: f64) -> f64 {
    amplitude * (std::f64::consts::TAU * (hours - peak) / period).cos()
}

#[cfg(test)]
mod tests;
