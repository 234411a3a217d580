//! The command against a mock Kafka and scripted replicas: it passes if they show what the log
//! has, and fails on each kind of fault.

mod replica;

use std::collections::BTreeMap;
use std::ffi::OsString;

use clap::Parser;
use rdkafka::producer::FutureRecord;
use serde_json::{Value, json};
use testkit::kafka::{MockKafka, producer, send};

use super::{Args, Report, Settings, verify};
use replica::{Script, serve};

const BEGIN: i64 = 1_767_225_600_000;
const TOPIC: &str = "device-data";

#[derive(Debug, clap::Parser)]
struct Line {
    #[command(flatten)]
    args: Args,
}

/// The report for a command line.
async fn verified(
    line: impl IntoIterator<Item = impl Into<OsString> + Clone>,
) -> anyhow::Result<Report> {
    let args = Line::parse_from(line).args;
    let settings = Settings::new(&args.rules).map_err(anyhow::Error::msg)?;
    verify(&args, &settings).await
}

/// Number, device and value of the messages of the log. The first three are in the first
/// snapshot, and the others are pushed.
const LOG: [(i64, &str, f64); 9] = [
    (0, "a", 20.0),
    (1, "b", 21.5),
    (2, "a", 20.1),
    (3, "b", 21.6),
    (4, "a", 20.2),
    (5, "c", -0.25),
    (6, "a", 20.3),
    (7, "c", -0.5),
    (8, "b", 21.7),
];
const SHOWN: usize = 3;

/// A device as it is after a message.
fn device((number, device, value): (i64, &str, f64)) -> Value {
    let timestamp = BEGIN + number * 1_000;
    json!({
        "tenant": "default", "project": "default", "device": device,
        "location": null, "seq": number, "timestamp": timestamp,
        "readings": {"temperature": {
            "value": value, "unit": "celsius", "quality": "good", "timestamp": timestamp,
        }},
    })
}

fn snapshot(log: &[(i64, &str, f64)]) -> Value {
    let newest: BTreeMap<_, _> = log.iter().map(|entry| (entry.1, device(*entry))).collect();
    json!({"devices": newest.into_values().collect::<Vec<_>>()})
}

/// What is pushed after a message.
fn pushed(entry: (i64, &str, f64)) -> Value {
    let mut device = device(entry);
    device["partition"] = json!(format!("{TOPIC}:0"));
    device["offset"] = json!(entry.0);
    json!({"devices": [device]})
}

/// A replica that shows what the log has.
fn honest() -> Script {
    Script {
        first: snapshot(&LOG[..SHOWN]),
        pushed: LOG[SHOWN..].iter().copied().map(pushed).collect(),
        last: snapshot(&LOG),
        alerts: json!([{"id": "x", "state": "raised", "count": 3}]),
        ..Script::default()
    }
}

/// The report of two replicas.
async fn check(scripts: [Script; 2], further: &[&str]) -> Report {
    let kafka = MockKafka::start(&[TOPIC, "iot.dead-letter"]);
    let producer = producer(&kafka.brokers());
    for (number, device, value) in LOG {
        let timestamp = BEGIN + number * 1_000;
        let reading = json!({"sensor": "temperature", "value": value});
        let message = json!({"device_id": device, "seq": number, "timestamp": timestamp,
            "readings": [reading]});
        let message = message.to_string();
        send(
            &producer,
            FutureRecord::<(), str>::to(TOPIC).payload(&message),
        )
        .await;
    }
    let mut line = vec![
        "verify-push".to_owned(),
        "--brokers".into(),
        kafka.brokers(),
    ];
    for script in scripts {
        line.extend(["--url".into(), format!("ws://{}/ws", serve(script).await)]);
    }
    line.extend(["--records".into(), "1".into()]);
    line.extend(further.iter().map(|text| (*text).to_owned()));
    let report = verified(line).await.unwrap();
    drop(kafka);
    report
}

/// The report of a replica that shows what the log has, and of one that does not.
async fn wrong(change: impl FnOnce(&mut Script)) -> Report {
    let mut other = honest();
    change(&mut other);
    let report = check([honest(), other], &[]).await;
    assert!(!report.is_exact(), "{report:?}");
    report
}

