//! A lane is one ordered way to the sink: a Kafka partition, an MQTT
//! connection, standard output. One batch of it is under way at a time, so
//! nothing can overtake; all lanes move in parallel.

use std::collections::VecDeque;
use std::ops::Range;
use std::time::Duration;

use tokio::time::Instant;

use crate::fleet::{Origin, Said};

/// What a record costs beside its payload: key, headers, framing. Bytes.
const OVERHEAD: usize = 96;

/// One message of a batch.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Message<'b> {
    /// Id of the device.
    pub device_id: &'b [u8],
    /// Its tenant and project.
    pub origin: Origin,
    /// The true labels of its anomalies.
    pub label: Option<&'b str>,
    /// Milliseconds since the epoch.
    pub timestamp: i64,
    /// What it says.
    pub payload: &'b [u8],
}

/// What a batch keeps of a message beside its bytes.
#[derive(Debug)]
struct Item {
    origin: Origin,
    label: Option<String>,
    timestamp: i64,
    /// Where the device's id is in the payload.
    id: Range<usize>,
    /// Where the payload ends in the bytes of the batch.
    end: usize,
}

/// Messages that are sent, retried and confirmed together. The payloads share
/// one buffer, so that a message costs no allocation for its bytes.
#[derive(Debug, Default)]
pub(crate) struct Batch {
    bytes: Vec<u8>,
    items: Vec<Item>,
}

impl Batch {
    /// Messages in it.
    pub(crate) fn len(&self) -> usize {
        self.items.len()
    }

    /// Bytes of all payloads.
    pub(crate) fn payload_bytes(&self) -> usize {
        self.bytes.len()
    }

    /// All payloads, one behind the other.
    pub(crate) fn payload(&self) -> &[u8] {
        &self.bytes
    }

    /// The messages, in order.
    pub(crate) fn messages(&self) -> impl Iterator<Item = Message<'_>> {
        let mut begin = 0;
        self.items.iter().map(move |item| {
            let payload = &self.bytes[begin..item.end];
            begin = item.end;
            Message {
                device_id: &payload[item.id.clone()],
                origin: item.origin,
                label: item.label.as_deref(),
                timestamp: item.timestamp,
                payload,
            }
        })
    }

    /// Adds the message whose payload `write` appends; `false` if there is none.
    pub(crate) fn push(
        &mut self,
        origin: Origin,
        timestamp: i64,
        write: impl FnOnce(&mut Vec<u8>) -> Said,
    ) -> bool {
        let Said::Message { label, id } = write(&mut self.bytes) else {
            return false;
        };
        self.items.push(Item {
            origin,
            label,
            id,
            timestamp,
            end: self.bytes.len(),
        });
        true
    }

    fn cost(&self) -> usize {
        self.bytes.len() + self.items.len() * OVERHEAD
    }

    /// Cost of the newest message.
    fn last_cost(&self) -> usize {
        let before = self.items.iter().rev().nth(1).map_or(0, |item| item.end);
        self.bytes.len() - before + OVERHEAD
    }

    fn clear(&mut self) {
        self.bytes.clear();
        self.items.clear();
    }
}

/// When batches close and how much may wait.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limits {
    /// Bytes of a batch, with keys and headers.
    pub batch_bytes: usize,
    /// Messages of a batch.
    pub batch_messages: usize,
    /// How long a message may wait for others.
    pub linger: Duration,
    /// Bytes that may wait in one lane, the batch under way included.
    pub buffer_bytes: usize,
}

/// What waits for one lane.
#[derive(Debug)]
pub(crate) struct Lane {
    limits: Limits,
    open: Batch,
    opened: Option<Instant>,
    closed: VecDeque<Batch>,
    under_way: bool,
    bytes: usize,
    messages: usize,
    spare: Vec<Batch>,
}

impl Lane {
    /// An empty lane.
    pub(crate) fn new(limits: Limits) -> Self {
        Self {
            limits,
            open: Batch::default(),
            opened: None,
            closed: VecDeque::new(),
            under_way: false,
            bytes: 0,
            messages: 0,
            spare: Vec::new(),
        }
    }

    /// Other limits from now on.
    pub(crate) fn limit(&mut self, limits: Limits) {
        self.limits = limits;
    }

    /// Messages that are not confirmed yet.
    pub(crate) fn waiting(&self) -> usize {
        self.messages
    }

    /// Whether a batch has been taken and is not done with.
    pub(crate) fn is_under_way(&self) -> bool {
        self.under_way
    }

    /// How full the buffer is; it takes another message below 1.
    pub(crate) fn fill(&self) -> f64 {
        self.bytes as f64 / self.limits.buffer_bytes as f64
    }

    /// Whether a full batch is ready, so that making more would only fill
    /// memory.
    pub(crate) fn is_ahead(&self) -> bool {
        !self.closed.is_empty()
    }

    /// Adds a message; see [`Batch::push`].
    pub(crate) fn push(
        &mut self,
        now: Instant,
        origin: Origin,
        timestamp: i64,
        write: impl FnOnce(&mut Vec<u8>) -> Said,
    ) {
        if !self.open.push(origin, timestamp, write) {
            return;
        }
        self.opened.get_or_insert(now);
        let last = self.open.last_cost();
        self.bytes += last;
        self.messages += 1;
        // The next one will be about as large; closing one message early keeps
        // the batch inside what the broker takes.
        if self.open.len() >= self.limits.batch_messages
            || self.open.cost() + last > self.limits.batch_bytes
        {
            self.close();
        }
    }

