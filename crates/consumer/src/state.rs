//! `iot-consumer state`: prints what the store holds, and resets it.

use std::io::Write as _;
use std::process::ExitCode;
use std::str::FromStr;

use anyhow::{Context, bail};
use iot_core::partition::TopicPartition;
use iot_fold::{Device, Fold};
use iot_kafka::context::Quiet;
use iot_kafka::lookup::{self, Watermarks};
use iot_service::config::{Sources, load};
use iot_service::moment;
use rdkafka::consumer::{BaseConsumer, Consumer};

use crate::config::ConsumerConfig;
use crate::kafka::{self, TOOL_DEADLINE};
use crate::store::Store;

/// Print what the store holds, or reset it.
#[derive(Debug, Clone, clap::Subcommand)]
pub enum StateCommand {
    /// Print a device as the store has it, one line of JSON for each device of that id
    Get {
        /// Its id
        device: String,
        /// Topic [default: the first in kafka.topics that is not a pattern]
        #[arg(long)]
        topic: Option<String>,
    },
    /// Print offset and log of each partition, one line of JSON each
    Show {
        /// Topic [default: the first in kafka.topics that is not a pattern]
        #[arg(long)]
        topic: Option<String>,
    },
    /// Discard live state and continue from another place of the log
    Reset {
        /// earliest, latest, an offset (with --partition), or a time: RFC 3339, or how
        /// long ago (2h)
        #[arg(long, value_name = "PLACE")]
        to: Place,
        /// Topic [default: the first in kafka.topics that is not a pattern]
        #[arg(long)]
        topic: Option<String>,
        /// Only this partition
        #[arg(long)]
        partition: Option<i32>,
        /// Do not ask for confirmation
        #[arg(long)]
        yes: bool,
    },
}

/// A place of the log.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Place {
    /// The oldest record that is kept.
    Earliest,
    /// After the newest record.
    Latest,
    /// An offset of one partition.
    Offset(i64),
    /// The first record with that time of Kafka or a later one.
    Time(jiff::Timestamp),
}

impl FromStr for Place {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "earliest" => Ok(Self::Earliest),
            "latest" => Ok(Self::Latest),
            number => match number.parse() {
                Ok(offset) => Ok(Self::Offset(offset)),
                Err(_) => moment::parse(text).map(Self::Time),
            },
        }
    }
}

impl StateCommand {
    /// Does what the user asked for.
    #[must_use]
    pub fn execute(&self, sources: &Sources) -> ExitCode {
        let config = match load::<ConsumerConfig>(sources) {
            Ok(config) => config,
            Err(problems) => {
                eprintln!("iot-consumer: the configuration is not valid\n{problems}");
                return ExitCode::from(2);
            }
        };
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build();
        let done = runtime
            .context("starting the runtime")
            .and_then(|runtime| runtime.block_on(self.run(&config)));
        match done {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                eprintln!("iot-consumer: {error:#}");
                ExitCode::FAILURE
            }
        }
    }

    async fn run(&self, config: &ConsumerConfig) -> anyhow::Result<()> {
        let tool = Tool::new(config, self.topic())?;
        match self {
            Self::Get { device, .. } => tool.get(device).await,
            Self::Show { .. } => tool.show().await,
            Self::Reset {
                to, partition, yes, ..
            } => tool.reset(*to, *partition, *yes).await,
        }
    }

    fn topic(&self) -> Option<&str> {
        match self {
            Self::Get { topic, .. } | Self::Show { topic } | Self::Reset { topic, .. } => {
                topic.as_deref()
            }
        }
    }
}

struct Tool<'c> {
    config: &'c ConsumerConfig,
    topic: String,
    partitions: Vec<TopicPartition>,
    consumer: BaseConsumer<Quiet>,
    store: Store,
}

impl<'c> Tool<'c> {
    fn new(config: &'c ConsumerConfig, topic: Option<&str>) -> anyhow::Result<Self> {
        let topic = kafka::plain_topic(topic, &config.kafka)?;
        let store = Store::open(&config.store, config.windows.longest_retention())?;
        if !store.is_durable() {
            bail!("store.url is memory://: there is no state outside the consumer");
        }
        // It joins no group.
        let consumer: BaseConsumer<Quiet> = kafka::base_config(&config.kafka)?
            .create_with_context(Quiet)
            .context("creating a client")?;
        Ok(Self {
            partitions: lookup::partitions(consumer.client(), &topic, TOOL_DEADLINE)?,
            config,
            topic,
            consumer,
            store,
        })
    }

    async fn get(&self, device: &str) -> anyhow::Result<()> {
        let mut found = false;
        for partition in &self.partitions {
            for device in self.devices(partition, device).await? {
                println!("{}", serde_json::to_string(&device)?);
                found = true;
            }
        }
        anyhow::ensure!(found, "the store has no device {device:?}");
        Ok(())
    }

