//! Starts everything in order, prints the addresses, and stops it in reverse.

use std::io::Write;
use std::net::SocketAddr;

use anyhow::Result;
use iot_core::dead_letter;
use iot_simulator::config::SinkKind;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::args::{Args, Part};
use crate::brokers::{Kafka, Mqtt, PARTITIONS, listen};
use crate::replicas::{self, Replicas};
use crate::services::{self, Running};

/// Topics created at the start: those of the simulator's tenants and projects, and the
/// one for the user's messages. The consumer does not have to discover them.
const TOPICS: &[(&str, u16)] = &[
    ("device-data", PARTITIONS),
    (dead_letter::DEFAULT_TOPIC, 1),
    ("acme.plant", 1),
    ("acme.office", 1),
    ("globex.plant", 1),
    ("globex.office", 1),
    ("demo.visitors", 1),
];

/// Runs the demo until Ctrl-C or SIGTERM, or until one of the services ends; or one of its
/// replicas.
pub(crate) async fn run(args: &Args) -> Result<()> {
    if let Some(Part::Replica { kafka }) = &args.part {
        return replicas::run(kafka).await;
    }
    let shutdown = CancellationToken::new();
    iot_service::cli::cancel_on_signal(shutdown.clone())?;
    let page = listen(args.port, "--port").await?;
    let page_address = page.local_addr()?;
    let mqtt = Mqtt::start(args.mqtt_port).await?;
    let kafka = Kafka::start(TOPICS.iter().copied())?;
    let mut stage = Stage::start(args, page, &mqtt, &kafka.address(), &shutdown).await?;
    if !shutdown.is_cancelled() {
        announce(page_address.port(), &mqtt, &stage);
    }
    let mut keys = keys();
    let result = loop {
        tokio::select! {
            () = shutdown.cancelled() => break Ok(()),
            error = stage.ended() => break Err(error),
            Some(()) = keys.recv() => stage.consumers.kill_one(),
        }
    };
    say("\nStopping ...");
    stage.stop().await.and(result)
}

/// All services, in the order of the message flow.
struct Stage {
    devices: Vec<Running>,
    /// Address of the API of the first half of the devices.
    fleet_api: SocketAddr,
    bridge: Running,
    consumers: Replicas,
}

impl Stage {
    /// Starts receivers first, so that every message is received.
    async fn start(
        args: &Args,
        page: tokio::net::TcpListener,
        mqtt: &Mqtt,
        kafka: &str,
        shutdown: &CancellationToken,
    ) -> Result<Self> {
        let consumers = Replicas::start(args.replicas, page, kafka, &args.log_level);
        let bridge = services::bridge(mqtt.v5, kafka);
        let bridge = Running::start("bridge", None, |listeners, stop| {
            iot_bridge::run(bridge, listeners, stop)
        });
        let (mut consumers, bridge) = (consumers.await?, bridge.await?);
        tokio::select! {
            (ready, ()) = async { tokio::join!(consumers.ready(), bridge.ready()) } => ready?,
            () = shutdown.cancelled() => {}
        }
        let half = args.devices / 2;
        let fleets = [
            (SinkKind::Mqtt, (0, half)),
            (SinkKind::Kafka, (half, args.devices - half)),
        ];
        let api = listen(0, "--port").await?;
        let fleet_api = api.local_addr()?;
        let (mut devices, mut api) = (Vec::new(), Some(api));
        for (sink, range) in fleets {
            let rate = f64::from(args.rate) * f64::from(range.1) / f64::from(args.devices);
            let fleet = services::fleet(sink, range, rate, mqtt.v5, kafka);
            let running = Running::start("simulator", api.take(), |listeners, stop| {
                iot_simulator::run(fleet, listeners, stop)
            });
            devices.push(running.await?);
        }
        Ok(Self {
            devices,
            fleet_api,
            bridge,
            consumers,
        })
    }

    async fn ended(&mut self) -> anyhow::Error {
        let [first, second] = self.devices.as_mut_slice() else {
            return std::future::pending().await;
        };
        tokio::select! {
            error = first.ended() => error,
            error = second.ended() => error,
            error = self.bridge.ended() => error,
            error = self.consumers.ended() => error,
        }
    }

    /// Stops senders first, so that their last messages still arrive.
    async fn stop(self) -> Result<()> {
        let mut result = Ok(());
        for part in self.devices.into_iter().chain([self.bridge]) {
            result = result.and(part.stop().await);
        }
        result.and(self.consumers.stop().await)
    }
}

/// Takes the Enter key of a terminal: one message each time it is pressed.
fn keys() -> mpsc::Receiver<()> {
    let (pressed, keys) = mpsc::channel(1);
    // A process in the background is stopped when it reads from the terminal.
    let foreground = rustix::termios::tcgetpgrp(std::io::stdin());
    if foreground.is_ok_and(|group| group != rustix::process::getpgrp()) {
        return keys;
    }
    // A thread, because reading the terminal can't be cancelled.
    std::thread::spawn(move || {
        let lines = std::io::stdin().lines().map_while(Result::ok);
        for _ in lines {
            if pressed.blocking_send(()).is_err() {
                return;
            }
        }
    });
    keys
}

/// Prints to standard output, which may be closed.
pub(crate) fn say(text: &str) {
    let _ = writeln!(std::io::stdout(), "{text}");
}

fn announce(page: u16, mqtt: &Mqtt, stage: &Stage) {
    let Stage {
        devices,
        fleet_api,
        bridge,
        consumers,
    } = stage;
    let simulators: Vec<_> = devices
        .iter()
        .map(|part| format!("http://{}/metrics", part.ops))
        .collect();
    let consumers: Vec<_> = consumers
        .running()
        .map(|(number, replica)| format!("replica {number}  http://{}/metrics", replica.ops))
        .collect();
    let payload = r#"{"device_id":"my-sensor","timestamp":'$(date +%s)'000,"readings":[{"sensor":"temperature","value":21.5}]}"#;
    let anomaly = r#"{"kind":"spike","sensor":"temperature","building":"building-1","room":"room-101","readings":30}"#;
    say(&format!(
        "
  Open            http://127.0.0.1:{page}/

  Send a message  mosquitto_pub -p {mqtt} -q 1 -t mtic/msg/client/realtime/demo/visitors -m '{payload}'

  Disturb a room  curl -s http://{fleet_api}/api/v1/anomalies -H 'content-type: application/json' -d '{anomaly}'

  MQTT            mqtt://127.0.0.1:{mqtt} (3.1.1), mqtt://127.0.0.1:{mqtt5} (5)
  Metrics         {consumers}
                  bridge     http://{bridge}/metrics
                  simulators {simulators}

  Press Enter to kill a replica of the consumer: the page goes on with another one.
  Press Ctrl-C to stop.",
        mqtt = mqtt.v4.port(),
        mqtt5 = mqtt.v5.port(),
        consumers = consumers.join("\n                  "),
        bridge = bridge.ops,
        simulators = simulators.join("\n                             "),
    ));
}
