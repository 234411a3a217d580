//! The path of a message, top to bottom. Each assigned partition has one [`Pipeline`], and
//! nothing else changes the state of that partition.
//!
//! 1. parse the payload
//! 2. transform its values into the units of the catalogue
//! 3. identify tenant and project
//! 4. validate it; of its readings only the refused ones are left out
//! 5. fold it into newest values, windows and alerts
//! 6. push what changed: all of it to the live view, after each batch; alerts also to Kafka and
//!    the webhook
//! 7. wait until Kafka has confirmed the dead letters and the events for other programs
//! 8. store changes and offset in one atomic step
//!
//! The last two stages end a step: at 3,000 values, or at 1,000 if the partition has more than
//! 3,000 devices; at 8 MiB; at many dead letters or events; and at the latest after a second.

use std::sync::Arc;
use std::time::Duration;

use iot_core::partition::TopicPartition;
use iot_fold::{Catalogue, Fold, Folded};
use iot_live::Feed;
use kafka_fetch::{Batch, Record};
use prometheus::IntCounter;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::dead_letter::Letter;
use crate::identify::{identify, topic_identity};
use crate::kafka::group::Commit;
use crate::kafka::progress::Progress;
use crate::laps::Laps;
use crate::live;
use crate::mapping::{Beside, Mappings};
use crate::outputs::{OutputEvent, Waiting};
use crate::owner::Shared;
use crate::parse;
use crate::partial::Refused;
use crate::refusal::Refusal;
use crate::store::{Conflict, LogId, Step, Unstored};
use crate::transform::to_known_units;
use crate::validate::{Validator, check_readings};

/// A step ends with the message that brings it to this many values. Smaller steps would write
/// a device's state once per message instead of once per step.
const STEP_VALUES: usize = 3_000;
/// The same in a partition with many devices. Most messages are from different devices there,
/// so larger steps would save few writes and take more memory.
const STEP_VALUES_OF_MANY: usize = 1_000;
/// A partition with more devices than this has many.
const MANY_DEVICES: usize = 3_000;
/// A step also ends with about this many bytes, because it occupies the one thread of Redis.
const STEP_BYTES: usize = 8 << 20;
/// Longest time between two steps.
const STEP_EVERY: Duration = Duration::from_secs(1);
/// A step also ends with this many dead letters, each of which is a task, or with any if memory is
/// short.
const MAX_DEAD_LETTERS: usize = 64;
/// A step also ends with about this many events.
const MAX_EVENTS: usize = 1_000;
/// A step also ends with about this many bytes of dead letters and events.
const MAX_UNCONFIRMED_BYTES: usize = 16 << 20;

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
    /// Offset in the store.
    pub(crate) stored: i64,
    /// Next offset to process.
    pub(crate) next: i64,
    /// The log that has the stored offset.
    pub(crate) log: LogId,
}

/// The state of one partition, and the stages before it.
pub(crate) struct Pipeline {
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
    /// Offset in the store.
    stored_offset: i64,
    /// Next offset to process.
    next: i64,
    /// The log that has it.
    log: LogId,
    /// Publishes `next` for the lag metric.
    progress: Arc<Progress>,
    /// Time of the newest record, if it has one.
    recorded: Option<i64>,
    /// When reading of this partition started, in milliseconds since the epoch.
    begun: i64,
    /// Whether anything is processed and not stored yet.
    has_unstored: bool,
    /// The step's dead letters. A task ends when Kafka has confirmed its record.
    dead_letters: JoinSet<()>,
    /// Events that Kafka has not confirmed yet.
    events: Waiting,
    /// Bytes of the step's dead letters and events.
    unconfirmed_bytes: usize,
    /// Counters of late readings by window length, shortest first.
    late: Vec<IntCounter>,
    laps: Laps,
    /// Cancelled when the partition is revoked.
    stop: CancellationToken,
    /// When the step ends at the latest.
    step_at: Instant,
    /// Shows the partition to clients; `None` before it is shown.
    feed: Option<Feed>,
}

