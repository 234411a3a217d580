//! `iot-consumer state`: what the store holds, and a new beginning.

use iot_core::partition::TopicPartition;
use std::io::Write as _;
use std::process::ExitCode;
use std::str::FromStr;
use std::time::Duration;

use anyhow::{Context, bail};
use iot_fold::{Device, Fold};
use iot_service::config::{Sources, load};
use iot_service::moment;
use rdkafka::consumer::{BaseConsumer, Consumer};

use crate::config::ConsumerConfig;
use crate::kafka;
use crate::store::Store;

/// How long Kafka may take to answer a question.
const DEADLINE: Duration = Duration::from_secs(30);

/// What the store holds, and a new beginning.
#[derive(Debug, Clone, clap::Subcommand)]
pub enum StateCommand {
    /// Print a device as the store has it, one line of JSON for each of that name
    Get {
        /// Its id
        device: String,
        /// Topic [default: the first in kafka.topics that is no pattern]
        #[arg(long)]
        topic: Option<String>,
    },
    /// Throw live state away and begin at another place of the log
    Reset {
        /// earliest, latest, an offset (with --partition), or a time: RFC 3339, or how
        /// long ago (2h)
        #[arg(long, value_name = "PLACE")]
        to: Place,
        /// Topic [default: the first in kafka.topics that is no pattern]
        #[arg(long)]
        topic: Option<String>,
        /// This partition only
        #[arg(long)]
        partition: Option<i32>,
        /// Don't ask
        #[arg(long)]
        yes: bool,
    },
}

/// A place of the log.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Place {
    /// The oldest record that is kept.
    Earliest,
    /// After the newest.
    Latest,
    /// An offset of one partition.
    Offset(i64),
    /// The first record at that time of Kafka, or after it.
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
            Self::Reset {
                to, partition, yes, ..
            } => tool.reset(*to, *partition, *yes).await,
        }
    }

    fn topic(&self) -> Option<&str> {
        match self {
            Self::Get { topic, .. } | Self::Reset { topic, .. } => topic.as_deref(),
        }
    }
}

struct Tool<'c> {
    config: &'c ConsumerConfig,
    topic: String,
    partitions: Vec<i32>,
    consumer: BaseConsumer,
    store: Store,
}

impl<'c> Tool<'c> {
    fn new(config: &'c ConsumerConfig, topic: Option<&str>) -> anyhow::Result<Self> {
        let topic = kafka::plain_topic(topic, &config.kafka)?;
        let store = Store::open(&config.store, config.windows.longest_retention())?;
        if !store.is_durable() {
            bail!("store.url is memory://: there is nothing outside of the consumer");
        }
        // It joins no group.
        let consumer: BaseConsumer = kafka::producer_config(&config.kafka)?
            .create()
            .context("creating a client")?;
        Ok(Self {
            partitions: kafka::partitions(&consumer, &topic)?,
            config,
            topic,
            consumer,
            store,
        })
    }

    async fn get(&self, device: &str) -> anyhow::Result<()> {
        let mut found = false;
        for partition in &self.partitions {
            for device in self.devices(*partition, device).await? {
                println!("{}", serde_json::to_string(&device)?);
                found = true;
            }
        }
        anyhow::ensure!(found, "the store has no device {device:?}");
        Ok(())
    }

    async fn devices(&self, partition: i32, device: &str) -> anyhow::Result<Vec<Device>> {
        let here = TopicPartition::new(&*self.topic, partition);
        let stored = self.store.load(&here).await;
        let stored = stored.with_context(|| format!("reading partition {partition}"))?;
        let rules = self.config.fold_rules();
        let fold = Fold::restore(rules, &self.topic, partition, &stored.entries)
            .with_context(|| format!("reading partition {partition}"))?;
        let devices = fold.all().devices.into_iter().map(|(_, found)| found);
        Ok(devices
            .filter(|found| &*found.key.device == device)
            .collect())
    }

    async fn reset(&self, to: Place, only: Option<i32>, yes: bool) -> anyhow::Result<()> {
        if matches!(to, Place::Offset(_)) && only.is_none() {
            bail!("an offset is that of one partition: --partition is missing");
        }
        let wanted = |partition: &&i32| only.is_none_or(|only| only == **partition);
        let wanted: Vec<i32> = self.partitions.iter().filter(wanted).copied().collect();
        if wanted.is_empty() {
            bail!("topic {} has no such partition", self.topic);
        }
        let mut offsets = Vec::with_capacity(wanted.len());
        for partition in wanted {
            offsets.push((partition, self.place(partition, to)?));
        }
        for (partition, offset) in &offsets {
            let now = self
                .store
                .load(&TopicPartition::new(&*self.topic, *partition))
                .await;
            let now = match now {
                Ok(stored) => stored.offset.map_or("nothing".into(), |at| at.to_string()),
                Err(error) => format!("state that can't be read ({error})"),
            };
            println!("{}, partition {partition}: {now} -> {offset}", self.topic);
        }
        self.no_members()?;
        if !yes && !confirmed()? {
            bail!("nothing was changed");
        }
        for (partition, offset) in offsets {
            let reset = self
                .store
                .reset(&TopicPartition::new(&*self.topic, partition), offset)
                .await;
            reset.with_context(|| format!("resetting partition {partition}"))?;
        }
        Ok(())
    }

    /// A consumer that runs would not notice a reset to the offset it is at, and write
    /// its own state on.
    fn no_members(&self) -> anyhow::Result<()> {
        let group = &self.config.kafka.group;
        let found = self.consumer.fetch_group_list(Some(group), DEADLINE);
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

    fn place(&self, partition: i32, to: Place) -> anyhow::Result<i64> {
        let (low, high) = self
            .consumer
            .fetch_watermarks(&self.topic, partition, DEADLINE)
            .with_context(|| format!("asking for the log's ends of partition {partition}"))?;
        match to {
            Place::Earliest => Ok(low),
            Place::Latest => Ok(high),
            Place::Offset(offset) if (low..=high).contains(&offset) => Ok(offset),
            Place::Offset(offset) => {
                bail!("offset {offset} is not in the log, which goes from {low} to {high}")
            }
            Place::Time(time) => {
                let found = kafka::offset_at(&self.consumer, &self.topic, partition, time)?;
                Ok(found.unwrap_or(high))
            }
        }
    }
}

/// Whether the user wants that.
fn confirmed() -> anyhow::Result<bool> {
    print!("Live state of these partitions is thrown away. Type yes to go on: ");
    std::io::stdout().flush()?;
    let mut answer = String::new();
    std::io::stdin().read_line(&mut answer)?;
    Ok(answer.trim() == "yes")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_read() {
        assert_eq!("earliest".parse(), Ok(Place::Earliest));
        assert_eq!("latest".parse(), Ok(Place::Latest));
        assert_eq!("42".parse(), Ok(Place::Offset(42)));
        let time = "2026-01-31T08:00:00Z".parse::<jiff::Timestamp>().unwrap();
        assert_eq!("2026-01-31T08:00:00Z".parse(), Ok(Place::Time(time)));
        assert!("middle".parse::<Place>().is_err());
    }
}
