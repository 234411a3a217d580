//! The way of a message: receive -> route -> produce -> confirm -> acknowledge.
//!
//! One task owns all of it. Whatever Kafka does, this task never waits for it:
//! it waits for events only, and the broker's keep-alive goes on.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use iot_core::route::{Route, RouteError};
use iot_service::health::Component;
use rumqttc::v5::mqttbytes::QoS;
use rumqttc::v5::mqttbytes::v5::Publish;
use tokio::sync::mpsc;
use tokio::time::{Instant, Interval, MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

use crate::again::Again;
use crate::config::BridgeConfig;
use crate::kafka::{DEAD_LETTER_MAX, Delivery, Failure, Kafka};
use crate::message::{Message, Target};
use crate::metrics::{Metrics, Refusal};
use crate::mqtt::{Link, LinkEvent, Oversize};
use crate::ring::{Ring, Seq};
use crate::topics::{Created, Outcome, Topics};

/// How often verdicts are taken, and acknowledgements written. A wake-up and a
/// write for each verdict would cost several times what the message itself does.
const SETTLE_EVERY: Duration = Duration::from_millis(5);

/// Everything that happens to a bridge besides MQTT.
pub(crate) struct Events {
    pub(crate) deliveries: mpsc::UnboundedReceiver<Delivery>,
    pub(crate) created: mpsc::UnboundedReceiver<Created>,
}

/// The health of the way.
pub(crate) struct Components {
    pub(crate) mqtt: Component,
    pub(crate) delivery: Component,
}

/// The owner of everything on its way.
pub(crate) struct Pipeline {
    config: BridgeConfig,
    link: Link,
    kafka: Kafka,
    topics: Topics,
    events: Events,
    ring: Ring<Message>,
    /// To be given to the producer again at the next tick.
    again: Again,
    /// What Kafka said of a message that is not confirmed yet.
    last_failure: Option<(Seq, String)>,
    /// The producer has ended and everything has to be sent again.
    ended: bool,
    /// Brokers at which there was a session.
    known_brokers: HashSet<Arc<str>>,
    dead_letters: Arc<str>,
    ticks: Interval,
    settles: Interval,
    health: Components,
    metrics: Metrics,
}

impl Pipeline {
    pub(crate) fn new(
        config: BridgeConfig,
        (link, kafka, mut topics): (Link, Kafka, Topics),
        events: Events,
        health: Components,
        metrics: Metrics,
    ) -> Self {
        let dead_letters: Arc<str> = config.dead_letter.topic.as_str().into();
        topics.open_unrestricted(&dead_letters);
        health.delivery.ready();
        let mut settles = interval(SETTLE_EVERY);
        settles.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Self {
            config,
            link,
            kafka,
            topics,
            events,
            ring: Ring::new(),
            again: Again::default(),
            last_failure: None,
            ended: false,
            known_brokers: HashSet::new(),
            dead_letters,
            ticks: interval(Duration::from_secs(1)),
            settles,
            health,
            metrics,
        }
    }

    /// Carries messages until `shutdown`.
    pub(crate) async fn run(&mut self, shutdown: &CancellationToken) -> anyhow::Result<()> {
        while !shutdown.is_cancelled() {
            tokio::select! {
                () = shutdown.cancelled() => {}
                result = self.step(true) => result?,
            }
        }
        Ok(())
    }

    /// Takes no more messages and waits until Kafka has all that came before.
    pub(crate) async fn drain(&mut self) -> anyhow::Result<()> {
        while self.ring.len() > 0 {
            self.step(false).await?;
        }
        Ok(())
    }

    /// Writes the last acknowledgements and says goodbye to the broker.
    pub(crate) async fn close(&mut self) {
        self.link.close(false).await;
    }

    /// How many messages are not acknowledged.
    pub(crate) fn in_flight(&self) -> usize {
        self.ring.len()
    }

    /// Waits for one event and does what follows from it. Cancel safe.
    async fn step(&mut self, may_read: bool) -> anyhow::Result<()> {
        let may_read = may_read && self.has_room();
        tokio::select! {
            _ = self.settles.tick(), if self.ring.len() > 0 => {
                while let Ok(delivery) = self.events.deliveries.try_recv() {
                    self.settle(delivery)?;
                }
                self.acknowledge();
            }
            Some(created) = self.events.created.recv() => self.created(&created)?,
            event = self.link.next(may_read) => self.on_link(event)?,
            _ = self.ticks.tick() => self.tick()?,
        }
        if self.ended {
            self.restart()?;
        }
        self.metrics.in_flight.set(self.ring.len() as i64);
        self.metrics.in_flight_bytes.set(self.ring.bytes() as i64);
        Ok(())
    }

    fn has_room(&self) -> bool {
        let limits = &self.config.in_flight;
        let room = self.ring.len() < limits.messages && self.ring.bytes() < limits.bytes.bytes();
        self.metrics.paused.set((!room).into());
        room
    }

    fn on_link(&mut self, event: LinkEvent) -> anyhow::Result<()> {
        match event {
            LinkEvent::Publish(publish) => self.receive(publish)?,
            LinkEvent::Oversize(oversize) => self.receive_cut(*oversize)?,
            LinkEvent::Connected {
                broker, resumed, ..
            } => {
                tracing::info!(%broker, resumed, "connected to the MQTT broker");
                self.metrics.connections.inc();
                // Another broker never had one.
                let known = !self.known_brokers.insert(Arc::clone(&broker));
                if !resumed && known {
                    self.metrics.sessions_lost.inc();
                    tracing::error!(
                        %broker,
                        "the broker lost the session: what it held for the bridge is gone"
                    );
                }
            }
            LinkEvent::Subscribed => {
                self.metrics.connected.set(1);
                self.health.mqtt.ready();
            }
            LinkEvent::Unsubscribed | LinkEvent::Pong | LinkEvent::PreferredBack => {}
            LinkEvent::Lost { broker, error } => {
                self.metrics.connected.set(0);
                self.health.mqtt.not_ready(format!("{broker}: {error}"));
            }
        }
        Ok(())
    }

    /// receive -> route -> produce
    fn receive(&mut self, publish: Publish) -> anyhow::Result<()> {
        self.metrics.received.inc();
        self.metrics
            .received_bytes
            .inc_by(publish.payload.len() as u64);
        if publish.dup {
            self.metrics.redelivered.inc();
        }
        let target = self.route(&publish);
        self.take(publish, target)
    }

    /// The dead letter of a message that was too large to be kept.
    fn receive_cut(&mut self, oversize: Oversize) -> anyhow::Result<()> {
        let Oversize {
            publish,
            size,
            sha256,
        } = oversize;
        self.metrics.received.inc();
        self.metrics.received_bytes.inc_by(size);
        let sha256: String = sha256.iter().map(|byte| format!("{byte:02x}")).collect();
        let detail = format!("{size} bytes with SHA-256 {sha256}; this is the beginning");
        let target = self.refuse(&publish, Refusal::TooLarge, detail);
        self.take(publish, target)
    }

    fn take(&mut self, publish: Publish, target: Target) -> anyhow::Result<()> {
        let message = Message {
            connection: self.link.connection(),
            target,
            publish,
            received_at: now_millis(),
            since: Instant::now(),
        };
        let bytes = message.bytes();
        let seq = self.ring.push(message, bytes);
        self.produce(seq)
    }

    fn route(&mut self, publish: &Publish) -> Target {
        let limit = self.config.kafka.max_message_bytes.bytes();
        let Ok(mqtt_topic) = std::str::from_utf8(&publish.topic) else {
            return self.refuse(publish, Refusal::TopicNotUtf8, String::new());
        };
        if publish.payload.len() > limit {
            let detail = format!("{} bytes, the limit is {limit}", publish.payload.len());
            return self.refuse(publish, Refusal::TooLarge, detail);
        }
        match self.config.route.route(mqtt_topic) {
            Ok(route) => match self.topics.open(&route) {
                Ok(topic) => {
                    let Route { key, .. } = route;
                    Target::Topic { topic, key }
                }
                Err(refusal) => self.refuse(publish, refusal, route.topic),
            },
            Err(error) => self.refuse(publish, refusal(&error), error.to_string()),
        }
    }

    /// The dead letter that a message becomes; counted here, once.
    fn refuse(&self, publish: &Publish, reason: Refusal, detail: String) -> Target {
        self.metrics.refused(reason);
        Target::DeadLetter {
            topic: self.dead_letters.clone(),
            reason,
            detail,
            cut: publish.payload.len() > DEAD_LETTER_MAX,
        }
    }

    /// Gives a message to the producer, once its topic is there, and not before
    /// an older one of the same topic that has to be sent again.
    fn produce(&mut self, seq: Seq) -> anyhow::Result<()> {
        let Some(message) = self.ring.waiting(seq) else {
            return Ok(());
        };
        let topic = message.target.topic().clone();
        if !self.topics.admit(&topic, seq) {
            return Ok(());
        }
        if self.again.holds(&topic) {
            self.again.insert(seq, &topic);
            return Ok(());
        }
        let Some(message) = self.ring.waiting(seq) else {
            return Ok(());
        };
        match self.kafka.send(seq, message) {
            Ok(()) => Ok(()),
            Err(failure) => self.fail(seq, failure),
        }
    }

    /// produce -> confirm
    fn settle(&mut self, delivery: Delivery) -> anyhow::Result<()> {
        if self.kafka.is_stale(&delivery) {
            return Ok(());
        }
        let Delivery { seq, result, .. } = delivery;
        match result {
            Ok(()) => {
                if let Some(message) = self.ring.waiting(seq) {
                    let latency = message.since.elapsed();
                    self.metrics.write_latency.observe(latency.as_secs_f64());
                    self.metrics.produced.inc();
                    self.ring.confirm(seq);
                    self.last_failure.take_if(|(failed, _)| *failed == seq);
                }
                Ok(())
            }
            Err(failure) => self.fail(seq, failure),
        }
    }

    /// What follows when Kafka did not take a record.
    fn fail(&mut self, seq: Seq, failure: Failure) -> anyhow::Result<()> {
        let Some(message) = self.ring.waiting(seq) else {
            return Ok(());
        };
        let topic = message.target.topic().clone();
        self.last_failure = Some((seq, format!("{topic}: {failure:?}")));
        match failure {
            Failure::Retry(_) => {
                self.again.insert(seq, &topic);
                Ok(())
            }
            Failure::TopicGone if self.topics.gone(&topic) => {
                // Waits for the topic, in its place among the others that do.
                self.topics.admit(&topic, seq);
                Ok(())
            }
            Failure::TopicGone => self.dead_letter(seq, Refusal::UnknownTopic),
            Failure::Suspect(_) => {
                self.metrics.retries.inc();
                match self.kafka.send_alone(seq, message)? {
                    Ok(()) => Ok(()),
                    Err(failure) => self.fail(seq, failure),
                }
            }
            Failure::Refused(refusal) => self.dead_letter(seq, refusal),
            Failure::Fatal => {
                self.ended = true;
                Ok(())
            }
        }
    }

    /// Turns a message that Kafka refuses for good into a dead letter. A dead
    /// letter that is refused as too large loses most of its payload; refused
    /// for another reason it is tried again, for nobody else can keep it.
    fn dead_letter(&mut self, seq: Seq, refusal: Refusal) -> anyhow::Result<()> {
        let Some(message) = self.ring.waiting(seq) else {
            return Ok(());
        };
        match &mut message.target {
            Target::DeadLetter { cut, .. } if refusal == Refusal::TooLarge && !*cut => *cut = true,
            Target::DeadLetter { topic, .. } => {
                self.again.insert(seq, topic);
                return Ok(());
            }
            Target::Topic { topic, .. } => {
                self.metrics.refused(refusal);
                message.target = Target::DeadLetter {
                    detail: topic.to_string(),
                    topic: self.dead_letters.clone(),
                    reason: refusal,
                    cut: false,
                };
            }
        }
        self.produce(seq)
    }

    /// A new producer: everything unconfirmed goes out again, in order.
    fn restart(&mut self) -> anyhow::Result<()> {
        self.ended = false;
        self.kafka.restart()?;
        self.again.take();
        let waiting: Vec<Seq> = self.ring.all_waiting().map(|(seq, _)| seq).collect();
        for seq in waiting {
            self.metrics.retries.inc();
            self.produce(seq)?;
        }
        Ok(())
    }

    fn created(&mut self, created: &Created) -> anyhow::Result<()> {
        for seq in self.topics.created(created) {
            match created.outcome {
                Outcome::Ready | Outcome::NotAllowed => self.produce(seq)?,
                Outcome::Refused => self.dead_letter(seq, Refusal::TopicRefused)?,
            }
        }
        Ok(())
    }

    /// confirm -> acknowledge: whatever is confirmed up to the first that is not.
    fn acknowledge(&mut self) {
        while let Some(message) = self.ring.pop() {
            if message.qos() == QoS::AtMostOnce {
                continue;
            }
            let packet_id = message.publish.pkid;
            if self
                .link
                .acknowledge(message.connection, packet_id, message.qos())
            {
                self.metrics.acknowledged.inc();
            } else {
                self.metrics.not_acknowledged.inc();
            }
        }
    }

    fn tick(&mut self) -> anyhow::Result<()> {
        for seq in self.again.take() {
            self.metrics.retries.inc();
            self.produce(seq)?;
        }
        let waits = self
            .ring
            .oldest()
            .map_or(Duration::ZERO, |oldest| oldest.since.elapsed());
        let stalled = waits > *self.config.kafka.stalled_after;
        self.metrics.stalled.set(stalled.into());
        if stalled {
            let why = self.last_failure.as_ref();
            let why = why.map_or("no answer from Kafka", |(_, why)| why.as_str());
            // Without the time it waits, so that the reason changes, and is logged, once.
            self.health.delivery.not_ready(format!(
                "stalled: the oldest message waits for Kafka ({why})"
            ));
        } else {
            self.health.delivery.ready();
        }
        self.metrics.topics.set(self.topics.len() as i64);
        Ok(())
    }
}

fn refusal(error: &RouteError) -> Refusal {
    Refusal::Route(error.reason())
}

fn now_millis() -> i64 {
    let since_epoch = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    since_epoch.map_or(0, |elapsed| elapsed.as_millis() as i64)
}
