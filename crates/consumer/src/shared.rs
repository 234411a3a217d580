//! What the owners and followers of all partitions share.

use std::sync::Arc;

use iot_live::Hub;
use kafka_fetch::{Budget, Fetcher};

use crate::config::ConsumerConfig;
use crate::metrics::Metrics;
use crate::readiness::SharedReadiness;
use crate::store::Keeper;

/// What all owners and followers share.
pub(crate) struct Shared {
    pub(crate) config: ConsumerConfig,
    pub(crate) store: Arc<Keeper>,
    pub(crate) hub: Hub,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) fetcher: Fetcher,
    pub(crate) budget: Budget,
    /// Of the stored state.
    pub(crate) state: SharedReadiness,
}
