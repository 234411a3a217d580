//! Messages of which only some readings are valid: the valid ones arrive, and one dead letter
//! lists the others.

use iot_core::dead_letter;
use iot_core::message::{Quality, ReadingTemplate, Template};
use rdkafka::message::{Header, OwnedHeaders};
use serde_json::{Value, json};
use testkit::kafka::{Record, producer, send};
use testkit::wait_for;

use crate::service::{Kafka, Service, config, message, now, record};

/// A message of device `d` with these readings.
fn with(readings: &str) -> String {
    let time = now();
    format!(r#"{{"device_id":"d","timestamp":{time},"readings":[{readings}]}}"#)
}

/// Position, sensor and reason of each refused reading.
fn listed(letter: &Record) -> Vec<(usize, String, String)> {
    let list = letter.header("dlq-partial").expect("a partial dead letter");
    let list = dead_letter::read_partial(list.as_bytes())
        .unwrap()
        .into_iter();
    let list = list.map(|r| {
        let sensor = r.sensor.unwrap_or_default().into_owned();
        (r.reading, sensor, r.reason.into_owned())
    });
    list.collect()
}

fn expected(list: &[(usize, &str, &str)]) -> Vec<(usize, String, String)> {
    let list = list.iter();
    let list = list.map(|(at, sensor, reason)| (*at, (*sensor).into(), (*reason).into()));
    list.collect()
}

async fn reading(service: &Service, path: &str, sensor: &str) -> Option<f64> {
    let (_, device) = service.get(&format!("/api/v1/devices/{path}")).await;
    device["readings"][sensor]["value"].as_f64()
}

const MIXED: &str = r#"{"sensor":"temperature","value":21.5,"unit":"℃"},
    {"sensor":"humidity","value":null},
    {"sensor":"pressure","value":NaN},
    {"sensor":"current","value":1,"unit":""},
    {"sensor":"a,b","value":"7"},
    {"value":1},
    {"sensor":"switch","value":5},
    {"sensor":"vibration","value":3}"#;

async fn counted(service: &Service, name: &str, reason: &str) -> Option<f64> {
    let name = format!("{name}{{reason=\"{reason}\"}}");
    service.metric(&name).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn good_readings_arrive_and_one_dead_letter_lists_the_others() {
    let kafka = Kafka::new(&["device-data"]);
    let mixed = with(MIXED);
    kafka.send("device-data", &mixed).await;
    let service = Service::start(config(&kafka.brokers())).await;
    service.wait_consumed(1).await;
    let letters = kafka.read("iot.dead-letter", 1).await;
    assert_eq!(letters.len(), 1);
    let refused = [
        (1, "humidity", "not_a_number"),
        (2, "pressure", "not_a_number"),
        (3, "current", "unexpected_unit"),
        (4, "a,b", "not_a_number"),
        (5, "", "missing_sensor"),
        (6, "switch", "impossible_value"),
    ];
    assert_eq!(listed(&letters[0]), expected(&refused));
    for (name, value) in [
        ("dlq-reason", "not_a_number"),
        (
            "dlq-detail",
            "readings[1]: value must be a number, not null",
        ),
        ("dlq-sensor", "humidity"),
        ("dlq-topic", "device-data"),
        ("dlq-offset", "0"),
    ] {
        assert_eq!(letters[0].header(name), Some(value), "{name}");
    }
    assert_eq!(letters[0].text(), mixed);
    for (sensor, value) in [
        ("temperature", Some(21.5)),
        ("vibration", Some(3.0)),
        ("humidity", None),
        ("pressure", None),
        ("current", None),
        ("a,b", None),
        ("switch", None),
    ] {
        let found = reading(&service, "default/default/d", sensor).await;
        assert_eq!(found, value, "{sensor}");
    }
    let readings = "iot_readings_refused_total";
    for (reason, count) in [
        ("not_a_number", 3.0),
        ("unexpected_unit", 1.0),
        ("missing_sensor", 1.0),
        ("impossible_value", 1.0),
        ("too_many_sensors", 0.0),
    ] {
        assert_eq!(counted(&service, readings, reason).await, Some(count));
        // The message is not refused.
        let messages = "kafka_consumer_processing_errors_total";
        assert_eq!(counted(&service, messages, reason).await, Some(0.0));
    }
    service.wait_metric("iot_dead_letters_total", 1.0).await;
    service
        .wait_metric("iot_dead_letters_partial_total", 1.0)
        .await;
    service.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn with_refuse_one_bad_reading_refuses_its_message() {
    let kafka = Kafka::new(&["device-data"]);
    let mut settings = serde_json::to_value(config(&kafka.brokers())).unwrap();
    settings["validate"]["partial"] = json!("refuse");
    settings["limits"]["sensors"] = json!(2);
    let settings = serde_json::from_value(settings).unwrap();
    let good = r#"{"sensor":"vibration","value":3}"#;
    let whole = [
        ("not_json", with(MIXED)),
        (
            "not_a_number",
            with(&format!(r#"{good},{{"sensor":"s","value":null}}"#)),
        ),
        (
            "impossible_value",
            with(&format!(r#"{good},{{"sensor":"switch","value":5}}"#)),
        ),
        (
            "too_many_sensors",
            with(&format!(
                r#"{good},{{"sensor":"a","value":5}},{{"sensor":"b","value":5}}"#
            )),
        ),
    ];
    for (_, payload) in &whole {
        kafka.send("device-data", payload).await;
    }
    let service = Service::start(settings).await;
    service.wait_consumed(whole.len() as u64).await;
    let letters = kafka.read("iot.dead-letter", whole.len()).await;
    for (letter, (reason, payload)) in letters.iter().zip(&whole) {
        assert_eq!(letter.header("dlq-reason"), Some(*reason));
        assert_eq!(letter.header("dlq-partial"), None);
        assert_eq!(letter.text(), payload);
        let messages = "kafka_consumer_processing_errors_total";
        assert_eq!(counted(&service, messages, reason).await, Some(1.0));
        let readings = "iot_readings_refused_total";
        let readings = counted(&service, readings, reason).await;
        assert_eq!(readings.unwrap_or_default(), 0.0);
    }
    let (_, devices) = service.get("/api/v1/devices").await;
    assert_eq!(devices["total"], 0);
    service.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sensors_beyond_the_limit_are_refused_alone() {
    let kafka = Kafka::new(&["device-data"]);
    let many = |names: std::ops::Range<u32>| {
        let names = names.map(|name| format!(r#"{{"sensor":"s{name}","value":{name}}}"#));
        names.collect::<Vec<_>>().join(",")
    };
    let null = r#"{"sensor":"n","value":null}"#;
    // The limit is 64, and a sensor that is known has its place.
    let first = with(&format!("{null},{}", many(0..66)));
    let known = r#"{"sensor":"s0","value":7},{"sensor":"s64","value":1},{"sensor":"s1","value":8}"#;
    let second = with(known);
    kafka.send("device-data", &first).await;
    kafka.send("device-data", &second).await;
    let service = Service::start(config(&kafka.brokers())).await;
    service.wait_consumed(2).await;
    let letters = kafka.read("iot.dead-letter", 2).await;
    let reason = "too_many_sensors";
    let refused = [
        (0, "n", "not_a_number"),
        (65, "s64", reason),
        (66, "s65", reason),
    ];
    assert_eq!(listed(&letters[0]), expected(&refused));
    assert_eq!(listed(&letters[1]), expected(&[(1, "s64", reason)]));
    wait_for("the readings of both messages", async || {
        let (_, device) = service.get("/api/v1/devices/default/default/d").await;
        let readings = device["readings"].as_object()?;
        let is_there = readings.len() == 64
            && readings["s0"]["value"] == 7.0
            && readings["s1"]["value"] == 8.0
            && readings["s63"]["value"] == 63.0;
        is_there.then_some(())
    })
    .await;
    service.stop().await;
}

/// A message of three readings as Protobuf, of which those of the sensor `bad` are not finite.
fn protobuf() -> Vec<u8> {
    let json = message("binary", now(), "a", 1.0).to_string();
    let message = iot_core::message::parse(json.as_bytes()).unwrap();
    let reading = |sensor| ReadingTemplate::protobuf(sensor, None, Quality::Good);
    let (bad, good) = (reading("bad"), reading("good"));
    let readings = [(&bad, f64::NAN), (&good, 2.0), (&bad, f64::INFINITY)];
    let mut out = Vec::new();
    let readings = readings.into_iter();
    Template::protobuf(&message).write(0, now(), readings, &mut out);
    out
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_format_has_its_good_readings_accepted() {
    let kafka = Kafka::new(&["device-data", "acme.plant"]);
    let mut settings = config(&kafka.brokers());
    settings.mappings = serde_json::from_value(json!({"own": [{
        "mqtt": "plc/+",
        "device": "mqtt:2",
        "readings": [
            {"sensor": "temperature", "value": "/t", "unit": "degF"},
            {"sensor": "humidity", "value": "/h"},
        ],
    }]}))
    .unwrap();
    let seconds = now() / 1_000;
    let old =
        format!(r#"{{"deviceId":"old","timestamp":{seconds},"temperature":null,"humidity":60}}"#);
    kafka.send("device-data", &old).await;
    // Guessed from its content, and by its header.
    kafka.send_bytes("device-data", &protobuf()).await;
    let producer = producer(&kafka.brokers());
    let publish = async |topic, payload: &[u8], key, value| {
        let value = Some(value);
        let headers = OwnedHeaders::new().insert(Header { key, value });
        send(&producer, record(topic, payload).headers(headers)).await;
    };
    let content_type = "application/protobuf";
    publish("device-data", &protobuf(), "content-type", content_type).await;
    let plc = br#"{"t":"hot","h":50}"#;
    publish("acme.plant", plc, "mqtt-topic", "plc/press").await;
    let service = Service::start(settings).await;
    service.wait_consumed(4).await;
    let letters = kafka.read("iot.dead-letter", 4).await;
    let reason = "not_a_number";
    let of = |topic, offset| {
        let mut letters = letters.iter();
        let letter = letters.find(|letter| {
            (letter.header("dlq-topic"), letter.header("dlq-offset")) == (Some(topic), Some(offset))
        });
        listed(letter.expect("a dead letter"))
    };
    let binary = expected(&[(0, "bad", reason), (2, "bad", reason)]);
    let temperature = expected(&[(0, "temperature", reason)]);
    assert_eq!(of("device-data", "0"), temperature);
    assert_eq!(of("device-data", "1"), binary);
    assert_eq!(of("device-data", "2"), binary);
    assert_eq!(
        of("acme.plant", "0"),
        expected(&[(1, "temperature", reason)])
    );
    for (device, sensor, value) in [
        ("default/default/old", "humidity", 60.0),
        ("default/default/binary", "good", 2.0),
        ("acme/plant/press", "humidity", 50.0),
    ] {
        wait_for(device, async || {
            (reading(&service, device, sensor).await == Some(value)).then_some(())
        })
        .await;
    }
    assert_eq!(
        reading(&service, "default/default/old", "temperature").await,
        None
    );
    service.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_message_without_a_good_reading_is_refused_whole() {
    let kafka = Kafka::new(&["device-data"]);
    let bad = with(r#"{"sensor":"s","value":null},{"sensor":"switch","value":9}"#);
    kafka.send("device-data", &bad).await;
    let mut nobody: Value = message("d", now(), "a", 1.0);
    nobody["device_id"] = json!("");
    nobody["readings"] = json!([nobody["readings"][0], {"sensor": "s", "value": null}]);
    kafka.send("device-data", nobody).await;
    let service = Service::start(config(&kafka.brokers())).await;
    service.wait_consumed(2).await;
    let letters = kafka.read("iot.dead-letter", 2).await;
    for (letter, reason) in letters.iter().zip(["not_a_number", "empty_device_id"]) {
        assert_eq!(letter.header("dlq-reason"), Some(reason));
        assert_eq!(letter.header("dlq-partial"), None);
        let messages = "kafka_consumer_processing_errors_total";
        assert_eq!(counted(&service, messages, reason).await, Some(1.0));
    }
    service.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn short_memory_delays_messages_and_loses_none() {
    const MESSAGES: usize = 40;
    let kafka = Kafka::new(&["device-data"]);
    let mut settings = serde_json::to_value(config(&kafka.brokers())).unwrap();
    // Eight dead letters fill it, with the copies that wait in the producer.
    settings["limits"]["buffers"] = json!("1MiB");
    let padding = "x".repeat(64 << 10);
    let payloads: Vec<_> = (0..MESSAGES)
        .map(|number| {
            with(&format!(
                r#"{{"sensor":"good","value":{number}}},{{"sensor":"bad","padding":"{padding}"}}"#
            ))
        })
        .collect();
    kafka.send_all("device-data", &payloads).await;
    let service = Service::start(serde_json::from_value(settings).unwrap()).await;
    service.wait_consumed(MESSAGES as u64).await;
    let letters = kafka.read("iot.dead-letter", MESSAGES).await;
    let found: Vec<_> = letters.iter().map(|letter| letter.text()).collect();
    assert_eq!(found, payloads);
    wait_for("the buffers to be free", async || {
        let held = service.metric("iot_buffered_bytes").await?;
        (held < f64::from(1 << 20)).then_some(())
    })
    .await;
    service.stop().await;
}
