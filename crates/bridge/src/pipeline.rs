//! The way of a message: receive -> route -> queue -> produce -> confirm ->
//! acknowledge.
//!
//! One task owns all of it. Whatever Kafka does, this task never waits for it:
//! it waits for events only, and the broker's keep-alive goes on.

mod failures;
mod leave;
mod recognise;

use std::collections::HashSet;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use iot_core::headers::BRIDGE_SESSIONS_TOPIC;
use iot_mqtt::{Oversize, Publish, QoS};
use iot_service::config::Live;
use iot_service::health::Component;
use tokio::sync::mpsc;
use tokio::time::{Instant, Interval, interval, sleep_until};
use tokio_util::sync::CancellationToken;

use crate::config::BridgeConfig;
use crate::creator::{Created, Wanted};
use crate::kafka::{DEAD_LETTER_MAX, Delivery, Kafka};
use crate::lockstep::Lockstep;
use crate::message::{Cut, Message, Target};
use crate::message_ids::MessageIds;
use crate::metrics::{Metrics, Refusal, SessionGauges};
use crate::mqtt::{Link, LinkEvent, SessionPlan};
use crate::pace::{Alarm, Pace};
use crate::redelivery::Redelivery;
use crate::ring::{Ring, Seq};
use crate::router::Router;
use crate::tools::preflight;
use crate::topics::{TopicId, Topics};
use leave::Leaving;

/// How often verdicts are looked for, for the alarm rings only when all are
/// there: while those on several topics are awaited ..
const BEAT: Duration = Duration::from_millis(2);
/// .. and on one, for a part of it may be late.
const SLOW_BEAT: Duration = Duration::from_millis(20);

/// The health of one session.
pub(crate) struct Components {
    pub(crate) mqtt: Component,
    pub(crate) delivery: Component,
}

/// What a session is made of, besides its configuration.
pub(crate) struct Parts {
    pub(crate) plan: SessionPlan,
    pub(crate) kafka: Kafka,
    pub(crate) deliveries: mpsc::UnboundedReceiver<Delivery>,
    /// Rings when all that Kafka was given is settled.
    pub(crate) settled: Arc<Alarm>,
    pub(crate) wanted: mpsc::UnboundedSender<Wanted>,
    pub(crate) health: Components,
    pub(crate) metrics: Metrics,
    pub(crate) pace: Pace,
}

/// The owner of everything on its way in one MQTT session.
pub(crate) struct Pipeline {
    live: Live<BridgeConfig>,
    config: Arc<BridgeConfig>,
    limits: Limits,
    client_id: Arc<str>,
    link: Link,
    kafka: Kafka,
    deliveries: mpsc::UnboundedReceiver<Delivery>,
    settled: Arc<Alarm>,
    router: Router,
    topics: Topics,
    created: mpsc::UnboundedReceiver<Created>,
    redelivery: Redelivery,
    message_ids: Option<MessageIds>,
    ring: Ring<Message>,
    lockstep: Lockstep,
    dead_letters: TopicId,
    checkpoints: TopicId,
    /// What Kafka said of a message that is not confirmed yet.
    last_failure: Option<(Seq, String)>,
    /// The producer has ended and everything has to be sent again.
    ended: bool,
    leaving: Option<Leaving>,
    /// A better broker is back: nothing is read until the ring is empty.
    returning: bool,
    /// Brokers at which there was a session.
    known_brokers: HashSet<Arc<str>>,
    now: Now,
    ticks: Interval,
    health: Components,
    metrics: Metrics,
    gauges: SessionGauges,
    pace: Pace,
}

/// What one session may have on its way.
#[derive(Debug, Clone, Copy)]
struct Limits {
    messages: usize,
    bytes: usize,
}

/// The time, looked up once for all that is read at once.
#[derive(Debug, Clone, Copy)]
struct Now {
    instant: Instant,
    /// Milliseconds since the epoch.
    millis: i64,
}

