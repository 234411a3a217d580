//! `iot-bridge dead-letters replay`: sends dead letters again, in order, and waits for each
//! confirmation. MQTT messages go to the topic of the current routing, the consumer's records to
//! the partition that they were read from.

mod report;
mod sender;
mod targets;

use anyhow::bail;
use clap::Args;
use iot_core::dead_letter;
use iot_core::headers::MQTT_DELIVERY;
use iot_core::route::Route;
use rdkafka::message::{Headers, OwnedHeaders};
use tokio::runtime::Runtime;

use super::Outcome;
use super::dead_letters::{Filter, Line};
use super::letters::{Letter, Origin};
use crate::config::BridgeConfig;
use report::{Report, place};
use sender::Sender;
use targets::{Refused, Target};

#[derive(Debug, Args)]
pub(crate) struct Replay {
    #[command(flatten)]
    filter: Filter,
    /// Send to this Kafka topic instead; partial, truncated and too large ones are still skipped
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
    /// It is skipped because some of its readings were accepted, which would count twice.
    Partial,
    /// It is skipped because its payload is truncated.
    Cut,
    /// It is skipped because it has no route, or a limit refuses it; the short reason.
    Stays(String),
}

/// Decides where a dead letter goes.
fn judge(letter: &Letter, to_topic: Option<&str>, config: &BridgeConfig) -> Verdict {
    if letter.partial.is_some() {
        return Verdict::Partial;
    }
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

/// The original headers of the message: without `dlq-*`, and without `mqtt-delivery`, because a
/// replay is not an MQTT delivery.
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
            Verdict::Partial => report.partial += 1,
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
    if let Ok(positions) = &read {
        report.continue_from(positions.clone(), sender.gave_up);
    }
    print!("{}", report.text(command.dry_run));
    read?;
    if sender.gave_up {
        bail!(
            "Kafka no longer confirms records; stopped. The printed offsets start at the first \
             failed record, so some records may be sent twice"
        );
    }
    Ok(Outcome::when(report.failed.is_empty()))
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
    fn letters_of_a_part_are_skipped_wherever_they_would_go() {
        let mut part = letter(&[("dlq-topic", GOOD), ("dlq-partial", "[]")], b"x");
        for cut in [false, true] {
            part.cut = cut;
            for to in [None, Some("quarantine")] {
                assert_eq!(judge(&part, to, &BridgeConfig::default()), Verdict::Partial);
            }
        }
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
}
