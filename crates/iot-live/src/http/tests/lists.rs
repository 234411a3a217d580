//! Lists, details and event streams.

use iot_fold::{AlertStatus, Level};
use serde_json::json;
use testkit::wait_for;

use super::*;
use crate::hub::{AlertPage, DevicePage, Snapshot};
use crate::protocol::Framing;
use crate::testing::{alert, device};

/// The beginning of an event stream: when to come back after its end, in milliseconds.
async fn retry(response: &mut reqwest::Response) -> u64 {
    let chunk = in_time("the start", response.chunk()).await.unwrap();
    let chunk = String::from_utf8(chunk.unwrap().into()).unwrap();
    let delay = chunk.strip_prefix("retry: ").unwrap();
    delay.strip_suffix("\n\n").unwrap().parse().unwrap()
}

#[tokio::test]
async fn event_streams_resume_and_end_with_a_reason() {
    let mut fixture = Fixture::start().await;
    let url = fixture.url("/api/v1/alerts?min_level=critical");
    let request = reqwest::Client::new()
        .get(&url)
        .header("accept", "text/event-stream");
    let answer = tokio::spawn(request.try_clone().unwrap().send());
    let alerts = Arc::new([alert("a1", "d1", Level::Critical, AlertStatus::Raised)]);
    let asked = fixture
        .subscribed(41, First::Snapshot(Snapshot::Alerts(alerts)))
        .await;
    assert_eq!(
        (&*asked.channel.name, asked.since),
        ("alerts?min_level=critical", None)
    );
    let mut response = in_time("an answer", answer).await.unwrap().unwrap();
    assert_eq!(response.headers()["content-type"], "text/event-stream");
    let delay = retry(&mut response).await;
    assert!((1_000..=5_000).contains(&delay), "{delay}");
    let event = in_time("a snapshot", response.chunk())
        .await
        .unwrap()
        .unwrap();
    let event = String::from_utf8(event.into()).unwrap();
    assert!(event.starts_with("event: snapshot\nid: k3:41\ndata: {\"alerts\":[{\"id\":\"a1\""));
    assert!(
        asked
            .outbox
            .push(Framing::EventStream.unsubscribe("alerts", 2500, "resync"))
    );
    let event = in_time("the end", response.chunk()).await.unwrap().unwrap();
    assert!(event.starts_with(b"event: unsubscribe\n"));
    assert_eq!(in_time("the end", response.chunk()).await.unwrap(), None);
    assert!(matches!(fixture.message().await, Message::Leave(id) if id == asked.client));

    let answer = tokio::spawn(request.header("last-event-id", "k3:57").send());
    let asked = fixture
        .subscribed(57, First::Missed(vec![(60, "{}".into())]))
        .await;
    assert_eq!(
        asked.since.map(|since| (since.epoch, since.offset)),
        Some(("k3".to_owned(), 57))
    );
    let mut response = in_time("an answer", answer).await.unwrap().unwrap();
    retry(&mut response).await;
    let event = in_time("what was missed", response.chunk())
        .await
        .unwrap()
        .unwrap();
    assert_eq!(event, "id: k3:60\ndata: {}\n\n");
    fixture.stop.cancel();
    let event = in_time("the end", response.chunk()).await.unwrap().unwrap();
    assert!(event.starts_with(b"event: disconnect\ndata: {\"code\":3001,"));
    fixture.end().await;
}

#[tokio::test]
async fn event_streams_that_cannot_begin_now_ask_to_come_back() {
    let mut fixture = Fixture::start().await;
    let request = reqwest::Client::new().get(fixture.url("/api/v1/alerts"));
    let request = request.header("accept", "text/event-stream");
    let refused = async || {
        let response = request.try_clone().unwrap().send().await.unwrap();
        assert_eq!(response.status(), 200);
        assert_eq!(response.headers()["content-type"], "text/event-stream");
        response.text().await.unwrap()
    };
    fixture.most.store(0, Ordering::Relaxed);
    let text = in_time("a refusal", refused()).await;
    assert!(text.starts_with("retry: "), "{text}");
    let end =
        "event: disconnect\ndata: {\"code\":100,\"reason\":\"too many clients; retry later\"}\n\n";
    assert!(text.ends_with(end), "{text}");
    fixture.most.store(1, Ordering::Relaxed);
    // The hub has ended.
    fixture.hub.close();
    let text = in_time("a refusal", refused()).await;
    assert!(
        text.contains("event: disconnect\ndata: {\"code\":100,"),
        "{text}"
    );
    fixture.end().await;
}

