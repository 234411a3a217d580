//! The brokers inside: librdkafka's mock cluster as Kafka, rumqttd for MQTT.

use std::collections::HashMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use anyhow::{Context, bail};
use rdkafka::mocking::MockCluster;
use rdkafka::producer::DefaultProducerContext;
use rumqttd::{Broker, Config, ConnectionSettings, RouterConfig, ServerSettings};
use tokio::net::{TcpListener, TcpStream};

/// Partitions of the topic that devices send to directly.
pub(crate) const PARTITIONS: u16 = 4;
/// The largest payload that the MQTT broker takes.
const MAX_PAYLOAD: usize = 10 << 20;
/// What the broker keeps of a filter's messages for a client that is away:
/// two segments of this size.
const SEGMENT: usize = 8 << 20;

/// Kafka's stand-in; it ends when this is dropped.
pub(crate) struct Kafka(MockCluster<'static, DefaultProducerContext>);

impl Kafka {
    /// Starts it with the topics that exist from the beginning; others appear
    /// with their first message.
    pub(crate) fn start<'a>(
        topics: impl IntoIterator<Item = (&'a str, u16)>,
    ) -> anyhow::Result<Self> {
        let cluster = MockCluster::new(1).context("starting the Kafka stand-in")?;
        for (topic, partitions) in topics {
            cluster
                .create_topic(topic, partitions.into(), 1)
                .with_context(|| format!("creating the Kafka topic {topic}"))?;
        }
        Ok(Self(cluster))
    }

    /// `host:port`.
    pub(crate) fn address(&self) -> String {
        self.0.bootstrap_servers()
    }
}

/// Where the MQTT broker listens.
pub(crate) struct Mqtt {
    /// For devices, MQTT 3.1.1: what command line clients speak by themselves.
    pub(crate) v4: SocketAddr,
    /// For the services, MQTT 5.
    pub(crate) v5: SocketAddr,
}

impl Mqtt {
    /// Starts the broker; it ends with the process.
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
        // The broker binds by address: the ports were free a moment ago.
        drop((own, internal));
        let broker = Broker::new(broker_config(v4, v5));
        std::thread::Builder::new()
            .name("mqtt-broker".into())
            .spawn(move || {
                let mut broker = broker;
                if let Err(error) = broker.start() {
                    tracing::error!(%error, "the MQTT broker ended");
                }
            })?;
        for address in [v4, v5] {
            until_open(address).await?;
        }
        Ok(Self { v4, v5 })
    }
}

/// A listener on loopback, or an error that names the flag to choose another port.
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
