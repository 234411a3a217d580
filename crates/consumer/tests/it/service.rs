//! What every test needs: a Kafka, a consumer, and clients of both.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::ops::Deref;
use std::time::{SystemTime, UNIX_EPOCH};

use futures::{SinkExt, StreamExt};
use iot_consumer::ConsumerConfig;
use iot_service::Listeners;
use iot_service::config::{HumanDuration, Live};
use iot_service::server::Listener;
use rdkafka::producer::{FutureProducer, FutureRecord, Producer as _};
use serde_json::{Value, json};
use testkit::http::{self, Ops};
use testkit::kafka::{MockKafka, producer, send, send_all};
use testkit::{DEADLINE, in_time};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::task::JoinHandle;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::{WebSocketStream, client_async};
use tokio_util::sync::CancellationToken;

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

/// A mock cluster, and what sends to it.
pub(crate) struct Kafka {
    cluster: MockKafka,
    producer: FutureProducer,
}

impl Kafka {
    /// With these topics, of one partition each.
    pub(crate) fn new(topics: &[&str]) -> Self {
        let cluster = MockKafka::start(topics);
        Self {
            producer: producer(&cluster.brokers()),
            cluster,
        }
    }

    /// Whether there is such a topic.
    pub(crate) fn has(&self, topic: &str) -> bool {
        let client = self.producer.client();
        let metadata = client.fetch_metadata(None, DEADLINE).unwrap();
        metadata.topics().iter().any(|found| found.name() == topic)
    }

    pub(crate) async fn send(&self, topic: &str, payload: impl ToString) {
        self.send_bytes(topic, payload.to_string().as_bytes()).await;
    }

    pub(crate) async fn send_bytes(&self, topic: &str, payload: &[u8]) {
        send(&self.producer, record(topic, payload)).await;
    }

    /// With this record time, in milliseconds.
    pub(crate) async fn send_at(&self, topic: &str, timestamp: i64, payload: impl ToString) {
        let payload = payload.to_string();
        let record = record(topic, payload.as_bytes()).timestamp(timestamp);
        send(&self.producer, record).await;
    }

    /// Many messages at once, in order.
    pub(crate) async fn send_all(&self, topic: &str, payloads: &[String]) {
        let records = payloads.iter().map(|text| record(topic, text.as_bytes()));
        send_all(&self.producer, records).await;
    }
}

impl Deref for Kafka {
    type Target = MockKafka;

    fn deref(&self) -> &MockKafka {
        &self.cluster
    }
}

/// A record with the key `key`.
pub(crate) fn record<'r>(topic: &'r str, payload: &'r [u8]) -> FutureRecord<'r, [u8], [u8]> {
    FutureRecord::to(topic).payload(payload).key(b"key")
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
    // The mock cluster waits almost as long for a lone member that joins again.
    config.kafka.session_timeout = HumanDuration::from_secs(6);
    let properties = &mut config.kafka.properties;
    properties.insert("topic.metadata.refresh.interval.ms".into(), "500".into());
    config.push.interval = HumanDuration::from_millis(20);
    config
}

