//! The demo as a visitor runs it: the binary, its output, its page's API.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::VecDeque;
use std::net::TcpListener;
use std::time::SystemTime;

use futures::{SinkExt, StreamExt};
use rumqttc::{AsyncClient, Event, MqttOptions, Packet, QoS};
use serde_json::Value;
use testkit::process::{Process, Program};
use testkit::{http, in_time, wait_for};
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream, connect_async};

struct Demo {
    process: Process,
    /// `127.0.0.1:port` of the page.
    page: String,
    /// The command that makes the visitor a device.
    publish: String,
}

impl Demo {
    /// Starts it on free ports and reads what it tells the visitor.
    async fn start() -> Self {
        let mut process = Program::new(env!("CARGO_BIN_EXE_demo"))
            .args(&["--port", "0", "--mqtt-port", "0"])
            .args(&["--devices", "20", "--rate", "40"])
            .keep_input()
            .start();
        let output = wait_for("the whole greeting", async || {
            process.assert_running();
            Some(process.stdout()).filter(|output| output.contains("Ctrl-C"))
        })
        .await;
        let behind = |text| output.lines().find_map(|line| line.split_once(text));
        let page = behind("http://").expect("the page's address").1;
        let publish = behind("mosquitto_pub")
            .expect("a command to publish with")
            .1;
        Self {
            process,
            page: page.trim_end_matches('/').to_owned(),
            publish: publish.to_owned(),
        }
    }

    /// Waits until the JSON at `path` is as wanted.
    async fn api_until(&self, path: &str, wanted: impl Fn(&Value) -> bool) -> Value {
        let url = format!("http://{}{path}", self.page);
        wait_for(path, async || {
            let (_, body) = http::get(&url).await?;
            match serde_json::from_str(&body) {
                Ok(answer) if wanted(&answer) => Ok(answer),
                _ => Err(body),
            }
        })
        .await
    }

    /// Port, topic and payload of the command, as a shell would read them.
    fn publish_arguments(&self) -> (u16, String, String) {
        let (flags, payload) = self.publish.split_once(" -m ").unwrap();
        let flags: Vec<_> = flags.split_whitespace().collect();
        let value = |flag: &str| {
            let at = flags.iter().position(|word| *word == flag).unwrap();
            flags[at + 1].to_string()
        };
        let now = SystemTime::now()
            .duration_since(SystemTime::UNIX_EPOCH)
            .unwrap();
        let payload = payload
            .replace("$(date +%s)", &now.as_secs().to_string())
            .replace('\'', "");
        (value("-p").parse().unwrap(), value("-t"), payload)
    }

    /// Presses Ctrl-C; returns the exit code.
    async fn interrupt(mut self) -> Option<i32> {
        self.process.signal("INT");
        self.process.ended().await.code()
    }
}

/// Publishes as a device does, and waits for the acknowledgements.
async fn publish(port: u16, messages: &[(&str, &[u8])]) {
    let mut options = MqttOptions::new("visitor", "127.0.0.1", port);
    options.set_max_packet_size(4 << 20, 4 << 20);
    let (client, mut events) = AsyncClient::new(options, 16);
    for (topic, payload) in messages {
        let sent = client.publish(*topic, QoS::AtLeastOnce, false, payload.to_vec());
        sent.await.unwrap();
    }
    let mut acknowledged = 0;
    while acknowledged < messages.len() {
        let event = in_time("an acknowledgement", events.poll()).await.unwrap();
        if let Event::Incoming(Packet::PubAck(_)) = event {
            acknowledged += 1;
        }
    }
}

/// A subscription to all readings, over the page's address.
struct Live {
    socket: WebSocketStream<MaybeTlsStream<TcpStream>>,
    /// Received, and not read yet.
    replies: VecDeque<Value>,
}

impl Live {
    async fn connect(page: &str) -> Self {
        let url = format!("ws://{page}/ws");
        let (mut socket, _) = connect_async(url).await.unwrap();
        let commands = r#"{"id":1,"connect":{}}
            {"id":2,"subscribe":{"channel":"readings"}}"#;
        let commands: Vec<_> = commands.lines().map(str::trim).collect();
        let commands = Message::text(commands.join("\n"));
        socket.send(commands).await.unwrap();
        Self {
            socket,
            replies: VecDeque::new(),
        }
    }

    /// The first reply that is as wanted.
    async fn until(&mut self, wanted: impl Fn(&Value) -> bool) -> Value {
        loop {
            while let Some(reply) = self.replies.pop_front() {
                if wanted(&reply) {
                    return reply;
                }
            }
            let frame = in_time("a frame", self.socket.next()).await;
            let frame = frame.unwrap().unwrap();
            let lines = frame.to_text().unwrap().lines();
            let replies = lines.map(|line| serde_json::from_str::<Value>(line).unwrap());
            self.replies.extend(replies);
        }
    }

    /// Number of devices in the snapshot, which comes in pages.
    async fn snapshot(&mut self) -> usize {
        let mut page = self.until(|reply| reply["id"] == 2).await["subscribe"]["data"].take();
        let mut count = devices(&page);
        while page["more"] == true {
            let is_page = |reply: &Value| devices(&reply["push"]["pub"]["data"]) > 0;
            page = self.until(is_page).await["push"]["pub"]["data"].take();
            count += devices(&page);
        }
        count
    }