impl Now {
    fn get() -> Self {
        let since_epoch = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        Self {
            instant: Instant::now(),
            millis: since_epoch.map_or(0, |elapsed| elapsed.as_millis() as i64),
        }
    }
}

impl Pipeline {
    pub(crate) fn new(live: Live<BridgeConfig>, parts: Parts) -> anyhow::Result<Self> {
        let config = live.current();
        let client_id: Arc<str> = parts.plan.client_id.as_str().into();
        let (created_end, created) = mpsc::unbounded_channel();
        let (create, max) = (config.topics.create, config.topics.max_per_tenant);
        let mut topics = Topics::new(max, create, parts.wanted, created_end);
        let letters: Arc<str> = config.dead_letter.topic.as_str().into();
        let dead_letters = topics.open_own(&letters);
        let recognise = config.dedupe.redeliveries && config.kafka.headers;
        let checkpoints = match recognise {
            true => topics.open_own(&BRIDGE_SESSIONS_TOPIC.into()),
            // Never written to.
            false => dead_letters,
        };
        match recognise {
            true => parts
                .health
                .delivery
                .not_ready("reading from Kafka where the last process ended"),
            false => parts.health.delivery.ready(),
        }
        Ok(Self {
            limits: limits(&config),
            link: Link::new(&config.mqtt, parts.plan)?,
            kafka: parts.kafka,
            deliveries: parts.deliveries,
            settled: parts.settled,
            router: Router::new(config.route.clone(), config.metrics.tenants),
            topics,
            created,
            redelivery: Redelivery::new(&config, &client_id, letters, recognise),
            message_ids: MessageIds::new(&config.dedupe),
            ring: Ring::new(),
            lockstep: Lockstep::default(),
            dead_letters,
            checkpoints,
            last_failure: None,
            ended: false,
            leaving: None,
            returning: false,
            known_brokers: HashSet::new(),
            now: Now::get(),
            ticks: interval(Duration::from_secs(1)),
            health: parts.health,
            gauges: parts.metrics.session(&client_id),
            metrics: parts.metrics,
            pace: parts.pace,
            client_id,
            config,
            live,
        })
    }

    /// Carries messages until `stop`.
    pub(crate) async fn run(&mut self, stop: &CancellationToken) -> anyhow::Result<()> {
        while !stop.is_cancelled() {
            tokio::select! {
                () = stop.cancelled() => {}
                result = self.step(true) => result?,
            }
        }
        Ok(())
    }

    /// Takes no more messages and waits until Kafka has all that came before.
    pub(crate) async fn flush(&mut self) -> anyhow::Result<()> {
        while self.ring.len() > 0 {
            self.step(false).await?;
        }
        Ok(())
    }

    /// Writes the last acknowledgements and says goodbye to the broker, which
    /// keeps the session unless it was left.
    pub(crate) async fn close(&mut self) {
        self.link.close(self.has_left()).await;
    }

    /// How many messages are not acknowledged.
    pub(crate) fn in_flight(&self) -> usize {
        self.ring.len()
    }

    /// Waits for something to happen and does what follows. Cancel safe.
    async fn step(&mut self, may_read: bool) -> anyhow::Result<()> {
        let may_read = may_read && self.may_read();
        let (due, beat) = (self.topics.next_due(), self.next_beat());
        tokio::select! {
            event = self.link.next(may_read) => {
                self.now = Now::get();
                self.on_link(event)?;
                while self.may_read() && let Some(event) = self.link.ready() {
                    self.on_link(event)?;
                }
            }
            () = self.settled.rung() => self.now = Now::get(),
            () = wait_until(due) => self.now = Now::get(),
            () = wait_until(beat) => self.now = Now::get(),
            Some(created) = self.created.recv() => {
                self.now = Now::get();
                self.created(&created)?;
            }
            answer = self.redelivery.next() => {
                self.now = Now::get();
                self.answered(answer);
            }
            () = self.live.changed() => {
                self.now = Now::get();
                self.reload();
            }
            _ = self.ticks.tick() => self.tick(),
        }
        self.settle_all()?;
        self.produce_due()?;
        self.acknowledge();
        if self.returning && self.ring.len() == 0 {
            self.returning = false;
            self.link.switch_back();
        }
        self.gauges.in_flight.set(self.ring.len() as i64);
        self.gauges.in_flight_bytes.set(self.ring.bytes() as i64);
        self.rest();
        Ok(())
    }

