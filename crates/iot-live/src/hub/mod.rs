//! One task that knows what all partitions know now: it answers reads, and hands changes to those
//! who subscribed to them. Partitions feed it.

mod actor;
mod backlog;
mod channels;
mod groups;
mod handle;
mod history;
mod index;
mod json;
mod marks;
mod metrics;
mod outbox;
mod part;
mod pending;
mod recover;
mod shown;
#[cfg(test)]
mod tests;
mod view;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use iot_core::partition::TopicPartition;
use iot_fold::{Alert, Contents, Device, DeviceKey, Updates, Windows};
use serde::Serialize;
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;

use crate::channel::{Channel, Filter};
use crate::protocol::Framing;
pub use marks::{Mark, Marks};
pub use metrics::HubMetrics;
pub use outbox::{Close, Frames, Outbox, outbox};

/// How the hub serves clients.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The same on all replicas that show the same log for the same group.
    pub epoch: Arc<str>,
    /// How often channels of newest values send their changes.
    pub interval: Duration,
    /// For how long changes are gathered into one publication, after the last one.
    pub gather: Duration,
    /// Bytes of recent changes that are kept for clients that were disconnected.
    pub history: usize,
    /// By how much the clocks of replicas may differ.
    pub skew: Duration,
    /// Bytes that may wait for a client: the limit of its [`outbox`].
    pub queue: usize,
    /// The most alerts that are listed. Active ones are, however many they are.
    pub alerts: usize,
}

/// When the newest record of changes was written and when it arrived.
#[derive(Debug, Clone, Copy)]
pub struct Times {
    /// Kafka's time of it, in milliseconds since the epoch, if it has one.
    pub recorded: Option<i64>,
    /// When it arrived here.
    pub arrived: Instant,
}

/// Messages to the hub: changes and requests.
pub(crate) enum Message {
    Open(Box<Opening>, u64),
    Update {
        partition: Arc<TopicPartition>,
        feed: u64,
        updates: Updates,
        reached: i64,
        times: Times,
    },
    Closed {
        partition: Arc<TopicPartition>,
        feed: u64,
    },
    Partial {
        partition: Arc<TopicPartition>,
        reason: Option<String>,
    },
    Unlisted(Option<String>),
    Interval(Duration),
    Subscribe(Box<Subscribe>, oneshot::Sender<Result<Subscribed, Refused>>),
    Unsubscribe(ClientId, Channel),
    Leave(ClientId),
    Resubscribe(ClientId, oneshot::Sender<()>),
    Devices(Page, oneshot::Sender<DevicePage>),
    Device(DeviceKey, Filter, oneshot::Sender<Option<Known>>),
    Alerts(Page, oneshot::Sender<AlertPage>),
    Stats(Filter, oneshot::Sender<Stats>),
}

/// What a partition knows when its feed begins.
pub struct Opening {
    /// The partition.
    pub partition: Arc<TopicPartition>,
    /// All of its devices and alerts.
    pub all: Contents,
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
    /// The same on all replicas, for clients with the same scope.
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
    /// Only what the client has missed: the data of publications. Only the last one has a
    /// position; the numbers of the others mean nothing.
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
    /// Connected clients.
    #[serde(skip)]
    pub clients: usize,
}

/// The service at a glance.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Stats {
    /// What is about all tenants; `None` for a client that may not see everything.
    #[serde(flatten)]
    pub service: Option<ServiceStats>,
    /// Active alerts that the client may see.
    pub alerts_active: usize,
    /// Known devices that the client may see.
    pub devices: usize,
    /// This service's clock, in milliseconds since the epoch.
    pub server_time: i64,
    /// Partitions that are not shown, or not up to date, and why.
    pub partial: Vec<String>,
}

/// What [`Stats`] has of the whole service.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct ServiceStats {
    /// What the service counts.
    #[serde(flatten)]
    pub counts: Counts,
    /// Messages processed in the last second.
    pub messages_per_second: f64,
    /// Connected clients.
    pub clients: usize,
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

/// A handle to the hub. Clients that ask much do not hold up partitions: these have a queue of their
/// own, which goes first.
#[derive(Clone)]
pub struct Hub {
    updates: mpsc::Sender<Message>,
    requests: mpsc::Sender<Message>,
}

#[cfg(test)]
impl Hub {
    /// A hub of a test, which takes all messages from one queue.
    pub(crate) fn to(messages: mpsc::Sender<Message>) -> Self {
        Self {
            updates: messages.clone(),
            requests: messages,
        }
    }
}

impl Message {
    /// Whether it can change what is shown.
    fn is_update(&self) -> bool {
        matches!(
            self,
            Self::Open(..)
                | Self::Update { .. }
                | Self::Closed { .. }
                | Self::Partial { .. }
                | Self::Unlisted(_)
        )
    }

    /// Whether nobody waits for the answer any more.
    fn is_abandoned(&self) -> bool {
        match self {
            Self::Subscribe(_, answer) => answer.is_closed(),
            Self::Devices(_, answer) => answer.is_closed(),
            Self::Device(.., answer) => answer.is_closed(),
            Self::Alerts(_, answer) => answer.is_closed(),
            Self::Stats(_, answer) => answer.is_closed(),
            _ => false,
        }
    }
}