    /// Reads until the connection breaks.
    async fn broken(mut self) {
        while let Some(Ok(_)) = in_time("the end", self.socket.next()).await {}
    }
}

fn devices(data: &Value) -> usize {
    data["devices"].as_array().map_or(0, Vec::len)
}

#[tokio::test]
async fn a_visitor_sees_the_fleet_and_becomes_a_device() {
    let demo = Demo::start().await;
    let listed = demo
        .api_until("/api/v1/devices", |list| list["total"] == 20)
        .await;
    let project = |device: &Value| device["project"].as_str().unwrap().to_string();
    assert!(
        listed["devices"]
            .as_array()
            .unwrap()
            .iter()
            .any(|device| project(device) == "plant")
    );

    let (port, topic, payload) = demo.publish_arguments();
    publish(port, &[(topic.as_str(), payload.as_bytes())]).await;
    let own = "/api/v1/devices/demo/visitors/my-sensor";
    let device = demo
        .api_until(own, |device| device["detail"].is_null())
        .await;
    assert_eq!(device["readings"]["temperature"]["value"], 21.5);

    let mut live = Live::connect(&demo.page).await;
    assert_eq!(live.snapshot().await, 21);
    live.until(|reply| devices(&reply["push"]["pub"]["data"]) > 0)
        .await;
    drop(live);
    assert_eq!(demo.interrupt().await, Some(0));
}

#[tokio::test]
async fn a_replica_is_killed_and_another_one_shows_all_devices() {
    let mut demo = Demo::start().await;
    let listed = |list: &Value| list["total"] == 20;
    demo.api_until("/api/v1/devices", listed).await;
    let mut live = Live::connect(&demo.page).await;
    live.until(|reply| reply["id"] == 2).await;
    demo.process.write("\n");
    live.broken().await;
    let mut live = Live::connect(&demo.page).await;
    assert_eq!(live.snapshot().await, 20);
    live.until(|reply| devices(&reply["push"]["pub"]["data"]) > 0)
        .await;
    drop(live);
    wait_for("the replica to come back", async || {
        let output = demo.process.stdout();
        output.contains("is back").then_some(()).ok_or(output)
    })
    .await;
    assert_eq!(demo.interrupt().await, Some(0));
}

#[tokio::test]
async fn an_injected_anomaly_raises_alerts() {
    let demo = Demo::start().await;
    let output = demo.process.stdout();
    let command = output
        .lines()
        .find_map(|line| line.split_once("Disturb a room"))
        .expect("a command to disturb a room")
        .1;
    demo.api_until("/api/v1/devices", |list| list["total"] == 20)
        .await;
    let curl = format!("{command} --fail");
    let injected = Program::new("sh").args(&["-c", &curl]).run().await;
    assert_eq!(injected.stdout, r#"{"devices":10}"#, "{injected:?}");
    let alerts = "/api/v1/alerts";
    demo.api_until(alerts, |alerts| {
        let alerts = alerts.to_string();
        alerts.contains("threshold") && alerts.contains("temperature")
    })
    .await;
    assert_eq!(demo.interrupt().await, Some(0));
}

#[tokio::test]
async fn bad_messages_are_dead_letters_and_the_next_good_one_arrives() {
    let demo = Demo::start().await;
    let (port, topic, payload) = demo.publish_arguments();
    let large = vec![b'x'; 2 << 20];
    let future = br#"{"device_id":"d","timestamp":99999999999999,"readings":[{"sensor":"temperature","value":1}]}"#;
    let impossible = payload.replace("21.5", "5000");
    let bad: [(&str, &[u8]); 10] = [
        (&topic, b"\xff\xfe"),
        (&topic, b"not json"),
        (&topic, br#"{"device_id":7,"timestamp":1,"readings":[]}"#),
        (
            &topic,
            br#"{"timestamp":1,"readings":[{"sensor":"temperature","value":1}]}"#,
        ),
        (
            &topic,
            br#"{"device_id":"d","timestamp":1,"readings":[{"sensor":"temperature","value":NaN}]}"#,
        ),
        (&topic, impossible.as_bytes()),
        (&topic, future),
        (&topic, b""),
        (&topic, &large),
        ("mtic/msg/client/realtime/short", payload.as_bytes()),
    ];
    publish(port, &bad).await;
    publish(port, &[(&topic, payload.as_bytes())]).await;
    let own = "/api/v1/devices/demo/visitors/my-sensor";
    demo.api_until(own, |device| device["detail"].is_null())
        .await;
    // The bridge itself refuses two of them; the consumer counts the others.
    demo.api_until("/api/v1/stats", |stats| {
        stats["dead_letters_total"] == bad.len() - 2
    })
    .await;
    assert_eq!(demo.interrupt().await, Some(0));
}

#[test]
fn a_port_in_use_is_reported() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port().to_string();
    for flag in ["--port", "--mqtt-port"] {
        let other = if flag == "--port" {
            "--mqtt-port"
        } else {
            "--port"
        };
        let demo = Program::new(env!("CARGO_BIN_EXE_demo"));
        let run = demo.args(&[flag, &port, other, "0"]).run_sync();
        assert_eq!(run.code, Some(1));
        assert!(
            run.stderr.contains(&port) && run.stderr.contains(flag),
            "{run:?}"
        );
    }
}