/// Where a consumer answers.
pub(crate) struct Endpoints {
    pub(crate) ops: Ops,
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
            http: Some(Listener::new(http, &config.current().http.tls).unwrap()),
        };
        let task = tokio::spawn(iot_consumer::run(config, listeners, stop.clone()));
        Self {
            at: Endpoints {
                ops: Ops(ops_address),
                http: http_address,
            },
            stop,
            task,
        }
    }

    /// Why it ends by itself.
    pub(crate) async fn failure(self) -> String {
        let ended = in_time("the failure of the consumer", self.task).await;
        format!("{:#}", ended.unwrap().unwrap_err())
    }

    /// Stops it in order.
    pub(crate) async fn stop(self) {
        self.stop.cancel();
        let ended = in_time("the end of the consumer", self.task).await;
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
    /// Status and JSON at a path of the API.
    pub(crate) async fn get(&self, path: &str) -> (u16, Value) {
        let url = format!("http://{}{path}", self.http);
        let (status, body) = http::get(&url).await.unwrap();
        (status, serde_json::from_str(&body).unwrap_or_default())
    }

    /// Status and report of `/readyz`.
    pub(crate) async fn readyz(&self) -> (u16, Value) {
        self.ops.readyz().await.unwrap()
    }

    /// Status of `/livez`.
    pub(crate) async fn livez(&self) -> u16 {
        self.ops.get("/livez").await.unwrap().0
    }

    /// A metric, by its name and labels as they stand in the text.
    pub(crate) async fn metric(&self, name: &str) -> Option<f64> {
        self.ops.metric(name).await
    }

    pub(crate) async fn wait_ready(&self) {
        self.ops.wait_ready().await;
    }

    pub(crate) async fn wait_metric(&self, name: &str, value: f64) {
        self.ops.wait_metric(name, value).await;
    }

    /// Waits until so many messages were processed, and no more.
    pub(crate) async fn wait_consumed(&self, count: u64) {
        let name = "kafka_consumer_messages_consumed_total";
        self.ops.wait_metric_at_least(name, count as f64).await;
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

/// The channels of a client, in the order of its requests.
const CHANNELS: [&str; 3] = ["readings", "alerts", "stats"];

/// A WebSocket client of all channels. It sees a snapshot of devices and alerts, and then each
/// change as an object with a `type`.
pub(crate) struct Client {
    socket: WebSocketStream<TcpStream>,
    seen: VecDeque<Value>,
    passed: Vec<Value>,
}

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
        let mut client = Self {
            socket: client_async(request, stream).await.unwrap().0,
            seen: VecDeque::new(),
            passed: Vec::new(),
        };
        client.send(json!({"id": 1, "connect": {}})).await;
        for (id, channel) in (2..).zip(CHANNELS) {
            let request = json!({"id": id, "subscribe": {"channel": channel}});
            client.send(request).await;
        }
        client
    }

    async fn send(&mut self, request: Value) {
        let text = Message::text(request.to_string());
        // It may be closed already.
        let _ = self.socket.send(text).await;
    }

    pub(crate) async fn next(&mut self) -> Seen {
        let next = async {
            loop {
                if let Some(seen) = self.seen.pop_front() {
                    return Seen::Frame(seen);
                }
                match self.socket.next().await {
                    Some(Ok(Message::Text(text))) => {
                        for line in text.lines() {
                            self.take(&serde_json::from_str(line).unwrap()).await;
                        }
                    }
                    Some(Ok(Message::Close(frame))) => {
                        return Seen::Closed(frame.map(|frame| frame.code.into()));
                    }
                    Some(Ok(_)) => {}
                    Some(Err(_)) | None => return Seen::Closed(None),
                }
            }
        };
        in_time("a frame", next).await
    }

    async fn take(&mut self, frame: &Value) {
        if *frame == json!({}) {
            return self.send(json!({})).await;
        }
        assert_eq!(frame["error"], Value::Null, "{frame}");
        let mut data = frame["push"]["pub"]["data"].clone();
        if let Some(first) = frame["subscribe"].get("data") {
            data = first.clone();
            let of = frame["id"].as_u64().unwrap() as usize - 2;
            if CHANNELS[of] != "stats" {
                data["type"] = "snapshot".into();
                return self.seen.push_back(data);
            }
        }
        if data["removed"].is_array() {
            let removed = json!({"type": "removed", "devices": data["removed"]});
            self.seen.push_back(removed);
        }
        for alert in data["alerts"].as_array().into_iter().flatten() {
            self.seen
                .push_back(json!({"type": "alert", "alert": alert}));
        }
        for (list, kind) in [("devices", "readings"), ("stats", "stats")] {
            if data[list].is_object() || data[list].as_array().is_some_and(|list| !list.is_empty())
            {
                self.seen.push_back(json!({"type": kind, list: data[list]}));
            }
        }
    }

    /// The next frame that `wanted` takes. Channels are not in order with each other: what comes
    /// before it is found later.
    pub(crate) async fn find(&mut self, what: &str, wanted: impl Fn(&Value) -> bool) -> Value {
        if let Some(at) = self.passed.iter().position(&wanted) {
            return self.passed.remove(at);
        }
        // Statistics come each second, whatever else does not.
        let found = async {
            loop {
                match self.next().await {
                    Seen::Frame(frame) if wanted(&frame) => return frame,
                    Seen::Frame(frame) => self.passed.push(frame),
                    closed => panic!("{closed:?} before {what}"),
                }
            }
        };
        in_time(what, found).await
    }

    pub(crate) async fn of_type(&mut self, kind: &str) -> Value {
        self.find(kind, |frame| frame["type"] == kind).await
    }

    pub(crate) async fn close(mut self) {
        self.socket.close(None).await.unwrap();
        self.socket.flush().await.unwrap_or_default();
    }
}
