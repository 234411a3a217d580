//! A lane is one ordered path to the sink: a Kafka partition, an MQTT
//! connection, standard output. It has one batch in flight at a time, which
//! preserves the order; all lanes work in parallel.

use std::collections::VecDeque;
use std::ops::Range;
use std::time::Duration;

use prometheus::local::LocalHistogram;
use tokio::time::Instant;

use crate::fleet::{Emitted, Origin};

/// Size of a record besides its payload, in bytes: key, headers, framing.
const OVERHEAD: usize = 96;

/// Smallest buffer of a lane, which holds a few messages.
pub(crate) const MIN_LANE_BYTES: usize = 4 * 1024;

/// One message of a batch.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Message<'b> {
    /// Id of the device.
    pub device_id: &'b [u8],
    /// Tenant and project of the device.
    pub origin: Origin,
    /// Labels of its anomalies.
    pub label: Option<&'b str>,
    /// Event time, milliseconds since the Unix epoch.
    pub timestamp: i64,
    /// The payload.
    pub payload: &'b [u8],
}

/// When a message was to be sent, and when it was created.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Times {
    /// When the schedule wanted it sent.
    pub due: Instant,
    /// Event time, milliseconds since the Unix epoch.
    pub timestamp: i64,
}

/// Metadata of a message in a batch.
#[derive(Debug)]
struct Item {
    due: Instant,
    origin: Origin,
    label: Option<String>,
    timestamp: i64,
    /// Range of the device id in the payload.
    id: Range<usize>,
    /// End of the payload in the bytes of the batch.
    end: usize,
}

/// Messages that are sent, retried and confirmed together. The payloads share one
/// buffer, so that a message needs no allocation of its own.
#[derive(Debug, Default)]
pub(crate) struct Batch {
    bytes: Vec<u8>,
    items: Vec<Item>,
}

impl Batch {
    /// Number of messages.
    pub(crate) fn len(&self) -> usize {
        self.items.len()
    }

    /// Size of all payloads in bytes.
    pub(crate) fn payload_bytes(&self) -> usize {
        self.bytes.len()
    }

    /// All payloads, concatenated.
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

    /// Observes how long ago, at `now`, the first `count` messages were due. Which messages
    /// were rejected is not known, so this counts the longest waits.
    pub(crate) fn observe(&self, count: usize, now: Instant, latency: &LocalHistogram) {
        for item in self.items.iter().take(count) {
            let since_due = now.saturating_duration_since(item.due);
            latency.observe(since_due.as_secs_f64());
        }
    }

