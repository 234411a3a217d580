//! Electric current, which follows the working day.

use super::{Normal, Profile, Spike, wave};

pub(super) const PROFILE: Profile = Profile {
    name: "current",
    unit: "ampere",
    normal: Normal::Gauss {
        mean: 2.5,
        deviation: 0.5,
    },
    bounds: (0.0, 10.0),
    physical: (0.0, 100.0),
    steps: 1000.0,
    trend,
    spike: Spike::Up,
};

/// Highest at 13:00.
fn trend(hours: f64) -> f64 {
    wave(hours, 24.0, 13.0, 0.4)
}
