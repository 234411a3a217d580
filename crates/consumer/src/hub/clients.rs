//! WebSocket clients as the hub sees them. Each has a bounded queue of frames.
//! Readings go to all as one frame, made once; for a client that is behind they
//! are merged to the newest per device and sensor until it has caught up.
//! Alerts are never merged or dropped. When too many wait for a client, the hub
//! waits for it for a while: one that reads catches up. One that has taken nothing
//! for as long already goes at once.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use axum::extract::ws::Utf8Bytes;
use iot_fold::{Alert, Device, DeviceKey};
use serde::Serialize;
use tokio::sync::oneshot;
use tokio::time::{Instant, timeout_at};

use super::metrics::HubMetrics;
use super::outbox::{FrameKind, Frames, Outbox, READINGS, outbox};
use super::stats::Stats;
use crate::config::PushConfig;

/// A frame ends with the device or alert that makes it this long, in bytes: far
/// below what the socket buffers, and a browser doesn't stall on it.
pub(crate) const FRAME_BYTES: usize = 256 << 10;
/// How long the hub waits for a client with too many alerts waiting, counted from
/// the last frame that it took. Half of them have to go in that time.
const GRACE: Duration = Duration::from_secs(5);
/// Removed devices in one frame.
const REMOVED_AT_ONCE: usize = 500;
/// Alerts that are handed out before others of the process get a turn.
const ALERTS_AT_ONCE: usize = 256;

/// Readings not sent yet, newest per device and sensor.
pub(crate) type Pending = BTreeMap<DeviceKey, Device>;

/// Why a WebSocket client left.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Leave {
    /// It closed the connection, or the connection broke.
    Client,
    /// It could not keep up.
    Slow,
    /// It stopped answering pings.
    Silent,
    /// Its snapshot holds no longer: the state of a partition was begun again.
    Reset,
    /// The service stops.
    Shutdown,
}

impl Leave {
    pub(crate) const ALL: [Self; 5] = [
        Self::Client,
        Self::Slow,
        Self::Silent,
        Self::Reset,
        Self::Shutdown,
    ];

    pub(crate) fn label(self) -> &'static str {
        match self {
            Self::Client => "client",
            Self::Slow => "slow",
            Self::Silent => "silent",
            Self::Reset => "reset",
            Self::Shutdown => "shutdown",
        }
    }
}

/// Names a client.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct ClientId(u64);

/// What a new client gets.
#[derive(Debug)]
pub(crate) struct Subscription {
    pub(crate) id: ClientId,
    /// Everything known at the moment the stream begins.
    pub(crate) devices: Vec<Arc<Device>>,
    pub(crate) alerts: Vec<Alert>,
    /// Everything that changes after it.
    pub(crate) frames: Frames,
    /// Told when the hub is done with the client.
    pub(crate) dismissed: oneshot::Receiver<Leave>,
}

/// A frame as it goes over the wire.
#[derive(Debug, Serialize)]
#[serde(tag = "type", rename_all = "lowercase")]
pub(crate) enum Frame<'f> {
    Hello {
        protocol: u32,
        service: &'f str,
        version: &'f str,
        server_time: i64,
    },
    Snapshot {
        devices: &'f [Arc<Device>],
        alerts: &'f [Alert],
        last: bool,
    },
    Readings {
        devices: Vec<&'f Device>,
    },
    Alert {
        alert: &'f Alert,
    },
    Removed {
        devices: &'f [DeviceKey],
    },
    Stats {
        stats: &'f Stats,
    },
}

impl Frame<'_> {
    pub(crate) fn text(&self) -> Utf8Bytes {
        // Plain data with text keys always serialises.
        serde_json::to_string(self).unwrap_or_default().into()
    }
}

struct Client {
    frames: Outbox,
    dismiss: oneshot::Sender<Leave>,
    behind: Pending,
}

/// All clients.
pub(crate) struct Clients {
    clients: HashMap<ClientId, Client>,
    next: u64,
    queue: usize,
    most: usize,
    metrics: HubMetrics,
}

