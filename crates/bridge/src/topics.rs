//! Kafka topics that messages are routed to, and the messages that wait to be
//! written to each.
//!
//! Messages of a topic are given to the producer in lots: the next one when the
//! one before is confirmed. So whatever Kafka refuses is written before what
//! came later, and librdkafka, which spins while records wait behind a request
//! of their partition, has none to spin for.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use iot_core::route::{Route, collision_key};
use tokio::sync::mpsc;
use tokio::time::Instant;

use crate::creator::{Created, Outcome, Wanted};
use crate::metrics::Refusal;
use crate::ring::Seq;

/// One topic of [`Topics`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct TopicId(usize);

impl TopicId {
    pub(crate) fn number(self) -> u64 {
        self.0 as u64
    }

    #[cfg(test)]
    pub(crate) fn of(number: usize) -> Self {
        Self(number)
    }
}

/// The topics of one session.
#[derive(Debug)]
pub(crate) struct Topics {
    max_per_tenant: usize,
    may_create: bool,
    topics: Vec<Topic>,
    ids: HashMap<Arc<str>, TopicId>,
    /// Topics by what Kafka compares: it refuses topics that differ only in
    /// `.` and `_`.
    collisions: HashMap<String, TopicId>,
    per_tenant: HashMap<String, usize>,
    /// Topics for which messages wait.
    waiting: Vec<TopicId>,
    /// How many topics the producer has records of.
    at_producer: usize,
    // Never longer than the number of topics.
    wanted: mpsc::UnboundedSender<Wanted>,
    created: mpsc::UnboundedSender<Created>,
}

#[derive(Debug)]
struct Topic {
    name: Arc<str>,
    /// None for the bridge's own topics, which no rule restricts.
    tenant: Option<String>,
    state: State,
    log: Log,
    /// Messages to be written, in the order of their arrival.
    queue: VecDeque<Seq>,
    /// Nothing of the queue is given to the producer before.
    not_before: Instant,
    /// The first of the queue waits for others until then.
    lingers_until: Instant,
    /// Records that the producer has.
    outstanding: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// It is there.
    Ready,
    /// It can't be created from here; whether it is there, its records tell.
    Assumed,
    /// Being created.
    Creating,
    /// Kafka does not want it.
    Refused,
}

