//! The hub's task.

use std::sync::Arc;
use std::time::Duration;

use iot_fold::{Device, DeviceKey, Updates};
use iot_service::config::Live;
use jiff::Timestamp;
use tokio::sync::mpsc;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep_until};
use tokio_util::sync::CancellationToken;

use super::clients::{Clients, Leave};
use super::pending::Pending;
use super::stats::Stats;
use super::view::View;
use super::{Message, QUEUE};
use crate::config::ConsumerConfig;
use crate::metrics::Metrics;

const STATS_EVERY: Duration = Duration::from_secs(1);

pub(super) struct Actor {
    messages: mpsc::Receiver<Message>,
    view: View,
    clients: Clients,
    /// Readings for the next frame.
    pending: Pending,
    /// When the next frame may go, at the earliest.
    flush_at: Instant,
    config: Live<ConsumerConfig>,
    interval: Duration,
    metrics: Arc<Metrics>,
    /// Messages processed at the last tick, and when that was.
    counted: (u64, Instant),
}

impl Actor {
    pub(super) fn new(
        config: Live<ConsumerConfig>,
        metrics: Arc<Metrics>,
        messages: mpsc::Receiver<Message>,
    ) -> Self {
        let now = config.current();
        Self {
            messages,
            view: View::new(now.limits.alerts),
            clients: Clients::new(&now.push, metrics.hub.clone()),
            pending: Pending::default(),
            flush_at: Instant::now(),
            config,
            interval: *now.push.interval,
            counted: (metrics.owner.consumed.get(), Instant::now()),
            metrics,
        }
    }