impl Clients {
    pub(crate) fn new(config: &PushConfig, metrics: HubMetrics) -> Self {
        let (queue, most) = (config.queue, config.clients);
        Self {
            clients: HashMap::new(),
            next: 0,
            queue,
            most,
            metrics,
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.clients.len()
    }

    /// Takes in no more than that; who is there stays.
    pub(crate) fn allow(&mut self, most: usize) {
        self.most = most;
    }

    /// Takes a client in; `None` if there are too many.
    pub(crate) fn add(
        &mut self,
        devices: Vec<Arc<Device>>,
        alerts: Vec<Alert>,
    ) -> Option<Subscription> {
        if self.clients.len() >= self.most {
            return None;
        }
        let (sender, frames) = outbox();
        let (dismiss, dismissed) = oneshot::channel();
        let id = ClientId(self.next);
        self.next += 1;
        let client = Client {
            frames: sender,
            dismiss,
            behind: Pending::new(),
        };
        self.clients.insert(id, client);
        self.metrics.clients.set(self.clients.len() as i64);
        Some(Subscription {
            id,
            devices,
            alerts,
            frames,
            dismissed,
        })
    }

    pub(crate) fn remove(&mut self, id: ClientId) {
        self.clients.remove(&id);
        self.metrics.clients.set(self.clients.len() as i64);
    }

    /// Forgets clients that nobody serves any more, however that came.
    pub(crate) fn sweep(&mut self) {
        self.clients
            .retain(|_, client| !client.frames.is_abandoned());
        self.metrics.clients.set(self.clients.len() as i64);
    }

    /// Sends `pending` to all, or keeps it for those that are behind. What is
    /// too much for the frames that may wait stays for the next time.
    pub(crate) fn send_readings(&mut self, pending: &mut Pending) {
        let mut count = 0;
        for _ in 0..READINGS {
            if pending.is_empty() {
                break;
            }
            let sent = take_frame(pending);
            let mut made = None;
            for client in self.clients.values_mut() {
                if !client.behind.is_empty() || !client.frames.takes_readings() {
                    for device in &sent {
                        merge(&mut client.behind, device.clone());
                    }
                    continue;
                }
                let frame = made.get_or_insert_with(|| readings(&sent));
                count += usize::from(client.frames.push(FrameKind::Readings, frame.clone()));
            }
        }
        self.metrics.framed(FrameKind::Readings, count);
    }

    /// Sends merged readings to clients that have caught up.
    pub(crate) fn catch_up(&mut self) {
        let mut count = 0;
        for client in self.clients.values_mut() {
            while !client.behind.is_empty() && client.frames.takes_readings() {
                let frame = readings(&take_frame(&mut client.behind));
                if !client.frames.push(FrameKind::Readings, frame) {
                    client.behind.clear();
                    break;
                }
                count += 1;
            }
        }
        self.metrics.framed(FrameKind::Readings, count);
    }

    /// Whether anybody waits for merged readings.
    pub(crate) fn any_behind(&self) -> bool {
        self.clients
            .values()
            .any(|client| !client.behind.is_empty())
    }

    /// Sends alerts to all, in order; a client that has no room for them and
    /// makes none is dismissed.
    pub(crate) async fn send_alerts(&mut self, alerts: &[Alert]) {
        for (number, alert) in alerts.iter().enumerate() {
            if self.clients.is_empty() {
                return;
            }
            if number % ALERTS_AT_ONCE == ALERTS_AT_ONCE - 1 {
                tokio::task::yield_now().await;
            }
            self.make_room().await;
            let frame = Frame::Alert { alert }.text();
            let clients = self.clients.values();
            let sent = clients
                .filter(|client| client.frames.push(FrameKind::Alert, frame.clone()))
                .count();
            self.metrics.framed(FrameKind::Alert, sent);
        }
    }

    /// Tells all that devices were removed. Like alerts, these frames are never dropped.
    pub(crate) async fn send_removed(&mut self, devices: &[DeviceKey]) {
        for devices in devices.chunks(REMOVED_AT_ONCE) {
            if self.clients.is_empty() {
                return;
            }
            self.make_room().await;
            let frame = Frame::Removed { devices }.text();
            let mut sent = 0;
            for client in self.clients.values_mut() {
                for key in devices {
                    client.behind.remove(key);
                }
                sent += usize::from(client.frames.push(FrameKind::Removed, frame.clone()));
            }
            self.metrics.framed(FrameKind::Removed, sent);
        }
    }

    /// Waits for clients without room for an alert; together, so that any number
    /// of them holds the others up once.
    async fn make_room(&mut self) {
        let deadline = Instant::now() + GRACE;
        let mut slow = Vec::new();
        for (id, client) in &self.clients {
            if client.frames.alerts() < self.queue {
                continue;
            }
            let drained = client.frames.drained_to(self.queue / 2);
            let deadline = deadline.min(client.frames.taken_at() + GRACE);
            if timeout_at(deadline, drained).await.is_err() {
                slow.push(*id);
            }
        }
        for id in slow {
            self.dismiss(id, Leave::Slow);
        }
    }

    /// Sends statistics to all that have room: the next ones replace them.
    pub(crate) fn send_stats(&mut self, stats: &Stats) {
        if self.clients.is_empty() {
            return;
        }
        let frame = Frame::Stats { stats }.text();
        let clients = self.clients.values();
        let sent = clients
            .filter(|client| client.frames.takes_stats())
            .filter(|client| client.frames.push(FrameKind::Stats, frame.clone()))
            .count();
        self.metrics.framed(FrameKind::Stats, sent);
    }

    /// Frames that wait.
    pub(crate) fn waiting(&self) -> usize {
        self.clients
            .values()
            .map(|client| client.frames.len())
            .sum()
    }

    /// Lets all clients go.
    pub(crate) fn dismiss_all(&mut self, leave: Leave) {
        let ids: Vec<_> = self.clients.keys().copied().collect();
        for id in ids {
            self.dismiss(id, leave);
        }
    }

    fn dismiss(&mut self, id: ClientId, leave: Leave) {
        if let Some(client) = self.clients.remove(&id) {
            // It may be leaving at the same moment.
            let _ = client.dismiss.send(leave);
        }
        self.metrics.clients.set(self.clients.len() as i64);
    }
}

/// Merges a change into what is pending.
pub(crate) fn merge(pending: &mut Pending, change: Device) {
    match pending.get_mut(&change.key) {
        Some(device) => device.update(change),
        None => drop(pending.insert(change.key.clone(), change)),
    }
}

/// Takes as much as one frame holds.
fn take_frame(pending: &mut Pending) -> Vec<Device> {
    let mut taken = Vec::new();
    let mut bytes = 0;
    while bytes < FRAME_BYTES
        && let Some((_, device)) = pending.pop_first()
    {
        bytes += device.json_size();
        taken.push(device);
    }
    taken
}

fn readings(devices: &[Device]) -> Utf8Bytes {
    Frame::Readings {
        devices: devices.iter().collect(),
    }
    .text()
}

#[cfg(test)]
mod tests {
    use prometheus::Registry;
    use serde_json::Value;

