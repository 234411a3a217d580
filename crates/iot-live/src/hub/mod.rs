//! One task that knows what all partitions know now: it answers reads, and hands changes to those
//! who subscribed to them. Partitions feed it.

mod marks;
mod outbox;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use iot_core::partition::TopicPartition;
use iot_fold::{Alert, Device, DeviceKey, Updates, Windows};
use serde::Serialize;
use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;

use crate::channel::{Channel, Filter};
use crate::protocol::Framing;
pub use marks::{Mark, Marks};
pub use outbox::{Close, Frames, Outbox, outbox};

/// A partition that waits for Kafka or the store does not answer.
const ANSWER: Duration = Duration::from_secs(2);

/// Messages to the hub: changes and requests.
pub(crate) enum Message {
    Open(Box<Opening>),
    Update {
        partition: Arc<TopicPartition>,
        feed: u64,
        updates: Updates,
        reached: i64,
    },
    Closed {
        partition: Arc<TopicPartition>,
        feed: u64,
    },
    Partial {
        partition: Arc<TopicPartition>,
        reason: Option<String>,
    },
    Subscribe(Box<Subscribe>, oneshot::Sender<Result<Subscribed, Refused>>),
    Unsubscribe(ClientId, Channel),
    Leave(ClientId),
    Devices(Page, oneshot::Sender<DevicePage>),
    Device(DeviceKey, oneshot::Sender<Option<Known>>),
    Alerts(Page, oneshot::Sender<AlertPage>),
    Stats(oneshot::Sender<Stats>),
}

/// What a partition knows when its feed begins.
pub struct Opening {
    /// The partition.
    pub partition: Arc<TopicPartition>,
    /// All of its devices and alerts.
    pub all: Updates,
    /// The next offset that is not part of it.
    pub reached: i64,
    /// The fetches of the partition, for positions.
    pub marks: Arc<Marks>,
    /// Takes questions about its devices.
    pub questions: mpsc::Sender<Question>,
}

/// Asks a partition for the windows of a device.
#[derive(Debug)]
pub struct Question {
    /// The device.
    pub key: DeviceKey,
    /// Length of the windows, in milliseconds.
    pub size: i64,
    /// Takes the open and the sealed windows; `None` if the device is not known; an error is a
    /// text for the client.
    pub answer: oneshot::Sender<Result<Option<Windows>, String>>,
}

/// A device, and who knows its windows.
pub(crate) type Known = (Arc<Device>, mpsc::Sender<Question>);

/// A partition that feeds the hub. What it knew is forgotten when this is dropped, unless another
/// feed of the same partition has begun.
pub struct Feed {
    hub: Hub,
    partition: Arc<TopicPartition>,
    number: u64,
}

/// Names a client.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ClientId(pub u64);

/// Asks for a snapshot of a channel and everything that changes from then on.
#[derive(Debug)]
pub struct Subscribe {
    /// Who asks.
    pub client: ClientId,
    /// For what.
    pub channel: Channel,
    /// How publications are written.
    pub framing: Framing,
    /// Where they go.
    pub outbox: Outbox,
    /// What the client has already seen.
    pub since: Option<Position>,
}

/// Up to where a client has seen a channel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Position {
    /// Of the answer to its subscription.
    pub epoch: String,
    /// Of the last publication.
    pub offset: u64,
}

/// The beginning of a subscription. Publications in the outbox are newer.
#[derive(Debug)]
pub struct Subscribed {
    /// The same on all replicas.
    pub epoch: Arc<str>,
    /// The position of the snapshot, 0 if it has none; or the position that the client asked for.
    pub offset: u64,
    /// What the client gets first.
    pub first: First,
    /// Partitions that are not shown, or not up to date, and why.
    pub partial: Vec<String>,
}

/// What a new subscriber gets first.
#[derive(Debug)]
pub enum First {
    /// Everything that the channel has.
    Snapshot(Snapshot),
    /// Only what the client has missed: the data of publications, and their positions.
    Missed(Vec<(u64, Bytes)>),
}

/// Everything that a channel has at one moment.
#[derive(Debug)]
pub enum Snapshot {
    /// Of `readings` and `devices`.
    Devices(Arc<[Arc<Device>]>),
    /// Of `alerts`, in the order in which they are listed.
    Alerts(Arc<[Alert]>),
    /// Of `stats`.
    Stats(Box<Stats>),
}

/// Why a subscription is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// The client has this channel already.
    #[error("already subscribed")]
    Already,
    /// The client has too many channels.
    #[error("too many subscriptions")]
    TooMany,
}

