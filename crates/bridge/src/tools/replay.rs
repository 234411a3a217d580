//! `iot-bridge dead-letters replay`: sends dead letters to the Kafka topics that the routing
//! gives them now, in order, each confirmed.

use std::collections::{BTreeMap, HashMap};
use std::fmt::{self, Write as _};
use std::sync::{Arc, mpsc};
use std::time::Duration;

use anyhow::{Context, bail};
use clap::Args;
use iot_core::dead_letter;
use iot_core::headers::MQTT_DELIVERY;
use iot_core::route::{Route, collision_key};
use iot_kafka::context::log;
use iot_kafka::errors::{Named, code};
use iot_kafka::topics;
use rdkafka::client::ClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::error::RDKafkaErrorCode;
use rdkafka::message::{Headers, OwnedHeaders};
use rdkafka::producer::{BaseRecord, DeliveryResult, ProducerContext, ThreadedProducer};
use tokio::runtime::Runtime;

use super::Outcome;
use super::dead_letters::{Filter, Line};
use super::letters::{Letter, Origin};
use crate::cluster::{DEADLINE, cluster};
use crate::config::BridgeConfig;
use crate::creator::{self, Admin};

/// Records in flight at most.
const MAX_MESSAGES: usize = 500;
/// Their payloads, bytes.
const MAX_BYTES: usize = 16 << 20;
/// How long Kafka may take to confirm one record.
const CONFIRM_DEADLINE: Duration = Duration::from_secs(60);

#[derive(Debug, Args)]
pub(crate) struct Replay {
    #[command(flatten)]
    filter: Filter,
    /// Send all of them to this Kafka topic instead
    #[arg(long, value_name = "TOPIC")]
    to_topic: Option<String>,
    /// Print what would be sent where, and send nothing
    #[arg(long)]
    dry_run: bool,
}

/// What happens to a dead letter.
#[derive(Debug, PartialEq, Eq)]
enum Verdict {
    Send(Target),
    /// It is skipped because its payload is truncated.
    Cut,
    /// It is skipped because the routing rejects it; the short reason.
    Stays(String),
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Target {
    topic: String,
    tenant: Option<String>,
    partition: Option<i32>,
    key: Option<Vec<u8>>,
}

/// Decides where a dead letter goes.
fn judge(letter: &Letter, to_topic: Option<&str>, config: &BridgeConfig) -> Verdict {
    if letter.cut {
        return Verdict::Cut;
    }
    let size = letter.payload.as_ref().map_or(0, Vec::len);
    if size > config.kafka.max_message_bytes.bytes() {
        return Verdict::Stays("too_large".into());
    }
    let routed = match &letter.origin {
        Origin::Mqtt { topic } => match config.route.route(topic) {
            Ok(route) => Ok(routed(route)),
            Err(error) => Err(error.reason()),
        },
        // It goes back to the partition that it was read from.
        Origin::Kafka { at, .. } => Ok(Target {
            topic: at.topic.to_string(),
            tenant: None,
            partition: Some(at.partition),
            key: letter.key.clone(),
        }),
        Origin::Unknown => Err("unknown_origin"),
    };
    match (to_topic, routed) {
        (None, Ok(target)) => Verdict::Send(target),
        (None, Err(reason)) => Verdict::Stays(reason.into()),
        (Some(topic), routed) => Verdict::Send(Target {
            topic: topic.into(),
            tenant: None,
            partition: None,
            key: routed.map_or(letter.key.clone(), |target| target.key),
        }),
    }
}

fn routed(route: Route) -> Target {
    Target {
        topic: route.topic,
        tenant: Some(route.tenant),
        partition: None,
        key: route.key.map(String::into_bytes),
    }
}

/// The headers that the message came with: without those of a dead letter, and without its
/// delivery by MQTT, because a replay is none.
fn headers(letter: &Letter) -> OwnedHeaders {
    let own = letter.headers.iter().filter(|header| {
        !header.key.starts_with(dead_letter::PREFIX) && header.key != MQTT_DELIVERY
    });
    own.fold(OwnedHeaders::new(), OwnedHeaders::insert)
}

pub(super) fn replay(
    command: &Replay,
    config: &BridgeConfig,
    runtime: &Runtime,
) -> anyhow::Result<Outcome> {
    if command.to_topic.as_deref() == Some(config.dead_letter.topic.as_str()) {
        bail!(
            "--to-topic {} would make dead letters of dead letters",
            config.dead_letter.topic
        );
    }
    let mut sender = Sender::new(config, runtime)?;
    let mut report = Report::default();
    let read = command.filter.read(config, |letter| {
        match judge(&letter, command.to_topic.as_deref(), config) {
            Verdict::Cut => report.cut += 1,
            Verdict::Stays(reason) => report.stays(reason),
            Verdict::Send(target) => match sender.targets.admit(&target, command.dry_run) {
                Err(Refused::Stays(reason)) => report.stays(reason.into()),
                Err(Refused::Failed(code)) => sender.fail(place(&letter), target.topic, code),
                Ok(()) if command.dry_run => {
                    println!("{} -> {}", Line(&letter), target.topic);
                    report.sent += 1;
                }
                Ok(()) => sender.send(letter, target),
            },
        }
        sender.room();
        Ok(!sender.gave_up)
    });
    sender.settle();
    report.sent += sender.confirmed;
    report.failed = std::mem::take(&mut sender.failed);
    report.positions = match &read {
        Ok(positions) => positions.clone(),
        Err(_) => BTreeMap::new(),
    };
    print!("{}", report.text(command.dry_run));
    read?;
    if sender.gave_up {
        bail!("Kafka no longer confirms records; stopped");
    }
    Ok(Outcome::when(report.failed.is_empty()))
}

/// The result.
#[derive(Debug, Default)]
struct Report {
    sent: u64,
    cut: u64,
    stays: BTreeMap<String, u64>,
    failed: Vec<Failed>,
    positions: BTreeMap<i32, i64>,
}

#[derive(Debug)]
struct Failed {
    place: Place,
    topic: String,
    why: RDKafkaErrorCode,
}

/// Partition and offset in the dead-letter topic.
type Place = (i32, i64);

fn place(letter: &Letter) -> Place {
    (letter.partition, letter.offset)
}

impl Report {
    fn stays(&mut self, reason: String) {
        *self.stays.entry(reason).or_default() += 1;
    }

