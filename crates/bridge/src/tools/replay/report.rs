//! What became of the dead letters, as `dead-letters replay` prints it.

use std::collections::BTreeMap;
use std::fmt::{self, Write as _};

use iot_kafka::errors::Named;
use rdkafka::error::RDKafkaErrorCode;

use crate::tools::letters::Letter;

/// The result.
#[derive(Debug, Default)]
pub(super) struct Report {
    pub(super) sent: u64,
    pub(super) partial: u64,
    pub(super) cut: u64,
    stays: BTreeMap<String, u64>,
    pub(super) failed: Vec<Failed>,
    pub(super) positions: BTreeMap<i32, i64>,
}

#[derive(Debug)]
pub(super) struct Failed {
    pub(super) place: Place,
    pub(super) topic: String,
    pub(super) why: RDKafkaErrorCode,
}

/// Partition and offset in the dead-letter topic.
pub(super) type Place = (i32, i64);

pub(super) fn place(letter: &Letter) -> Place {
    (letter.partition, letter.offset)
}

impl Report {
    /// Sets the offsets to continue from: those after what was `read`, or if Kafka stopped
    /// confirming, those of the first failed records.
    pub(super) fn continue_from(&mut self, read: BTreeMap<i32, i64>, gave_up: bool) {
        self.positions = read;
        if gave_up {
            for Failed { place, .. } in &self.failed {
                let (partition, offset) = *place;
                let next = self.positions.entry(partition).or_insert(offset);
                *next = offset.min(*next);
            }
        }
    }

    pub(super) fn stays(&mut self, reason: String) {
        *self.stays.entry(reason).or_default() += 1;
    }

    pub(super) fn text(&self, dry_run: bool) -> String {
        let mut text = String::new();
        // Writing to a String can't fail.
        let _ = self.write(&mut text, dry_run);
        text
    }

    fn write(&self, out: &mut String, dry_run: bool) -> fmt::Result {
        for Failed { place, topic, why } in &self.failed {
            let (partition, offset) = place;
            writeln!(
                out,
                "failed: {partition}:{offset} -> {topic}: {}",
                Named(*why)
            )?;
        }
        let verb = if dry_run {
            "would be replayed"
        } else {
            "replayed"
        };
        writeln!(out, "{verb}: {}", self.sent)?;
        writeln!(out, "skipped, partial: {}", self.partial)?;
        writeln!(out, "skipped, truncated: {}", self.cut)?;
        writeln!(
            out,
            "skipped, refused: {}",
            self.stays.values().sum::<u64>()
        )?;
        for (reason, count) in &self.stays {
            writeln!(out, "  {reason}: {count}")?;
        }
        writeln!(out, "failed: {}", self.failed.len())?;
        if !self.positions.is_empty() {
            let places = self.positions.iter();
            let places: Vec<_> = places.map(|(p, offset)| format!("{p}:{offset}")).collect();
            writeln!(out, "to continue: --from-offset {}", places.join(","))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_report_has_all_counts_and_the_offsets_to_continue_from() {
        let report = Report {
            sent: 2,
            partial: 4,
            cut: 1,
            stays: BTreeMap::from([("too_large".into(), 3)]),
            failed: vec![Failed {
                place: (0, 7),
                topic: "t.p".into(),
                why: RDKafkaErrorCode::MessageSizeTooLarge,
            }],
            positions: BTreeMap::from([(0, 12), (1, 5)]),
        };
        let text = report.text(false);
        for line in [
            "failed: 0:7 -> t.p: ",
            "replayed: 2",
            "skipped, partial: 4",
            "skipped, truncated: 1",
            "skipped, refused: 3",
            "  too_large: 3",
            "failed: 1",
            "--from-offset 0:12,1:5",
        ] {
            assert!(text.contains(line), "{line} is not in:\n{text}");
        }
        assert!(report.text(true).contains("would be replayed: 2"));
    }

    #[test]
    fn a_replay_that_gave_up_continues_at_the_first_failed_record() {
        let failed = |place| Failed {
            place,
            topic: "t.p".into(),
            why: RDKafkaErrorCode::MessageTimedOut,
        };
        for (gave_up, expected) in [(false, [(0, 12), (1, 5)]), (true, [(0, 7), (1, 5)])] {
            let mut report = Report {
                failed: vec![failed((0, 9)), failed((0, 7))],
                ..Report::default()
            };
            report.continue_from(BTreeMap::from([(0, 12), (1, 5)]), gave_up);
            assert_eq!(report.positions, BTreeMap::from(expected));
        }
    }
}
