//! Lanes and devices that change hands.

use super::*;

#[tokio::test]
async fn values_do_not_depend_on_the_number_of_workers() {
    let run = async |workers: u16, lanes: usize| {
        let lanes = run_fleet(
            config(|c| {
                c.fleet.devices = 20;
                c.fleet.workers = workers;
                c.fleet.rate = Rate::Max;
                c.anomaly.rate = 0.05;
                c.run.messages = 1_000;
            }),
            lanes,
        )
        .await;
        let mut said = HashMap::new();
        for payload in lanes.concat() {
            let message = parse(&payload).unwrap().into_owned();
            said.insert((message.device_id, message.seq), message.readings);
        }
        said
    };
    let (one, other) = (run(1, 1).await, run(4, 10).await);
    assert_eq!(one.len(), 1_000);
    assert_eq!(one, other);
}

#[tokio::test]
async fn regrouping_loses_and_reorders_nothing_on_a_lane() {
    let mut config = config(|c| {
        c.fleet.devices = 60;
        c.fleet.workers = 3;
        c.fleet.rate = Rate::PerSecond(100_000.0);
        c.run.messages = 30_000;
    });
    let (workers, ends, _registry) = workers(config.clone(), 4);
    let confirm = |ends: Vec<Ends>| ends.into_iter().map(|ends| tokio::spawn(confirm_all(ends)));
    let mut sinks: Vec<_> = confirm(ends).collect();
    let messages = workers[0].metrics.serialization_latency.clone();
    let turns = async |count| {
        while messages.get_sample_count() < count {
            tokio::task::yield_now().await;
        }
    };
    let mut crew = Crew::start(workers, stop());
    // Fewer workers, then more lanes and devices, then all workers again.
    for (turn, (added, active)) in [(0, 1), (3, 2), (0, 3)].into_iter().enumerate() {
        turns(20 * (turn as u64 + 1)).await;
        let (handles, ends) = open(added);
        sinks.extend(confirm(ends));
        config.fleet.rate = Rate::PerSecond(50_000.0);
        let config = Arc::new(config.clone());
        crew.regroup(handles, active, |_| limits(32 << 20), &config)
            .await
            .unwrap();
        assert_eq!(crew.active(), active);
    }
    crew.ended().await.unwrap();
    crew.send_unfinished();
    let mut lanes = Vec::new();
    for sink in sinks {
        lanes.push(sink.await.unwrap());
    }
    let mut seqs: HashMap<String, Vec<u64>> = HashMap::new();
    for (lane, arrived) in arrivals(&lanes).into_iter().enumerate() {
        let mut last: HashMap<String, u64> = HashMap::new();
        for (device, seq) in arrived {
            let before = last.insert(device.clone(), seq);
            assert!(before.is_none_or(|before| before < seq), "{device}: {seq}");
            let homes = [4, 7].map(|lanes| partition_for(&device, lanes) as usize);
            assert!(homes.contains(&lane), "{device} on lane {lane}");
            seqs.entry(device).or_default().push(seq);
        }
    }
    assert_eq!(seqs.len(), 60);
    for (device, mut seqs) in seqs {
        seqs.sort_unstable();
        assert!(seqs.into_iter().eq(0..500), "{device}");
    }
    assert!(lanes[4..].iter().all(|lane| !lane.is_empty()));
}

