//! The path of a message, top to bottom. Each assigned partition has one [`Pipeline`], and
//! nothing else changes the state of that partition.
//!
//! 1. parse the payload
//! 2. transform its values into the units of the catalogue
//! 3. identify tenant and project
//! 4. validate it
//! 5. fold it into newest values, windows and alerts
//! 6. push changes to WebSocket clients: at once, but readings of many devices only ten
//!    times a second, or once if no client is connected
//! 7. store changes and offset in one step: at 3,000 values (1,000 in a partition with more
//!    devices than that), at 8 MiB, or once a second. Before that Kafka has confirmed the
//!    dead letters, and the events for other programs

use std::sync::Arc;
use std::time::Duration;

use iot_core::partition::TopicPartition;
use iot_fold::{Catalogue, Event, Fold, Folded, Updates};
use kafka_fetch::{Batch, Record};
use prometheus::IntCounter;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::dead_letter::Letter;
use crate::identify::{identify, topic_owner};
use crate::kafka::group::Commit;
use crate::kafka::progress::Progress;
use crate::laps::Laps;
use crate::mapping::Mappings;
use crate::outputs::{Notice, Waiting};
use crate::owner::Shared;
use crate::parse;
use crate::refusal::Refusal;
use crate::store::{Conflict, Step, Unstored};
use crate::transform::to_known_units;
use crate::validate::Validator;

/// A step ends with the message that brings it to so many values. With much fewer, each
/// message would write its device.
const APPLY_VALUES: usize = 3_000;
/// The same in a partition with more devices than that. Most messages write their device
/// there anyway, and smaller steps take less memory.
const APPLY_VALUES_OF_MANY: usize = 1_000;
/// A step also ends with about so many bytes, because it occupies the one thread of Redis.
const APPLY_BYTES: usize = 8 << 20;
/// Longest time between two steps.
pub(crate) const APPLY_EVERY: Duration = Duration::from_secs(1);
/// Readings of so many devices are pushed at once in each interval, the others at its
/// end, so that a device which sends a hundred times a second is not pushed as often.
const PUSH_AT_ONCE: usize = 50;
const PUSH_EVERY: Duration = Duration::from_millis(100);
/// The interval while no client is connected and only the API shows readings.
const PUSH_UNWATCHED: Duration = Duration::from_secs(1);
/// The most dead letters in flight.
const LETTERS: usize = 64;
/// The most events in flight.
const NOTICES: usize = 1_000;
/// The most bytes of dead letters and events in flight.
const LETTER_BYTES: usize = 16 << 20;

/// Why the state in memory can no longer be used.
#[derive(Debug)]
pub(crate) enum Stale {
    /// Another consumer has stored state of this partition.
    Conflict(Conflict),
    /// A dead letter may not have been written.
    Letter,
    /// The store was unavailable until the partition was revoked.
    Stopped,
}

/// The state of one partition, and the stages before it.
pub(crate) struct Pipeline {
    shared: Arc<Shared>,
    partition: TopicPartition,
    /// Tenant and project of a bridged topic.
    owner: Option<(String, String)>,
    mappings: Mappings,
    catalogue: Catalogue,
    validator: Validator,
    fold: Fold,
    /// Offset in the store.
    applied: i64,
    /// Next offset to process.
    next: i64,
    /// The same, for the lag.
    progress: Arc<Progress>,
    /// Time of the newest record, if it has one.
    recorded: Option<i64>,
    /// When reading of this partition started, in milliseconds since the epoch.
    begun: i64,
    /// Something is processed and not stored yet.
    ahead: bool,
    /// Dead letters and events that Kafka has not confirmed yet.
    letters: JoinSet<()>,
    notices: Waiting,
    letter_bytes: usize,
    /// Counts late readings by length of window, shortest first.
    late: Vec<IntCounter>,
    laps: Laps,
    /// The partition is revoked.
    stop: CancellationToken,
    apply_at: Instant,
    /// End of the push interval, and how many devices were pushed in it.
    push_at: Instant,
    pushed: usize,
}

