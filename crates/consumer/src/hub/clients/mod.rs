//! WebSocket clients as the hub sees them. Each has a bounded queue of frames.
//! Readings go to all as one frame, made once; for a client that is behind they
//! are merged to the newest per device and sensor until it has caught up. The device whose
//! change has waited longest goes first, so that none is left out.
//! Alerts are never merged or dropped. When too many wait for a client, the hub
//! waits for it for a while: one that reads catches up. One that has taken nothing
//! for as long already goes at once.

#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::ws::Utf8Bytes;
use iot_fold::{Alert, Device, DeviceKey};
use serde::Serialize;
use tokio::sync::oneshot;
use tokio::time::{Instant, timeout_at};

use super::metrics::HubMetrics;
use super::outbox::{FrameKind, Frames, Outbox, READINGS, outbox};
use super::pending::Pending;
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
            behind: Pending::default(),
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
            let sent = pending.take(FRAME_BYTES);
            let mut made = None;
            for client in self.clients.values_mut() {
                if !client.behind.is_empty() || !client.frames.takes_readings() {
                    for device in &sent {
                        client.behind.merge(device.clone());
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
                let frame = readings(&client.behind.take(FRAME_BYTES));
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

fn readings(devices: &[Device]) -> Utf8Bytes {
    Frame::Readings {
        devices: devices.iter().collect(),
    }
    .text()
}