#[tokio::test]
async fn regrouping_keeps_the_schedule() {
    let config = config(|c| {
        c.fleet.devices = 100;
        c.fleet.workers = 2;
        c.fleet.interval = (SECOND / 10).into();
    });
    let (workers, ends, _registry) = workers(config.clone(), 4);
    let sinks: Vec<_> = ends
        .into_iter()
        .map(|e| tokio::spawn(confirm_all(e)))
        .collect();
    let start = workers[0].start;
    let (stop, config) = (stop(), Arc::new(config));
    let mut crew = Crew::start(workers, stop.clone());
    for active in [1, 2, 1] {
        tokio::time::sleep(SECOND / 7).await;
        let added = Vec::new();
        let limits = |_| limits(32 << 20);
        crew.regroup(added, active, limits, &config).await.unwrap();
    }
    tokio::time::sleep(SECOND / 7).await;
    stop.generate.cancel();
    crew.ended().await.unwrap();
    let rounds = start.elapsed().as_secs_f64() * 10.0;
    crew.send_unfinished();
    let mut seqs: HashMap<String, u64> = HashMap::new();
    for sink in sinks {
        for (device, seq) in arrivals(&[sink.await.unwrap()]).concat() {
            let next = seqs.entry(device).or_default();
            assert_eq!(seq, *next);
            *next += 1;
        }
    }
    let (least, most) = (seqs.values().min().unwrap(), seqs.values().max().unwrap());
    assert!(seqs.len() == 100 && most - least <= 1, "{seqs:?}");
    assert!(*most as f64 <= rounds + 1.0, "{most} of {rounds}");
}

#[test]
fn autoscaling_follows_the_busy_time() {
    let start = Instant::now();
    let mut scale = Autoscale::new(start);
    let mut busy = 0.0;
    let mut active = 3;
    let mut seen = Vec::new();
    for (second, used) in [0.2, 0.2, 0.2, 0.9, 1.7, 2.9, 1.1, 0.9, 0.7]
        .into_iter()
        .enumerate()
    {
        busy += used;
        let now = start + SECOND * (second as u32 + 1);
        active = scale.wanted(active, 3, busy, now);
        seen.push(active);
    }
    assert_eq!(seen, [2, 1, 1, 2, 3, 3, 3, 2, 2]);
}

#[tokio::test]
async fn messages_that_are_held_back_stay_so_when_devices_change_hands() {
    let config = config(|c| {
        c.fleet.devices = 40;
        c.fleet.workers = 2;
        c.fleet.interval = SECOND.into();
        c.run.messages = 4_000;
        c.flow.throttled_rate = 0.0;
    });
    let (mut workers, ends, registry) = workers(config.clone(), 4);
    for worker in &mut workers {
        worker.start = Instant::now() - 1_000 * SECOND;
        for handle in &mut worker.handles {
            handle.lane.set_limits(limits(8 << 10));
        }
    }
    let metrics = workers[0].metrics.clone();
    let mut crew = Crew::start(workers, stop());
    while metrics.queue_depth.get() < 4_000 {
        tokio::task::yield_now().await;
    }
    let config = Arc::new(config);
    for active in [1, 2] {
        let room = |_| limits(8 << 10);
        crew.regroup(Vec::new(), active, room, &config)
            .await
            .unwrap();
        crew.stop.regroup.cancel();
        crew.ended().await.unwrap();
        let workers = || crew.returned.iter().map(|(worker, _)| worker);
        let handles = workers().flat_map(|worker| &worker.handles);
        let created: usize = handles.map(|handle| handle.lane.waiting()).sum();
        let held: usize = workers().map(Worker::held).sum();
        assert_eq!(created + held, 4_000);
        assert!(created < 400, "{created} were created without room");
    }
    let room = |_| limits(8 << 10);
    crew.regroup(Vec::new(), 2, room, &config).await.unwrap();
    let sinks = ends.into_iter().map(confirm_all);
    let sinks: Vec<_> = sinks.map(tokio::spawn).collect();
    crew.ended().await.unwrap();
    crew.send_unfinished();
    let mut seqs: HashMap<String, u64> = HashMap::new();
    for sink in sinks {
        for (device, seq) in arrivals(&[sink.await.unwrap()]).concat() {
            let next = seqs.entry(device).or_default();
            assert_eq!(seq, *next);
            *next += 1;
        }
    }
    assert_eq!(seqs.values().sum::<u64>(), 4_000);
    assert_eq!(dropped(&registry, "throttled"), 0.0);
}
