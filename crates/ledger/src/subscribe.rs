//! `iot-ledger subscribe`: takes messages as fast as a broker gives them.
//!
//! The bare half of a bridge, and so its limit: QoS 1 messages are decoded,
//! acknowledged in batches, one write for all of a few milliseconds, and thrown
//! away. A write for each acknowledgement costs more than the message does.

use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, bail};
use bytes::BytesMut;
use iot_core::mqtt_url::MqttUrl;
use iot_service::config::HumanDuration;
use rumqttc::v5::mqttbytes::{
    QoS,
    v5::{
        Connect, ConnectProperties, Disconnect, DisconnectReasonCode, Filter, Packet, PingReq,
        PubAck, Publish, SubAck, Subscribe, SubscribeReasonCode,
    },
};
use serde::Serialize;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{Instant, Interval, MissedTickBehavior, interval, sleep_until, timeout};

use crate::connection::{self, DEAD_AFTER, HANDSHAKE, PING_EVERY};
use crate::payload;
use crate::publish::Broker;

const READ_BUFFER: usize = 64 * 1024;

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    broker: Broker,
    /// Filters to subscribe to, separated by commas, with QoS 1.
    #[arg(
        long,
        value_delimiter = ',',
        default_value = "mtic/msg/client/realtime/tenant123/#"
    )]
    filter: Vec<String>,
    /// Messages to take.
    #[arg(long, default_value_t = 10_000, value_parser = clap::value_parser!(u64).range(1..))]
    messages: u64,
    /// How often acknowledgements are written.
    #[arg(long, default_value = "5ms")]
    ack_every: HumanDuration,
    /// Messages that the broker may have unacknowledged.
    #[arg(long, default_value_t = 65_535, value_parser = clap::value_parser!(u16).range(1..))]
    receive_maximum: u16,
    /// Give up when no message came for so long.
    #[arg(long, default_value = "60s")]
    timeout: HumanDuration,
    /// Print the summary as JSON.
    #[arg(long)]
    json: bool,
}

/// What was taken.
#[derive(Debug, Serialize)]
struct Summary {
    messages: u64,
    payload_bytes: u64,
    /// Marked as sent before.
    redelivered: u64,
    /// From the first message to the last.
    seconds: f64,
    rate: f64,
}

pub(crate) async fn run(args: Args) -> anyhow::Result<ExitCode> {
    let json = args.json;
    let mut subscriber = Subscriber::connect(args).await?;
    subscriber.subscribe().await?;
    // Whoever starts the publisher waits for this line.
    eprintln!("subscribed");
    let taken = subscriber.take_all().await;
    // Also after a failure: what came is worth knowing.
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
    stream: TcpStream,
    input: BytesMut,
    output: BytesMut,
    messages: u64,
    payload_bytes: u64,
    redelivered: u64,
    first: Option<Instant>,
    last: Instant,
}

impl Subscriber {
    async fn connect(args: Args) -> anyhow::Result<Self> {
        let url: &MqttUrl = &args.broker.url;
        let connect = Connect {
            keep_alive: DEAD_AFTER.as_secs() as u16,
            client_id: format!("ledger-subscribe-{}", payload::now_us()),
            clean_start: true,
            properties: Some(ConnectProperties {
                receive_maximum: Some(args.receive_maximum),
                ..ConnectProperties::new()
            }),
        };
        let mut input = BytesMut::with_capacity(READ_BUFFER);
        let mut output = BytesMut::new();
        let login = args.broker.login();
        let greeted = connection::greet(url, connect, login, &mut input, &mut output);
        let (stream, _) = timeout(HANDSHAKE, greeted)
            .await
            .context("the broker did not greet in time")??;
        Ok(Self {
            args,
            stream,
            input,
            output,
            messages: 0,
            payload_bytes: 0,
            redelivered: 0,
            first: None,
            last: Instant::now(),
        })
    }

