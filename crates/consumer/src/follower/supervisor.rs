//! Starts and ends followers: each partition that exists and that no owner of this replica has is
//! followed.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use iot_core::partition::TopicPartition;
use iot_service::health::Component;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::metrics::FollowerMetrics;
use super::report::{Report, Standing};
use super::topics::{self, Filters, Known};
use super::{Continued, Following};
use crate::config::ConsumerConfig;
use crate::kafka::group::Assigned;
use crate::kafka::lookups::Lookups;
use crate::kafka::progress::Gauge;
use crate::live::Partial;
use crate::shared::Shared;
use crate::showing::Showing;

/// A member that is assigned nothing for so long follows all partitions.
const ALONE: Duration = Duration::from_secs(10);
/// How often lag and readiness are reported.
const REPORT_EVERY: Duration = Duration::from_secs(1);
/// The same until the replica is ready.
const REPORT_AT_FIRST: Duration = Duration::from_millis(100);
/// A partition that is missing in so many answers in a row is gone. One may be of a broker that is
/// behind.
const GONE: u32 = 2;

/// What stays of a partition when its owner ends.
#[derive(Default)]
pub(crate) enum Left {
    #[default]
    Nothing,
    /// The follower that clients still see.
    Following(Following),
    /// What the owner has shown, and the state to continue with.
    Shown {
        showing: Showing,
        from: Option<Box<Continued>>,
    },
}

enum Event {
    Taken(TopicPartition, oneshot::Sender<Option<Following>>),
    Released(TopicPartition, Left),
}

/// A handle to the supervisor of followers; of a replica without followers, to none.
#[derive(Clone)]
pub(crate) struct Followers {
    events: Option<mpsc::UnboundedSender<Event>>,
    held: Arc<Held>,
}

/// What owners leave while the service stops: clients see it until they are disconnected.
#[derive(Default)]
struct Held {
    stop: CancellationToken,
    left: Mutex<Vec<Left>>,
}

/// A partition that an owner has. It is followed again when this is dropped.
pub(crate) struct Tenure {
    followers: Followers,
    partition: TopicPartition,
    left: Left,
}

impl Tenure {
    /// The owner ends.
    pub(crate) fn release(mut self, left: Left) {
        self.left = left;
    }
}

impl Drop for Tenure {
    fn drop(&mut self) {
        let held = &self.followers.held;
        if held.stop.is_cancelled() {
            let mut all = held.left.lock().unwrap_or_else(PoisonError::into_inner);
            all.push(std::mem::take(&mut self.left));
        } else if let Some(events) = &self.followers.events {
            let left = std::mem::take(&mut self.left);
            // Without the supervisor nobody takes it.
            let _ = events.send(Event::Released(self.partition.clone(), left));
        }
    }
}

impl Followers {
    /// Of a replica that follows nothing.
    pub(crate) fn none() -> Self {
        Self::new(None)
    }

    fn new(events: Option<mpsc::UnboundedSender<Event>>) -> Self {
        let held = Arc::default();
        Self { events, held }
    }

    /// Keeps what owners leave after `stop` until all clones of this are dropped.
    pub(crate) fn holding(self, stop: CancellationToken) -> Self {
        let left = Mutex::default();
        Self {
            held: Arc::new(Held { stop, left }),
            ..self
        }
    }

    /// An owner begins: the partition is not followed any more. Returns the follower that there
    /// was, which shows the partition until the owner has come as far.
    pub(crate) async fn take(&self, partition: &TopicPartition) -> (Tenure, Option<Following>) {
        let tenure = Tenure {
            followers: self.clone(),
            partition: partition.clone(),
            left: Left::Nothing,
        };
        let Some(events) = &self.events else {
            return (tenure, None);
        };
        let (answer, answered) = oneshot::channel();
        // While the service stops nobody answers.
        let _ = events.send(Event::Taken(partition.clone(), answer));
        (tenure, answered.await.ok().flatten())
    }
}

/// A follower, and what is measured of it.
struct Followed {
    following: Following,
    gauge: Gauge,
    /// In how many answers the partition was missing.
    missing: u32,
}

