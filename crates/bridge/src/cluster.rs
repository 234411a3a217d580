//! Look-ups in the Kafka cluster for the tools and for the checks before a start.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use iot_kafka::lookup::{self, Cluster};

use crate::creator::Admin;

/// How long Kafka may take to answer one request.
pub(crate) const DEADLINE: Duration = Duration::from_secs(15);

/// Brokers and topics.
///
/// # Errors
/// No broker answers.
pub(crate) async fn cluster(admin: &Arc<Admin>) -> anyhow::Result<Cluster> {
    let admin = admin.clone();
    let asked = tokio::task::spawn_blocking(move || lookup::cluster(admin.inner(), DEADLINE));
    asked.await?.context("no Kafka broker answers")
}
