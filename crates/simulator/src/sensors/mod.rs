//! What the devices measure.
//!
//! A sensor is one [`Profile`] in a file of its own and one line in
//! [`PROFILES`]; `sensors.enabled` picks from them by name. A value is made in
//! the order that keeps it honest: normal value, smoothed, plus trend, clipped
//! to the bounds of normal values; only then, now and then, an anomaly, which
//! is meant to stick out and so is bounded by physics alone.

mod current;
mod humidity;
mod pressure;
mod switch;
mod temperature;

use rand::{Rng, RngExt};
use rand_distr::StandardNormal;

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
/// An anomalous value is this many times the normal one, at least and at most.
const SPIKE: (f64, f64) = (2.0, 5.0);

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
    /// What an anomaly looks like.
    pub anomaly: Anomaly,
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

/// What an anomaly of a sensor looks like.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Anomaly {
    /// The value jumps up.
    SpikeUp,
    /// The value falls: where the alert is for too little.
    SpikeDown,
    /// There is none: no switch is five times on.
    None,
}

/// The settings all sensors share.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Conditions {
    /// Probability that a reading is an anomaly.
    pub anomaly_rate: f64,
    /// Factor on trends, 0 for none.
    pub trend: f64,
    /// Factor on deviations.
    pub variation: f64,
}

/// A value, and whether it is an anomaly.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Sample {
    /// Value in the unit of the sensor.
    pub value: f64,
    /// The true label of an anomaly, such as `spike`.
    pub label: Option<&'static str>,
}

/// The profile of that name.
pub(crate) fn find(name: &str) -> Option<&'static Profile> {
    PROFILES.iter().find(|profile| profile.name == name)
}

impl Profile {
    /// The smoothed state of a new device, drawn from the distribution the
    /// process settles in, so that the first values are as good as later ones.
    pub(crate) fn first_state(&self, rng: &mut impl Rng) -> f64 {
        match self.normal {
            Normal::Gauss { .. } => rng.sample(StandardNormal),
            Normal::Bernoulli { on } => f64::from(rng.random::<f64>() < on),
        }
    }

    /// The next value. `elapsed` is the simulated time since the start, hours.
    pub(crate) fn sample(
        &self,
        state: &mut f64,
        elapsed: f64,
        conditions: &Conditions,
        rng: &mut impl Rng,
    ) -> Sample {
        let trend = if conditions.trend > 0.0 {
            conditions.trend * (self.trend)(FIRST_HOUR + elapsed)
        } else {
            0.0
        };
        let normal = match self.normal {
            Normal::Gauss { mean, deviation } => {
                // Scaling the innovation keeps the deviation at 1; plain
                // smoothing of 0.7 and 0.3 would shrink it to 0.42.
                let innovation: f64 = rng.sample(StandardNormal);
                *state = SMOOTHING * *state + (1.0 - SMOOTHING * SMOOTHING).sqrt() * innovation;
                mean + deviation * conditions.variation * *state + trend
            }
            Normal::Bernoulli { on } => {
                // The same correlation for two states: keep the old one with
                // this probability, else draw anew.
                let (keep, draw): (f64, f64) = (rng.random(), rng.random());
                if keep >= SMOOTHING {
                    *state = f64::from(draw < on + trend);
                }
                *state
            }
        };
        let normal = normal.clamp(self.bounds.0, self.bounds.1);
        // Drawn whether or not there is an anomaly, so that the rate doesn't
        // change which values come after it.
        let (chance, size): (f64, f64) = (rng.random(), rng.random());
        let anomaly = chance < conditions.anomaly_rate;
        match self.anomalous(normal, size).filter(|_| anomaly) {
            Some(value) => Sample {
                value: self.rounded(value),
                label: Some("spike"),
            },
            None => Sample {
                value: self.rounded(normal),
                label: None,
            },
        }
    }

    /// The anomaly in place of `normal`; `size` is in 0..1.
    fn anomalous(&self, normal: f64, size: f64) -> Option<f64> {
        let factor = SPIKE.0 + (SPIKE.1 - SPIKE.0) * size;
        let mean = match self.normal {
            Normal::Gauss { mean, .. } => mean,
            Normal::Bernoulli { on } => on,
        };
        match self.anomaly {
            // From a value below the mean a spike might not stick out.
            Anomaly::SpikeUp => {
                let base = normal.max(mean);
                let most = (base * SPIKE.1).min(self.physical.1);
                Some(base + (most - base) * (factor - 1.0) / (SPIKE.1 - 1.0))
            }
            Anomaly::SpikeDown => Some((normal.min(mean) / factor).max(self.physical.0)),
            Anomaly::None => None,
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