    /// The next batch to send: never while one is under way; a full one at
    /// once, another when its first message has waited long enough.
    pub(crate) fn take(&mut self, now: Instant) -> Option<Batch> {
        if self.under_way {
            return None;
        }
        if self.closed.is_empty() && self.lingers_until().is_some_and(|until| until <= now) {
            self.close();
        }
        let batch = self.closed.pop_front()?;
        self.under_way = true;
        Some(batch)
    }

    /// Stops waiting for more messages to join.
    pub(crate) fn flush(&mut self) {
        if self.open.len() > 0 {
            self.close();
        }
    }

    /// When [`take`](Self::take) should be asked again, if only time is missing.
    pub(crate) fn wakes_at(&self) -> Option<Instant> {
        if self.under_way {
            return None;
        }
        self.lingers_until()
    }

    /// The batch under way is done with; its memory is used again.
    pub(crate) fn done(&mut self, mut batch: Batch) {
        self.under_way = false;
        self.bytes = self.bytes.saturating_sub(batch.cost());
        self.messages = self.messages.saturating_sub(batch.len());
        // After an outage there are many; two are enough to go on with.
        if self.spare.len() < 2 {
            batch.clear();
            self.spare.push(batch);
        }
    }

    fn lingers_until(&self) -> Option<Instant> {
        self.opened.map(|opened| opened + self.limits.linger)
    }

    fn close(&mut self) {
        let next = self.spare.pop().unwrap_or_default();
        self.closed
            .push_back(std::mem::replace(&mut self.open, next));
        self.opened = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: Limits = Limits {
        batch_bytes: 10_000,
        batch_messages: 3,
        linger: Duration::from_millis(5),
        buffer_bytes: 1_000,
    };

    fn push(lane: &mut Lane, now: Instant, payload: &str) {
        lane.push(now, Origin::default(), 0, |out| {
            out.extend_from_slice(payload.as_bytes());
            Said::Message {
                label: None,
                id: 0..0,
            }
        });
    }

    fn payloads(batch: &Batch) -> Vec<&str> {
        let payloads = batch
            .messages()
            .map(|message| std::str::from_utf8(message.payload));
        payloads.map(Result::unwrap).collect()
    }

    #[test]
    fn a_batch_closes_when_it_is_full() {
        let (mut lane, now) = (Lane::new(LIMITS), Instant::now());
        for payload in ["a", "bb", "ccc", "d"] {
            push(&mut lane, now, payload);
        }
        let batch = lane.take(now).expect("full");
        assert_eq!(payloads(&batch), ["a", "bb", "ccc"]);
        assert_eq!(batch.payload_bytes(), 6);
    }

    #[test]
    fn a_batch_closes_at_its_size_and_not_above() {
        let mut lane = Lane::new(Limits {
            batch_bytes: 250,
            ..LIMITS
        });
        let now = Instant::now();
        push(&mut lane, now, "0123456789");
        assert!(lane.take(now).is_none());
        push(&mut lane, now, "0123456789");
        let batch = lane.take(now).expect("a third would not fit");
        assert!(batch.cost() <= 250);
    }

    #[test]
    fn a_batch_closes_when_it_has_lingered() {
        let (mut lane, now) = (Lane::new(LIMITS), Instant::now());
        push(&mut lane, now, "a");
        assert!(lane.take(now).is_none());
        assert_eq!(lane.wakes_at(), Some(now + LIMITS.linger));
        assert_eq!(payloads(&lane.take(now + LIMITS.linger).unwrap()), ["a"]);
    }

    #[test]
    fn one_batch_is_under_way_and_the_next_grows_meanwhile() {
        let (mut lane, now) = (Lane::new(LIMITS), Instant::now());
        push(&mut lane, now, "a");
        let later = now + 10 * LIMITS.linger;
        let first = lane.take(later).unwrap();
        push(&mut lane, now, "b");
        push(&mut lane, now, "c");
        assert!(lane.take(later).is_none());
        assert_eq!(lane.wakes_at(), None, "only the answer can wake it");
        lane.done(first);
        assert_eq!(payloads(&lane.take(later).unwrap()), ["b", "c"]);
    }

    #[test]
    fn a_flush_waits_for_nobody() {
        let (mut lane, now) = (Lane::new(LIMITS), Instant::now());
        lane.flush();
        assert!(lane.take(now).is_none());
        push(&mut lane, now, "a");
        lane.flush();
        assert!(lane.take(now).is_some());
    }

    #[test]
    fn room_counts_everything_that_is_not_confirmed() {
        let (mut lane, now) = (Lane::new(LIMITS), Instant::now());
        let mut sent = 0;
        while lane.fill() < 1.0 {
            push(&mut lane, now, "0123456789");
            sent += 1;
        }
        assert_eq!((sent, lane.waiting()), (10, 10));
        let batch = lane.take(now).unwrap();
        assert!(lane.fill() >= 1.0, "still in memory");
        lane.done(batch);
        assert!(lane.fill() < 1.0);
        assert_eq!(lane.waiting(), 7);
    }

    #[test]
    fn an_emptied_lane_has_all_its_room_again() {
        let (mut lane, now) = (Lane::new(LIMITS), Instant::now());
        for round in 0..20 {
            push(&mut lane, now, &"x".repeat(round));
        }
        lane.flush();
        while let Some(batch) = lane.take(now) {
            lane.done(batch);
        }
        assert_eq!((lane.bytes, lane.messages), (0, 0));
    }
}
