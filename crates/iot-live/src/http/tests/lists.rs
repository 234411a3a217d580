//! Lists, details and event streams.

use iot_fold::{AlertStatus, Level};
use serde_json::json;

use super::*;
use crate::hub::{AlertPage, DevicePage, Snapshot};
use crate::protocol::Framing;
use crate::testing::{alert, device};

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

    for (path, reason) in [
        ("devices?colour=red", "unknown parameter \"colour\""),
        (
            "devices?limit=10001",
            "limit must be a whole number of at most 10000, not \"10001\"",
        ),
        ("devices?sensor=co2", "unknown parameter \"sensor\""),
        (
            "alerts?state=on",
            "state must be raised or cleared, not \"on\"",
        ),
        ("stats?tenant=a", "unknown parameter \"tenant\""),
        ("device?tenant=a", "parameter \"project\" is missing"),
        ("devices/a/b/c?size=7m", "size must be one of 1m, 5m"),
    ] {
        let (status, body) = fixture.get(&format!("/api/v1/{path}")).await;
        assert_eq!((status, &body["error"]), (400, &reason.into()), "{path}");
    }
    assert_eq!(fixture.get("/api/v2").await.0, 404);
    fixture.end().await;
}

#[tokio::test]
async fn a_device_comes_with_its_windows() {
    let mut fixture = Fixture::start().await;
    let url = fixture.url("/api/v1/device?tenant=acme&project=office&device=..%2Fd&size=5m");
    let answer = tokio::spawn(reqwest::get(url));
    let Message::Device(key, known) = fixture.message().await else {
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
    let Message::Device(_, known) = fixture.message().await else {
        panic!("no question")
    };
    assert!(known.send(None).is_ok());
    assert_eq!(answer.await.unwrap().unwrap().status(), 404);
    fixture.end().await;
}