/// The task that has the followers of a replica.
pub(crate) struct Supervisor {
    filters: Filters,
    events: mpsc::UnboundedReceiver<Event>,
    assigned: watch::Receiver<Assigned>,
    /// Owners by their partitions; an earlier one may still be ending.
    owners: HashMap<TopicPartition, usize>,
    followed: BTreeMap<TopicPartition, Followed>,
    begun: Instant,
    report: Report,
}

impl Supervisor {
    /// Makes it, and the handle to it; `None` if the replica follows nothing.
    ///
    /// # Errors
    /// A pattern of topics is not valid.
    pub(crate) fn new(
        config: &ConsumerConfig,
        assigned: watch::Receiver<Assigned>,
        health: impl FnOnce() -> Component,
    ) -> Result<(Followers, Option<Self>), String> {
        let Some(filters) = Filters::new(config)? else {
            return Ok((Followers::none(), None));
        };
        // Bounded by the owners: two for each.
        let (sender, events) = mpsc::unbounded_channel();
        let supervisor = Self {
            filters,
            events,
            assigned,
            owners: HashMap::new(),
            followed: BTreeMap::new(),
            begun: Instant::now(),
            report: Report::new(health()),
        };
        Ok((Followers::new(Some(sender)), Some(supervisor)))
    }

