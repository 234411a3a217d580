//! WebSocket clients as the hub sees them. Each has a bounded queue of frames.
//! Readings go to all as one frame, made once; for a client that is behind they
//! are merged to the newest per device and sensor until it has caught up.
//! Alerts are never merged or dropped: without room for one, the client goes.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use axum::extract::ws::Utf8Bytes;
use serde::Serialize;
use tokio::sync::{mpsc, oneshot};

use crate::config::PushConfig;
use crate::metrics::{FrameKind, Leave, Metrics};
use crate::model::{Alert, Device, DeviceKey, Stats};

/// Devices in one frame of readings; further ones wait for the next frame.
const FRAME_DEVICES: usize = 2_000;

/// Readings not sent yet, newest per device and sensor.
pub(crate) type Pending = BTreeMap<DeviceKey, Device>;

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
    pub(crate) frames: mpsc::Receiver<Utf8Bytes>,
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
    frames: mpsc::Sender<Utf8Bytes>,
    dismiss: oneshot::Sender<Leave>,
    behind: Pending,
}

/// All clients.
pub(crate) struct Clients {
    clients: HashMap<ClientId, Client>,
    next: u64,
    queue: usize,
    most: usize,
    metrics: Arc<Metrics>,
}

impl Clients {
    pub(crate) fn new(config: &PushConfig, metrics: Arc<Metrics>) -> Self {
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

    /// Takes a client in; `None` if there are too many.
    pub(crate) fn add(
        &mut self,
        devices: Vec<Arc<Device>>,
        alerts: Vec<Alert>,
    ) -> Option<Subscription> {
        if self.clients.len() >= self.most {
            return None;
        }
        let (sender, frames) = mpsc::channel(self.queue);
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

    /// Sends `pending` to all, or keeps it for those that are behind.
    pub(crate) fn send_readings(&mut self, pending: &mut Pending) {
        let sent = take_frame(pending);
        let mut made = None;
        let mut count = 0;
        for client in self.clients.values_mut() {
            if !client.behind.is_empty() || !client.has_room() {
                for device in &sent {
                    merge(&mut client.behind, device.clone());
                }
                continue;
            }
            let frame = made.get_or_insert_with(|| readings(&sent));
            count += usize::from(client.frames.try_send(frame.clone()).is_ok());
        }
        self.metrics.framed(FrameKind::Readings, count);
    }

    /// Sends merged readings to clients that have caught up.
    pub(crate) fn catch_up(&mut self) {
        let mut count = 0;
        for client in self.clients.values_mut() {
            if !client.behind.is_empty() && client.has_room() {
                let frame = readings(&take_frame(&mut client.behind));
                count += usize::from(client.frames.try_send(frame).is_ok());
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

    /// Sends an alert to all; a client without room for it is dismissed.
    pub(crate) fn send_alert(&mut self, alert: &Alert) {
        if self.clients.is_empty() {
            return;
        }
        let frame = Frame::Alert { alert }.text();
        let mut slow = Vec::new();
        for (id, client) in &self.clients {
            // Closed: the client is leaving by itself.
            if let Err(mpsc::error::TrySendError::Full(_)) = client.frames.try_send(frame.clone()) {
                slow.push(*id);
            }
        }
        self.metrics
            .framed(FrameKind::Alert, self.clients.len() - slow.len());
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
        let ready = self.clients.values().filter(|client| client.has_room());
        let sent = ready
            .filter(|client| client.frames.try_send(frame.clone()).is_ok())
            .count();
        self.metrics.framed(FrameKind::Stats, sent);
    }

    /// Frames that wait.
    pub(crate) fn waiting(&self) -> usize {
        self.clients
            .values()
            .map(|client| self.queue - client.frames.capacity())
            .sum()
    }

    /// Lets all clients go.
    pub(crate) fn dismiss_all(&mut self) {
        let ids: Vec<_> = self.clients.keys().copied().collect();
        for id in ids {
            self.dismiss(id, Leave::Shutdown);
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

impl Client {
    /// Half of the queue is kept for alerts.
    fn has_room(&self) -> bool {
        self.frames.capacity() > self.frames.max_capacity() / 2
    }
}

/// Merges a change into what is pending.
pub(crate) fn merge(pending: &mut Pending, change: Device) {
    match pending.get_mut(&change.key) {
        Some(device) => device.merge(change),
        None => drop(pending.insert(change.key.clone(), change)),
    }
}

/// Takes as much as one frame holds.
fn take_frame(pending: &mut Pending) -> Vec<Device> {
    if pending.len() <= FRAME_DEVICES {
        return std::mem::take(pending).into_values().collect();
    }
    let mut taken = Vec::with_capacity(FRAME_DEVICES);
    while taken.len() < FRAME_DEVICES
        && let Some((_, device)) = pending.pop_first()
    {
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
    use crate::model::AlertStatus;

    fn clients(queue: usize) -> Clients {
        let metrics = Arc::new(Metrics::new(&Registry::new()).unwrap());
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
        let frame = subscription.frames.try_recv().ok()?;
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
        let mut clients = clients(4);
        let mut slow = clients.add(Vec::new(), Vec::new()).unwrap();
        for value in 0..10 {
            clients.send_readings(&mut pending(&[("a", f64::from(value))]));
        }
        assert!(clients.any_behind());
        clients.catch_up();
        assert!(clients.any_behind(), "there is no room yet");
        while received(&mut slow).is_some() {}
        clients.catch_up();
        assert!(!clients.any_behind());
        let frame = received(&mut slow).unwrap();
        assert_eq!(frame["devices"][0]["readings"]["temperature"]["value"], 9.0);
    }

    #[test]
    fn a_client_without_room_for_an_alert_is_dismissed() {
        let mut clients = clients(2);
        let mut slow = clients.add(Vec::new(), Vec::new()).unwrap();
        let mut quick = clients.add(Vec::new(), Vec::new()).unwrap();
        for number in 0..3 {
            clients.send_alert(&alert(&number.to_string(), number, AlertStatus::Raised));
            assert_eq!(
                received(&mut quick).unwrap()["alert"]["id"],
                number.to_string()
            );
        }
        assert_eq!(slow.dismissed.try_recv(), Ok(Leave::Slow));
        assert!(quick.dismissed.try_recv().is_err());
        assert_eq!(clients.len(), 1);
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
    fn a_frame_has_a_bounded_number_of_devices() {
        let mut all = Pending::new();
        for number in 0..2_500 {
            merge(&mut all, device("t", &format!("{number:05}"), 0, 0.0));
        }
        assert_eq!(take_frame(&mut all).len(), FRAME_DEVICES);
        assert_eq!(take_frame(&mut all).len(), 500);
    }
}
