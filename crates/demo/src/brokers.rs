//! The embedded brokers: librdkafka's mock cluster for Kafka, rumqttd for MQTT.

use std::collections::HashMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use anyhow::{Context, bail};
use rdkafka::mocking::MockCluster;
use rdkafka::producer::DefaultProducerContext;
use rumqttd::{Broker, Config, ConnectionSettings, RouterConfig, ServerSettings};
use tokio::net::{TcpListener, TcpStream};

/// Partitions of the topic to which devices send directly.
pub(crate) const PARTITIONS: u16 = 4;
/// Largest payload that the MQTT broker accepts, in bytes.
const MAX_PAYLOAD: usize = 10 << 20;
/// Size of a segment in bytes. The broker keeps two segments per filter for
/// disconnected clients.
const SEGMENT: usize = 8 << 20;

/// The mock Kafka cluster; dropping it stops the cluster.
pub(crate) struct Kafka(MockCluster<'static, DefaultProducerContext>);

impl Kafka {
    /// Starts the cluster with these topics and numbers of partitions. Other topics
    /// are created by their first record.
    pub(crate) fn start<'a>(
        topics: impl IntoIterator<Item = (&'a str, u16)>,
    ) -> anyhow::Result<Self> {
        let cluster = MockCluster::new(1).context("starting the mock Kafka cluster")?;
        for (topic, partitions) in topics {
            cluster
                .create_topic(topic, partitions.into(), 1)
                .with_context(|| format!("creating the Kafka topic {topic}"))?;
        }
        Ok(Self(cluster))
    }

    /// Address (`host:port`) of the broker.
    pub(crate) fn address(&self) -> String {
        self.0.bootstrap_servers()
    }
}

/// The addresses of the MQTT broker.
pub(crate) struct Mqtt {
    /// For devices, MQTT 3.1.1, the default version of command-line clients.
    pub(crate) v4: SocketAddr,
    /// For the services, MQTT 5.
    pub(crate) v5: SocketAddr,
}

impl Mqtt {
    /// Starts the broker, which runs until the process exits.
    pub(crate) async fn start(port: Option<u16>) -> anyhow::Result<Self> {
        let own = match port {
            Some(port) => listen(port, "--mqtt-port").await?,
            None => match listen(1883, "--mqtt-port").await {
                Ok(listener) => listener,
                Err(_) => listen(0, "--mqtt-port").await?,
            },
        };
        let internal = listen(0, "--mqtt-port").await?;
        let (v4, v5) = (own.local_addr()?, internal.local_addr()?);
        // The broker binds by itself: release the ports that were found free.
        drop((own, internal));
        let broker = Broker::new(broker_config(v4, v5));
        std::thread::Builder::new()
            .name("mqtt-broker".into())
            .spawn(move || {
                let mut broker = broker;
                if let Err(error) = broker.start() {
                    tracing::error!(%error, "the MQTT broker failed");
                }
            })?;
        for address in [v4, v5] {
            until_open(address).await?;
        }
        Ok(Self { v4, v5 })
    }
}

/// Listens on loopback. The error names the flag that chooses another port.
pub(crate) async fn listen(port: u16, flag: &str) -> anyhow::Result<TcpListener> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port)).await;
    listener.with_context(|| format!("can't listen on port {port}; choose another with {flag}"))
}

async fn until_open(address: SocketAddr) -> anyhow::Result<()> {
    for _ in 0..100 {
        if TcpStream::connect(address).await.is_ok() {
            return Ok(());
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    bail!("the MQTT broker does not answer on {address}")
}

fn broker_config(v4: SocketAddr, v5: SocketAddr) -> Config {
    let server = |name: &str, listen| ServerSettings {
        name: name.into(),
        listen,
        tls: None,
        next_connection_delay_ms: 1,
        connections: ConnectionSettings {
            connection_timeout_ms: 10_000,
            max_payload_size: MAX_PAYLOAD,
            max_inflight_count: 100,
            auth: None,
            external_auth: None,
            dynamic_filters: false,
        },
    };
    Config {
        id: 0,
        router: RouterConfig {
            max_connections: 1_000,
            max_outgoing_packet_count: 200,
            max_segment_size: SEGMENT,
            max_segment_count: 2,
            ..RouterConfig::default()
        },
        v4: Some(HashMap::from([("v4".into(), server("mqtt-v4", v4))])),
        v5: Some(HashMap::from([("v5".into(), server("mqtt-v5", v5))])),
        ws: None,
        cluster: None,
        console: None,
        bridge: None,
        prometheus: None,
        metrics: None,
    }
}
