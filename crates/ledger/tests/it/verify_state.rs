//! `verify-state` must pass on what the real consumer stored, and must be able to
//! fail: on every kind of damage to it.

use redis::cmd;
use serde_json::{Value, json};
use testkit::process::Run;
use testkit::stack::{kafka_brokers, unique};

use crate::support::{
    Redis, Service, Transaction, Way, create_topic, delete_before, produce, produce_at, run,
};

/// Where event time begins, milliseconds since the epoch, and the time of records.
pub(crate) const BEGIN: i64 = 1_767_225_600_000;

/// A topic, a consumer of it, and the Redis with its state.
pub(crate) struct Verified {
    pub(crate) way: Way,
    pub(crate) topic: String,
    pub(crate) redis: Redis,
    letters: String,
}

impl Verified {
    pub(crate) async fn new(test: &str, partitions: i32) -> Self {
        let topic = unique(test);
        create_topic(&topic, partitions).await;
        Self {
            way: Way::new(test),
            letters: format!("iot.{topic}"),
            redis: Redis::start().await,
            topic,
        }
    }

    /// With windows so short that a test has many that are sealed.
    pub(crate) async fn consumer(&self) -> Service {
        self.consumer_from(&[]).await
    }

    pub(crate) async fn consumer_from(&self, args: &[&str]) -> Service {
        let settings = [
            ("store.url", &*self.redis.url),
            ("dead_letter.topic", &self.letters),
            ("windows.sizes", "1s,5s,1m"),
            ("windows.allowed_lateness", "500ms"),
            ("windows.keep", "1440"),
            // These topics are for all consumers of this Kafka.
            ("outputs.alerts", ""),
            ("outputs.windows", ""),
            ("validate.max_future", "5m"),
        ];
        let mut consumer = self.way.consumer_from(args, &self.topic, &settings);
        consumer.ready().await;
        consumer
    }

    /// Verifies with the consumer's settings, unless `further` has others.
    pub(crate) async fn verify(&self, further: &[&str]) -> Run {
        let brokers = kafka_brokers();
        let mut arguments = [&["verify-state", "--json"], further].concat();
        for (option, value) in [
            ("--brokers", &*brokers),
            ("--topic", &self.topic),
            ("--dead-letter-topic", &self.letters),
            ("--redis", &self.redis.url),
            ("--size", "1s,5s,1m"),
            ("--lateness", "500ms"),
            ("--keep", "1440"),
        ] {
            if !further.contains(&option) {
                arguments.extend([option, value]);
            }
        }
        run(&arguments).await
    }

    /// Waits until everything is stored; it is exact then.
    pub(crate) async fn exact(&self) -> Value {
        let verified = self.verify(&["--wait", "60s"]).await;
        assert_eq!(verified.code, Some(0), "{verified:?}");
        verified.json()
    }

    /// It is not exact; gives the report.
    async fn wrong(&self) -> Value {
        let verified = self.verify(&[]).await;
        assert_eq!(verified.code, Some(1), "{verified:?}");
        verified.json()
    }

    /// Lets a consumer read all there is, and stops it.
    async fn consume(&self) -> Value {
        let mut consumer = self.consumer().await;
        let report = self.exact().await;
        assert_eq!(consumer.process.stop().await, Some(0));
        report
    }

    fn state_key(&self) -> String {
        format!("iot:{{{}:0}}:state", self.topic)
    }

    /// The stored offset plus `more`.
    fn move_offset(&self, more: i64) {
        let _: i64 = self
            .redis
            .ask(cmd("HINCRBY").arg(self.state_key()).arg("offset").arg(more));
    }
}

/// A message of device `d<number % 3>`, a tenth of a second after the one before.
fn message(number: i64) -> Vec<u8> {
    message_at(number, BEGIN + number * 100)
}

fn message_at(number: i64, timestamp: i64) -> Vec<u8> {
    let value = 20.0 + (number * 7_919 % 500) as f64 / 7.0;
    let mut message = json!({
        "device_id": format!("d{}", number % 3),
        "seq": number,
        "timestamp": timestamp,
        "readings": [
            {"sensor": "temperature", "value": value},
            {"sensor": "vibration", "value": -value, "unit": "mm/s", "quality": "uncertain"},
        ],
    });
    if number % 4 == 0 {
        message["location"] = json!({"building": "b", "floor": "f", "room": format!("r{number}")});
    }
    message.to_string().into_bytes()
}

