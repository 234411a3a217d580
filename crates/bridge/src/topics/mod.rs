//! The Kafka topics of a session, each with a queue of messages to be written.
//!
//! A topic's messages go to the producer in batches, one in flight at a time. So
//! a batch that fails is retried before later messages are sent. It also keeps
//! librdkafka from busy-waiting, which it does while records wait behind a request
//! for their partition (docs/decisions/0006-lots-and-pace.md).

mod topic;

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use iot_core::route::{Route, collision_key};
use iot_kafka::errors::Named;
use tokio::sync::mpsc;
use tokio::time::Instant;

use crate::creator::{Created, Outcome, Wanted};
use crate::refusal::Refusal;
use crate::ring::Seq;
use crate::topic_id::TopicId;
use topic::{Lookup, RETRY_AFTER, State, Topic};

/// The topics of one session.
#[derive(Debug)]
pub(crate) struct Topics {
    max_per_tenant: usize,
    may_create: bool,
    topics: Vec<Topic>,
    ids: HashMap<Arc<str>, TopicId>,
    /// Topics by [`collision_key`]: Kafka rejects a topic whose name differs from
    /// an existing one only in `.` and `_`.
    collisions: HashMap<String, TopicId>,
    per_tenant: HashMap<String, usize>,
    /// Topics whose queue is not empty.
    queued: Vec<TopicId>,
    /// How many topics have a batch in flight.
    in_flight: usize,
    /// Nothing is sent before: the producer is being replaced.
    resume_at: Instant,
    // Bounded by the number of topics.
    wanted: mpsc::UnboundedSender<Wanted>,
    created: mpsc::UnboundedSender<Created>,
}

impl Topics {
    pub(crate) fn new(
        max_per_tenant: usize,
        may_create: bool,
        wanted: mpsc::UnboundedSender<Wanted>,
        created: mpsc::UnboundedSender<Created>,
    ) -> Self {
        Self {
            max_per_tenant,
            may_create,
            topics: Vec::new(),
            ids: HashMap::new(),
            collisions: HashMap::new(),
            per_tenant: HashMap::new(),
            queued: Vec::new(),
            in_flight: 0,
            resume_at: Instant::now(),
            wanted,
            created,
        }
    }

    /// How many topics are open.
    pub(crate) fn len(&self) -> usize {
        self.topics.len()
    }

    pub(crate) fn set_max_per_tenant(&mut self, max_per_tenant: usize) {
        self.max_per_tenant = max_per_tenant;
    }

    pub(crate) fn name(&self, id: TopicId) -> &Arc<str> {
        &self.topics[id.0].name
    }

    /// Opens the topic of a route.
    pub(crate) fn open(&mut self, route: &Route) -> Result<TopicId, Refusal> {
        if let Some(id) = self.ids.get(route.topic.as_str()) {
            return self.accepts(*id).map(|()| *id);
        }
        let collision_key = collision_key(&route.topic);
        if self.collisions.contains_key(&collision_key) {
            return Err(Refusal::TopicCollision);
        }
        let count = self.per_tenant.entry(route.tenant.clone()).or_default();
        if *count >= self.max_per_tenant {
            return Err(Refusal::TopicLimit);
        }
        *count += 1;
        let id = self.add(route.topic.as_str().into(), Some(route.tenant.clone()));
        self.collisions.insert(collision_key, id);
        Ok(id)
    }

    /// Opens one of the bridge's own topics, which have no limits.
    pub(crate) fn open_own(&mut self, topic: &Arc<str>) -> TopicId {
        match self.ids.get(topic) {
            Some(id) => *id,
            None => self.add(topic.clone(), None),
        }
    }

    /// Whether messages may be routed to a topic.
    pub(crate) fn accepts(&self, id: TopicId) -> Result<(), Refusal> {
        match self.topics[id.0].state {
            State::Refused => Err(Refusal::TopicRefused),
            State::Ready | State::Assumed | State::Denied(_) | State::Creating => Ok(()),
        }
    }

