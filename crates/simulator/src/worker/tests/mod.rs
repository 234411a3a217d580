use std::collections::HashMap;

use iot_core::message::parse;
use iot_core::partition::partition_for;
use iot_service::config::ByteSize;
use iot_service::health::Health;
use prometheus::Registry;

use super::crew::{Autoscale, Crew};
use super::*;
use crate::config::ProfileConfig;
use crate::control::Control;
use crate::figures::{Condition, Figures, Snapshot};
use crate::pipeline::Pipeline;
use crate::sink::null::Null;
use crate::sink::{self, Ends, Links};

mod crew;
mod flow;
mod late;

const SECOND: Duration = Duration::from_secs(1);

fn config(change: impl FnOnce(&mut SimulatorConfig)) -> SimulatorConfig {
    let mut config = SimulatorConfig::default();
    config.fleet.devices = 4;
    config.fleet.workers = 1;
    change(&mut config);
    config
}

/// The workers of a fleet, the ends of their lanes, and the metrics.
fn workers(config: SimulatorConfig, lanes: usize) -> (Vec<Worker>, Vec<Ends>, Registry) {
    let registry = Registry::new();
    let metrics = Metrics::new(&registry, config.sink).unwrap();
    let control = Control::start(Live::fixed(config.clone()), metrics.clone());
    let pipeline = Pipeline {
        metrics,
        config: control.config(),
        control,
        health: Health::default(),
        shutdown: CancellationToken::new(),
    };
    let (handles, ends) = open(lanes);
    (pipeline.workers(&config, handles, None), ends, registry)
}

fn limits(buffer: u64) -> Limits {
    let defaults = SimulatorConfig::default().kafka;
    Limits {
        batch_bytes: defaults.batch_size.bytes(),
        batch_messages: 100,
        linger: *defaults.linger,
        buffer_bytes: ByteSize(buffer).bytes(),
    }
}

fn open(lanes: usize) -> (Vec<LaneHandle>, Vec<Ends>) {
    (0..lanes)
        .map(|_| LaneHandle::new(limits(32 << 20)))
        .unzip()
}

fn worker(config: SimulatorConfig) -> (Worker, State, Vec<Ends>, Registry) {
    let (mut workers, ends, registry) = workers(config, 1);
    let mut worker = workers.remove(0);
    let state = worker.initial_state();
    (worker, state, ends, registry)
}

fn stop() -> Stop {
    Stop {
        generate: CancellationToken::new(),
        abandon: CancellationToken::new(),
        regroup: CancellationToken::new(),
    }
}

fn dropped(registry: &Registry, reason: &str) -> f64 {
    let families = registry.gather();
    let mut metrics = families
        .iter()
        .filter(|family| family.name().ends_with("dropped_messages_total"))
        .flat_map(|family| family.get_metric());
    let metric = metrics.find(|m| m.get_label().iter().any(|l| l.value() == reason));
    metric.expect(reason).get_counter().get_value()
}

/// Confirms all batches of a lane and returns their payloads.
async fn confirm_all(mut ends: Ends) -> Vec<Vec<u8>> {
    let mut payloads = Vec::new();
    while let Some(batch) = ends.batches.recv().await {
        payloads.extend(batch.messages().map(|message| message.payload.to_vec()));
        let outcome = Outcome::Sent;
        let done = Done { batch, outcome };
        ends.done.send(done).unwrap();
    }
    payloads
}

/// Runs a fleet over several lanes to its end, and returns the payloads of each lane.
async fn run_fleet(config: SimulatorConfig, lanes: usize) -> Vec<Vec<Vec<u8>>> {
    let (workers, ends, _) = workers(config, lanes);
    let sinks: Vec<_> = ends
        .into_iter()
        .map(|e| tokio::spawn(confirm_all(e)))
        .collect();
    let makers: Vec<_> = workers
        .into_iter()
        .map(|w| tokio::spawn(w.run(None, stop())))
        .collect();
    for maker in makers {
        maker.await.unwrap();
    }
    let mut payloads = Vec::new();
    for sink in sinks {
        payloads.push(sink.await.unwrap());
    }
    payloads
}

