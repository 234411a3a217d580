//! `iot-ledger publish`: a run of numbered messages over several connections.

use std::io;
use std::process::ExitCode;
use std::str::FromStr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use clap::CommandFactory;
use clap::error::ErrorKind;
use futures::future::join_all;
use iot_core::mqtt_url::{MqttUrl, MqttUrlError};
use iot_service::config::HumanDuration;
use rumqttc::v5::mqttbytes::v5::Login;
use serde::Serialize;
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::Instant;

use crate::connection::{self, Job, Outcome, Pace};
use crate::histogram::{Histogram, Percentiles};
use crate::payload;
use crate::verify::Plan;

const STOP_AHEAD: Duration = Duration::from_millis(200);

/// Messages a second over all connections, or as fast as they are acknowledged.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Rate {
    Max,
    PerSecond(f64),
}

impl FromStr for Rate {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match (text, text.parse::<f64>()) {
            ("max", _) => Ok(Self::Max),
            (_, Ok(rate)) if rate.is_finite() && rate > 0.0 => Ok(Self::PerSecond(rate)),
            _ => Err("must be \"max\" or a number above 0".to_owned()),
        }
    }
}

/// Where to connect to.
#[derive(Debug, clap::Args)]
pub(crate) struct Broker {
    /// Broker to connect to.
    #[arg(long, env = "MQTT_URL", default_value = "mqtt://127.0.0.1:1883", value_parser = plain_url)]
    pub(crate) url: MqttUrl,
    /// User to log in as, with the password in MQTT_PASSWORD.
    #[arg(long, default_value = "")]
    username: String,
    /// Password of the user; on the command line others can see it.
    #[arg(
        long,
        env = "MQTT_PASSWORD",
        default_value = "",
        hide_env_values = true
    )]
    password: String,
}

impl Broker {
    #[cfg(test)]
    pub(crate) fn of(url: MqttUrl) -> Self {
        let (username, password) = Default::default();
        Self {
            url,
            username,
            password,
        }
    }

    pub(crate) fn login(&self) -> Option<Login> {
        (!self.username.is_empty()).then(|| Login::new(&self.username, &self.password))
    }
}

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    broker: Broker,
    /// Topic to publish to.
    #[arg(long, default_value = "mtic/msg/client/realtime/tenant123/project456", value_parser = valid_topic)]
    topic: String,
    /// Connections, each publishing its share in order.
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    connections: u32,
    /// Messages a second over all connections, or "max". At a rate, the sending
    /// time that a message carries is the time it was due.
    #[arg(long, default_value = "max")]
    rate: Rate,
    /// Messages over all connections. At a rate, SIGTERM ends the run early: the
    /// summary says how many messages it was.
    #[arg(long, default_value_t = 10_000, value_parser = clap::value_parser!(u64).range(1..))]
    messages: u64,
    /// Exact size of each payload in bytes.
    #[arg(long, default_value_t = 400)]
    payload_size: usize,
    /// Name of the run, to find its messages by; made up if not given.
    #[arg(long, value_parser = payload::valid_run)]
    run: Option<String>,
    /// Messages in flight on each connection; the broker may ask for fewer.
    #[arg(long, default_value_t = 500, value_parser = clap::value_parser!(u16).range(1..=32_000))]
    window: u16,
    /// Give up when, for so long, nothing that is in flight was acknowledged.
    #[arg(long, default_value = "60s")]
    timeout: HumanDuration,
    /// Print the summary as JSON.
    #[arg(long)]
    json: bool,
}

fn plain_url(text: &str) -> Result<MqttUrl, String> {
    let url: MqttUrl = text
        .parse()
        .map_err(|error: MqttUrlError| error.to_string())?;
    if url.tls {
        Err("TLS is not supported here".to_owned())
    } else {
        Ok(url)
    }
}

fn valid_topic(topic: &str) -> Result<String, String> {
    if topic.is_empty() || topic.len() > 65_535 || topic.contains(['+', '#', '\0']) {
        return Err("must be an MQTT topic without wildcards".to_owned());
    }
    Ok(topic.to_owned())
}

/// What was published.
#[derive(Debug, Serialize)]
struct Summary {
    run: String,
    connections: u32,
    messages: u64,
    published: u64,
    acked: u64,
    unacked: u64,
    resent: u64,
    refused: u64,
    unmatched: u64,
    reconnects: u64,
    seconds: f64,
    /// Acknowledged messages a second.
    rate: f64,
    ack_ms: Option<Percentiles>,
    errors: Vec<String>,
}

