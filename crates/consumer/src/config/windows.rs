//! Section `windows`.

use std::time::Duration;

use iot_fold::{MOST_SIZES, WindowRules};
use iot_service::config::{HumanDuration, Problems};
use serde::{Deserialize, Serialize};

/// Times within a window are stored as 32 bits of milliseconds.
const LONGEST_SIZE: Duration = Duration::from_secs(7 * 24 * 3_600);
const SHORTEST_SIZE: Duration = Duration::from_secs(1);
/// One answer of the API lists all of them.
const MOST_KEPT: u32 = 1_440;

/// Section `windows`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct WindowsConfig {
    /// Sizes of the tumbling windows.
    pub sizes: Vec<HumanDuration>,
    /// How long after its end a window still accepts readings, by the device's watermark.
    pub allowed_lateness: HumanDuration,
    /// How many sealed windows of each size are kept.
    pub keep: u32,
}

impl Default for WindowsConfig {
    fn default() -> Self {
        Self {
            sizes: [60, 300, 3_600].map(HumanDuration::from_secs).into(),
            allowed_lateness: HumanDuration::from_secs(30),
            keep: 15,
        }
    }
}

impl WindowsConfig {
    pub(crate) fn validate(&self, problems: &mut Problems) {
        if !(1..=MOST_SIZES).contains(&self.sizes.len()) {
            problems.add(
                "windows.sizes",
                format!("must have 1 to {MOST_SIZES} entries"),
            );
        }
        for (at, size) in self.sizes.iter().enumerate() {
            if !(SHORTEST_SIZE..=LONGEST_SIZE).contains(&**size) {
                problems.add("windows.sizes", "must each be between 1s and 7d");
            }
            let same = |other: &HumanDuration| other.as_millis() == size.as_millis();
            if self.sizes[..at].iter().any(same) {
                problems.add("windows.sizes", format!("{size} is listed twice"));
            }
        }
        let smallest = self.sizes.iter().map(|size| size.as_millis()).min();
        if smallest.is_some_and(|size| self.allowed_lateness.as_millis() > 100 * size) {
            problems.add(
                "windows.allowed_lateness",
                "must be at most 100 times the smallest of windows.sizes, which limits how many windows are open",
            );
        }
        if !(1..=MOST_KEPT).contains(&self.keep) {
            problems.add("windows.keep", format!("must be between 1 and {MOST_KEPT}"));
        }
    }

    /// The rules of windows.
    pub(crate) fn rules(&self) -> WindowRules {
        let sizes = self.sizes.iter().map(|size| millis(**size)).collect();
        let lateness = millis(*self.allowed_lateness);
        WindowRules::new(sizes, lateness, i64::from(self.keep))
    }

    /// The longest retention of any window.
    pub(crate) fn longest_retention(&self) -> Duration {
        let longest = self.sizes.iter().map(|size| **size).max();
        longest.unwrap_or_default().saturating_mul(self.keep)
    }
}

/// A duration in milliseconds; `i64::MAX` if it is longer.
pub(crate) fn millis(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)
}