/// A part of a list.
#[derive(Debug, Clone, Default)]
pub struct Page {
    /// Which entries.
    pub filter: Filter,
    /// How many.
    pub limit: usize,
    /// How many to leave out before them.
    pub offset: usize,
}

/// A part of the list of devices, and the position that it is of.
#[derive(Debug, Clone, Default)]
pub struct DevicePage {
    /// By tenant, project and id.
    pub devices: Vec<Arc<Device>>,
    /// How many match in all.
    pub total: usize,
    /// The position.
    pub position: u64,
}

/// A part of the list of alerts, and the position that it is of.
#[derive(Debug, Default, Clone, Serialize)]
pub struct AlertPage {
    /// The alerts.
    pub alerts: Vec<Alert>,
    /// How many match in all, active and cleared.
    pub total: usize,
    /// The active ones of them.
    pub raised: ByLevel,
    /// The position.
    #[serde(skip)]
    pub position: u64,
}

/// Numbers of alerts by their levels.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct ByLevel {
    /// Critical ones.
    pub critical: usize,
    /// The others.
    pub warning: usize,
}

/// What the service counts beside the hub, for [`Stats`].
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
pub struct Counts {
    /// Messages processed since the start.
    pub messages_total: u64,
    /// Readings since the start.
    pub readings_total: u64,
    /// Dead letters since the start.
    pub dead_letters_total: u64,
    /// Assigned partitions.
    pub partitions: i64,
    /// Messages that are not processed yet.
    pub lag: i64,
}

/// The service at a glance.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Stats {
    /// What the service counts.
    #[serde(flatten)]
    pub counts: Counts,
    /// Messages processed in the last second.
    pub messages_per_second: f64,
    /// Active alerts.
    pub alerts_active: usize,
    /// Known devices.
    pub devices: usize,
    /// Connected clients.
    pub clients: usize,
    /// This service's clock, in milliseconds since the epoch.
    pub server_time: i64,
    /// Partitions that are not shown, or not up to date, and why.
    pub partial: Vec<String>,
}

/// Nobody answers: the hub has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "not available now: partitions are changing hands or wait for the store, \
     or the service is stopping"
)]
pub struct Gone;

/// Why the windows of a device are not available.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NoWindows {
    /// Nobody answers.
    #[error(transparent)]
    Gone(#[from] Gone),
    /// The partition cannot answer.
    #[error("{0}")]
    Unavailable(String),
}

/// A handle to the hub.
#[derive(Clone)]
pub struct Hub(pub(crate) mpsc::Sender<Message>);

impl Hub {
    /// A snapshot of a channel, or what the client has missed; what is newer goes to its outbox.
    ///
    /// # Errors
    /// The hub has ended. The hub may also refuse the subscription.
    pub async fn subscribe(
        &self,
        subscribe: Subscribe,
    ) -> Result<Result<Subscribed, Refused>, Gone> {
        let subscribe = Box::new(subscribe);
        self.ask(|answer| Message::Subscribe(subscribe, answer))
            .await
    }

    /// Ends a subscription.
    pub async fn unsubscribe(&self, client: ClientId, channel: Channel) {
        self.send(Message::Unsubscribe(client, channel)).await;
    }

    /// Ends all subscriptions of a client.
    pub async fn leave(&self, client: ClientId) {
        self.send(Message::Leave(client)).await;
    }

    /// A part of the list of devices.
    ///
    /// # Errors
    /// The hub has ended; the same for the others.
    pub async fn devices(&self, page: Page) -> Result<DevicePage, Gone> {
        self.ask(|answer| Message::Devices(page, answer)).await
    }

    /// A device with its windows of length `size` (ms); `None` if it is not known.
    ///
    /// # Errors
    /// Its windows are not available now.
    pub async fn device(
        &self,
        key: DeviceKey,
        size: i64,
    ) -> Result<Option<(Arc<Device>, Windows)>, NoWindows> {
        let asked = key.clone();
        let known = self.ask(|answer| Message::Device(asked, answer)).await?;
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

    /// A part of the list of alerts.
    #[expect(clippy::missing_errors_doc, reason = "as `devices`")]
    pub async fn alerts(&self, page: Page) -> Result<AlertPage, Gone> {
        self.ask(|answer| Message::Alerts(page, answer)).await
    }

    /// The service at a glance.
    #[expect(clippy::missing_errors_doc, reason = "as `devices`")]
    pub async fn stats(&self) -> Result<Stats, Gone> {
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