/// The messages that arrived on each lane, as device and sequence number.
fn arrivals(lanes: &[Vec<Vec<u8>>]) -> Vec<Vec<(String, u64)>> {
    let identify = |payload: &Vec<u8>| {
        let message = parse(payload).unwrap();
        (message.device_id.into_owned(), message.seq.unwrap())
    };
    let lanes = lanes.iter();
    lanes
        .map(|payloads| payloads.iter().map(identify).collect())
        .collect()
}

#[tokio::test]
async fn devices_send_when_they_are_due() {
    let (mut worker, mut state, _ends, _) = worker(config(|c| {
        c.fleet.interval = SECOND.into();
    }));
    let start = worker.start;
    assert_eq!(
        worker.make_due(&mut state, start),
        After::Wait(start + SECOND / 4)
    );
    let now = start + SECOND + SECOND / 10;
    assert_eq!(
        worker.make_due(&mut state, now),
        After::Wait(start + SECOND * 5 / 4)
    );
    assert_eq!(worker.waiting(), 5);
    let seqs: Vec<u64> = worker.members.iter().map(|m| m.device.seq).collect();
    assert_eq!(seqs, [2, 1, 1, 1]);
}

#[tokio::test]
async fn a_late_worker_catches_up_and_keeps_the_schedule() {
    let (mut worker, mut state, _ends, _) = worker(config(|c| {
        c.fleet.interval = SECOND.into();
    }));
    let late = worker.start + 1_000 * SECOND;
    while worker.make_due(&mut state, late) == After::Again {}
    assert_eq!(worker.waiting(), 4_001);
    state.lateness.flush();
    assert_eq!(worker.metrics.lateness.get_sample_count(), 4_001);
}

#[tokio::test]
async fn quotas_end_the_schedule() {
    let (mut worker, mut state, _ends, _) = worker(config(|c| c.run.messages = 6));
    let late = worker.start + 1_000 * SECOND;
    assert_eq!(worker.make_due(&mut state, late), After::Finished);
    let seqs: Vec<u64> = worker.members.iter().map(|m| m.device.seq).collect();
    assert_eq!(seqs, [2, 2, 1, 1]);
}

#[tokio::test]
async fn a_new_interval_and_anomaly_rate_are_applied() {
    let (mut worker, mut state, _ends, _) = worker(config(|c| {
        c.fleet.interval = (3_600 * SECOND).into();
    }));
    worker.make_due(&mut state, Instant::now());
    let changed = config(|c| {
        c.fleet.interval = SECOND.into();
        c.anomaly.rate = 0.05;
    });
    worker.apply_config(&mut state, Arc::new(changed));
    let odds = &state.profiles[0].sensors[0].odds;
    assert!(odds.draw(0.01).is_some(), "one in 80 readings is a spike");
    let later = Instant::now() + 60 * SECOND;
    worker.make_due(&mut state, later);
    assert!(worker.waiting() > 100, "{}", worker.waiting());
}

#[tokio::test]
async fn with_rate_max_devices_send_their_quota_in_order_on_their_lane() {
    let lanes = run_fleet(
        config(|c| {
            c.fleet.devices = 100;
            c.fleet.workers = 3;
            c.fleet.rate = Rate::Max;
            c.run.messages = 5_050;
        }),
        10,
    )
    .await;
    let mut seqs: HashMap<String, u64> = HashMap::new();
    for (lane, payloads) in lanes.iter().enumerate() {
        for payload in payloads {
            let message = parse(payload).unwrap();
            assert_eq!(partition_for(&message.device_id, 10) as usize, lane);
            let next = seqs.entry(message.device_id.into_owned()).or_default();
            assert_eq!(message.seq, Some(*next));
            *next += 1;
        }
    }
    assert_eq!(seqs.values().sum::<u64>(), 5_050);
    assert!(seqs.values().all(|n| *n == 50 || *n == 51));
}

