//! The tools for topics and dead letters: on the mock cluster where that is enough,
//! otherwise on a real Kafka.

use std::time::Duration;

use rdkafka::config::ClientConfig;
use rdkafka::message::{Header, OwnedHeaders};
use rdkafka::producer::{BaseProducer, BaseRecord, FutureRecord, Producer};
use rumqttc::v5::mqttbytes::v5::Packet;
use testkit::kafka::{create_topic, foreign_headers, producer, read, send};
use testkit::mqtt_broker::Broker;
use testkit::port::free_address;
use testkit::process::Run;
use testkit::stack::{kafka_brokers, mqtt_url, unique};

use crate::cli::bridge;
use crate::{Bridge, KAFKA_TOPIC, TOPIC, start_cluster};

/// A dead letter as the bridge writes it.
struct Letter<'a> {
    partition: i32,
    topic: &'a str,
    reason: &'a str,
    /// Milliseconds since the epoch.
    time: i64,
    payload: &'a str,
    cut: bool,
    /// The refused readings.
    partial: Option<&'a str>,
}

const ROUTABLE: Letter<'_> = Letter {
    partition: 0,
    topic: TOPIC,
    reason: "unknown_topic",
    time: 1_700_000_000_000,
    payload: "good",
    cut: false,
    partial: None,
};

fn write(brokers: &str, topic: &str, letters: &[Letter<'_>]) {
    let producer: BaseProducer = ClientConfig::new()
        .set("bootstrap.servers", brokers)
        .create()
        .unwrap();
    for letter in letters {
        let time = letter.time.to_string();
        let mut headers = OwnedHeaders::new();
        for (key, value) in [
            ("mqtt-topic", letter.topic),
            ("mqtt-qos", "1"),
            ("note", "from the device"),
            ("dlq-reason", letter.reason),
            ("dlq-topic", letter.topic),
            ("dlq-time", &time),
        ] {
            let value = Some(value);
            headers = headers.insert(Header { key, value });
        }
        if letter.cut {
            let value = Some("9000000");
            headers = headers.insert(Header {
                key: "dlq-size",
                value,
            });
        }
        if letter.partial.is_some() {
            headers = headers.insert(Header {
                key: "dlq-partial",
                value: letter.partial,
            });
        }
        let record = BaseRecord::<(), _>::to(topic)
            .partition(letter.partition)
            .headers(headers)
            .payload(letter.payload);
        producer.send(record).map_err(|(error, _)| error).unwrap();
    }
    producer.flush(Duration::from_secs(30)).unwrap();
}

/// Runs a command to its end against a cluster.
async fn run(brokers: &str, arguments: &[&str]) -> Run {
    bridge(arguments).env("KAFKA_BROKERS", brokers).run().await
}

/// Runs a command and returns what it prints; it has to end with `code`.
async fn stdout_of(brokers: &str, code: i32, arguments: &[&str]) -> String {
    let run = run(brokers, arguments).await;
    assert_eq!(run.code, Some(code), "{arguments:?}: {run:?}");
    run.stdout
}

/// What a replay prints behind `label`.
fn figure<'a>(printed: &'a str, label: &str) -> &'a str {
    let line = printed
        .lines()
        .find_map(|line| line.trim().strip_prefix(label));
    line.unwrap_or_else(|| panic!("no {label:?} in:\n{printed}"))
        .trim()
}

