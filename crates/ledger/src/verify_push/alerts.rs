//! Compares the alerts that replicas show at the end, with each other and with the log.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use super::report::{Finding, Kind, Report};
use super::seen::Seen;
use crate::verify_state::fold::Fold;

/// Whether all clients show the same alerts.
pub(super) fn are_equal(clients: &[Seen]) -> bool {
    let mut clients = clients.iter();
    let first = clients.next();
    first.is_none_or(|first| clients.all(|other| other.alerts == first.alerts))
}

/// Compares the alerts of each client with those of the first.
pub(super) fn compare(clients: &[Seen], report: &mut Report) {
    let Some((first, others)) = clients.split_first() else {
        return;
    };
    for other in others {
        let ids: BTreeSet<_> = first.alerts.keys().chain(other.alerts.keys()).collect();
        report.alerts_compared += ids.len() as u64;
        for id in ids {
            let (expected, found) = (first.alerts.get(id), other.alerts.get(id));
            if expected != found {
                report.find(Finding {
                    kind: Kind::Difference,
                    client: other.name.clone(),
                    at: format!("alert {id}"),
                    expected: format!("{} (as {})", text(expected), first.name),
                    found: text(found),
                });
            }
        }
    }
}

/// Compares the alerts of thresholds with those that a partition's fold has. How often an alert
/// was repeated is not compared: repetitions are pushed once a second.
pub(super) fn compare_with_log(fold: &Fold, at: &str, clients: &[Seen], report: &mut Report) {
    for device in fold.devices.values() {
        for (sensor, state) in &device.sensors {
            let Some(alert) = state.crossing.and_then(|crossing| crossing.alert) else {
                continue;
            };
            let id = format!("{at}:{}:{sensor}:threshold", alert.offset);
            let expected = json!({
                "state": if alert.raised { "raised" } else { "cleared" },
                "level": if alert.critical { "critical" } else { "warning" },
                "limit": alert.limit,
                "raised_at": alert.raised_at,
            });
            for client in clients {
                report.alerts_compared += 1;
                let found = client.alerts.get(&id);
                let found = found.map(|found| {
                    json!({
                        "state": found["state"],
                        "level": found["level"],
                        "limit": found["limit"],
                        "raised_at": found["raised_at"],
                    })
                });
                if found.as_ref() != Some(&expected) {
                    report.find(Finding {
                        kind: Kind::Difference,
                        client: client.name.clone(),
                        at: format!("alert {id}"),
                        expected: expected.to_string(),
                        found: text(found.as_ref()),
                    });
                }
            }
        }
    }
}

fn text(alert: Option<&Value>) -> String {
    alert.map_or_else(|| "none".to_owned(), ToString::to_string)
}
