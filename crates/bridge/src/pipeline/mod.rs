//! The message flow of one MQTT session: receive -> route -> queue -> produce ->
//! confirm -> acknowledge.
//!
//! One task owns everything in flight. It waits only for events, never for Kafka,
//! so that the MQTT keep-alive continues whatever Kafka does.

mod connection;
mod dedupe;
mod drain;
mod failures;
mod maintenance;
mod start;
mod time;

use std::collections::HashSet;
use std::sync::Arc;

use iot_core::dead_letter::{self, Truncated};
use iot_mqtt::{Publish, QoS};
use iot_service::config::Live;
use tokio::sync::mpsc;
use tokio::time::Interval;
use tokio_util::sync::CancellationToken;

use crate::config::BridgeConfig;
use crate::creator::Created;
use crate::dedupe::{Dedupe, Kind, PayloadIds};
use crate::kafka::{Delivery, Kafka};
use crate::message::{DeadLetterCause, Message, Target};
use crate::metrics::{Metrics, SessionGauges};
use crate::mqtt::Link;
use crate::pace::{Alarm, Pace};
use crate::refusal::Refusal;
use crate::ring::{Ring, Seq};
use crate::router::Router;
use crate::topic_id::TopicId;
use crate::topics::Topics;
use crate::window_limit::WindowLimitDetector;
use drain::Drain;
use maintenance::Limits;
pub(crate) use start::{Components, Parts};
use time::{Now, wait_until};

/// The state of one MQTT session.
pub(crate) struct Pipeline {
    live: Live<BridgeConfig>,
    config: Arc<BridgeConfig>,
    limits: Limits,
    client_id: Arc<str>,
    link: Link,
    kafka: Kafka,
    delivery_reports: mpsc::UnboundedReceiver<Delivery>,
    /// Rings when the producer has reported every record.
    all_reported: Arc<Alarm>,
    router: Router,
    topics: Topics,
    created: mpsc::UnboundedReceiver<Created>,
    dedupe: Dedupe,
    payload_ids: Option<PayloadIds>,
    ring: Ring<Message>,
    window_limit: WindowLimitDetector,
    dead_letters: TopicId,
    checkpoints: TopicId,
    /// The last failure, unless its message is confirmed.
    last_failure: Option<(Seq, String)>,
    /// The producer has failed and must be replaced.
    producer_failed: bool,
    drain: Option<Drain>,
    /// A preferred broker is back: nothing is read until the ring is empty.
    failing_back: bool,
    /// Brokers that had a session.
    known_brokers: HashSet<Arc<str>>,
    now: Now,
    ticks: Interval,
    health: Components,
    metrics: Metrics,
    gauges: SessionGauges,
    pace: Pace,
}

impl Pipeline {
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

    /// Receives nothing more, and waits until Kafka has confirmed everything in
    /// flight.
    pub(crate) async fn flush(&mut self) -> anyhow::Result<()> {
        while self.ring.len() > 0 {
            self.step(false).await?;
        }
        Ok(())
    }

    /// Writes the last acknowledgements and disconnects. The broker keeps the
    /// session unless it was drained.
    pub(crate) async fn close(&mut self) {
        self.link.close(self.is_drained()).await;
    }

    /// How many messages are not acknowledged.
    pub(crate) fn in_flight(&self) -> usize {
        self.ring.len()
    }

    /// Waits for an event, and processes all that follows from it. Cancel safe.
    async fn step(&mut self, may_read: bool) -> anyhow::Result<()> {
        let may_read = may_read && self.may_read();
        let (due, poll) = (self.topics.next_due(), self.next_poll());
        tokio::select! {
            event = self.link.next(may_read) => {
                self.now = Now::get();
                self.on_link(event)?;
                while self.may_read() && let Some(event) = self.link.next_buffered() {
                    self.on_link(event)?;
                }
            }
            () = self.all_reported.rung() => self.now = Now::get(),
            () = wait_until(due) => self.now = Now::get(),
            () = wait_until(poll) => self.now = Now::get(),
            Some(created) = self.created.recv() => {
                self.now = Now::get();
                self.created(&created)?;
            }
            event = self.dedupe.next_event() => {
                self.now = Now::get();
                self.on_dedupe(event);
            }
            () = self.live.changed() => {
                self.now = Now::get();
                self.reload();
            }
            _ = self.ticks.tick() => self.tick(),
        }
        self.confirm_reported()?;
        self.produce_due()?;
        self.acknowledge();
        self.fail_back_when_empty();
        self.gauges.in_flight.set(self.ring.len() as i64);
        self.gauges.in_flight_bytes.set(self.ring.bytes() as i64);
        self.idle();
        Ok(())
    }

