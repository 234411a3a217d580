//! How partitions, sessions and the API talk to the hub.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use iot_core::partition::TopicPartition;
use iot_fold::{Device, DeviceKey, Updates, Windows};
use tokio::runtime::Handle;
use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::{
    AlertPage, ClientId, Counts, DevicePage, Feed, Gone, Hub, HubMetrics, Message, NoWindows,
    Opening, Page, Question, Refused, Settings, Stats, Subscribe, Subscribed, Times, actor,
};
use crate::channel::{Channel, Filter};

/// Updates that wait for the hub; partitions wait when it is full. All of them are taken before the
/// next request, so few: they are not long.
const UPDATES: usize = 64;
/// Requests that wait; clients wait when it is full.
const REQUESTS: usize = 256;
/// A partition that waits for Kafka or the store does not answer.
const ANSWER: Duration = Duration::from_secs(2);

/// Numbers feeds.
static FEEDS: AtomicU64 = AtomicU64::new(0);

impl Hub {
    /// Starts the task; it ends with `stop` and then closes all clients. `counts` says what the
    /// service counts beside it.
    pub fn start(
        settings: Settings,
        counts: impl Fn() -> Counts + Send + 'static,
        metrics: HubMetrics,
        stop: CancellationToken,
    ) -> (Self, JoinHandle<()>) {
        let (updates, updated) = mpsc::channel(UPDATES);
        let (requests, requested) = mpsc::channel(REQUESTS);
        let messages = (updated, requested);
        let actor = actor::Actor::new(settings, Box::new(counts), metrics, messages);
        let hub = Self { updates, requests };
        (hub, tokio::spawn(actor.run(stop)))
    }

    /// Changes how often channels of newest values send their changes.
    pub async fn set_interval(&self, interval: Duration) {
        self.tell(Message::Interval(interval)).await;
    }

    /// Shows a partition. If another feed shows it already, this one replaces it as soon as it
    /// has reached what is shown, by difference: nothing goes back.
    pub async fn open(&self, opening: Opening) -> Feed {
        let feed = Feed {
            hub: self.clone(),
            partition: opening.partition.clone(),
            number: FEEDS.fetch_add(1, Ordering::Relaxed),
        };
        let number = feed.number;
        self.tell(Message::Open(Box::new(opening), number)).await;
        feed
    }

    /// A partition is not shown, or not up to date, for this reason; `None` if it is.
    pub async fn partial(&self, partition: Arc<TopicPartition>, reason: Option<String>) {
        self.tell(Message::Partial { partition, reason }).await;
    }

    /// It is not known which partitions there are, for this reason; `None` if it is. Until then no
    /// position says what is shown.
    pub async fn unlisted(&self, reason: Option<String>) {
        self.tell(Message::Unlisted(reason)).await;
    }

    /// Subscribes a client. Publications in its outbox are newer than the answer.
    ///
    /// # Errors
    /// The hub has ended. Inside: the subscription is refused.
    pub async fn subscribe(
        &self,
        subscribe: Subscribe,
    ) -> Result<Result<Subscribed, Refused>, Gone> {
        self.ask(|answer| Message::Subscribe(Box::new(subscribe), answer))
            .await
    }

    /// Ends a subscription.
    pub async fn unsubscribe(&self, client: ClientId, channel: Channel) {
        self.send(Message::Unsubscribe(client, channel)).await;
    }

    /// Ends all subscriptions of a client, and tells it to subscribe again.
    ///
    /// # Errors
    /// The hub has ended.
    pub async fn resubscribe(&self, client: ClientId) -> Result<(), Gone> {
        self.ask(|answer| Message::Resubscribe(client, answer))
            .await
    }

    /// Ends all subscriptions of a client.
    pub async fn leave(&self, client: ClientId) {
        self.send(Message::Leave(client)).await;
    }

    /// Devices by tenant, project and id.
    ///
    /// # Errors
    /// The hub has ended.
    pub async fn devices(&self, page: Page) -> Result<DevicePage, Gone> {
        self.ask(|answer| Message::Devices(page, answer)).await
    }

    /// A device with its windows of length `size` (ms); `None` if it is not known, or `filter`
    /// does not take it.
    ///
    /// # Errors
    /// Its windows are not available now.
    pub async fn device(
        &self,
        key: DeviceKey,
        filter: Filter,
        size: i64,
    ) -> Result<Option<(Arc<Device>, Windows)>, NoWindows> {
        let asked = key.clone();
        let known = self
            .ask(|answer| Message::Device(asked, filter, answer))
            .await?;
        let Some((device, questions)) = known else {
            return Ok(None);
        };
        let (answer, answered) = oneshot::channel();
        let windows = async {
            let question = Question { key, size, answer };
            questions.send(question).await.ok()?;
            answered.await.ok()
        };
        let windows = timeout(ANSWER, windows).await.ok().flatten().ok_or(Gone)?;
        let windows = windows.map_err(NoWindows::Unavailable)?;
        Ok(windows.map(|windows| (device, windows)))
    }

    /// Alerts in the order in which they are listed.
    ///
    /// # Errors
    /// The hub has ended.
    pub async fn alerts(&self, page: Page) -> Result<AlertPage, Gone> {
        self.ask(|answer| Message::Alerts(page, answer)).await
    }

    /// The service at a glance, for a client that may see what `filter` takes.
    ///
    /// # Errors
    /// The hub has ended.
    pub async fn stats(&self, filter: Filter) -> Result<Stats, Gone> {
        self.ask(|answer| Message::Stats(filter, answer)).await
    }

    /// Sends an update. To a hub that has ended it is lost: its clients are gone too.
    async fn tell(&self, update: Message) {
        let _ = self.updates.send(update).await;
    }

    /// Sends a request that is not answered.
    async fn send(&self, request: Message) {
        let _ = self.requests.send(request).await;
    }

    async fn ask<T>(&self, message: impl FnOnce(oneshot::Sender<T>) -> Message) -> Result<T, Gone> {
        let (answer, answered) = oneshot::channel();
        self.requests
            .send(message(answer))
            .await
            .map_err(|_| Gone)?;
        answered.await.map_err(|_| Gone)
    }
}

impl Feed {
    /// Tells what changed. `reached` is the next offset that is not part of it; `times` are of
    /// its newest record.
    pub async fn update(&self, updates: Updates, reached: i64, times: Times) {
        let update = Message::Update {
            partition: self.partition.clone(),
            feed: self.number,
            updates,
            reached,
            times,
        };
        self.hub.tell(update).await;
    }
}

impl Drop for Feed {
    fn drop(&mut self) {
        let closed = Message::Closed {
            partition: self.partition.clone(),
            feed: self.number,
        };
        // A full queue takes it later; without a runtime there is no hub either.
        if let Err(TrySendError::Full(closed)) = self.hub.updates.try_send(closed)
            && let Ok(runtime) = Handle::try_current()
        {
            let hub = self.hub.clone();
            runtime.spawn(async move { hub.tell(closed).await });
        }
    }
}
