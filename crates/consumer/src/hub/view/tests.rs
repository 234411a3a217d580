use iot_core::message::Quality;

use super::*;
use iot_fold::{AlertKind, AlertStatus, Place, Value};

/// A device with one reading of temperature.
pub(crate) fn device(tenant: &str, id: &str, timestamp: i64, value: f64) -> Device {
    let place = Place {
        building: format!("b-{tenant}").into(),
        ..Place::default()
    };
    let reading = Value {
        value,
        unit: None,
        quality: Quality::Good,
        timestamp,
        is_ahead: false,
    };
    Device {
        key: key(tenant, id),
        location: Some(Arc::new(place)),
        seq: None,
        timestamp,
        is_ahead: false,
        readings: [("temperature".into(), reading)].into_iter().collect(),
    }
}

pub(crate) fn key(tenant: &str, id: &str) -> DeviceKey {
    DeviceKey {
        tenant: tenant.into(),
        project: "p".into(),
        device: id.into(),
    }
}

/// An alert of device `t/p/d`.
pub(crate) fn alert(id: &str, raised_at: i64, state: AlertStatus) -> Alert {
    Alert {
        id: id.into(),
        key: key("t", "d"),
        location: None,
        sensor: "temperature".into(),
        kind: AlertKind::Threshold,
        level: Level::Warning,
        state,
        value: 51.0,
        limit: 50.0,
        message: String::new(),
        reason: None,
        timestamp: raised_at,
        raised_at,
        count: 1,
    }
}

pub(crate) fn devices(devices: Vec<Device>) -> Updates {
    Updates {
        devices: devices.into_iter().enumerate().collect(),
        ..Updates::default()
    }
}

fn alerts(alerts: Vec<Alert>) -> Updates {
    Updates {
        alerts,
        ..Updates::default()
    }
}

fn partition(number: i32) -> TopicPartition {
    TopicPartition::new("device-data", number)
}

fn add(view: &mut View, number: i32, updates: Updates) {
    view.add(&partition(number), updates, mpsc::channel(1).0);
}

fn ids(view: &View, filter: DeviceFilter) -> (Vec<String>, usize) {
    let (found, total) = view.find(&filter);
    (
        found
            .iter()
            .map(|device| device.key.device.to_string())
            .collect(),
        total,
    )
}

#[test]
fn devices_are_filtered_sorted_and_cut() {
    let mut view = View::new(10);
    let all = [("b", "1"), ("a", "2"), ("a", "1"), ("a", "3")];
    add(
        &mut view,
        0,
        devices(all.map(|(t, d)| device(t, d, 0, 0.0)).into()),
    );
    let of_a = || DeviceFilter {
        tenant: Some("a".into()),
        ..DeviceFilter::default()
    };
    assert_eq!(
        ids(&view, of_a()),
        (vec!["1".into(), "2".into(), "3".into()], 3)
    );
    let page = DeviceFilter {
        limit: Some(1),
        offset: 1,
        ..of_a()
    };
    assert_eq!(ids(&view, page), (vec!["2".into()], 3));
    let building = DeviceFilter {
        building: Some("b-b".into()),
        ..DeviceFilter::default()
    };
    assert_eq!(ids(&view, building), (vec!["1".into()], 1));
    let nowhere = DeviceFilter {
        project: Some("x".into()),
        ..DeviceFilter::default()
    };
    assert_eq!(ids(&view, nowhere), (vec![], 0));
}

#[test]
fn a_partition_that_goes_takes_its_devices_and_alerts_along() {
    let mut view = View::new(10);
    add(&mut view, 0, devices(vec![device("t", "1", 0, 0.0)]));
    add(&mut view, 1, devices(vec![device("t", "2", 0, 0.0)]));
    view.update(
        &partition(1),
        alerts(vec![alert("x", 1, AlertStatus::Raised)]),
    );
    assert_eq!((view.devices(), view.active_alerts()), (2, 1));
    view.remove(&partition(1));
    assert_eq!((view.devices(), view.active_alerts()), (1, 0));
    assert_eq!(view.all_alerts(), []);
    assert!(view.get(&key("t", "2")).is_none());
}

#[test]
fn a_device_in_two_partitions_shows_its_newest_values() {
    let mut view = View::new(10);
    add(&mut view, 0, devices(vec![device("t", "1", 5, 5.0)]));
    add(&mut view, 1, devices(vec![device("t", "1", 4, 4.0)]));
    let (found, _) = view.get(&key("t", "1")).unwrap();
    assert_eq!((found.timestamp, found.readings[0].1.value), (5, 5.0));
    assert_eq!(view.devices(), 1);
    let value = |view: &View| view.get(&key("t", "1")).unwrap().0.readings[0].1.value;
    view.update(&partition(1), devices(vec![device("t", "1", 6, 6.0)]));
    assert_eq!(value(&view), 6.0);
    view.remove(&partition(1));
    assert_eq!(value(&view), 5.0, "what the other one knows stays");
    view.remove(&partition(0));
    assert_eq!(view.devices(), 0);
}

