use prometheus::Registry;
use serde_json::Value;

use super::*;
use crate::hub::view::tests::{alert, device};
use crate::metrics::Metrics;
use iot_fold::AlertStatus;

fn clients(queue: usize) -> Clients {
    let metrics = Metrics::new(&Registry::new()).unwrap().hub;
    let config = PushConfig {
        queue,
        clients: 2,
        ..PushConfig::default()
    };
    Clients::new(&config, metrics)
}

fn pending(devices: &[(&str, f64)]) -> Pending {
    let mut pending = Pending::default();
    for (number, (id, value)) in devices.iter().enumerate() {
        pending.merge(device("t", id, number as i64, *value));
    }
    pending
}

fn received(subscription: &mut Subscription) -> Option<Value> {
    let frame = subscription.frames.try_recv()?;
    Some(serde_json::from_str(frame.as_str()).unwrap())
}

#[test]
fn readings_of_one_device_become_the_newest() {
    let mut clients = clients(8);
    let mut one = clients.add(Vec::new(), Vec::new()).unwrap();
    clients.send_readings(&mut pending(&[("a", 1.0), ("b", 2.0), ("a", 3.0)]));
    let frame = received(&mut one).unwrap();
    assert_eq!(frame["type"], "readings");
    assert_eq!(frame["devices"].as_array().unwrap().len(), 2);
    assert_eq!(frame["devices"][0]["readings"]["temperature"]["value"], 3.0);
    assert!(received(&mut one).is_none());
}

#[test]
fn a_client_that_is_behind_gets_merged_readings_later() {
    let mut clients = clients(1_024);
    let mut slow = clients.add(Vec::new(), Vec::new()).unwrap();
    for value in 0..10 {
        clients.send_readings(&mut pending(&[("a", f64::from(value))]));
    }
    assert!(clients.any_behind());
    clients.catch_up();
    assert!(clients.any_behind(), "there is no room yet");
    let mut waited = 0;
    while received(&mut slow).is_some() {
        waited += 1;
    }
    assert_eq!(waited, READINGS, "few old readings wait");
    clients.catch_up();
    assert!(!clients.any_behind());
    let frame = received(&mut slow).unwrap();
    assert_eq!(frame["devices"][0]["readings"]["temperature"]["value"], 9.0);
}

#[tokio::test]
async fn readings_of_a_removed_device_are_not_sent_after_it() {
    let mut clients = clients(8);
    let mut slow = clients.add(Vec::new(), Vec::new()).unwrap();
    for value in 0..4 {
        clients.send_readings(&mut pending(&[("a", f64::from(value)), ("b", 1.0)]));
    }
    let removed = [device("t", "a", 0, 0.0).key];
    clients.send_removed(&removed).await;
    for _ in 0..READINGS {
        assert_eq!(received(&mut slow).unwrap()["type"], "readings");
    }
    let frame = received(&mut slow).unwrap();
    assert_eq!(
        (&frame["type"], &frame["devices"][0]["device"]),
        (&"removed".into(), &"a".into())
    );
    clients.catch_up();
    let frame = received(&mut slow).unwrap();
    assert_eq!(frame["devices"].as_array().unwrap().len(), 1);
    assert_eq!(frame["devices"][0]["device"], "b");
}

#[test]
fn a_client_that_is_behind_gets_the_last_change_whatever_its_time() {
    let mut pending = Pending::default();
    for (timestamp, value) in [(9_000, 9.0), (1_000, 1.0)] {
        pending.merge(device("t", "a", timestamp, value));
    }
    let left = &pending.take(1)[0];
    assert_eq!((left.timestamp, left.readings[0].1.value), (1_000, 1.0));
}

fn alerts(numbers: std::ops::Range<i64>) -> Vec<Alert> {
    numbers
        .map(|number| alert(&number.to_string(), number, AlertStatus::Raised))
        .collect()
}

#[tokio::test(start_paused = true)]
async fn a_client_that_makes_no_room_for_an_alert_is_dismissed() {
    let mut clients = clients(2);
    let mut slow = clients.add(Vec::new(), Vec::new()).unwrap();
    let mut quick = clients.add(Vec::new(), Vec::new()).unwrap();
    for (number, one) in alerts(0..3).iter().enumerate() {
        clients.send_alerts(std::slice::from_ref(one)).await;
        assert_eq!(
            received(&mut quick).unwrap()["alert"]["id"],
            number.to_string()
        );
    }
    assert_eq!(slow.dismissed.try_recv(), Ok(Leave::Slow));
    assert!(quick.dismissed.try_recv().is_err());
    assert_eq!(clients.len(), 1);
}

