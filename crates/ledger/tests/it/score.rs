//! `score` of what the simulator labels and the consumer finds.

use serde_json::Value;
use testkit::stack::{kafka_brokers, unique};

use crate::support::{Way, create_topic, run};

/// Forty devices, two thousand messages each, of five readings.
const MESSAGES: u32 = 80_000;

#[tokio::test]
#[ignore = "needs the stack"]
async fn most_anomalies_are_found_and_most_alerts_are_correct() {
    let topic = unique("score");
    let (alerts, letters) = (format!("iot.alerts-{topic}"), format!("iot.{topic}"));
    create_topic(&topic, 4).await;
    let dir = tempfile::tempdir().unwrap();
    let truth = dir.path().join("truth").to_str().unwrap().to_owned();
    let mut way = Way::new("score");
    way.settings = vec![
        ("anomaly.truth_file", truth.clone()),
        ("anomaly.rate", "0.004".to_owned()),
    ];
    let mut consumer = way.consumer_with(
        &topic,
        &[
            ("outputs.alerts", &*alerts),
            ("dead_letter.topic", &letters),
        ],
    );
    consumer.ready().await;
    let messages = MESSAGES.to_string();
    let load = ["--devices", "40", "--rate", "8000", "--seed", "1"];
    let load = [&load[..], &["--messages", &messages]].concat();
    let mut simulator = way.simulator("kafka", &topic, &load);
    assert!(simulator.process.ended().await.success());
    let consumed = "kafka_consumer_messages_consumed_total";
    consumer.metric_reaches(consumed, MESSAGES.into()).await;
    // It publishes all alerts before it ends.
    assert_eq!(consumer.process.stop().await, Some(0));

    let score = async |further: &[&str]| {
        let brokers = kafka_brokers();
        let of = [
            "--topic",
            &topic,
            "--alerts",
            &alerts,
            "--dead-letter-topic",
            &letters,
        ];
        run(&[
            &["score", "--json", "--brokers", &brokers],
            &of[..],
            further,
        ]
        .concat())
        .await
    };
    let least = "stuck.recall=0.5,stuck.precision=0.5,spike.recall=0.5,spike.precision=0.5,\
                 drift.recall=0.5,threshold.precision=0.99";
    for truth in [&["--truth", &*truth][..], &[]] {
        let scored = score(&[truth, &["--at-least", least]].concat()).await;
        assert_eq!(scored.code, Some(0), "{scored:?}");
        let report: Value = scored.json();
        println!("{report:#}");
        assert_eq!(report["sensors"], 200);
        assert!(
            report["kinds"]["stuck"]["anomalies"].as_u64().unwrap() >= 5,
            "{report}"
        );
        assert!(report["kinds"]["stuck"]["delay_p50"].as_u64().unwrap() < 20);
    }
    let missed = score(&["--at-least", "stuck.recall=1.1,silence.recall=0"]).await;
    assert_eq!(missed.code, Some(1));
    assert!(
        missed
            .stderr
            .contains("stuck does not reach the minimum of 1.1"),
        "{missed:?}"
    );
    assert!(
        missed
            .stderr
            .contains("silence does not reach the minimum of 0"),
        "{missed:?}"
    );
}