#[test]
fn a_removed_device_is_gone_and_its_place_is_taken_again() {
    let mut view = View::new(10);
    let two = vec![device("t", "1", 0, 0.0), device("t", "2", 0, 0.0)];
    add(&mut view, 0, devices(two));
    let update = |view: &mut View, removed: &[(usize, &str)], added: &[(usize, &str)]| {
        let removed = removed.iter().map(|(at, id)| (*at, key("t", id)));
        let added = added.iter().map(|(at, id)| (*at, device("t", id, 9, 9.0)));
        let updates = Updates {
            removed: removed.collect(),
            devices: added.collect(),
            alerts: Vec::new(),
        };
        view.update(&partition(0), updates);
        ids(view, DeviceFilter::default()).0.join(" ")
    };
    assert_eq!(update(&mut view, &[(0, "1")], &[]), "2");
    assert!(view.get(&key("t", "1")).is_none());
    // Device 4 came and went, and device 5 is new.
    let gone = [(1, "2"), (0, "4"), (7, "6")];
    assert_eq!(update(&mut view, &gone, &[(1, "3"), (0, "5")]), "3 5");
    view.remove(&partition(0));
    assert_eq!(view.devices(), 0);
}

#[test]
fn clients_get_the_newest_of_all_partitions() {
    let mut view = View::new(10);
    add(&mut view, 0, devices(vec![device("t", "1", 5, 5.0)]));
    add(&mut view, 1, devices(vec![device("t", "2", 9, 9.0)]));
    let mut update = |number, change: Device| {
        view.update(&partition(number), devices(vec![change.clone()]));
        view.settled(change).readings[0].1.value
    };
    // The fold of a partition decides what is newest there, whatever the times say.
    assert_eq!(update(0, device("t", "1", 4, 4.0)), 4.0);
    add(&mut view, 1, devices(vec![device("t", "1", 3, 3.0)]));
    assert_eq!(view.settled(device("t", "1", 3, 3.0)).timestamp, 4);
}

#[test]
fn a_late_release_takes_nothing_from_the_next_owner() {
    let mut view = View::new(10);
    let known = || devices(vec![device("t", "1", 0, 0.0)]);
    let (before, after) = (mpsc::channel(1).0, mpsc::channel(1).0);
    view.add(&partition(0), known(), before.clone());
    view.add(&partition(0), known(), after.clone());
    view.release(&partition(0), &before);
    assert_eq!(view.devices(), 1);
    view.release(&partition(0), &after);
    assert_eq!(view.devices(), 0);
}

#[test]
fn active_alerts_outlive_cleared_ones() {
    use AlertStatus::{Cleared, Raised};
    let mut view = View::new(2);
    add(&mut view, 0, Updates::default());
    let mut after = |id: &str, at, state| {
        view.update(&partition(0), alerts(vec![alert(id, at, state)]));
        let listed = view.all_alerts();
        let names = listed
            .iter()
            .map(|alert| alert.id.to_string())
            .collect::<Vec<_>>();
        (names.join(" "), view.active_alerts())
    };
    assert_eq!(after("a", 1, Raised), ("a".into(), 1));
    assert_eq!(after("b", 2, Raised), ("b a".into(), 2));
    assert_eq!(after("c", 3, Raised), ("c b a".into(), 3));
    assert_eq!(after("b", 2, Cleared), ("c a".into(), 2));
    assert_eq!(after("a", 1, Cleared), ("c a".into(), 1));
    assert_eq!(after("d", 4, Raised), ("d c".into(), 2));
}

/// The list of alerts as ids, after the alerts were taken in.
fn listed(view: &mut View, new: Vec<Alert>) -> Vec<String> {
    view.update(&partition(0), alerts(new));
    let listed = view.all_alerts().into_iter();
    listed.map(|alert| alert.id.to_string()).collect()
}

fn critical(id: &str, raised_at: i64, state: AlertStatus) -> Alert {
    Alert {
        level: Level::Critical,
        ..alert(id, raised_at, state)
    }
}

#[test]
fn alerts_are_listed_by_state_then_severity_then_time() {
    use AlertStatus::{Cleared, Raised};
    let mut view = View::new(100);
    add(&mut view, 0, Updates::default());
    let all = vec![
        critical("over", 9, Cleared),
        alert("new", 8, Raised),
        critical("boiler", 1, Raised),
        alert("past", 10, Cleared),
        critical("pump", 2, Raised),
        // It has repeated since, and is where it was.
        Alert {
            timestamp: 99,
            ..alert("old", 3, Raised)
        },
    ];
    let expected = ["pump", "boiler", "new", "old", "over", "past"];
    assert_eq!(listed(&mut view, all), expected);
}

#[test]
fn a_critical_alert_stays_in_sight_however_many_warnings_follow() {
    use AlertStatus::{Cleared, Raised};
    let mut view = View::new(50);
    add(&mut view, 0, Updates::default());
    let storm = |state| (0..20_000).map(move |n| alert(&format!("w{n:05}"), 10 + n, state));
    let mut all = vec![critical("boiler", 1, Raised)];
    all.extend(storm(Raised));
    assert_eq!(listed(&mut view, all).len(), 20_001, "none is cut");
    let page = view.alerts(AlertFilter::default());
    assert_eq!((page.alerts.len(), page.total), (100, 20_001));
    assert_eq!((page.raised.critical, page.raised.warning), (1, 20_000));
    assert_eq!(&*page.alerts[0].id, "boiler");
    let last = view.alerts(AlertFilter {
        limit: Some(100),
        offset: 20_000,
    });
    assert_eq!(last.alerts.len(), 1);
    assert_eq!(&*last.alerts[0].id, "w00000");
    // Cleared, it outlives cleared warnings too.
    let mut over: Vec<_> = storm(Cleared).collect();
    over.push(critical("boiler", 1, Cleared));
    over.extend((0..1_000).flat_map(|n| {
        let id = format!("x{n:03}");
        [Raised, Cleared].map(|state| alert(&id, 30_000 + n, state))
    }));
    let left = listed(&mut view, over);
    assert_eq!((left.len(), &*left[0], &*left[1]), (50, "boiler", "x999"));
}
