//! The clients that are connected: how many there may be, and how they learn of a shutdown.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use jiff::Timestamp;
use prometheus::IntGauge;

use super::Settings;
use crate::hub::{ClientId, Close, Frames, Outbox, outbox};

/// The connected clients. Clones share them.
#[derive(Clone)]
pub(crate) struct Clients(Arc<Shared>);

struct Shared {
    settings: Settings,
    /// Makes names of sessions differ between runs and replicas.
    since: i64,
    last: AtomicU64,
    places: AtomicUsize,
    gauge: IntGauge,
    open: Mutex<Open>,
}

#[derive(Default)]
struct Open {
    outboxes: HashMap<ClientId, Outbox>,
    is_closed: bool,
}

/// A connection of a client, which is known until it is dropped.
pub(crate) struct Client {
    pub(crate) id: ClientId,
    /// What is sent to it.
    pub(crate) frames: Frames,
    /// Where the hub puts it.
    pub(crate) outbox: Outbox,
    clients: Clients,
}

/// A place among the clients that may be connected at the same time.
pub(crate) struct Place(Clients);

impl Clients {
    pub(crate) fn new(settings: Settings, gauge: IntGauge) -> Self {
        Self(Arc::new(Shared {
            settings,
            since: Timestamp::now().as_microsecond(),
            last: AtomicU64::new(0),
            places: AtomicUsize::new(0),
            gauge,
            open: Mutex::default(),
        }))
    }

    /// A new connection.
    pub(crate) fn add(&self) -> Client {
        let id = ClientId(self.0.last.fetch_add(1, Ordering::Relaxed) + 1);
        let (outbox, frames) = outbox((self.0.settings.queue)());
        let mut open = self.lock();
        if open.is_closed {
            outbox.close(Close::Shutdown);
        } else {
            open.outboxes.insert(id, outbox.clone());
        }
        drop(open);
        Client {
            id,
            frames,
            outbox,
            clients: self.clone(),
        }
    }

    /// Ends all connections, also those that come later.
    pub(crate) fn close(&self) {
        let outboxes = {
            let mut open = self.lock();
            open.is_closed = true;
            std::mem::take(&mut open.outboxes)
        };
        for outbox in outboxes.values() {
            outbox.close(Close::Shutdown);
        }
    }

    fn lock(&self) -> MutexGuard<'_, Open> {
        self.0.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Client {
    /// Names the session.
    pub(crate) fn name(&self) -> String {
        format!("{:x}-{}", self.clients.0.since, self.id.0)
    }

    /// A place, if one is free.
    pub(crate) fn place(&self) -> Option<Place> {
        let shared = &self.clients.0;
        let most = (shared.settings.clients)();
        let more = |taken: usize| (taken < most).then_some(taken + 1);
        shared
            .places
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, more)
            .ok()?;
        shared.gauge.inc();
        Some(Place(self.clients.clone()))
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        self.clients.lock().outboxes.remove(&self.id);
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.0.places.fetch_sub(1, Ordering::Relaxed);
        self.0.0.gauge.dec();
    }
}
