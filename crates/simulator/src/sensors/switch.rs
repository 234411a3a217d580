//! A switch, which is on more often by day than by night.

use super::{Normal, Profile, Spike, wave};

pub(super) const PROFILE: Profile = Profile {
    name: "switch",
    unit: "state",
    normal: Normal::Bernoulli { on: 0.8 },
    bounds: (0.0, 1.0),
    physical: (0.0, 1.0),
    steps: 1.0,
    trend,
    spike: Spike::None,
};

/// Change of the probability: it is 0.95 at 14:00 and 0.65 at 2:00.
fn trend(hours: f64) -> f64 {
    wave(hours, 24.0, 14.0, 0.15)
}
