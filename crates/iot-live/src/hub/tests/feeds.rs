//! Partitions that come, go and change hands.

use super::*;

fn readings(name: &str) -> Channel {
    channel(name, Kind::Readings, Filter::default())
}

fn log() -> Vec<Sent> {
    (0..40).map(|n| sent(n % 4, f64::from(60 - n))).collect()
}

#[tokio::test(start_paused = true)]
async fn a_partition_that_ends_takes_its_devices_and_alerts() {
    let mut replica = Replica::new(settings()).await;
    replica.read(&log(), 40).await;
    let mut clients = [
        Client::new(readings("readings")),
        Client::new(readings("readings?mode=all")),
        Client::new(channel("devices", Kind::Devices, Filter::default())),
        Client::new(channel("alerts", Kind::Alerts, Filter::default())),
    ];
    for client in &mut clients {
        client.connect(&replica.hub).await;
    }
    assert_eq!(clients[0].devices.len(), 4);
    assert_eq!(clients[3].alerts.len(), 4);
    replica.feeds[0] = None;
    settle().await;
    for client in &mut clients {
        client.take(&replica.hub).await;
        let ids: Vec<_> = client.devices.keys().map(String::as_str).collect();
        if client.channel.kind != Kind::Alerts {
            assert_eq!(ids, ["d1", "d3"], "{}", client.channel.name);
        }
    }
    assert_eq!(clients[3].alerts.len(), 2);
    // It comes back.
    replica.feeds[0] = Some(replica.open(0).await);
    settle().await;
    for client in &mut clients {
        client.take(&replica.hub).await;
    }
    assert!(clients[..3].iter().all(|client| client.devices.len() == 4));
    assert_eq!(clients[3].alerts.len(), 4);
}

#[tokio::test(start_paused = true)]
async fn a_second_feed_replaces_the_first_without_a_trace() {
    let (log, mut replica) = (log(), Replica::new(settings()).await);
    replica.read(&log, 20).await;
    let mut client = Client::new(readings("readings?mode=all"));
    client.connect(&replica.hub).await;
    // The new owner begins at the stored offset, which is behind.
    let mut owner = Replica::new(settings()).await;
    owner.read(&log, 8).await;
    owner.hub = replica.hub.clone();
    owner.marks = replica.marks.clone();
    let feed = owner.open(0).await;
    replica.read(&log, 24).await;
    settle().await;
    client.take(&replica.hub).await;
    let (before, seen) = (client.devices.clone(), client.seen.len());
    // The follower ends first, and the owner has not caught up.
    let first = replica.feeds[0].replace(feed);
    drop(first);
    settle().await;
    client.take(&replica.hub).await;
    assert_eq!((&client.devices, client.seen.len()), (&before, seen));
    // The owner goes on, also over what is shown, in one batch.
    owner.feeds = vec![replica.feeds[0].take(), None];
    for to in [12, 30, 40] {
        owner.read(&log, to).await;
    }
    settle().await;
    client.take(&replica.hub).await;
    let offsets = client
        .seen
        .iter()
        .filter(|(partition, _)| partition == "log:0");
    let offsets: Vec<_> = offsets.map(|(_, offset)| *offset).collect();
    assert_eq!(offsets, (10..20).collect::<Vec<_>>());
    assert_eq!((client.resyncs, client.devices.len()), (0, 4));
    let expected = client.expected(&replica.hub).await;
    assert_eq!(client.devices, expected.devices);
}

#[tokio::test(start_paused = true)]
async fn a_gap_between_feeds_makes_clients_of_all_changes_subscribe_again() {
    let (log, mut replica) = (log(), Replica::new(settings()).await);
    replica.read(&log, 20).await;
    let mut all = Client::new(readings("readings?mode=all"));
    let mut latest = Client::new(readings("readings"));
    all.connect(&replica.hub).await;
    latest.connect(&replica.hub).await;
    let mut owner = Replica::new(settings()).await;
    owner.read(&log, 30).await;
    owner.hub = replica.hub.clone();
    let feed = owner.open(0).await;
    drop(replica.feeds[0].replace(feed));
    settle().await;
    for client in [&mut all, &mut latest] {
        client.take(&replica.hub).await;
        let expected = client.expected(&replica.hub).await;
        assert_eq!(client.devices, expected.devices);
    }
    assert_eq!((all.resyncs, latest.resyncs), (1, 0));
}

#[tokio::test(start_paused = true)]
async fn nothing_is_recovered_while_a_partition_is_not_shown() {
    let mut replica = Replica::new(settings()).await;
    replica.read(&log(), 40).await;
    let mut client = Client::new(readings("readings"));
    client.connect(&replica.hub).await;
    assert_ne!(client.position.as_ref().unwrap().offset, 0);
    let other = Arc::new(TopicPartition::new("other", 0));
    let reason = Some("it is being loaded".to_owned());
    replica.hub.partial(other.clone(), reason).await;
    let stats = replica.hub.stats(Filter::default()).await.unwrap();
    assert_eq!(stats.partial, ["other-0: it is being loaded"]);
    client.connect(&replica.hub).await;
    assert_eq!(
        (client.was_recovered, client.position.unwrap().offset),
        (false, 0)
    );
    replica.hub.partial(other, None).await;
    client.position = None;
    client.connect(&replica.hub).await;
    assert_ne!(client.position.unwrap().offset, 0);
}

