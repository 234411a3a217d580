//! The hub with folds that feed it and clients that apply what it sends, in paused time.

mod alerts;
mod delivery;
mod feeds;
mod property;
mod requests;
mod scopes;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use iot_core::message::{DeviceMessage, Location, Quality, Reading};
use iot_core::partition::TopicPartition;
use iot_fold::{Device, DeviceKey, Event, Fold, Value};
use iot_service::metrics::Registrar;
use prometheus::{IntGauge, Registry};
use serde_json::Value as Json;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use super::*;
use crate::channel::{Kind, Mode};
use crate::testing::rules;

/// A device of a test with these values.
pub(crate) fn device(tenant: &str, id: &str, timestamp: i64, values: &[(&str, f64)]) -> Device {
    let readings = values.iter().map(|(sensor, value)| {
        let value = Value {
            value: *value,
            unit: None,
            quality: Quality::Good,
            timestamp,
            is_ahead: false,
        };
        (Arc::from(*sensor), value)
    });
    Device {
        key: DeviceKey {
            tenant: tenant.into(),
            project: "p".into(),
            device: id.into(),
        },
        location: None,
        seq: None,
        timestamp,
        is_ahead: false,
        readings: readings.collect(),
    }
}

/// One message: its device, floor, sensor and value. Its time is its number in all messages.
#[derive(Debug, Clone, Copy)]
struct Sent {
    device: u8,
    floor: u8,
    sensor: &'static str,
    value: f64,
    /// Milliseconds since the message before.
    after: i64,
}

fn sent(device: u8, value: f64) -> Sent {
    Sent {
        device,
        floor: 1,
        sensor: "temperature",
        value,
        after: 1,
    }
}

fn settings() -> Settings {
    Settings {
        epoch: "log".into(),
        interval: Duration::from_millis(200),
        gather: Duration::from_millis(10),
        history: 1 << 20,
        skew: Duration::from_millis(2),
        queue: 64 << 10,
        alerts: 1_000,
    }
}

const PARTITIONS: usize = 2;

/// A replica that reads the log: two partitions, one device in one of them.
struct Replica {
    hub: Hub,
    folds: Vec<Fold>,
    feeds: Vec<Option<Feed>>,
    marks: Vec<Arc<Marks>>,
    next: [i64; PARTITIONS],
    read: usize,
    clock: i64,
    stop: CancellationToken,
}

impl Replica {
    async fn new(settings: Settings) -> Self {
        let registry = Registry::new();
        let queue = IntGauge::new("queue", "Queue").unwrap();
        let metrics = HubMetrics::new(&Registrar(&registry), queue).unwrap();
        let stop = CancellationToken::new();
        let (hub, _) = Hub::start(settings, Counts::default, metrics, stop.clone());
        let folds = (0..PARTITIONS).map(|number| Fold::new(rules(), "log", number as i32));
        let mut replica = Self {
            hub,
            folds: folds.collect(),
            feeds: Vec::new(),
            marks: Vec::new(),
            next: [0; PARTITIONS],
            read: 0,
            clock: 1_000,
            stop,
        };
        for number in 0..PARTITIONS {
            replica.marks.push(Arc::default());
            let feed = replica.open(number).await;
            replica.feeds.push(Some(feed));
        }
        replica.mark();
        replica
    }

    /// The clients with a subscription.
    async fn clients(&self) -> usize {
        let stats = self.hub.stats(Filter::default()).await.unwrap();
        stats.service.unwrap().clients
    }

    /// Another feed of a partition, with what its fold knows.
    async fn open(&self, number: usize) -> Feed {
        let opening = Opening {
            partition: partition(number),
            all: self.folds[number].all(),
            reached: self.next[number],
            marks: self.marks[number].clone(),
            questions: mpsc::channel(1).0,
        };
        self.hub.open(opening).await
    }

    /// All partitions were fetched after the last message that was read.
    fn mark(&self) {
        // A message is committed each millisecond; this is between two of them.
        let at = 1_000_000 + 1_000 * self.read as i64 - 500;
        for (marks, end) in self.marks.iter().zip(self.next) {
            let (sent, arrived) = (at, at);
            marks.add(Mark { sent, arrived, end });
        }
    }

