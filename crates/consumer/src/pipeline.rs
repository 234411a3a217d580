//! The path of a message, top to bottom. Each partition that is owned or followed has one
//! [`Pipeline`], and nothing else changes the state of that partition. Its [`Effects`] are those of
//! its owner ([`Writer`](crate::writer::Writer), made with the right to write) or of a follower,
//! which writes nothing.
//!
//! 1. parse the payload
//! 2. transform its values into the units of the catalogue
//! 3. identify tenant and project
//! 4. validate it; of its readings only the refused ones are left out
//! 5. fold it into newest values, windows and alerts
//! 6. push what changed: all of it to the live view, after each batch; the owner's alerts also to
//!    Kafka and the webhook
//! 7. the owner: wait until Kafka has confirmed the dead letters and the events for other programs
//! 8. the owner: store changes and offset in one atomic step
//!
//! The last two stages end a step: at 3,000 values, or at 1,000 if the partition has more than
//! 3,000 devices; at 8 MiB; at many dead letters or events; and at the latest after a second.

use std::sync::Arc;

use iot_core::partition::TopicPartition;
use iot_fold::{Alert, Catalogue, DeviceWindows, Fold, Folded};
use iot_live::Feed;
use iot_live::hub::{Question, Times};
use kafka_fetch::{Batch, Record};
use prometheus::Histogram;
use tokio::time::Instant;

use crate::identify::{identify, topic_identity};
use crate::kafka::progress::Progress;
use crate::laps::Laps;
use crate::live::{self, Source};
use crate::mapping::{Beside, Mappings};
use crate::parse;
use crate::partial::{Listed, Refused};
use crate::refusal::Refusal;
use crate::shared::Shared;
use crate::store::{Conflict, LogId};
use crate::transform::to_known_units;
use crate::validate::{Validator, check_readings};

/// Why the state must be loaded again.
#[derive(Debug)]
pub(crate) enum ReloadReason {
    /// Another consumer has stored state of this partition.
    Conflict(Conflict),
    /// The task of a dead letter panicked; whether Kafka has the record is unknown.
    DeadLetter(tokio::task::JoinError),
    /// The store was unavailable until the partition was revoked; the next owner loads the
    /// state.
    Stopped,
}

/// Where a pipeline starts.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Place {
    /// Next offset to process.
    pub(crate) next: i64,
    /// The log that has it.
    pub(crate) log: LogId,
}

/// How far a pipeline has come.
pub(crate) struct Progressed<'p> {
    pub(crate) partition: &'p TopicPartition,
    pub(crate) fold: &'p mut Fold,
    /// Next offset to process.
    pub(crate) next: i64,
    /// The log that has it.
    pub(crate) log: LogId,
    /// Whether anything was processed since the last step.
    pub(crate) is_changed: bool,
}

/// What comes of the records of a partition, besides its state and what clients see of it.
pub(crate) trait Effects: Send + Sized {
    /// Measures processing.
    fn processing(shared: &Shared) -> Histogram;

    /// So many messages are processed, with that effect.
    fn folded(&self, messages: u64, folded: &Folded);

