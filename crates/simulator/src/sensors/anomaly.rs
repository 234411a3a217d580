//! Anomalies of a sensor, for one reading or several.

use serde::{Deserialize, Serialize};

use crate::config::AnomalyConfig;

/// One kind of anomaly.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Kind {
    /// One value is far off.
    Spike,
    /// The value does not change.
    Stuck,
    /// The value moves away, a little more with each reading.
    Drift,
    /// There are no readings.
    Dropout,
    /// A switch changes with each reading.
    Toggling,
}

impl Kind {
    /// How many readings an anomaly of this kind lasts.
    pub(crate) fn readings(self, config: &AnomalyConfig) -> u32 {
        match self {
            Self::Spike => 1,
            Self::Stuck | Self::Drift | Self::Dropout | Self::Toggling => config.readings,
        }
    }

    /// The name in labels.
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

/// The probability that an anomaly of each kind starts with a normal reading.
#[derive(Debug, Clone)]
pub(crate) struct Odds {
    /// The kinds, how many readings each lasts, and the cumulative probability that
    /// this kind or a previous one starts.
    kinds: Vec<(Kind, u32, f64)>,
}

impl Odds {
    /// Probabilities with which the share `config.rate` of all readings is anomalous,
    /// divided among the kinds in `possible` by their weights.
    pub(crate) fn new(config: &AnomalyConfig, possible: &[Kind]) -> Self {
        let weights = |kind: &Kind| config.weight(*kind);
        let all: f64 = possible.iter().map(weights).sum();
        let mut kinds = Vec::new();
        let mut below = 0.0;
        for kind in possible.iter().filter(|kind| weights(kind) > 0.0) {
            let readings = kind.readings(config);
            // An anomaly starts only with a normal reading, and those are the share
            // 1 - rate of all readings.
            let share = config.rate * weights(kind) / all;
            below += share / f64::from(readings) / (1.0 - config.rate);
            kinds.push((*kind, readings, below));
        }
        Self { kinds }
    }

    /// The anomaly that starts and its number of readings; `chance` is random in 0..1.
    pub(crate) fn draw(&self, chance: f64) -> Option<(Kind, u32)> {
        let drawn = self.kinds.iter().find(|(_, _, below)| chance < *below);
        drawn.map(|(kind, readings, _)| (*kind, *readings))
    }
}

/// An anomaly in progress.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Episode {
    pub(crate) kind: Kind,
    /// Time of its first reading, milliseconds since the Unix epoch.
    pub(crate) from: i64,
    /// Time of its latest reading.
    pub(crate) to: i64,
    /// Number of readings that it lasts.
    pub(crate) readings: u32,
    /// Number of readings so far.
    pub(crate) done: u32,
    /// Direction of a drift.
    pub(crate) up: bool,
}

impl Episode {
    /// An anomaly that starts with the next reading.
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
        // Of 100 readings 90 are normal; 5 are spikes, and 5 are half an episode of ten.
        let (spike, stuck) = (5.0 / 90.0, 0.5 / 90.0);
        assert_eq!(odds.draw(spike * 0.99), Some((Kind::Spike, 1)));
        assert_eq!(odds.draw(spike * 1.01), Some((Kind::Stuck, 10)));
        assert_eq!(odds.draw((spike + stuck) * 1.01), None);
    }

    #[test]
    fn a_kind_without_weight_never_starts() {
        let mut config = AnomalyConfig {
            rate: 0.1,
            ..AnomalyConfig::default()
        };
        config.kinds.spike = 0.0;
        let odds = Odds::new(&config, &[Kind::Spike]);
        assert_eq!(odds.draw(0.0), None);
    }
}
