//! What happens to messages for which there is no room.

use super::*;

#[tokio::test]
async fn a_full_buffer_drops_messages_and_leaves_a_gap() {
    let (mut worker, mut state, _ends, registry) = worker(config(|c| {
        c.fleet.interval = SECOND.into();
        c.flow.held_back = 0;
    }));
    worker.handles[0].lane.set_limits(limits(1));
    worker.make_due(&mut state, worker.start + 2 * SECOND);
    assert_eq!(worker.waiting(), 1);
    assert_eq!(dropped(&registry, "buffer_full"), 8.0);
    assert_eq!(
        worker.members[0].device.seq, 3,
        "numbers of dropped messages are used up"
    );
}

#[tokio::test]
async fn a_filling_buffer_slows_down_before_it_drops_some_and_then_all() {
    let (mut worker, mut state, _ends, registry) = worker(config(|c| {
        c.fleet.interval = SECOND.into();
        c.flow.throttle_above = 0.5;
        c.flow.throttled_rate = 0.0;
        c.flow.held_back = 100;
        c.flow.drop_rate = 0.25;
    }));
    worker.handles[0].lane.set_limits(limits(64 << 10));
    let start = worker.start;
    let mut second = 0;
    while worker.held() == 0 {
        second += 1;
        worker.make_due(&mut state, start + second * SECOND);
    }
    let half = worker.handles[0].lane.waiting();
    while worker.held() < 96 {
        second += 1;
        worker.make_due(&mut state, start + second * SECOND);
    }
    assert_eq!(worker.handles[0].lane.waiting(), half, "nothing is created");
    let drops = || dropped(&registry, "throttled") + dropped(&registry, "buffer_full");
    assert_eq!(drops(), 0.0);
    let end = start + 1_000 * SECOND;
    while worker.make_due(&mut state, end) == After::Again {}
    let (waiting, throttled) = (worker.waiting() as f64, dropped(&registry, "throttled"));
    assert_eq!(
        waiting + throttled + dropped(&registry, "buffer_full"),
        4_001.0
    );
    // A quarter of those for the second half.
    let share = throttled / (half as f64 + throttled);
    assert!((0.2..0.3).contains(&share), "{throttled} beside {half}");
}

#[tokio::test]
async fn messages_that_are_held_back_are_sent_in_order_once_there_is_room() {
    let (mut workers, mut ends, registry) = workers(
        config(|c| {
            c.fleet.interval = SECOND.into();
            c.flow.throttled_rate = 0.0;
        }),
        1,
    );
    let mut worker = workers.remove(0);
    worker.start = Instant::now() - 1_000 * SECOND;
    worker.handles[0].lane.set_limits(limits(8 << 10));
    let mut state = worker.initial_state();
    let now = Instant::now();
    while worker.make_due(&mut state, now) == After::Again {}
    let (made, held) = (worker.handles[0].lane.waiting(), worker.held());
    assert!(made < 100 && made + held == 4_001, "{made} {held}");
    assert_eq!(worker.metrics.throttled.get(), held as u64);
    let confirmed = tokio::spawn(confirm_all(ends.remove(0)));
    assert_eq!(worker.drain(&mut state, &stop()).await, Exit::Complete);
    drop(worker);
    let mut seqs = [0; 4];
    for (device, seq) in arrivals(&[confirmed.await.unwrap()]).concat() {
        let number: usize = device["device-".len()..].parse().unwrap();
        assert_eq!(seq, seqs[number], "{device}");
        seqs[number] += 1;
    }
    assert_eq!(seqs, [1_001, 1_000, 1_000, 1_000]);
    assert_eq!(dropped(&registry, "throttled"), 0.0);
}

/// The figures when all messages of a worker are confirmed, which its sink does at once.
async fn confirmed(mut worker: Worker, mut state: State, ends: Ends) -> Snapshot {
    let metrics = worker.metrics.clone();
    state.lateness.flush();
    let component = Health::default().component("null");
    let settings = SimulatorConfig::default();
    let links = Links::new(
        component,
        metrics.clone(),
        settings.circuit,
        settings.retry,
        None,
    );
    tokio::spawn(sink::run(
        Null,
        ends,
        links.link(),
        CancellationToken::new(),
        metrics.clone(),
    ));
    worker.drain(&mut state, &stop()).await;
    Snapshot::take(&metrics)
}

#[tokio::test]
async fn the_wait_of_a_worker_that_is_late_is_in_the_delivery_latency() {
    let late = config(|c| {
        c.fleet.devices = 100;
        c.fleet.interval = SECOND.into();
    });
    let (mut workers, mut ends, _registry) = workers(late, 1);
    let (mut worker, ends) = (workers.remove(0), ends.remove(0));
    worker.start = Instant::now() - 6 * SECOND;
    let mut state = worker.initial_state();
    let now = Instant::now();
    while worker.make_due(&mut state, now) == After::Again {}
    let after = confirmed(worker, state, ends).await;
    let figures = Figures::between(&Snapshot::default(), &after, 6 * SECOND).by_name();
    let figure = |name: &str| figures[name].as_f64().unwrap();
    assert!(figure("messages") > 580.0, "{figures:?}");
    assert!(figure("late_p50_ms") > 2_000.0, "{figures:?}");
    assert!(figure("delivery_p50_ms") > 2_000.0, "{figures:?}");
}

#[tokio::test]
async fn the_wait_for_a_sink_that_stands_still_is_in_the_delivery_latency() {
    let (mut workers, mut ends, _registry) = workers(
        config(|c| {
            c.fleet.devices = 100;
            c.fleet.interval = SECOND.into();
        }),
        1,
    );
    let (mut worker, ends) = (workers.remove(0), ends.remove(0));
    worker.start = Instant::now() - 6 * SECOND;
    let mut state = worker.initial_state();
    // For six seconds the worker is in time, and nothing is confirmed.
    for tenth in 0..60 {
        worker.make_due(&mut state, worker.start + tenth * SECOND / 10);
    }
    let after = confirmed(worker, state, ends).await;
    let figures = Figures::between(&Snapshot::default(), &after, 6 * SECOND).by_name();
    let figure = |name: &str| figures[name].as_f64().unwrap();
    assert!(figure("messages") > 580.0, "{figures:?}");
    assert!(figure("late_p99_ms") < 250.0, "{figures:?}");
    assert!(figure("delivery_p50_ms") > 2_000.0, "{figures:?}");
    assert!(figure("delivery_p95_ms") > 5_000.0, "{figures:?}");
    let quick: Condition = "delivery_p95_ms>=1000".parse().unwrap();
    let figures = Figures::between(&Snapshot::default(), &after, 6 * SECOND);
    assert!(quick.matching_value(&figures).is_some());
}
