//! A fleet of simulated devices that sends its readings to Kafka, to an MQTT
//! broker, or to standard output.
//!
//! [`run`] is the only entrance: binary, tests and demo use the same one.

pub mod args;
#[doc(hidden)]
pub mod bench;
mod clock;
pub mod config;
mod control;
mod figures;
mod fleet;
mod lane;
mod metrics;
mod pipeline;
mod schedule;
mod sensors;
mod sink;
mod status;
mod truth;
mod worker;

use anyhow::Context;
use iot_service::config::Live;
use iot_service::health::Health;
use iot_service::{Listeners, ops};
use prometheus::Registry;
use tokio_util::sync::CancellationToken;

use crate::config::SimulatorConfig;
use crate::control::Control;
use crate::metrics::Metrics;
use crate::pipeline::Pipeline;

/// Runs the simulator until `shutdown`, or until it has sent what
/// `run.messages` or `run.duration` ask for.
///
/// # Errors
/// A part of the simulator failed for good, or a condition of `run.fail_when`
/// holds. A sink that is away is none: it is tried again until it is there.
pub async fn run(
    config: Live<SimulatorConfig>,
    listeners: Listeners,
    shutdown: CancellationToken,
) -> anyhow::Result<()> {
    let registry = Registry::new();
    let health = Health::default();
    let metrics =
        Metrics::new(&registry, config.current().sink).context("registering the metrics")?;
    let ops_stop = CancellationToken::new();
    let ops = ops::serve(listeners.ops, registry, health.clone(), ops_stop.clone());
    let control = Control::start(config, metrics.clone());
    let http = listeners.http;
    let http = http.map(|listener| control::serve(listener, control.clone(), ops_stop.clone()));
    let pipeline = Pipeline {
        config: control.config(),
        control,
        metrics,
        health,
        shutdown,
    };
    let result = pipeline.run().await;
    // Last, so that the whole shutdown can be watched.
    ops_stop.cancel();
    ops.abort();
    http.inspect(|http| http.abort());
    result
}
