//! The report: what was received and compared, and the findings.

use serde::Serialize;

/// Maximum number of findings of a kind that are described; all are counted.
const DESCRIBED: usize = 20;

/// The result of a check.
#[derive(Debug, Clone, Default, Serialize)]
pub(super) struct Report {
    pub(super) partitions: u64,
    /// Messages of the log that were read and count.
    pub(super) records: u64,
    /// Clients, with those that connect at the end.
    pub(super) clients: u64,
    /// Changes of the log that clients had to receive, over all clients.
    pub(super) expected: u64,
    /// Changes that were received, over all clients, each once.
    pub(super) received: u64,
    /// Copies of changes that a client had received before.
    pub(super) copies: u64,
    /// Connections that broke, and attempts that failed.
    pub(super) broken: u64,
    /// Subscriptions that continued without a gap.
    pub(super) recovered: u64,
    /// Subscriptions that got a snapshot after a reconnect, and changes without an offset: what
    /// was sent before is not known.
    pub(super) gaps: u64,
    /// Values of devices and sensors in snapshots and final views that were compared.
    pub(super) values_compared: u64,
    /// Alerts that were compared between replicas or with the log.
    pub(super) alerts_compared: u64,
    /// Changes of the log that were not received.
    pub(super) missing: u64,
    /// Changes that differ from the log.
    pub(super) wrong: u64,
    /// Changes that came after later ones of their device or alert.
    pub(super) out_of_order: u64,
    /// Changes that the log does not have.
    pub(super) invented: u64,
    /// Values in views that differ from the log or between replicas.
    pub(super) differences: u64,
    /// Violations of the protocol.
    pub(super) violations: u64,
    /// Invalid records without a dead letter.
    pub(super) unreadable: u64,
    /// Clients without a snapshot at the end.
    pub(super) unreachable: u64,
    /// Whether gaps are accepted.
    pub(super) gaps_allowed: bool,
    /// Whether those of alerts are.
    pub(super) alert_gaps_allowed: bool,
    /// The first findings.
    pub(super) findings: Vec<Finding>,
    /// Why connections broke, the last ones.
    pub(super) breaks: Vec<String>,
}

/// Kind of a finding.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Kind {
    Missing,
    Wrong,
    OutOfOrder,
    Invented,
    Difference,
    Violation,
    Gap,
    Unreadable,
    Unreachable,
}

/// What is not as it must be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(super) struct Finding {
    pub(super) kind: Kind,
    /// The client or replica.
    pub(super) client: String,
    /// `topic:partition@offset`, or what else it is about.
    pub(super) at: String,
    pub(super) expected: String,
    pub(super) found: String,
}

impl Report {
    pub(super) fn find(&mut self, finding: Finding) {
        *match finding.kind {
            Kind::Missing => &mut self.missing,
            Kind::Wrong => &mut self.wrong,
            Kind::OutOfOrder => &mut self.out_of_order,
            Kind::Invented => &mut self.invented,
            Kind::Difference => &mut self.differences,
            Kind::Violation => &mut self.violations,
            Kind::Gap => &mut self.gaps,
            Kind::Unreadable => &mut self.unreadable,
            Kind::Unreachable => &mut self.unreachable,
        } += 1;
        let is_accepted = finding.kind == Kind::Gap && self.gaps_allowed;
        if !is_accepted {
            self.describe(finding);
        }
    }

    fn describe(&mut self, finding: Finding) {
        let of_kind = self.findings.iter();
        let of_kind = of_kind.filter(|described| described.kind == finding.kind);
        if of_kind.count() < DESCRIBED {
            self.findings.push(finding);
        }
    }

    /// Adds the report of a partition.
    pub(super) fn add(&mut self, other: Self) {
        for (sum, more) in [
            (&mut self.partitions, other.partitions),
            (&mut self.records, other.records),
            (&mut self.expected, other.expected),
            (&mut self.received, other.received),
            (&mut self.missing, other.missing),
            (&mut self.wrong, other.wrong),
            (&mut self.invented, other.invented),
            (&mut self.unreadable, other.unreadable),
        ] {
            *sum += more;
        }
        for finding in other.findings {
            self.describe(finding);
        }
    }

