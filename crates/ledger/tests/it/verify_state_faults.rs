//! Faults under load, each ending in a state that is exactly what the log says.
//! `LEDGER_KILLS`, `LEDGER_RATE` and `LEDGER_DEVICES` make it longer than in CI.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use redis::cmd;

use crate::support::setting;
use crate::verify_state::Verified;

const SENT: &str = "kafka_producer_messages_total";
const CONSUMED: &str = "kafka_consumer_messages_consumed_total";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs the stack"]
async fn state_is_exact_after_repeated_kills() {
    let (kills, rate) = (setting("LEDGER_KILLS", 3), setting("LEDGER_RATE", 5_000));
    let (rate, devices) = (rate.to_string(), setting("LEDGER_DEVICES", 300).to_string());
    let verified = Verified::new("kills", 4).await;
    let load = ["--devices", &devices, "--rate", &rate];
    let mut simulator = verified.way.simulator("kafka", &verified.topic, &load);
    simulator.ready().await;
    // The shortest that Kafka allows: its successor gets no partition before that.
    let session = ["--set", "kafka.session_timeout=6s"];
    for _ in 0..kills {
        let mut consumer = verified.consumer_from(&session).await;
        // A second of work that is stored in part.
        consumer.metric_reaches(CONSUMED, 7_000.0).await;
        consumer.process.kill();
    }
    let mut consumer = verified.consumer().await;
    simulator.metric_grows(SENT, 5_000.0).await;
    assert_eq!(simulator.process.stop().await, Some(0));
    let report = verified.exact().await;
    println!("after {kills} kills: {report}");
    assert_eq!(report["partitions"], 4, "{report}");
    for compared in [
        "values_compared",
        "open_windows_compared",
        "sealed_windows_compared",
    ] {
        assert!(report[compared].as_u64().unwrap() > 300, "{report}");
    }
    assert_eq!(
        (&report["expired"], &report["behind"]),
        (&0.into(), &0.into())
    );
    assert_eq!(consumer.process.stop().await, Some(0));

    // And it would have been seen: one bit of one window of some device.
    let pattern = format!("iot:{{{}:*}}:w*", verified.topic);
    let key = verified.redis.keys(&pattern).swap_remove(0);
    let mut value: Vec<u8> = verified.redis.ask(cmd("GET").arg(&key));
    // Of its slope; or, without one, that it has one, which makes it too short.
    *value.last_mut().unwrap() ^= 1;
    let _: () = verified
        .redis
        .ask(cmd("SET").arg(&key).arg(&value).arg("KEEPTTL"));
    let wrong = verified.verify(&[]).await;
    assert_eq!(
        (wrong.code, &wrong.json()["differences"]),
        (Some(1), &1.into())
    );
    let _: i64 = verified.redis.ask(cmd("DEL").arg(&key));
    let wrong = verified.verify(&[]).await;
    assert_eq!((wrong.code, &wrong.json()["missing"]), (Some(1), &1.into()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs the stack"]
async fn a_state_that_keeps_changing_is_not_verified() {
    let verified = Verified::new("restless", 1).await;
    let key = format!("iot:{{{}:0}}:state", verified.topic);
    verified.redis.set_field(&key, "schema", b"2");
    verified.redis.set_field(&key, "offset", b"1");
    // So many that reading them takes a while.
    let mut fields = cmd("HSET");
    fields.arg(&key);
    for number in 0..30_000 {
        fields.arg(format!("d{number}")).arg("x");
    }
    let _: i64 = verified.redis.ask(&fields);
    let stop = Arc::new(AtomicBool::new(false));
    let moving = || {
        let (url, stopped, key) = (verified.redis.url.clone(), stop.clone(), key.clone());
        std::thread::spawn(move || {
            let mut connection = redis::Client::open(url).unwrap().get_connection().unwrap();
            while !stopped.load(Ordering::Relaxed) {
                let mut more = cmd("HINCRBY");
                more.arg(&key).arg("offset").arg(1);
                more.exec(&mut connection).unwrap();
            }
        })
    };
    let moving: Vec<_> = (0..3).map(|_| moving()).collect();
    let judged = verified.verify(&[]).await;
    stop.store(true, Ordering::Relaxed);
    moving.into_iter().for_each(|moving| moving.join().unwrap());
    assert_eq!(judged.code, Some(1), "{judged:?}");
    assert!(
        judged.stderr.contains("changes while it is read"),
        "{judged:?}"
    );
}