    /// Whether messages may be read from the broker. With QoS 0 they always are:
    /// the broker would drop what is not read.
    fn may_read(&self) -> bool {
        let may_read = self.config.mqtt.qos == 0 || self.has_room();
        self.gauges.paused.set((!may_read).into());
        may_read && !self.dedupe.is_restoring() && !self.failing_back
    }

    fn has_room(&self) -> bool {
        self.ring.len() < self.limits.messages && self.ring.bytes() < self.limits.bytes
    }

    /// receive -> route -> queue, unless the message is a duplicate. Its payload
    /// had `size` bytes, of which only the first are left if it is `cut`. If it is `refused`
    /// already, it becomes a dead letter.
    fn receive(
        &mut self,
        publish: Publish,
        size: u64,
        cut: Option<Box<Truncated>>,
        refused: Option<DeadLetterCause>,
    ) -> anyhow::Result<()> {
        let dup = publish.dup;
        self.metrics.received.inc();
        self.metrics.received_bytes.inc_by(size);
        self.metrics.redelivered.inc_by(dup.into());
        self.received_while_draining();
        self.pace.received(self.now.instant);
        self.window_limit.received(self.now.instant);
        if publish.qos == QoS::AtMostOnce && !self.has_room() {
            self.metrics.dropped.inc();
            return Ok(());
        }
        let unrouted = Target::dead_letter(self.dead_letters, Refusal::TooLarge, String::new());
        let now = (self.now.instant, self.now.millis);
        let mut message = Message::new(publish, self.link.connection(), now, unrouted);
        message.cut = cut;
        if message.qos == QoS::AtMostOnce {
            self.route(&mut message, size, refused);
            self.queue(message);
            return Ok(());
        }

        let (packet_id, qos, hash) = (message.packet_id, message.qos, message.content_hash());
        let first = self.ring.first();
        let received = self.dedupe.classify((packet_id, dup, qos), hash, first);
        let Some(mut message) = self.unless_redelivered(received.kind, hash, message) else {
            return Ok(());
        };
        if received.checkpoint_due {
            self.queue_checkpoint(packet_id)?;
        }
        message.receive_id = received.id;
        message.needs_lookup = received.kind == Kind::MaybeWritten;
        self.route(&mut message, size, refused);
        let seq = if self.has_duplicate_id(&message) {
            self.acknowledge_only(message)
        } else {
            self.queue(message)
        };
        self.dedupe
            .pushed(packet_id, hash, seq, received.id.is_some());
        Ok(())
    }

    /// route: sets the target of a message whose payload had `size` bytes.
    fn route(&mut self, message: &mut Message, size: u64, refused: Option<DeadLetterCause>) {
        let limit = self.config.kafka.max_message_bytes.0;
        let routed = if let Some(cause) = refused {
            Err(cause)
        } else if size > limit || message.cut.is_some() {
            let detail = format!("{size} bytes, the limit is {limit}");
            let reason = Refusal::TooLarge;
            Err(DeadLetterCause { reason, detail })
        } else {
            let topics = &mut self.topics;
            self.router.route(&message.topic, topics, &self.metrics)
        };
        message.target = match routed {
            Ok(destination) => {
                destination.tenant.inc();
                let (topic, key) = (destination.topic, destination.key);
                Target::Topic { topic, key }
            }
            Err(DeadLetterCause { reason, detail }) => {
                self.metrics.refused(reason);
                if size > dead_letter::MAX_RECORD as u64 {
                    message.cut();
                }
                Target::dead_letter(self.dead_letters, reason, detail)
            }
        };
    }