    /// Lets messages gather until there is something else to do, unless the
    /// broker may be waiting for acknowledgements.
    fn rest(&self) {
        let now = self.now.instant;
        let due = self.topics.next_due().into_iter();
        let due = match self.lockstep.is_possible() {
            // At once, whoever else shares the thread.
            true => Some(now),
            false => due.chain(self.next_beat()).min(),
        };
        self.pace.rest(now, due);
    }

    fn next_beat(&self) -> Option<Instant> {
        match self.topics.at_producer() {
            0 => None,
            1 => Some(self.now.instant + SLOW_BEAT),
            _ => Some(self.now.instant + BEAT),
        }
    }

    /// Whether messages may be taken from the broker. At QoS 0 they always are,
    /// because it would drop them without a word.
    fn may_read(&self) -> bool {
        let may_read = self.config.mqtt.qos == 0 || self.has_room();
        self.gauges.paused.set((!may_read).into());
        may_read && !self.redelivery.is_restoring() && !self.returning
    }

    fn has_room(&self) -> bool {
        self.ring.len() < self.limits.messages && self.ring.bytes() < self.limits.bytes
    }

    fn on_link(&mut self, event: LinkEvent) -> anyhow::Result<()> {
        match event {
            LinkEvent::Publish(publish) => self.receive(publish, None)?,
            LinkEvent::Oversize(oversize) => {
                let Oversize {
                    publish,
                    size,
                    sha256,
                } = *oversize;
                self.receive(publish, Some(Cut { size, sha256 }))?;
            }
            LinkEvent::Connected {
                broker,
                resumed,
                granted,
            } => {
                if !self.known_brokers.contains(&broker) {
                    preflight::warn(&preflight::mqtt_checks(&granted, &self.config.mqtt));
                }
                self.connected(broker, resumed);
            }
            LinkEvent::Subscribed => {
                self.gauges.connected.set(1);
                self.health.mqtt.ready();
            }
            LinkEvent::Unsubscribed => self.unsubscribed(),
            LinkEvent::Pong => self.ponged(),
            // A session that is being left is left first.
            LinkEvent::PreferredBack if self.leaving.is_some() => {}
            LinkEvent::PreferredBack => {
                tracing::info!("a preferred MQTT broker is back");
                self.returning = true;
            }
            LinkEvent::Lost { broker, error } => {
                self.gauges.connected.set(0);
                self.health.mqtt.not_ready(format!("{broker}: {error}"));
                self.returning = false;
                self.connection_lost();
            }
        }
        Ok(())
    }

    fn connected(&mut self, broker: Arc<str>, resumed: bool) {
        tracing::info!(%broker, resumed, client_id = &*self.client_id, "connected to the MQTT broker");
        self.metrics.connections.inc();
        self.redelivery.connected(&broker, resumed);
        // Another broker never had one.
        let known = self.known_brokers.contains(&broker);
        if !resumed && known {
            self.metrics.sessions_lost.inc();
            tracing::error!(
                %broker,
                "the broker lost the session: what it held for the bridge is gone"
            );
        }
        self.known_brokers.insert(broker);
    }

