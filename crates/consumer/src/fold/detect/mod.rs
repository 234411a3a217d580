//! Detectors: each looks at the readings of one sensor in the order of their time
//! and says of every reading whether it is as it should be. They are pure, and
//! their state is part of the sensor's. docs/detection.md explains them.

pub(crate) mod threshold;

use crate::model::Level;

/// What a detector says of a reading.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Verdict {
    /// It is as it should be: an alert is over.
    Normal,
    /// Too near to the limit to raise an alert, or to clear one.
    Near,
    /// It is not as it should be.
    Beyond(Finding),
}

/// What is wrong with a reading.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Finding {
    pub(crate) level: Level,
    /// What it is measured by; what that is depends on the kind of the alert.
    pub(crate) limit: f64,
    /// On which side of the limit.
    pub(crate) above: bool,
}
