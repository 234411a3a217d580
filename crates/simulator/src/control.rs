//! The API that changes the running fleet.
//!
//! Its changes override the settings, also after a reload of the file, until a null
//! reverts them or the simulator ends.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::extract::State;
use axum::extract::rejection::JsonRejection;
use axum::http::StatusCode;
use axum::routing::{get, post};
use axum::{Json, Router};
use iot_service::Problem;
use iot_service::config::{HumanDuration, Live, Problems, Settings};
use iot_service::server::{self, Limits, Listener};
use prometheus::IntCounter;
use serde::Deserialize;
use serde_json::{Map, Value, json};
use tokio::sync::{broadcast, mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::config::{Rate, SimulatorConfig};
use crate::figures::{Figures, Snapshot};
use crate::fleet::{Injection, natural_rate};
use crate::metrics::Metrics;

/// Number of injections that can wait for a busy worker.
const INJECTION_QUEUE: usize = 16;
/// How long workers may take to start an anomaly.
const INJECTION_TIMEOUT: Duration = Duration::from_secs(5);

/// An anomaly that workers start. Each worker replies with its number of affected
/// devices.
#[derive(Debug, Clone)]
pub(crate) struct Inject {
    pub injection: Arc<Injection>,
    pub answer: mpsc::UnboundedSender<usize>,
}

/// The settings that the API can change.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Changes {
    devices: Option<u32>,
    interval: Option<HumanDuration>,
    rate: Option<Rate>,
    anomaly_rate: Option<f64>,
    paused: Option<bool>,
}

/// The settings, and their changes over the API.
#[derive(Debug)]
pub(crate) struct Control {
    settings: Live<SimulatorConfig>,
    /// Number of devices at the start.
    devices: u32,
    changes: Mutex<Map<String, Value>>,
    effective: watch::Sender<Arc<SimulatorConfig>>,
    injections: broadcast::Sender<Inject>,
    metrics: Metrics,
    started: Instant,
}

impl Control {
    /// Starts without changes, and applies later reloads of the settings.
    pub(crate) fn start(settings: Live<SimulatorConfig>, metrics: Metrics) -> Arc<Self> {
        let config = settings.current();
        let control = Arc::new(Self {
            devices: config.fleet.devices,
            changes: Mutex::default(),
            effective: watch::channel(config).0,
            injections: broadcast::channel(INJECTION_QUEUE).0,
            started: Instant::now(),
            settings: settings.clone(),
            metrics,
        });
        let (following, mut settings) = (Arc::downgrade(&control), settings);
        tokio::spawn(async move {
            loop {
                settings.changed().await;
                let Some(control) = following.upgrade() else {
                    return;
                };
                if let Err(problems) = control.change(Map::new()) {
                    tracing::error!(
                        %problems,
                        "the new settings are invalid with the changes of the API; keeping the old ones"
                    );
                }
            }
        });
        control
    }

    /// The effective settings.
    pub(crate) fn config(&self) -> Live<SimulatorConfig> {
        Live::of(self.effective.subscribe())
    }

    /// The channel of anomalies to start.
    pub(crate) fn injections(&self) -> broadcast::Sender<Inject> {
        self.injections.clone()
    }

    /// Applies a JSON Merge Patch (RFC 7396), where null reverts a change, as a whole or
    /// not at all.
    fn change(&self, patch: Map<String, Value>) -> Result<(), Problems> {
        let mut changes = self.changes.lock().unwrap_or_else(PoisonError::into_inner);
        let mut wanted = changes.clone();
        wanted.extend(patch);
        let settings = self.settings.current();
        let config = self.effective(&settings, &wanted)?;
        wanted.retain(|_, value| !value.is_null());
        *changes = wanted;
        self.effective.send_replace(Arc::new(config));
        Ok(())
    }

