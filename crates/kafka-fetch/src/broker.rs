//! One broker, and the cursors that are fetched from it.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::{Instant, timeout};

use crate::clock::{Clock, Stamp};
use crate::connection::{Connection, ConnectionError};
use crate::error::FetchError;
use crate::protocol::ErrorCode;
use crate::protocol::fetch::{FetchRequest, FetchedPartition, Position, TopicRef};
use crate::protocol::metadata::TopicId;
use crate::settings::Settings;
use crate::subscription::Cursor;

/// Longest server-side wait of a fetch that leaves out a cursor: it may have room again soon,
/// or another cursor of its partition is fetched first.
const SHORT_WAIT: Duration = Duration::from_millis(20);
/// Fetches stay that short for this long after a new cursor, because more usually follow.
const SETTLE_TIME: Duration = Duration::from_millis(200);
/// After a fetch of fewer bytes, the next starts at least [`Settings::min_interval`] after the
/// start of this one.
const SMALL_FETCH: usize = 64 << 10;
/// Longest delay that a broker may ask for.
const MAX_THROTTLE: Duration = Duration::from_secs(30);
/// How long a connection without cursors is kept.
const MAX_UNUSED: Duration = Duration::from_secs(10);
/// How often leaders are looked up without an error. A deposed leader does not know that it
/// was replaced, and a replica does not know that a closer one exists.
const REFRESH_EVERY: Duration = Duration::from_secs(60);

pub(crate) struct BrokerTask {
    number: i32,
    address: String,
    settings: Arc<Settings>,
    clock: Arc<Clock>,
    inbox: mpsc::UnboundedReceiver<Cursor>,
    /// Inbox of `leaders`.
    back: mpsc::UnboundedSender<Cursor>,
    /// Sorted by partition.
    cursors: Vec<Cursor>,
    /// Number of fetches so far.
    fetches: u64,
}

impl BrokerTask {
    pub(crate) fn new(
        number: i32,
        address: &str,
        (settings, clock): (Arc<Settings>, Arc<Clock>),
        inbox: mpsc::UnboundedReceiver<Cursor>,
        back: mpsc::UnboundedSender<Cursor>,
    ) -> Self {
        Self {
            number,
            address: address.to_owned(),
            settings,
            clock,
            inbox,
            back,
            cursors: Vec::new(),
            fetches: 0,
        }
    }

    /// Connects while there are cursors.
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