/// Whether a topic's log has been asked for what an earlier process wrote.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Log {
    Unread,
    BeingRead,
    Read,
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
            waiting: Vec::new(),
            at_producer: 0,
            wanted,
            created,
        }
    }

    /// How many topics are known.
    pub(crate) fn len(&self) -> usize {
        self.topics.len()
    }

    pub(crate) fn set_max_per_tenant(&mut self, max_per_tenant: usize) {
        self.max_per_tenant = max_per_tenant;
    }

    pub(crate) fn name(&self, id: TopicId) -> &Arc<str> {
        &self.topics[id.0].name
    }

    /// The topic of a route, known from now on.
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

    /// The same for a topic of the bridge's own, which no rule restricts.
    pub(crate) fn open_own(&mut self, topic: &Arc<str>) -> TopicId {
        match self.ids.get(topic) {
            Some(id) => *id,
            None => self.add(topic.clone(), None),
        }
    }

    /// Whether messages may be routed there.
    pub(crate) fn accepts(&self, id: TopicId) -> Result<(), Refusal> {
        match self.topics[id.0].state {
            State::Refused => Err(Refusal::TopicRefused),
            State::Ready | State::Assumed | State::Creating => Ok(()),
        }
    }

    /// Appends a message that came at `now`; the first waits for others for
    /// `linger`.
    pub(crate) fn enqueue(&mut self, id: TopicId, seq: Seq, now: Instant, linger: Duration) {
        let topic = &mut self.topics[id.0];
        if topic.queue.is_empty() {
            topic.lingers_until = now + linger;
            self.waiting.push(id);
        }
        topic.queue.push_back(seq);
    }

    /// Puts a message back to its place in the order, not to be given to the
    /// producer before `due`. The producer does not have it any more.
    pub(crate) fn put_back(&mut self, id: TopicId, seq: Seq, due: Instant) {
        let topic = &mut self.topics[id.0];
        if topic.queue.is_empty() {
            self.waiting.push(id);
        }
        topic.not_before = topic.not_before.max(due);
        if let Err(place) = topic.queue.binary_search(&seq) {
            topic.queue.insert(place, seq);
        }
    }

    /// The producer has been given a message of the topic.
    pub(crate) fn given(&mut self, id: TopicId) {
        let outstanding = &mut self.topics[id.0].outstanding;
        self.at_producer += usize::from(*outstanding == 0);
        *outstanding += 1;
    }

    /// The producer has said what became of a message of the topic.
    pub(crate) fn settled(&mut self, id: TopicId) {
        let outstanding = &mut self.topics[id.0].outstanding;
        self.at_producer -= usize::from(*outstanding == 1);
        *outstanding = outstanding.saturating_sub(1);
    }

    /// How many topics the producer has messages of.
    pub(crate) fn at_producer(&self) -> usize {
        self.at_producer
    }

    /// The producer is another one, and has nothing.
    pub(crate) fn producer_restarted(&mut self, now: Instant) {
        self.at_producer = 0;
        for topic in &mut self.topics {
            topic.outstanding = 0;
            topic.not_before = now;
        }
    }

    /// The next lot of messages to be given to the producer at `now`, all of
    /// one topic. `last`: no others come, so none waits for them.
    pub(crate) fn next_lot(
        &mut self,
        now: Instant,
        last: bool,
    ) -> Option<(TopicId, VecDeque<Seq>)> {
        let topics = &mut self.topics;
        let due = |id: &TopicId| topics[id.0].is_due(now, last);
        let index = self.waiting.iter().position(due)?;
        let id = self.waiting.swap_remove(index);
        Some((id, std::mem::take(&mut topics[id.0].queue)))
    }

    /// When the next lot will be due, unless something else happens before.
    pub(crate) fn next_due(&self) -> Option<Instant> {
        let due = |id: &TopicId| self.topics[id.0].due();
        self.waiting.iter().filter_map(due).min()
    }

    /// Puts the end of a lot back before what has come since.
    pub(crate) fn put_back_rest(&mut self, id: TopicId, mut rest: VecDeque<Seq>) {
        let topic = &mut self.topics[id.0];
        if rest.is_empty() {
            return;
        }
        if topic.queue.is_empty() {
            self.waiting.push(id);
        }
        // What failed of the lot meanwhile is there already, and comes first.
        rest.extend(&topic.queue);
        rest.make_contiguous().sort_unstable();
        topic.queue = rest;
    }

    /// Whether the topic's log has to be asked first. Its messages wait until
    /// [`Self::log_read`].
    pub(crate) fn ask_log(&mut self, id: TopicId) -> bool {
        let topic = &mut self.topics[id.0];
        let unread = topic.log == Log::Unread;
        if unread {
            topic.log = Log::BeingRead;
        }
        unread
    }

    pub(crate) fn log_read(&mut self, name: &str) {
        if let Some(id) = self.ids.get(name) {
            self.topics[id.0].log = Log::Read;
        }
    }

    /// Kafka says that there is no such topic: creates it again. `false` if the
    /// bridge can't, so that there is no use in waiting for it.
    pub(crate) fn gone(&mut self, id: TopicId) -> bool {
        let topic = &mut self.topics[id.0];
        match topic.state {
            State::Creating => true,
            State::Ready => {
                let name = &*topic.name;
                tracing::warn!(topic = name, "the Kafka topic is gone: creating it again");
                self.create(id);
                true
            }
            State::Assumed | State::Refused => false,
        }
    }

    /// Takes the end of a creation; returns the messages that have to go
    /// elsewhere.
    pub(crate) fn created(&mut self, created: &Created) -> VecDeque<Seq> {
        let Some(&id) = self.ids.get(&created.topic) else {
            return VecDeque::new();
        };
        let topic = &mut self.topics[id.0];
        topic.state = match created.outcome {
            Outcome::Ready => State::Ready,
            Outcome::NotAllowed => State::Assumed,
            Outcome::Refused => State::Refused,
        };
        if created.outcome != Outcome::Refused {
            return VecDeque::new();
        }
        // Another topic, which Kafka does have, may need the place.
        self.collisions.remove(&collision_key(&created.topic));
        let tenant = topic.tenant.as_ref();
        if let Some(count) = tenant.and_then(|tenant| self.per_tenant.get_mut(tenant)) {
            *count -= 1;
        }
        self.waiting.retain(|waiting| *waiting != id);
        std::mem::take(&mut self.topics[id.0].queue)
    }

    fn add(&mut self, name: Arc<str>, tenant: Option<String>) -> TopicId {
        let (id, now) = (TopicId(self.topics.len()), Instant::now());
        self.ids.insert(name.clone(), id);
        self.topics.push(Topic {
            name,
            tenant,
            state: State::Assumed,
            log: Log::Unread,
            queue: VecDeque::new(),
            not_before: now,
            lingers_until: now,
            outstanding: 0,
        });
        if self.may_create {
            self.create(id);
        }
        id
    }

    fn create(&mut self, id: TopicId) {
        let topic = &mut self.topics[id.0];
        topic.state = State::Creating;
        // The creator is gone only at the end of the service.
        let _ = self.wanted.send(Wanted {
            topic: topic.name.clone(),
            answer: self.created.clone(),
        });
    }
}

impl Topic {
    /// Whether the queue waits for time alone to pass.
    fn is_free(&self) -> bool {
        self.state != State::Creating && self.log != Log::BeingRead && self.outstanding == 0
    }

    fn due(&self) -> Option<Instant> {
        self.is_free()
            .then(|| self.not_before.max(self.lingers_until))
    }

    fn is_due(&self, now: Instant, last: bool) -> bool {
        match last {
            true => self.is_free() && self.not_before <= now,
            false => self.due().is_some_and(|due| due <= now),
        }
    }
}

#[cfg(test)]
#[path = "topics_tests.rs"]
mod tests;