impl Pipeline {
    pub(crate) fn new(
        shared: Arc<Shared>,
        partition: TopicPartition,
        fold: Fold,
        applied: i64,
        next: i64,
        progress: Arc<Progress>,
        stop: CancellationToken,
    ) -> Self {
        progress.reach(next);
        Self {
            mappings: Mappings::new(&shared.config.mappings),
            catalogue: shared.config.catalogue(),
            validator: Validator::new(&shared.config.validate),
            laps: Laps::new(shared.metrics.owner.processing.clone()),
            late: shared.metrics.owner.late(&shared.config.windows),
            shared,
            owner: topic_owner(&partition.topic).map(|(a, b)| (a.to_owned(), b.to_owned())),
            partition,
            fold,
            applied,
            next,
            begun: jiff::Timestamp::now().as_millisecond(),
            progress,
            recorded: None,
            ahead: false,
            letters: JoinSet::new(),
            notices: Waiting::default(),
            letter_bytes: 0,
            stop,
            apply_at: Instant::now() + APPLY_EVERY,
            push_at: Instant::now(),
            pushed: 0,
        }
    }

    pub(crate) fn fold(&self) -> &Fold {
        &self.fold
    }

    /// Offset in the store, as far as it is known.
    pub(crate) fn applied(&self) -> i64 {
        self.applied
    }

    /// Next offset to process.
    pub(crate) fn next(&self) -> i64 {
        self.next
    }

    /// When there is something to do without another batch.
    pub(crate) fn wakes_at(&self) -> Instant {
        if self.fold.has_unpushed() {
            self.apply_at.min(self.push_at)
        } else {
            self.apply_at
        }
    }

    /// Does what is due.
    ///
    /// # Errors
    /// The state must be loaded again.
    pub(crate) async fn wake(&mut self) -> Result<(), Stale> {
        self.push().await;
        if Instant::now() >= self.apply_at {
            self.apply().await?;
        }
        Ok(())
    }

    /// Processes a batch.
    ///
    /// # Errors
    /// The state must be loaded again.
    pub(crate) async fn process(&mut self, batch: &Batch) -> Result<(), Stale> {
        let first = batch.records().next();
        self.progress
            .begin(first.and_then(|record| record.timestamp()));
        let mut folded = (0, Folded::default());
        self.laps.go(Instant::now());
        for record in batch.records() {
            match self.read(&record) {
                Ok(one) => folded.1.add(&one),
                Err(refusal) => self.refuse(&record, &refusal),
            }
            folded.0 += 1;
            self.next = record.offset() + 1;
            self.recorded = record.timestamp();
            self.ahead = true;
            self.laps.count(Instant::now);
            if self.is_full() {
                self.laps.pause(Instant::now());
                self.count(std::mem::take(&mut folded));
                // Push everything now, because storing may take long.
                self.push_at = Instant::now();
                self.push().await;
                self.apply().await?;
                self.laps.go(Instant::now());
            }
        }
        self.laps.pause(Instant::now());
        self.count(folded);
        // Aborted records may follow the last one; the stored offset passes them too.
        self.ahead |= self.next != batch.next_offset();
        self.next = batch.next_offset();
        self.progress.reach(self.next);
        self.push().await;
        Ok(())
    }

    /// Whether the step must be stored before the next message.
    fn is_full(&self) -> bool {
        self.letters.len() >= LETTERS
            || self.notices.len() >= NOTICES
            || self.letter_bytes >= LETTER_BYTES
            || self.fold.changed() >= self.step_values()
            || self.fold.changed_bytes() >= APPLY_BYTES
    }

    fn step_values(&self) -> usize {
        match self.fold.devices() {
            0..=APPLY_VALUES => APPLY_VALUES,
            _ => APPLY_VALUES_OF_MANY,
        }
    }