    /// A message is refused whole.
    fn refused(&mut self, partition: &TopicPartition, record: &Record<'_>, refusal: &Refusal);

    /// Readings of an accepted message are refused.
    fn readings_refused(
        &mut self,
        partition: &TopicPartition,
        record: &Record<'_>,
        refused: Listed<'_>,
    );

    /// An alert has changed; the newest record is of that time.
    fn alert(&mut self, partition: &TopicPartition, alert: &Alert, recorded: Option<i64>);

    /// The windows of a device; `None` if it is not known.
    fn windows(&self, fold: &Fold, of: &Question) -> Option<DeviceWindows> {
        fold.windows(&of.key, of.size)
    }

    /// Whether the step has to end before the next message.
    fn is_full(&self, fold: &Fold) -> bool;

    /// When the step ends at the latest.
    fn due(&self) -> Instant;

    /// Ends a step.
    fn settle(
        &mut self,
        progressed: Progressed<'_>,
    ) -> impl Future<Output = Result<(), ReloadReason>> + Send;
}

/// The state of one partition, and the stages before it.
pub(crate) struct Pipeline<E> {
    shared: Arc<Shared>,
    partition: TopicPartition,
    /// Tenant and project in the topic's name; `None` if the topic is not bridged.
    topic_identity: Option<(String, String)>,
    mappings: Mappings,
    catalogue: Catalogue,
    validator: Validator,
    /// Readings of the current message that are refused alone.
    refused: Refused,
    fold: Fold,
    effects: E,
    /// Next offset to process.
    next: i64,
    /// The log that has it.
    log: LogId,
    /// Publishes `next` for the lag metric.
    progress: Arc<Progress>,
    /// Time of the newest record, if it has one.
    recorded: Option<i64>,
    /// When the last batch arrived, or something else happened.
    arrived: Instant,
    /// Whether anything was processed since the last step.
    is_changed: bool,
    laps: Laps,
    /// Shows it to clients. Without it they see another pipeline of the partition, or nothing.
    feed: Option<Feed>,
}

impl<E: Effects> Pipeline<E> {
    pub(crate) fn new(
        shared: Arc<Shared>,
        partition: TopicPartition,
        mut fold: Fold,
        place: Place,
        progress: Arc<Progress>,
        effects: E,
    ) -> Self {
        fold.collect_changes(false);
        progress.reach(place.next);
        let catalogue = shared.config.catalogue();
        Self {
            mappings: Mappings::new(&shared.config.mappings, &catalogue),
            catalogue,
            validator: Validator::new(&shared.config.validate),
            refused: Refused::new(shared.config.validate.partial),
            laps: Laps::new(E::processing(&shared)),
            shared,
            topic_identity: topic_identity(&partition.topic)
                .map(|(tenant, project)| (tenant.to_owned(), project.to_owned())),
            partition,
            fold,
            effects,
            next: place.next,
            log: place.log,
            progress,
            recorded: None,
            arrived: Instant::now(),
            is_changed: false,
            feed: None,
        }
    }

    pub(crate) fn effects(&self) -> &E {
        &self.effects
    }

    pub(crate) fn effects_mut(&mut self) -> &mut E {
        &mut self.effects
    }

    pub(crate) fn partition(&self) -> &TopicPartition {
        &self.partition
    }

    /// Next offset to process.
    pub(crate) fn next(&self) -> i64 {
        self.next
    }

    /// The log that has it.
    pub(crate) fn log(&self) -> LogId {
        self.log
    }

    /// Whether anything was processed since the last step.
    pub(crate) fn is_changed(&self) -> bool {
        self.is_changed
    }

    /// Whether clients see it.
    pub(crate) fn is_shown(&self) -> bool {
        self.feed.is_some()
    }

    /// Shows everything that it knows to clients, and from then on what changes. Another pipeline
    /// of the partition that was shown is replaced.
    pub(crate) async fn show(&mut self, source: &Source) {
        // What follows is only what changes later.
        self.push().await;
        self.fold.collect_changes(true);
        let known = (&self.fold, self.next);
        let feed = live::open(&self.shared.hub, &self.partition, known, source).await;
        self.feed = Some(feed);
    }

    /// Goes on without being shown; what was shown stays while the feed is kept.
    pub(crate) fn hide(&mut self) -> Option<Feed> {
        self.fold.collect_changes(false);
        self.feed.take()
    }

    /// Answers a question, unless the client has left.
    pub(crate) fn answer(&self, question: Question) {
        if question.answer.is_closed() {
            return;
        }
        let windows = self.effects.windows(&self.fold, &question);
        let by = (&self.shared.store, &self.shared.metrics.owner);
        live::answer(question, windows, &self.partition, by);
    }

    /// Its state, and where it belongs.
    pub(crate) fn into_parts(self) -> (Fold, Place) {
        let Self {
            fold, next, log, ..
        } = self;
        (fold, Place { next, log })
    }

    /// When [`wake`](Self::wake) is due if no batch arrives.
    pub(crate) fn wakes_at(&self) -> Instant {
        self.effects.due()
    }

