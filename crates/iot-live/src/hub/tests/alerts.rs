//! The order of alerts, and which of them are kept when there are too many.

use iot_fold::{Alert, AlertStatus, Level};

use super::*;
use crate::hub::view::View;
use crate::testing::alert;

/// An alert of a device of its own.
fn listed(id: &str, level: Level, state: AlertStatus, at: i64) -> Alert {
    Alert {
        timestamp: at,
        raised_at: at,
        ..alert(id, id, level, state)
    }
}

fn ids<'a>(alerts: impl IntoIterator<Item = &'a Alert>) -> Vec<&'a str> {
    alerts.into_iter().map(|alert| &*alert.id).collect()
}

#[test]
fn active_alerts_come_first_then_critical_ones_then_the_newest() {
    use AlertStatus::{Cleared, Raised};
    use Level::{Critical, Warning};
    let mut view = View::new(100);
    for (id, level, state, at) in [
        ("old critical", Critical, Raised, 1),
        ("new critical", Critical, Raised, 2),
        ("cleared critical", Critical, Cleared, 9),
        ("old warning", Warning, Raised, 3),
        ("new warning", Warning, Raised, 4),
        ("cleared warning", Warning, Cleared, 10),
    ] {
        view.list(0, listed(id, level, state, at));
    }
    let expected = [
        "new critical",
        "old critical",
        "new warning",
        "old warning",
        "cleared critical",
        "cleared warning",
    ];
    assert_eq!(ids(view.alerts(|_| true)), expected);
}

#[test]
fn no_active_alert_is_dropped_and_cleared_warnings_go_first() {
    let mut view = View::new(3);
    let old = listed("old", Level::Critical, AlertStatus::Cleared, 1);
    assert!(view.list(0, old).1.is_empty());
    for at in 2..=3 {
        let warning = listed(&at.to_string(), Level::Warning, AlertStatus::Cleared, at);
        assert!(view.list(0, warning).1.is_empty());
    }
    let gone = |view: &mut View, alert| view.list(0, alert).1;
    let another = listed("4", Level::Warning, AlertStatus::Cleared, 4);
    assert_eq!(ids(&gone(&mut view, another)), ["2"]);
    for (at, expected) in [(5, "3"), (6, "4"), (7, "old")] {
        let raised = listed(&at.to_string(), Level::Warning, AlertStatus::Raised, at);
        assert_eq!(ids(&gone(&mut view, raised)), [expected]);
    }
    for at in 8..100 {
        let raised = listed(&at.to_string(), Level::Warning, AlertStatus::Raised, at);
        assert!(view.list(0, raised).1.is_empty());
    }
    assert_eq!(view.alerts(|_| true).len(), 95);
}

#[tokio::test(start_paused = true)]
async fn a_critical_alert_stays_in_sight_of_many_warnings() {
    let mut few = settings();
    few.alerts = 5;
    let mut replica = Replica::new(few).await;
    let mut log = vec![sent(0, 180.0)];
    log.extend((1..=40).map(|device| sent(device, 55.0)));
    replica.read(&log, log.len()).await;
    let page = |offset| Page {
        filter: Filter::default(),
        limit: 10,
        offset,
    };
    let first = replica.hub.alerts(page(0)).await.unwrap();
    let devices = |alerts: &[Alert]| {
        let devices = alerts.iter().map(|alert| alert.key.device.to_string());
        devices.collect::<Vec<_>>()
    };
    assert_eq!(first.alerts.len(), 10);
    assert_eq!(devices(&first.alerts)[..2], ["d0", "d40"]);
    assert_eq!((first.total, first.raised.critical), (41, 1));
    assert_eq!(first.raised.warning, 40, "also those that are not shown");
    let last = replica.hub.alerts(page(40)).await.unwrap();
    assert_eq!(devices(&last.alerts), ["d1"]);
    let subscribe = Subscribe {
        client: ClientId(u64::MAX),
        channel: channel("alerts", Kind::Alerts, Filter::default()),
        framing: Framing::Json,
        outbox: outbox(64 << 10).0,
        since: None,
    };
    let subscribed = replica.hub.subscribe(subscribe).await.unwrap().unwrap();
    let First::Snapshot(Snapshot::Alerts(alerts)) = subscribed.first else {
        panic!("{:?}", subscribed.first);
    };
    assert_eq!((&*devices(&alerts)[0], alerts.len()), ("d0", 41));
}