#[tokio::test(start_paused = true)]
async fn there_is_no_position_before_the_partitions_are_known() {
    let mut replica = Replica::new(settings()).await;
    replica.read(&log(), 40).await;
    let reason = "topics are not listed yet".to_owned();
    replica.hub.unlisted(Some(reason.clone())).await;
    let mut client = Client::new(readings("readings"));
    client.connect(&replica.hub).await;
    assert_eq!(client.position.as_ref().unwrap().offset, 0);
    let stats = replica.hub.stats(Filter::default()).await.unwrap();
    assert_eq!(stats.partial, [reason]);
    replica.hub.unlisted(None).await;
    client.position = None;
    client.connect(&replica.hub).await;
    assert_ne!(client.position.unwrap().offset, 0);
}

#[tokio::test(start_paused = true)]
async fn only_the_last_alert_of_a_sensor_is_listed_also_after_a_recovery() {
    let mut replica = Replica::new(settings()).await;
    let mut log = vec![sent(0, 99.0), sent(0, 20.0)];
    log.extend((0..20).map(|n| sent(2, f64::from(n % 9))));
    log.extend([sent(0, 99.0), sent(0, 20.0), sent(0, 99.0)]);
    replica.read(&log, 22).await;
    let name = || channel("alerts", Kind::Alerts, Filter::default());
    let (mut stays, mut comes_back) = (Client::new(name()), Client::new(name()));
    stays.connect(&replica.hub).await;
    comes_back.connect(&replica.hub).await;
    let cleared = |client: &Client| {
        let alerts = client.alerts.values();
        let states = alerts.map(|alert| alert["state"] == "cleared");
        states.collect::<Vec<_>>()
    };
    assert_eq!(cleared(&stays), [true]);
    replica.read(&log, log.len()).await;
    settle().await;
    stays.take(&replica.hub).await;
    comes_back.connect(&replica.hub).await;
    assert!(comes_back.was_recovered);
    assert_eq!(cleared(&stays), [false]);
    assert_eq!(comes_back.alerts, stays.alerts);
}

#[tokio::test(start_paused = true)]
async fn old_alerts_that_are_too_many_are_not_sent_at_each_change_of_hands() {
    let mut few = settings();
    few.alerts = 2;
    let mut replica = Replica::new(few).await;
    let hot = [0, 2, 4, 6].map(|device| sent(device, 99.0));
    let cool = [0, 2, 4, 6].map(|device| sent(device, 19.0));
    let log: Vec<_> = hot.into_iter().chain(cool).collect();
    replica.read(&log, log.len()).await;
    let mut client = Client::new(channel("alerts", Kind::Alerts, Filter::default()));
    client.connect(&replica.hub).await;
    assert_eq!(client.alerts.len(), 2);
    let next = replica.open(0).await;
    replica.feeds[0] = Some(next);
    settle().await;
    client.take(&replica.hub).await;
    assert_eq!(client.publications, 0);
}

#[tokio::test(start_paused = true)]
async fn a_client_from_a_replica_that_was_ahead_takes_no_position_from_others() {
    let (log, mut replica) = (log(), Replica::new(settings()).await);
    replica.read(&log, 20).await;
    let mut other = Client::new(readings("readings"));
    let mut client = Client::new(readings("readings"));
    other.connect(&replica.hub).await;
    client.connect(&replica.hub).await;
    // The other replica was a millisecond ahead.
    let (before, ahead) = (other.position.clone().unwrap().offset, 1_000);
    client.position.as_mut().unwrap().offset = before + ahead;
    client.connect(&replica.hub).await;
    assert!(client.was_recovered);
    replica.read(&log, 21).await;
    settle().await;
    // It asserts that its position rises.
    client.take(&replica.hub).await;
    other.take(&replica.hub).await;
    assert!(other.position.unwrap().offset > before);
    assert_eq!(client.devices, client.expected(&replica.hub).await.devices);
}

#[tokio::test(start_paused = true)]
async fn a_device_that_another_partition_knows_stays_after_recovery() {
    for name in ["readings", "readings?mode=all"] {
        let mut replica = Replica::new(settings()).await;
        let mut log = vec![sent(0, 20.0), sent(2, 20.0)];
        log.extend((0..80).map(|n| Sent {
            after: 10,
            ..sent(2, f64::from(n % 9))
        }));
        replica.read(&log, 2).await;
        let marks = Arc::new(Marks::default());
        marks.add(Mark {
            sent: 2_000_000,
            arrived: 900_000,
            end: replica.next[0],
        });
        // The topic has got more partitions, or the key of a producer has changed.
        let other = Opening {
            partition: Arc::new(TopicPartition::new("other", 0)),
            all: replica.folds[0].all(),
            reached: replica.next[0],
            marks,
            questions: mpsc::channel(1).0,
        };
        let _other = replica.hub.open(other).await;
        let mut client = Client::new(readings(name));
        client.connect(&replica.hub).await;
        assert_eq!(client.devices.len(), 2);
        replica.read(&log, log.len()).await;
        // One partition has removed it.
        assert_eq!(replica.folds[0].all().devices.len(), 1);
        client.connect(&replica.hub).await;
        assert!(client.was_recovered);
        let expected = client.expected(&replica.hub).await;
        assert_eq!(client.devices, expected.devices);
        assert_eq!(client.devices.len(), 2);
    }
}