    /// receive -> route. `cut`: only the beginning of the payload is there.
    fn receive(&mut self, publish: Publish, cut: Option<Cut>) -> anyhow::Result<()> {
        let size = cut
            .as_ref()
            .map_or(publish.payload.len() as u64, |cut| cut.size);
        self.metrics.received.inc();
        self.metrics.received_bytes.inc_by(size);
        self.received_while_leaving();
        self.pace.received(self.now.instant);
        self.lockstep.received(self.now.instant);
        if publish.dup {
            self.metrics.redelivered.inc();
        }
        if publish.qos == QoS::AtMostOnce && !self.has_room() {
            self.metrics.dropped.inc();
            return Ok(());
        }
        let dup = publish.dup;
        let unrouted = Target::dead_letter(self.dead_letters, Refusal::TooLarge, String::new());
        let now = (self.now.instant, self.now.millis);
        let mut message = Message::new(publish, self.link.connection(), now, unrouted);
        message.cut = cut.map(Box::new);
        if message.qos == QoS::AtMostOnce {
            self.route(&mut message, size);
            self.queue(message);
            return Ok(());
        }
        self.recognise(message, size, dup)
    }

    /// Fills in where a message of `size` bytes goes.
    fn route(&mut self, message: &mut Message, size: u64) {
        let limit = self.config.kafka.max_message_bytes.0;
        let routed = if size > limit || message.cut.is_some() {
            let detail = format!("{size} bytes, the limit is {limit}");
            Err((Refusal::TooLarge, detail))
        } else {
            let topics = &mut self.topics;
            self.router.route(&message.topic, topics, &self.metrics)
        };
        message.target = match routed {
            Ok(way) => {
                way.tenant.inc();
                let (topic, key) = (way.topic, way.key);
                Target::Topic { topic, key }
            }
            Err((reason, detail)) => {
                self.metrics.refused(reason);
                if size > DEAD_LETTER_MAX as u64 {
                    message.cut();
                }
                Target::dead_letter(self.dead_letters, reason, detail)
            }
        };
    }

    /// route -> queue: into the ring, and behind earlier ones for its topic.
    fn queue(&mut self, message: Message) -> Seq {
        let (topic, asks_log) = (message.target.topic(), message.asks_log);
        let since = message.since;
        let bytes = message.bytes();
        let seq = self.ring.push(message, bytes);
        let linger = *self.config.kafka.linger;
        self.topics.enqueue(topic, seq, since, linger);
        if asks_log {
            self.redelivery.asks(seq);
            if self.topics.ask_log(topic) {
                self.redelivery.ask_about(self.topics.name(topic).clone());
            }
        }
        seq
    }

    /// queue -> produce: the lots whose time has come.
    fn produce_due(&mut self) -> anyhow::Result<()> {
        let last = self.lockstep.is_likely() || !self.has_room();
        while let Some((topic, mut lot)) = self.topics.next_lot(self.now.instant, last) {
            // No more than one request: what waits in librdkafka behind another
            // one costs a core, and would overtake what that one is refused for.
            let most = self.config.kafka.batch_size.bytes();
            let mut room = most;
            while let Some(seq) = lot.pop_front() {
                let size = self
                    .ring
                    .waiting(seq)
                    .map_or(0, |message| message.record_size());
                let fits = size <= room || room == most;
                room = room.saturating_sub(size);
                if !fits {
                    lot.push_front(seq);
                    break;
                }
                if !self.produce(topic, seq)? {
                    // The others must not overtake it.
                    break;
                }
            }
            self.topics.put_back_rest(topic, lot);
            if self.ended {
                self.restart()?;
            }
        }
        Ok(())
    }

    /// `false` if Kafka's client did not take it.
    fn produce(&mut self, topic: TopicId, seq: Seq) -> anyhow::Result<bool> {
        let Some(message) = self.ring.waiting(seq) else {
            return Ok(true);
        };
        if std::mem::take(&mut message.asks_log)
            && let Some(print) = &message.fingerprint
            && self.redelivery.is_written(print)
        {
            self.metrics.deduplicated.in_log.inc();
            self.ring.confirm(seq);
            return Ok(true);
        }
        self.topics.given(topic);
        let sent = self.kafka.send(self.topics.name(topic), seq, message);
        match sent {
            Ok(()) => Ok(true),
            Err(failure) => self.failed(seq, failure).map(|()| false),
        }
    }