    /// Returns when all filters are granted. Messages may come before that.
    async fn subscribe(&mut self) -> anyhow::Result<()> {
        let filters = self.args.filter.iter();
        let filters = filters.map(|filter| Filter::new(filter.clone(), QoS::AtLeastOnce));
        let subscribe = Subscribe {
            pkid: 1,
            filters: filters.collect(),
            properties: None,
        };
        connection::write(&Packet::Subscribe(subscribe), &mut self.output)?;
        self.flush().await?;
        let granted = async {
            loop {
                match connection::read(&mut self.input)? {
                    Some(Packet::SubAck(ack)) => return granted(&self.args.filter, &ack),
                    Some(packet) => self.handle(packet)?,
                    None => self.receive().await?,
                }
            }
        };
        timeout(HANDSHAKE, granted)
            .await
            .context("the broker did not answer the subscription in time")?
    }

    async fn take_all(&mut self) -> anyhow::Result<()> {
        let mut acks = ticks(*self.args.ack_every);
        let mut pings = ticks(PING_EVERY);
        self.last = Instant::now();
        while self.messages < self.args.messages {
            let give_up = self.last + *self.args.timeout;
            tokio::select! {
                received = self.receive() => {
                    received?;
                    while let Some(packet) = connection::read(&mut self.input)? {
                        self.handle(packet)?;
                    }
                }
                _ = acks.tick() => self.flush().await?,
                _ = pings.tick() => connection::write(&Packet::PingReq(PingReq), &mut self.output)?,
                () = sleep_until(give_up) => bail!(
                    "{} of {} messages came, and no more for {}",
                    self.messages, self.args.messages, self.args.timeout
                ),
            }
        }
        let goodbye = Disconnect::new(DisconnectReasonCode::NormalDisconnection);
        connection::write(&Packet::Disconnect(goodbye), &mut self.output)?;
        self.flush().await
    }

    fn handle(&mut self, packet: Packet) -> anyhow::Result<()> {
        match packet {
            Packet::Publish(publish) => self.take(&publish),
            Packet::PingResp(_) => Ok(()),
            Packet::Disconnect(reason) => bail!("the broker ended it: {:?}", reason.reason_code),
            other => bail!("the broker sent {other:?}"),
        }
    }

    fn take(&mut self, publish: &Publish) -> anyhow::Result<()> {
        self.last = Instant::now();
        self.first.get_or_insert(self.last);
        self.messages += 1;
        self.payload_bytes += publish.payload.len() as u64;
        self.redelivered += u64::from(publish.dup);
        match publish.qos {
            QoS::AtMostOnce => Ok(()),
            QoS::AtLeastOnce => {
                let ack = PubAck::new(publish.pkid, None);
                connection::write(&Packet::PubAck(ack), &mut self.output)
            }
            QoS::ExactlyOnce => bail!("the broker sent QoS 2, which was not subscribed to"),
        }
    }

    /// Cancel safe.
    async fn receive(&mut self) -> anyhow::Result<()> {
        self.input.reserve(READ_BUFFER / 4);
        let read = self.stream.read_buf(&mut self.input).await;
        if read.context("reading from the broker")? == 0 {
            bail!("the broker closed the connection");
        }
        Ok(())
    }

