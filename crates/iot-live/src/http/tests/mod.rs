//! The API over real sockets, with a scripted hub.

mod access;
mod lists;
mod sockets;

use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};

use iot_service::metrics::Registrar;
use prometheus::Registry;
use serde_json::Value;
use testkit::in_time;
use tokio::net::TcpListener;

use super::*;
use crate::hub::{First, Message, Subscribe, Subscribed};

struct Fixture {
    address: SocketAddr,
    hub: mpsc::Receiver<Message>,
    most: Arc<AtomicUsize>,
    registry: Registry,
    stop: CancellationToken,
    server: JoinHandle<()>,
}

impl Fixture {
    async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (sender, hub) = mpsc::channel(64);
        let registry = Registry::new();
        let metrics = HttpMetrics::new(&Registrar(&registry)).unwrap();
        let most = Arc::new(AtomicUsize::new(10));
        let clients = most.clone();
        let settings = Settings {
            clients: Arc::new(move || clients.load(Ordering::Relaxed)),
            queue: Arc::new(|| 64 << 10),
            window_sizes: vec![HumanDuration::from_secs(60), HumanDuration::from_secs(300)],
            epoch: "k3".into(),
            auth: Authenticator::none(),
        };
        let stop = CancellationToken::new();
        let server = serve(listener, Hub::to(sender), metrics, settings, stop.clone());
        Self {
            address,
            hub,
            most,
            registry,
            stop,
            server,
        }
    }

    fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    async fn get(&self, path: &str) -> (u16, Value) {
        let response = reqwest::get(self.url(path)).await.unwrap();
        (response.status().as_u16(), response.json().await.unwrap())
    }

    async fn message(&mut self) -> Message {
        in_time("a message to the hub", self.hub.recv())
            .await
            .unwrap()
    }

    /// Answers a subscription; returns what was asked for.
    async fn subscribed(&mut self, offset: u64, first: First) -> Subscribe {
        let Message::Subscribe(subscribe, answer) = self.message().await else {
            panic!("no subscription")
        };
        let subscribed = Subscribed {
            epoch: "k3".into(),
            offset,
            first,
            partial: Vec::new(),
        };
        answer.send(Ok(subscribed)).unwrap();
        *subscribe
    }

    fn count(&self, name: &str, labels: &[(&str, &str)]) -> u64 {
        let families = self.registry.gather();
        let family = families
            .iter()
            .find(|family| family.name() == name)
            .unwrap();
        let has = |metric: &prometheus::proto::Metric, (name, value): &(&str, &str)| {
            let mut found = metric.get_label().iter();
            found.any(|label| label.name() == *name && label.value() == *value)
        };
        let mut metrics = family.get_metric().iter();
        let metric = metrics.find(|metric| labels.iter().all(|label| has(metric, label)));
        metric.unwrap().get_counter().get_value() as u64
    }

    async fn end(self) {
        self.stop.cancel();
        in_time("the end of the server", self.server).await.unwrap();
    }
}