    use super::*;
    use crate::hub::view::tests::{alert, device};
    use crate::metrics::Metrics;
    use iot_fold::AlertStatus;

    fn clients(queue: usize) -> Clients {
        let metrics = Metrics::new(&Registry::new()).unwrap().hub;
        let config = PushConfig {
            queue,
            clients: 2,
            ..PushConfig::default()
        };
        Clients::new(&config, metrics)
    }

    fn pending(devices: &[(&str, f64)]) -> Pending {
        let mut pending = Pending::new();
        for (number, (id, value)) in devices.iter().enumerate() {
            merge(&mut pending, device("t", id, number as i64, *value));
        }
        pending
    }

    fn received(subscription: &mut Subscription) -> Option<Value> {
        let frame = subscription.frames.try_recv()?;
        Some(serde_json::from_str(frame.as_str()).unwrap())
    }

    #[test]
    fn readings_of_one_device_become_the_newest() {
        let mut clients = clients(8);
        let mut one = clients.add(Vec::new(), Vec::new()).unwrap();
        clients.send_readings(&mut pending(&[("a", 1.0), ("b", 2.0), ("a", 3.0)]));
        let frame = received(&mut one).unwrap();
        assert_eq!(frame["type"], "readings");
        assert_eq!(frame["devices"].as_array().unwrap().len(), 2);
        assert_eq!(frame["devices"][0]["readings"]["temperature"]["value"], 3.0);
        assert!(received(&mut one).is_none());
    }