    fn text(&self, dry_run: bool) -> String {
        let mut text = String::new();
        // Writing to a String can't fail.
        let _ = self.write(&mut text, dry_run);
        text
    }

    fn write(&self, out: &mut String, dry_run: bool) -> fmt::Result {
        for Failed { place, topic, why } in &self.failed {
            let (partition, offset) = place;
            writeln!(
                out,
                "failed: {partition}:{offset} -> {topic}: {}",
                Named(*why)
            )?;
        }
        let verb = if dry_run {
            "would be replayed"
        } else {
            "replayed"
        };
        writeln!(out, "{verb}: {}", self.sent)?;
        writeln!(out, "skipped, truncated: {}", self.cut)?;
        writeln!(
            out,
            "skipped, not routable: {}",
            self.stays.values().sum::<u64>()
        )?;
        for (reason, count) in &self.stays {
            writeln!(out, "  {reason}: {count}")?;
        }
        writeln!(out, "failed: {}", self.failed.len())?;
        if !self.positions.is_empty() {
            let places = self.positions.iter();
            let places: Vec<_> = places.map(|(p, offset)| format!("{p}:{offset}")).collect();
            writeln!(out, "to continue: --from-offset {}", places.join(","))?;
        }
        Ok(())
    }
}

/// Sends records in order and collects their delivery reports.
struct Sender<'a> {
    targets: Targets<'a>,
    producer: ThreadedProducer<Verdicts>,
    verdicts: mpsc::Receiver<(Place, Result<(), RDKafkaErrorCode>)>,
    /// Bytes of the payload and topic of each record in flight.
    in_flight: HashMap<Place, (usize, String)>,
    bytes: usize,
    confirmed: u64,
    failed: Vec<Failed>,
    /// Kafka is unreachable: every further record would fail as well.
    gave_up: bool,
}

struct Verdicts(mpsc::Sender<(Place, Result<(), RDKafkaErrorCode>)>);

impl ClientContext for Verdicts {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        log(level, facility, message);
    }
}

impl ProducerContext for Verdicts {
    type DeliveryOpaque = Box<Place>;

    fn delivery(&self, result: &DeliveryResult<'_>, place: Box<Place>) {
        let result = match result {
            Ok(_) => Ok(()),
            Err((error, _)) => Err(code(error)),
        };
        // The receiver is dropped only after the last report.
        let _ = self.0.send((*place, result));
    }
}

impl<'a> Sender<'a> {
    fn new(config: &'a BridgeConfig, runtime: &'a Runtime) -> anyhow::Result<Self> {
        let (told, verdicts) = mpsc::channel();
        Ok(Self {
            targets: Targets::new(config, runtime)?,
            producer: producer(config, Verdicts(told))?,
            verdicts,
            in_flight: HashMap::new(),
            bytes: 0,
            confirmed: 0,
            failed: Vec::new(),
            gave_up: false,
        })
    }