    /// Reads the log on, up to this number of messages, in one batch of each partition.
    async fn read(&mut self, log: &[Sent], to: usize) {
        for message in &log[self.read.min(to)..to] {
            self.clock += message.after;
            let number = usize::from(message.device) % PARTITIONS;
            let parsed = parsed(message, self.clock);
            let event = Event {
                offset: self.next[number],
                recorded: Some(self.clock),
                tenant: if message.device < 4 { "a" } else { "b" },
                project: "p",
                message: &parsed,
                is_undated: false,
                unmatched: &[],
            };
            let mut folded = iot_fold::Folded::default();
            self.folds[number].apply(&event, &mut folded).unwrap();
            self.next[number] += 1;
        }
        self.read = self.read.max(to);
        self.mark();
        for number in 0..PARTITIONS {
            let updates = self.folds[number].take_updates();
            if let Some(feed) = &self.feeds[number] {
                feed.update(updates, self.next[number], now()).await;
            }
        }
    }
}

impl Drop for Replica {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

fn now() -> Times {
    Times {
        recorded: Some(0),
        arrived: Instant::now(),
    }
}

fn partition(number: usize) -> Arc<TopicPartition> {
    Arc::new(TopicPartition::new("log", number as i32))
}

fn parsed(message: &Sent, timestamp: i64) -> DeviceMessage<'static> {
    DeviceMessage {
        device_id: format!("d{}", message.device).into(),
        tenant: None,
        project: None,
        seq: None,
        timestamp,
        location: Some(Location {
            floor: message.floor.to_string().into(),
            ..Location::default()
        }),
        readings: vec![Reading {
            sensor: message.sensor.into(),
            value: message.value,
            unit: None,
            quality: Quality::Good,
        }],
    }
}

/// Long enough for everything that waits to be sent.
async fn settle() {
    sleep(Duration::from_secs(3)).await;
}

fn channel(name: &str, kind: Kind, filter: Filter) -> Channel {
    Channel {
        name: name.into(),
        kind,
        filter,
        mode: if name.contains("all") {
            Mode::All
        } else {
            Mode::Latest
        },
        max_rate: None,
    }
}

/// A client that applies what it gets, as the page does.
struct Client {
    id: ClientId,
    channel: Channel,
    frames: Option<Frames>,
    position: Option<Position>,
    devices: BTreeMap<String, Json>,
    alerts: BTreeMap<String, Json>,
    /// Ids of alerts that were gone.
    gone: Vec<String>,
    /// Partition and offset of each entry.
    seen: Vec<(String, i64)>,
    /// Device and temperature of each of them.
    values: Vec<(String, f64)>,
    skipped: u64,
    was_recovered: bool,
    resyncs: usize,
    publications: usize,
}

impl Client {
    fn new(channel: Channel) -> Self {
        static CLIENTS: AtomicU64 = AtomicU64::new(1);
        Self {
            id: ClientId(CLIENTS.fetch_add(1, Ordering::Relaxed)),
            channel,
            frames: None,
            position: None,
            devices: BTreeMap::new(),
            alerts: BTreeMap::new(),
            gone: Vec::new(),
            seen: Vec::new(),
            values: Vec::new(),
            skipped: 0,
            was_recovered: false,
            resyncs: 0,
            publications: 0,
        }
    }