/// Messages in order and late, twice, refused, without a number, of the old format.
fn mixed() -> Vec<Vec<u8>> {
    let mut records: Vec<_> = (0..90).map(message).collect();
    records.push(message(89));
    // Late: taken into an open window, then too late for any.
    records.push(message_at(200, BEGIN + 8_000));
    records.push(message_at(201, BEGIN));
    records.extend([&b"no message"[..], b"", b"{}"].map(<[u8]>::to_vec));
    let impossible = String::from_utf8(message(90)).unwrap();
    records.push(impossible.replace("vibration", "humidity").into_bytes());
    let seconds = BEGIN as f64 / 1_000.0 + 9.25;
    let flat = json!({"deviceId": "old", "timestamp": seconds, "temperature": 55.5});
    records.push(flat.to_string().into_bytes());
    // Of the same time; and late by as much as is allowed, and by a millisecond less.
    for (device, after, value, quality) in [
        ("tie", 100, 1.0, "good"),
        ("tie", 100, 2.0, "good"),
        ("tie", 99, 3.0, "uncertain"),
        ("edge", 0, 1.0, "good"),
        ("edge", 1_500, 2.0, "good"),
        ("edge", 999, 3.0, "good"),
        ("before", 0, 1.0, "good"),
        ("before", 1_499, 2.0, "good"),
        ("before", 999, 3.0, "good"),
        ("before", 1_499, 4.0, "bad"),
    ] {
        let reading = json!({"sensor": "s", "value": value, "quality": quality});
        let message =
            json!({"device_id": device, "timestamp": BEGIN + after, "readings": [reading]});
        records.push(message.to_string().into_bytes());
    }
    records
}

fn first(report: &Value) -> [&str; 3] {
    ["kind", "key", "field"].map(|name| report["findings"][0][name].as_str().unwrap_or(""))
}

#[tokio::test]
#[ignore = "needs the stack"]
async fn stored_state_is_exact_until_a_value_is_changed() {
    let verified = Verified::new("exact", 1).await;
    produce(&verified.topic, &mixed()).await;
    let report = verified.consume().await;
    for (name, count) in [
        ("records", 105),
        ("refused", 3),
        ("partial", 1),
        ("behind", 0),
        ("devices", 7),
        ("sensors", 10),
        ("values_compared", 18),
        ("not_comparable", 0),
    ] {
        assert_eq!(report[name], count, "{name}: {report}");
    }
    assert!(
        report["sealed_windows_compared"].as_u64().unwrap() > 40,
        "{report}"
    );
    assert!(report["open_windows_compared"].as_u64().unwrap() > 6);

    let (redis, key) = (&verified.redis, verified.state_key());
    for field in redis.fields(&key) {
        // What is about the partition is not compared.
        if !field.contains('\0') {
            continue;
        }
        let shown = field.replace('\0', "·");
        let good = redis.field(&key, &field).unwrap();
        let mut bad = good.clone();
        bad[8] ^= 1;
        redis.set_field(&key, &field, &bad);
        let report = verified.wrong().await;
        // The last byte of the first number.
        let first_number = if field == "p\0time" {
            "last offset"
        } else {
            "watermark"
        };
        assert_eq!(
            first(&report),
            ["difference", &shown, first_number],
            "{report}"
        );
        assert_eq!(report["differences"], 1, "{report}");
        redis.remove_field(&key, &field);
        let report = verified.wrong().await;
        assert_eq!(first(&report), ["missing", &shown, ""], "{report}");
        redis.set_field(&key, &field, &good);
    }
    let device = redis.field(&key, "d\0default\0default\0d1").unwrap();
    redis.set_field(&key, "d\0default\0default\0nobody", &device);
    let report = verified.wrong().await;
    assert_eq!(first(&report)[0], "extra", "{report}");
    redis.remove_field(&key, "d\0default\0default\0nobody");
    assert_eq!(verified.exact().await["records"], 105);

    let nothing: Run = verified.verify(&["--key-prefix", "other"]).await;
    assert_eq!(
        (nothing.code, &nothing.json()["missing"]),
        (Some(1), &json!(1))
    );
    let letters = verified.verify(&["--dead-letter-topic", "iot.none"]).await;
    assert_eq!(letters.code, Some(1));
    assert_eq!(letters.json()["unreadable"], 4, "{letters:?}");
    assert_eq!(verified.verify(&["--size", "2s"]).await.code, Some(1));
    assert_eq!(verified.verify(&["--lateness", "9s"]).await.code, Some(1));
    let _: () = redis.ask(&cmd("FLUSHALL"));
    let report = verified.wrong().await;
    assert_eq!(
        (first(&report)[0], &report["values_compared"]),
        ("missing", &json!(0))
    );
}