#[tokio::test]
async fn unconfirmed_messages_are_counted_at_shutdown() {
    let (mut workers, mut ends, registry) =
        workers(config(|c| c.fleet.interval = SECOND.into()), 1);
    let mut worker = workers.remove(0);
    worker.start = Instant::now() - 10 * SECOND;
    let depth = worker.metrics.queue_depth.clone();
    let stop = stop();
    let running = tokio::spawn(worker.run(None, stop.clone()));
    while depth.get() < 40 {
        tokio::task::yield_now().await;
    }
    stop.generate.cancel();
    stop.abandon.cancel();
    running.await.unwrap();
    // The task of the lane counts those that it was given.
    let taken = ends[0].batches.try_recv().map_or(0, |batch| batch.len());
    assert!(dropped(&registry, "shutdown") + taken as f64 >= 40.0);
    assert_eq!(depth.get(), 0);
}

#[tokio::test]
async fn a_closed_output_stops_the_worker() {
    let (mut workers, mut ends, registry) = workers(config(|c| c.fleet.rate = Rate::Max), 1);
    let running = tokio::spawn(workers.remove(0).run(None, stop()));
    let mut ends = ends.remove(0);
    let batch = ends.batches.recv().await.expect("a batch");
    let (taken, outcome) = (batch.len() as f64, Outcome::Closed);
    let done = Done { batch, outcome };
    ends.done.send(done).unwrap();
    let (worker, _, exit) = running.await.unwrap();
    assert_eq!(exit, Exit::Closed);
    let created: u64 = worker.members.iter().map(|m| m.device.seq).sum();
    // The task of the lane counts those that it was given.
    assert_eq!(taken + dropped(&registry, "output_closed"), created as f64);
}

#[tokio::test]
async fn devices_continue_their_sequence_when_the_fleet_grows_and_shrinks() {
    let (mut worker, mut state, _ends, _) = worker(config(|c| c.fleet.interval = SECOND.into()));
    let with = |devices| {
        Arc::new(config(|c| {
            c.fleet.interval = SECOND.into();
            c.fleet.devices = devices;
        }))
    };
    let seqs = |worker: &Worker| -> Vec<u64> {
        worker
            .members
            .iter()
            .map(|member| member.device.seq)
            .collect()
    };
    worker.make_due(&mut state, worker.start + SECOND * 9 / 10);
    assert_eq!(seqs(&worker), [1, 1, 1, 1]);
    worker.apply_config(&mut state, with(6));
    worker.make_due(&mut state, Instant::now() + SECOND * 9 / 10);
    assert_eq!(seqs(&worker), [2, 2, 2, 2, 1, 1]);
    worker.apply_config(&mut state, with(2));
    assert_eq!(worker.metrics.devices.get(), 2);
    worker.make_due(&mut state, Instant::now() + SECOND * 9 / 10);
    assert_eq!(seqs(&worker), [3, 3, 2, 2, 1, 1]);
    worker.apply_config(&mut state, with(5));
    worker.make_due(&mut state, Instant::now() + SECOND * 9 / 10);
    assert_eq!(seqs(&worker), [4, 4, 3, 3, 2, 1], "as they were");
}

#[tokio::test]
async fn a_pause_sends_nothing_and_is_not_caught_up() {
    let (mut worker, mut state, _ends, _) = worker(config(|c| c.fleet.interval = SECOND.into()));
    let paused = |paused| {
        Arc::new(config(|c| {
            c.fleet.interval = SECOND.into();
            c.fleet.paused = paused;
        }))
    };
    worker.apply_config(&mut state, paused(true));
    let before = state.clock.at(Instant::now());
    let later = Instant::now() + 100 * SECOND;
    assert_eq!(state.clock.at(later), before);
    worker.apply_config(&mut state, paused(false));
    worker.make_due(&mut state, Instant::now() + SECOND * 9 / 10);
    assert!(worker.waiting() <= 4, "{}", worker.waiting());
}

