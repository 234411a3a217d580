//! How changes reach clients.

use super::*;

async fn replica() -> Replica {
    Replica::new(settings()).await
}

fn readings(name: &str) -> Channel {
    channel(name, Kind::Readings, Filter::default())
}

#[tokio::test(start_paused = true)]
async fn newest_values_are_conflated_and_the_skipped_ones_counted() {
    let mut replica = replica().await;
    let mut client = Client::new(readings("readings"));
    client.connect(&replica.hub).await;
    let log: Vec<_> = (0..50).map(|n| sent(0, f64::from(n))).collect();
    for to in 1..=log.len() {
        replica.read(&log, to).await;
        sleep(Duration::from_millis(1)).await;
    }
    settle().await;
    client.take(&replica.hub).await;
    assert_eq!(
        client.devices["d0"]["readings"]["temperature"]["value"],
        49.0
    );
    // The first at once, the others at the end of the interval.
    assert_eq!((client.publications, client.skipped), (2, 48));
    assert_eq!(replica.clients().await, 1);
}

#[tokio::test(start_paused = true)]
async fn all_values_come_in_order_with_their_offsets() {
    let mut replica = replica().await;
    let mut client = Client::new(readings("readings?mode=all"));
    client.connect(&replica.hub).await;
    let log: Vec<_> = (0..100).map(|n| sent(n % 3, f64::from(n % 40))).collect();
    for to in (0..=log.len()).step_by(10) {
        replica.read(&log, to).await;
        sleep(Duration::from_millis(7)).await;
    }
    settle().await;
    client.take(&replica.hub).await;
    for number in 0..PARTITIONS {
        let of = |(partition, _): &&(String, i64)| *partition == format!("log:{number}");
        let offsets: Vec<_> = client
            .seen
            .iter()
            .filter(of)
            .map(|(_, offset)| *offset)
            .collect();
        assert_eq!(offsets, (0..replica.next[number]).collect::<Vec<_>>());
    }
    assert_eq!(client.skipped, 0);
}

#[tokio::test(start_paused = true)]
async fn a_client_that_is_behind_gets_the_newest_values_of_all_devices() {
    let mut replica = replica().await;
    let (mut slow, mut fast) = (
        Client::new(readings("readings")),
        Client::new(readings("readings")),
    );
    slow.connect(&replica.hub).await;
    fast.connect(&replica.hub).await;
    // Each round is more than a queue holds.
    let mut log = Vec::new();
    for round in 0..6_u8 {
        log.extend((0..250_u8).map(|device| sent(device, f64::from(round))));
    }
    for round in 1..=6 {
        replica.read(&log, round * 250).await;
        for _ in 0..5 {
            sleep(Duration::from_millis(100)).await;
            fast.take(&replica.hub).await;
        }
    }
    slow.take(&replica.hub).await;
    settle().await;
    slow.take(&replica.hub).await;
    settle().await;
    slow.take(&replica.hub).await;
    assert_eq!(slow.devices.len(), 250);
    assert_eq!(slow.devices, fast.devices);
    assert!(slow.publications < fast.publications && slow.skipped > fast.skipped);
}

#[tokio::test(start_paused = true)]
async fn a_client_that_reads_no_alerts_goes_and_the_others_stay() {
    let mut replica = replica().await;
    let name = || channel("alerts", Kind::Alerts, Filter::default());
    let (mut stuck, mut other) = (Client::new(name()), Client::new(name()));
    stuck.connect(&replica.hub).await;
    other.connect(&replica.hub).await;
    let hot = (0..200_u8).map(|device| sent(device, 99.0));
    let log: Vec<_> = hot
        .chain((0..200_u8).map(|device| sent(device, 19.0)))
        .collect();
    for to in (0..=log.len()).step_by(20) {
        replica.read(&log, to).await;
        sleep(Duration::from_millis(20)).await;
        other.take(&replica.hub).await;
    }
    for _ in 0..3 {
        settle().await;
        other.take(&replica.hub).await;
    }
    let frames = stuck.frames.as_mut().unwrap();
    while let Ok(waiting) = frames.take().await {
        assert!(!waiting.is_empty());
    }
    assert_eq!(frames.take().await, Err(Close::Slow));
    assert_eq!(
        other.alerts.len(),
        other.expected(&replica.hub).await.alerts.len()
    );
    assert!(other.alerts.len() >= 200);
    assert_eq!(replica.clients().await, 1);
}

#[tokio::test(start_paused = true)]
async fn statistics_reach_those_who_subscribe() {
    let replica = replica().await;
    let mut client = Client::new(channel("stats", Kind::Stats, Filter::default()));
    client.connect(&replica.hub).await;
    settle().await;
    client.take(&replica.hub).await;
    assert!(
        (2..=4).contains(&client.publications),
        "{}",
        client.publications
    );
}