    /// Appends a message at `now`. The first message in a queue makes the batch
    /// linger for `linger`.
    pub(crate) fn enqueue(&mut self, id: TopicId, seq: Seq, now: Instant, linger: Duration) {
        let topic = &mut self.topics[id.0];
        if topic.queue.is_empty() {
            topic.lingers_until = now + linger;
            self.queued.push(id);
        }
        topic.queue.push_back(seq);
    }

    /// Returns a message that failed to its place in the queue. The topic sends
    /// nothing before `retry_at`.
    pub(crate) fn requeue(&mut self, id: TopicId, seq: Seq, retry_at: Instant) {
        let topic = &mut self.topics[id.0];
        if topic.queue.is_empty() {
            self.queued.push(id);
        }
        topic.retry_at = topic.retry_at.max(retry_at);
        if let Err(place) = topic.queue.binary_search(&seq) {
            topic.queue.insert(place, seq);
        }
    }

    /// The producer has a record of the topic.
    pub(crate) fn sent(&mut self, id: TopicId) {
        let in_flight = &mut self.topics[id.0].in_flight;
        self.in_flight += usize::from(*in_flight == 0);
        *in_flight += 1;
    }

    /// The producer has reported the result of a record of the topic.
    pub(crate) fn reported(&mut self, id: TopicId) {
        let in_flight = &mut self.topics[id.0].in_flight;
        self.in_flight -= usize::from(*in_flight == 1);
        *in_flight = in_flight.saturating_sub(1);
    }

    /// Kafka has confirmed a record of the topic.
    pub(crate) fn confirmed(&mut self, id: TopicId) {
        self.reported(id);
        let topic = &mut self.topics[id.0];
        if topic.trouble.take().is_some() {
            topic.attempts.reset();
        }
    }

    /// How many topics have records without a delivery report.
    pub(crate) fn in_flight(&self) -> usize {
        self.in_flight
    }

    /// The producer is replaced: the new one has no records, and gets none before
    /// `resume_at`.
    pub(crate) fn producer_restarted(&mut self, resume_at: Instant) {
        self.in_flight = 0;
        self.resume_at = resume_at;
        for topic in &mut self.topics {
            topic.in_flight = 0;
            topic.retry_at = resume_at;
        }
    }

    /// Takes the next batch that is due at `now`: the queue of a topic. With
    /// `skip_linger` none lingers.
    pub(crate) fn next_batch(
        &mut self,
        now: Instant,
        skip_linger: bool,
    ) -> Option<(TopicId, VecDeque<Seq>)> {
        if now < self.resume_at {
            return None;
        }
        let topics = &mut self.topics;
        let due = |id: &TopicId| topics[id.0].is_due(now, skip_linger);
        let index = self.queued.iter().position(due)?;
        let id = self.queued.swap_remove(index);
        Some((id, std::mem::take(&mut topics[id.0].queue)))
    }

    /// When the next batch becomes due, if only time has to pass.
    pub(crate) fn next_due(&self) -> Option<Instant> {
        let due = |id: &TopicId| self.topics[id.0].due();
        let due = self.queued.iter().filter_map(due).min()?;
        Some(due.max(self.resume_at))
    }

    /// Returns the part of a batch that was not sent to the head of the queue.
    pub(crate) fn requeue_rest(&mut self, id: TopicId, mut rest: VecDeque<Seq>) {
        let topic = &mut self.topics[id.0];
        if rest.is_empty() {
            return;
        }
        if topic.queue.is_empty() {
            self.queued.push(id);
        }
        // A message of the batch that failed is in the queue and comes first.
        rest.extend(&topic.queue);
        rest.make_contiguous().sort_unstable();
        topic.queue = rest;
    }

    /// Makes the topic's messages wait until [`Self::lookup_done`], and returns
    /// true, unless a lookup was started before.
    pub(crate) fn start_lookup(&mut self, id: TopicId) -> bool {
        let topic = &mut self.topics[id.0];
        let starts = topic.lookup == Lookup::NotStarted;
        if starts {
            topic.lookup = Lookup::Running;
        }
        starts
    }

    /// The lookup in a topic has ended.
    pub(crate) fn lookup_done(&mut self, name: &str) {
        if let Some(id) = self.ids.get(name) {
            self.topics[id.0].lookup = Lookup::Done;
        }
    }

