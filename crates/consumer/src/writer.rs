//! What the owner of a partition writes besides showing it: dead letters, events, alerts for the
//! webhook, and steps of the store.

use std::sync::Arc;
use std::time::Duration;

use iot_core::partition::TopicPartition;
use iot_fold::{Alert, Fold, Folded};
use kafka_fetch::Record;
use prometheus::{Histogram, IntCounter};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::dead_letter::{DeadLetters, Letter};
use crate::kafka::group::{Commit, WriteRight};
use crate::kafka::record_times::RecordTimes;
use crate::outputs::{OutputEvent, Outputs, Waiting};
use crate::partial::Listed;
use crate::pipeline::{Effects, Pipeline, Progressed, ReloadReason};
use crate::refusal::Refusal;
use crate::shared::Shared;
use crate::store::{Step, Unstored};
use crate::webhook::Webhook;

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

/// Where owners write, besides the store. A replica that owns nothing has none.
pub(crate) struct Outlets {
    pub(crate) dead_letters: DeadLetters,
    pub(crate) record_times: RecordTimes,
    pub(crate) outputs: Outputs,
    pub(crate) webhook: Webhook,
    pub(crate) commits: mpsc::Sender<Commit>,
}

/// Writes for one partition, with the right to it.
pub(crate) struct Writer {
    shared: Arc<Shared>,
    outlets: Arc<Outlets>,
    right: Arc<WriteRight>,
    /// Offset in the store.
    stored_offset: i64,
    /// When reading of this partition started, in milliseconds since the epoch.
    begun: i64,
    /// The step's dead letters. A task ends when Kafka has confirmed its record.
    dead_letters: JoinSet<()>,
    /// Events that Kafka has not confirmed yet.
    events: Waiting,
    /// Bytes of the step's dead letters and events.
    unconfirmed_bytes: usize,
    /// Counters of late readings by window length, shortest first.
    late: Vec<IntCounter>,
    /// When the step ends at the latest.
    step_at: Instant,
}

impl Writer {
    pub(crate) fn new(
        shared: Arc<Shared>,
        outlets: Arc<Outlets>,
        right: Arc<WriteRight>,
        stored_offset: i64,
    ) -> Self {
        Self {
            late: shared.metrics.owner.late(&shared.config.windows),
            shared,
            outlets,
            right,
            stored_offset,
            begun: jiff::Timestamp::now().as_millisecond(),
            dead_letters: JoinSet::new(),
            events: Waiting::default(),
            unconfirmed_bytes: 0,
            step_at: Instant::now() + STEP_EVERY,
        }
    }

    fn write(&mut self, letter: Letter) {
        let bytes = letter.bytes();
        self.unconfirmed_bytes += bytes;
        // librdkafka copies it.
        let held = self.shared.budget.add(2 * bytes);
        let delivered = self.outlets.dead_letters.deliver(letter);
        self.dead_letters.spawn(async move {
            delivered.await;
            drop(held);
        });
    }

    fn produce(&mut self, event: Option<OutputEvent>) {
        if let Some(event) = event {
            self.unconfirmed_bytes += event.bytes();
            self.outlets.outputs.produce(&mut self.events, event);
        }
    }

    /// Waits until Kafka has confirmed the step's dead letters and events.
    async fn wait_for_kafka(&mut self) -> Result<(), ReloadReason> {
        self.outlets.outputs.confirm(&mut self.events).await;
        while let Some(delivered) = self.dead_letters.join_next().await {
            delivered.map_err(ReloadReason::DeadLetter)?;
        }
        self.unconfirmed_bytes = 0;
        Ok(())
    }

    /// Stores everything up to the next offset to process. The partition is not processed
    /// while this waits for Kafka and the store.
    async fn store(&mut self, progressed: Progressed<'_>) -> Result<(), ReloadReason> {
        let Progressed {
            partition,
            fold,
            next,
            log,
            ..
        } = progressed;
        let changes = fold.take_changes();
        for sealed in &changes.windows {
            let event = self.outlets.outputs.windows(partition, sealed);
            self.produce(event);
        }
        self.wait_for_kafka().await?;
        let step = Step {
            partition,
            from: Some(self.stored_offset),
            to: next,
            log,
            changes: &changes,
        };
        let stored = self.shared.store.apply(&step, &self.right).await;
        stored.map_err(|unstored| match unstored {
            Unstored::Conflict(conflict) => ReloadReason::Conflict(conflict),
            Unstored::Stopped => ReloadReason::Stopped,
        })?;
        self.stored_offset = next;
        let commit = Commit {
            partition: partition.clone(),
            offset: next,
        };
        // The group's thread may have ended. Reading resumes at the stored offset; commits
        // only serve lag tools, and show that a store was emptied.
        let _ = self.outlets.commits.send(commit).await;
        Ok(())
    }
}

impl Effects for Writer {
    fn processing(shared: &Shared) -> Histogram {
        shared.metrics.owner.processing.clone()
    }

    fn folded(&self, messages: u64, folded: &Folded) {
        let metrics = &self.shared.metrics.owner;
        metrics.folded(messages, folded, &self.late);
    }

    fn refused(&mut self, partition: &TopicPartition, record: &Record<'_>, refusal: &Refusal) {
        let (topic, number) = partition.parts();
        self.shared.metrics.owner.refused(refusal);
        tracing::debug!(topic, partition = number, offset = record.offset(), %refusal, "message refused");
        self.write(Letter::new(partition, record, refusal));
    }

    fn readings_refused(
        &mut self,
        partition: &TopicPartition,
        record: &Record<'_>,
        refused: Listed<'_>,
    ) {
        for reading in refused.all {
            self.shared.metrics.owner.refused_reading(reading.refusal());
        }
        let (topic, number) = partition.parts();
        let (offset, readings) = (record.offset(), refused.all.len());
        let refusal = refused.first.refusal();
        tracing::debug!(topic, partition = number, offset, readings, %refusal, "readings refused");
        self.write(Letter::partial(partition, record, refused));
    }

    fn alert(&mut self, partition: &TopicPartition, alert: &Alert, recorded: Option<i64>) {
        let event = self.outlets.outputs.alert(partition, alert);
        self.produce(event);
        self.outlets.webhook.send(alert, recorded, self.begun);
    }

    fn is_full(&self, fold: &Fold) -> bool {
        let values = match fold.devices() {
            0..=MANY_DEVICES => STEP_VALUES,
            _ => STEP_VALUES_OF_MANY,
        };
        self.dead_letters.len() >= MAX_DEAD_LETTERS
            || (!self.dead_letters.is_empty() && self.shared.budget.is_exhausted())
            || self.events.len() >= MAX_EVENTS
            || self.unconfirmed_bytes >= MAX_UNCONFIRMED_BYTES
            || fold.changed() >= values
            || fold.changed_bytes() >= STEP_BYTES
    }

    fn due(&self) -> Instant {
        self.step_at
    }

    async fn settle(&mut self, progressed: Progressed<'_>) -> Result<(), ReloadReason> {
        self.step_at = Instant::now() + STEP_EVERY;
        if !progressed.is_changed {
            return Ok(());
        }
        self.store(progressed).await
    }
}

impl Pipeline<Writer> {
    /// Offset in the store. After a failed step a later one may be stored.
    pub(crate) fn stored_offset(&self) -> i64 {
        self.effects().stored_offset
    }

    /// Whether the state in memory is what is stored: nothing was read since.
    pub(crate) fn is_stored(&self) -> bool {
        self.next() == self.stored_offset() && !self.is_changed()
    }
}