#[tokio::test]
async fn the_rate_scales_the_intervals_of_all_profiles() {
    let (mut worker, mut state, _ends, _) = worker(config(|c| {
        let profile = |name: &str, millis| ProfileConfig {
            name: name.into(),
            weight: 1,
            sensors: Vec::new(),
            interval: Some(iot_service::config::HumanDuration::from_millis(millis)),
        };
        c.fleet.profiles = vec![profile("fast", 1_000), profile("slow", 4_000)];
        c.fleet.devices = 100;
        c.fleet.rate = Rate::PerSecond(1_000.0);
    }));
    let end = worker.start + 10 * SECOND;
    while worker.make_due(&mut state, end) == After::Again {}
    let made = worker.waiting() as f64;
    assert!((9_990.0..10_110.0).contains(&made), "{made}");
    let mean = |profile| {
        let members = worker.members.iter();
        let seqs = members
            .filter(|m| m.device.profile == profile)
            .map(|m| m.device.seq);
        let (count, sum) = seqs.fold((0, 0), |(count, sum), seq| (count + 1, sum + seq));
        sum as f64 / f64::from(count)
    };
    let times = mean(0) / mean(1);
    assert!((3.9..4.1).contains(&times), "{times}");
}

#[tokio::test]
async fn the_load_follows_its_shape() {
    let (mut worker, mut state, _ends, _) = worker(config(|c| {
        c.fleet.devices = 100;
        c.fleet.interval = SECOND.into();
        c.load.shape = crate::config::Shape::Ramp;
        c.load.least = 0.0;
        c.load.period = (10 * SECOND).into();
    }));
    let mut made = Vec::new();
    for second in 1..=12 {
        let end = worker.start + second * SECOND;
        while worker.make_due(&mut state, end) == After::Again {}
        made.push(worker.waiting() - made.iter().sum::<usize>());
    }
    for (second, made) in made.into_iter().enumerate() {
        let expected = (10 * second + 5).min(100);
        assert!(made.abs_diff(expected) <= 1, "{made} in second {second}");
    }
}

#[tokio::test]
async fn messages_that_a_late_worker_has_not_created_count_at_the_end() {
    for rate in [1_000.0, 1e9] {
        let (mut workers, ends, registry) = workers(
            config(|c| {
                c.fleet.rate = Rate::PerSecond(rate);
            }),
            1,
        );
        let mut worker = workers.remove(0);
        worker.start = Instant::now() - 3 * SECOND;
        let (metrics, stop) = (worker.metrics.clone(), stop());
        stop.generate.cancel();
        let sinks: Vec<_> = ends
            .into_iter()
            .map(|e| tokio::spawn(confirm_all(e)))
            .collect();
        worker.run(None, stop).await;
        let mut sent = 0;
        for sink in sinks {
            sent += sink.await.unwrap().len();
        }
        let drops = dropped(&registry, "shutdown");
        let all = sent as f64
            + drops
            + dropped(&registry, "buffer_full")
            + dropped(&registry, "throttled");
        assert!(all >= 3.0 * rate, "{sent} and {drops} of {rate}");
        assert_eq!(drops > 0.0, rate > 1e6, "{drops}");
        let counted = metrics.deliveries.histogram().get_sample_count();
        assert!(counted as f64 >= all - sent as f64);
    }
}

#[tokio::test]
async fn a_limited_run_ends_after_a_change_of_the_rate() {
    let with = |rate| {
        config(|c| {
            c.fleet.rate = rate;
            c.run.messages = 600;
        })
    };
    let (mut worker, mut state, _ends, _) = worker(with(Rate::Max));
    worker.make_for_room(&mut state, Instant::now());
    // A device that has already reached its quota.
    worker.members[0].quota = worker.members[0].device.seq;
    worker.apply_config(&mut state, Arc::new(with(Rate::PerSecond(1_000.0))));
    let late = Instant::now() + 10 * SECOND;
    let mut after = After::Again;
    for _ in 0..10 {
        after = worker.make_due(&mut state, late);
    }
    assert_eq!(after, After::Finished);
}