#[tokio::test(flavor = "multi_thread")]
async fn replicas_that_show_what_the_log_has_pass() {
    let report = check([honest(), honest()], &[]).await;
    assert!(report.is_exact(), "{report:?}");
    let pushed = LOG.len() - SHOWN;
    assert_eq!((report.records, report.clients), (9, 4), "{report:?}");
    assert_eq!(report.received, 2 * pushed as u64, "{report:?}");
    assert_eq!(report.expected, report.received);
    // A first snapshot with 2 devices and a last one with 3 at each replica, and what all four
    // clients show in the end; of each device itself and a sensor.
    assert_eq!(
        report.values_compared,
        2 * (2 * (2 + 3) + 4 * 3),
        "{report:?}"
    );
    assert_eq!((report.alerts_compared, report.gaps), (3, 0), "{report:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn paged_snapshots_are_read() {
    let paged = || Script {
        pages: true,
        ..honest()
    };
    let report = check([paged(), paged()], &[]).await;
    assert!(report.is_exact(), "{report:?}");
    let report = wrong(|script| {
        script.pages = true;
        script.first["devices"].as_array_mut().unwrap().pop();
    })
    .await;
    assert_eq!(report.differences, 2, "{report:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dropped_change_is_found() {
    let report = wrong(|script| drop(script.pushed.remove(2))).await;
    assert_eq!((report.missing, report.wrong), (1, 0), "{report:?}");
    let finding = &report.findings[0];
    assert_eq!(finding.at, "device-data:0@5");
    assert!(
        finding.expected.contains("default/default/c"),
        "{finding:?}"
    );
    assert!(finding.client.starts_with("client 2"), "{finding:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn swapped_changes_of_a_device_are_found() {
    // Offsets 4 and 6, both of device a.
    let report = wrong(|script| script.pushed.swap(1, 3)).await;
    assert_eq!((report.out_of_order, report.missing), (1, 0), "{report:?}");
    assert_eq!(report.findings[0].at, "device-data:0@4");
    // And it shows what is older.
    assert!(report.differences > 0, "{report:?}");
    // Of two devices there is no order.
    let mut other = honest();
    other.pushed.swap(1, 2);
    let report = check([honest(), other], &[]).await;
    assert!(report.is_exact(), "{report:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_change_is_found_whatever_is_wrong() {
    for (field, value) in [
        ("/readings/temperature/value", json!(20.200_000_000_000_003)),
        ("/readings/temperature/unit", json!("kelvin")),
        ("/readings/temperature/quality", json!("bad")),
        ("/readings/temperature/timestamp", json!(BEGIN)),
        ("/readings/temperature", json!(null)),
        ("/device", json!("b")),
        ("/seq", json!(null)),
        ("/timestamp", json!(BEGIN + 4_001)),
        (
            "/location",
            json!({"building": "b", "floor": "", "room": ""}),
        ),
    ] {
        let report = wrong(|script| {
            let device = &mut script.pushed[1]["devices"][0];
            if value.is_null() && field.ends_with("temperature") {
                device["readings"] = json!({});
            } else {
                *device.pointer_mut(field).unwrap() = value.clone();
            }
        })
        .await;
        assert_eq!(report.wrong, 1, "{field}: {report:?}");
        assert_eq!(report.findings[0].at, "device-data:0@4", "{field}");
    }
    // Another offset: one change is missing, and one is not in the log.
    let report = wrong(|script| script.pushed[5]["devices"][0]["offset"] = json!(99)).await;
    assert_eq!((report.missing, report.invented), (1, 1), "{report:?}");
    let at = json!("other:0");
    let report = wrong(|script| script.pushed[1]["devices"][0]["partition"] = at).await;
    assert_eq!((report.missing, report.invented), (1, 1), "{report:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_invented_change_is_found() {
    let report = wrong(|script| script.pushed.push(pushed((9, "nobody", 1.0)))).await;
    assert_eq!((report.invented, report.missing), (1, 0), "{report:?}");
    assert_eq!(report.findings[0].at, "device-data:0@9");
}

#[tokio::test(flavor = "multi_thread")]
async fn views_that_differ_are_found() {
    // What the last client of the second replica is shown.
    let older = snapshot(&LOG[..8]);
    let report = check(
        [
            honest(),
            Script {
                last: older,
                ..honest()
            },
        ],
        &["--patience", "10s"],
    )
    .await;
    assert!(!report.is_exact(), "{report:?}");
    assert_eq!(report.missing + report.wrong, 0, "{report:?}");
    let finding = &report.findings[0];
    assert!(finding.client.starts_with("last client"), "{finding:?}");
    assert!(finding.at.contains("default/default/b"), "{finding:?}");
    let report = wrong(|script| {
        let more = device((8, "more", 1.0));
        script.last["devices"].as_array_mut().unwrap().push(more);
    })
    .await;
    assert!(report.findings[0].expected == "none", "{report:?}");
    // A snapshot that lacks what was pushed before it was taken.
    let report = wrong(|script| script.first = snapshot(&LOG[..2])).await;
    assert_eq!(report.differences, 2, "{report:?}");
    assert!(
        report.findings[0].at.contains("first snapshot"),
        "{report:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn alerts_that_differ_between_replicas_are_found() {
    let cleared = Script {
        alerts: json!([{"id": "x", "state": "cleared", "count": 3}]),
        ..honest()
    };
    let report = check([honest(), cleared], &["--patience", "10s"]).await;
    assert!(!report.is_exact(), "{report:?}");
    assert_eq!(
        (report.differences, &*report.findings[0].at),
        (2, "alert x"),
        "{report:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_with_filters_see_what_these_take() {
    // Each client is shown the devices of its filter.
    let of = |device: &'static str| {
        let log: Vec<_> = LOG.into_iter().filter(|entry| entry.1 == device).collect();
        let shown = LOG[..SHOWN]
            .iter()
            .filter(|entry| entry.1 == device)
            .count();
        Script {
            first: snapshot(&log[..shown]),
            pushed: log[shown..].iter().copied().map(pushed).collect(),
            alerts: json!([]),
            ..honest()
        }
    };
    let filter = ["--filter", "device=b", "--clients", "2"];
    let report = check([of("b"), of("b")], &filter).await;
    assert!(report.is_exact(), "{report:?}");
    assert_eq!((report.clients, report.received), (4, 2 * 2), "{report:?}");
    let mut less = of("b");
    less.pushed.remove(0);
    let report = check([of("b"), less], &filter).await;
    // It came before the next change, so the snapshot had to have it.
    assert_eq!(report.differences, 2, "{report:?}");
    // What the filter does not take.
    let mut more = of("b");
    more.pushed.insert(0, pushed(LOG[4]));
    let report = check([of("b"), more], &filter).await;
    assert_eq!(report.invented, 1, "{report:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn missed_changes_are_recovered_at_another_replica() {
    let cut = Script {
        cut: Some(3),
        ..honest()
    };
    let report = check([cut.clone(), honest()], &[]).await;
    assert!(report.is_exact(), "{report:?}");
    assert_eq!((report.recovered, report.gaps), (1, 0), "{report:?}");
    assert!(report.broken > 0 && report.copies > 0, "{report:?}");
    // The other replica lacks a change that the first one has not sent either.
    let mut other = honest();
    other.pushed[4]["devices"] = json!([]);
    let report = check([cut, other], &[]).await;
    assert_eq!(report.missing, 2, "one for each client: {report:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_snapshot_after_a_reconnect_is_a_gap_unless_it_is_allowed() {
    let cut = Script {
        cut: Some(3),
        ..honest()
    };
    let forgets = Script {
        forgets: true,
        ..honest()
    };
    let report = check([cut.clone(), forgets.clone()], &[]).await;
    assert!(!report.is_exact() && report.gaps == 1, "{report:?}");
    assert_eq!(
        report.missing + report.wrong + report.differences,
        0,
        "{report:?}"
    );
    let report = check([cut, forgets], &["--allow-snapshots"]).await;
    assert!(report.is_exact() && report.gaps == 1, "{report:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn positions_that_do_not_rise_are_found() {
    let report = wrong(|script| script.stands_still = true).await;
    assert_eq!(report.violations, 6, "{report:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replica_that_is_away_at_the_end_is_an_error() {
    let kafka = MockKafka::start(&[TOPIC]);
    let (brokers, replica) = (kafka.brokers(), serve(honest()).await);
    let url = format!("ws://{replica}/ws");
    let away = "ws://127.0.0.1:1/ws";
    let line = [
        "x",
        "--brokers",
        &brokers,
        "--patience",
        "3s",
        "--url",
        away,
    ];
    let error = verified(line).await.unwrap_err();
    assert!(
        error.to_string().contains("no snapshot in time"),
        "{error:#}"
    );
    // Its client goes to the other one, and nobody can say what it would show.
    let line = [&line[..], &["--url", &url, "--duration", "1ms"]].concat();
    let report = verified(line).await.unwrap();
    assert!(!report.is_exact() && report.unreachable == 1, "{report:?}");
    drop(kafka);
}

#[test]
fn invalid_addresses_are_refused_with_the_reason() {
    for (url, reason) in [
        ("wss://a/ws", "TLS is not supported"),
        ("http://a/ws", "must start with ws://"),
        ("ws://a", "must be ws://HOST:PORT/ws"),
        ("ws:///ws", "must be ws://HOST:PORT/ws"),
    ] {
        let error = Line::try_parse_from(["x", "--url", url]).unwrap_err();
        assert!(error.to_string().contains(reason), "{url}: {error}");
    }
    assert!(Line::try_parse_from(["x"]).is_err());
}
