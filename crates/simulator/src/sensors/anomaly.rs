//! What goes wrong with a sensor, for one reading or for a while.

use serde::{Deserialize, Serialize};

use crate::config::AnomalyConfig;

/// One kind of anomaly.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Kind {
    /// One value jumps away.
    Spike,
    /// The value stays as it was.
    Stuck,
    /// The value moves away, a little more with each reading.
    Drift,
    /// There are no readings.
    Dropout,
    /// A switch changes with each reading.
    Toggling,
}

impl Kind {
    /// How many readings it lasts.
    pub(crate) fn readings(self, config: &AnomalyConfig) -> u32 {
        match self {
            Self::Spike => 1,
            Self::Stuck | Self::Drift | Self::Dropout | Self::Toggling => config.readings,
        }
    }

    /// Its name in labels.
    pub(crate) fn label(self) -> &'static str {
        match self {
            Self::Spike => "spike",
            Self::Stuck => "stuck",
            Self::Drift => "drift",
            Self::Dropout => "dropout",
            Self::Toggling => "toggling",
        }
    }
}

/// How likely each kind begins with a reading that is none yet.
#[derive(Debug, Clone)]
pub(crate) struct Odds {
    /// Kinds that there can be, how many readings each lasts, and the
    /// probability that it or one before it begins.
    kinds: Vec<(Kind, u32, f64)>,
}

impl Odds {
    /// Odds with which `config.rate` of all readings are anomalous, divided
    /// among those of `possible` as their weights say.
    pub(crate) fn new(config: &AnomalyConfig, possible: &[Kind]) -> Self {
        let weights = |kind: &Kind| config.weight(*kind);
        let all: f64 = possible.iter().map(weights).sum();
        let mut kinds = Vec::new();
        let mut below = 0.0;
        for kind in possible.iter().filter(|kind| weights(kind) > 0.0) {
            let readings = kind.readings(config);
            // Of an hour with readings, this part is free of anomalies, and in
            // it they begin: a share is begun / (1 + begun), all together.
            let share = config.rate * weights(kind) / all;
            below += share / f64::from(readings) / (1.0 - config.rate);
            kinds.push((*kind, readings, below));
        }
        Self { kinds }
    }

    /// What begins; `chance` is in 0..1.
    pub(crate) fn draw(&self, chance: f64) -> Option<(Kind, u32)> {
        let drawn = self.kinds.iter().find(|(_, _, below)| chance < *below);
        drawn.map(|(kind, readings, _)| (*kind, *readings))
    }
}

/// An anomaly under way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Episode {
    pub(crate) kind: Kind,
    /// When it began, milliseconds since the epoch.
    pub(crate) from: i64,
    /// The time of its last reading so far.
    pub(crate) to: i64,
    /// Readings it lasts, and how many of them there were.
    pub(crate) readings: u32,
    pub(crate) done: u32,
    /// Direction of a drift.
    pub(crate) up: bool,
}

impl Episode {
    /// One that begins with the next reading.
    pub(crate) fn new(kind: Kind, readings: u32) -> Self {
        Self {
            kind,
            from: 0,
            to: 0,
            readings,
            done: 0,
            up: false,
        }
    }

    pub(crate) fn is_over(&self) -> bool {
        self.done >= self.readings
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn odds_follow_rates_weights_and_durations() {
        let config = AnomalyConfig {
            rate: 0.1,
            readings: 10,
            ..AnomalyConfig::default()
        };
        let odds = Odds::new(&config, &[Kind::Spike, Kind::Stuck]);
        // Of 100 readings 90 are normal; 5 spikes of one and half an episode of ten.
        let (spike, stuck) = (5.0 / 90.0, 0.5 / 90.0);
        assert_eq!(odds.draw(spike * 0.99), Some((Kind::Spike, 1)));
        assert_eq!(odds.draw(spike * 1.01), Some((Kind::Stuck, 10)));
        assert_eq!(odds.draw((spike + stuck) * 1.01), None);
    }

    #[test]
    fn a_kind_without_weight_never_comes() {
        let mut config = AnomalyConfig {
            rate: 0.1,
            ..AnomalyConfig::default()
        };
        config.kinds.spike = 0.0;
        let odds = Odds::new(&config, &[Kind::Spike]);
        assert_eq!(odds.draw(0.0), None);
    }
}