impl Pipeline {
    pub(crate) fn new(
        shared: Arc<Shared>,
        partition: TopicPartition,
        fold: Fold,
        place: Place,
        progress: Arc<Progress>,
        stop: CancellationToken,
    ) -> Self {
        progress.reach(place.next);
        let catalogue = shared.config.catalogue();
        Self {
            mappings: Mappings::new(&shared.config.mappings, &catalogue),
            catalogue,
            validator: Validator::new(&shared.config.validate),
            refused: Refused::new(shared.config.validate.partial),
            laps: Laps::new(shared.metrics.owner.processing.clone()),
            late: shared.metrics.owner.late(&shared.config.windows),
            shared,
            topic_identity: topic_identity(&partition.topic)
                .map(|(tenant, project)| (tenant.to_owned(), project.to_owned())),
            partition,
            fold,
            stored_offset: place.stored,
            next: place.next,
            log: place.log,
            begun: jiff::Timestamp::now().as_millisecond(),
            progress,
            recorded: None,
            has_unstored: false,
            dead_letters: JoinSet::new(),
            events: Waiting::default(),
            unconfirmed_bytes: 0,
            stop,
            step_at: Instant::now() + STEP_EVERY,
            feed: None,
        }
    }

    pub(crate) fn fold(&self) -> &Fold {
        &self.fold
    }

    /// Offset in the store. After a failed step a later one may be stored.
    pub(crate) fn stored_offset(&self) -> i64 {
        self.stored_offset
    }

    /// Whether the state in memory is what is stored: nothing was read since.
    pub(crate) fn is_stored(&self) -> bool {
        self.next == self.stored_offset && !self.has_unstored
    }

    /// Shows the partition: `feed` was opened with what the fold has now.
    pub(crate) fn show(&mut self, feed: Feed) {
        self.feed = Some(feed);
    }

    /// Goes on without showing the partition; what was shown stays while the feed is kept.
    pub(crate) fn hide(&mut self) -> Option<Feed> {
        self.feed.take()
    }

    /// Next offset to process.
    pub(crate) fn next(&self) -> i64 {
        self.next
    }

    /// When [`wake`](Self::wake) is due if no batch arrives.
    pub(crate) fn wakes_at(&self) -> Instant {
        self.step_at
    }

    /// Stores what is due.
    ///
    /// # Errors
    /// The state must be loaded again.
    pub(crate) async fn wake(&mut self) -> Result<(), ReloadReason> {
        if Instant::now() >= self.step_at {
            self.store_step().await?;
        }
        Ok(())
    }

    /// Processes a batch.
    ///
    /// # Errors
    /// The state must be loaded again.
    pub(crate) async fn process(&mut self, batch: &Batch) -> Result<(), ReloadReason> {
        let first = batch.records().next();
        self.progress
            .begin(first.and_then(|record| record.timestamp()));
        let (mut messages, mut folded) = (0, Folded::default());
        // The same for all records of a batch.
        self.log = self.log.after(batch);
        self.laps.go(Instant::now());
        for record in batch.records() {
            match self.fold_record(&record) {
                Ok(effects) => {
                    folded.add(&effects);
                    self.refuse_readings(&record);
                }
                Err(refusal) => self.refuse(&record, &refusal),
            }
            messages += 1;
            self.next = record.offset() + 1;
            self.recorded = record.timestamp();
            self.has_unstored = true;
            self.laps.count(Instant::now);
            if self.is_full() {
                self.laps.pause(Instant::now());
                self.count(messages, &folded);
                (messages, folded) = (0, Folded::default());
                // Now, because storing may take long.
                self.push().await;
                self.store_step().await?;
                self.laps.go(Instant::now());
            }
        }
        self.laps.pause(Instant::now());
        self.count(messages, &folded);
        // Records of aborted transactions may follow the last one; the offset passes them too.
        self.has_unstored |= self.next != batch.next_offset();
        self.next = batch.next_offset();
        self.progress.reach(self.next);
        self.push().await;
        Ok(())
    }

    /// Whether the step must be stored before the next message.
    fn is_full(&self) -> bool {
        self.dead_letters.len() >= MAX_DEAD_LETTERS
            || (!self.dead_letters.is_empty() && self.shared.budget.is_exhausted())
            || self.events.len() >= MAX_EVENTS
            || self.unconfirmed_bytes >= MAX_UNCONFIRMED_BYTES
            || self.fold.changed() >= self.step_values()
            || self.fold.changed_bytes() >= STEP_BYTES
    }

    fn step_values(&self) -> usize {
        match self.fold.devices() {
            0..=MANY_DEVICES => STEP_VALUES,
            _ => STEP_VALUES_OF_MANY,
        }
    }

