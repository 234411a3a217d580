//! Air temperature, which follows day and night.

use super::{Normal, Profile, Spike, wave};

pub(super) const PROFILE: Profile = Profile {
    name: "temperature",
    unit: "celsius",
    normal: Normal::Gauss {
        mean: 25.0,
        deviation: 5.0,
    },
    bounds: (-10.0, 60.0),
    physical: (-90.0, 200.0),
    steps: 100.0,
    trend,
    spike: Spike::Up,
};

/// Highest at 15:00.
fn trend(hours: f64) -> f64 {
    wave(hours, 24.0, 15.0, 3.0)
}
