//! `iot-ledger subscribe`: receives messages as fast as a broker sends them.
//!
//! This is the MQTT half of a bridge, and so its upper bound: QoS 1 messages are
//! decoded, acknowledged in batches with one write every few milliseconds, and
//! discarded. A write for each acknowledgement would cost more than the message.

use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use iot_mqtt::{
    Connect, Connection, ConnectionError, FILTERS_PER_REQUEST, MqttStream, Packet, Publish, QoS,
    Reader, SubAck, SubscribeReasonCode, Writer,
};
use iot_service::config::HumanDuration;
use serde::Serialize;
use tokio::time::{Instant, Interval, MissedTickBehavior, interval, sleep_until, timeout};

use crate::connection::{self, DEAD_AFTER, HANDSHAKE, PING_EVERY};
use crate::payload;
use crate::publish::Broker;

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    broker: Broker,
    /// Filters to subscribe to with QoS 1, separated by commas.
    #[arg(
        long,
        value_delimiter = ',',
        default_value = "mtic/msg/client/realtime/tenant123/#"
    )]
    filter: Vec<String>,
    /// Messages to receive.
    #[arg(long, default_value_t = 10_000, value_parser = clap::value_parser!(u64).range(1..))]
    messages: u64,
    /// Interval at which acknowledgements are written.
    #[arg(long, default_value = "5ms")]
    ack_every: HumanDuration,
    /// Unacknowledged messages that the broker may send.
    #[arg(long, default_value_t = 65_535, value_parser = clap::value_parser!(u16).range(1..))]
    receive_maximum: u16,
    /// Give up when no message arrives for so long.
    #[arg(long, default_value = "60s")]
    timeout: HumanDuration,
    /// Print the summary as JSON.
    #[arg(long)]
    json: bool,
}

/// What was received.
#[derive(Debug, Serialize)]
struct Summary {
    messages: u64,
    payload_bytes: u64,
    /// Messages with the DUP flag.
    redelivered: u64,
    /// From the first message to the last.
    seconds: f64,
    rate: f64,
}

pub(crate) async fn run(args: Args) -> anyhow::Result<ExitCode> {
    let json = args.json;
    let mut subscriber = Subscriber::connect(args).await?;
    subscriber.subscribe().await?;
    // Scripts wait for this line before they start a publisher.
    eprintln!("subscribed");
    let taken = subscriber.take_all().await;
    // Also after a failure.
    let summary = subscriber.summary();
    if json {
        println!("{}", serde_json::to_string(&summary)?);
    } else {
        println!(
            "{} messages, {} payload bytes, in {:.2} s: {:.0} msg/s",
            summary.messages, summary.payload_bytes, summary.seconds, summary.rate
        );
        if summary.redelivered > 0 {
            println!("  {} marked as sent before", summary.redelivered);
        }
    }
    taken?;
    Ok(ExitCode::SUCCESS)
}

struct Subscriber {
    args: Args,
    stream: MqttStream,
    reader: Reader,
    writer: Writer,
    messages: u64,
    payload_bytes: u64,
    redelivered: u64,
    first: Option<Instant>,
    last: Instant,
}

impl Subscriber {
    async fn connect(args: Args) -> anyhow::Result<Self> {
        let connect = Connect {
            client_id: format!("ledger-subscribe-{}", payload::now_us()),
            login: args.broker.login(),
            receive_maximum: Some(args.receive_maximum),
            ..connection::connect()
        };
        let Connection {
            stream,
            reader,
            writer,
            ..
        } = connection::open(&args.broker.url, &connect).await?;
        Ok(Self {
            args,
            stream,
            reader,
            writer,
            messages: 0,
            payload_bytes: 0,
            redelivered: 0,
            first: None,
            last: Instant::now(),
        })
    }

    /// Returns when all filters are granted. Messages may arrive before that.
    async fn subscribe(&mut self) -> anyhow::Result<()> {
        let filters = self.args.filter.clone();
        for (filters, id) in filters.chunks(FILTERS_PER_REQUEST).zip(1..) {
            self.writer.subscribe(id, filters, QoS::AtLeastOnce);
            self.flush().await?;
            let granted = async {
                loop {
                    match self.reader.receive(&mut self.stream).await? {
                        Packet::SubAck(ack) if ack.pkid == id => return granted(filters, &ack),
                        packet => self.handle(packet)?,
                    }
                }
            };
            timeout(HANDSHAKE, granted)
                .await
                .context("the broker did not answer the subscription in time")??;
        }
        Ok(())
    }

