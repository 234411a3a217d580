//! The report: what was compared, and the findings.

use serde::Serialize;

/// Maximum number of findings that are described; all are counted.
const DESCRIBED: usize = 20;

/// The result of a check.
#[derive(Debug, Clone, Default, Serialize)]
pub(super) struct Report {
    pub(super) partitions: u64,
    /// Number of partitions with transactions.
    pub(super) transactional: u64,
    /// Records below the stored offsets that count.
    pub(super) records: u64,
    /// Records below the stored offsets that were refused whole, as their dead letters say.
    pub(super) refused: u64,
    /// Records below the stored offsets of which only some readings count.
    pub(super) partial: u64,
    /// Records from the stored offsets on, which are not applied yet.
    pub(super) behind: u64,
    pub(super) devices: u64,
    pub(super) sensors: u64,
    /// Compared values of devices and sensors.
    pub(super) values_compared: u64,
    pub(super) open_windows_compared: u64,
    pub(super) sealed_windows_compared: u64,
    /// Missing sealed windows that may have expired.
    pub(super) expired: u64,
    /// Values and windows that depend on records that Kafka may have deleted.
    pub(super) not_comparable: u64,
    /// Fields that differ from the log, and values that cannot be decoded.
    pub(super) differences: u64,
    /// Values and windows that should be stored and are not.
    pub(super) missing: u64,
    /// Values and windows that are stored and should not be.
    pub(super) extra: u64,
    /// Invalid records without a dead letter.
    pub(super) unreadable: u64,
    /// The first findings.
    pub(super) findings: Vec<Finding>,
}

/// Kind of a finding.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Kind {
    Difference,
    Missing,
    Extra,
    Unreadable,
}

/// A difference between the stored state and the log.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Finding {
    pub(super) kind: Kind,
    pub(super) topic: String,
    pub(super) partition: i32,
    /// Field of the hash, or key of sealed windows without its prefix, with `·` for NUL.
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

    /// Adds the report of another partition.
    pub(super) fn add(&mut self, other: Self) {
        for (sum, more) in [
            (&mut self.partitions, other.partitions),
            (&mut self.transactional, other.transactional),
            (&mut self.records, other.records),
            (&mut self.refused, other.refused),
            (&mut self.partial, other.partial),
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

    /// Whether the state agrees with the log: there are no findings, and something was
    /// compared.
    pub(super) fn is_exact(&self) -> bool {
        let wrong = self.differences + self.missing + self.extra + self.unreadable;
        wrong == 0 && self.records > 0 && self.values_compared > 0
    }

    /// Prints a summary.
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
            "  not compared: expired {}  not comparable {}  (records refused {}, in part {}, behind {})",
            self.expired, self.not_comparable, self.refused, self.partial, self.behind
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
    fn all_findings_are_counted_and_the_first_described() {
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
