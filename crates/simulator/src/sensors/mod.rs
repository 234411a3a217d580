//! What the devices measure.
//!
//! A sensor is one [`Profile`] in a file of its own and one line in
//! [`PROFILES`]; `sensors.enabled` picks from them by name. A value is made in
//! the order that keeps it honest: normal value, smoothed, plus trend, clipped
//! to the bounds of normal values; only then, now and then, an anomaly, which
//! is meant to stick out and so is bounded by physics alone.

pub(crate) mod anomaly;
mod current;
mod humidity;
mod pressure;
mod switch;
mod temperature;

use rand::{Rng, RngExt};
use rand_distr::StandardNormal;

use self::anomaly::{Episode, Kind, Odds};

/// Every sensor there is.
pub(crate) const PROFILES: &[Profile] = &[
    temperature::PROFILE,
    humidity::PROFILE,
    pressure::PROFILE,
    switch::PROFILE,
    current::PROFILE,
];

/// How much of the old value is in the new one: the coefficient of an AR(1).
const SMOOTHING: f64 = 0.7;
/// The hour of the day at which the simulated time starts.
const FIRST_HOUR: f64 = 8.0;
/// A spike is this many times the normal value, at least and at most.
const SPIKE: (f64, f64) = (2.0, 5.0);
/// How far a drift gets, in deviations of normal values.
const DRIFT: f64 = 6.0;

/// One kind of sensor.
#[derive(Debug, Clone)]
pub(crate) struct Profile {
    /// Name as it stands in a reading.
    pub name: &'static str,
    /// Unit of the values.
    pub unit: &'static str,
    /// How normal values are distributed.
    pub normal: Normal,
    /// Least and greatest normal value.
    pub bounds: (f64, f64),
    /// Least and greatest value a real sensor of this kind can report.
    pub physical: (f64, f64),
    /// Steps per unit: 100 for values of two decimals.
    pub steps: f64,
    /// What is added to the mean (or to the probability) at an hour of
    /// simulated time; hour 0 is midnight of the first day.
    pub trend: fn(hours: f64) -> f64,
    /// What a spike looks like.
    pub spike: Spike,
}

/// How normal values are distributed.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Normal {
    /// N(mean, deviation).
    Gauss {
        /// Mean, in the unit of the sensor.
        mean: f64,
        /// Standard deviation, in the unit of the sensor.
        deviation: f64,
    },
    /// 1 with this probability, else 0.
    Bernoulli {
        /// Probability of 1.
        on: f64,
    },
}

/// What a spike of a sensor looks like.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Spike {
    /// The value jumps up.
    Up,
    /// The value falls: where the alert is for too little.
    Down,
    /// There is none: no switch is five times on.
    None,
}

/// The settings all sensors share.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Conditions {
    /// Factor on trends, 0 for none.
    pub trend: f64,
    /// Factor on deviations.
    pub variation: f64,
}

/// Where a sensor of a device is.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct State {
    /// The smoothed deviation from the mean, or the state of a switch.
    smooth: f64,
    /// The last value reported that was no spike.
    last: f64,
    /// What is wrong with it.
    pub(crate) episode: Option<Episode>,
}

/// A reading, and whether it is an anomaly.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Sample {
    /// Value in the unit of the sensor; none while it has dropped out.
    pub value: Option<f64>,
    /// The kind of its anomaly.
    pub anomaly: Option<Kind>,
    /// The anomaly that is over with this reading.
    pub ended: Option<Episode>,
}

/// When a reading is taken.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Moment {
    /// Milliseconds since the epoch.
    pub timestamp: i64,
    /// Simulated time since the start, hours.
    pub elapsed: f64,
}

/// The profile of that name.
pub(crate) fn find(name: &str) -> Option<&'static Profile> {
    PROFILES.iter().find(|profile| profile.name == name)
}