#[tokio::test(start_paused = true)]
async fn nobody_waits_for_a_client_that_has_long_taken_nothing() {
    let mut clients = clients(2);
    let mut asleep = clients.add(Vec::new(), Vec::new()).unwrap();
    clients.send_alerts(&alerts(0..1)).await;
    tokio::time::advance(GRACE).await;
    clients.send_alerts(&alerts(1..2)).await;
    let begun = Instant::now();
    clients.send_alerts(&alerts(2..3)).await;
    assert_eq!(asleep.dismissed.try_recv(), Ok(Leave::Slow));
    assert!(begun.elapsed() < GRACE, "{:?}", begun.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_client_that_has_just_read_is_waited_for() {
    let mut clients = clients(2);
    let mut reader = clients.add(Vec::new(), Vec::new()).unwrap();
    clients.send_alerts(&alerts(0..2)).await;
    let reading = tokio::spawn(async move {
        tokio::time::sleep(GRACE * 3 / 4).await;
        while received(&mut reader).unwrap()["alert"]["id"] != "1" {}
        reader
    });
    clients.send_alerts(&alerts(2..3)).await;
    let mut reader = reading.await.unwrap();
    assert_eq!(received(&mut reader).unwrap()["alert"]["id"], "2");
    assert!(reader.dismissed.try_recv().is_err());
}

#[tokio::test]
async fn a_client_that_reads_gets_any_number_of_alerts() {
    let mut clients = clients(64);
    let mut reader = clients.add(Vec::new(), Vec::new()).unwrap();
    let reading = tokio::spawn(async move {
        let mut ids = Vec::new();
        while ids.len() < 5_000 {
            let frame = reader.frames.recv().await.expect("an alert");
            let frame: Value = serde_json::from_str(frame.as_str()).unwrap();
            ids.push(frame["alert"]["id"].as_str().unwrap().parse().unwrap());
        }
        ids
    });
    clients.send_alerts(&alerts(0..5_000)).await;
    let ids: Vec<i64> = reading.await.unwrap();
    assert!(ids.into_iter().eq(0..5_000), "all of them, in order");
    clients.sweep();
    assert_eq!(clients.len(), 0, "it left after the last one");
}

#[test]
fn there_are_only_so_many_clients() {
    let mut clients = clients(2);
    let one = clients.add(Vec::new(), Vec::new()).unwrap();
    let _two = clients.add(Vec::new(), Vec::new()).unwrap();
    assert!(clients.add(Vec::new(), Vec::new()).is_none());
    clients.remove(one.id);
    assert!(clients.add(Vec::new(), Vec::new()).is_some());
}

#[test]
fn clients_that_nobody_serves_free_their_places() {
    let mut clients = clients(2);
    drop(clients.add(Vec::new(), Vec::new()));
    let _two = clients.add(Vec::new(), Vec::new());
    clients.sweep();
    assert_eq!(clients.len(), 1);
    assert_eq!(clients.metrics.clients.get(), 1);
    assert!(clients.add(Vec::new(), Vec::new()).is_some());
}

#[test]
fn a_frame_has_a_bounded_size() {
    let mut clients = clients(2);
    let mut one = clients.add(Vec::new(), Vec::new()).unwrap();
    let mut all = Pending::default();
    for number in 0..10_000 {
        all.merge(device("t", &format!("{number:05}"), 0, 0.0));
    }
    let (mut devices, mut largest) = (0, 0);
    while !all.is_empty() {
        clients.send_readings(&mut all);
        while let Some(frame) = one.frames.try_recv() {
            largest = largest.max(frame.len());
            let frame: Value = serde_json::from_str(frame.as_str()).unwrap();
            devices += frame["devices"].as_array().unwrap().len();
        }
    }
    assert_eq!(devices, 10_000);
    assert!(largest < FRAME_BYTES * 5 / 4, "{largest}");
    assert!(largest > FRAME_BYTES / 2, "{largest}");
}

/// Flushes while all devices change more often than frames can carry, and returns after how many
/// flushes a client has heard every device once; `reads` is how many frames it takes per flush.
fn flushes_until_all_are_heard(reads: usize) -> usize {
    const DEVICES: usize = 10_000;
    let mut clients = clients(2);
    let mut client = clients.add(Vec::new(), Vec::new()).unwrap();
    let mut pending = Pending::default();
    let mut heard = std::collections::HashSet::new();
    for flush in 1..=100 {
        for number in 0..DEVICES {
            pending.merge(device("t", &format!("{number:05}"), flush as i64, 0.0));
        }
        clients.catch_up();
        clients.send_readings(&mut pending);
        for frame in std::iter::from_fn(|| received(&mut client)).take(reads) {
            let devices = frame["devices"].as_array().unwrap().iter();
            heard.extend(devices.map(|device| device["device"].as_str().unwrap().to_owned()));
        }
        if heard.len() == DEVICES {
            return flush;
        }
    }
    panic!("only {} of {DEVICES} devices were heard", heard.len());
}

#[test]
fn every_device_is_heard_although_more_change_than_frames_can_carry() {
    // A frame has room for more than 600 of these devices.
    assert!(flushes_until_all_are_heard(READINGS) <= 10_000 / 600 / READINGS + 1);
    // A slow client gets half as much at a time, and what waits for it goes first too.
    assert!(flushes_until_all_are_heard(1) <= 10_000 / 600 + 2);
}