    /// Adds the message that `write` appends; `false` if it appends none.
    pub(crate) fn push(
        &mut self,
        origin: Origin,
        times: Times,
        write: impl FnOnce(&mut Vec<u8>) -> Emitted,
    ) -> bool {
        let Emitted::Message { label, id } = write(&mut self.bytes) else {
            return false;
        };
        self.items.push(Item {
            due: times.due,
            origin,
            label,
            id,
            timestamp: times.timestamp,
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

/// Limits of batches and buffers.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limits {
    /// Maximum size of a batch in bytes, including keys and headers.
    pub batch_bytes: usize,
    /// Maximum number of messages in a batch.
    pub batch_messages: usize,
    /// How long a message waits for others to share its batch.
    pub linger: Duration,
    /// Maximum size in bytes of the messages in one lane, including the batch in flight.
    pub buffer_bytes: usize,
}

/// The messages of one lane that are not confirmed yet.
#[derive(Debug)]
pub(crate) struct Lane {
    limits: Limits,
    open: Batch,
    opened: Option<Instant>,
    closed: VecDeque<Batch>,
    /// Number of messages in the batch that was taken and not returned.
    in_flight: Option<usize>,
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
            in_flight: None,
            bytes: 0,
            messages: 0,
            spare: Vec::new(),
        }
    }

    /// Changes the limits.
    pub(crate) fn set_limits(&mut self, limits: Limits) {
        self.limits = limits;
    }

    /// Number of messages that are not confirmed yet.
    pub(crate) fn waiting(&self) -> usize {
        self.messages
    }

    /// Whether a batch has been taken and not returned.
    pub(crate) fn is_in_flight(&self) -> bool {
        self.in_flight.is_some()
    }

    /// Number of messages in that batch.
    pub(crate) fn in_flight(&self) -> usize {
        self.in_flight.unwrap_or(0)
    }

    /// Used share of the buffer; below 1 there is room for another message.
    pub(crate) fn fill(&self) -> f64 {
        self.bytes as f64 / self.limits.buffer_bytes as f64
    }

    /// Whether a full batch waits, so that more messages would only use memory.
    pub(crate) fn is_ahead(&self) -> bool {
        !self.closed.is_empty()
    }

    /// Adds a message; see [`Batch::push`].
    pub(crate) fn push(
        &mut self,
        now: Instant,
        origin: Origin,
        times: Times,
        write: impl FnOnce(&mut Vec<u8>) -> Emitted,
    ) {
        if !self.open.push(origin, times, write) {
            return;
        }
        self.opened.get_or_insert(now);
        let last = self.open.last_cost();
        self.bytes += last;
        self.messages += 1;
        // Assuming that the next message is as large, close the batch before it exceeds
        // the size that the broker accepts.
        if self.open.len() >= self.limits.batch_messages
            || self.open.cost() + last > self.limits.batch_bytes
        {
            self.close();
        }
    }

    /// The next batch to send, if none is in flight: a full one at once, another one
    /// after the linger time of its first message.
    pub(crate) fn take(&mut self, now: Instant) -> Option<Batch> {
        if self.is_in_flight() {
            return None;
        }
        if self.closed.is_empty() && self.lingers_until().is_some_and(|until| until <= now) {
            self.close();
        }
        let batch = self.closed.pop_front()?;
        self.in_flight = Some(batch.len());
        Some(batch)
    }

    /// Closes the open batch, which then does not wait for more messages.
    pub(crate) fn flush(&mut self) {
        if self.open.len() > 0 {
            self.close();
        }
    }

    /// When [`take`](Self::take) will return a lingering batch, if none is in flight.
    pub(crate) fn wakes_at(&self) -> Option<Instant> {
        if self.is_in_flight() {
            return None;
        }
        self.lingers_until()
    }

    /// Returns the batch in flight after it was sent or given up; its memory is reused.
    pub(crate) fn done(&mut self, mut batch: Batch) {
        self.in_flight = None;
        self.bytes = self.bytes.saturating_sub(batch.cost());
        self.messages = self.messages.saturating_sub(batch.len());
        // After an outage there are many batches; two spare ones are enough.
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
        let times = Times {
            due: now,
            timestamp: 0,
        };
        lane.push(now, Origin::default(), times, |out| {
            out.extend_from_slice(payload.as_bytes());
            Emitted::Message {
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
    fn a_batch_closes_before_it_exceeds_its_size() {
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
    fn a_batch_closes_after_the_linger_time() {
        let (mut lane, now) = (Lane::new(LIMITS), Instant::now());
        push(&mut lane, now, "a");
        assert!(lane.take(now).is_none());
        assert_eq!(lane.wakes_at(), Some(now + LIMITS.linger));
        assert_eq!(payloads(&lane.take(now + LIMITS.linger).unwrap()), ["a"]);
    }

    #[test]
    fn the_next_batch_grows_while_one_is_in_flight() {
        let (mut lane, now) = (Lane::new(LIMITS), Instant::now());
        push(&mut lane, now, "a");
        let later = now + 10 * LIMITS.linger;
        let first = lane.take(later).unwrap();
        push(&mut lane, now, "b");
        push(&mut lane, now, "c");
        assert!(lane.take(later).is_none());
        assert_eq!(lane.wakes_at(), None, "only the confirmation wakes it");
        lane.done(first);
        assert_eq!(payloads(&lane.take(later).unwrap()), ["b", "c"]);
    }

    #[test]
    fn a_flush_closes_the_open_batch() {
        let (mut lane, now) = (Lane::new(LIMITS), Instant::now());
        lane.flush();
        assert!(lane.take(now).is_none());
        push(&mut lane, now, "a");
        lane.flush();
        assert!(lane.take(now).is_some());
    }

    #[test]
    fn the_buffer_includes_the_batch_in_flight() {
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
    fn an_empty_lane_has_an_empty_buffer() {
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