#[tokio::test]
async fn an_incomplete_snapshot_takes_the_position_away() {
    let mut fixture = Fixture::start().await;
    let request = reqwest::Client::new().get(fixture.url("/api/v1/alerts"));
    let request = request.header("accept", "text/event-stream");
    let answer = tokio::spawn(request.header("last-event-id", "k3:41").send());
    let nothing = First::Snapshot(Snapshot::Alerts(Arc::new([])));
    fixture.subscribed(0, nothing).await;
    let mut response = in_time("an answer", answer).await.unwrap().unwrap();
    retry(&mut response).await;
    let event = in_time("a snapshot", response.chunk()).await.unwrap();
    assert_eq!(
        event.unwrap(),
        "event: snapshot\nid: \ndata: {\"alerts\":[]}\n\n"
    );
    fixture.end().await;
}

#[tokio::test]
async fn an_event_stream_holds_changes_back_until_the_last_page() {
    let mut fixture = Fixture::start().await;
    let request = reqwest::Client::new().get(fixture.url("/api/v1/devices"));
    let answer = tokio::spawn(request.header("accept", "text/event-stream").send());
    // Longer than what sockets and the server keep.
    let devices: Arc<[_]> = (0..80_000)
        .map(|n| Arc::new(device(&n.to_string())))
        .collect();
    let first = First::Snapshot(Snapshot::Devices(devices));
    let asked = fixture.subscribed(41, first).await;
    let mut response = in_time("an answer", answer).await.unwrap().unwrap();
    retry(&mut response).await;
    let data = serde_json::to_vec(&"x".repeat(10_000)).unwrap();
    let publication = Framing::EventStream.publication("devices", "k3", Some(57), &data);
    let mut text = Vec::new();
    // Four times what the outbox takes.
    for _ in 0..25 {
        wait_for("room", async || {
            text.extend(in_time("a page", response.chunk()).await.unwrap().unwrap());
            asked.outbox.offer(&publication)
        })
        .await;
    }
    // Of about 20 MB; sockets keep a few.
    assert!(text.len() < 9 << 20, "{} bytes of pages", text.len());
    let end = Framing::EventStream.unsubscribe("devices", 2500, "resync");
    wait_for("room", async || {
        text.extend(in_time("a page", response.chunk()).await.unwrap().unwrap());
        asked.outbox.offer(&end)
    })
    .await;
    while let Some(chunk) = in_time("a chunk", response.chunk()).await.unwrap() {
        text.extend(chunk);
    }
    let text = String::from_utf8(text).unwrap();
    assert_eq!(text.matches("id: k3:57\n").count(), 25);
    assert!(text.find("id: k3:41\n") < text.find("id: k3:57\n"));
    drop(response);
    fixture.end().await;
}