    fn effective(
        &self,
        settings: &SimulatorConfig,
        changes: &Map<String, Value>,
    ) -> Result<SimulatorConfig, Problems> {
        let mut problems = Problems::default();
        let changes = match Changes::deserialize(Value::Object(changes.clone())) {
            Ok(changes) => changes,
            Err(error) => {
                problems.add("body", error.to_string());
                return Err(problems);
            }
        };
        let mut config = settings.clone();
        let (fleet, anomaly) = (&mut config.fleet, &mut config.anomaly);
        fleet.devices = changes.devices.unwrap_or(fleet.devices);
        fleet.interval = changes.interval.unwrap_or(fleet.interval);
        fleet.rate = changes.rate.unwrap_or(fleet.rate);
        fleet.paused = changes.paused.unwrap_or(fleet.paused);
        anomaly.rate = changes.anomaly_rate.unwrap_or(anomaly.rate);
        if config.run.messages > 0 && fleet.devices != self.devices {
            let message = "cannot change in a run with run.messages";
            problems.add("fleet.devices", message);
        }
        config.validate(&mut problems);
        problems.or(config)
    }

    fn fleet(&self) -> Value {
        let config = self.effective.borrow().clone();
        let fleet = &config.fleet;
        let rate = match fleet.rate {
            Rate::ByInterval => Some(natural_rate(&config)),
            Rate::PerSecond(rate) => Some(rate),
            Rate::Max => None,
        };
        let now = Snapshot::take(&self.metrics);
        let figures = Figures::between(&Snapshot::default(), &now, self.started.elapsed());
        let changes = self.changes.lock().unwrap_or_else(PoisonError::into_inner);
        json!({
            "devices": fleet.devices,
            "shard": fleet.shard,
            "interval": fleet.interval,
            "rate": fleet.rate,
            "messages_per_second": rate,
            "paused": fleet.paused,
            "profiles": fleet.profiles,
            "load": config.load,
            "anomaly_rate": config.anomaly.rate,
            "changed": *changes,
            "figures": figures.by_name(),
        })
    }

    /// Starts an anomaly and returns the number of affected devices.
    async fn inject(&self, injection: Injection) -> Result<usize, Problem> {
        injection.check().map_err(Problem::bad_request)?;
        let (answer, mut answers) = mpsc::unbounded_channel();
        let injection = Arc::new(injection);
        if self.injections.send(Inject { injection, answer }).is_err() {
            let message = "the fleet is not running";
            return Err(Problem::new(StatusCode::SERVICE_UNAVAILABLE, message));
        }
        let all = async {
            let mut count = 0;
            while let Some(devices) = answers.recv().await {
                count += devices;
            }
            count
        };
        match tokio::time::timeout(INJECTION_TIMEOUT, all).await {
            Ok(0) => Err(Problem::new(
                StatusCode::NOT_FOUND,
                "no device matches, or none can have this anomaly",
            )),
            Ok(count) => Ok(count),
            Err(_) => Err(Problem::new(
                StatusCode::SERVICE_UNAVAILABLE,
                "the workers are too busy",
            )),
        }
    }
}

/// Serves the API until `stop`.
pub(crate) fn serve(
    listener: Listener,
    control: Arc<Control>,
    refused: IntCounter,
    stop: CancellationToken,
) -> JoinHandle<()> {
    let routes = Router::new()
        .route("/api/v1/fleet", get(show).patch(change))
        .route("/api/v1/anomalies", post(inject))
        .fallback(async || Problem::new(StatusCode::NOT_FOUND, "no such resource"))
        .with_state(control);
    let limit = Limits::of_this_process().http;
    tokio::spawn(server::serve(listener, routes, limit, refused, stop))
}

async fn show(State(control): State<Arc<Control>>) -> Json<Value> {
    Json(control.fleet())
}

async fn change(
    State(control): State<Arc<Control>>,
    patch: Result<Json<Map<String, Value>>, JsonRejection>,
) -> Result<Json<Value>, Problem> {
    let Json(patch) = patch.map_err(|rejection| Problem::bad_request(rejection.body_text()))?;
    let changes = Value::Object(patch.clone()).to_string();
    control
        .change(patch)
        .map_err(|problems| Problem::bad_request(problems.to_string()))?;
    tracing::info!(changes, "changed over the API");
    Ok(Json(control.fleet()))
}

async fn inject(
    State(control): State<Arc<Control>>,
    injection: Result<Json<Injection>, JsonRejection>,
) -> Result<(StatusCode, Json<Value>), Problem> {
    let Json(injection) =
        injection.map_err(|rejection| Problem::bad_request(rejection.body_text()))?;
    let devices = control.inject(injection).await?;
    Ok((StatusCode::ACCEPTED, Json(json!({ "devices": devices }))))
}