    /// A client that has no snapshot at the end.
    pub(super) fn unreachable(&mut self, client: &str) {
        let last = self.breaks.last();
        let found = last.map_or_else(|| "none".to_owned(), Clone::clone);
        self.find(Finding {
            kind: Kind::Unreachable,
            client: client.to_owned(),
            at: "end".into(),
            expected: "a snapshot".into(),
            found,
        });
    }

    /// Why a connection broke.
    pub(super) fn broke(&mut self, why: String) {
        self.broken += 1;
        if self.breaks.len() == DESCRIBED {
            self.breaks.remove(0);
        }
        self.breaks.push(why);
    }

    /// Whether clients saw what the log has: there are no findings, and something was compared.
    pub(super) fn is_exact(&self) -> bool {
        let gaps = if self.gaps_allowed { 0 } else { self.gaps };
        let order = self.missing + self.wrong + self.out_of_order + self.invented;
        let wrong = order + self.differences + self.violations + self.unreadable + gaps;
        wrong + self.unreachable == 0 && self.received > 0 && self.values_compared > 0
    }

    /// Prints a summary.
    pub(super) fn print(&self) {
        let verdict = match (self.is_exact(), self.received) {
            (true, _) => "exact",
            (false, 0) => "NOT exact: no change was received",
            (false, _) => "NOT exact",
        };
        println!(
            "{verdict}: {} partitions, {} records, {} clients, {} of {} changes received",
            self.partitions, self.records, self.clients, self.received, self.expected
        );
        println!(
            "  connections broken {}  recovered {}  gaps {}{}  copies {}",
            self.broken,
            self.recovered,
            self.gaps,
            if self.gaps_allowed { " (allowed)" } else { "" },
            self.copies
        );
        println!(
            "  compared: values {}  alerts {}",
            self.values_compared, self.alerts_compared
        );
        println!(
            "  missing {}  wrong {}  out of order {}  invented {}  differences {}  violations {}  unreadable {}  unreachable {}",
            self.missing,
            self.wrong,
            self.out_of_order,
            self.invented,
            self.differences,
            self.violations,
            self.unreadable,
            self.unreachable
        );
        for finding in &self.findings {
            println!(
                "  {:?} {} {}: expected {}, found {}",
                finding.kind, finding.client, finding.at, finding.expected, finding.found
            );
        }
        for why in &self.breaks {
            println!("  broken: {why}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn compared() -> Report {
        Report {
            received: 3,
            values_compared: 2,
            ..Report::default()
        }
    }

    fn finding(kind: Kind) -> Finding {
        Finding {
            kind,
            client: "c".into(),
            at: "t:0@1".into(),
            expected: String::new(),
            found: String::new(),
        }
    }

    #[test]
    fn a_report_without_changes_or_comparisons_is_not_exact() {
        assert!(compared().is_exact());
        assert!(!Report::default().is_exact());
        for (received, values_compared) in [(0, 2), (3, 0)] {
            let report = Report {
                received,
                values_compared,
                ..Report::default()
            };
            assert!(!report.is_exact());
        }
    }

    #[test]
    fn every_kind_of_finding_fails_and_gaps_unless_they_are_allowed() {
        for kind in [
            Kind::Missing,
            Kind::Wrong,
            Kind::OutOfOrder,
            Kind::Invented,
            Kind::Difference,
            Kind::Violation,
            Kind::Gap,
            Kind::Unreadable,
            Kind::Unreachable,
        ] {
            let mut report = compared();
            for _ in 0..30 {
                report.find(finding(kind));
            }
            assert!(!report.is_exact(), "{kind:?}");
            assert_eq!(report.findings.len(), DESCRIBED);
        }
        let mut report = compared();
        report.gaps_allowed = true;
        report.find(finding(Kind::Gap));
        assert!(report.is_exact());
        assert_eq!((report.gaps, report.findings.len()), (1, 0));
    }
}