    /// Takes a record through the stages from parsing to folding.
    fn fold_record(&mut self, record: &Record<'_>) -> Result<Folded, Refusal> {
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
        self.refused
            .fold(&mut self.fold, record, identity, &mut message, &beside)
    }

    /// Counts processed messages and their effects.
    fn count(&self, messages: u64, folded: &Folded) {
        let metrics = &self.shared.metrics.owner;
        metrics.folded(messages, folded, &self.late);
    }

    /// Starts to write a dead letter of a message that is refused whole.
    fn refuse(&mut self, record: &Record<'_>, refusal: &Refusal) {
        let (topic, partition) = self.partition.parts();
        self.shared.metrics.owner.refused(refusal);
        tracing::debug!(topic, partition, offset = record.offset(), %refusal, "message refused");
        self.write(Letter::new(&self.partition, record, refusal));
    }

    /// Starts to write a dead letter if readings of an accepted message were refused.
    fn refuse_readings(&mut self, record: &Record<'_>) {
        let Some(refused) = self.refused.listed() else {
            return;
        };
        for reading in refused.all {
            self.shared.metrics.owner.refused_reading(reading.refusal());
        }
        let (topic, partition) = self.partition.parts();
        let (offset, readings) = (record.offset(), refused.all.len());
        let refusal = refused.first.refusal();
        tracing::debug!(topic, partition, offset, readings, %refusal, "readings refused");
        self.write(Letter::partial(&self.partition, record, refused));
    }

    fn write(&mut self, letter: Letter) {
        let bytes = letter.bytes();
        self.unconfirmed_bytes += bytes;
        // librdkafka copies it.
        let held = self.shared.budget.add(2 * bytes);
        let letters = self.shared.dead_letters.clone();
        self.dead_letters.spawn(async move {
            letters.deliver(letter).await;
            drop(held);
        });
    }

    /// Pushes what changed: alerts to Kafka and the webhook, and everything to the live view,
    /// which conflates it where clients want that.
    async fn push(&mut self) {
        let updates = self.fold.take_updates();
        for (_, alert) in &updates.alerts {
            let event = self.shared.outputs.alert(&self.partition, alert);
            self.produce(event);
            self.shared.webhook.send(alert, self.recorded, self.begun);
        }
        if let Some(feed) = &self.feed {
            // Also without changes: how far the partition has come gives clients their positions.
            let times = live::times(self.recorded);
            feed.update(updates, self.next, times).await;
        }
    }

    fn produce(&mut self, event: Option<OutputEvent>) {
        if let Some(event) = event {
            self.unconfirmed_bytes += event.bytes();
            self.shared.outputs.produce(&mut self.events, event);
        }
    }

    /// Stores everything up to the next offset to process. The partition is not processed
    /// while this waits for Kafka and the store.
    ///
    /// # Errors
    /// The step may not have been stored: the state must be loaded again.
    pub(crate) async fn store_step(&mut self) -> Result<(), ReloadReason> {
        self.step_at = Instant::now() + STEP_EVERY;
        if !self.has_unstored {
            return Ok(());
        }
        let changes = self.fold.take_changes();
        for sealed in &changes.windows {
            let event = self.shared.outputs.windows(&self.partition, sealed);
            self.produce(event);
        }
        self.wait_for_kafka().await?;
        let step = Step {
            partition: &self.partition,
            from: Some(self.stored_offset),
            to: self.next,
            log: self.log,
            changes: &changes,
        };
        let stored = self.shared.store.apply(&step, &self.stop).await;
        stored.map_err(|unstored| match unstored {
            Unstored::Conflict(conflict) => ReloadReason::Conflict(conflict),
            Unstored::Stopped => ReloadReason::Stopped,
        })?;
        self.stored_offset = self.next;
        self.has_unstored = false;
        let commit = Commit {
            partition: self.partition.clone(),
            offset: self.next,
        };
        // The group's thread may have ended. Reading resumes at the stored offset; commits
        // only serve lag tools, and show that a store was emptied.
        let _ = self.shared.commits.send(commit).await;
        Ok(())
    }

    /// Waits until Kafka has confirmed the step's dead letters and events.
    async fn wait_for_kafka(&mut self) -> Result<(), ReloadReason> {
        self.shared.outputs.confirm(&mut self.events).await;
        while let Some(delivered) = self.dead_letters.join_next().await {
            delivered.map_err(ReloadReason::DeadLetter)?;
        }
        self.unconfirmed_bytes = 0;
        Ok(())
    }
}