    fn send(&mut self, letter: Letter, target: Target) {
        let place = place(&letter);
        let mut record =
            BaseRecord::with_opaque_to(&target.topic, Box::new(place)).headers(headers(&letter));
        if let Some(payload) = &letter.payload {
            record = record.payload(payload);
        }
        if let Some(key) = &target.key {
            record = record.key(key);
        }
        if let Some(partition) = target.partition {
            record = record.partition(partition);
        }
        match self.producer.send::<Vec<u8>, Vec<u8>>(record) {
            Ok(()) => {
                let bytes = letter.payload.as_ref().map_or(0, Vec::len);
                self.bytes += bytes;
                self.in_flight.insert(place, (bytes, target.topic));
            }
            Err((error, _)) => self.fail(place, target.topic, code(&error)),
        }
    }

    /// Waits until there is room for another record.
    fn room(&mut self) {
        while self.in_flight.len() >= MAX_MESSAGES || self.bytes >= MAX_BYTES {
            self.next_verdict();
        }
        while let Ok((place, result)) = self.verdicts.try_recv() {
            self.take(place, result);
        }
    }

    /// Waits until no record is in flight.
    fn settle(&mut self) {
        while !self.in_flight.is_empty() {
            self.next_verdict();
        }
    }

    fn next_verdict(&mut self) {
        // Every record gets a report: librdkafka keeps the deadline.
        if let Ok((place, result)) = self.verdicts.recv() {
            self.take(place, result);
        }
    }

    fn take(&mut self, place: Place, result: Result<(), RDKafkaErrorCode>) {
        let Some((bytes, topic)) = self.in_flight.remove(&place) else {
            return;
        };
        self.bytes -= bytes;
        match result {
            Ok(()) => self.confirmed += 1,
            Err(code) => self.fail(place, topic, code),
        }
    }

    fn fail(&mut self, place: Place, topic: String, why: RDKafkaErrorCode) {
        self.gave_up |= matches!(
            why,
            RDKafkaErrorCode::MessageTimedOut
                | RDKafkaErrorCode::Fatal
                | RDKafkaErrorCode::AllBrokersDown
        );
        self.failed.push(Failed { place, topic, why });
    }
}

fn producer(
    config: &BridgeConfig,
    verdicts: Verdicts,
) -> anyhow::Result<ThreadedProducer<Verdicts>> {
    let mut client = config.kafka.client()?;
    client
        .set("acks", "all")
        .set("enable.idempotence", "true")
        // Kafka rejects whole batches.
        .set("batch.num.messages", "1")
        .set("linger.ms", "0")
        .set(
            "message.timeout.ms",
            CONFIRM_DEADLINE.as_millis().to_string(),
        )
        .set(
            "message.max.bytes",
            dead_letter::TOPIC_MAX_MESSAGE_BYTES.to_string(),
        )
        .set("compression.type", config.kafka.compression.name());
    client
        .create_with_context(verdicts)
        .context("creating the Kafka producer")
}

/// The topics that exist, and those that the replay creates.
struct Targets<'a> {
    config: &'a BridgeConfig,
    runtime: &'a Runtime,
    admin: Arc<Admin>,
    /// By their collision keys.
    known: HashMap<String, String>,
    per_tenant: HashMap<String, usize>,
    refused: HashMap<String, RDKafkaErrorCode>,
}

impl<'a> Targets<'a> {
    fn new(config: &'a BridgeConfig, runtime: &'a Runtime) -> anyhow::Result<Self> {
        let admin = creator::admin(&config.kafka)?;
        let cluster = runtime.block_on(cluster(&admin))?;
        let mut targets = Self {
            config,
            runtime,
            admin,
            known: HashMap::new(),
            per_tenant: HashMap::new(),
            refused: HashMap::new(),
        };
        for topic in cluster.topics.into_keys() {
            targets.add(topic);
        }
        Ok(targets)
    }

    fn add(&mut self, topic: String) {
        if let Some((Some(tenant), _)) = self.config.route.names_in(&topic) {
            *self.per_tenant.entry(tenant.into()).or_default() += 1;
        }
        self.known.insert(collision_key(&topic), topic);
    }

    /// Creates the topic unless it exists.
    fn admit(&mut self, target: &Target, dry_run: bool) -> Result<(), Refused> {
        let topic = &target.topic;
        match self.known.get(&collision_key(topic)) {
            Some(known) if known == topic => return Ok(()),
            Some(_) => return Err(Refused::Stays("topic_collision")),
            None => {}
        }
        if let Some(code) = self.refused.get(topic) {
            return Err(Refused::Failed(*code));
        }
        let of_tenant = target
            .tenant
            .as_ref()
            .and_then(|tenant| self.per_tenant.get(tenant));
        if of_tenant.is_some_and(|count| *count >= self.config.topics.max_per_tenant) {
            return Err(Refused::Stays("topic_limit"));
        }
        // Otherwise the delivery report of the record says whether it exists.
        if self.config.topics.create
            && !dry_run
            && let Err(code) = self.create(topic)
        {
            self.refused.insert(topic.clone(), code);
            return Err(Refused::Failed(code));
        }
        self.add(topic.clone());
        Ok(())
    }

