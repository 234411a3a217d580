//! The demo as a visitor runs it: the binary, its output, its page's API.
#![allow(
    clippy::unwrap_used,
    reason = "a test ends where something is not as it must be"
)]

use std::io::{BufRead, BufReader, Read};
use std::net::TcpListener;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, SystemTime};

use futures::StreamExt;
use rumqttc::{AsyncClient, Event, MqttOptions, Packet, QoS};
use serde_json::Value;
use tokio::time::timeout;
use tokio_tungstenite::connect_async;

/// Generous: only a broken demo reaches it.
const DEADLINE: Duration = Duration::from_secs(90);

struct Demo {
    process: Child,
    /// `127.0.0.1:port` of the page.
    page: String,
    /// The line that makes the visitor a device.
    publish: String,
}

impl Demo {
    /// Starts it on free ports and reads what it tells the visitor.
    fn start() -> Self {
        let mut process = Command::new(env!("CARGO_BIN_EXE_demo"))
            .args([
                "--port",
                "0",
                "--mqtt-port",
                "0",
                "--devices",
                "20",
                "--rate",
                "40",
            ])
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut output = BufReader::new(process.stdout.take().unwrap());
        let (mut page, mut publish) = (None, None);
        for line in output.by_ref().lines().map(Result::unwrap) {
            if let Some((_, rest)) = line.split_once("http://")
                && page.is_none()
            {
                page = Some(rest.trim_end_matches('/').to_string());
            }
            if let Some(at) = line.find("mosquitto_pub") {
                publish = Some(line[at..].to_string());
            }
            if line.contains("Ctrl-C") {
                break;
            }
        }
        Self {
            process,
            page: page.expect("the page's address"),
            publish: publish.expect("a line to publish with"),
        }
    }

    async fn api(&self, path: &str) -> Value {
        let answer = reqwest::get(format!("http://{}{path}", self.page))
            .await
            .unwrap();
        answer.json().await.unwrap()
    }

    /// Waits until what `path` answers is as wanted.
    async fn api_until(&self, path: &str, wanted: impl Fn(&Value) -> bool) -> Value {
        let wait = async {
            loop {
                let answer = self.api(path).await;
                if wanted(&answer) {
                    return answer;
                }
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        };
        let waited = timeout(DEADLINE, wait).await;
        waited.unwrap_or_else(|_| panic!("{path} does not become as wanted"))
    }

    /// Port, topic and payload of the line, as a shell would read them.
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
    fn interrupt(mut self) -> Option<i32> {
        let pid = self.process.id().to_string();
        let sent = Command::new("kill").args(["-INT", &pid]).status().unwrap();
        assert!(sent.success());
        self.process.wait().unwrap().code()
    }
}

impl Drop for Demo {
    fn drop(&mut self) {
        // Does nothing where it has ended.
        let _ = self.process.kill();
        let _ = self.process.wait();
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
        let event = timeout(DEADLINE, events.poll())
            .await
            .expect("an acknowledgement");
        if let Event::Incoming(Packet::PubAck(_)) = event.unwrap() {
            acknowledged += 1;
        }
    }
}

#[tokio::test]
async fn a_visitor_sees_the_fleet_and_becomes_a_device() {
    let demo = Demo::start();
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
        .api_until(own, |device| device["error"].is_null())
        .await;
    assert_eq!(device["readings"]["temperature"]["value"], 21.5);

    let (mut socket, _) = connect_async(format!("ws://{}/ws", demo.page))
        .await
        .unwrap();
    let mut kinds = std::collections::BTreeSet::new();
    while !["hello", "snapshot", "readings", "stats"]
        .iter()
        .all(|kind| kinds.contains(*kind))
    {
        let frame = timeout(DEADLINE, socket.next())
            .await
            .expect("a frame")
            .unwrap()
            .unwrap();
        let frame: Value = serde_json::from_str(frame.to_text().unwrap()).unwrap();
        kinds.insert(frame["type"].as_str().unwrap().to_string());
    }
    drop(socket);
    assert_eq!(demo.interrupt(), Some(0));
}

#[tokio::test]
async fn bad_messages_are_dead_letters_and_the_next_good_one_arrives() {
    let demo = Demo::start();
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
    demo.api_until(own, |device| device["error"].is_null())
        .await;
    // The bridge refuses two of them by itself; the consumer counts its own.
    demo.api_until("/api/v1/stats", |stats| {
        stats["dead_letters_total"] == bad.len() - 2
    })
    .await;
    assert_eq!(demo.interrupt(), Some(0));
}

#[test]
fn a_port_in_use_is_named() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port().to_string();
    for flag in ["--port", "--mqtt-port"] {
        let mut demo = Command::new(env!("CARGO_BIN_EXE_demo"));
        let other = if flag == "--port" {
            "--mqtt-port"
        } else {
            "--port"
        };
        let output = demo.args([flag, &port, other, "0"]).output().unwrap();
        let error = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1));
        assert!(error.contains(&port) && error.contains(flag), "{error}");
    }
}