    async fn show(&self) -> anyhow::Result<()> {
        for at in &self.partitions {
            let stored = self.store.load(at).await;
            let stored = stored.with_context(|| format!("reading partition {}", at.partition))?;
            let line = serde_json::json!({
                "topic": &*at.topic,
                "partition": at.partition,
                "offset": stored.offset,
                "topic_id": stored.log.topic_id.map(|id| id.to_string()),
                "leader_epoch": stored.log.leader_epoch,
                "devices": stored.devices(),
            });
            println!("{line}");
        }
        Ok(())
    }

    async fn devices(&self, at: &TopicPartition, device: &str) -> anyhow::Result<Vec<Device>> {
        let context = || format!("reading partition {}", at.partition);
        let stored = self.store.load(at).await.with_context(context)?;
        let rules = self.config.fold_rules();
        let fold =
            Fold::restore(rules, &at.topic, at.partition, &stored.entries).with_context(context)?;
        let devices = fold.all().devices.into_iter().map(|(_, found)| found);
        Ok(devices
            .filter(|found| &*found.key.device == device)
            .collect())
    }

    async fn reset(&self, to: Place, only: Option<i32>, yes: bool) -> anyhow::Result<()> {
        if matches!(to, Place::Offset(_)) && only.is_none() {
            bail!("an offset belongs to one partition: add --partition");
        }
        let is_wanted = |at: &&TopicPartition| only.is_none_or(|only| only == at.partition);
        let wanted: Vec<&TopicPartition> = self.partitions.iter().filter(is_wanted).collect();
        if wanted.is_empty() {
            bail!("topic {} has no such partition", self.topic);
        }
        let mut offsets = Vec::with_capacity(wanted.len());
        for at in wanted {
            offsets.push((at, self.place(at, to)?));
        }
        for (at, offset) in &offsets {
            let now = match self.store.load(at).await {
                Ok(stored) => stored.offset.map_or("nothing".into(), |at| at.to_string()),
                Err(error) => format!("state that can't be read ({error})"),
            };
            let (topic, partition) = at.parts();
            println!("{topic}, partition {partition}: {now} -> {offset}");
        }
        self.no_members()?;
        if !yes && !confirmed()? {
            bail!("nothing was changed");
        }
        for (at, offset) in offsets {
            let reset = self.store.reset(at, offset).await;
            reset.with_context(|| format!("resetting partition {}", at.partition))?;
        }
        Ok(())
    }

    /// A running consumer would not notice a reset to its current offset, and continue to
    /// write its own state.
    fn no_members(&self) -> anyhow::Result<()> {
        let group = &self.config.kafka.group;
        let found = self.consumer.fetch_group_list(Some(group), TOOL_DEADLINE);
        let found = found.with_context(|| format!("asking Kafka for group {group}"))?;
        let groups = found.groups().iter();
        let members: usize = groups.map(|group| group.members().len()).sum();
        anyhow::ensure!(
            members == 0,
            "group {group} has {members} members: stop the consumers first (the group forgets one \
             that was killed, or that has a group_instance_id, after kafka.session_timeout)"
        );
        Ok(())
    }

    fn place(&self, at: &TopicPartition, to: Place) -> anyhow::Result<i64> {
        let found = lookup::watermarks(&self.consumer, at, TOOL_DEADLINE);
        let Watermarks { low, high } =
            found.with_context(|| format!("asking Kafka for the watermarks of {at}"))?;
        match to {
            Place::Earliest => Ok(low),
            Place::Latest => Ok(high),
            Place::Offset(offset) if (low..=high).contains(&offset) => Ok(offset),
            Place::Offset(offset) => {
                bail!("offset {offset} is not in the log, which has offsets from {low} to {high}")
            }
            Place::Time(time) => {
                let found = lookup::offset_at(&self.consumer, at, time, TOOL_DEADLINE)?;
                Ok(found.unwrap_or(high))
            }
        }
    }
}

/// Whether the user confirms.
fn confirmed() -> anyhow::Result<bool> {
    print!("This discards the live state of these partitions. Type yes to continue: ");
    std::io::stdout().flush()?;
    let mut answer = String::new();
    std::io::stdin().read_line(&mut answer)?;
    Ok(answer.trim() == "yes")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_parsed() {
        assert_eq!("earliest".parse(), Ok(Place::Earliest));
        assert_eq!("latest".parse(), Ok(Place::Latest));
        assert_eq!("42".parse(), Ok(Place::Offset(42)));
        let time = "2026-01-31T08:00:00Z".parse::<jiff::Timestamp>().unwrap();
        assert_eq!("2026-01-31T08:00:00Z".parse(), Ok(Place::Time(time)));
        assert!("middle".parse::<Place>().is_err());
    }
}