    /// Kafka reports that the topic does not exist: asks for its creation. Its records are to
    /// be sent again after [`Self::missing_delay`]; `false` if nobody creates it.
    pub(crate) fn recreate(&mut self, id: TopicId) -> bool {
        let topic = &mut self.topics[id.0];
        match topic.state {
            State::Creating => true,
            State::Ready => {
                let name = &*topic.name;
                tracing::warn!(
                    topic = name,
                    "the Kafka topic no longer exists; creating it"
                );
                topic.missing_delay = RETRY_AFTER;
                self.create(id);
                true
            }
            State::Denied(code) => {
                topic.trouble = Some(code);
                topic.missing_delay = topic.attempts.next_delay();
                self.create(id);
                true
            }
            State::Assumed | State::Refused => false,
        }
    }

    /// How long the records of a topic wait after [`Self::recreate`].
    pub(crate) fn missing_delay(&self, id: TopicId) -> Duration {
        self.topics[id.0].missing_delay
    }

    /// Whether Kafka did not authorise the creation of the topic the last time.
    pub(crate) fn is_denied(&self, id: TopicId) -> bool {
        matches!(self.topics[id.0].state, State::Denied(_))
    }

    /// Why the topic does not exist yet, for people; `None` unless the bridge has tried to
    /// create it.
    pub(crate) fn trouble(&self, id: TopicId) -> Option<String> {
        let topic = &self.topics[id.0];
        let code = Named(topic.trouble?);
        Some(format!(
            "topic {} cannot be created yet: {code}; retrying",
            topic.name
        ))
    }

    /// The same for a topic whose messages wait for that, other than `except`.
    pub(crate) fn waiting_trouble(&self, except: TopicId) -> Option<String> {
        let mut queued = self.queued.iter().filter(|id| **id != except);
        queued.find_map(|id| self.trouble(*id))
    }

    /// Takes the state of a creation; returns the queue of a topic that Kafka
    /// rejects.
    pub(crate) fn created(&mut self, created: &Created) -> VecDeque<Seq> {
        let Some(&id) = self.ids.get(&created.topic) else {
            return VecDeque::new();
        };
        let topic = &mut self.topics[id.0];
        topic.state = match created.outcome {
            Outcome::Ready => {
                if topic.trouble.take().is_some() {
                    topic.attempts.reset();
                    topic.retry_at = Instant::now();
                }
                State::Ready
            }
            Outcome::Delayed(code) => {
                topic.trouble = Some(code);
                State::Creating
            }
            // It is in trouble only if it does not exist, which a record shows.
            Outcome::NotAuthorized(code) => State::Denied(code),
            Outcome::NotCreatable => {
                topic.trouble = None;
                State::Assumed
            }
            Outcome::Refused => {
                topic.trouble = None;
                State::Refused
            }
        };
        if created.outcome != Outcome::Refused {
            return VecDeque::new();
        }
        // It no longer counts, neither for collisions nor for the limit.
        self.collisions.remove(&collision_key(&created.topic));
        let tenant = topic.tenant.as_ref();
        if let Some(count) = tenant.and_then(|tenant| self.per_tenant.get_mut(tenant)) {
            *count -= 1;
        }
        self.queued.retain(|queued| *queued != id);
        std::mem::take(&mut self.topics[id.0].queue)
    }

    fn add(&mut self, name: Arc<str>, tenant: Option<String>) -> TopicId {
        let (id, now) = (TopicId(self.topics.len()), Instant::now());
        self.ids.insert(name.clone(), id);
        self.topics.push(Topic::new(name, tenant, now));
        if self.may_create {
            self.create(id);
        }
        id
    }

    fn create(&mut self, id: TopicId) {
        let topic = &mut self.topics[id.0];
        topic.state = State::Creating;
        // Fails only while the bridge shuts down.
        let _ = self.wanted.send(Wanted {
            topic: topic.name.clone(),
            answer: self.created.clone(),
        });
    }
}

#[cfg(test)]
mod tests;