    /// Ends a step that is due.
    ///
    /// # Errors
    /// The state must be loaded again.
    pub(crate) async fn wake(&mut self) -> Result<(), ReloadReason> {
        if Instant::now() >= self.effects.due() {
            self.settle().await?;
        }
        Ok(())
    }

    /// Processes a batch.
    ///
    /// # Errors
    /// The state must be loaded again.
    pub(crate) async fn process(&mut self, batch: &Batch) -> Result<(), ReloadReason> {
        self.arrived = Instant::now();
        let first = batch.records().next();
        self.progress
            .begin(first.and_then(|record| record.timestamp()));
        let (mut messages, mut folded) = (0, Folded::default());
        // The same for all records of a batch.
        self.log = self.log.after(batch);
        self.laps.go(Instant::now());
        for record in batch.records() {
            match self.fold_record(&record, &mut folded) {
                Ok(()) => {
                    if let Some(refused) = self.refused.listed() {
                        let partition = &self.partition;
                        self.effects.readings_refused(partition, &record, refused);
                    }
                }
                Err(refusal) => self.effects.refused(&self.partition, &record, &refusal),
            }
            messages += 1;
            self.next = record.offset() + 1;
            self.recorded = record.timestamp();
            self.is_changed = true;
            self.laps.count(Instant::now);
            if self.effects.is_full(&self.fold) {
                self.laps.pause(Instant::now());
                self.effects.folded(messages, &folded);
                (messages, folded) = (0, Folded::default());
                // Now, because storing may take long.
                self.push().await;
                self.settle().await?;
                self.laps.go(Instant::now());
            }
        }
        self.laps.pause(Instant::now());
        self.effects.folded(messages, &folded);
        // Records of aborted transactions may follow the last one; the offset passes them too.
        self.is_changed |= self.next != batch.next_offset();
        self.next = batch.next_offset();
        self.progress.reach(self.next);
        self.push().await;
        Ok(())
    }

    /// Takes a record through the stages from parsing to folding. Adds what it changes to `folded`.
    fn fold_record(&mut self, record: &Record<'_>, folded: &mut Folded) -> Result<(), Refusal> {
        let topic = &self.partition.topic;
        let mut beside = Beside::default();
        let mut message = self
            .refused
            .parse(|refused| parse::message(record, topic, &self.mappings, refused, &mut beside))?;
        to_known_units(&mut message, &self.catalogue, beside.has_chips);
        let topic_identity = self.topic_identity.as_ref();
        let topic_identity =
            topic_identity.map(|(tenant, project)| (tenant.as_str(), project.as_str()));
        let (tenant, project) = (message.tenant.take(), message.project.take());
        let (tenant, project) = identify(topic_identity, tenant.as_deref(), project.as_deref())?;
        let recorded = record.timestamp();
        self.validator.check(&message, recorded)?;
        let catalogue = (&self.catalogue, beside.has_chips);
        check_readings(&mut message.readings, catalogue, &mut self.refused)?;
        let identity = (tenant, project);
        self.refused.fold(
            &mut self.fold,
            record,
            identity,
            &mut message,
            &beside,
            folded,
        )
    }

    /// Pushes what changed: alerts to the owner's outlets, and everything to the live view, which
    /// conflates it where clients want that.
    async fn push(&mut self) {
        let updates = self.fold.take_updates();
        for (_, alert) in &updates.alerts {
            self.effects.alert(&self.partition, alert, self.recorded);
        }
        // Otherwise they are in what is shown first.
        if let Some(feed) = &self.feed {
            // Also without changes: how far the partition has come gives clients their positions.
            let times = Times {
                recorded: self.recorded,
                arrived: self.arrived,
            };
            feed.update(updates, self.next, times).await;
        }
    }

    /// Ends a step: an owner stores everything up to the next offset to process.
    ///
    /// # Errors
    /// The step may not have been stored: the state must be loaded again.
    pub(crate) async fn settle(&mut self) -> Result<(), ReloadReason> {
        let progressed = Progressed {
            partition: &self.partition,
            fold: &mut self.fold,
            next: self.next,
            log: self.log,
            is_changed: self.is_changed,
        };
        self.effects.settle(progressed).await?;
        self.is_changed = false;
        Ok(())
    }
}