pub(crate) async fn run(args: Args) -> anyhow::Result<ExitCode> {
    let run = args
        .run
        .clone()
        .unwrap_or_else(|| format!("r{}", payload::now_us()));
    let smallest = payload::smallest(&run, args.connections, args.messages);
    if args.payload_size < smallest {
        let message =
            format!("--payload-size must be at least {smallest} to hold the numbers of this run");
        crate::command::Command::command()
            .error(ErrorKind::ValueValidation, message)
            .exit();
    }
    let start = Instant::now();
    let limit = Arc::new(AtomicU64::new(u64::MAX));
    let jobs = jobs(&args, &run, start, &limit);
    let stop = match args.rate {
        Rate::Max => None,
        Rate::PerSecond(rate) => Some(tokio::spawn(stop_early(
            limit.clone(),
            start,
            rate / f64::from(args.connections),
        ))),
    };
    let outcomes = join_all(
        jobs.into_iter()
            .map(|job| tokio::spawn(connection::publish(job))),
    );
    let outcomes = outcomes.await.into_iter().collect::<Result<Vec<_>, _>>()?;
    if let Some(stop) = stop {
        stop.abort();
    }
    let messages = planned(args.messages, args.connections, &limit);
    let summary = Summary::new(&args, run, messages, &outcomes, start.elapsed());
    if args.json {
        println!("{}", serde_json::to_string(&summary)?);
    } else {
        summary.print();
    }
    let complete = summary.unacked == 0 && summary.refused == 0;
    Ok(if complete {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// On SIGTERM lowers `limit` to what is due by then, the same for every connection.
/// `rate`: of each.
async fn stop_early(limit: Arc<AtomicU64>, start: Instant, rate: f64) -> io::Result<()> {
    let mut stop = signal(SignalKind::terminate())?;
    stop.recv().await;
    // A little later than now, so that no connection has sent more already.
    let at = start.elapsed() + STOP_AHEAD;
    limit.store((at.as_secs_f64() * rate) as u64 + 1, Ordering::Relaxed);
    Ok(())
}

/// The messages of the whole run, which a stop may have made fewer.
fn planned(messages: u64, connections: u32, limit: &AtomicU64) -> u64 {
    let most = limit
        .load(Ordering::Relaxed)
        .saturating_mul(connections.into());
    messages.min(most)
}

fn jobs(args: &Args, run: &str, start: Instant, limit: &Arc<AtomicU64>) -> Vec<Job> {
    let plan = Plan {
        run: run.to_owned(),
        connections: args.connections,
        messages: args.messages,
    };
    let start_us = payload::now_us();
    let pace = |conn: u32| match args.rate {
        Rate::Max => Pace::Max,
        Rate::PerSecond(rate) => Pace::Every {
            start,
            start_us,
            first: f64::from(conn) / rate,
            step: f64::from(args.connections) / rate,
        },
    };
    let login = args.broker.login();
    (0..args.connections)
        .map(|conn| Job {
            url: args.broker.url.clone(),
            login: login.clone(),
            topic: Bytes::from(args.topic.clone()),
            run: run.to_owned(),
            conn,
            messages: plan.of(conn),
            limit: limit.clone(),
            payload_size: args.payload_size,
            window: args.window,
            pace: pace(conn),
            patience: *args.timeout,
        })
        .collect()
}

impl Summary {
    /// `messages`: how many there were to send.
    fn new(
        args: &Args,
        run: String,
        messages: u64,
        outcomes: &[Outcome],
        elapsed: Duration,
    ) -> Self {
        let sum = |field: fn(&Outcome) -> u64| outcomes.iter().map(field).sum::<u64>();
        let mut latency = Histogram::default();
        outcomes
            .iter()
            .for_each(|outcome| latency.merge(&outcome.ack_latency));
        let (acked, refused) = (sum(|o| o.acked), sum(|o| o.refused));
        Self {
            run,
            connections: args.connections,
            messages,
            published: sum(|o| o.published),
            acked,
            unacked: messages - acked - refused,
            resent: sum(|o| o.resent),
            refused,
            unmatched: sum(|o| o.unmatched),
            reconnects: sum(|o| o.connects.saturating_sub(1)),
            seconds: elapsed.as_secs_f64(),
            rate: acked as f64 / elapsed.as_secs_f64(),
            ack_ms: latency.percentiles(),
            errors: outcomes.iter().filter_map(|o| o.error.clone()).collect(),
        }
    }

    fn print(&self) {
        println!(
            "run {}: {} of {} messages acknowledged in {:.1} s, {:.0} msg/s",
            self.run, self.acked, self.messages, self.seconds, self.rate
        );
        if let Some(ack) = self.ack_ms {
            println!("  acknowledged after (ms)  {ack}");
        }
        if self.reconnects > 0 {
            println!(
                "  {} reconnects, {} messages sent again",
                self.reconnects, self.resent
            );
        }
        if self.unmatched > 0 {
            println!(
                "  {} went to a broker without a subscriber for them",
                self.unmatched
            );
        }
        if self.refused > 0 {
            println!("  {} refused by the broker", self.refused);
        }
        if self.unacked > 0 {
            println!("  {} NOT acknowledged", self.unacked);
        }
        for error in &self.errors {
            println!("  {error}");
        }
        println!(
            "check: iot-ledger verify-kafka --run {} --connections {} --messages {}",
            self.run, self.connections, self.messages
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates() {
        assert_eq!("max".parse(), Ok(Rate::Max));
        assert_eq!("2500".parse(), Ok(Rate::PerSecond(2500.0)));
        for text in ["", "0", "-1", "inf", "NaN", "fast"] {
            assert!(text.parse::<Rate>().is_err(), "{text:?}");
        }
    }

    #[test]
    fn a_stop_leaves_the_plan_of_a_run() {
        let planned = |limit| planned(1002, 4, &AtomicU64::new(limit));
        assert_eq!(planned(u64::MAX), 1002);
        assert_eq!(planned(10), 40, "all connections to the same number");
        assert_eq!(planned(250), 1000);
        assert_eq!(planned(251), 1002, "never more than was planned");
    }

    #[test]
    fn topics_to_publish_to_have_no_wildcards() {
        assert!(valid_topic("a/b").is_ok());
        for topic in ["", "a/+", "a/#"] {
            assert!(valid_topic(topic).is_err(), "{topic:?}");
        }
    }
}
