//! One broker and the partitions that are fetched from it.

use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::connection::{Connection, Failed};
use super::records::Chunk;
use super::wire::{self, Api, Fetch, FetchedPartition, Position};
use super::{OutOfRange, Reading, Settings};

/// How long a broker may wait for records while a partition is left out, whose owner may
/// have room in a moment.
const SHORT: Duration = Duration::from_millis(10);
/// The same for so long after a new partition has come, as it seldom comes alone.
const SETTLED: Duration = Duration::from_millis(200);
/// An answer below this was hardly worth its costs: the next fetch is asked for only so
/// long after this one was.
const SMALL: usize = 64 << 10;
const PACE: Duration = Duration::from_millis(5);

pub(super) struct Broker {
    number: i32,
    address: String,
    settings: Arc<Settings>,
    inbox: mpsc::UnboundedReceiver<Reading>,
    back: mpsc::UnboundedSender<Reading>,
    readings: Vec<Reading>,
}

impl Broker {
    pub(super) fn new(
        number: i32,
        address: &str,
        settings: Arc<Settings>,
        inbox: mpsc::UnboundedReceiver<Reading>,
        back: mpsc::UnboundedSender<Reading>,
    ) -> Self {
        Self {
            number,
            address: address.to_owned(),
            settings,
            inbox,
            back,
            readings: Vec::new(),
        }
    }

    /// Is connected while there is something to read.
    pub(super) async fn run(mut self) {
        while let Some(reading) = self.inbox.recv().await {
            self.readings.push(reading);
            if let Err(error) = self.fetch_all().await {
                let reason = format!("broker {}: {error}", self.address);
                for mut reading in std::mem::take(&mut self.readings) {
                    reading.fail(reason.clone());
                    self.give_back(reading);
                }
            }
        }
    }

    async fn fetch_all(&mut self) -> Result<(), Failed> {
        let mut connection = Connection::open(&self.address, &self.settings.security).await?;
        let mut settled = Instant::now() + SETTLED;
        loop {
            while let Ok(reading) = self.inbox.try_recv() {
                self.readings.push(reading);
                settled = Instant::now() + SETTLED;
            }
            self.readings.retain(|reading| !reading.is_over());
            for reading in &self.readings {
                reading.progress.set_full(!reading.has_room());
            }
            if self.readings.is_empty() {
                return Ok(());
            }
            if !self.readings.iter().any(Reading::has_room) {
                self.wait_for_room().await;
                continue;
            }
            // Only the first one that has records gets a batch larger than asked for.
            self.readings.rotate_left(1);
            self.fetch(&mut connection, settled).await?;
        }
    }

    /// Until an owner has taken something, or gone, or another partition comes.
    async fn wait_for_room(&mut self) {
        let rooms = self.readings.iter();
        let rooms = rooms.map(|reading| Box::pin(reading.chunks.reserve().map(drop)));
        let come = tokio::select! {
            _ = futures::future::select_all(rooms) => None,
            come = self.inbox.recv() => come,
        };
        self.readings.extend(come);
    }

    async fn fetch(&mut self, connection: &mut Connection, settled: Instant) -> Result<(), Failed> {
        let begun = Instant::now();
        let wanted = self.readings.iter().filter(|reading| reading.has_room());
        let positions = wanted.map(|reading| Position {
            topic: &reading.partition.0,
            partition: reading.partition.1,
            epoch: reading.epoch,
            offset: reading.offset,
        });
        let positions: Vec<_> = positions.collect();
        let all = positions.len() == self.readings.len() && begun > settled;
        let settings = &self.settings;
        let wait = settings
            .max_wait
            .min(if all { Duration::MAX } else { SHORT });
        let fetch = Fetch {
            max_wait: wait.as_millis() as i32,
            min_bytes: settings.min_bytes,
            max_bytes: settings.max_bytes,
            partition_bytes: settings.partition_bytes,
            rack: &settings.rack,
        };
        let answer = connection.ask(Api::Fetch, wait, |out| fetch.put(&positions, out));
        let answer = answer.await?;
        let is_small = answer.len() < SMALL;
        let fetched = wire::fetched(answer)?;
        if fetched.error != 0 {
            return Err(Failed::Refused(wire::name(fetched.error)));
        }
        for partition in fetched.partitions {
            self.take(partition);
        }
        let throttle = Duration::from_millis(fetched.throttle.max(0).unsigned_abs().into());
        tokio::time::sleep(throttle).await;
        if is_small {
            tokio::time::sleep_until(begun + PACE).await;
        }
        Ok(())
    }

    fn take(&mut self, fetched: FetchedPartition<'_>) {
        let is_it = |one: &Reading| {
            one.partition.1 == fetched.partition && one.partition.0 == fetched.topic
        };
        let Some(index) = self.readings.iter().position(is_it) else {
            return;
        };
        let reading = &mut self.readings[index];
        let elsewhere = fetched.preferred.filter(|other| *other != self.number);
        match (fetched.error, elsewhere) {
            (0, None) => receive(reading, fetched),
            (0, elsewhere) => {
                reading.preferred = elsewhere;
                let reading = self.readings.remove(index);
                self.give_back(reading);
            }
            (wire::OUT_OF_RANGE, _) if reading.preferred.is_none() => {
                let reading = self.readings.remove(index);
                // There was room, and the owner may have gone.
                let _ = reading.chunks.try_send(Err(OutOfRange));
            }
            (error, _) => {
                reading.fail(wire::name(error));
                let reading = self.readings.remove(index);
                self.give_back(reading);
            }
        }
    }

    fn give_back(&self, reading: Reading) {
        // Only a service that ends takes none back.
        let _ = self.back.send(reading);
    }
}

fn receive(reading: &mut Reading, fetched: FetchedPartition<'_>) {
    let progress = &reading.progress;
    progress.ends_at(fetched.end);
    if fetched.records.is_empty() {
        progress.set_read();
    }
    let chunk = Chunk::new(fetched.records, reading.offset, fetched.aborted, progress);
    if let Some((chunk, next)) = chunk {
        reading.offset = next;
        // There was room, and the owner may have gone.
        let _ = reading.chunks.try_send(Ok(chunk));
    }
}