    #[test]
    fn a_client_that_is_behind_gets_merged_readings_later() {
        let mut clients = clients(1_024);
        let mut slow = clients.add(Vec::new(), Vec::new()).unwrap();
        for value in 0..10 {
            clients.send_readings(&mut pending(&[("a", f64::from(value))]));
        }
        assert!(clients.any_behind());
        clients.catch_up();
        assert!(clients.any_behind(), "there is no room yet");
        let mut waited = 0;
        while received(&mut slow).is_some() {
            waited += 1;
        }
        assert_eq!(waited, READINGS, "few old readings wait");
        clients.catch_up();
        assert!(!clients.any_behind());
        let frame = received(&mut slow).unwrap();
        assert_eq!(frame["devices"][0]["readings"]["temperature"]["value"], 9.0);
    }

    #[tokio::test]
    async fn readings_of_a_removed_device_are_not_sent_after_it() {
        let mut clients = clients(8);
        let mut slow = clients.add(Vec::new(), Vec::new()).unwrap();
        for value in 0..4 {
            clients.send_readings(&mut pending(&[("a", f64::from(value)), ("b", 1.0)]));
        }
        let removed = [device("t", "a", 0, 0.0).key];
        clients.send_removed(&removed).await;
        for _ in 0..READINGS {
            assert_eq!(received(&mut slow).unwrap()["type"], "readings");
        }
        let frame = received(&mut slow).unwrap();
        assert_eq!(
            (&frame["type"], &frame["devices"][0]["device"]),
            (&"removed".into(), &"a".into())
        );
        clients.catch_up();
        let frame = received(&mut slow).unwrap();
        assert_eq!(frame["devices"].as_array().unwrap().len(), 1);
        assert_eq!(frame["devices"][0]["device"], "b");
    }

    #[test]
    fn a_client_that_is_behind_gets_the_last_change_whatever_its_time() {
        let mut pending = Pending::new();
        for (timestamp, value) in [(9_000, 9.0), (1_000, 1.0)] {
            merge(&mut pending, device("t", "a", timestamp, value));
        }
        let left = pending.into_values().next().unwrap();
        assert_eq!((left.timestamp, left.readings[0].1.value), (1_000, 1.0));
    }