    /// route -> queue: into the ring, and into the queue of its Kafka topic.
    fn queue(&mut self, message: Message) -> Seq {
        let (topic, needs_lookup) = (message.target.topic(), message.needs_lookup);
        let since = message.since;
        let bytes = message.bytes();
        let seq = self.ring.push(message, bytes);
        let linger = *self.config.kafka.linger;
        self.topics.enqueue(topic, seq, since, linger);
        if needs_lookup {
            self.look_up(topic, seq);
        }
        seq
    }

    /// queue -> produce: the batches that are due.
    fn produce_due(&mut self) -> anyhow::Result<()> {
        // No message can join a batch while the broker waits for acknowledgements.
        let skip_linger = self.window_limit.is_detected() || !self.has_room();
        while let Some((topic, mut batch)) = self.topics.next_batch(self.now.instant, skip_linger) {
            // No larger than one batch of librdkafka: a second one would make it
            // busy-wait, and would overtake the records of a batch that fails.
            let batch_size = self.config.kafka.batch_size.bytes();
            let mut room = batch_size;
            while let Some(seq) = batch.pop_front() {
                let size = self
                    .ring
                    .unconfirmed(seq)
                    .map_or(0, |message| message.record_size());
                let fits = size <= room || room == batch_size;
                room = room.saturating_sub(size);
                if !fits {
                    batch.push_front(seq);
                    break;
                }
                if !self.produce(topic, seq)? {
                    // Later messages must not overtake it.
                    break;
                }
            }
            self.topics.requeue_rest(topic, batch);
            if self.producer_failed {
                self.restart_producer();
            }
        }
        Ok(())
    }

    /// `false` if the producer did not accept the record.
    fn produce(&mut self, topic: TopicId, seq: Seq) -> anyhow::Result<bool> {
        if self.was_written(seq) {
            self.metrics.deduplicated.in_log.inc();
            self.ring.confirm(seq);
            return Ok(true);
        }
        let Some(message) = self.ring.unconfirmed(seq) else {
            return Ok(true);
        };
        self.topics.sent(topic);
        match self.kafka.send(self.topics.name(topic), seq, message)? {
            Ok(()) => Ok(true),
            Err(failure) => self.failed(seq, failure).map(|()| false),
        }
    }

    /// produce -> confirm: takes the delivery reports that have arrived.
    fn confirm_reported(&mut self) -> anyhow::Result<()> {
        while let Ok(Delivery {
            generation,
            seq,
            result,
        }) = self.delivery_reports.try_recv()
        {
            if generation != self.kafka.generation() {
                continue;
            }
            match result {
                Ok(()) => self.confirmed(seq),
                Err(failure) => self.failed(seq, failure)?,
            }
        }
        if self.producer_failed {
            self.restart_producer();
        }
        Ok(())
    }

    fn confirmed(&mut self, seq: Seq) {
        let Some(message) = self.ring.unconfirmed(seq) else {
            return;
        };
        self.topics.confirmed(message.target.topic());
        self.kafka.confirmed();
        if message.is_checkpoint() {
            self.dedupe.checkpoint_confirmed();
        } else {
            let latency = self.now.instant.saturating_duration_since(message.since);
            self.metrics.write_latency.observe(latency.as_secs_f64());
            self.metrics.produced.inc();
        }
        self.ring.confirm(seq);
        self.last_failure.take_if(|(failed, _)| *failed == seq);
    }

    /// confirm -> acknowledge: the confirmed messages before the first unconfirmed
    /// one.
    fn acknowledge(&mut self) {
        while let Some((seq, message)) = self.ring.pop() {
            if message.qos == QoS::AtMostOnce {
                continue;
            }
            self.window_limit.acknowledged(self.now.instant);
            let (connection, packet_id, qos) = (message.connection, message.packet_id, message.qos);
            if self.dedupe.may_acknowledge(packet_id, seq)
                && let Some(end) = self.link.acknowledge(connection, packet_id, qos)
            {
                self.dedupe.acknowledged(packet_id, qos, end);
                self.metrics.acknowledged.inc();
            } else {
                self.metrics.not_acknowledged.inc();
            }
        }
        self.dedupe.written(self.link.written());
    }
}
