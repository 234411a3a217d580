//! Messages that a worker has not created when they are due.

use super::*;

#[tokio::test]
async fn a_backlog_keeps_its_due_times_when_settings_change() {
    let with = |rate: f64| {
        config(|c| {
            c.fleet.interval = SECOND.into();
            c.load.shape = crate::config::Shape::Step;
            c.load.least = rate;
        })
    };
    let (mut workers, _ends, _) = workers(with(1.0), 1);
    let mut worker = workers.remove(0);
    worker.start = Instant::now() - 100 * SECOND;
    let mut state = worker.initial_state();
    // The same settings, as in a regrouping, and others.
    worker.apply_config(&mut state, Arc::new(with(1.0)));
    worker.apply_config(&mut state, Arc::new(with(0.5)));
    worker.make_due(&mut state, Instant::now());
    state.lateness.flush();
    let lateness = &worker.metrics.lateness;
    assert!(lateness.get_sample_count() >= 256);
    let mean = lateness.get_sample_sum() / lateness.get_sample_count() as f64;
    assert!(mean > 50.0, "{mean} s");
}

#[tokio::test]
async fn a_backlog_is_created_or_counted_when_the_schedule_is_replaced() {
    for (rate, is_max) in [(100.0, false), (100.0, true), (1e9, false), (1e9, true)] {
        let with = |rate, interval: Duration| {
            config(|c| {
                c.fleet.rate = rate;
                c.fleet.interval = interval.into();
            })
        };
        let scheduled = Rate::PerSecond(rate);
        let changed = if is_max {
            with(Rate::Max, SECOND)
        } else {
            with(scheduled, 10 * SECOND)
        };
        let (mut workers, _ends, registry) = workers(with(scheduled, SECOND), 1);
        let mut worker = workers.remove(0);
        worker.start = Instant::now() - 3 * SECOND;
        worker.handles[0].lane.set_limits(limits(64 << 10));
        let mut state = worker.initial_state();
        worker.apply_config(&mut state, Arc::new(changed));
        let late = dropped(&registry, "late");
        let others = dropped(&registry, "buffer_full") + dropped(&registry, "throttled");
        let all = worker.waiting() as f64 + others + late;
        assert!(all >= 3.0 * rate, "{all} of {rate}");
        assert_eq!(late > 0.0, rate > 1e6, "{late}");
        let seqs = worker.members.iter().map(|m| m.device.seq + m.held);
        assert_eq!(seqs.sum::<u64>() as f64, all, "numbers are used up");
    }
}

#[tokio::test]
async fn a_resized_fleet_counts_its_backlog() {
    let with = |devices| {
        config(|c| {
            c.fleet.devices = devices;
            c.fleet.interval = SECOND.into();
        })
    };
    let (mut workers, _ends, _) = workers(with(4), 1);
    let mut worker = workers.remove(0);
    worker.start = Instant::now() - 10 * SECOND;
    let mut state = worker.initial_state();
    worker.apply_config(&mut state, Arc::new(with(6)));
    assert!(worker.waiting() >= 40, "{}", worker.waiting());
}

#[tokio::test]
async fn a_run_without_room_above_the_throttle_ends() {
    let config = config(|c| {
        c.fleet.rate = Rate::PerSecond(1_000.0);
        c.flow.throttle_above = 0.0;
        c.flow.throttled_rate = 0.0;
        c.run.messages = 100;
    });
    let run = run_fleet(config, 1);
    let lanes = tokio::time::timeout(60 * SECOND, run).await.unwrap();
    assert_eq!(lanes[0].len(), 100);
}