    async fn take_all(&mut self) -> anyhow::Result<()> {
        let mut acks = ticks(*self.args.ack_every);
        let mut pings = ticks(PING_EVERY);
        self.last = Instant::now();
        while self.messages < self.args.messages {
            let give_up = self.last + *self.args.timeout;
            tokio::select! {
                packet = self.reader.receive(&mut self.stream) => {
                    self.handle(packet?)?;
                    while let Some(packet) = self.reader.packet()? {
                        self.handle(packet)?;
                    }
                }
                _ = acks.tick() => self.flush().await?,
                _ = pings.tick() => self.writer.ping(),
                () = sleep_until(give_up) => bail!(
                    "{} of {} messages arrived, and no more for {}",
                    self.messages, self.args.messages, self.args.timeout
                ),
            }
        }
        self.writer.disconnect();
        self.flush().await
    }

    fn handle(&mut self, packet: Packet) -> anyhow::Result<()> {
        match packet {
            Packet::Publish(publish) => self.take(&publish, publish.payload.len() as u64),
            Packet::Defective(defective) => {
                let size = defective.publish.payload.len() as u64;
                self.take(&defective.publish, size)
            }
            Packet::Oversize(oversize) => self.take(&oversize.publish, oversize.size),
            Packet::PingResp => Ok(()),
            other => Err(ConnectionError::Unexpected(other.name()).into()),
        }
    }

    /// `size` is that of the payload, bytes.
    fn take(&mut self, publish: &Publish, size: u64) -> anyhow::Result<()> {
        self.last = Instant::now();
        self.first.get_or_insert(self.last);
        self.messages += 1;
        self.payload_bytes += size;
        self.redelivered += u64::from(publish.dup);
        if publish.qos == QoS::ExactlyOnce {
            bail!("the broker sent QoS 2, which was not subscribed to");
        }
        self.writer.acknowledge(publish.pkid, publish.qos);
        Ok(())
    }

    async fn flush(&mut self) -> anyhow::Result<()> {
        let written = timeout(DEAD_AFTER, self.writer.flush(&mut self.stream)).await;
        Ok(written.context("the broker does not read")??)
    }

    fn summary(&self) -> Summary {
        let seconds = self
            .first
            .map_or(0.0, |first| (self.last - first).as_secs_f64());
        Summary {
            messages: self.messages,
            payload_bytes: self.payload_bytes,
            redelivered: self.redelivered,
            seconds,
            rate: self.messages as f64 / seconds.max(1e-6),
        }
    }
}

fn granted(filters: &[String], ack: &SubAck) -> anyhow::Result<()> {
    ensure!(
        ack.return_codes.len() == filters.len(),
        "the broker sent a malformed SUBACK ({} reason codes for {} filters)",
        ack.return_codes.len(),
        filters.len()
    );
    for (filter, code) in filters.iter().zip(&ack.return_codes) {
        if !matches!(code, SubscribeReasonCode::Success(_)) {
            bail!("the broker refused the subscription to {filter}: {code:?}");
        }
    }
    Ok(())
}

fn ticks(every: Duration) -> Interval {
    let mut ticks = interval(every.max(Duration::from_millis(1)));
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    ticks
}

#[cfg(test)]
mod tests {
    use rumqttc::v5::mqttbytes::v5::Packet;
    use testkit::mqtt_broker::{Broker, Peer};

    use super::*;

    /// Accepts a subscriber and answers its subscription.
    async fn accept(broker: &Broker, code: SubscribeReasonCode) -> Peer {
        let mut peer = broker.accept(false).await;
        assert!(
            peer.connect
                .as_ref()
                .is_some_and(|connect| connect.clean_start)
        );
        let subscribe = peer.subscription().await;
        assert_eq!(subscribe.filters[0].qos, QoS::AtLeastOnce);
        peer.grant(subscribe.pkid, vec![code]).await;
        peer
    }

    async fn listen() -> (Broker, Args) {
        let broker = Broker::start().await;
        let url = format!("mqtt://{}", broker.address());
        let args = Args {
            broker: crate::publish::Broker::of(url.parse().unwrap()),
            filter: vec!["a/#".to_owned()],
            messages: 3,
            ack_every: "5ms".parse().unwrap(),
            receive_maximum: 100,
            timeout: "60s".parse().unwrap(),
            json: false,
        };
        (broker, args)
    }