    fn alerts(numbers: std::ops::Range<i64>) -> Vec<Alert> {
        numbers
            .map(|number| alert(&number.to_string(), number, AlertStatus::Raised))
            .collect()
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_makes_no_room_for_an_alert_is_dismissed() {
        let mut clients = clients(2);
        let mut slow = clients.add(Vec::new(), Vec::new()).unwrap();
        let mut quick = clients.add(Vec::new(), Vec::new()).unwrap();
        for (number, one) in alerts(0..3).iter().enumerate() {
            clients.send_alerts(std::slice::from_ref(one)).await;
            assert_eq!(
                received(&mut quick).unwrap()["alert"]["id"],
                number.to_string()
            );
        }
        assert_eq!(slow.dismissed.try_recv(), Ok(Leave::Slow));
        assert!(quick.dismissed.try_recv().is_err());
        assert_eq!(clients.len(), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn nobody_waits_for_a_client_that_has_long_taken_nothing() {
        let mut clients = clients(2);
        let mut asleep = clients.add(Vec::new(), Vec::new()).unwrap();
        clients.send_alerts(&alerts(0..1)).await;
        tokio::time::advance(GRACE).await;
        clients.send_alerts(&alerts(1..2)).await;
        let begun = Instant::now();
        clients.send_alerts(&alerts(2..3)).await;
        assert_eq!(asleep.dismissed.try_recv(), Ok(Leave::Slow));
        assert!(begun.elapsed() < GRACE, "{:?}", begun.elapsed());
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_has_just_read_is_waited_for() {
        let mut clients = clients(2);
        let mut reader = clients.add(Vec::new(), Vec::new()).unwrap();
        clients.send_alerts(&alerts(0..2)).await;
        let reading = tokio::spawn(async move {
            tokio::time::sleep(GRACE * 3 / 4).await;
            while received(&mut reader).unwrap()["alert"]["id"] != "1" {}
            reader
        });
        clients.send_alerts(&alerts(2..3)).await;
        let mut reader = reading.await.unwrap();
        assert_eq!(received(&mut reader).unwrap()["alert"]["id"], "2");
        assert!(reader.dismissed.try_recv().is_err());
    }

    #[tokio::test]
    async fn a_client_that_reads_gets_any_number_of_alerts() {
        let mut clients = clients(64);
        let mut reader = clients.add(Vec::new(), Vec::new()).unwrap();
        let reading = tokio::spawn(async move {
            let mut ids = Vec::new();
            while ids.len() < 5_000 {
                let frame = reader.frames.recv().await.expect("an alert");
                let frame: Value = serde_json::from_str(frame.as_str()).unwrap();
                ids.push(frame["alert"]["id"].as_str().unwrap().parse().unwrap());
            }
            ids
        });
        clients.send_alerts(&alerts(0..5_000)).await;
        let ids: Vec<i64> = reading.await.unwrap();
        assert!(ids.into_iter().eq(0..5_000), "all of them, in order");
        clients.sweep();
        assert_eq!(clients.len(), 0, "it left after the last one");
    }

    #[test]
    fn there_are_only_so_many_clients() {
        let mut clients = clients(2);
        let one = clients.add(Vec::new(), Vec::new()).unwrap();
        let _two = clients.add(Vec::new(), Vec::new()).unwrap();
        assert!(clients.add(Vec::new(), Vec::new()).is_none());
        clients.remove(one.id);
        assert!(clients.add(Vec::new(), Vec::new()).is_some());
    }

    #[test]
    fn clients_that_nobody_serves_free_their_places() {
        let mut clients = clients(2);
        drop(clients.add(Vec::new(), Vec::new()));
        let _two = clients.add(Vec::new(), Vec::new());
        clients.sweep();
        assert_eq!(clients.len(), 1);
        assert_eq!(clients.metrics.clients.get(), 1);
        assert!(clients.add(Vec::new(), Vec::new()).is_some());
    }

    #[test]
    fn a_frame_has_a_bounded_size() {
        let mut clients = clients(2);
        let mut one = clients.add(Vec::new(), Vec::new()).unwrap();
        let mut all = Pending::new();
        for number in 0..10_000 {
            merge(&mut all, device("t", &format!("{number:05}"), 0, 0.0));
        }
        let (mut devices, mut largest) = (0, 0);
        while !all.is_empty() {
            clients.send_readings(&mut all);
            while let Some(frame) = one.frames.try_recv() {
                largest = largest.max(frame.len());
                let frame: Value = serde_json::from_str(frame.as_str()).unwrap();
                devices += frame["devices"].as_array().unwrap().len();
            }
        }
        assert_eq!(devices, 10_000);
        assert!(largest < FRAME_BYTES * 5 / 4, "{largest}");
        assert!(largest > FRAME_BYTES / 2, "{largest}");
    }
}