    fn read(&mut self, record: &Record<'_>) -> Result<Folded, Refusal> {
        let mut message = parse::message(record, &self.partition.topic, &self.mappings)?;
        to_known_units(&mut message, &self.catalogue);
        let owner = self.owner.as_ref().map(|(a, b)| (a.as_str(), b.as_str()));
        let (tenant, project) = identify(owner, &message)?;
        let recorded = record.timestamp();
        self.validator.check(&message, recorded, &self.catalogue)?;
        Ok(self.fold.apply(&Event {
            offset: record.offset(),
            recorded,
            tenant,
            project,
            message: &message,
        })?)
    }

    /// Counts so many messages, and what they changed.
    fn count(&self, (messages, folded): (u64, Folded)) {
        let metrics = &self.shared.metrics.owner;
        metrics.folded(messages, &folded, &self.late);
    }

    fn refuse(&mut self, record: &Record<'_>, refusal: &Refusal) {
        let (topic, partition) = self.partition.parts();
        self.shared.metrics.owner.refused(refusal);
        tracing::debug!(topic, partition, offset = record.offset(), %refusal, "message refused");
        let letter = Letter::new(&self.partition, record, refusal);
        self.letter_bytes += letter.bytes();
        self.letters
            .spawn(self.shared.dead_letters.clone().deliver(letter));
    }

    /// Passes changes of alerts to WebSocket clients, Kafka and the webhook, and, when it is
    /// time, readings to WebSocket clients.
    async fn push(&mut self) {
        let updates = if self.may_push() {
            self.fold.take_updates()
        } else {
            let (devices, alerts) = (Vec::new(), self.fold.take_alerts());
            Updates { devices, alerts }
        };
        self.pushed += updates.devices.len();
        for alert in &updates.alerts {
            let notice = self.shared.outputs.alert(&self.partition, alert);
            self.publish(notice);
            self.shared.webhook.tell(alert, self.recorded, self.begun);
        }
        if !updates.devices.is_empty() || !updates.alerts.is_empty() {
            self.shared.hub.update(&self.partition, updates).await;
        }
    }

    fn may_push(&mut self) -> bool {
        let now = Instant::now();
        if now >= self.push_at {
            let every = match self.shared.metrics.clients.get() {
                0 => PUSH_UNWATCHED,
                _ => PUSH_EVERY,
            };
            (self.push_at, self.pushed) = (now + every, 0);
        }
        self.pushed < PUSH_AT_ONCE
    }

    fn publish(&mut self, notice: Option<Notice>) {
        if let Some(notice) = notice {
            self.letter_bytes += notice.bytes();
            self.shared.outputs.tell(&mut self.notices, notice);
        }
    }

    /// Stores everything up to the present offset. Nothing is read while this waits for the
    /// store.
    ///
    /// # Errors
    /// It was not stored, and the state must be loaded again.
    pub(crate) async fn apply(&mut self) -> Result<(), Stale> {
        self.apply_at = Instant::now() + APPLY_EVERY;
        if !self.ahead {
            return Ok(());
        }
        let changes = self.fold.take_changes();
        for sealed in &changes.windows {
            let notice = self.shared.outputs.windows(&self.partition, sealed);
            self.publish(notice);
        }
        self.shared.outputs.confirm(&mut self.notices).await;
        while let Some(written) = self.letters.join_next().await {
            written.map_err(|_| Stale::Letter)?;
        }
        self.letter_bytes = 0;
        let step = Step {
            partition: &self.partition,
            from: Some(self.applied),
            to: self.next,
            changes: &changes,
        };
        let stored = self.shared.store.apply(&step, &self.stop).await;
        stored.map_err(|unstored| match unstored {
            Unstored::Conflict(conflict) => Stale::Conflict(conflict),
            Unstored::Stopped => Stale::Stopped,
        })?;
        self.applied = self.next;
        self.ahead = false;
        let commit = Commit {
            partition: self.partition.clone(),
            offset: self.next,
        };
        // The thread of the group may have ended.
        let _ = self.shared.commits.send(commit).await;
        Ok(())
    }
}
