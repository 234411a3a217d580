//! The name of the rules that decide the state, given the log.

use iot_fold::SCHEMA;
use sha2::{Digest, Sha256};

use super::ConsumerConfig;

/// Must change with the code when the same records and settings give another state.
const FOLD: u32 = 1;

impl ConsumerConfig {
    /// 16 hexadecimal digits that are the same for two replicas if these settings are: then their
    /// states of a partition are the same at each offset.
    pub(crate) fn rules_hash(&self) -> String {
        let limits = (self.limits.devices, self.limits.sensors);
        let rules = (
            (FOLD, SCHEMA),
            (&self.mappings, &self.sensors, &self.thresholds),
            (&self.validate, &self.windows, &self.detect, &self.retention),
            limits,
        );
        // Settings can always be written as JSON: they came as such.
        let text = serde_json::to_string(&rules).unwrap_or_default();
        let hash = Sha256::digest(text.as_bytes());
        hash[..8].iter().map(|byte| format!("{byte:02x}")).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Partial, Role};

    #[test]
    fn only_settings_that_decide_the_state_change_the_hash() {
        type Change = fn(&mut ConsumerConfig);
        let defaults = ConsumerConfig::default().rules_hash();
        assert_eq!(defaults.len(), 16);
        let changed = |change: Change| {
            let mut config = ConsumerConfig::default();
            change(&mut config);
            config.rules_hash() != defaults
        };
        let rules: [Change; 7] = [
            |config| config.validate.partial = Partial::Refuse,
            |config| config.windows.keep += 1,
            |config| config.detect.spike.limit += 0.1,
            |config| config.retention.devices = iot_service::config::HumanDuration::from_secs(9),
            |config| config.limits.devices -= 1,
            |config| config.limits.sensors -= 1,
            |config| config.mappings.ready.push(crate::config::Ready::Tasmota),
        ];
        assert_eq!(rules.map(changed), [true; 7]);
        let others: [Change; 4] = [
            |config| config.role = Role::Serve,
            |config| config.limits.alerts += 1,
            |config| config.kafka.group = "another".into(),
            |config| config.store.key_prefix = "another".into(),
        ];
        assert_eq!(others.map(changed), [false; 4]);
    }
}