#[tokio::test]
async fn a_regrouping_after_the_stop_counts_nothing_twice() {
    let (mut workers, mut ends, registry) = workers(
        config(|c| {
            c.fleet.rate = Rate::PerSecond(1e9);
        }),
        1,
    );
    let mut worker = workers.remove(0);
    worker.start = Instant::now() - SECOND;
    worker.handles[0].lane.set_limits(limits(64 << 10));
    let stop = stop();
    stop.generate.cancel();
    stop.regroup.cancel();
    let (mut worker, mut state, exit) = worker.run(None, stop.clone()).await;
    assert_eq!(exit, Exit::Regroup);
    let drops = dropped(&registry, "shutdown");
    assert!(drops > 0.0);
    let config = state.config.clone();
    worker.apply_config(&mut state, config);
    let due = worker.turns(&state);
    worker.settle(&mut state, &due);
    let confirmed = tokio::spawn(confirm_all(ends.remove(0)));
    let again = Stop {
        regroup: CancellationToken::new(),
        ..stop
    };
    let (worker, _, exit) = worker.run(Some(state), again).await;
    drop(worker);
    assert_eq!(exit, Exit::Complete);
    assert!(!confirmed.await.unwrap().is_empty());
    assert_eq!(dropped(&registry, "shutdown"), drops);
}

#[tokio::test]
async fn numbers_of_dropped_messages_come_after_those_held_back() {
    let (mut worker, mut state, mut ends, registry) = worker(config(|c| {
        c.fleet.devices = 1;
        c.fleet.interval = SECOND.into();
        c.flow.held_back = 2;
    }));
    worker.handles[0].lane.set_limits(limits(1));
    // One is created, two are held back, and three dropped.
    worker.make_due(&mut state, worker.start + 5 * SECOND);
    assert_eq!((worker.held(), dropped(&registry, "buffer_full")), (2, 3.0));
    worker.handles[0].lane.set_limits(limits(32 << 20));
    worker.make_due(&mut state, worker.start + 7 * SECOND);
    let confirmed = tokio::spawn(confirm_all(ends.remove(0)));
    assert_eq!(worker.drain(&mut state, &stop()).await, Exit::Complete);
    assert_eq!(worker.members[0].device.seq, 8);
    drop(worker);
    let arrived = arrivals(&[confirmed.await.unwrap()]).concat();
    let seqs: Vec<u64> = arrived.into_iter().map(|(_, seq)| seq).collect();
    assert_eq!(seqs, [0, 1, 2, 6, 7]);
}

#[tokio::test]
async fn messages_not_created_for_a_closed_output_are_counted() {
    let (mut workers, mut ends, registry) = workers(
        config(|c| {
            c.fleet.rate = Rate::PerSecond(1e9);
        }),
        1,
    );
    let mut worker = workers.remove(0);
    worker.start = Instant::now() - SECOND;
    let running = tokio::spawn(worker.run(None, stop()));
    let mut ends = ends.remove(0);
    let batch = ends.batches.recv().await.expect("a batch");
    let (taken, outcome) = (batch.len() as f64, Outcome::Closed);
    ends.done.send(Done { batch, outcome }).unwrap();
    running.await.unwrap();
    let dropped = ["output_closed", "buffer_full", "throttled"].map(|r| dropped(&registry, r));
    assert!(taken + dropped.iter().sum::<f64>() >= 1e9, "{dropped:?}");
}

#[tokio::test]
async fn messages_that_a_paused_fleet_has_not_created_are_counted_at_shutdown() {
    let with = |paused| {
        config(|c| {
            c.fleet.interval = SECOND.into();
            c.fleet.paused = paused;
        })
    };
    let (mut workers, _ends, registry) = workers(with(false), 1);
    let mut worker = workers.remove(0);
    worker.start = Instant::now() - 10 * SECOND;
    let mut state = worker.initial_state();
    worker.apply_config(&mut state, Arc::new(with(true)));
    let stop = stop();
    stop.generate.cancel();
    assert_eq!(worker.catch_up(&mut state, &stop).await, Exit::Complete);
    let waiting = worker.waiting() as f64;
    assert_eq!((waiting, dropped(&registry, "shutdown")), (0.0, 41.0));
}