    async fn flush(&mut self) -> anyhow::Result<()> {
        let written = self.stream.write_all_buf(&mut self.output);
        timeout(DEAD_AFTER, written)
            .await
            .context("the broker reads nothing")?
            .context("writing to the broker")
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
    use rumqttc::v5::mqttbytes::v5::{ConnAck, ConnectReturnCode};
    use tokio::net::TcpListener;

    use super::*;

    /// The broker's end of the connection, played by hand.
    struct Peer {
        stream: TcpStream,
        input: BytesMut,
    }

    impl Peer {
        /// Greets a subscriber and answers its subscription.
        async fn accept(listener: TcpListener, code: SubscribeReasonCode) -> Self {
            let (stream, _) = listener.accept().await.unwrap();
            let input = BytesMut::new();
            let mut peer = Self { stream, input };
            assert!(matches!(
                peer.packet().await,
                Some(Packet::Connect(connect, _, _)) if connect.clean_start
            ));
            peer.send(Packet::ConnAck(ConnAck {
                session_present: false,
                code: ConnectReturnCode::Success,
                properties: None,
            }))
            .await;
            let Some(Packet::Subscribe(subscribe)) = peer.packet().await else {
                panic!("no SUBSCRIBE");
            };
            assert_eq!(subscribe.filters[0].qos, QoS::AtLeastOnce);
            peer.send(Packet::SubAck(SubAck {
                pkid: subscribe.pkid,
                return_codes: vec![code],
                properties: None,
            }))
            .await;
            peer
        }

        async fn send(&mut self, packet: Packet) {
            let mut output = BytesMut::new();
            connection::write(&packet, &mut output).unwrap();
            self.stream.write_all(&output).await.unwrap();
        }

        /// `None` once the subscriber said goodbye.
        async fn packet(&mut self) -> Option<Packet> {
            loop {
                // The codec writes a DISCONNECT without a body, but cannot read it.
                if self.input[..] == [0xe0, 0] {
                    return None;
                }
                if let Some(packet) = connection::read(&mut self.input).unwrap() {
                    return Some(packet);
                }
                let read = self.stream.read_buf(&mut self.input).await.unwrap();
                assert_ne!(read, 0, "gone without goodbye");
            }
        }
    }

    async fn listen() -> (TcpListener, Args) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("mqtt://{}", listener.local_addr().unwrap());
        let args = Args {
            broker: Broker::of(url.parse().unwrap()),
            filter: vec!["a/#".to_owned()],
            messages: 3,
            ack_every: "5ms".parse().unwrap(),
            receive_maximum: 100,
            timeout: "60s".parse().unwrap(),
            json: false,
        };
        (listener, args)
    }

    #[tokio::test]
    async fn acknowledges_each_message_once_and_says_goodbye() {
        let (listener, args) = listen().await;
        let subscribing = tokio::spawn(async move {
            let mut subscriber = Subscriber::connect(args).await.unwrap();
            subscriber.subscribe().await.unwrap();
            subscriber.take_all().await.unwrap();
            subscriber.summary()
        });
        let mut peer = Peer::accept(listener, SubscribeReasonCode::Success(QoS::AtLeastOnce)).await;
        for pkid in [7, 8, 9] {
            let publish = Publish {
                pkid,
                dup: pkid == 8,
                ..Publish::new("a/b", QoS::AtLeastOnce, "four", None)
            };
            peer.send(Packet::Publish(publish)).await;
        }
        let mut acknowledged = Vec::new();
        while let Some(packet) = peer.packet().await {
            match packet {
                Packet::PubAck(ack) => acknowledged.push(ack.pkid),
                Packet::PingReq(_) => {}
                other => panic!("{other:?}"),
            }
        }
        assert_eq!(acknowledged, [7, 8, 9]);
        let summary = subscribing.await.unwrap();
        assert_eq!((summary.messages, summary.payload_bytes), (3, 12));
        assert_eq!(summary.redelivered, 1);
    }

    #[tokio::test]
    async fn a_refused_subscription_is_an_error() {
        let (listener, args) = listen().await;
        let peer = tokio::spawn(Peer::accept(listener, SubscribeReasonCode::NotAuthorized));
        let mut subscriber = Subscriber::connect(args).await.unwrap();
        let error = subscriber.subscribe().await.unwrap_err().to_string();
        assert!(error.contains("a/#"), "{error}");
        peer.await.unwrap();
    }

    #[tokio::test]
    async fn gives_up_when_nothing_comes() {
        let (listener, mut args) = listen().await;
        args.timeout = "50ms".parse().unwrap();
        let granted = SubscribeReasonCode::Success(QoS::AtLeastOnce);
        let peer = tokio::spawn(Peer::accept(listener, granted));
        let mut subscriber = Subscriber::connect(args).await.unwrap();
        subscriber.subscribe().await.unwrap();
        let error = subscriber.take_all().await.unwrap_err().to_string();
        assert!(error.starts_with("0 of 3"), "{error}");
        peer.await.unwrap();
    }
}