    /// produce -> confirm: the verdicts that have come.
    fn settle_all(&mut self) -> anyhow::Result<()> {
        while let Ok(Delivery {
            generation,
            seq,
            result,
        }) = self.deliveries.try_recv()
        {
            if generation != self.kafka.generation() {
                continue;
            }
            match result {
                Ok(()) => self.confirmed(seq),
                Err(failure) => self.failed(seq, failure)?,
            }
        }
        if self.ended {
            self.restart()?;
        }
        Ok(())
    }

    fn confirmed(&mut self, seq: Seq) {
        let Some(message) = self.ring.waiting(seq) else {
            return;
        };
        self.topics.settled(message.target.topic());
        if message.is_checkpoint() {
            self.redelivery.checkpointed();
        } else {
            let latency = self.now.instant.saturating_duration_since(message.since);
            self.metrics.write_latency.observe(latency.as_secs_f64());
            self.metrics.produced.inc();
        }
        self.ring.confirm(seq);
        self.last_failure.take_if(|(failed, _)| *failed == seq);
    }

    /// confirm -> acknowledge: whatever is confirmed up to the first that is not.
    fn acknowledge(&mut self) {
        while let Some(message) = self.ring.pop() {
            if message.qos == QoS::AtMostOnce {
                continue;
            }
            self.lockstep.acknowledged(self.now.instant);
            let (connection, packet_id) = (message.connection, message.packet_id);
            if self.link.acknowledge(connection, packet_id, message.qos) {
                self.metrics.acknowledged.inc();
            } else {
                self.metrics.not_acknowledged.inc();
            }
        }
    }

    /// What has to be looked at once a second.
    fn tick(&mut self) {
        self.now = Now::get();
        let oldest = self.ring.oldest().map(|oldest| oldest.since);
        let waits = oldest.map_or(Duration::ZERO, |since| since.elapsed());
        let stalled = waits > *self.config.kafka.stalled_after;
        self.gauges.oldest.set(waits.as_secs_f64());
        self.gauges.stalled.set(stalled.into());
        self.gauges.topics.set(self.topics.len() as i64);
        if stalled {
            let why = self.last_failure.as_ref();
            let why = why.map_or("no answer from Kafka", |(_, why)| why.as_str());
            // Without the time it waits, so that the reason changes, and is logged, once.
            self.health.delivery.not_ready(format!(
                "stalled: the oldest message waits for Kafka ({why})"
            ));
        } else if !self.redelivery.is_restoring() {
            self.health.delivery.ready();
        }
        if self.ring.len() == 0 {
            self.redelivery.forget_log();
        }
        self.kafka.serve();
        self.redelivery.tick();
        self.probe_when_empty();
    }

    /// Takes over what may change while running.
    fn reload(&mut self) {
        self.config = self.live.current();
        self.limits = limits(&self.config);
        self.topics
            .set_max_per_tenant(self.config.topics.max_per_tenant);
        let plans = self.config.mqtt.sessions();
        let plan = plans
            .into_iter()
            .find(|plan| *plan.client_id == *self.client_id);
        match plan {
            Some(plan) => self.link.set_filters(plan.filters),
            None => tracing::warn!(
                client_id = &*self.client_id,
                "the filters make other sessions now: restart to apply that"
            ),
        }
    }
}

async fn wait_until(due: Option<Instant>) {
    match due {
        Some(due) => sleep_until(due).await,
        None => std::future::pending().await,
    }
}

/// The share of one session.
fn limits(config: &BridgeConfig) -> Limits {
    let sessions = config.mqtt.sessions().len().max(1);
    Limits {
        messages: config.in_flight.messages,
        bytes: config.in_flight.bytes.bytes() / sessions,
    }
}