#[tokio::test(flavor = "multi_thread")]
async fn dead_letters_are_listed_by_time_and_filtered() {
    let cluster = start_cluster();
    cluster.create("letters", 3);
    let letters: Vec<_> = (0..9)
        .map(|number| Letter {
            // Not in the order of time over the partitions.
            partition: (number * 2) % 3,
            topic: "a/b",
            reason: if number < 4 {
                "too_few_parts"
            } else {
                "too_large"
            },
            time: 1_700_000_000_000 + i64::from(number) * 1000,
            payload: "bad",
            partial: None,
            cut: number == 8,
        })
        .collect();
    write(&cluster.brokers(), "letters", &letters);
    let list = async |more: &[&str]| {
        let mut arguments = vec!["dead-letters", "list", "--set", "dead_letter.topic=letters"];
        arguments.extend(more);
        let printed = stdout_of(&cluster.brokers(), 0, &arguments).await;
        printed.lines().map(str::to_string).collect::<Vec<_>>()
    };
    let all = list(&[]).await;
    let times: Vec<&str> = all.iter().map(|line| &line[..24]).collect();
    assert_eq!(times.len(), 9);
    assert!(times.is_sorted(), "{times:#?}");
    assert!(all[0].starts_with("2023-11-14T22:13:20.000Z"), "{}", all[0]);
    assert!(all[8].contains("9000000 (truncated)"), "{}", all[8]);
    assert_eq!(list(&["--reason", "too_few_parts"]).await, all[..4]);
    assert_eq!(list(&["--limit", "2"]).await, all[..2]);
    let (from, to) = ("2023-11-14T22:13:22Z", "2023-11-14T22:13:25Z");
    assert_eq!(list(&["--from", from, "--to", to]).await, all[2..5]);
    assert_eq!(list(&["--from", "-1h"]).await, [""; 0]);
    let second = list(&["--partition", "2", "--from-offset", "2:1"]).await;
    assert_eq!(second, [all[4].clone(), all[7].clone()]);
    let first: serde_json::Value = serde_json::from_str(&list(&["--json"]).await[0]).unwrap();
    assert_eq!(first["origin"]["mqtt_topic"], "a/b");
    assert_eq!(first["reason"], "too_few_parts");
    assert_eq!(first["size"], 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn dead_letters_with_foreign_headers_are_listed_and_replayed() {
    let cluster = start_cluster();
    let brokers = cluster.brokers();
    let headers = [("mqtt-topic", TOPIC), ("dlq-reason", "unknown_topic")];
    let headers = headers
        .into_iter()
        .fold(foreign_headers(), |all, (key, value)| {
            let value = Some(value);
            all.insert(Header { key, value })
        });
    let record = FutureRecord::<(), str>::to("iot.dead-letter").payload("foreign");
    send(&producer(&brokers), record.headers(headers)).await;
    write(&brokers, "iot.dead-letter", &[ROUTABLE]);
    let listed = stdout_of(&brokers, 0, &["dead-letters", "list"]).await;
    assert_eq!(listed.matches("unknown_topic").count(), 2, "{listed}");
    let replayed = stdout_of(&brokers, 0, &["dead-letters", "replay"]).await;
    assert_eq!(figure(&replayed, "replayed:"), "2", "{replayed}");
    let records = cluster.read(KAFKA_TOPIC, 2).await;
    let foreign = records.iter().find(|record| record.text() == "foreign");
    let expected = ("n\u{fffd}".to_owned(), b"\xfe".to_vec());
    assert!(foreign.unwrap().headers.contains(&expected), "{records:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replay_sends_dead_letters_that_are_routable_and_skips_the_others() {
    let cluster = start_cluster();
    let brokers = cluster.brokers();
    let bad = Letter {
        topic: "a/b",
        ..ROUTABLE
    };
    let cut = Letter {
        cut: true,
        ..ROUTABLE
    };
    let list = r#"[{"reading":1,"sensor":"a","reason":"not_a_number"}]"#;
    let part = Letter {
        payload: "part",
        partial: Some(list),
        ..ROUTABLE
    };
    let all = [ROUTABLE, bad, cut, part, ROUTABLE];
    write(&brokers, "iot.dead-letter", &all);
    let listed = stdout_of(&brokers, 0, &["dead-letters", "list"]).await;
    assert_eq!(listed.matches("(partial)").count(), 1, "{listed}");
    let replay = async |more: &[&str]| {
        let mut arguments = vec!["dead-letters", "replay", "--set", "topics.create=false"];
        arguments.extend(more);
        stdout_of(&brokers, 0, &arguments).await
    };
    let planned = replay(&["--dry-run"]).await;
    assert_eq!(figure(&planned, "would be replayed:"), "2");
    assert!(planned.contains("-> tenant123.project456"), "{planned}");

    let printed = replay(&[]).await;
    assert_eq!(
        figure(&printed, "replayed:"),
        "2",
        "the dry run sent nothing"
    );
    assert_eq!(figure(&printed, "skipped, partial:"), "1");
    assert_eq!(figure(&printed, "skipped, truncated:"), "1");
    assert_eq!(figure(&printed, "skipped, refused:"), "1");
    assert_eq!(figure(&printed, "too_few_parts:"), "1");
    assert_eq!(figure(&printed, "failed:"), "0");
    let records = cluster.read(KAFKA_TOPIC, 2).await;
    for record in &records {
        assert_eq!(record.text(), "good");
        assert_eq!(record.key(), Some("project456"));
        assert_eq!(record.header("mqtt-topic"), Some(TOPIC));
        assert_eq!(record.header("note"), Some("from the device"));
        assert_eq!(record.header("dlq-reason"), None);
    }

    let behind = figure(&printed, "to continue: --from-offset");
    assert_eq!(behind, "0:5");
    let again = replay(&["--from-offset", behind]).await;
    assert_eq!(figure(&again, "replayed:"), "0", "none is sent twice");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replay_that_fails_names_the_record_and_exits_with_1() {
    let cluster = start_cluster();
    let brokers = cluster.brokers();
    write(&brokers, "iot.dead-letter", &[ROUTABLE, ROUTABLE, ROUTABLE]);
    cluster.refuse_next_batch_as_too_large();
    let arguments = ["dead-letters", "replay", "--set", "topics.create=false"];
    let printed = stdout_of(&brokers, 1, &arguments).await;
    assert!(
        printed.contains("failed: 0:0 -> tenant123.project456"),
        "{printed}"
    );
    assert_eq!(
        figure(&printed, "replayed:"),
        "2",
        "the others are not held up"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_missing_dead_letter_topic_is_reported() {
    let cluster = start_cluster();
    let arguments = ["dead-letters", "list", "--set", "dead_letter.topic=none"];
    let listed = run(&cluster.brokers(), &arguments).await;
    assert_eq!(listed.code, Some(0));
    assert!(listed.stderr.contains("there is no topic none"));
}

#[tokio::test(flavor = "multi_thread")]
async fn only_topics_that_routing_can_create_are_listed() {
    let cluster = start_cluster();
    cluster.create("other.topic", 2);
    cluster.create("not-routed", 1);
    write(&cluster.brokers(), "other.topic", &[ROUTABLE, ROUTABLE]);
    let all = stdout_of(&cluster.brokers(), 0, &["topics", "list"]).await;
    let line = |topic: &str| -> Vec<&str> {
        let line = all.lines().find(|line| line.starts_with(topic));
        line.unwrap_or_else(|| panic!("no {topic} in:\n{all}"))
            .split_whitespace()
            .collect()
    };
    assert_eq!(line("other.topic"), ["other.topic", "2", "1", "2"]);
    assert_eq!(line(KAFKA_TOPIC), [KAFKA_TOPIC, "1", "1", "0"]);
    assert_eq!(line("iot.dead-letter")[4..], ["(dead", "letters)"]);
    assert!(!all.contains("not-routed"), "{all}");
    let arguments = ["topics", "list", "--tenant", "other", "--json"];
    let of_one = stdout_of(&cluster.brokers(), 0, &arguments).await;
    let rows: Vec<serde_json::Value> = of_one
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let topics: Vec<_> = rows
        .iter()
        .map(|row| row["topic"].as_str().unwrap())
        .collect();
    assert_eq!(topics, ["iot.dead-letter", "other.topic"]);
    assert_eq!(
        (&rows[1]["project"], &rows[1]["records"]),
        (&"topic".into(), &2.into())
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn preflight_does_not_disturb_a_bridge_and_leaves_no_session() {
    let (broker, cluster) = (Broker::start().await, start_cluster());
    let mqtt = format!("mqtt.brokers=mqtt://{}", broker.address());
    let arguments = ["preflight", "--set", &mqtt, "--set", "topics.create=false"];
    let brokers = cluster.brokers();
    let (printed, ()) = tokio::join!(stdout_of(&brokers, 0, &arguments), async {
        let mut peer = broker.accept(false).await;
        let connect = peer.connect.clone().unwrap();
        assert_eq!(connect.client_id, "iot-bridge-preflight");
        let Packet::Disconnect(disconnect) = peer.next().await else {
            panic!("expected DISCONNECT");
        };
        let expiry = disconnect.properties.unwrap().session_expiry_interval;
        assert_eq!(expiry, Some(0), "the session must end");
    });
    assert!(printed.contains("problems: 0"), "{printed}");
}

#[tokio::test(flavor = "multi_thread")]
async fn preflight_fails_when_no_broker_answers() {
    let nobody = free_address();
    let mqtt = format!("mqtt.brokers=mqtt://{nobody}");
    let printed = stdout_of(&nobody.to_string(), 1, &["preflight", "--set", &mqtt]).await;
    for line in [
        "PROBLEM  mqtt: brokers",
        "PROBLEM  kafka: brokers",
        "problems: 2",
    ] {
        assert!(printed.contains(line), "{line} is not in:\n{printed}");
    }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the stack"]
async fn preflight_passes_on_the_stack_and_reports_impossible_settings() {
    let dead_letter = format!("dead_letter.topic=iot.dead-letter-{}", unique("preflight"));
    let mqtt = format!("mqtt.brokers={}", mqtt_url());
    let preflight = async |code: i32, more: &[&str]| {
        let mut arguments = vec!["preflight", "--json", "--set", &mqtt, "--set", &dead_letter];
        arguments.extend(more);
        let printed = stdout_of(&kafka_brokers(), code, &arguments).await;
        let checks = printed
            .lines()
            .map(|line| serde_json::from_str(line).unwrap());
        checks.collect::<Vec<serde_json::Value>>()
    };
    let status = |checks: &[serde_json::Value], name: &str| {
        let check = checks.iter().find(|check| check["name"] == name);
        let check = check.unwrap_or_else(|| panic!("no {name} in {checks:#?}"));
        check["status"].as_str().unwrap().to_string()
    };
    let checks = preflight(0, &[]).await;
    for name in [
        "mqtt: brokers",
        "mqtt: session",
        "kafka: brokers",
        "kafka: creating topics",
        "kafka: largest message",
        "kafka: acks=all",
        "kafka: dead-letter topic",
    ] {
        assert_eq!(status(&checks, name), "ok", "{checks:#?}");
    }
    let checks = preflight(1, &["--set", "topics.replication=9"]).await;
    assert_eq!(status(&checks, "kafka: creating topics"), "problem");
    let checks = preflight(1, &["--set", "topics.configs.no.such=1"]).await;
    assert_eq!(status(&checks, "kafka: creating topics"), "problem");
    let checks = preflight(0, &["--set", "kafka.max_message_bytes=8MiB"]).await;
    assert_eq!(status(&checks, "kafka: largest message"), "warning");
    let listed = stdout_of(&kafka_brokers(), 0, &["topics", "list", "--json"]).await;
    assert!(
        !listed.contains("iot-bridge-preflight"),
        "it made a topic: {listed}"
    );
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the stack"]
async fn topics_are_created_once_and_differences_are_reported() {
    let tenant = unique("ahead");
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("topics.yaml");
    let write = |text: &str| std::fs::write(&file, text.replace("TENANT", &tenant)).unwrap();
    write(
        "defaults: {replication: 1, configs: {retention.ms: 3600000}}\n\
         topics: [{tenant: TENANT, project: p, partitions: 3}, {name: TENANT.q, partitions: 1}]\n",
    );
    let create = async |code: i32, more: &[&str]| {
        let mut arguments = vec!["topics", "create", "--file", file.to_str().unwrap()];
        arguments.extend(more);
        let printed = stdout_of(&kafka_brokers(), code, &arguments).await;
        printed.replace(&tenant, "TENANT")
    };
    let both = |state: &str| format!("TENANT.p: {state}\nTENANT.q: {state}\n");
    assert_eq!(create(0, &["--dry-run"]).await, both("would be created"));
    assert_eq!(
        create(0, &[]).await,
        both("created"),
        "the dry run made none"
    );
    assert_eq!(create(0, &[]).await, both("exists"));
    let listed = stdout_of(
        &kafka_brokers(),
        0,
        &["topics", "list", "--tenant", &tenant],
    )
    .await;
    let listed = listed.replace(&tenant, "TENANT");
    let row = listed
        .lines()
        .find(|line| line.starts_with("TENANT.p"))
        .unwrap();
    assert_eq!(
        row.split_whitespace().collect::<Vec<_>>(),
        ["TENANT.p", "3", "1", "0"]
    );

    write(
        "topics:\n- {name: TENANT.p, partitions: 4, configs: {retention.ms: -1}}\n\
         - {name: TENANT_q}\n- {name: TENANT.r, replication: 9}\n\
         - {name: TENANT.s, configs: {no.such: 1}}\n",
    );
    let printed = create(1, &[]).await;
    let lines: Vec<_> = printed.lines().collect();
    assert_eq!(
        lines[0],
        "TENANT.p: exists but differs: partitions asked 4, there 3; retention.ms asked -1, there 3600000"
    );
    assert_eq!(
        lines[1],
        "TENANT_q: refused: TENANT.q exists, and Kafka does not tell . and _ apart"
    );
    assert!(
        lines[2].contains("must not be above the number of brokers"),
        "{printed}"
    );
    assert!(lines[3].contains("is not one of Kafka's"), "{printed}");
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the stack"]
async fn dead_letters_of_a_bridge_are_replayed_with_other_routing_rules() {
    let (broker, tenant) = (Broker::start().await, unique("replay"));
    let dead_letters = format!("iot.dead-letter-{tenant}");
    create_topic(&kafka_brokers(), &dead_letters, 1).await;
    let bridge = Bridge::start(broker.address(), &kafka_brokers(), |config| {
        config.dead_letter.topic = dead_letters.clone();
    })
    .await;
    let mut peer = broker.accept_subscribed(false).await;
    // Too short for the rules of this bridge.
    for id in 1..=20u16 {
        peer.publish(id, &format!("plant/{tenant}"), id.to_string().as_bytes())
            .await;
    }
    assert_eq!(
        peer.acknowledgements(20).await,
        (1..=20).collect::<Vec<_>>()
    );
    bridge.stop().await;

    let setting = format!("dead_letter.topic={dead_letters}");
    let run = async |more: &[&str]| {
        let mut arguments = vec!["dead-letters"];
        arguments.extend(more);
        arguments.extend([
            "--set",
            &setting,
            "--reason",
            "too_few_parts",
            "--from",
            "1h ago",
        ]);
        stdout_of(&kafka_brokers(), 0, &arguments).await
    };
    assert_eq!(run(&["list"]).await.lines().count(), 20);
    assert_eq!(figure(&run(&["replay"]).await, "too_few_parts:"), "20");
    let rules = [
        "replay",
        "--set",
        "route.tenant_part=1",
        "--set",
        "route.project_part=0",
    ];
    let printed = run(&rules).await;
    assert_eq!(figure(&printed, "replayed:"), "20", "{printed}");
    assert_eq!(figure(&printed, "failed:"), "0");
    let records = read(&kafka_brokers(), &format!("{tenant}.plant"), 20).await;
    let payloads: Vec<_> = records
        .iter()
        .map(|record| record.text().to_string())
        .collect();
    let expected: Vec<_> = (1..=20).map(|id| id.to_string()).collect();
    assert_eq!(payloads, expected);
    assert_eq!(records[0].key(), Some("plant"));
}
