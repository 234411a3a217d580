//! The consumer's side of the live view: what a partition sends to the hub, and its answers.

use std::borrow::Cow;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use iot_auth::Authenticator;
use iot_core::partition::TopicPartition;
use iot_fold::{DeviceWindows, Fold, Windows, add_stored};
use iot_live::hub::{Counts, Feed, Hub, Opening, Question, Settings};
use iot_service::config::Live;
use jiff::Timestamp;
use tokio::sync::mpsc;

use crate::config::{ConsumerConfig, Follow, WindowsConfig};
use crate::kafka::lookups::Lookups;
use crate::kafka::marks::MarkKeeper;
use crate::kafka::progress::Progress;
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
    pub(crate) marks: Arc<MarkKeeper>,
    questions: mpsc::Sender<Question>,
}

impl Source {
    /// The second value takes the questions. `before` is of another pipeline that has read the same
    /// log: its marks are valid still.
    pub(crate) fn new(before: Option<&MarkKeeper>) -> (Self, mpsc::Receiver<Question>) {
        let (questions, asked) = mpsc::channel(QUESTIONS);
        let marks = Arc::new(MarkKeeper::after(before));
        (Self { marks, questions }, asked)
    }
}

/// Tells the hub, and so clients, why a partition is not shown, or not up to date.
pub(crate) struct Partial {
    hub: Hub,
    partition: Arc<TopicPartition>,
    /// What it has sent last.
    told: Mutex<Option<Option<Reason>>>,
}

/// A text for clients.
pub(crate) type Reason = Cow<'static, str>;

impl Partial {
    pub(crate) const LOADING: Reason = Cow::Borrowed("its state is being loaded");
    pub(crate) const BEHIND: Reason = Cow::Borrowed("it is being read up to now");

    pub(crate) fn new(hub: &Hub, partition: &TopicPartition) -> Self {
        Self {
            hub: hub.clone(),
            partition: Arc::new(partition.clone()),
            told: Mutex::default(),
        }
    }

    /// Tells it if it is new; `None`: it is shown, and up to date, or is not for this replica to
    /// show.
    pub(crate) async fn tell(&self, reason: Option<Reason>) {
        {
            let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
            if told.as_ref() == Some(&reason) {
                return;
            }
            *told = Some(reason.clone());
        }
        let reason = reason.map(Cow::into_owned);
        self.hub.partial(self.partition.clone(), reason).await;
    }

    /// The reason that the progress of a partition gives.
    pub(crate) fn reason(progress: &Progress, is_shown: bool, is_behind: bool) -> Option<Reason> {
        match progress.not_read() {
            Some((_, Some(trouble))) => Some(format!("it can't be read: {trouble}").into()),
            _ if !is_shown => Some(Self::LOADING),
            _ => is_behind.then_some(Self::BEHIND),
        }
    }
}

/// The text that positions of clients belong to: the same on all replicas of a group that show the
/// same partitions. If Kafka does not name its cluster, positions are valid in this process only.
pub(crate) async fn epoch(lookups: Lookups, config: &ConsumerConfig) -> Arc<str> {
    let group = &config.kafka.group;
    let process = format!(
        "{}-{}",
        Timestamp::now().as_nanosecond(),
        std::process::id()
    );
    let shown = shown_by(config, &process);
    let asked = tokio::task::spawn_blocking(move || lookups.cluster_id(ANSWER)).await;
    match asked.ok().flatten() {
        Some(cluster) => format!("{cluster}/{group}{shown}").into(),
        None => {
            tracing::warn!(
                "no answer from Kafka about its cluster: clients that change to another replica \
                 get a snapshot in place of what they missed"
            );
            format!("{process}/{group}").into()
        }
    }
}

/// What tells replicas apart that do not show the same: a position counts for all partitions that
/// are shown.
fn shown_by(config: &ConsumerConfig, process: &str) -> String {
    match config.follow {
        Follow::All => String::new(),
        Follow::Topics => {
            let mut topics: Vec<_> = config.follow_topics.iter().map(String::as_str).collect();
            topics.sort_unstable();
            // What a replica owns is shown, too, and changes.
            format!("/topics={}/{process}", topics.join(","))
        }
        Follow::None => format!("/none/{process}"),
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
    auth: Authenticator,
) -> iot_live::http::Settings {
    let (clients, queue) = (config.clone(), config.clone());
    iot_live::http::Settings {
        clients: Arc::new(move || clients.current().push.clients),
        queue: Arc::new(move || queue.current().push.queue.bytes()),
        window_sizes: windows.sizes.clone(),
        epoch,
        auth,
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
        clients: usize::try_from(metrics.http.clients.get()).unwrap_or(0),
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
        marks: source.marks.marks().clone(),
        questions: source.questions.clone(),
    };
    hub.open(opening).await
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replicas_share_positions_if_they_show_the_same() {
        let mut config = ConsumerConfig::default();
        assert_eq!(shown_by(&config, "1"), "");
        config.follow = Follow::None;
        assert_ne!(shown_by(&config, "1"), shown_by(&config, "2"));
        config.follow = Follow::Topics;
        config.follow_topics = vec!["b".into(), "a".into()];
        let one = shown_by(&config, "1");
        config.follow_topics.reverse();
        assert_eq!(shown_by(&config, "1"), one);
        config.follow_topics.pop();
        assert_ne!(shown_by(&config, "1"), one);
    }
}