    #[tokio::test]
    async fn acknowledges_each_message_once_and_disconnects() {
        let (broker, args) = listen().await;
        let subscribing = tokio::spawn(async move {
            let mut subscriber = Subscriber::connect(args).await.unwrap();
            subscriber.subscribe().await.unwrap();
            subscriber.take_all().await.unwrap();
            subscriber.summary()
        });
        let mut peer = accept(&broker, SubscribeReasonCode::Success(QoS::AtLeastOnce)).await;
        peer.publish(7, "a/b", b"four").await;
        peer.publish_again(8, "a/b", b"four").await;
        peer.publish(9, "a/b", b"four").await;
        assert_eq!(peer.acknowledgements(3).await, [7, 8, 9]);
        let last = peer.next().await;
        assert!(matches!(last, Packet::Disconnect(_)), "{last:?}");
        let summary = subscribing.await.unwrap();
        assert_eq!((summary.messages, summary.payload_bytes), (3, 12));
        assert_eq!(summary.redelivered, 1);
    }

    #[tokio::test]
    async fn a_refused_subscription_is_an_error() {
        let (broker, args) = listen().await;
        let peer =
            tokio::spawn(async move { accept(&broker, SubscribeReasonCode::NotAuthorized).await });
        let mut subscriber = Subscriber::connect(args).await.unwrap();
        let error = subscriber.subscribe().await.unwrap_err().to_string();
        assert!(error.contains("a/#"), "{error}");
        peer.await.unwrap();
    }

    #[tokio::test]
    async fn an_answer_to_fewer_filters_is_an_error() {
        let (broker, mut args) = listen().await;
        args.filter = vec!["a/#".to_owned(), "b/#".to_owned()];
        let granted = SubscribeReasonCode::Success(QoS::AtLeastOnce);
        let peer = tokio::spawn(async move { accept(&broker, granted).await });
        let mut subscriber = Subscriber::connect(args).await.unwrap();
        let error = subscriber.subscribe().await.unwrap_err().to_string();
        assert!(error.contains("1 reason codes for 2 filters"), "{error}");
        drop(peer.await.unwrap());
    }

    #[tokio::test]
    async fn a_subscribe_has_at_most_eight_filters() {
        let (broker, mut args) = listen().await;
        args.filter = (1..=17).map(|number| format!("{number}/#")).collect();
        let wanted = args.filter.clone();
        let peer = tokio::spawn(async move {
            let mut peer = broker.accept(false).await;
            let mut requests = Vec::new();
            for _ in 0..3 {
                requests.push(peer.grant_all().await);
            }
            (peer, requests)
        });
        let mut subscriber = Subscriber::connect(args).await.unwrap();
        subscriber.subscribe().await.unwrap();
        let (_peer, requests) = peer.await.unwrap();
        let sizes: Vec<usize> = requests.iter().map(Vec::len).collect();
        assert_eq!((sizes, requests.concat()), (vec![8, 8, 1], wanted));
    }

    #[tokio::test]
    async fn gives_up_when_no_message_arrives() {
        let (broker, mut args) = listen().await;
        args.timeout = "50ms".parse().unwrap();
        let granted = SubscribeReasonCode::Success(QoS::AtLeastOnce);
        let peer = tokio::spawn(async move { accept(&broker, granted).await });
        let mut subscriber = Subscriber::connect(args).await.unwrap();
        subscriber.subscribe().await.unwrap();
        let error = subscriber.take_all().await.unwrap_err().to_string();
        assert!(error.starts_with("0 of 3"), "{error}");
        peer.await.unwrap();
    }

    /// The broker keeps the connection open: only its DISCONNECT, with a reason and
    /// without properties as Mosquitto sends it, ends the connection.
    #[tokio::test]
    async fn a_disconnect_is_reported_with_its_reason() {
        const SERVER_SHUTTING_DOWN: u8 = 0x8B;
        let (broker, mut args) = listen().await;
        args.timeout = "5s".parse().unwrap();
        let peer = tokio::spawn(async move {
            let granted = SubscribeReasonCode::Success(QoS::AtLeastOnce);
            let mut peer = accept(&broker, granted).await;
            peer.send_bytes(&[0xE0, 1, SERVER_SHUTTING_DOWN]).await;
            peer
        });
        let mut subscriber = Subscriber::connect(args).await.unwrap();
        subscriber.subscribe().await.unwrap();
        let error = subscriber.take_all().await.unwrap_err().to_string();
        assert!(error.contains("ServerShuttingDown"), "{error}");
        drop(peer.await.unwrap());
    }
}
