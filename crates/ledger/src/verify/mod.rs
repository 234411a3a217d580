//! The tally of a run: which messages arrived, how often, and in which order. It is
//! pure: it receives one record after the other and knows neither Kafka nor the clock.

use std::collections::HashMap;

use serde::Serialize;

use crate::histogram::{Histogram, Percentiles};
use crate::payload::{self, Found, Mark};

/// Maximum number of missing ranges and of examples in a report.
const EXAMPLES: usize = 10;

/// The messages of which a run consists.
#[derive(Debug, Clone)]
pub(crate) struct Plan {
    pub(crate) run: String,
    pub(crate) connections: u32,
    /// Number of messages on all connections together.
    pub(crate) messages: u64,
}

impl Plan {
    /// The number of messages on connection `conn`: message `i` of the run is sent on
    /// connection `i % connections`.
    pub(crate) fn of(&self, conn: u32) -> u64 {
        let connections = u64::from(self.connections);
        self.messages / connections + u64::from(u64::from(conn) < self.messages % connections)
    }
}

/// Position of a record.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Place<'a> {
    pub(crate) topic: &'a str,
    pub(crate) partition: i32,
    pub(crate) offset: i64,
}

/// A record to tally.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Entry<'a> {
    pub(crate) place: Place<'a>,
    pub(crate) value: &'a [u8],
    /// Record time, milliseconds since the Unix epoch.
    pub(crate) timestamp_ms: i64,
    /// The header `mqtt-received-at`, milliseconds since the Unix epoch.
    pub(crate) received_ms: Option<i64>,
}

/// The messages of one connection.
#[derive(Debug, Clone)]
struct Conn {
    expected: u64,
    /// Bit set of the messages that arrived.
    seen: Vec<u64>,
    arrived: u64,
}

impl Conn {
    fn new(expected: u64) -> Self {
        let words = usize::try_from(expected.div_ceil(64)).unwrap_or(usize::MAX);
        Self {
            expected,
            seen: vec![0; words],
            arrived: 0,
        }
    }

    /// Marks a message as arrived; `false` if it had arrived before.
    fn mark(&mut self, seq: u64) -> bool {
        let (word, bit) = ((seq / 64) as usize, 1u64 << (seq % 64));
        let first = self.seen[word] & bit == 0;
        self.seen[word] |= bit;
        self.arrived += u64::from(first);
        first
    }

    fn has(&self, seq: u64) -> bool {
        self.seen[(seq / 64) as usize] & (1 << (seq % 64)) != 0
    }

    /// The ranges of messages that did not arrive, including first and last.
    fn missing(&self) -> impl Iterator<Item = (u64, u64)> + '_ {
        self.ranges(false)
    }

    /// The ranges of messages that arrived, or did not, including first and last.
    fn ranges(&self, arrived: bool) -> impl Iterator<Item = (u64, u64)> + '_ {
        let mut next = 0;
        std::iter::from_fn(move || {
            let first = (next..self.expected).find(|seq| self.has(*seq) == arrived)?;
            let end = (first..self.expected)
                .find(|seq| self.has(*seq) != arrived)
                .unwrap_or(self.expected);
            next = end;
            Some((first, end - 1))
        })
    }
}

/// A range of missing messages of one connection, including `first` and `last`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Missing {
    pub(crate) conn: u32,
    pub(crate) first: u64,
    pub(crate) last: u64,
}

/// A finding in one record.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Example {
    pub(crate) topic: String,
    pub(crate) partition: i32,
    pub(crate) offset: i64,
    pub(crate) what: String,
}

/// The result of a run.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct Report {
    pub(crate) run: String,
    pub(crate) expected: u64,
    /// Messages that arrived at least once.
    pub(crate) arrived: u64,
    pub(crate) lost: u64,
    /// Copies beyond the first.
    pub(crate) duplicated: u64,
    /// First copies that arrived after the first copy of a later message of their
    /// connection in the same partition.
    pub(crate) regressions: u64,
    /// Records of this run whose bytes were changed.
    pub(crate) corrupt: u64,
    /// Intact messages of this run that are not in the plan, so the plan is wrong.
    pub(crate) unplanned: u64,
    /// Records of other runs or programs.
    pub(crate) foreign: u64,
    /// Time from sending to the arrival at the bridge (header `mqtt-received-at`).
    pub(crate) sent_to_received_ms: Option<Percentiles>,
    /// Time from sending to the record time, by the producer's clock, or by the broker's
    /// if the topic has `message.timestamp.type=LogAppendTime`.
    pub(crate) sent_to_record_ms: Option<Percentiles>,
    pub(crate) missing: Vec<Missing>,
    pub(crate) examples: Vec<Example>,
}

impl Report {
    /// Whether every message arrived unchanged. Duplicates and regressions are reported
    /// but allowed, because delivery is at least once.
    pub(crate) fn complete(&self) -> bool {
        self.lost == 0 && self.corrupt == 0 && self.unplanned == 0
    }
}

