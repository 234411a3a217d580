//! Who leads which partition: takes readings that nobody fetches for to the broker that
//! does.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use iot_service::Backoff;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::broker::Broker;
use super::connection::{Connection, Failed};
use super::wire::{self, Api, Metadata};
use super::{Reading, Settings};
use crate::metrics::Metrics;

/// A failure so long after the last one has nothing to do with it.
const CALM: Duration = Duration::from_secs(10);

/// Sends readings to brokers, and takes back those that brokers can't serve.
pub(super) struct Leaders {
    settings: Arc<Settings>,
    metrics: Arc<Metrics>,
    /// Where brokers give readings back.
    back: mpsc::UnboundedSender<Reading>,
    stop: CancellationToken,
    /// By number: where each is, and its task's inbox.
    brokers: HashMap<i32, (String, mpsc::UnboundedSender<Reading>)>,
    /// All that were named last, beginning with the one that answered.
    known: Vec<String>,
    backoff: Backoff,
    failed_at: Option<Instant>,
}

impl Leaders {
    pub(super) fn new(
        settings: Arc<Settings>,
        metrics: Arc<Metrics>,
        back: mpsc::UnboundedSender<Reading>,
        stop: CancellationToken,
    ) -> Self {
        Self {
            settings,
            metrics,
            back,
            stop,
            brokers: HashMap::new(),
            known: Vec::new(),
            backoff: Backoff::new(Duration::from_millis(50), Duration::from_secs(1)),
            failed_at: None,
        }
    }

    pub(super) async fn run(mut self, mut inbox: mpsc::UnboundedReceiver<Reading>) {
        let mut readings = Vec::new();
        while inbox.recv_many(&mut readings, usize::MAX).await > 0 {
            while !readings.is_empty() {
                self.wait_after_failures(&mut readings).await;
                while let Ok(reading) = inbox.try_recv() {
                    readings.push(reading);
                }
                readings.retain(|reading| !reading.is_over());
                self.place(&mut readings).await;
            }
        }
    }

    async fn wait_after_failures(&mut self, readings: &mut [Reading]) {
        let mut failed = 0;
        for reading in readings {
            failed += u64::from(std::mem::take(&mut reading.failed));
        }
        if failed == 0 {
            return;
        }
        self.metrics.fetch_errors.inc_by(failed);
        if self.failed_at.is_none_or(|last| last.elapsed() > CALM) {
            self.backoff.reset();
        }
        // Who answered the last time may know less than others.
        if !self.known.is_empty() {
            self.known.rotate_left(1);
        }
        tokio::time::sleep(self.backoff.next_delay()).await;
        self.failed_at = Some(Instant::now());
    }

    /// Hands out those whose broker is known; the others stay.
    async fn place(&mut self, readings: &mut Vec<Reading>) {
        if readings.is_empty() {
            return;
        }
        let mut topics: Vec<&str> = readings.iter().map(|one| &*one.partition.topic).collect();
        topics.sort_unstable();
        topics.dedup();
        match self.ask(&topics).await {
            Ok(metadata) => {
                for reading in std::mem::take(readings) {
                    if let Err(Unplaced(mut reading, reason)) = self.send(reading, &metadata) {
                        reading.fail(reason);
                        readings.push(reading);
                    }
                }
            }
            Err(reason) => {
                for reading in readings {
                    reading.fail(reason.clone());
                }
            }
        }
    }

    /// The leaders of topics, from whichever broker says it first.
    async fn ask(&mut self, topics: &[&str]) -> Result<Metadata, String> {
        let mut reason = "no broker is known".to_owned();
        let configured = self.settings.brokers.iter();
        let configured = configured.filter(|address| !self.known.contains(address));
        let all: Vec<_> = self.known.iter().chain(configured).cloned().collect();
        for address in all {
            match ask_one(&address, topics, &self.settings).await {
                Ok(metadata) => {
                    let all = metadata.brokers.iter().map(|(_, address)| address.clone());
                    let others = all.filter(|other| *other != address);
                    self.known = std::iter::once(address.clone()).chain(others).collect();
                    return Ok(metadata);
                }
                Err(error) => reason = format!("broker {address}: {error}"),
            }
        }
        Err(reason)
    }

    fn send(&mut self, mut reading: Reading, metadata: &Metadata) -> Result<(), Unplaced> {
        let (topic, partition) = reading.partition.parts();
        let (leader, epoch) = match leader(metadata, topic, partition) {
            Ok(found) => found,
            Err(reason) => return Err(Unplaced(reading, reason)),
        };
        let number = reading.preferred.unwrap_or(leader);
        reading.epoch = epoch;
        let mut all = metadata.brokers.iter();
        let Some((_, address)) = all.find(|(other, _)| *other == number) else {
            let reason = format!("broker {number}, which has it, is not there");
            return Err(Unplaced(reading, reason));
        };
        let is_at = |(at, _): &(String, _)| at == address;
        if !self.brokers.get(&number).is_some_and(is_at) {
            let inbox = self.start(number, address);
            self.brokers.insert(number, (address.clone(), inbox));
        }
        // The task lives as long as the inbox.
        let _ = self.brokers[&number].1.send(reading);
        Ok(())
    }

    fn start(&self, number: i32, address: &str) -> mpsc::UnboundedSender<Reading> {
        let (sender, inbox) = mpsc::unbounded_channel();
        let settings = self.settings.clone();
        let broker = Broker::new(number, address, settings, inbox, self.back.clone());
        let stop = self.stop.clone();
        tokio::spawn(async move { stop.run_until_cancelled(broker.run()).await });
        sender
    }
}

/// A reading without a broker, and why.
struct Unplaced(Reading, String);

async fn ask_one(address: &str, topics: &[&str], settings: &Settings) -> Result<Metadata, Failed> {
    let mut connection = Connection::open(address, settings).await?;
    let answer = connection.ask(Api::Metadata, Duration::ZERO, |out| {
        wire::put_metadata(topics, out);
    });
    Ok(wire::metadata(answer.await?)?)
}

/// Who leads a partition, and which of its leaders that is.
fn leader(metadata: &Metadata, topic: &str, partition: i32) -> Result<(i32, i32), String> {
    let mut topics = metadata.topics.iter();
    let found = topics.find(|found| found.name == topic);
    let found = found.ok_or("the broker knows nothing of the topic")?;
    let mut partitions = found.partitions.iter();
    let Some(one) = partitions.find(|one| one.partition == partition) else {
        return Err(match found.error {
            0 => "the topic has no such partition".to_owned(),
            error => wire::name(error),
        });
    };
    match one.leader {
        0.. => Ok((one.leader, one.epoch)),
        _ => Err("the partition has no leader".to_owned()),
    }
}