    /// Returns whether a cursor arrived.
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
        let mut settled_at = Instant::now() + SETTLE_TIME;
        let mut refresh_at = Instant::now() + REFRESH_EVERY;
        loop {
            if self.admit_all() {
                settled_at = Instant::now() + SETTLE_TIME;
            }
            self.cursors.retain(|cursor| !cursor.is_over());
            if Instant::now() > refresh_at {
                refresh_at = Instant::now() + REFRESH_EVERY;
                self.return_all();
            }
            self.cursors.iter().for_each(Cursor::report_paused);
            if self.cursors.is_empty() {
                match timeout(MAX_UNUSED, self.inbox.recv()).await {
                    Ok(Some(cursor)) => self.admit(cursor),
                    Ok(None) | Err(_) => return Ok(()),
                }
            } else if self.cursors.iter().any(Cursor::has_room) {
                self.fetch(&mut connection, settled_at).await?;
            } else {
                self.wait_for_room().await;
            }
        }
    }

    /// Returns all cursors to `leaders`, which looks up their brokers and usually sends them
    /// back here.
    fn return_all(&mut self) {
        for mut cursor in std::mem::take(&mut self.cursors) {
            cursor.preferred = None;
            self.give_back(cursor);
        }
    }

    /// Waits until a subscriber has room or is gone, or another cursor arrives.
    async fn wait_for_room(&mut self) {
        let rooms = self.cursors.iter().map(|cursor| Box::pin(cursor.room()));
        let arrived = tokio::select! {
            _ = futures::future::select_all(rooms) => None,
            Some(cursor) = self.inbox.recv() => Some(cursor),
        };
        if let Some(cursor) = arrived {
            self.admit(cursor);
        }
    }

    /// Fetches once for the chosen cursors, and waits until the next fetch may start.
    async fn fetch(
        &mut self,
        connection: &mut Connection,
        settled_at: Instant,
    ) -> Result<(), ConnectionError> {
        let started_at = Instant::now();
        self.choose();
        let (positions, names) = (self.positions(), self.names());
        if positions.is_empty() {
            // The budget was used up meanwhile.
            return Ok(());
        }
        let all_in_flight = self.cursors.iter().all(|cursor| cursor.in_flight);
        let may_wait_long = all_in_flight && started_at > settled_at;
        let settings = &self.settings;
        let wait = if may_wait_long {
            settings.max_wait
        } else {
            settings.max_wait.min(SHORT_WAIT)
        };
        let request = FetchRequest {
            max_wait_ms: wait.as_millis() as i32,
            min_bytes: settings.min_bytes,
            max_bytes: settings.max_bytes,
            partition_max_bytes: settings.max_partition_bytes,
            rack: &settings.rack,
            positions: &positions,
        };
        let sent = self.clock.now();
        let response = connection.request(&request, wait).await?;
        let times = (sent, self.clock.now());
        if let Some(error) = response.error {
            return Err(ConnectionError::Broker(error));
        }
        let interval = match response.size() {
            0..SMALL_FETCH => settings.min_interval,
            _ => Duration::ZERO,
        };
        for partition in response.partitions {
            match partition.topic {
                TopicRef::Name(name) => self.deliver(name, &partition, times),
                TopicRef::Id(id) => {
                    if let Some(name) = id.and_then(|id| names.get(&id)) {
                        self.deliver(name, &partition, times);
                    }
                }
            }
        }
        let throttle = response.throttle_time_ms.max(0).unsigned_abs();
        let throttle = Duration::from_millis(throttle.into()).min(MAX_THROTTLE);
        let next = (started_at + interval).max(Instant::now() + throttle);
        tokio::time::sleep_until(next).await;
        Ok(())
    }

    /// Marks the cursors that the next fetch is for. A request can name a partition only once.
    /// Of a partition's cursors, the least recently fetched one is chosen; cursors at the same
    /// position share its fetch. Cursors without room are left out.
    fn choose(&mut self) {
        self.fetches += 1;
        let same = |one: &Cursor, other: &Cursor| one.key() == other.key();
        for cursors in self.cursors.chunk_by_mut(same) {
            let with_room = cursors.iter().filter(|cursor| cursor.has_room());
            let next = with_room.min_by_key(|cursor| cursor.last_fetch);
            let next = next.map(Cursor::place);
            for cursor in cursors {
                cursor.in_flight = Some(cursor.place()) == next && cursor.has_room();
                if cursor.in_flight {
                    cursor.last_fetch = self.fetches;
                }
            }
        }
    }

    /// One for each partition that is fetched. The start rotates: only the first partition
    /// with records may exceed `max_bytes`.
    fn positions(&self) -> Vec<Position<'_>> {
        let in_flight = self.cursors.iter().filter(|cursor| cursor.in_flight);
        let mut positions: Vec<Position<'_>> = in_flight.map(Cursor::position).collect();
        positions.dedup_by_key(|position| (position.topic, position.partition));
        let first = self.cursors[self.fetches as usize % self.cursors.len()].key();
        let before = |position: &Position<'_>| (position.topic, position.partition) < first;
        let before = positions.partition_point(before);
        positions.rotate_left(before);
        positions
    }

    /// Names of topics by id, as responses may name topics by id only.
    fn names(&self) -> HashMap<TopicId, Arc<str>> {
        let same = |one: &Cursor, other: &Cursor| one.topic_id == other.topic_id;
        let topics = self.cursors.chunk_by(same);
        let named = topics.filter_map(|cursors| {
            let Cursor {
                partition,
                topic_id,
                ..
            } = &cursors[0];
            Some(((*topic_id)?, partition.topic.clone()))
        });
        named.collect()
    }

    /// Delivers the records of a partition to the cursors that they were fetched for.
    fn deliver(&mut self, topic: &str, fetched: &FetchedPartition<'_>, times: (Stamp, Stamp)) {
        // Backwards, because cursors may be removed.
        for index in self.range((topic, fetched.partition)).rev() {
            // Nothing is delivered to a subscriber that is gone.
            if self.cursors[index].in_flight && !self.cursors[index].is_over() {
                self.deliver_to(index, fetched, times);
            }
        }
    }

    /// The cursors of a partition.
    fn range(&self, key: (&str, i32)) -> Range<usize> {
        let start = self.cursors.partition_point(|cursor| cursor.key() < key);
        let end = self.cursors.partition_point(|cursor| cursor.key() <= key);
        start..end
    }

    fn deliver_to(&mut self, index: usize, fetched: &FetchedPartition<'_>, times: (Stamp, Stamp)) {
        let cursor = &mut self.cursors[index];
        cursor.in_flight = false;
        let preferred = fetched.preferred_read_replica;
        let elsewhere = preferred.filter(|other| *other != self.number);
        match (fetched.error, elsewhere) {
            (None, None) => match fetched.diverging {
                None => cursor.receive(fetched, times),
                // The same as below: only the leader's answer counts.
                Some(_) if cursor.preferred.is_some() => {
                    cursor.preferred = None;
                    let cursor = self.cursors.remove(index);
                    self.give_back(cursor);
                }
                Some(found) => self.cursors.remove(index).end_truncated(found),
            },
            (None, elsewhere) => {
                cursor.preferred = elsewhere;
                let cursor = self.cursors.remove(index);
                self.give_back(cursor);
            }
            // A lagging replica may lack offsets that the leader has, so only the leader's
            // answer counts.
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
        // The receiver is closed while the fetcher stops.
        let _ = self.back.send(cursor);
    }
}