#[tokio::test]
async fn lists_have_filters_and_a_position() {
    let mut fixture = Fixture::start().await;
    let url = fixture.url("/api/v1/readings?sensor=temperature&room=K%C3%BCche&limit=1&offset=2");
    let answer = tokio::spawn(reqwest::get(url));
    let Message::Devices(page, devices) = fixture.message().await else {
        panic!("no list")
    };
    assert_eq!(
        (page.limit, page.offset, page.filter.room.as_deref()),
        (1, 2, Some("Küche"))
    );
    let found = vec![Arc::new(device("d1"))];
    devices
        .send(DevicePage {
            devices: found,
            total: 9,
            position: 41,
        })
        .unwrap();
    let list: Value = answer.await.unwrap().unwrap().json().await.unwrap();
    assert_eq!(
        (&list["total"], &list["position"]),
        (&9.into(), &json!({"epoch": "k3", "offset": 41}))
    );
    let readings = list["devices"][0]["readings"].as_object().unwrap();
    assert_eq!(readings.keys().collect::<Vec<_>>(), ["temperature"]);

    let answer = tokio::spawn(reqwest::get(fixture.url("/api/v1/alerts?state=raised")));
    let Message::Alerts(page, alerts) = fixture.message().await else {
        panic!("no list")
    };
    assert_eq!(
        (page.limit, page.filter.state),
        (100, Some(AlertStatus::Raised))
    );
    alerts
        .send(AlertPage {
            total: 3,
            position: 7,
            ..AlertPage::default()
        })
        .unwrap();
    let list: Value = answer.await.unwrap().unwrap().json().await.unwrap();
    let expected = json!({"alerts": [], "total": 3, "raised": {"critical": 0, "warning": 0},
        "position": {"epoch": "k3", "offset": 7}});
    assert_eq!(list, expected);

    for (path, parameter, reason) in [
        (
            "devices?colour=red",
            "colour",
            "unknown parameter \"colour\"",
        ),
        (
            "devices?limit=10001",
            "limit",
            "limit must be a whole number of at most 10000, not \"10001\"",
        ),
        (
            "devices?sensor=co2",
            "sensor",
            "unknown parameter \"sensor\"",
        ),
        (
            "alerts?state=on",
            "state",
            "state must be raised or cleared, not \"on\"",
        ),
        ("stats?tenant=a", "tenant", "unknown parameter \"tenant\""),
        (
            "device?tenant=a",
            "project",
            "parameter \"project\" is missing",
        ),
        (
            "devices/a/b/c?size=7m",
            "size",
            "size must be one of 1m, 5m",
        ),
    ] {
        let (status, body) = fixture.get(&format!("/api/v1/{path}")).await;
        let expected = json!({
            "title": "Bad Request",
            "status": 400,
            "detail": reason,
            "parameter": parameter,
        });
        assert_eq!((status, &body), (400, &expected), "{path}");
    }
    assert_eq!(fixture.get("/api/v2").await.0, 404);
    fixture.end().await;
}

#[tokio::test]
async fn a_device_comes_with_its_windows() {
    let mut fixture = Fixture::start().await;
    let url = fixture.url("/api/v1/device?tenant=acme&project=office&device=..%2Fd&size=5m");
    let answer = tokio::spawn(reqwest::get(url));
    let Message::Device(key, _, known) = fixture.message().await else {
        panic!("no question")
    };
    assert_eq!(&*key.device, "../d");
    let (questions, mut asked) = mpsc::channel(1);
    assert!(
        known
            .send(Some((Arc::new(device("../d")), questions)))
            .is_ok()
    );
    let question = in_time("a question", asked.recv()).await.unwrap();
    assert_eq!(question.size, 300_000);
    question
        .answer
        .send(Ok(Some(iot_fold::Windows::new())))
        .unwrap();
    let detail: Value = answer.await.unwrap().unwrap().json().await.unwrap();
    assert_eq!(
        (&detail["device"], &detail["windows"]),
        (&"../d".into(), &json!({}))
    );

    let answer = tokio::spawn(reqwest::get(fixture.url("/api/v1/devices/a/b/c")));
    let Message::Device(_, _, known) = fixture.message().await else {
        panic!("no question")
    };
    assert!(known.send(None).is_ok());
    assert_eq!(answer.await.unwrap().unwrap().status(), 404);
    fixture.end().await;
}

#[tokio::test]
async fn an_event_stream_has_no_position_before_the_last_page() {
    let mut fixture = Fixture::start().await;
    let request = reqwest::Client::new().get(fixture.url("/api/v1/devices"));
    let answer = tokio::spawn(request.header("accept", "text/event-stream").send());
    let devices: Arc<[_]> = (0..1_000)
        .map(|n| Arc::new(device(&n.to_string())))
        .collect();
    fixture
        .subscribed(41, First::Snapshot(Snapshot::Devices(devices)))
        .await;
    let mut response = in_time("an answer", answer).await.unwrap().unwrap();
    let mut text = Vec::new();
    let mut ids = Vec::new();
    while ids.last() != Some(&"id: k3:41".to_owned()) {
        text.extend(in_time("a page", response.chunk()).await.unwrap().unwrap());
        let lines = std::str::from_utf8(&text).unwrap_or_default().lines();
        ids = lines
            .filter(|line| line.starts_with("id:"))
            .map(str::to_owned)
            .collect();
    }
    assert!(ids.len() > 2);
    for id in &ids[..ids.len() - 1] {
        assert_eq!(id, "id: ");
    }
    drop(response);
    fixture.end().await;
}
