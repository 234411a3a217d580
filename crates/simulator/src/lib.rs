//! A fleet of simulated devices that sends its readings to Kafka, to an MQTT
//! broker, to standard output or to a file.
//!
//! [`run`] is the only entry point: the binary, the tests and the demo use it.

pub mod args;
#[doc(hidden)]
pub mod bench;
mod clock;
pub mod config;
mod control;
mod deliveries;
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
use iot_service::{Listeners, ops, server};
use prometheus::Registry;
use tokio_util::sync::CancellationToken;

use crate::config::SimulatorConfig;
use crate::control::Control;
use crate::metrics::Metrics;
use crate::pipeline::Pipeline;

/// Runs the simulator until `shutdown`, or until the end of `run.messages` or
/// `run.duration`.
///
/// # Errors
/// A part of the simulator failed permanently, or a condition of `run.fail_when`
/// holds. An unavailable sink is not an error: sending is retried.
pub async fn run(
    config: Live<SimulatorConfig>,
    listeners: Listeners,
    shutdown: CancellationToken,
) -> anyhow::Result<()> {
    let registry = Registry::new();
    let health = Health::default();
    let metrics =
        Metrics::new(&registry, config.current().sink).context("registering the metrics")?;
    let refused = server::refused("http", &registry);
    let ops_stop = CancellationToken::new();
    let ops = ops::serve(listeners.ops, registry, health.clone(), ops_stop.clone());
    let control = Control::start(config, metrics.clone());
    let http = listeners.http;
    let http = http.map(|listener| {
        control::serve(listener, control.clone(), refused.clone(), ops_stop.clone())
    });
    let pipeline = Pipeline {
        config: control.config(),
        control,
        metrics,
        health,
        shutdown,
    };
    let result = pipeline.run().await;
    // Last, so that the whole shutdown can be observed.
    ops_stop.cancel();
    ops.abort();
    http.inspect(|http| http.abort());
    result
}
