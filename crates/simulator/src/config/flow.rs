//! Settings of flow control.

use iot_service::Backoff;
use iot_service::config::HumanDuration;
use serde::{Deserialize, Serialize};

/// Section `flow`: what happens, and is counted, when the sink is slower than the fleet.
/// First the devices slow down, then some messages are dropped, and then all.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct FlowConfig {
    /// Share of the buffer, 0 to 1, above which devices slow down.
    pub throttle_above: f64,
    /// Share of their rate at which they continue, 0 to 1: the tokens that each message
    /// that falls due adds to the bucket from which every message created takes one.
    pub throttled_rate: f64,
    /// How many messages may wait to be created, in all lanes together.
    pub held_back: u32,
    /// Share of messages that is dropped once no more may wait, 0 to 1.
    pub drop_rate: f64,
}

impl Default for FlowConfig {
    fn default() -> Self {
        Self {
            throttle_above: 0.8,
            throttled_rate: 0.5,
            held_back: 10_000,
            drop_rate: 0.5,
        }
    }
}

/// Section `retry`: the delays between attempts to send or to connect.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RetryConfig {
    /// Upper bound of the first delay; the bound doubles with each attempt. Delays are random,
    /// from half of it.
    pub backoff: HumanDuration,
    /// The longest delay.
    pub max_backoff: HumanDuration,
}

impl Default for RetryConfig {
    fn default() -> Self {
        Self {
            backoff: HumanDuration::from_millis(100),
            max_backoff: HumanDuration::from_secs(5),
        }
    }
}

impl RetryConfig {
    /// The delays, from the first one on.
    pub(crate) fn delays(&self) -> Backoff {
        Backoff::new(*self.backoff, *self.max_backoff)
    }
}

/// Section `circuit`: the circuit breaker of each lane.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct CircuitConfig {
    /// Number of consecutive failures that open it.
    pub failures: u32,
    /// How long it stays open before a probe.
    pub open_for: HumanDuration,
}

impl Default for CircuitConfig {
    fn default() -> Self {
        Self {
            failures: 5,
            open_for: HumanDuration::from_secs(5),
        }
    }
}
