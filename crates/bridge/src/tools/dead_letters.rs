//! `iot-bridge dead-letters`: lists dead letters and replays them.

use std::collections::BTreeMap;
use std::fmt;
use std::io::{self, Write};

use clap::{Args, Subcommand};
use serde_json::json;
use tokio::runtime::Runtime;

use super::letters::{Letter, Letters, Origin, Start};
use super::replay::{Replay, replay};
use super::{Outcome, Tool, time};
use crate::config::BridgeConfig;

/// The commands of `dead-letters`.
#[derive(Debug, Subcommand)]
pub(crate) enum DeadLettersCommand {
    /// List dead letters, oldest first
    List(List),
    /// Send dead letters to the topics that the routing gives them now
    ///
    /// They also stay in the dead-letter topic, because Kafka does not delete single
    /// records. Those of which only some readings were refused are skipped, because the others
    /// were accepted. The last line of the output has the offsets to continue from, so that none
    /// is skipped.
    Replay(Replay),
}

#[derive(Debug, Args)]
pub(crate) struct List {
    #[command(flatten)]
    filter: Filter,
    /// Print one JSON object per line
    #[arg(long)]
    json: bool,
}

/// Which dead letters.
#[derive(Debug, Clone, Default, Args)]
pub(super) struct Filter {
    /// Only dead letters with this reason, such as too_large
    #[arg(long)]
    reason: Option<String>,
    /// Only dead letters from this time on: 2026-11-21T10:00:00Z, or how long ago (2h)
    #[arg(long, value_name = "TIME", value_parser = time::parse_arg, allow_hyphen_values = true)]
    from: Option<i64>,
    /// Only dead letters before this time
    #[arg(long, value_name = "TIME", value_parser = time::parse_arg, allow_hyphen_values = true)]
    to: Option<i64>,
    /// At most this many
    #[arg(long, value_name = "N")]
    limit: Option<u64>,
    /// Only this partition of the dead-letter topic
    #[arg(long)]
    partition: Option<i32>,
    /// Start at these offsets; other partitions start at the start of their log
    #[arg(long, value_name = "PARTITION:OFFSET,...", value_delimiter = ',', value_parser = position)]
    from_offset: Vec<(i32, i64)>,
}

fn position(text: &str) -> Result<(i32, i64), String> {
    let parsed = text.split_once(':').and_then(|(partition, offset)| {
        let (partition, offset) = (partition.parse().ok()?, offset.parse().ok()?);
        (partition >= 0 && offset >= 0).then_some((partition, offset))
    });
    parsed.ok_or_else(|| format!("{text:?} is not PARTITION:OFFSET, such as 0:1200"))
}

impl Filter {
    fn start(&self) -> Start {
        Start {
            partition: self.partition,
            from: self.from_offset.iter().copied().collect(),
        }
    }

    fn takes(&self, letter: &Letter) -> bool {
        self.reason
            .as_ref()
            .is_none_or(|reason| *reason == letter.reason)
            && self.from.is_none_or(|from| letter.time >= from)
            && self.to.is_none_or(|to| letter.time < to)
    }

    /// Passes each dead letter that matches to `each`, until the limit, the end, or until
    /// `each` returns `false`. Returns the offsets to continue from.
    pub(super) fn read(
        &self,
        config: &BridgeConfig,
        mut each: impl FnMut(Letter) -> anyhow::Result<bool>,
    ) -> anyhow::Result<BTreeMap<i32, i64>> {
        let Some(mut letters) = Letters::open(config, &self.start())? else {
            eprintln!("there is no topic {}", config.dead_letter.topic);
            return Ok(BTreeMap::new());
        };
        let mut left = self.limit.unwrap_or(u64::MAX);
        while left > 0
            && let Some(letter) = letters.next()?
        {
            if self.takes(&letter) {
                left -= 1;
                if !each(letter)? {
                    break;
                }
            }
        }
        Ok(letters.positions())
    }
}

#[expect(private_interfaces, reason = "as in the trait")]
impl Tool for DeadLettersCommand {
    fn run(self, config: &BridgeConfig, runtime: &Runtime) -> anyhow::Result<Outcome> {
        match self {
            Self::List(command) => list(&command, config),
            Self::Replay(command) => replay(&command, config, runtime),
        }
    }
}

fn list(command: &List, config: &BridgeConfig) -> anyhow::Result<Outcome> {
    let mut out = io::BufWriter::new(io::stdout().lock());
    let mut count = 0u64;
    command.filter.read(config, |letter| {
        count += 1;
        if command.json {
            writeln!(out, "{}", as_json(&letter))?;
        } else {
            writeln!(out, "{}", Line(&letter))?;
        }
        Ok(true)
    })?;
    out.flush()?;
    if !command.json {
        eprintln!("{count} dead letters");
    }
    Ok(Outcome::Done)
}

