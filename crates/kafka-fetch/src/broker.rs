//! One broker, and the cursors that are fetched from it.

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::{Instant, timeout};

use crate::connection::{Connection, ConnectionError};
use crate::error::FetchError;
use crate::protocol::ErrorCode;
use crate::protocol::fetch::{FetchRequest, FetchedPartition, Position};
use crate::settings::Settings;
use crate::subscription::Cursor;

/// How long a broker may wait for records while a cursor is left out of the fetch, which may
/// be wanted in a moment.
const SHORT: Duration = Duration::from_millis(20);
/// The same for this long after a new cursor, as it seldom comes alone.
const SETTLED: Duration = Duration::from_millis(200);
/// A fetch of fewer bytes was hardly worth its cost: the next one begins no earlier than
/// [`PACE`] after it did.
const SMALL: usize = 64 << 10;
const PACE: Duration = Duration::from_millis(10);
/// The longest delay that a broker may ask for.
const THROTTLED: Duration = Duration::from_secs(30);
/// How long a connection without cursors is kept.
const UNUSED: Duration = Duration::from_secs(10);
/// How often leaders are looked up without an error: a broker that was cut off from the
/// others does not know that it was replaced, nor a replica that another one is closer.
const FRESH: Duration = Duration::from_secs(60);

pub(crate) struct BrokerTask {
    number: i32,
    address: String,
    settings: Arc<Settings>,
    inbox: mpsc::UnboundedReceiver<Cursor>,
    back: mpsc::UnboundedSender<Cursor>,
    /// Sorted by partition.
    cursors: Vec<Cursor>,
    /// Counts fetches: each begins with another partition.
    fetches: u64,
}

impl BrokerTask {
    pub(crate) fn new(
        number: i32,
        address: &str,
        settings: Arc<Settings>,
        inbox: mpsc::UnboundedReceiver<Cursor>,
        back: mpsc::UnboundedSender<Cursor>,
    ) -> Self {
        Self {
            number,
            address: address.to_owned(),
            settings,
            inbox,
            back,
            cursors: Vec::new(),
            fetches: 0,
        }
    }

    /// Is connected while there is something to fetch.
    pub(crate) async fn run(mut self) {
        while let Some(cursor) = self.inbox.recv().await {
            self.admit(cursor);
            if let Err(error) = self.fetch_all().await {
                let address = self.address.clone();
                let error = FetchError::Broker { address, error };
                self.admit_all();
                for mut cursor in std::mem::take(&mut self.cursors) {
                    cursor.fail(&error);
                    self.give_back(cursor);
                }
            }
        }
    }

    fn admit(&mut self, cursor: Cursor) {
        let before = |other: &Cursor| other.key() <= cursor.key();
        let place = self.cursors.partition_point(before);
        self.cursors.insert(place, cursor);
    }

    /// Whether any have come.
    fn admit_all(&mut self) -> bool {
        let mut any = false;
        while let Ok(cursor) = self.inbox.try_recv() {
            self.admit(cursor);
            any = true;
        }
        any
    }

    async fn fetch_all(&mut self) -> Result<(), ConnectionError> {
        let mut connection = Connection::open(&self.address, &self.settings).await?;
        let mut settled = Instant::now() + SETTLED;
        let mut fresh = Instant::now() + FRESH;
        loop {
            if self.admit_all() {
                settled = Instant::now() + SETTLED;
            }
            self.cursors.retain(|cursor| !cursor.is_over());
            if Instant::now() > fresh {
                fresh = Instant::now() + FRESH;
                self.look_up_leaders();
            }
            self.cursors.iter().for_each(Cursor::report_paused);
            if self.cursors.is_empty() {
                match timeout(UNUSED, self.inbox.recv()).await {
                    Ok(Some(cursor)) => self.admit(cursor),
                    Ok(None) | Err(_) => return Ok(()),
                }
            } else if self.cursors.iter().any(Cursor::has_room) {
                self.fetch(&mut connection, settled).await?;
            } else {
                self.wait_for_room().await;
            }
        }
    }

    /// Gives all cursors back, most likely to get them again.
    fn look_up_leaders(&mut self) {
        for mut cursor in std::mem::take(&mut self.cursors) {
            cursor.preferred = None;
            self.give_back(cursor);
        }
    }

    /// Waits until a subscriber has taken something, or is gone, or another cursor comes.
    async fn wait_for_room(&mut self) {
        let rooms = self.cursors.iter().map(|cursor| Box::pin(cursor.room()));
        let come = tokio::select! {
            _ = futures::future::select_all(rooms) => None,
            Some(cursor) = self.inbox.recv() => Some(cursor),
        };
        if let Some(cursor) = come {
            self.admit(cursor);
        }
    }

