//! The REST API and the page.

use serde_json::json;

use crate::service::{Kafka, Service, config, message, now};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn devices_alerts_and_stats_can_be_read() {
    let kafka = Kafka::new(&["device-data"]);
    let service = Service::start(config(&kafka.brokers())).await;
    let minute = now() / 60_000 * 60_000 - 600_000;
    for (second, value) in [(0, 20.0), (10, 22.0), (70, 55.0), (200, 30.0)] {
        let mut sent = message("d1", minute + second * 1_000, "temperature", value);
        sent["seq"] = json!(second);
        kafka.send("device-data", sent).await;
    }
    // An older message arrives last: it replaces nothing.
    kafka
        .send(
            "device-data",
            message("d1", minute + 199_000, "temperature", 99.0),
        )
        .await;
    let legacy =
        json!({"deviceId": "old", "timestamp": now() / 1_000, "temperature": 21.5, "humidity": 40});
    kafka.send("device-data", legacy).await;
    service.wait_consumed(6).await;

    let (status, device) = service.get("/api/v1/devices/default/default/d1").await;
    assert_eq!(status, 200);
    assert_eq!(
        device["readings"]["temperature"],
        json!({
            "value": 30.0, "unit": "celsius", "quality": "good", "timestamp": minute + 200_000,
        })
    );
    assert_eq!(
        (&device["seq"], &device["location"]["room"]),
        (&json!(200), &json!("r1"))
    );
    let windows = device["windows"]["temperature"].as_array().unwrap();
    let brief: Vec<_> = windows
        .iter()
        .map(|w| {
            (
                w["start"].as_i64().unwrap() - minute,
                &w["count"],
                &w["sealed"],
            )
        })
        .collect();
    assert_eq!(
        brief,
        [
            (0, &json!(2), &json!(true)),
            (60_000, &json!(1), &json!(true)),
            (180_000, &json!(2), &json!(false)),
        ]
    );
    assert_eq!(
        (&windows[0]["mean"], &windows[0]["deviation"]),
        (&json!(21.0), &json!(1.0))
    );

    let (_, device) = service
        .get("/api/v1/devices/default/default/d1?size=1h")
        .await;
    let windows = device["windows"]["temperature"].as_array().unwrap();
    let count: u64 = windows.iter().map(|w| w["count"].as_u64().unwrap()).sum();
    assert_eq!(count, 5);
    assert_eq!(
        windows[0]["end"].as_i64().unwrap() - windows[0]["start"].as_i64().unwrap(),
        3_600_000
    );
    // An hour may have begun between the values.
    assert!(windows.iter().any(|w| w["slope"].is_f64()), "{windows:?}");
    let (status, refused) = service
        .get("/api/v1/devices/default/default/d1?size=7m")
        .await;
    let reason = json!("size must be one of 1m, 5m, 1h");
    assert_eq!((status, &refused["detail"]), (400, &reason));

    let (_, found) = service.get("/api/v1/devices?building=b1").await;
    assert_eq!(
        (&found["total"], &found["devices"][0]["device"]),
        (&json!(1), &json!("d1"))
    );
    let (_, found) = service.get("/api/v1/devices?limit=1&offset=1").await;
    assert_eq!(
        (&found["total"], &found["devices"][0]["device"]),
        (&json!(2), &json!("old"))
    );
    assert_eq!(found["devices"][0]["readings"]["humidity"]["value"], 40.0);

    let (_, alerts) = service.get("/api/v1/alerts").await;
    assert_eq!(alerts["alerts"].as_array().unwrap().len(), 1);
    let alert = &alerts["alerts"][0];
    assert_eq!(alert["id"], "device-data:0:2:temperature:threshold");
    assert_eq!(alert["kind"], "threshold");
    assert_eq!(
        (&alert["state"], &alert["limit"]),
        (&json!("cleared"), &json!(50.0))
    );
    assert_eq!(
        (&alerts["total"], &alerts["raised"]),
        (&json!(1), &json!({"critical": 0, "warning": 0}))
    );
    let (_, alerts) = service.get("/api/v1/alerts?offset=1").await;
    assert_eq!(
        (&alerts["alerts"], &alerts["total"]),
        (&json!([]), &json!(1))
    );

    let (_, stats) = service.get("/api/v1/stats").await;
    assert_eq!(stats["messages_total"], 6);
    assert_eq!(
        (
            &stats["devices"],
            &stats["partitions"],
            &stats["readings_total"]
        ),
        (&json!(2), &json!(1), &json!(7))
    );

    for (path, expected) in [
        ("/api/v1/devices/default/default/none", 404),
        ("/api/v1/devices?limit=many", 400),
        ("/api/v2/devices", 404),
    ] {
        let (status, body) = service.get(path).await;
        assert_eq!(status, expected, "{path}");
        assert!(body["detail"].is_string(), "{path}: {body}");
    }
    for (query, named) in [
        ("devices?tennant=acme", "tennant"),
        ("devices/default/default/d1?length=5m", "length"),
        ("device?tenant=t&project=p", "device"),
        ("device?tenant=t&project=p&device=d&length=5m", "length"),
        ("alerts?state=active", "state"),
        ("stats?tenant=acme", "tenant"),
        ("devices?limit=10001", "at most 10000"),
        ("alerts?limit=10001", "at most 10000"),
    ] {
        let (status, body) = service.get(&format!("/api/v1/{query}")).await;
        assert_eq!(status, 400, "{query}");
        let error = body["detail"].as_str().unwrap();
        assert!(error.contains(named), "{query}: {error}");
    }
    let (status, _) = service.get("/api/v1/devices?limit=10000").await;
    assert_eq!(status, 200);
    service.stop().await;
}