fn as_json(letter: &Letter) -> serde_json::Value {
    let origin = match &letter.origin {
        Origin::Mqtt { topic } => json!({ "mqtt_topic": topic }),
        Origin::Kafka { at, offset } => json!({
            "kafka_topic": at.topic,
            "partition": at.partition,
            "offset": offset,
        }),
        Origin::Unknown => json!({}),
    };
    json!({
        "time": time::show(letter.time),
        "reason": letter.reason,
        "detail": letter.detail,
        "origin": origin,
        "size": letter.size,
        "cut": letter.cut,
        "partial": letter.partial.as_deref().map(partial),
        "partition": letter.partition,
        "offset": letter.offset,
    })
}

/// The refused readings; the text itself if it is no such list.
fn partial(text: &str) -> serde_json::Value {
    serde_json::from_str(text).unwrap_or_else(|_| text.into())
}

/// A dead letter on one line, without control characters that would reach the terminal.
pub(super) struct Line<'a>(pub(super) &'a Letter);

impl fmt::Display for Line<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let letter = self.0;
        let at = format!("{}:{}", letter.partition, letter.offset);
        let kind = match (&letter.partial, letter.cut) {
            (Some(_), _) => " (partial)",
            (None, true) => " (truncated)",
            (None, false) => "",
        };
        let size = format!("{}{kind}", letter.size);
        let (time, reason) = (time::show(letter.time), plain(&letter.reason));
        write!(
            f,
            "{time}  {at:<10}  {reason:<20}  {size:>9}  {}",
            letter.origin
        )
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Mqtt { topic } => f.write_str(&plain(topic)),
            Self::Kafka { at, offset } => {
                let (topic, partition) = at.parts();
                write!(f, "kafka {} {partition}:{offset}", plain(topic))
            }
            Self::Unknown => f.write_str("(unknown)"),
        }
    }
}

fn plain(text: &str) -> String {
    text.chars().fold(String::new(), |mut plain, c| {
        if c.is_control() {
            plain.extend(c.escape_default());
        } else {
            plain.push(c);
        }
        plain
    })
}

#[cfg(test)]
mod tests {
    use super::super::letters::tests::letter;
    use super::*;

    #[test]
    fn a_letter_must_match_all_filters_and_the_end_is_exclusive() {
        let mut letter = letter(&[("dlq-reason", "too_large")], b"x");
        letter.time = 1000;
        let takes = |filter: Filter| filter.takes(&letter);
        assert!(takes(Filter::default()));
        let reason = |reason: &str| Some(reason.to_string());
        for (expected, filter) in [
            (
                true,
                Filter {
                    reason: reason("too_large"),
                    from: Some(1000),
                    to: Some(1001),
                    ..Filter::default()
                },
            ),
            (
                false,
                Filter {
                    reason: reason("too_few_parts"),
                    ..Filter::default()
                },
            ),
            (
                false,
                Filter {
                    from: Some(1001),
                    ..Filter::default()
                },
            ),
            (
                false,
                Filter {
                    to: Some(1000),
                    ..Filter::default()
                },
            ),
        ] {
            assert_eq!(takes(filter.clone()), expected, "{filter:?}");
        }
    }

    #[test]
    fn positions_are_partition_and_offset() {
        assert_eq!(position("3:1200"), Ok((3, 1200)));
        for text in ["", "3", "3:", ":4", "-1:4", "3:-4", "a:b"] {
            assert!(position(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn letters_of_a_part_are_listed_with_their_refused_readings() {
        let list = r#"[{"reading":1,"sensor":"a","reason":"not_a_number"}]"#;
        let shown = |value| {
            let letter = letter(&[("dlq-topic", "t"), ("dlq-partial", value)], b"x");
            (
                Line(&letter).to_string(),
                as_json(&letter)["partial"].clone(),
            )
        };
        let (line, json) = shown(list);
        assert!(line.contains(" 1 (partial) "), "{line}");
        assert_eq!(json[0]["sensor"], "a");
        assert_eq!(shown("?").1, "?");
        let whole = letter(&[("dlq-topic", "t")], b"x");
        assert!(as_json(&whole)["partial"].is_null());
    }

    #[test]
    fn control_characters_are_escaped() {
        let letter = letter(&[("dlq-topic", "a/\u{1b}[2J\nb")], b"x");
        let line = Line(&letter).to_string();
        assert!(line.ends_with("a/\\u{1b}[2J\\nb"), "{line}");
    }
}
