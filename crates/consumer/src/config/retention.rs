//! Section `retention`.

use iot_service::config::{HumanDuration, Problems};
use serde::{Deserialize, Serialize};

use super::{DetectConfig, millis};

/// Section `retention`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RetentionConfig {
    /// How long a device is kept after its last message, in the time of its partition; 0
    /// keeps it forever.
    pub devices: HumanDuration,
}

impl Default for RetentionConfig {
    fn default() -> Self {
        Self {
            devices: HumanDuration::from_secs(0),
        }
    }
}

impl RetentionConfig {
    /// In milliseconds; `None` if devices are kept forever.
    pub(crate) fn of_devices(&self) -> Option<i64> {
        Some(millis(*self.devices)).filter(|retention| *retention > 0)
    }

    pub(crate) fn validate(&self, detect: &DetectConfig, problems: &mut Problems) {
        let Some(retention) = self.of_devices() else {
            return;
        };
        if retention < 1_000 {
            problems.add(
                "retention.devices",
                "must be at least 1s, or 0s for no limit",
            );
        }
        if detect
            .silence
            .patience()
            .is_some_and(|after| retention <= after)
        {
            problems.add(
                "retention.devices",
                "must be longer than detect.silence.after: a device is silent before it is removed",
            );
        }
    }
}