#[tokio::test(start_paused = true)]
async fn a_channel_is_refused_twice_and_when_there_are_too_many() {
    let replica = replica().await;
    let (outbox, _frames) = outbox(1_000);
    let subscribe = async |name: String| {
        let subscribe = Subscribe {
            client: ClientId(0),
            channel: readings(&name),
            framing: Framing::Json,
            outbox: outbox.clone(),
            since: None,
        };
        replica.hub.subscribe(subscribe).await.unwrap().map(drop)
    };
    assert_eq!(subscribe("a".into()).await, Ok(()));
    assert_eq!(subscribe("a".into()).await, Err(Refused::Already));
    for number in 1..128 {
        assert_eq!(subscribe(number.to_string()).await, Ok(()));
    }
    assert_eq!(subscribe("more".into()).await, Err(Refused::TooMany));
    replica.hub.unsubscribe(ClientId(0), readings("a")).await;
    assert_eq!(subscribe("more".into()).await, Ok(()));
}

#[tokio::test(start_paused = true)]
async fn a_short_absence_is_recovered_and_a_long_one_is_not() {
    let mut few = settings();
    few.history = 20_000;
    let mut replica = Replica::new(few).await;
    let log: Vec<_> = (0..200).map(|n| sent(0, f64::from(n % 40))).collect();
    let mut client = Client::new(readings("readings?mode=all"));
    replica.read(&log, 10).await;
    client.connect(&replica.hub).await;
    assert!(!client.was_recovered);
    for to in 11..20 {
        replica.read(&log, to).await;
    }
    client.connect(&replica.hub).await;
    assert!(client.was_recovered);
    for to in 20..200 {
        replica.read(&log, to).await;
    }
    client.connect(&replica.hub).await;
    assert!(!client.was_recovered);
    // Another log.
    client.position.as_mut().unwrap().epoch = "other".into();
    client.connect(&replica.hub).await;
    assert!(!client.was_recovered);
}

#[tokio::test(start_paused = true)]
async fn more_than_a_frame_is_recovered() {
    for channel in ["readings?mode=all", "readings"] {
        let mut replica = Replica::new(settings()).await;
        let log: Vec<_> = (0..600).map(|n| sent(n as u8, f64::from(n % 40))).collect();
        let mut client = Client::new(readings(channel));
        replica.read(&log, 10).await;
        client.connect(&replica.hub).await;
        for to in (20..=600).step_by(10) {
            replica.read(&log, to).await;
        }
        client.connect(&replica.hub).await;
        assert!(client.was_recovered, "{channel}");
        client.take(&replica.hub).await;
        assert!(client.position.is_some(), "{channel}");
    }
}

#[tokio::test(start_paused = true)]
async fn shutdown_ends_connections() {
    let replica = replica().await;
    let mut client = Client::new(readings("readings"));
    client.connect(&replica.hub).await;
    replica.stop.cancel();
    let mut frames = client.frames.take().unwrap();
    assert_eq!(frames.take().await, Err(Close::Shutdown));
}

#[tokio::test(start_paused = true)]
async fn a_burst_above_the_queue_reaches_a_client_that_reads() {
    let mut replica = replica().await;
    let mut client = Client::new(readings("readings?mode=all"));
    client.connect(&replica.hub).await;
    let log: Vec<_> = (0..1_500).map(|n| sent((n % 8) as u8, 20.0)).collect();
    // About four times what fits in a queue.
    replica.read(&log, log.len()).await;
    for _ in 0..100 {
        sleep(Duration::from_millis(20)).await;
        client.take(&replica.hub).await;
    }
    assert_eq!(client.seen.len(), log.len());
    assert_eq!(client.resyncs, 0);
}

#[tokio::test(start_paused = true)]
async fn changes_of_a_new_device_are_recovered_as_they_were() {
    let mut replica = Replica::new(settings()).await;
    let mut log = vec![sent(0, 1.0); 10];
    log.extend([sent(2, 2.0), sent(2, 3.0)]);
    let mut client = Client::new(readings("readings?mode=all"));
    replica.read(&log, 10).await;
    client.connect(&replica.hub).await;
    let known: Vec<_> = client.devices.keys().cloned().collect();
    replica.read(&log, log.len()).await;
    client.connect(&replica.hub).await;
    assert!(client.was_recovered);
    let new = client
        .values
        .iter()
        .filter(|(device, _)| !known.contains(device));
    assert_eq!(new.map(|(_, value)| *value).collect::<Vec<_>>(), [2.0, 3.0]);
}