    /// Runs until `stop`; then all followers end.
    pub(crate) async fn run(
        mut self,
        shared: Arc<Shared>,
        lookups: Lookups,
        stop: CancellationToken,
    ) {
        let (known, mut topics) = watch::channel(Known::None);
        let kafka = shared.config.kafka.clone();
        tokio::spawn(topics::keep(lookups, kafka, self.filters.clone(), known));
        let mut report_at = Instant::now();
        let mut group = true;
        // A position counts for all partitions.
        let unlisted = "Kafka has not listed its topics yet".to_owned();
        shared.hub.unlisted(Some(unlisted)).await;
        let mut is_listed = false;
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                Some(event) = self.events.recv() => self.handle(event, &shared),
                changed = self.assigned.changed(), if group => group = changed.is_ok(),
                Ok(()) = topics.changed() => {
                    self.count_missing(&topics.borrow(), &shared.metrics.followers);
                    let waiting = self.waiting(&shared, &topics.borrow());
                    for partition in waiting {
                        let reason = "waiting for the group to assign partitions".to_owned();
                        shared.hub.partial(Arc::new(partition), Some(reason)).await;
                    }
                }
                () = tokio::time::sleep_until(report_at) => {
                    self.report(&shared, &topics.borrow());
                    let pause = if self.report.was_ready() {
                        REPORT_EVERY
                    } else {
                        REPORT_AT_FIRST
                    };
                    report_at = Instant::now() + pause;
                }
            }
            let missing = self.missing(&shared, &topics.borrow());
            self.start(missing, &shared).await;
            let hidden = self.hidden(&topics.borrow());
            if let Some(hidden) = hidden
                && !std::mem::replace(&mut is_listed, true)
            {
                // Their owners are about to begin. Those that wait for the group have been named.
                let hidden = hidden.into_iter().filter(|_| self.may_start(&shared));
                for partition in hidden.collect::<Vec<_>>() {
                    shared
                        .hub
                        .partial(Arc::new(partition), Some(Partial::LOADING.into()))
                        .await;
                }
                shared.hub.unlisted(None).await;
            }
        }
    }

    fn handle(&mut self, event: Event, shared: &Arc<Shared>) {
        match event {
            Event::Taken(partition, answer) => {
                *self.owners.entry(partition.clone()).or_default() += 1;
                let followed = self.followed.remove(&partition);
                if followed.is_some() {
                    let (topic, number) = partition.parts();
                    shared.metrics.followers.lag.forget(topic, number);
                }
                // An owner that has ended meanwhile needs none.
                let _ = answer.send(followed.map(|followed| followed.following));
            }
            Event::Released(partition, left) => {
                if let Some(owners) = self.owners.get_mut(&partition) {
                    *owners -= 1;
                    if *owners == 0 {
                        self.owners.remove(&partition);
                    }
                }
                let is_free = !self.owners.contains_key(&partition);
                if !is_free || !self.filters.have(&partition.topic) {
                    return;
                }
                let following = match left {
                    Left::Nothing => return,
                    Left::Following(following) => following,
                    Left::Shown { showing, from } => {
                        let from = from.map(|from| *from);
                        Following::start(shared, partition.clone(), showing, from)
                    }
                };
                self.add(partition, following);
            }
        }
    }

    fn add(&mut self, partition: TopicPartition, following: Following) {
        let followed = Followed {
            following,
            gauge: Gauge::default(),
            missing: 0,
        };
        self.followed.insert(partition, followed);
    }

    /// Ends the followers of partitions that are gone.
    fn count_missing(&mut self, known: &Known, metrics: &FollowerMetrics) {
        let Some(Ok(known)) = known else { return };
        self.followed.retain(|partition, followed| {
            followed.missing += 1;
            if known.contains(partition) {
                followed.missing = 0;
            }
            let stays = followed.missing < GONE;
            if !stays {
                let (topic, number) = partition.parts();
                metrics.lag.forget(topic, number);
            }
            stays
        });
    }

    /// A member waits for its first assignment: what it owns needs no follower.
    fn may_start(&self, shared: &Shared) -> bool {
        !shared.config.role.is_member()
            || self.assigned.borrow().joined
            || self.begun.elapsed() >= ALONE
    }

    /// Partitions that nobody shows before the group has assigned its own to this replica.
    fn waiting(&self, shared: &Shared, known: &Known) -> Vec<TopicPartition> {
        let Some(Ok(known)) = known else {
            return Vec::new();
        };
        if self.may_start(shared) {
            return Vec::new();
        }
        let waiting = known.iter();
        let waiting = waiting.filter(|one| !self.owners.contains_key(*one));
        waiting.cloned().collect()
    }

    /// Partitions that have neither owner nor follower here; `None` as long as it is not known which
    /// there are.
    fn hidden(&self, known: &Known) -> Option<Vec<TopicPartition>> {
        let Some(Ok(known)) = known else { return None };
        let is_shown = |partition: &TopicPartition| {
            self.followed.contains_key(partition) || self.owners.contains_key(partition)
        };
        let hidden = known.iter().filter(|one| !is_shown(one));
        Some(hidden.cloned().collect())
    }

    /// Those of them that are to be followed now.
    fn missing(&self, shared: &Shared, known: &Known) -> Vec<TopicPartition> {
        if !self.may_start(shared) {
            return Vec::new();
        }
        let mut hidden = self.hidden(known).unwrap_or_default();
        let assigned = self.assigned.borrow();
        hidden.retain(|one| !assigned.partitions.contains(one));
        hidden
    }

    async fn start(&mut self, missing: Vec<TopicPartition>, shared: &Arc<Shared>) {
        for partition in missing {
            // Before its task does: until then nothing says that it is not shown.
            let reason = Some(Partial::LOADING.into());
            shared
                .hub
                .partial(Arc::new(partition.clone()), reason)
                .await;
            let following = Following::start(shared, partition.clone(), Showing::default(), None);
            self.add(partition, following);
        }
    }

    fn report(&mut self, shared: &Shared, known: &Known) {
        let now = jiff::Timestamp::now().as_millisecond();
        let mut standings = Vec::with_capacity(self.followed.len());
        for (
            partition,
            Followed {
                following, gauge, ..
            },
        ) in &mut self.followed
        {
            let status = &following.status;
            let end = status.progress.end();
            let lag = end.and_then(|end| gauge.measure(&status.progress, end, now));
            standings.push(Standing::of(partition, status, lag));
        }
        let waiting = match known {
            None => Some("asking Kafka which topics there are".to_owned()),
            Some(Err(reason)) => Some(format!(
                "no answer from Kafka about its topics: {reason}; retrying"
            )),
            Some(Ok(_)) if !self.may_start(shared) => {
                Some("waiting for the group to assign partitions".to_owned())
            }
            Some(Ok(_)) => None,
        };
        self.report
            .all(&standings, waiting, &shared.metrics.followers);
    }
}
