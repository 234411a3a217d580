//! Air pressure, which follows the weather.

use super::{Normal, Profile, Spike, wave};

pub(super) const PROFILE: Profile = Profile {
    name: "pressure",
    unit: "hectopascal",
    normal: Normal::Gauss {
        mean: 1013.0,
        deviation: 20.0,
    },
    bounds: (950.0, 1050.0),
    physical: (300.0, 2000.0),
    steps: 10.0,
    trend,
    spike: Spike::Up,
};

/// Highs and lows alternate with a period of four days.
fn trend(hours: f64) -> f64 {
    wave(hours, 96.0, 48.0, 6.0)
}
