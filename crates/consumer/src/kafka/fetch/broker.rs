//! One broker and the partitions that are fetched from it.

use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout};

use super::connection::{Connection, Failed};
use super::wire::{self, Api, Fetch, FetchedPartition, Position};
use super::{OutOfRange, Reading, Settings};

/// How long a broker may wait for records while a partition is left out, whose owner may
/// have room in a moment.
const SHORT: Duration = Duration::from_millis(20);
/// The same for so long after a new partition has come, as it seldom comes alone.
const SETTLED: Duration = Duration::from_millis(200);
/// An answer below this was hardly worth its costs: the next fetch is asked for only so
/// long after this one was.
const SMALL: usize = 64 << 10;
const PACE: Duration = Duration::from_millis(10);
/// The longest that a broker may put fetches off.
const THROTTLED: Duration = Duration::from_secs(30);
/// How long a connection is kept that nothing is read over.
const UNUSED: Duration = Duration::from_secs(10);
/// After so long it is asked again who leads: a broker that was cut off from the others
/// does not know that it has been replaced, nor a replica that another one is better.
const FRESH: Duration = Duration::from_secs(60);

pub(super) struct Broker {
    number: i32,
    address: String,
    settings: Arc<Settings>,
    inbox: mpsc::UnboundedReceiver<Reading>,
    back: mpsc::UnboundedSender<Reading>,
    /// Sorted by partition.
    readings: Vec<Reading>,
    /// Counts fetches: each begins with another partition.
    turn: usize,
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
            turn: 0,
        }
    }

    /// Is connected while there is something to read.
    pub(super) async fn run(mut self) {
        while let Some(reading) = self.inbox.recv().await {
            self.admit(reading);
            if let Err(error) = self.fetch_all().await {
                let reason = format!("broker {}: {error}", self.address);
                self.admit_all();
                for mut reading in std::mem::take(&mut self.readings) {
                    reading.fail(reason.clone());
                    self.give_back(reading);
                }
            }
        }
    }

    /// Takes a reading on, in place of one whose owner must be gone.
    fn admit(&mut self, reading: Reading) {
        self.readings
            .retain(|old| old.partition != reading.partition);
        let before = |other: &Reading| other.partition < reading.partition;
        let place = self.readings.partition_point(before);
        self.readings.insert(place, reading);
    }

    /// Whether any have come.
    fn admit_all(&mut self) -> bool {
        let mut any = false;
        while let Ok(reading) = self.inbox.try_recv() {
            self.admit(reading);
            any = true;
        }
        any
    }

    async fn fetch_all(&mut self) -> Result<(), Failed> {
        let mut connection = Connection::open(&self.address, &self.settings).await?;
        let mut settled = Instant::now() + SETTLED;
        let mut fresh = Instant::now() + FRESH;
        loop {
            if self.admit_all() {
                settled = Instant::now() + SETTLED;
            }
            self.readings.retain(|reading| !reading.is_over());
            if Instant::now() > fresh {
                fresh = Instant::now() + FRESH;
                self.ask_anew();
            }
            for reading in &self.readings {
                reading.progress.set_full(!reading.has_room());
            }
            if self.readings.is_empty() {
                match timeout(UNUSED, self.inbox.recv()).await {
                    Ok(Some(reading)) => self.admit(reading),
                    Ok(None) | Err(_) => return Ok(()),
                }
            } else if self.readings.iter().any(Reading::has_room) {
                self.fetch(&mut connection, settled).await?;
            } else {
                self.wait_for_room().await;
            }
        }
    }

    /// Has all readings taken to who leads them now, most likely here.
    fn ask_anew(&mut self) {
        for mut reading in std::mem::take(&mut self.readings) {
            reading.preferred = None;
            self.give_back(reading);
        }
    }

    /// Until an owner has taken something, or gone, or another partition comes.
    async fn wait_for_room(&mut self) {
        let rooms = self.readings.iter();
        let rooms = rooms.map(|reading| Box::pin(reading.chunks.reserve().map(drop)));
        let come = tokio::select! {
            _ = futures::future::select_all(rooms) => None,
            Some(reading) = self.inbox.recv() => Some(reading),
        };
        if let Some(reading) = come {
            self.admit(reading);
        }
    }

    /// One fetch of all that have room, and the time that has to pass before the next.
    async fn fetch(&mut self, connection: &mut Connection, settled: Instant) -> Result<(), Failed> {
        let begun = Instant::now();
        // Only the first one that has records gets a batch larger than asked for.
        self.turn = (self.turn + 1) % self.readings.len();
        let (last, first) = self.readings.split_at(self.turn);
        let wanted = first.iter().chain(last).filter(|one| one.has_room());
        let positions = wanted.map(|reading| Position {
            topic: &reading.partition.topic,
            partition: reading.partition.partition,
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
        let pace = if answer.len() < SMALL {
            PACE
        } else {
            Duration::ZERO
        };
        let answer = wire::fetched(answer)?;
        if answer.error != 0 {
            return Err(Failed::Refused(wire::name(answer.error)));
        }
        for partition in answer.partitions {
            self.deal_with(partition);
        }
        let throttle = Duration::from_millis(answer.throttle.max(0).unsigned_abs().into());
        let next = (begun + pace).max(Instant::now() + throttle.min(THROTTLED));
        tokio::time::sleep_until(next).await;
        Ok(())
    }

    fn deal_with(&mut self, fetched: FetchedPartition<'_>) {
        let is_it = |one: &Reading| {
            one.partition.partition == fetched.partition && *one.partition.topic == *fetched.topic
        };
        let Some(index) = self.readings.iter().position(is_it) else {
            return;
        };
        if self.readings[index].is_over() {
            // Nobody is told by it any more.
            return;
        }
        let reading = &mut self.readings[index];
        let elsewhere = fetched.preferred.filter(|other| *other != self.number);
        match (fetched.error, elsewhere) {
            (0, None) => reading.receive(fetched),
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