    /// One fetch for all cursors that have room, and the time that has to pass before the
    /// next.
    async fn fetch(
        &mut self,
        connection: &mut Connection,
        settled: Instant,
    ) -> Result<(), ConnectionError> {
        let begun = Instant::now();
        self.choose();
        let positions = self.positions();
        let all = self.cursors.iter().all(|cursor| cursor.in_flight) && begun > settled;
        let settings = &self.settings;
        let wait = if all {
            settings.max_wait
        } else {
            settings.max_wait.min(SHORT)
        };
        let request = FetchRequest {
            max_wait_ms: wait.as_millis() as i32,
            min_bytes: settings.min_bytes,
            max_bytes: settings.max_bytes,
            partition_max_bytes: settings.max_partition_bytes,
            rack: &settings.rack,
            positions: &positions,
        };
        let response = connection.request(&request, wait).await?;
        if let Some(error) = response.error {
            return Err(ConnectionError::Broker(error));
        }
        let pace = match response.size() {
            0..SMALL => PACE,
            _ => Duration::ZERO,
        };
        for partition in response.partitions {
            self.deliver(&partition);
        }
        let throttle = response.throttle_time_ms.max(0).unsigned_abs();
        let throttle = Duration::from_millis(throttle.into()).min(THROTTLED);
        let next = (begun + pace).max(Instant::now() + throttle);
        tokio::time::sleep_until(next).await;
        Ok(())
    }

    /// Marks the cursors that the next fetch is for. A request can have a partition only once:
    /// of several cursors the one is chosen whose last fetch is the longest ago, and those at
    /// the same position share its fetch.
    fn choose(&mut self) {
        self.fetches += 1;
        let same = |one: &Cursor, other: &Cursor| one.key() == other.key();
        for cursors in self.cursors.chunk_by_mut(same) {
            let with_room = cursors.iter().filter(|cursor| cursor.has_room());
            let next = with_room.min_by_key(|cursor| cursor.fetched_at);
            let next = next.map(|cursor| (cursor.offset, cursor.leader_epoch));
            for cursor in cursors {
                let position = Some((cursor.offset, cursor.leader_epoch));
                cursor.in_flight = position == next && cursor.has_room();
                if cursor.in_flight {
                    cursor.fetched_at = self.fetches;
                }
            }
        }
    }

    /// One for each partition that is fetched. Each fetch begins with another one, as only the
    /// first partition with records gets a batch that is larger than asked for.
    fn positions(&self) -> Vec<Position<'_>> {
        let in_flight = self.cursors.iter().filter(|cursor| cursor.in_flight);
        let positions = in_flight.map(|cursor| Position {
            topic: &cursor.partition.topic,
            partition: cursor.partition.partition,
            leader_epoch: cursor.leader_epoch,
            offset: cursor.offset,
        });
        let mut positions: Vec<Position<'_>> = positions.collect();
        positions.dedup_by_key(|position| (position.topic, position.partition));
        let first = self.cursors[self.fetches as usize % self.cursors.len()].key();
        let before = |position: &Position<'_>| (position.topic, position.partition) < first;
        let before = positions.partition_point(before);
        positions.rotate_left(before);
        positions
    }

    /// Hands what was fetched of a partition to the cursors that it was fetched for.
    fn deliver(&mut self, fetched: &FetchedPartition<'_>) {
        // From the last one, as some are removed.
        for index in self.range((fetched.topic, fetched.partition)).rev() {
            // Nothing is delivered to a subscriber that is gone.
            if self.cursors[index].in_flight && !self.cursors[index].is_over() {
                self.deliver_to(index, fetched);
            }
        }
    }

    /// The cursors of a partition.
    fn range(&self, key: (&str, i32)) -> Range<usize> {
        let start = self.cursors.partition_point(|cursor| cursor.key() < key);
        let end = self.cursors.partition_point(|cursor| cursor.key() <= key);
        start..end
    }

    fn deliver_to(&mut self, index: usize, fetched: &FetchedPartition<'_>) {
        let cursor = &mut self.cursors[index];
        cursor.in_flight = false;
        let preferred = fetched.preferred_read_replica;
        let elsewhere = preferred.filter(|other| *other != self.number);
        match (fetched.error, elsewhere) {
            (None, None) => cursor.receive(fetched),
            (None, elsewhere) => {
                cursor.preferred = elsewhere;
                let cursor = self.cursors.remove(index);
                self.give_back(cursor);
            }
            // A replica that is behind does not have what the leader has.
            (Some(ErrorCode::OffsetOutOfRange), _) if cursor.preferred.is_none() => {
                self.cursors.remove(index).out_of_range();
            }
            (Some(error), _) => {
                cursor.fail(&FetchError::Partition(error));
                let cursor = self.cursors.remove(index);
                self.give_back(cursor);
            }
        }
    }

    fn give_back(&self, cursor: Cursor) {
        // A fetcher that is stopping takes none back.
        let _ = self.back.send(cursor);
    }
}
