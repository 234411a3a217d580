//! The services of the demo: their settings, and how they are run.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::Context;
use iot_bridge::BridgeConfig;
use iot_consumer::ConsumerConfig;
use iot_service::Listeners;
use iot_service::config::{HumanDuration, Live};
use iot_simulator::config::{CompressionKind, Rate, SimulatorConfig, SinkKind};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::brokers::{PARTITIONS, listen};

/// The mock cluster slows down as batches pile up; with this linger and no
/// compression it carries 2,000 messages a second for hours.
const LINGER: HumanDuration = HumanDuration::from_millis(100);

/// A service that runs in a task of this process.
pub(crate) struct Running {
    name: &'static str,
    /// Its `/metrics`, `/livez` and `/readyz`.
    pub(crate) ops: SocketAddr,
    stop: CancellationToken,
    task: JoinHandle<anyhow::Result<()>>,
}

impl Running {
    /// Starts a service with a free port for its ops listener.
    pub(crate) async fn start<Fut>(
        name: &'static str,
        http: Option<TcpListener>,
        run: impl FnOnce(Listeners, CancellationToken) -> Fut,
    ) -> anyhow::Result<Self>
    where
        Fut: Future<Output = anyhow::Result<()>> + Send + 'static,
    {
        let ops = listen(0, "--port").await?;
        let address = ops.local_addr()?;
        let stop = CancellationToken::new();
        let task = tokio::spawn(run(Listeners { ops, http }, stop.clone()));
        Ok(Self {
            name,
            ops: address,
            stop,
            task,
        })
    }

    /// Waits until it says that it is ready.
    pub(crate) async fn ready(&self) {
        while !is_ready(self.ops).await.unwrap_or(false) && !self.task.is_finished() {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// Waits for an end that nobody asked for.
    pub(crate) async fn ended(&mut self) -> anyhow::Error {
        match (&mut self.task).await {
            Ok(Err(error)) => error.context(self.name),
            Ok(Ok(())) => anyhow::anyhow!("{} ended", self.name),
            Err(panic) => anyhow::anyhow!("{}: {panic}", self.name),
        }
    }

    /// Asks it to stop and waits until it has.
    pub(crate) async fn stop(self) -> anyhow::Result<()> {
        self.stop.cancel();
        self.task.await?.context(self.name)
    }
}

async fn is_ready(ops: SocketAddr) -> std::io::Result<bool> {
    let mut stream = TcpStream::connect(ops).await?;
    stream
        .write_all(b"GET /readyz HTTP/1.1\r\nhost: demo\r\nconnection: close\r\n\r\n")
        .await?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await?;
    Ok(answer.starts_with("HTTP/1.1 200"))
}

/// The bridge between the two brokers.
pub(crate) fn bridge(mqtt: SocketAddr, kafka: &str) -> Live<BridgeConfig> {
    let mut config = BridgeConfig::default();
    config.mqtt.brokers = vec![format!("mqtt://{mqtt}")];
    config.kafka.brokers = vec![kafka.into()];
    config.kafka.linger = LINGER;
    config.kafka.compression = iot_bridge::Compression::None;
    // The stand-in knows no such request: topics appear with their first record.
    config.topics.create = false;
    Live::fixed(config)
}

/// The consumer with its state in memory.
pub(crate) fn consumer(kafka: &str) -> Live<ConsumerConfig> {
    let mut config = ConsumerConfig::default();
    config.kafka.brokers = vec![kafka.into()];
    for (name, value) in [
        // An empty fetch sleeps all of this in the stand-in.
        ("fetch.wait.max.ms", "10"),
        // A topic that a visitor's message makes is found soon.
        ("topic.metadata.refresh.interval.ms", "2000"),
    ] {
        config.kafka.properties.insert(name.into(), value.into());
    }
    Live::fixed(config)
}

/// Half of the fleet: the half that sends to `sink`.
pub(crate) fn fleet(
    sink: SinkKind,
    (first, devices): (u32, u32),
    rate: f64,
    mqtt: SocketAddr,
    kafka: &str,
) -> Live<SimulatorConfig> {
    let mut config = SimulatorConfig {
        sink,
        ..SimulatorConfig::default()
    };
    config.fleet.first_device = first;
    config.fleet.devices = devices;
    config.fleet.rate = Rate::PerSecond(rate);
    config.fleet.workers = 1;
    config.kafka.brokers = vec![kafka.into()];
    config.kafka.partitions = PARTITIONS;
    config.kafka.linger = LINGER;
    config.kafka.compression = CompressionKind::None;
    config.mqtt.brokers = vec![format!("mqtt://{mqtt}")];
    config.mqtt.connections = 2;
    Live::fixed(config)
}
