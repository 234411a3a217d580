//! Starts simulators and reads what they sent.

use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use iot_core::message::{DeviceMessage, parse, parse_protobuf};
use iot_core::partition::partition_for;
use iot_service::Listeners;
use iot_service::config::Live;
use iot_simulator::config::{Rate, SimulatorConfig, SinkKind};
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::message::Headers;
use rdkafka::{ClientConfig, Message, Offset, TopicPartitionList};
use reqwest::Method;
use serde_json::Value;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

/// Generous: only a test that fails waits so long.
pub(crate) const DEADLINE: Duration = Duration::from_secs(60);

/// A running simulator.
pub(crate) struct Simulator {
    ops: SocketAddr,
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
        let http = Some(http);
        let listeners = Listeners { ops, http };
        let run = iot_simulator::run(Live::fixed(config), listeners, shutdown.clone());
        Self {
            ops: address,
            api,
            shutdown,
            task: tokio::spawn(run),
        }
    }

    /// Waits until it ends by itself.
    pub(crate) async fn ended(self) {
        let ended = tokio::time::timeout(DEADLINE, self.task).await;
        ended.expect("an end").unwrap().unwrap();
    }

    /// Waits until it ends with an error.
    pub(crate) async fn failed(self) -> String {
        let ended = tokio::time::timeout(DEADLINE, self.task).await;
        format!("{:#}", ended.expect("an end").unwrap().unwrap_err())
    }

    /// Tells it to stop and waits for that.
    pub(crate) async fn stop(self) {
        self.shutdown.cancel();
        self.ended().await;
    }

    /// Asks the API; the status and the answer.
    pub(crate) async fn api(&self, method: Method, path: &str, body: Value) -> (u16, Value) {
        let url = format!("http://{}/api/v1/{path}", self.api);
        let request = reqwest::Client::new().request(method, url).json(&body);
        let answer = request.send().await.unwrap();
        (answer.status().as_u16(), answer.json().await.unwrap())
    }

    async fn get(&self, path: &str) -> Option<String> {
        let answer = reqwest::get(format!("http://{}{path}", self.ops)).await;
        answer.ok()?.text().await.ok()
    }

    /// Why a component isn't ready, or `None` when it is.
    pub(crate) async fn trouble(&self, component: &str) -> Option<String> {
        let report: Value = serde_json::from_str(&self.get("/readyz").await?).unwrap();
        let reason = &report["components"][component]["reason"];
        reason.as_str().map(str::to_owned)
    }

    /// The sum of a metric over its labels.
    pub(crate) async fn metric(&self, name: &str) -> f64 {
        let text = self.get("/metrics").await.unwrap_or_default();
        let lines = text.lines().filter(|line| line.starts_with(name));
        lines
            .filter_map(|line| line.rsplit_once(' '))
            .map(|(_, value)| value.parse::<f64>().unwrap())
            .sum()
    }

    /// Waits until a metric is at least `least`.
    pub(crate) async fn wait_for_metric(&self, name: &str, least: f64) {
        wait_for(name, async || self.metric(name).await >= least).await;
    }
}

/// Waits for a condition.
pub(crate) async fn wait_for(what: &str, condition: impl AsyncFn() -> bool) {
    let begun = Instant::now();
    while !condition().await {
        assert!(begun.elapsed() < DEADLINE, "waited in vain for {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
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

/// Reads a topic from its beginning to the ends it has now.
pub(crate) fn read_topic(brokers: &str, topic: &str) -> Vec<Arrived> {
    let consumer: BaseConsumer = ClientConfig::new()
        .set("bootstrap.servers", brokers)
        .set("group.id", "test")
        .set("enable.auto.commit", "false")
        .create()
        .unwrap();
    let metadata = consumer.fetch_metadata(Some(topic), DEADLINE).unwrap();
    let mut assignment = TopicPartitionList::new();
    let mut left = 0;
    for partition in metadata.topics()[0].partitions() {
        let (low, high) = consumer
            .fetch_watermarks(topic, partition.id(), DEADLINE)
            .unwrap();
        left += high - low;
        let begin = Offset::Beginning;
        assignment
            .add_partition_offset(topic, partition.id(), begin)
            .unwrap();
    }
    consumer.assign(&assignment).unwrap();
    let begun = Instant::now();
    let mut arrived = Vec::new();
    while (arrived.len() as i64) < left {
        assert!(
            begun.elapsed() < DEADLINE,
            "{} of {left} arrived",
            arrived.len()
        );
        let Some(record) = consumer.poll(Duration::from_millis(100)) else {
            continue;
        };
        let record = record.unwrap();
        let headers = record
            .headers()
            .into_iter()
            .flat_map(|headers| headers.iter());
        let headers: BTreeMap<_, _> = headers
            .map(|h| (h.key.to_owned(), text(h.value.unwrap())))
            .collect();
        let payload = record.payload().unwrap();
        arrived.push(Arrived {
            partition: record.partition(),
            key: text(record.key().unwrap()),
            message: match headers["content-type"].as_str() {
                "application/protobuf" => parse_protobuf(payload).unwrap().into_owned(),
                _ => parse(payload).unwrap().into_owned(),
            },
            headers,
        });
    }
    arrived
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
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

/// Like [`assert_complete`], but a message may be repeated, as after an answer
/// that was lost: the first copies are all there, in order.
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
