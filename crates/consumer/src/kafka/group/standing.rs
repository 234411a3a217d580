//! What readiness says of the membership.

use crate::kafka::refused::{COORDINATOR, Refused};
use crate::kafka::statistics::Membership;

/// After how many consecutive statistics (one per second) a missing broker, coordinator or topic
/// is reported. Fewer may be a connection that is being replaced.
const FEW: u32 = 2;
/// The same for the missing coordinator of a member: its partitions are still being read.
const MANY: u32 = 10;

/// What is to be reported.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Standing {
    /// The same as before, until it is certain.
    Unclear,
    NotReady(String),
    /// A member, although something is wrong.
    Member(Option<String>),
}

/// Judges the membership, which the last `lasts` statistics agree on. `is_member`: a rebalance
/// has made this a member, and it is not refused with nothing to read. A later rebalance does not
/// change that, because partitions that stay assigned are read throughout.
/// `trouble` is why no broker can be reached. The same situation has the same text, whichever
/// step librdkafka's attempts to join are at.
pub(super) fn standing(
    membership: Membership,
    lasts: u32,
    is_member: bool,
    refused: &Refused,
    trouble: Option<String>,
) -> Standing {
    let no_coordinator = || format!("no coordinator of the group is available: {COORDINATOR}");
    match membership {
        Membership::NoBroker if lasts < FEW => Standing::Unclear,
        Membership::NoBroker => {
            let trouble = trouble.unwrap_or_else(|| "still connecting".into());
            Standing::NotReady(format!("brokers not reachable: {trouble}"))
        }
        Membership::NoCoordinator if is_member && lasts >= MANY => {
            Standing::Member(Some(refused.group().unwrap_or_else(no_coordinator)))
        }
        _ if is_member => Standing::Member(refused.group()),
        Membership::Steady => Standing::Member(None),
        other => {
            if let Some(reason) = refused.group() {
                return Standing::NotReady(reason);
            }
            match (other, refused.topics()) {
                (Membership::NoTopic, Some(reason)) => Standing::NotReady(reason),
                (Membership::Joining, _) => Standing::NotReady("joining the group".into()),
                _ if lasts < FEW => Standing::Unclear,
                (Membership::NoCoordinator, _) => Standing::NotReady(no_coordinator()),
                _ => Standing::NotReady("none of the topics of kafka.topics exists yet".into()),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use rdkafka::error::RDKafkaErrorCode as Code;

    use super::*;

    fn refused(code: Code) -> Refused {
        let mut refused = Refused::default();
        refused.note(code, "JoinGroup failed: Broker: no");
        refused
    }

    #[test]
    fn an_error_of_the_group_has_the_same_text_at_every_step() {
        let refused = refused(Code::InvalidSessionTimeout);
        let steps = [
            Membership::NoTopic,
            Membership::Joining,
            Membership::NoCoordinator,
        ];
        let reports = steps.map(|step| standing(step, 1, false, &refused, None));
        let Standing::NotReady(reason) = &reports[0] else {
            panic!("{reports:?}")
        };
        assert!(reason.contains("INVALID_SESSION_TIMEOUT"), "{reason}");
        assert!(reason.contains("kafka.session_timeout"), "{reason}");
        assert!(reports.iter().all(|report| *report == reports[0]));
    }

    #[test]
    fn a_member_keeps_reading_and_shows_the_error() {
        let report =
            |membership, lasts, refused: &Refused| standing(membership, lasts, true, refused, None);
        let fine = Refused::default();
        assert_eq!(
            report(Membership::Joining, 1, &fine),
            Standing::Member(None)
        );
        assert_eq!(
            report(Membership::NoCoordinator, 2, &fine),
            Standing::Member(None)
        );
        for (membership, lasts, refused) in [
            (Membership::NoCoordinator, 10, fine),
            (Membership::Joining, 1, refused(Code::GroupMaxSizeReached)),
        ] {
            let found = report(membership, lasts, &refused);
            assert!(matches!(found, Standing::Member(Some(_))), "{found:?}");
        }
    }

    #[test]
    fn what_is_missing_is_reported_once_it_is_certain() {
        let report =
            |membership, lasts| standing(membership, lasts, false, &Refused::default(), None);
        for (membership, start) in [
            (Membership::NoBroker, "brokers not reachable: still conn"),
            (Membership::NoCoordinator, "no coordinator of the group"),
            (Membership::NoTopic, "none of the topics of kafka.topics"),
        ] {
            assert_eq!(report(membership, 1), Standing::Unclear);
            let Standing::NotReady(reason) = report(membership, 2) else {
                panic!("{membership:?}")
            };
            assert!(reason.starts_with(start), "{reason}");
        }
        assert_eq!(report(Membership::Steady, 1), Standing::Member(None));
    }
}