impl Profile {
    /// The kinds of anomalies that it can have.
    pub(crate) fn anomalies(&self) -> &'static [Kind] {
        match self.normal {
            Normal::Gauss { .. } => &[Kind::Spike, Kind::Stuck, Kind::Drift, Kind::Dropout],
            Normal::Bernoulli { .. } => &[Kind::Toggling, Kind::Dropout],
        }
    }

    /// The state of a new device, drawn from the distribution the process
    /// settles in, so that the first values are as good as later ones.
    pub(crate) fn first_state(&self, rng: &mut impl Rng) -> State {
        let (smooth, last) = match self.normal {
            Normal::Gauss { mean, deviation } => {
                let smooth: f64 = rng.sample(StandardNormal);
                (smooth, mean + deviation * smooth)
            }
            Normal::Bernoulli { on } => {
                let state = f64::from(rng.random::<f64>() < on);
                (state, state)
            }
        };
        State {
            smooth,
            last: self.rounded(last.clamp(self.bounds.0, self.bounds.1)),
            episode: None,
        }
    }

    /// The next reading.
    pub(crate) fn sample(
        &self,
        state: &mut State,
        at: Moment,
        conditions: &Conditions,
        odds: &Odds,
        rng: &mut impl Rng,
    ) -> Sample {
        let normal = self.normal(state, at.elapsed, conditions, rng);
        // Drawn whether or not there is an anomaly, so that the rate doesn't
        // change which values come after it.
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
        let value = self.anomalous(&episode, normal, state.last, size);
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
        let value = match self.normal {
            Normal::Gauss { mean, deviation } => {
                // Scaling the innovation keeps the deviation at 1; plain
                // smoothing of 0.7 and 0.3 would shrink it to 0.42.
                let innovation: f64 = rng.sample(StandardNormal);
                state.smooth =
                    SMOOTHING * state.smooth + (1.0 - SMOOTHING * SMOOTHING).sqrt() * innovation;
                mean + deviation * conditions.variation * state.smooth + trend
            }
            Normal::Bernoulli { on } => {
                // The same correlation for two states: keep the old one with
                // this probability, else draw anew.
                let (keep, draw): (f64, f64) = (rng.random(), rng.random());
                if keep >= SMOOTHING {
                    state.smooth = f64::from(draw < on + trend);
                }
                state.smooth
            }
        };
        value.clamp(self.bounds.0, self.bounds.1)
    }

    /// What is read in place of `normal` after `last`; `size` is in 0..1.
    fn anomalous(&self, episode: &Episode, normal: f64, last: f64, size: f64) -> Option<f64> {
        match episode.kind {
            Kind::Spike => Some(self.spiked(normal, size)),
            Kind::Stuck => Some(last),
            Kind::Drift => {
                let part = f64::from(episode.done) / f64::from(episode.readings);
                let away = DRIFT * part * self.deviation();
                let away = if episode.up { away } else { -away };
                Some((normal + away).clamp(self.physical.0, self.physical.1))
            }
            Kind::Dropout => None,
            Kind::Toggling => Some(1.0 - last),
        }
    }

    fn spiked(&self, normal: f64, size: f64) -> f64 {
        let factor = SPIKE.0 + (SPIKE.1 - SPIKE.0) * size;
        let mean = match self.normal {
            Normal::Gauss { mean, .. } => mean,
            Normal::Bernoulli { on } => on,
        };
        match self.spike {
            // From a value below the mean a spike might not stick out.
            Spike::Up => {
                let base = normal.max(mean);
                let most = (base * SPIKE.1).min(self.physical.1);
                base + (most - base) * (factor - 1.0) / (SPIKE.1 - 1.0)
            }
            Spike::Down => (normal.min(mean) / factor).max(self.physical.0),
            Spike::None => normal,
        }
    }

    fn deviation(&self) -> f64 {
        match self.normal {
            Normal::Gauss { deviation, .. } => deviation,
            Normal::Bernoulli { .. } => 1.0,
        }
    }

    fn rounded(&self, value: f64) -> f64 {
        (value * self.steps).round() / self.steps
    }
}

/// A wave of this period (hours) and amplitude that is highest at `peak`.
fn wave(hours: f64, period: f64, peak: f64, amplitude: f64) -> f64 {
    amplitude * (std::f64::consts::TAU * (hours - peak) / period).cos()
}

#[cfg(test)]
mod tests;