    async fn connect(&mut self, hub: &Hub) {
        hub.leave(self.id).await;
        let (outbox, frames) = outbox(64 << 10);
        let subscribe = Subscribe {
            client: self.id,
            channel: self.channel.clone(),
            framing: Framing::Json,
            outbox,
            since: self.position.clone(),
        };
        let subscribed = hub.subscribe(subscribe).await.unwrap().unwrap();
        self.frames = Some(frames);
        let mut position = Position {
            epoch: subscribed.epoch.to_string(),
            offset: subscribed.offset,
        };
        match subscribed.first {
            First::Snapshot(snapshot) => {
                self.was_recovered = false;
                self.devices.clear();
                self.alerts.clear();
                match snapshot {
                    Snapshot::Devices(devices) => {
                        let sensor = self.channel.filter.sensor.clone();
                        for device in devices.iter() {
                            // A session writes only this sensor.
                            let mut device = json(&**device);
                            if let (Some(sensor), Some(all)) =
                                (&sensor, device["readings"].as_object_mut())
                            {
                                all.retain(|name, _| **name == **sensor);
                            }
                            self.device(&device);
                        }
                    }
                    Snapshot::Alerts(alerts) => {
                        alerts.iter().for_each(|alert| self.alert(&json(alert)));
                    }
                    Snapshot::Stats(_) => {}
                }
            }
            First::Missed(missed) => {
                self.was_recovered = true;
                let last = missed.len().saturating_sub(1);
                for (number, (offset, data)) in missed.into_iter().enumerate() {
                    if number == last {
                        assert!(offset > position.offset);
                        position.offset = offset;
                    }
                    self.apply(&serde_json::from_slice(&data).unwrap());
                }
            }
        }
        self.position = Some(position);
    }

    /// Applies what has come; subscribes again if it gets an unsubscribe push.
    async fn take(&mut self, hub: &Hub) {
        loop {
            let Some(frames) = &mut self.frames else {
                return;
            };
            let Ok(taken) = tokio::time::timeout(Duration::ZERO, frames.take()).await else {
                return;
            };
            for frame in taken.unwrap() {
                let push: Json = serde_json::from_slice(&frame).unwrap();
                let push = &push["push"];
                assert_eq!(push["channel"], *self.channel.name);
                if push["unsubscribe"]["code"] == 2500 {
                    self.resyncs += 1;
                    Box::pin(self.connect(hub)).await;
                    break;
                }
                self.publications += 1;
                if let Some(offset) = push["pub"]["offset"].as_u64() {
                    let position = self.position.as_mut().unwrap();
                    assert!(offset > position.offset, "{offset} after {position:?}");
                    position.offset = offset;
                }
                self.apply(&push["pub"]["data"]);
            }
        }
    }

    fn apply(&mut self, data: &Json) {
        let list = |name: &str| data[name].as_array().cloned().unwrap_or_default();
        for key in list("removed") {
            self.devices.remove(key["device"].as_str().unwrap());
        }
        list("devices")
            .iter()
            .for_each(|device| self.device(device));
        for id in list("gone") {
            let id = id.as_str().unwrap();
            self.alerts.remove(id);
            self.gone.push(id.to_owned());
        }
        list("alerts").iter().for_each(|alert| self.alert(alert));
        self.skipped += data["skipped"].as_u64().unwrap_or(0);
    }

    fn device(&mut self, device: &Json) {
        let mut device = device.clone();
        let fields = device.as_object_mut().unwrap();
        if let (Some(partition), Some(offset)) =
            (fields.remove("partition"), fields.remove("offset"))
        {
            let partition = partition.as_str().unwrap().to_owned();
            self.seen.push((partition, offset.as_i64().unwrap()));
            let value = &fields["readings"]["temperature"]["value"];
            let device = fields["device"].as_str().unwrap().to_owned();
            self.values
                .extend(value.as_f64().map(|value| (device, value)));
        }
        let id = fields["device"].as_str().unwrap().to_owned();
        if let Some(before) = self.devices.get(&id) {
            let mut readings = before["readings"].as_object().unwrap().clone();
            readings.extend(fields["readings"].as_object().unwrap().clone());
            fields["readings"] = readings.into();
        }
        self.devices.insert(id, device);
    }

    fn alert(&mut self, alert: &Json) {
        let id = alert["id"].as_str().unwrap().to_owned();
        self.alerts.insert(id, alert.clone());
    }

    /// What a new client of the same channel sees.
    async fn expected(&self, hub: &Hub) -> Self {
        let mut other = Self::new(self.channel.clone());
        other.connect(hub).await;
        hub.leave(other.id).await;
        other
    }
}

fn json(value: &impl Serialize) -> Json {
    serde_json::to_value(value).unwrap()
}