#[tokio::test]
#[ignore = "needs the stack"]
async fn formats_and_units_match_the_consumer() {
    let verified = Verified::new("formats", 1).await;
    // Device `p`, time 1,767,225,600,000, sensor `s` with the value 2.0.
    let protobuf = b"\x0a\x01p\x28\x80\xd0\xea\xb6\xb7\x33\x3a\x0c\x0a\x01s\x11\0\0\0\0\0\0\0\x40";
    let fahrenheit = json!({
        "device_id": "f",
        "timestamp": BEGIN,
        "readings": [{"sensor": "temperature", "value": 70, "unit": "degF"}],
    });
    // Not a temperature.
    let pascal = fahrenheit.to_string().replace("degF", "Pa");
    let records = [
        message(1),
        protobuf.to_vec(),
        fahrenheit.to_string().into_bytes(),
        pascal.into_bytes(),
    ];
    produce(&verified.topic, &records).await;
    let report = verified.consume().await;
    assert_eq!(
        (&report["records"], &report["refused"]),
        (&json!(3), &json!(1)),
        "{report}"
    );
}

#[tokio::test]
#[ignore = "needs the stack"]
async fn configured_sensors_need_their_units_as_arguments() {
    let verified = Verified::new("sensors", 1).await;
    let file = tempfile::NamedTempFile::new().unwrap();
    let sensors = "sensors:\n- {name: temperature, unit: fahrenheit, max: 140, above: 122}\n\
                   - {name: vibration, unit: mm/s, above: -30}\n";
    std::fs::write(file.path(), sensors).unwrap();
    let in_unit = |number, unit| {
        let message = String::from_utf8(message(number)).unwrap();
        let named = r#""sensor":"temperature""#;
        let message = message.replace(named, &format!(r#"{named},"unit":"{unit}""#));
        message.into_bytes()
    };
    // The second is too hot, converted (90 degC are 194), and the last no temperature.
    let others = [in_unit(30, "K"), in_unit(31, "degC"), in_unit(32, "bar")];
    let records = (0..30).map(message).chain(others);
    produce(&verified.topic, &records.collect::<Vec<_>>()).await;
    let config = file.path().to_str().unwrap();
    let mut consumer = verified.consumer_from(&["--config", config]).await;
    let units = [
        "--sensor",
        "temperature=fahrenheit",
        "--sensor",
        "vibration=mm/s",
    ];
    let exact = verified
        .verify(&[&["--wait", "60s"], &units[..]].concat())
        .await;
    assert_eq!(exact.code, Some(0), "{exact:?}");
    assert_eq!(exact.json()["partial"], 2, "{exact:?}");
    assert_eq!(consumer.process.stop().await, Some(0));
    let report = verified.wrong().await;
    let finding = first(&report);
    assert_eq!(
        (finding[0], finding[2]),
        ("difference", "temperature value"),
        "{report}"
    );
}

#[tokio::test]
#[ignore = "needs the stack"]
async fn a_missing_or_additional_record_is_found() {
    let verified = Verified::new("record", 1).await;
    let records: Vec<_> = (0..60).map(message).collect();
    produce(&verified.topic, &records).await;
    verified.consume().await;
    // The state has a record that is not below its offset, or lacks one that is.
    verified.move_offset(-1);
    assert!(verified.wrong().await["differences"].as_u64().unwrap() > 0);
    verified.move_offset(1);
    produce(&verified.topic, &[message(60)]).await;
    verified.move_offset(1);
    assert!(verified.wrong().await["differences"].as_u64().unwrap() > 0);
    // Whatever comes after does not hide it: a window has one value less.
    let later: Vec<_> = (61..70).map(message).collect();
    produce(&verified.topic, &later).await;
    let mut consumer = verified.consumer().await;
    let report = verified.verify(&["--wait", "60s"]).await;
    assert_eq!(report.code, Some(1), "{report:?}");
    let report = report.json();
    assert_eq!(report["behind"], 0, "{report}");
    let mut findings = report["findings"].as_array().unwrap().iter();
    assert!(first(&report)[1].contains("d0"), "{report}");
    assert!(findings.any(|finding| finding["field"].as_str().unwrap().contains("count")));
    assert_eq!(consumer.process.stop().await, Some(0));
    // Not applied at all yet: there is nothing to compare, and that is no success.
    let key = verified.state_key();
    for field in verified.redis.fields(&key) {
        if field.contains('\0') {
            verified.redis.remove_field(&key, &field);
        }
    }
    verified.move_offset(-70);
    let report = verified.wrong().await;
    assert_eq!(
        (&report["records"], &report["behind"], &report["findings"]),
        (&json!(0), &json!(70), &json!([]))
    );
}

#[tokio::test]
#[ignore = "needs the stack"]
async fn records_of_aborted_transactions_do_not_count() {
    let verified = Verified::new("aborted", 1).await;
    let batch = |from: i64| (from..from + 10).map(message).collect::<Vec<_>>();
    let (committed, aborted) = (Transaction::Committed, Transaction::Aborted);
    committed.write(&verified.topic, &batch(0)).await;
    aborted.write(&verified.topic, &batch(100)).await;
    produce(&verified.topic, &batch(10)).await;
    aborted.write(&verified.topic, &batch(200)).await;
    let report = verified.consume().await;
    assert_eq!(
        (&report["records"], &report["values_compared"]),
        (&json!(20), &json!(10))
    );
    assert_eq!(report["transactional"], 1, "{report}");
}

#[tokio::test]
#[ignore = "needs the stack"]
async fn the_kept_part_of_a_truncated_log_is_compared() {
    let verified = Verified::new("cut", 1).await;
    let (topic, hour) = (&verified.topic, 3_600_000);
    for number in 0..40 {
        produce_at(topic, BEGIN, &message(number)).await;
    }
    // One device sends no more.
    for number in (40..80).filter(|number| number % 3 != 0) {
        let late = BEGIN + hour + number * 100;
        produce_at(topic, late, &message_at(number, late)).await;
    }
    let whole = verified.consume().await;
    assert_eq!(
        (&whole["devices"], &whole["not_comparable"]),
        (&json!(3), &json!(0))
    );
    delete_before(topic, 38).await;
    let report = verified.exact().await;
    assert_eq!(report["devices"], 3, "{report}");
    assert!(report["not_comparable"].as_u64().unwrap() > 0, "{report}");
    delete_before(topic, 40).await;
    let report = verified.exact().await;
    assert_eq!(report["devices"], 2, "{report}");
    assert_eq!(report["values_compared"], 7, "{report}");
    let key = verified.state_key();
    let field = "d\0default\0default\0d1";
    let mut value = verified.redis.field(&key, field).unwrap();
    let name = b"vibration";
    let name_at = value.windows(name.len()).position(|bytes| bytes == name);
    value[name_at.unwrap() + name.len()] ^= 1;
    verified.redis.set_field(&key, field, &value);
    let report = verified.wrong().await;
    assert_eq!(first(&report)[2], "vibration value", "{report}");
    delete_before(topic, 67).await;
    assert_eq!(
        verified.wrong().await["values_compared"],
        0,
        "nothing is left to compare"
    );
}

#[tokio::test]
#[ignore = "needs the stack"]
async fn clocks_that_are_ahead_and_devices_that_are_gone_match_the_consumer() {
    let verified = Verified::new("clocks", 1).await;
    let topic = &verified.topic;
    for number in 0..60 {
        let at = BEGIN + number * 100;
        // Device d1 is ahead once, a record is from the future, and d2 stops after 2 s.
        let device_time = if number == 13 { at + 290_000 } else { at };
        let recorded = if number == 30 { BEGIN + 1_800_000 } else { at };
        if number < 20 || number % 3 != 2 {
            produce_at(topic, recorded, &message_at(number, device_time)).await;
        }
    }
    let retention = "--set retention.devices=3s --set detect.silence.after=1s";
    let settings: Vec<&str> = retention.split(' ').collect();
    let mut consumer = verified.consumer_from(&settings).await;
    let exact = verified
        .verify(&["--wait", "60s", "--retention", "3s"])
        .await;
    assert_eq!(exact.code, Some(0), "{exact:?}");
    assert_eq!(exact.json()["devices"], 2, "{exact:?}");
    assert_eq!(consumer.process.stop().await, Some(0));
    let key = verified.state_key();
    let fields = verified.redis.fields(&key);
    assert!(
        !fields.iter().any(|field| field.ends_with("d2")),
        "{fields:?}"
    );
    // With another retention the removed device is missing.
    let report = verified.wrong().await;
    let gone = ["missing", "d·default·default·d2", ""];
    assert_eq!(first(&report), gone, "{report}");
    // One that should have been removed is found.
    let check = ["--retention", "3s"];
    let device = verified
        .redis
        .field(&key, "d\0default\0default\0d1")
        .unwrap();
    verified
        .redis
        .set_field(&key, "d\0default\0default\0d2", &device);
    let extra = verified.verify(&check).await;
    assert_eq!((extra.code, first(&extra.json())[0]), (Some(1), "extra"));
    verified.redis.remove_field(&key, "d\0default\0default\0d2");
    // Format, watermark, time, flag and number of the newest message; whether it was ahead.
    let mut ahead = device.clone();
    ahead[1 + 8 + 8 + 1 + 8] ^= 1;
    verified
        .redis
        .set_field(&key, "d\0default\0default\0d1", &ahead);
    let wrong = verified.verify(&check).await;
    assert_eq!(wrong.code, Some(1), "{wrong:?}");
    assert_eq!(first(&wrong.json())[2], "ahead", "{wrong:?}");
    // An empty value is that of a device whose removal was not finished.
    verified
        .redis
        .set_field(&key, "d\0default\0default\0d1", &device);
    verified
        .redis
        .set_field(&key, "d\0default\0default\0d2", b"");
    assert_eq!(verified.verify(&check).await.code, Some(0));
}

#[tokio::test]
#[ignore = "needs the stack"]
async fn invalid_arguments_exit_with_2_and_unreachable_servers_with_1() {
    for arguments in [
        &["--redis", "memory://"][..],
        &["--redis", "redis-cluster://a:1,b:2"],
        &["--size", "soon"],
        &["--size", "0s"],
        &["--size", "1m,soon"],
        &["--username", "me"],
    ] {
        let refused = run(&[&["verify-state"], arguments].concat()).await;
        assert_eq!(refused.code, Some(2), "{refused:?}");
    }
    let brokers = kafka_brokers();
    let nowhere = [
        "verify-state",
        "--brokers",
        &brokers,
        "--redis",
        "redis://127.0.0.1:1",
    ];
    let nowhere = run(&nowhere).await;
    assert_eq!(nowhere.code, Some(1));
    assert!(
        nowhere.stderr.contains("connecting to Redis"),
        "{nowhere:?}"
    );
    let redis = Redis::start().await;
    let topic = unique("state-none");
    let known = ["verify-state", "--brokers", &brokers, "--redis", &redis.url];
    let unknown = run(&[&known[..], &["--topic", &topic]].concat()).await;
    assert_eq!(unknown.code, Some(1));
    assert!(unknown.stderr.contains("there is no topic"), "{unknown:?}");
    create_topic(&topic, 1).await;
    let empty = run(&[&known[..], &["--topic", &topic]].concat()).await;
    assert_eq!(empty.code, Some(1), "nothing to compare is no success");
    assert!(empty.stdout.contains("nothing was compared"), "{empty:?}");
}
