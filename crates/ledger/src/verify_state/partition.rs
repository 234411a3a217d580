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
use crate::log::{Log, OfPartition, Read, Refused};
use crate::reading::{message, owner};

/// The input of a partition's check.
pub(super) struct Check<'a> {
    pub(super) settings: &'a Settings,
    pub(super) partition: &'a TopicPartition,
    pub(super) log: &'a Log,
    pub(super) snapshot: &'a Snapshot,
    /// What has a dead letter of the consumer.
    pub(super) letters: OfPartition,
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
        let refused = match self.check.letters.get(&record.offset) {
            None => None,
            Some(Refused::Whole) => {
                report.refused += u64::from(applied);
                return;
            }
            Some(Refused::Readings(readings)) => {
                report.partial += u64::from(applied);
                Some(readings)
            }
        };
        // Records that are not applied yet are folded too, for the sealed windows.
        let taken = self.take(record, refused, recorded);
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

    fn take(
        &mut self,
        record: &RecordAndOffset,
        refused: Option<&BTreeSet<usize>>,
        recorded: i64,
    ) -> anyhow::Result<()> {
        let message = message(&record.record, &self.check.settings.units, refused)?;
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

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use iot_core::message::parse;
    use iot_kafka::security::KafkaSecurity;
    use rdkafka::producer::FutureRecord;
    use testkit::kafka::{MockKafka, producer, send};

    use super::super::compare::tests::device_bytes;
    use super::super::fold::Rules;
    use super::super::layout::{device_field, device_name};
    use super::*;
    use crate::kafka::connect;

    const RULES: Rules = Rules {
        sizes: Vec::new(),
        lateness: 0,
        retention: None,
        thresholds: BTreeMap::new(),
    };

    /// What a consumer stores that takes this message.
    fn snapshot(json: &str) -> Snapshot {
        let message = parse(json.as_bytes()).unwrap();
        let mut fold = Fold::new(RULES);
        fold.take(&Entry {
            offset: 0,
            recorded: 5,
            tenant: "default",
            project: "default",
            message: &message,
        });
        let name = device_name("default", "default", "d");
        let value = device_bytes(2, &fold.devices[&name]);
        Snapshot {
            offset: 1,
            live: BTreeMap::from([(device_field(&name), value)]),
            sealed: BTreeMap::new(),
            has_earlier_log: false,
            read_at: 0,
        }
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn only_the_readings_that_a_dead_letter_lists_are_left_out() {
        let kafka = MockKafka::start(&["device-data"]);
        let with = |readings: &str| {
            format!(r#"{{"device_id":"d","timestamp":5,"readings":[{readings}]}}"#)
        };
        let good = r#"{"sensor":"vibration","value":3}"#;
        let impossible = r#"{"sensor":"door","value":5}"#;
        let null = r#"{"sensor":"motor","value":null}"#;
        let json = with(&format!("{good},{impossible},{null}"));
        let record = FutureRecord::<(), str>::to("device-data").payload(&json);
        send(&producer(&kafka.brokers()), record).await;
        let security = KafkaSecurity::default();
        let client = connect(&[kafka.brokers()], &security).await.unwrap();
        let committed = Committed {
            brokers: kafka.brokers(),
            security,
        };
        let partition = TopicPartition::new("device-data", 0);
        let log = Log::open(&client, &committed, &partition).await.unwrap();
        let settings = Settings {
            rules: RULES,
            units: BTreeMap::new(),
            keep: 1,
            max_future: 0,
        };
        let check = async |refused: Refused, snapshot: &Snapshot| {
            let check = Check {
                settings: &settings,
                partition: &partition,
                log: &log,
                snapshot,
                letters: OfPartition::from([(0, refused)]),
                committed: &committed,
            };
            check.run().await.unwrap()
        };
        let listed = |list: &[usize]| Refused::Readings(list.iter().copied().collect());
        let without = snapshot(&with(good));
        let report = check(listed(&[1, 2]), &without).await;
        assert!(report.is_exact(), "{report:?}");
        assert_eq!((report.records, report.partial, report.refused), (1, 1, 0));
        // A refused sensor that is in the state all the same.
        let stored = snapshot(&with(&format!("{good},{impossible}")));
        let report = check(listed(&[1, 2]), &stored).await;
        assert!(!report.is_exact() && report.extra == 1, "{report:?}");
        // A good one that is not.
        let other = snapshot(&with(impossible));
        let report = check(listed(&[1, 2]), &other).await;
        assert!(!report.is_exact(), "{report:?}");
        assert_eq!((report.missing, report.extra), (1, 1), "{report:?}");
        for list in [&[1][..], &[2, 3], &[0, 1, 2]] {
            let report = check(listed(list), &without).await;
            assert!(!report.is_exact() && report.unreadable == 1, "{report:?}");
        }
        let report = check(Refused::Whole, &without).await;
        assert_eq!((report.refused, report.extra), (1, 1), "{report:?}");
        drop(kafka);
    }
}
