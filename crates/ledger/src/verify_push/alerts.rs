//! Compares the alerts that clients show at the end, with each other and with the log.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};

use super::filter::Filter;
use super::report::{Finding, Kind, Report};
use super::seen::Seen;
use super::watch::Clients;
use crate::verify_state::fold::Fold;

type Alerts<'a> = BTreeMap<&'a str, &'a Value>;

/// The alerts that clients with each filter have to show: those of a client that takes all.
fn expected<'a>(first: &'a Seen, filters: &[Filter]) -> Vec<Alerts<'a>> {
    let with = |filter: &Filter| {
        let alerts = first.alerts.iter();
        let alerts = alerts.filter(|(_, alert)| filter.takes_alert(alert));
        alerts.map(|(id, alert)| (id.as_str(), alert)).collect()
    };
    filters.iter().map(with).collect()
}

fn is_equal(expected: &Alerts<'_>, found: &BTreeMap<String, Value>) -> bool {
    expected.len() == found.len()
        && expected
            .iter()
            .all(|(id, alert)| found.get(*id) == Some(*alert))
}

/// Whether all clients show the same alerts as the first one of the end.
pub(super) fn are_equal(clients: &[Seen], at_the_end: usize, filters: &[Filter]) -> bool {
    let Some(first) = clients.get(at_the_end) else {
        return true;
    };
    let expected = expected(first, filters);
    let mut clients = clients.iter();
    clients.all(|client| is_equal(&expected[client.filter], &client.alerts))
}

/// Compares the alerts of each client with those of the first one of the end.
pub(super) fn compare(clients: &Clients, report: &mut Report) {
    let Some(first) = clients.seen.get(clients.at_the_end) else {
        return;
    };
    let expected = expected(first, &clients.filters);
    let others = clients.seen.iter().enumerate();
    let others = others.filter(|(number, _)| *number != clients.at_the_end);
    for (_, other) in others.filter(|(_, other)| other.is_ready()) {
        let expected = &expected[other.filter];
        let found = other.alerts.keys().map(String::as_str);
        let ids: BTreeSet<&str> = expected.keys().copied().chain(found).collect();
        report.alerts_compared += ids.len() as u64;
        for id in ids {
            let (expected, found) = (expected.get(id).copied(), other.alerts.get(id));
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
