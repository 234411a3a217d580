//! The consumer's side of the live view: what a partition sends to the hub, and its answers.

use std::sync::Arc;
use std::time::Duration;

use iot_core::partition::TopicPartition;
use iot_fold::{DeviceWindows, Fold, Windows, add_stored};
use iot_live::hub::{Counts, Feed, Hub, Marks, Opening, Question, Settings, Times};
use iot_service::config::Live;
use jiff::Timestamp;
use tokio::sync::mpsc;
use tokio::time::Instant;

use crate::config::{ConsumerConfig, WindowsConfig};
use crate::kafka::lookups::Lookups;
use crate::metrics::Metrics;
use crate::owner::OwnerMetrics;
use crate::store::Keeper;

/// Deadline for Kafka's answer to the question for its cluster.
const ANSWER: Duration = Duration::from_secs(5);
/// The most questions that wait for a partition.
const QUESTIONS: usize = 64;

/// Where the hub finds more about a partition that it shows.
#[derive(Debug)]
pub(crate) struct Source {
    /// When its records were fetched.
    pub(crate) marks: Arc<Marks>,
    questions: mpsc::Sender<Question>,
}

impl Source {
    /// The second value takes the questions.
    pub(crate) fn new() -> (Self, mpsc::Receiver<Question>) {
        let (questions, asked) = mpsc::channel(QUESTIONS);
        let marks = Arc::default();
        (Self { marks, questions }, asked)
    }
}

/// The text that positions of clients belong to: the same on all replicas of a group. If Kafka
/// does not name its cluster, positions are valid in this process only.
pub(crate) async fn epoch(lookups: Lookups, group: &str) -> Arc<str> {
    let asked = tokio::task::spawn_blocking(move || lookups.cluster_id(ANSWER)).await;
    match asked.ok().flatten() {
        Some(cluster) => format!("{cluster}/{group}").into(),
        None => {
            tracing::warn!(
                "no answer from Kafka about its cluster: clients that change to another replica \
                 get a snapshot in place of what they missed"
            );
            let started = Timestamp::now().as_nanosecond();
            format!("{started}-{}/{group}", std::process::id()).into()
        }
    }
}

/// How the hub serves clients.
pub(crate) fn settings(config: &ConsumerConfig, epoch: Arc<str>) -> Settings {
    let push = &config.push;
    Settings {
        epoch,
        interval: *push.interval,
        gather: *push.gather,
        history: push.history.bytes(),
        skew: *push.skew,
        queue: push.queue.bytes(),
        alerts: config.limits.alerts,
    }
}

/// What the API and sessions need to know.
pub(crate) fn http_settings(
    config: &Live<ConsumerConfig>,
    windows: &WindowsConfig,
    epoch: Arc<str>,
) -> iot_live::http::Settings {
    let (clients, queue) = (config.clone(), config.clone());
    iot_live::http::Settings {
        clients: Arc::new(move || clients.current().push.clients),
        queue: Arc::new(move || queue.current().push.queue.bytes()),
        window_sizes: windows.sizes.clone(),
        epoch,
    }
}

/// What the service counts beside the hub.
pub(crate) fn counts(metrics: &Arc<Metrics>) -> impl Fn() -> Counts + Send + 'static {
    let metrics = metrics.clone();
    move || Counts {
        messages_total: metrics.owner.consumed.get() + metrics.followers.messages.get(),
        readings_total: metrics.owner.readings.get() + metrics.followers.readings.get(),
        dead_letters_total: metrics.dead_letter.written.get() + metrics.followers.refused.get(),
        partitions: metrics.kafka.active_partitions.get(),
        lag: metrics.kafka.lag_total.get(),
    }
}

/// Tells the hub when the interval changes.
pub(crate) async fn keep_interval(mut config: Live<ConsumerConfig>, hub: Hub) {
    loop {
        config.changed().await;
        let interval = config.current().push.interval;
        hub.set_interval(*interval).await;
    }
}

/// Shows a partition, from the records before `reached`.
pub(crate) async fn open(
    hub: &Hub,
    partition: &TopicPartition,
    (fold, reached): (&Fold, i64),
    source: &Source,
) -> Feed {
    let opening = Opening {
        partition: Arc::new(partition.clone()),
        all: fold.all(),
        reached,
        marks: source.marks.clone(),
        questions: source.questions.clone(),
    };
    hub.open(opening).await
}

/// When the newest record of a batch was written, and that it was just processed.
pub(crate) fn times(recorded: Option<i64>) -> Times {
    Times {
        recorded,
        arrived: Instant::now(),
    }
}

/// Answers a question with the windows of a device, if it is known. Sealed ones are read from the store by a task
/// of their own, so that the partition does not wait.
pub(crate) fn answer(
    question: Question,
    windows: Option<DeviceWindows>,
    partition: &TopicPartition,
    (store, metrics): (&Arc<Keeper>, &OwnerMetrics),
) {
    // The client may leave in between: answers may fail.
    let Some(windows) = windows else {
        let _ = question.answer.send(Ok(None));
        return;
    };
    let (store, metrics, partition) = (store.clone(), metrics.clone(), partition.clone());
    tokio::spawn(async move {
        let windows = all_windows(windows, &partition, &store, &metrics).await;
        let _ = question.answer.send(windows.map(Some));
    });
}

/// Open windows from the partition, sealed ones from the store.
async fn all_windows(
    DeviceWindows { mut here, stored }: DeviceWindows,
    partition: &TopicPartition,
    store: &Keeper,
    metrics: &OwnerMetrics,
) -> Result<Windows, String> {
    let stored = store.windows(partition, &stored).await;
    let stored = stored.map_err(|error| format!("the windows are not available now: {error}"))?;
    for value in &stored {
        // The others are no worse for it.
        if let Err(error) = add_stored(&mut here, value) {
            metrics.unreadable_window(partition, &error);
        }
    }
    Ok(here)
}
