//! Relative humidity, which follows the seasons.

use super::{Normal, Profile, Spike, wave};

pub(super) const PROFILE: Profile = Profile {
    name: "humidity",
    unit: "percent",
    normal: Normal::Gauss {
        mean: 60.0,
        deviation: 10.0,
    },
    bounds: (0.0, 100.0),
    physical: (0.0, 100.0),
    steps: 100.0,
    trend,
    spike: Spike::Down,
};

/// Highest half a year after the start.
fn trend(hours: f64) -> f64 {
    const YEAR: f64 = 365.0 * 24.0;
    wave(hours, YEAR, YEAR / 2.0, 5.0)
}
