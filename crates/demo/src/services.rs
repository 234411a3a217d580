//! The services of the demo: their settings and their tasks.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::Context;
use iot_bridge::BridgeConfig;
use iot_consumer::ConsumerConfig;
use iot_service::Listeners;
use iot_service::config::{ByteSize, HumanDuration, Live};
use iot_simulator::config::{
    CompressionKind, Rate, SensorConfig, SensorsConfig, SimulatorConfig, SinkKind, SwitchConfig,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::brokers::{PARTITIONS, listen};

/// The mock cluster slows down with the number of stored batches, which each replica reads.
/// With this linger and no compression it sustains 2,000 messages per second for hours.
const LINGER: HumanDuration = HumanDuration::from_millis(200);

/// Correlation time of values. Detectors learn what is normal from a few hundred readings and
/// take what moves much more slowly for a drift.
const CORRELATION: HumanDuration = HumanDuration::from_secs(4);

/// How often a service is asked whether it is ready.
const POLL: Duration = Duration::from_millis(50);

/// A service that runs in a task of this process.
pub(crate) struct Running {
    name: &'static str,
    /// Address of its ops listener.
    pub(crate) ops: SocketAddr,
    stop: CancellationToken,
    task: JoinHandle<anyhow::Result<()>>,
}

impl Running {
    /// Starts a service with its ops listener on a free port.
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
        let task = tokio::spawn(run(
            Listeners {
                ops,
                http: http.map(Into::into),
            },
            stop.clone(),
        ));
        Ok(Self {
            name,
            ops: address,
            stop,
            task,
        })
    }

    /// Waits until the service is ready or has ended.
    pub(crate) async fn ready(&self) {
        while !is_ready(self.ops).await.unwrap_or(false) && !self.task.is_finished() {
            tokio::time::sleep(POLL).await;
        }
    }

    /// Waits until the service ends by itself, which is an error.
    pub(crate) async fn ended(&mut self) -> anyhow::Error {
        match (&mut self.task).await {
            Ok(Err(error)) => error.context(self.name),
            Ok(Ok(())) => anyhow::anyhow!("{} ended unexpectedly", self.name),
            Err(panic) => anyhow::anyhow!("{}: {panic}", self.name),
        }
    }

    /// Stops the service and waits for its end.
    pub(crate) async fn stop(self) -> anyhow::Result<()> {
        self.stop.cancel();
        self.task.await?.context(self.name)
    }
}

/// Waits until the service with this ops listener is ready.
pub(crate) async fn until_ready(ops: SocketAddr) {
    while !is_ready(ops).await.unwrap_or(false) {
        tokio::time::sleep(POLL).await;
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

/// Settings of the bridge.
pub(crate) fn bridge(mqtt: SocketAddr, kafka: &str) -> Live<BridgeConfig> {
    let mut config = BridgeConfig::default();
    config.mqtt.brokers = vec![format!("mqtt://{mqtt}")];
    config.kafka.brokers = vec![kafka.into()];
    config.kafka.linger = LINGER;
    config.kafka.compression = iot_bridge::Compression::None;
    // The mock cluster has no CreateTopics; the first record creates a topic.
    config.topics.create = false;
    Live::fixed(config)
}

/// Settings of the consumer, with its state in memory.
pub(crate) fn consumer(kafka: &str) -> Live<ConsumerConfig> {
    let mut config = ConsumerConfig::default();
    config.kafka.brokers = vec![kafka.into()];
    // Enough for the page to continue at another replica, and three of them share this machine.
    config.push.history = ByteSize::mib(8);
    // The embedded broker waits almost as long for a lone member that joins again, for example
    // because of a visitor's new topic.
    config.kafka.session_timeout = HumanDuration::from_secs(6);
    for (name, value) in [
        // In the mock cluster an empty fetch always takes this long.
        ("fetch.wait.max.ms", "10"),
        // New topics are found soon.
        ("topic.metadata.refresh.interval.ms", "2000"),
    ] {
        config.kafka.properties.insert(name.into(), value.into());
    }
    Live::fixed(config)
}

/// Lifelike rooms: each has a climate of its own around which values vary a little, and none
/// comes near a threshold by itself. So each alert has a reason.
fn rooms() -> SensorsConfig {
    let sensor = |mean, deviation, own_level| SensorConfig {
        mean,
        deviation,
        correlation: CORRELATION,
        own_level,
    };
    SensorsConfig {
        temperature: sensor(22.0, 2.0, 0.9),
        humidity: sensor(50.0, 6.0, 0.8),
        pressure: sensor(1013.0, 6.0, 0.5),
        current: sensor(2.5, 0.5, 0.7),
        switch: SwitchConfig {
            correlation: HumanDuration::from_secs(600),
        },
        ..SensorsConfig::default()
    }
}

/// Settings of the half of the fleet that sends to `sink`: the first device and the
/// number of devices, and messages per second.
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
    config.sensors = rooms();
    config.kafka.brokers = vec![kafka.into()];
    config.kafka.partitions = PARTITIONS;
    config.kafka.linger = LINGER;
    config.kafka.compression = CompressionKind::None;
    config.mqtt.brokers = vec![format!("mqtt://{mqtt}")];
    config.mqtt.connections = 2;
    Live::fixed(config)
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use iot_core::sensor::{self, Threshold};
    use iot_service::config::{Sources, load};

    use super::*;

    /// In standard deviations: a value that is further from the mean is an anomaly.
    const FAR: f64 = 4.5;

    fn assert_calm(sensors: &SensorsConfig) {
        for (name, section) in [
            ("temperature", &sensors.temperature),
            ("humidity", &sensors.humidity),
            ("pressure", &sensors.pressure),
            ("current", &sensors.current),
        ] {
            let sensor = sensor::ALL.iter().find(|sensor| sensor.name == name);
            let away = match sensor.and_then(|sensor| sensor.alert).unwrap() {
                Threshold::Above(limit) => limit - section.mean,
                Threshold::Below(limit) => section.mean - limit,
            };
            assert!(away >= FAR * section.deviation, "{name}: {section:?}");
            assert!(!section.correlation.is_zero(), "{name}: {section:?}");
            assert!(section.own_level >= 0.5, "{name}: {section:?}");
        }
        assert!(!sensors.switch.correlation.is_zero());
    }

    #[test]
    fn no_room_of_the_demo_comes_near_a_threshold_by_itself() {
        let nowhere = (Ipv4Addr::LOCALHOST, 0).into();
        let fleet = fleet(SinkKind::Mqtt, (0, 100), 10.0, nowhere, "k:9092");
        assert_calm(&fleet.current().sensors);
    }

    #[test]
    fn no_room_of_compose_comes_near_a_threshold_by_itself() {
        let compose = include_str!("../../../docker-compose.yml");
        let mut anchor = None;
        let settings = compose.lines().filter_map(|line| {
            let setting = line.trim().split_once(": ");
            let (name, value) = setting.filter(|(name, _)| name.starts_with("IOT_SENSORS__"))?;
            let value = match value.strip_prefix('&').and_then(|v| v.split_once(' ')) {
                Some((_, value)) => *anchor.insert(value),
                None if value.starts_with('*') => anchor.unwrap(),
                None => value.trim_matches('"'),
            };
            Some((name.to_owned(), value.to_owned()))
        });
        let sources = Sources {
            env: settings.collect(),
            ..Sources::default()
        };
        let config: SimulatorConfig = load(&sources).unwrap();
        assert_calm(&config.sensors);
    }
}