    pub(super) async fn run(mut self, stop: CancellationToken) {
        let mut stats = interval(STATS_EVERY);
        stats.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let waiting = !self.pending.is_empty() || self.clients.any_behind();
            tokio::select! {
                biased;
                () = stop.cancelled() => break,
                _ = stats.tick() => self.tick(),
                () = self.config.changed() => {
                    let push = &self.config.current().push;
                    self.interval = *push.interval;
                    self.clients.allow(push.clients);
                }
                () = sleep_until(self.flush_at), if waiting => self.flush(),
                message = self.messages.recv() => match message {
                    Some(message) => self.take(message).await,
                    None => break,
                },
            }
        }
        self.clients.dismiss_all(Leave::Shutdown);
    }

    async fn take(&mut self, message: Message) {
        // Whoever asked may be gone by now: answers may fail.
        match message {
            Message::Update(partition, updates) => {
                self.clients.send_alerts(&updates.alerts).await;
                let changed = self.changed(&updates);
                let removed: Vec<_> = updates.removed.iter().map(|(_, key)| key.clone()).collect();
                self.view.update(&partition, updates);
                self.stream_removed(removed).await;
                self.stream(changed);
            }
            Message::Owned(partition, updates, questions) => {
                // Clients see it as readings; alerts raised elsewhere before
                // are not sent again but are in every snapshot.
                let changed = self.changed(&updates);
                self.view.add(&partition, updates, questions);
                self.stream(changed);
            }
            Message::Released(partition, owner) => self.view.release(&partition, &owner),
            Message::Reset(partition) => {
                self.view.remove(&partition);
                self.pending.clear();
                self.clients.dismiss_all(Leave::Reset);
            }
            Message::Subscribe(answer) => {
                let devices = self.view.all().collect();
                let alerts = self.view.all_alerts();
                let subscription = self.clients.add(devices, alerts);
                let id = subscription.as_ref().map(|subscription| subscription.id);
                if let (Err(_), Some(id)) = (answer.send(subscription), id) {
                    self.clients.remove(id);
                }
            }
            Message::Unsubscribe(id) => self.clients.remove(id),
            Message::Devices(filter, answer) => drop(answer.send(self.view.find(&filter))),
            Message::Device(key, answer) => drop(answer.send(self.view.get(&key))),
            Message::Alerts(filter, answer) => drop(answer.send(self.view.alerts(filter))),
            Message::Stats(answer) => drop(answer.send(self.stats())),
        }
    }

    /// The changed readings, if there is a client to send them to.
    fn changed(&self, updates: &Updates) -> Vec<Device> {
        match self.clients.len() {
            0 => Vec::new(),
            _ => {
                let devices = updates.devices.iter();
                devices.map(|(_, device)| device.clone()).collect()
            }
        }
    }

    /// Tells clients which devices were removed and are in no other partition, nor have come
    /// back. What of their readings waits is not sent any more.
    async fn stream_removed(&mut self, mut removed: Vec<DeviceKey>) {
        removed.retain(|key| !self.view.knows(key));
        if removed.is_empty() {
            return;
        }
        for key in &removed {
            self.pending.remove(key);
        }
        self.clients.send_removed(&removed).await;
    }

    /// Keeps changes that the view has taken in for the next frame.
    fn stream(&mut self, changed: Vec<Device>) {
        for change in changed {
            self.pending.merge(self.view.settled(change));
        }
    }

    fn flush(&mut self) {
        self.flush_at = Instant::now() + self.interval;
        self.clients.catch_up();
        if !self.pending.is_empty() {
            self.clients.send_readings(&mut self.pending);
        }
    }

    fn tick(&mut self) {
        self.clients.sweep();
        let (before, at) = self.counted;
        let now = self.metrics.owner.consumed.get();
        let seconds = at.elapsed().as_secs_f64();
        if seconds > 0.0 {
            self.metrics.hub.rate.set((now - before) as f64 / seconds);
            self.counted = (now, Instant::now());
        }
        let metrics = &self.metrics.hub;
        metrics.devices.set(self.view.devices() as i64);
        let waiting = QUEUE - self.messages.capacity();
        metrics.queue.set(waiting as i64);
        metrics.client_queue.set(self.clients.waiting() as i64);
        let stats = self.stats();
        self.clients.send_stats(&stats);
    }

    fn stats(&self) -> Stats {
        Stats {
            messages_total: self.metrics.owner.consumed.get(),
            messages_per_second: self.metrics.hub.rate.get(),
            readings_total: self.metrics.owner.readings.get(),
            dead_letters_total: self.metrics.dead_letter.written.get(),
            alerts_active: self.view.active_alerts(),
            devices: self.view.devices(),
            partitions: self.metrics.kafka.active_partitions.get(),
            lag: self.metrics.kafka.lag_total.get(),
            clients: self.clients.len(),
            server_time: Timestamp::now().as_millisecond(),
        }
    }
}

#[cfg(test)]
mod tests {
    use iot_core::partition::TopicPartition;
    use prometheus::Registry;

    use super::*;
    use crate::hub::Hub;
    use crate::hub::view::DeviceFilter;
    use crate::hub::view::tests::{device, devices};

    #[tokio::test]
    async fn a_reset_of_a_partition_takes_its_devices_and_makes_clients_connect_again() {
        let metrics = Arc::new(Metrics::new(&Registry::new()).unwrap());
        let config = Live::fixed(ConsumerConfig::default());
        let (hub, _task) = Hub::start(config, metrics, CancellationToken::new());
        for (number, id) in [(0, "1"), (1, "2")] {
            let partition = TopicPartition::new("device-data", number);
            let known = devices(vec![device("t", id, 0, 0.0)]);
            hub.owned(&partition, known, mpsc::channel(1).0).await;
        }
        let client = hub.subscribe().await.unwrap().unwrap();
        assert_eq!(client.devices.len(), 2);
        hub.reset(&TopicPartition::new("device-data", 0)).await;
        assert_eq!(client.dismissed.await, Ok(Leave::Reset));
        let (left, total) = hub.devices(DeviceFilter::default()).await.unwrap();
        assert_eq!((total, &*left[0].key.device), (1, "2"));
        let again = hub.subscribe().await.unwrap().unwrap();
        assert_eq!(again.devices.len(), 1);
    }
}
