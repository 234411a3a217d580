//! Starts simulators and reads what they sent.

use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;

use iot_core::message::{DeviceMessage, parse, parse_protobuf};
use iot_core::partition::partition_for;
use iot_service::Listeners;
use iot_service::config::Live;
use iot_simulator::config::{Rate, SimulatorConfig, SinkKind};
use reqwest::Method;
use serde_json::Value;
use testkit::http::Ops;
use testkit::kafka::{Record, read_all};
use testkit::{in_time, wait_for};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

/// A running simulator.
pub(crate) struct Simulator {
    ops: Ops,
    api: SocketAddr,
    pub(crate) shutdown: CancellationToken,
    task: JoinHandle<anyhow::Result<()>>,
}

impl Simulator {
    pub(crate) async fn start(config: SimulatorConfig) -> Self {
        let ops = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let shutdown = CancellationToken::new();
        let http = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (address, api) = (ops.local_addr().unwrap(), http.local_addr().unwrap());
        let http = Some(http.into());
        let listeners = Listeners { ops, http };
        let run = iot_simulator::run(Live::fixed(config), listeners, shutdown.clone());
        Self {
            ops: Ops(address),
            api,
            shutdown,
            task: tokio::spawn(run),
        }
    }

    /// Waits until it ends by itself.
    pub(crate) async fn ended(self) {
        self.outcome().await.unwrap();
    }

    /// Waits until it ends with an error.
    pub(crate) async fn failed(self) -> String {
        format!("{:#}", self.outcome().await.unwrap_err())
    }

    async fn outcome(self) -> anyhow::Result<()> {
        in_time("the end of the simulator", self.task)
            .await
            .unwrap()
    }

    /// Stops it in order.
    pub(crate) async fn stop(self) {
        self.shutdown.cancel();
        self.ended().await;
    }

    /// Sends a request to the API; returns status and answer.
    pub(crate) async fn api(&self, method: Method, path: &str, body: Value) -> (u16, Value) {
        let url = format!("http://{}/api/v1/{path}", self.api);
        let request = reqwest::Client::new().request(method, url).json(&body);
        let answer = request.send().await.unwrap();
        (answer.status().as_u16(), answer.json().await.unwrap())
    }

    /// Why a component isn't ready; `None` if it is, or while the simulator starts.
    pub(crate) async fn reason(&self, component: &str) -> Option<String> {
        self.ops.reason(component).await.ok()?
    }

    /// Waits until a component is ready again.
    pub(crate) async fn wait_for_recovery(&self, component: &str) {
        wait_for("recovery", async || {
            self.ops.reason(component).await == Ok(None)
        })
        .await;
    }

    /// The sum of a metric over its labels, 0 if it is not there.
    pub(crate) async fn metric(&self, name: &str) -> f64 {
        self.ops.metric(name).await.unwrap_or_default()
    }

    /// Waits until a metric is at least `least`.
    pub(crate) async fn wait_for_metric(&self, name: &str, least: f64) {
        self.ops.wait_metric_at_least(name, least).await;
    }
}

/// A small fleet at full speed.
pub(crate) fn fleet(sink: SinkKind, devices: u32, messages: u64) -> SimulatorConfig {
    let mut config = SimulatorConfig {
        sink,
        ..SimulatorConfig::default()
    };
    config.fleet.devices = devices;
    config.fleet.rate = Rate::Max;
    config.run.messages = messages;
    config
}

/// A message as it arrived.
#[derive(Debug, Clone)]
pub(crate) struct Arrived {
    pub(crate) partition: i32,
    pub(crate) key: String,
    pub(crate) headers: BTreeMap<String, String>,
    pub(crate) message: DeviceMessage<'static>,
}

impl Arrived {
    fn of(record: &Record) -> Self {
        let headers = record.headers.iter();
        let headers: BTreeMap<_, _> = headers
            .map(|(name, value)| (name.clone(), String::from_utf8(value.clone()).unwrap()))
            .collect();
        Self {
            partition: record.partition,
            key: record.key().unwrap().to_owned(),
            message: match headers["content-type"].as_str() {
                "application/protobuf" => parse_protobuf(&record.payload).unwrap().into_owned(),
                _ => parse(&record.payload).unwrap().into_owned(),
            },
            headers,
        }
    }
}

/// The messages that a topic has now.
pub(crate) async fn read_topic(brokers: &str, topic: &str) -> Vec<Arrived> {
    let records = read_all(brokers, topic).await;
    records.iter().map(Arrived::of).collect()
}

/// Asserts that every record is in its device's partition under its key, and
/// that each device's messages are all there, in order and once. Returns how
/// many messages each device sent.
pub(crate) fn assert_complete(arrived: &[Arrived], partitions: u32) -> HashMap<String, u64> {
    let counts = assert_ordered(arrived, partitions);
    let total: u64 = counts.values().sum();
    assert_eq!(total, arrived.len() as u64, "duplicates");
    counts
}

/// Like [`assert_complete`], but messages may be repeated, as after a lost answer:
/// their first copies are all there, in order.
pub(crate) fn assert_ordered(arrived: &[Arrived], partitions: u32) -> HashMap<String, u64> {
    let mut next: HashMap<String, u64> = HashMap::new();
    for record in arrived {
        let device = &record.message.device_id;
        assert_eq!(record.key, *device);
        let partition = partition_for(device, partitions);
        assert_eq!(record.partition, partition as i32, "{device}");
        let next = next.entry(device.to_string()).or_default();
        let seq = record.message.seq.expect("a number");
        assert!(seq <= *next, "{device}: {seq} came before {next}");
        *next = (*next).max(seq + 1);
    }
    next
}
