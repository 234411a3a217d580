//! Snapshots of several pages.

use super::*;

#[tokio::test]
async fn live_publications_follow_the_last_page_of_a_snapshot() {
    let mut fixture = Fixture::start().await;
    let mut client = fixture.client().await;
    client
        .say(r#"{"id":2,"subscribe":{"channel":"devices"}}"#)
        .await;
    let devices: Arc<[_]> = (0..3_000)
        .map(|n| Arc::new(device(&n.to_string())))
        .collect();
    let Message::Subscribe(asked, answer) = fixture.message().await else {
        panic!("no subscription")
    };
    // Changes come before the client has read anything.
    assert!(publish(&asked.outbox, Framing::Json, 57));
    let first = First::Snapshot(Snapshot::Devices(devices));
    let subscribed = Subscribed {
        epoch: "k3".into(),
        offset: 41,
        first,
        partial: Vec::new(),
    };
    answer.send(Ok(subscribed)).unwrap();
    let (mut seen, mut offsets) = (0, Vec::new());
    while offsets.last() != Some(&57) {
        let frame = client.frame().await.into_text().unwrap();
        assert!(frame.len() < 17 << 10, "a ping fits between two messages");
        for line in frame.lines() {
            let line: Value = serde_json::from_str(line).unwrap();
            let part = line.get("subscribe").unwrap_or(&line["push"]["pub"]);
            seen += part["data"]["devices"].as_array().unwrap().len();
            offsets.extend(part.get("offset").and_then(Value::as_u64));
        }
    }
    assert_eq!((seen, offsets), (3_000, vec![41, 57]));
    fixture.end().await;
}

#[tokio::test]
async fn all_replies_precede_the_further_pages() {
    let mut fixture = Fixture::start().await;
    let mut client = fixture.client().await;
    client
        .say(
            "{\"id\":2,\"subscribe\":{\"channel\":\"devices\"}}\n\
             {\"id\":3,\"subscribe\":{\"channel\":\"readings\"}}",
        )
        .await;
    let devices: Arc<[_]> = (0..300).map(|n| Arc::new(device(&n.to_string()))).collect();
    for _ in 0..2 {
        let first = First::Snapshot(Snapshot::Devices(devices.clone()));
        fixture.subscribed(41, first).await;
    }
    let lines = client.next_lines(4).await;
    assert_eq!((&lines[0]["id"], &lines[1]["id"]), (&2.into(), &3.into()));
    assert_eq!(lines[2]["push"]["channel"], "devices");
    fixture.end().await;
}

#[tokio::test]
async fn a_long_snapshot_makes_no_client_slow() {
    let mut fixture = Fixture::start().await;
    let mut client = fixture.client().await;
    client
        .say(r#"{"id":2,"subscribe":{"channel":"devices"}}"#)
        .await;
    // Longer than what sockets keep.
    let devices: Arc<[_]> = (0..80_000)
        .map(|n| Arc::new(device(&n.to_string())))
        .collect();
    let first = First::Snapshot(Snapshot::Devices(devices));
    let asked = fixture.subscribed(41, first).await;
    let data = serde_json::to_vec(&"x".repeat(10_000)).unwrap();
    let publication = Framing::Json.publication("devices", "k3", Some(57), &data);
    let (mut bytes, mut texts) = (0, Vec::new());
    let mut read = async || {
        let text = client.frame().await.into_text().unwrap();
        bytes += text.len();
        texts.push(text);
        bytes
    };
    // Four times what the outbox takes.
    for _ in 0..25 {
        wait_for("room", async || {
            // Of about 20 MB; sockets keep a few.
            let bytes = read().await;
            assert!(bytes < 9 << 20, "{bytes} bytes of pages");
            asked.outbox.offer(&publication)
        })
        .await;
    }
    let (mut changes, mut has_position) = (0, false);
    for at in 0.. {
        while texts.len() <= at {
            texts.push(client.frame().await.into_text().unwrap());
        }
        let text = texts[at].as_str();
        has_position |= text.contains("\"offset\":41,");
        changes += text.matches("\"offset\":57,").count();
        assert!(
            changes == 0 || has_position,
            "a change before the last page"
        );
        if changes == 25 {
            break;
        }
    }
    fixture.end().await;
}
