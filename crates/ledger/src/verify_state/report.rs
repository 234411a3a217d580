//! What was compared, and what was found.

use serde::Serialize;

/// How many findings are described; all are counted.
const DESCRIBED: usize = 20;

/// What a check found.
#[derive(Debug, Clone, Default, Serialize)]
pub(super) struct Report {
    pub(super) partitions: u64,
    /// Those of them that have transactions.
    pub(super) transactional: u64,
    /// Records below the stored offsets that count.
    pub(super) records: u64,
    /// Records below the stored offsets that have a dead letter.
    pub(super) refused: u64,
    /// Records from the stored offsets on: not applied yet.
    pub(super) behind: u64,
    pub(super) devices: u64,
    pub(super) sensors: u64,
    /// What is stored of devices, of sensors and of windows, and was compared.
    pub(super) values_compared: u64,
    pub(super) open_windows_compared: u64,
    pub(super) sealed_windows_compared: u64,
    /// Sealed windows that may have expired, and are not there.
    pub(super) expired: u64,
    /// Values and windows that records may be part of which Kafka no longer has.
    pub(super) not_comparable: u64,
    /// Fields that are not what the log says, and values that can't be read.
    pub(super) differences: u64,
    /// Values and windows that should be stored.
    pub(super) missing: u64,
    /// Values and windows that should not.
    pub(super) extra: u64,
    /// Records that can't be read, or not in the units of their sensors, and have no
    /// dead letter.
    pub(super) unreadable: u64,
    /// The first of them.
    pub(super) findings: Vec<Finding>,
}

/// What kind of fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Kind {
    Difference,
    Missing,
    Extra,
    Unreadable,
}

/// One fault.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Finding {
    pub(super) kind: Kind,
    pub(super) topic: String,
    pub(super) partition: i32,
    /// Field of the hash, or end of the key of sealed windows, with `·` for NUL.
    pub(super) key: String,
    /// Field of the value.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(super) field: String,
    pub(super) expected: String,
    pub(super) found: String,
}

impl Report {
    pub(super) fn find(&mut self, finding: Finding) {
        *match finding.kind {
            Kind::Difference => &mut self.differences,
            Kind::Missing => &mut self.missing,
            Kind::Extra => &mut self.extra,
            Kind::Unreadable => &mut self.unreadable,
        } += 1;
        if self.findings.len() < DESCRIBED {
            self.findings.push(finding);
        }
    }

    /// Adds what was found in another partition.
    pub(super) fn add(&mut self, other: Self) {
        for (sum, more) in [
            (&mut self.partitions, other.partitions),
            (&mut self.transactional, other.transactional),
            (&mut self.records, other.records),
            (&mut self.refused, other.refused),
            (&mut self.behind, other.behind),
            (&mut self.devices, other.devices),
            (&mut self.sensors, other.sensors),
            (&mut self.values_compared, other.values_compared),
            (&mut self.open_windows_compared, other.open_windows_compared),
            (
                &mut self.sealed_windows_compared,
                other.sealed_windows_compared,
            ),
            (&mut self.expired, other.expired),
            (&mut self.not_comparable, other.not_comparable),
            (&mut self.differences, other.differences),
            (&mut self.missing, other.missing),
            (&mut self.extra, other.extra),
            (&mut self.unreadable, other.unreadable),
        ] {
            *sum += more;
        }
        let room = DESCRIBED.saturating_sub(self.findings.len());
        self.findings.extend(other.findings.into_iter().take(room));
    }

    /// Whether the state is what the log says: nothing is wrong, and there was
    /// something to be wrong.
    pub(super) fn is_exact(&self) -> bool {
        let wrong = self.differences + self.missing + self.extra + self.unreadable;
        wrong == 0 && self.records > 0 && self.values_compared > 0
    }

    /// Tells it in a few lines.
    pub(super) fn print(&self) {
        let verdict = if self.is_exact() {
            "exact"
        } else if self.values_compared == 0 {
            "NOT exact: nothing was compared"
        } else {
            "NOT exact"
        };
        println!(
            "{verdict}: {} partitions, {} records, {} devices, {} sensors",
            self.partitions, self.records, self.devices, self.sensors
        );
        println!(
            "  compared: values {}  open windows {}  sealed windows {}",
            self.values_compared, self.open_windows_compared, self.sealed_windows_compared
        );
        println!(
            "  not compared: expired {}  not comparable {}  (records refused {}, behind {})",
            self.expired, self.not_comparable, self.refused, self.behind
        );
        println!(
            "  differences {}  missing {}  extra {}  unreadable {}",
            self.differences, self.missing, self.extra, self.unreadable
        );
        for finding in &self.findings {
            println!(
                "  {:?} {}/{} {} {}: expected {}, found {}",
                finding.kind,
                finding.topic,
                finding.partition,
                finding.key,
                finding.field,
                finding.expected,
                finding.found
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn compared() -> Report {
        Report {
            records: 3,
            values_compared: 2,
            ..Report::default()
        }
    }

    #[test]
    fn nothing_compared_is_not_exact() {
        assert!(compared().is_exact());
        assert!(!Report::default().is_exact());
        for (records, values_compared) in [(0, 2), (3, 0)] {
            let report = Report {
                records,
                values_compared,
                ..Report::default()
            };
            assert!(!report.is_exact());
        }
    }

    #[test]
    fn every_kind_of_finding_is_fatal_and_counted_beyond_those_described() {
        for kind in [
            Kind::Difference,
            Kind::Missing,
            Kind::Extra,
            Kind::Unreadable,
        ] {
            let mut report = compared();
            for _ in 0..30 {
                report.find(Finding {
                    kind,
                    topic: "t".into(),
                    partition: 0,
                    key: "k".into(),
                    field: String::new(),
                    expected: String::new(),
                    found: String::new(),
                });
            }
            let mut sum = compared();
            sum.add(report.clone());
            sum.add(report);
            assert!(!sum.is_exact(), "{kind:?}");
            let counted = sum.differences + sum.missing + sum.extra + sum.unreadable;
            assert_eq!((counted, sum.findings.len()), (60, DESCRIBED));
        }
    }
}