    fn create(&self, topic: &str) -> Result<(), RDKafkaErrorCode> {
        let dead_letters = &self.config.dead_letter.topic;
        let topic = creator::new_topic(topic, &self.config.topics, dead_letters);
        let created = topics::create(&self.admin, std::slice::from_ref(&topic), DEADLINE);
        let answers = self.runtime.block_on(created);
        let answers = answers.map_err(|error| code(&error))?;
        answers
            .into_values()
            .try_for_each(|answer| answer.map(drop))
    }
}

/// Why a dead letter can't go to its topic.
enum Refused {
    Stays(&'static str),
    Failed(RDKafkaErrorCode),
}

#[cfg(test)]
mod tests {
    use super::super::letters::tests::letter;
    use super::*;

    const GOOD: &str = "mtic/msg/client/realtime/acme/plant";

    #[test]
    fn a_letter_goes_to_the_topic_of_the_current_routing() {
        let config = BridgeConfig::default();
        let bridged = letter(&[("dlq-topic", GOOD)], b"x");
        let expected = Target {
            topic: "acme.plant".into(),
            tenant: Some("acme".into()),
            partition: None,
            key: Some(b"plant".to_vec()),
        };
        assert_eq!(judge(&bridged, None, &config), Verdict::Send(expected));
        let consumed = [
            ("dlq-topic", "data"),
            ("dlq-partition", "3"),
            ("dlq-offset", "4"),
        ];
        let Verdict::Send(target) = judge(&letter(&consumed, b"x"), None, &config) else {
            panic!("not sent");
        };
        assert_eq!((target.topic.as_str(), target.partition), ("data", Some(3)));
    }

    #[test]
    fn unroutable_letters_are_skipped_unless_a_topic_is_given() {
        let mut config = BridgeConfig::default();
        let bad = letter(&[("dlq-topic", "a/b")], b"x");
        assert_eq!(
            judge(&bad, None, &config),
            Verdict::Stays("too_few_parts".into())
        );
        let unknown = letter(&[], b"x");
        assert_eq!(
            judge(&unknown, None, &config),
            Verdict::Stays("unknown_origin".into())
        );
        let Verdict::Send(target) = judge(&bad, Some("quarantine"), &config) else {
            panic!("not sent");
        };
        assert_eq!((target.topic.as_str(), target.key), ("quarantine", None));
        config.kafka.max_message_bytes = iot_service::config::ByteSize(3);
        let large = letter(&[("dlq-topic", GOOD)], b"1234");
        assert_eq!(
            judge(&large, None, &config),
            Verdict::Stays("too_large".into())
        );
    }

    #[test]
    fn truncated_letters_are_skipped() {
        let mut cut = letter(&[("dlq-topic", GOOD)], b"x");
        cut.cut = true;
        for to in [None, Some("quarantine")] {
            assert_eq!(judge(&cut, to, &BridgeConfig::default()), Verdict::Cut);
        }
    }

    #[test]
    fn headers_of_the_dead_letter_are_removed() {
        let letter = letter(
            &[
                ("mqtt-qos", "1"),
                (MQTT_DELIVERY, "x"),
                ("dlq-reason", "x"),
                ("note", "n"),
            ],
            b"",
        );
        let headers = headers(&letter);
        let names: Vec<_> = headers.iter().map(|header| header.key).collect();
        assert_eq!(names, ["mqtt-qos", "note"]);
    }

    #[test]
    fn the_report_has_all_counts_and_the_offsets_to_continue_from() {
        let report = Report {
            sent: 2,
            cut: 1,
            stays: BTreeMap::from([("too_large".into(), 3)]),
            failed: vec![Failed {
                place: (0, 7),
                topic: "t.p".into(),
                why: RDKafkaErrorCode::MessageSizeTooLarge,
            }],
            positions: BTreeMap::from([(0, 12), (1, 5)]),
        };
        let text = report.text(false);
        for line in [
            "failed: 0:7 -> t.p: ",
            "replayed: 2",
            "skipped, truncated: 1",
            "skipped, not routable: 3",
            "  too_large: 3",
            "failed: 1",
            "--from-offset 0:12,1:5",
        ] {
            assert!(text.contains(line), "{line} is not in:\n{text}");
        }
        assert!(report.text(true).contains("would be replayed: 2"));
    }
}
