//! One task that knows what all partitions know now: it answers reads and
//! streams changes to WebSocket clients. Owners send it their changes.

mod actor;
pub(crate) mod clients;
mod metrics;
pub(crate) mod outbox;
mod pending;
pub(crate) mod stats;
pub(crate) mod view;

use std::sync::Arc;
use std::time::Duration;

use iot_core::partition::TopicPartition;
use iot_fold::{Device, DeviceKey, DeviceWindows, Updates};
use iot_service::config::Live;
use tokio::runtime::Handle;
use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use crate::config::ConsumerConfig;
use crate::metrics::Metrics;
use clients::{ClientId, Subscription};
pub(crate) use metrics::HubMetrics;
use stats::Stats;
use view::{AlertFilter, AlertPage, DeviceFilter};

/// Messages that wait for the hub; owners wait when it is full.
const QUEUE: usize = 256;
/// The most questions that wait for a partition.
pub(crate) const QUESTIONS: usize = 64;
/// An owner that waits for Kafka or the store doesn't answer.
const ANSWER: Duration = Duration::from_secs(2);

/// Asks a partition for the windows of a device.
#[derive(Debug)]
pub(crate) struct Question {
    pub(crate) key: DeviceKey,
    /// Length of the windows, in milliseconds.
    pub(crate) size: i64,
    pub(crate) answer: oneshot::Sender<Option<OwnedWindows>>,
}

/// The windows of a device, and the partition whose state they are.
#[derive(Debug)]
pub(crate) struct OwnedWindows {
    pub(crate) partition: TopicPartition,
    pub(crate) windows: DeviceWindows,
}

/// Messages to the hub: changes and requests.
pub(crate) enum Message {
    Update(Arc<TopicPartition>, Updates),
    Owned(Arc<TopicPartition>, Updates, mpsc::Sender<Question>),
    Released(Arc<TopicPartition>, mpsc::Sender<Question>),
    Reset(Arc<TopicPartition>),
    Subscribe(oneshot::Sender<Option<Subscription>>),
    Unsubscribe(ClientId),
    Devices(DeviceFilter, oneshot::Sender<(Vec<Arc<Device>>, usize)>),
    Device(DeviceKey, oneshot::Sender<Option<Known>>),
    Alerts(AlertFilter, oneshot::Sender<AlertPage>),
    Stats(oneshot::Sender<Stats>),
}

/// A device, and who knows its windows.
pub(crate) type Known = (Arc<Device>, Option<mpsc::Sender<Question>>);

/// Nobody answers: the hub has ended, or the owner of a partition is busy with
/// something else than its log.
#[derive(Debug, thiserror::Error)]
#[error(
    "not available now: partitions are changing hands or wait for the store, \
     or the service is stopping"
)]
pub(crate) struct Gone;

/// A partition that the hub shows for its owner.
pub(crate) struct Held {
    hub: Hub,
    partition: Arc<TopicPartition>,
    questions: mpsc::Sender<Question>,
}

impl Drop for Held {
    fn drop(&mut self) {
        let released = Message::Released(self.partition.clone(), self.questions.clone());
        // A full queue takes it later; without a runtime there is no hub either.
        if let Err(TrySendError::Full(released)) = self.hub.0.try_send(released)
            && let Ok(runtime) = Handle::try_current()
        {
            let hub = self.hub.clone();
            runtime.spawn(async move { hub.send(released).await });
        }
    }
}

/// A handle to the hub.
#[derive(Clone)]
pub(crate) struct Hub(mpsc::Sender<Message>);

impl Hub {
    /// Starts the task; it ends with `stop` and then closes all clients.
    pub(crate) fn start(
        config: Live<ConsumerConfig>,
        metrics: Arc<Metrics>,
        stop: CancellationToken,
    ) -> (Self, JoinHandle<()>) {
        let (sender, receiver) = mpsc::channel(QUEUE);
        let actor = actor::Actor::new(config, metrics, receiver);
        (Self(sender), tokio::spawn(actor.run(stop)))
    }

    /// Something changed in a partition.
    pub(crate) async fn update(&self, partition: &TopicPartition, updates: Updates) {
        self.send(Message::Update(Arc::new(partition.clone()), updates))
            .await;
    }

    /// A partition was loaded: what it knows, and where to ask for more.
    pub(crate) async fn owned(
        &self,
        partition: &TopicPartition,
        updates: Updates,
        questions: mpsc::Sender<Question>,
    ) {
        self.send(Message::Owned(
            Arc::new(partition.clone()),
            updates,
            questions,
        ))
        .await;
    }

    /// The state of a partition was begun again: nothing that is known of it holds any more.
    /// Connected clients have to connect again, for a snapshot without it.
    pub(crate) async fn reset(&self, partition: &TopicPartition) {
        self.send(Message::Reset(Arc::new(partition.clone()))).await;
    }

    /// What the owner with these questions knew goes with the returned value, even
    /// if the owner is ended from outside.
    pub(crate) fn held(
        &self,
        partition: &TopicPartition,
        questions: mpsc::Sender<Question>,
    ) -> Held {
        Held {
            hub: self.clone(),
            partition: Arc::new(partition.clone()),
            questions,
        }
    }

    /// A snapshot and everything that changes from then on; `None` if there are
    /// too many clients.
    pub(crate) async fn subscribe(&self) -> Result<Option<Subscription>, Gone> {
        self.ask(Message::Subscribe).await
    }

    pub(crate) async fn unsubscribe(&self, client: ClientId) {
        self.send(Message::Unsubscribe(client)).await;
    }

    pub(crate) async fn devices(
        &self,
        filter: DeviceFilter,
    ) -> Result<(Vec<Arc<Device>>, usize), Gone> {
        self.ask(|answer| Message::Devices(filter, answer)).await
    }

    /// A device with its windows of length `size` (ms), as far as its owner knows
    /// them; `None` if it isn't known here.
    pub(crate) async fn device(
        &self,
        key: DeviceKey,
        size: i64,
    ) -> Result<Option<(Arc<Device>, Option<OwnedWindows>)>, Gone> {
        let question = key.clone();
        let Some((device, owner)) = self.ask(|answer| Message::Device(question, answer)).await?
        else {
            return Ok(None);
        };
        let Some(owner) = owner else {
            return Ok(Some((device, None)));
        };
        let (answer, answered) = oneshot::channel();
        let windows = async {
            owner.send(Question { key, size, answer }).await.ok()?;
            answered.await.ok()
        };
        let windows = timeout(ANSWER, windows).await.ok().flatten().ok_or(Gone)?;
        Ok(Some((device, windows)))
    }

    pub(crate) async fn alerts(&self, filter: AlertFilter) -> Result<AlertPage, Gone> {
        self.ask(|answer| Message::Alerts(filter, answer)).await
    }

    pub(crate) async fn stats(&self) -> Result<Stats, Gone> {
        self.ask(Message::Stats).await
    }

    /// A message to a hub that has ended is lost: its clients are gone too.
    async fn send(&self, message: Message) {
        let _ = self.0.send(message).await;
    }

    async fn ask<T>(&self, message: impl FnOnce(oneshot::Sender<T>) -> Message) -> Result<T, Gone> {
        let (answer, answered) = oneshot::channel();
        self.0.send(message(answer)).await.map_err(|_| Gone)?;
        answered.await.map_err(|_| Gone)
    }
}
