//! The check of one partition: which records count, and at which offset to compare.

use std::collections::BTreeSet;

use iot_core::partition::TopicPartition;
use rskafka::record::RecordAndOffset;

use super::Settings;
use super::compare::{Comparison, Kept};
use super::fold::{Entry, Fold};
use super::report::{Kind, Report};
use super::store::Snapshot;
use crate::committed::Committed;
use crate::log::{Log, Read};
use crate::reading::{message, owner};

/// The input of a partition's check.
pub(super) struct Check<'a> {
    pub(super) settings: &'a Settings,
    pub(super) partition: &'a TopicPartition,
    pub(super) log: &'a Log,
    pub(super) snapshot: &'a Snapshot,
    /// Offsets of the consumer's dead letters.
    pub(super) letters: BTreeSet<i64>,
    pub(super) committed: &'a Committed,
}

impl Check<'_> {
    /// Folds the log and compares the result with the stored state.
    ///
    /// # Errors
    /// Kafka does not answer, or records are missing.
    pub(super) async fn run(&self) -> anyhow::Result<Report> {
        let begin = self.log.begin;
        let mut reader = self.log.read_from(begin);
        let mut work = Work::new(self);
        loop {
            match reader.next().await? {
                Read::Records(records) => records.iter().for_each(|r| work.record(r)),
                Read::End => return Ok(work.finish()),
                Read::Transaction => break,
            }
        }
        // In a log with transactions not all records count, so start again.
        let mut work = Work::new(self);
        let mut records = self.committed.read(self.partition, begin)?;
        while let Some(record) = records.recv().await {
            work.record(&record?);
        }
        work.comparison.report.transactional = 1;
        Ok(work.finish())
    }
}

/// A check in progress.
struct Work<'c> {
    check: &'c Check<'c>,
    fold: Fold,
    comparison: Comparison<'c>,
    compared: bool,
    first: bool,
}

impl<'c> Work<'c> {
    fn new(check: &'c Check<'c>) -> Self {
        let mut comparison = Comparison::new(check.partition);
        comparison.keep = check.settings.keep;
        comparison.report.partitions = 1;
        if check.log.begin > 0 {
            // Until the first record gives the time.
            comparison.kept = Kept::After(i64::MAX);
        }
        let (offset, end) = (check.snapshot.offset, check.log.end);
        if offset > end {
            let (expected, found) = (format!("at most {end}"), offset.to_string());
            comparison.find(Kind::Difference, "offset", "", &expected, &found);
        }
        comparison.report.behind = u64::try_from(end - offset).unwrap_or(0);
        Self {
            check,
            fold: Fold::new(check.settings.rules.clone()),
            comparison,
            compared: false,
            first: true,
        }
    }

    /// Takes the next record of the log.
    fn record(&mut self, record: &RecordAndOffset) {
        let recorded = record.record.timestamp.timestamp_millis();
        if std::mem::take(&mut self.first) && self.check.log.begin > 0 && recorded >= 0 {
            // Deleted records are not newer, and none may be further ahead than this.
            let newest = recorded.saturating_add(self.check.settings.max_future);
            self.comparison.kept = Kept::After(newest);
        }
        let applied = record.offset < self.check.snapshot.offset;
        if !applied {
            self.compare();
        }
        let report = &mut self.comparison.report;
        if self.check.letters.contains(&record.offset) {
            report.refused += u64::from(applied);
            return;
        }
        // Records that are not applied yet are folded too, for the sealed windows.
        let taken = self.take(record, recorded);
        if !applied {
            return;
        }
        match taken {
            Ok(()) => self.comparison.report.records += 1,
            Err(error) => {
                let offset = format!("offset {}", record.offset);
                let expected = "a dead letter, or a message";
                let found = format!("{error:#}");
                self.comparison
                    .find(Kind::Unreadable, &offset, "", expected, &found);
            }
        }
    }

    fn take(&mut self, record: &RecordAndOffset, recorded: i64) -> anyhow::Result<()> {
        let message = message(&record.record, &self.check.settings.units)?;
        let (tenant, project) = owner(&self.check.partition.topic, &message)?;
        self.fold.take(&Entry {
            offset: record.offset,
            recorded,
            tenant,
            project,
            message: &message,
        });
        Ok(())
    }

    /// Compares the live values, at the first call.
    fn compare(&mut self) {
        if !std::mem::replace(&mut self.compared, true) {
            self.comparison.live(&self.fold, self.check.snapshot);
        }
    }

    fn finish(mut self) -> Report {
        self.compare();
        self.comparison.sealed(&self.fold, self.check.snapshot);
        self.comparison.report
    }
}
