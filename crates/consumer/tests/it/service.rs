//! What every test needs: a Kafka, a consumer, and ways to look at them.

use std::net::SocketAddr;
use std::ops::Deref;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use futures::{SinkExt, StreamExt};
use iot_consumer::ConsumerConfig;
use iot_service::Listeners;
use iot_service::config::{HumanDuration, Live};
use rdkafka::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::message::{Headers, Message as _, OwnedMessage};
use rdkafka::mocking::MockCluster;
use rdkafka::producer::{DefaultProducerContext, FutureProducer, FutureRecord};
use rdkafka::util::Timeout;
use serde_json::{Value, json};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::task::JoinHandle;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::{WebSocketStream, client_async};
use tokio_util::sync::CancellationToken;

/// Generous: builds share their machine.
pub(crate) const DEADLINE: Duration = Duration::from_secs(90);

/// Waits until `check` gives something.
pub(crate) async fn wait_for<T>(what: &str, mut check: impl AsyncFnMut() -> Option<T>) -> T {
    let begun = Instant::now();
    loop {
        if let Some(found) = check().await {
            return found;
        }
        assert!(begun.elapsed() < DEADLINE, "waited too long for {what}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

pub(crate) fn now() -> i64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap()
        .as_millis() as i64
}

/// A valid message.
pub(crate) fn message(device: &str, timestamp: i64, sensor: &str, value: f64) -> Value {
    json!({
        "device_id": device, "timestamp": timestamp,
        "location": {"building": "b1", "floor": "f1", "room": "r1"},
        "readings": [{"sensor": sensor, "value": value}],
    })
}

/// A mock cluster with topics of one partition.
pub(crate) struct Kafka {
    pub(crate) cluster: MockCluster<'static, DefaultProducerContext>,
    producer: FutureProducer,
}

impl Kafka {
    pub(crate) fn new(topics: &[&str]) -> Self {
        let cluster = MockCluster::new(1).unwrap();
        let kafka = Self {
            producer: producer(&cluster.bootstrap_servers()),
            cluster,
        };
        topics.iter().for_each(|topic| kafka.create(topic, 1));
        kafka
    }

    pub(crate) fn create(&self, topic: &str, partitions: i32) {
        self.cluster.create_topic(topic, partitions, 1).unwrap();
    }

    /// Whether there is such a topic.
    pub(crate) fn has(&self, topic: &str) -> bool {
        let reader: BaseConsumer = ClientConfig::new()
            .set("bootstrap.servers", self.brokers())
            .create()
            .unwrap();
        let metadata = reader.fetch_metadata(None, DEADLINE).unwrap();
        metadata.topics().iter().any(|found| found.name() == topic)
    }

    pub(crate) fn brokers(&self) -> String {
        self.cluster.bootstrap_servers()
    }

    pub(crate) async fn send(&self, topic: &str, payload: impl ToString) {
        send(&self.producer, topic, payload.to_string().as_bytes()).await;
    }

    pub(crate) async fn send_bytes(&self, topic: &str, payload: &[u8]) {
        send(&self.producer, topic, payload).await;
    }

    /// Many messages at once, in order.
    pub(crate) async fn send_all(&self, topic: &str, payloads: &[String]) {
        let sent = payloads
            .iter()
            .map(|payload| send(&self.producer, topic, payload.as_bytes()));
        futures::future::join_all(sent).await;
    }

    /// Everything in a topic, once there is `count` of it. One that appears at
    /// first use has four partitions here.
    pub(crate) async fn read(&self, topic: &str, count: usize) -> Vec<OwnedMessage> {
        read(&self.brokers(), topic, 4, count).await
    }
}

pub(crate) async fn read(
    brokers: &str,
    topic: &str,
    partitions: i32,
    count: usize,
) -> Vec<OwnedMessage> {
    let reader: BaseConsumer = ClientConfig::new()
        .set("bootstrap.servers", brokers)
        .set("group.id", "reader")
        .create()
        .unwrap();
    let mut list = rdkafka::TopicPartitionList::new();
    for partition in 0..partitions {
        list.add_partition_offset(topic, partition, rdkafka::Offset::Beginning)
            .unwrap();
    }
    reader.assign(&list).unwrap();
    let mut found = Vec::new();
    wait_for(&format!("{count} records in {topic}"), async || {
        while let Some(message) = reader.poll(Duration::from_millis(10)) {
            // The topic may not exist yet.
            found.extend(message.ok().map(|message| message.detach()));
        }
        (found.len() >= count).then_some(())
    })
    .await;
    found
}

pub(crate) fn producer(brokers: &str) -> FutureProducer {
    ClientConfig::new()
        .set("bootstrap.servers", brokers)
        .set("message.max.bytes", "8388608")
        .set("linger.ms", "5")
        .create()
        .unwrap()
}

pub(crate) async fn send(producer: &FutureProducer, topic: &str, payload: &[u8]) {
    let record = FutureRecord::<[u8], [u8]>::to(topic)
        .payload(payload)
        .key(b"key");
    producer
        .send(record, Timeout::After(DEADLINE))
        .await
        .map_err(|(error, _)| error)
        .unwrap();
}

/// A header as text.
pub(crate) fn header(message: &OwnedMessage, name: &str) -> Option<String> {
    let header = message
        .headers()?
        .iter()
        .find(|header| header.key == name)?;
    Some(String::from_utf8_lossy(header.value?).into_owned())
}

/// Settings that suit a mock cluster.
pub(crate) fn config(brokers: &str) -> ConsumerConfig {
    let mut config = waiting_config(brokers);
    // An empty fetch of the mock cluster sleeps the whole wait.
    let properties = &mut config.kafka.properties;
    properties.insert("fetch.wait.max.ms".into(), "10".into());
    config
}

/// Settings that leave fetches as they are by default: with nothing new, one
/// waits for half a second, and what else is asked of the broker waits behind.
pub(crate) fn waiting_config(brokers: &str) -> ConsumerConfig {
    let mut config = ConsumerConfig::default();
    config.kafka.brokers = brokers.split(',').map(Into::into).collect();
    let properties = &mut config.kafka.properties;
    properties.insert("topic.metadata.refresh.interval.ms".into(), "500".into());
    config.push.interval = HumanDuration::from_millis(20);
    config
}

/// Where a consumer answers.
pub(crate) struct Endpoints {
    pub(crate) ops: SocketAddr,
    pub(crate) http: SocketAddr,
}

/// A consumer that runs in this process.
pub(crate) struct Service {
    at: Endpoints,
    stop: CancellationToken,
    task: JoinHandle<anyhow::Result<()>>,
}

impl Service {
    pub(crate) async fn start(config: ConsumerConfig) -> Self {
        Self::follow(Live::fixed(config)).await
    }

    /// With settings that may change.
    pub(crate) async fn follow(config: Live<ConsumerConfig>) -> Self {
        let listen = async || TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (ops, http) = (listen().await, listen().await);
        let (ops_address, http_address) = (ops.local_addr().unwrap(), http.local_addr().unwrap());
        let stop = CancellationToken::new();
        let listeners = Listeners {
            ops,
            http: Some(http),
        };
        let task = tokio::spawn(iot_consumer::run(config, listeners, stop.clone()));
        Self {
            at: Endpoints {
                ops: ops_address,
                http: http_address,
            },
            stop,
            task,
        }
    }

    /// Stops it in order.
    pub(crate) async fn stop(self) {
        self.stop.cancel();
        let ended = tokio::time::timeout(DEADLINE, self.task)
            .await
            .expect("it stops");
        ended.unwrap().unwrap();
    }
}

impl Deref for Service {
    type Target = Endpoints;

    fn deref(&self) -> &Endpoints {
        &self.at
    }
}

impl Endpoints {
    pub(crate) async fn get(&self, path: &str) -> (u16, Value) {
        let response = reqwest::get(format!("http://{}{path}", self.http))
            .await
            .unwrap();
        let status = response.status().as_u16();
        (status, response.json().await.unwrap_or_default())
    }

    /// Status and report of `/readyz`.
    pub(crate) async fn readyz(&self) -> (u16, Value) {
        let response = reqwest::get(format!("http://{}/readyz", self.ops))
            .await
            .unwrap();
        let status = response.status().as_u16();
        (status, response.json().await.unwrap())
    }

    /// A metric, by its name and labels as they stand in the text.
    pub(crate) async fn metric(&self, name: &str) -> Option<f64> {
        let response = reqwest::get(format!("http://{}/metrics", self.ops))
            .await
            .unwrap();
        let text = response.text().await.unwrap();
        let line = text
            .lines()
            .find(|line| line.starts_with(&format!("{name} ")))?;
        line.rsplit_once(' ')?.1.parse().ok()
    }

    pub(crate) async fn wait_ready(&self) {
        wait_for("readiness", async || {
            (self.readyz().await.0 == 200).then_some(())
        })
        .await;
    }

    /// Waits until so many messages were processed, and no more.
    pub(crate) async fn wait_consumed(&self, count: u64) {
        let name = "kafka_consumer_messages_consumed_total";
        let all = async || (self.metric(name).await? as u64 >= count).then_some(());
        wait_for(&format!("{count} messages"), all).await;
        assert_eq!(self.metric(name).await, Some(count as f64));
    }

    pub(crate) async fn connect(&self) -> Client {
        Client::connect(TcpStream::connect(self.http).await.unwrap(), self.http).await
    }

    /// A client with a small receive buffer, so that it is soon behind; not so
    /// small that each packet of the loopback waits for an acknowledgement.
    pub(crate) async fn connect_small(&self) -> Client {
        let socket = TcpSocket::new_v4().unwrap();
        socket.set_recv_buffer_size(256 << 10).unwrap();
        Client::connect(socket.connect(self.http).await.unwrap(), self.http).await
    }
}

/// A WebSocket client.
pub(crate) struct Client(WebSocketStream<TcpStream>);

/// What a client sees.
#[derive(Debug, PartialEq)]
pub(crate) enum Seen {
    Frame(Value),
    Closed(Option<u16>),
}

impl Client {
    async fn connect(stream: TcpStream, address: SocketAddr) -> Self {
        let mut request = format!("ws://{address}/ws").into_client_request().unwrap();
        let origin = format!("http://{address}").parse().unwrap();
        request.headers_mut().insert("origin", origin);
        Self(client_async(request, stream).await.unwrap().0)
    }

    pub(crate) async fn next(&mut self) -> Seen {
        let next = async {
            loop {
                match self.0.next().await {
                    Some(Ok(Message::Text(text))) => {
                        return Seen::Frame(serde_json::from_str(&text).unwrap());
                    }
                    Some(Ok(Message::Close(frame))) => {
                        return Seen::Closed(frame.map(|frame| frame.code.into()));
                    }
                    Some(Ok(_)) => {}
                    Some(Err(_)) | None => return Seen::Closed(None),
                }
            }
        };
        tokio::time::timeout(DEADLINE, next).await.expect("a frame")
    }

    /// The next frame that `wanted` takes.
    pub(crate) async fn find(&mut self, what: &str, wanted: impl Fn(&Value) -> bool) -> Value {
        loop {
            match self.next().await {
                Seen::Frame(frame) if wanted(&frame) => return frame,
                Seen::Frame(_) => {}
                closed => panic!("{closed:?} before {what}"),
            }
        }
    }

    pub(crate) async fn of_type(&mut self, kind: &str) -> Value {
        self.find(kind, |frame| frame["type"] == kind).await
    }

    pub(crate) async fn close(mut self) {
        self.0.close(None).await.unwrap();
        self.0.flush().await.unwrap_or_default();
    }
}