/// A client takes `.` and `..` out of a path before it sends it, also if they are written as `%2E`.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_device_is_reachable_whatever_its_id() {
    let kafka = Kafka::new(&["device-data"]);
    let service = Service::start(config(&kafka.brokers())).await;
    let ids = [".", "..", "./..", "%2E", "a/b", "?#&=+ \u{fc}"];
    for (number, id) in ids.iter().enumerate() {
        let sent = message(id, now() - 60_000, "temperature", number as f64);
        kafka.send("device-data", sent).await;
    }
    service.wait_consumed(ids.len() as u64).await;
    let client = reqwest::Client::new();
    let base = format!("http://{}/api/v1/device", service.http);
    for (number, id) in ids.iter().enumerate() {
        let named = [
            ("tenant", "default"),
            ("project", "default"),
            ("device", id),
            ("size", "5m"),
        ];
        let url = reqwest::Url::parse_with_params(&base, named).unwrap();
        let answer = client.get(url).send().await.unwrap();
        assert_eq!(answer.status(), 200, "{id:?}");
        let found: serde_json::Value = answer.json().await.unwrap();
        assert_eq!(
            (
                &found["device"],
                &found["readings"]["temperature"]["value"],
                &found["windows"]["temperature"][0]["count"]
            ),
            (&json!(id), &json!(number as f64), &json!(1)),
            "{id:?}"
        );
    }
    let (status, _) = service
        .get("/api/v1/device?tenant=default&project=default&device=none")
        .await;
    assert_eq!(status, 404);
    service.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_page_is_served_with_a_strict_content_security_policy() {
    let kafka = Kafka::new(&["device-data"]);
    let service = Service::start(config(&kafka.brokers())).await;
    let url = |path: &str| format!("http://{}{path}", service.http);
    let client = reqwest::Client::new();
    for (path, kind) in [
        ("/", "text/html; charset=utf-8"),
        ("/static/app.js", "text/javascript; charset=utf-8"),
        ("/static/app.css", "text/css; charset=utf-8"),
    ] {
        let response = client.get(url(path)).send().await.unwrap();
        assert_eq!(response.status(), 200, "{path}");
        let header = |name: &str| response.headers()[name].to_str().unwrap().to_owned();
        assert_eq!(header("content-type"), kind);
        assert_eq!(header("x-content-type-options"), "nosniff");
        assert_eq!(header("cache-control"), "no-cache");
        let policy = header("content-security-policy");
        assert!(
            policy.starts_with("default-src 'none'; script-src 'self';"),
            "{policy}"
        );
        let again = client
            .get(url(path))
            .header("if-none-match", header("etag"));
        assert_eq!(again.send().await.unwrap().status(), 304, "{path}");
    }
    for path in ["/static/nothing.js", "/static/..%2Findex.html"] {
        assert_eq!(
            client.get(url(path)).send().await.unwrap().status(),
            404,
            "{path}"
        );
    }
    service.stop().await;
}