/// Counts the records of one run.
#[derive(Debug)]
pub(crate) struct Tally {
    plan: Plan,
    conns: Vec<Conn>,
    /// Highest sequence number of first copies, by topic, partition and connection.
    highest: HashMap<(String, i32), Vec<Option<u64>>>,
    arrived: u64,
    duplicated: u64,
    regressions: u64,
    corrupt: u64,
    unplanned: u64,
    foreign: u64,
    to_received: Histogram,
    to_record: Histogram,
    examples: Vec<Example>,
    scratch: String,
}

impl Tally {
    pub(crate) fn new(plan: Plan) -> Self {
        Self {
            conns: (0..plan.connections)
                .map(|conn| Conn::new(plan.of(conn)))
                .collect(),
            plan,
            highest: HashMap::new(),
            arrived: 0,
            duplicated: 0,
            regressions: 0,
            corrupt: 0,
            unplanned: 0,
            foreign: 0,
            to_received: Histogram::default(),
            to_record: Histogram::default(),
            examples: Vec::new(),
            scratch: String::new(),
        }
    }

    /// Adds a record; those of a partition must be in order.
    pub(crate) fn record(&mut self, entry: Entry<'_>) {
        match payload::decode(entry.value, &self.plan.run, &mut self.scratch) {
            Found::Foreign => self.foreign += 1,
            Found::Corrupt => {
                self.corrupt += 1;
                self.example(entry.place, format!("corrupt, {} bytes", entry.value.len()));
            }
            Found::Ours(mark) => self.ours(entry, mark),
        }
    }

    fn ours(&mut self, entry: Entry<'_>, mark: Mark) {
        let Mark { conn, seq, .. } = mark;
        let planned = self
            .conns
            .get_mut(conn as usize)
            .filter(|c| seq < c.expected);
        let Some(state) = planned else {
            self.unplanned += 1;
            self.example(
                entry.place,
                format!("connection {conn}, message {seq}: not planned"),
            );
            return;
        };
        if !state.mark(seq) {
            self.duplicated += 1;
            return;
        }
        self.arrived += 1;
        self.order(entry.place, mark);
        self.latency(entry, mark.sent_us);
    }

    fn order(&mut self, place: Place<'_>, mark: Mark) {
        let key = (place.topic.to_owned(), place.partition);
        let conns = self
            .highest
            .entry(key)
            .or_insert_with(|| vec![None; self.conns.len()]);
        let highest = &mut conns[mark.conn as usize];
        match *highest {
            Some(before) if before > mark.seq => {
                self.regressions += 1;
                let what = format!("connection {}: {} after {before}", mark.conn, mark.seq);
                self.example(place, what);
            }
            _ => *highest = Some(mark.seq),
        }
    }

    /// Received and record times are in milliseconds, sending times in microseconds. A
    /// negative difference is due to rounding (or another machine's clock) and counts as 0.
    fn latency(&mut self, entry: Entry<'_>, sent_us: u64) {
        let since = |ms: i64| {
            u64::try_from(ms.saturating_mul(1000))
                .unwrap_or(0)
                .saturating_sub(sent_us)
        };
        self.to_record.record(since(entry.timestamp_ms));
        if let Some(received) = entry.received_ms {
            self.to_received.record(since(received));
        }
    }

    fn example(&mut self, place: Place<'_>, what: String) {
        if self.examples.len() < EXAMPLES {
            let Place {
                topic,
                partition,
                offset,
            } = place;
            self.examples.push(Example {
                topic: topic.to_owned(),
                partition,
                offset,
                what,
            });
        }
    }

    /// Number of messages that arrived, without duplicates.
    pub(crate) fn arrived(&self) -> u64 {
        self.arrived
    }

    /// Whether all messages have arrived.
    pub(crate) fn all_arrived(&self) -> bool {
        self.arrived == self.plan.messages
    }

    /// The ranges of messages that arrived, including first and last, by connection.
    pub(crate) fn found(&self) -> impl Iterator<Item = (u32, u64, u64)> + '_ {
        (0u32..).zip(&self.conns).flat_map(|(conn, state)| {
            let ranges = state.ranges(true);
            ranges.map(move |(first, last)| (conn, first, last))
        })
    }

    pub(crate) fn report(&self) -> Report {
        let missing = (0u32..)
            .zip(&self.conns)
            .filter(|(_, c)| c.arrived < c.expected);
        let missing = missing.flat_map(|(conn, state)| {
            state
                .missing()
                .map(move |(first, last)| Missing { conn, first, last })
        });
        Report {
            run: self.plan.run.clone(),
            expected: self.plan.messages,
            arrived: self.arrived,
            lost: self.plan.messages - self.arrived,
            duplicated: self.duplicated,
            regressions: self.regressions,
            corrupt: self.corrupt,
            unplanned: self.unplanned,
            foreign: self.foreign,
            sent_to_received_ms: self.to_received.percentiles(),
            sent_to_record_ms: self.to_record.percentiles(),
            missing: missing.take(EXAMPLES).collect(),
            examples: self.examples.clone(),
        }
    }
}

#[cfg(test)]
mod tests;
