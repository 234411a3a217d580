//! The frames that wait for one client, in order. Readings and statistics wait
//! in small numbers only, so that what a slow client gets is new; alerts wait up
//! to a limit.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use axum::extract::ws::Utf8Bytes;
use tokio::sync::Notify;
use tokio::time::Instant;

/// Frames of readings that wait for one client; further ones are merged.
pub(crate) const READINGS: usize = 2;

/// Kinds of WebSocket frames.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum FrameKind {
    Readings,
    Alert,
    /// Devices that were removed. They count as alerts.
    Removed,
    Stats,
}

impl FrameKind {
    pub(super) const ALL: [Self; 4] = [Self::Readings, Self::Alert, Self::Removed, Self::Stats];

    pub(super) fn label(self) -> &'static str {
        match self {
            Self::Readings => "readings",
            Self::Alert => "alert",
            Self::Removed => "removed",
            Self::Stats => "stats",
        }
    }
}

/// The hub's end.
#[derive(Debug)]
pub(crate) struct Outbox(Arc<Shared>);

/// The client's end.
#[derive(Debug)]
pub(crate) struct Frames(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    queue: Mutex<Queue>,
    /// There is a frame more, or no further one comes.
    filled: Notify,
    /// There is a frame less, or the client has gone.
    taken: Notify,
}

#[derive(Debug)]
struct Queue {
    frames: VecDeque<(FrameKind, Utf8Bytes)>,
    readings: usize,
    alerts: usize,
    stats: usize,
    /// When the client last took a frame, or the oldest began to wait.
    taken_at: Instant,
    /// No further frame comes.
    ended: bool,
    /// Nobody takes any.
    abandoned: bool,
}

pub(crate) fn outbox() -> (Outbox, Frames) {
    let shared = Arc::new(Shared::default());
    (Outbox(shared.clone()), Frames(shared))
}

impl Shared {
    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Default for Queue {
    fn default() -> Self {
        Self {
            frames: VecDeque::new(),
            readings: 0,
            alerts: 0,
            stats: 0,
            taken_at: Instant::now(),
            ended: false,
            abandoned: false,
        }
    }
}

impl Queue {
    fn count(&mut self, kind: FrameKind) -> &mut usize {
        match kind {
            FrameKind::Readings => &mut self.readings,
            FrameKind::Alert | FrameKind::Removed => &mut self.alerts,
            FrameKind::Stats => &mut self.stats,
        }
    }
}

impl Outbox {
    /// Puts a frame behind the others; `false` if the client has gone.
    pub(crate) fn push(&self, kind: FrameKind, frame: Utf8Bytes) -> bool {
        let mut queue = self.0.queue();
        if queue.abandoned {
            return false;
        }
        if queue.frames.is_empty() {
            queue.taken_at = Instant::now();
        }
        queue.frames.push_back((kind, frame));
        *queue.count(kind) += 1;
        drop(queue);
        self.0.filled.notify_one();
        true
    }

    /// Whether there is room for readings.
    pub(crate) fn takes_readings(&self) -> bool {
        self.0.queue().readings < READINGS
    }

    /// Whether there is room for statistics: the next ones replace them.
    pub(crate) fn takes_stats(&self) -> bool {
        self.0.queue().stats == 0
    }

    /// Alerts that wait.
    pub(crate) fn alerts(&self) -> usize {
        self.0.queue().alerts
    }

    /// When the client last took a frame, or the oldest began to wait.
    pub(crate) fn taken_at(&self) -> Instant {
        self.0.queue().taken_at
    }

    /// Frames that wait.
    pub(crate) fn len(&self) -> usize {
        self.0.queue().frames.len()
    }

    /// Whether the client has gone.
    pub(crate) fn is_abandoned(&self) -> bool {
        self.0.queue().abandoned
    }

    /// Waits until at most `level` alerts wait, or the client has gone.
    pub(crate) async fn drained_to(&self, level: usize) {
        while self.alerts() > level {
            self.0.taken.notified().await;
        }
    }
}

impl Drop for Outbox {
    fn drop(&mut self) {
        self.0.queue().ended = true;
        self.0.filled.notify_one();
    }
}

impl Frames {
    /// The next frame, if one waits.
    pub(crate) fn try_recv(&mut self) -> Option<Utf8Bytes> {
        let mut queue = self.0.queue();
        let (kind, frame) = queue.frames.pop_front()?;
        *queue.count(kind) -= 1;
        queue.taken_at = Instant::now();
        drop(queue);
        self.0.taken.notify_one();
        Some(frame)
    }

    /// The next frame; `None` if no further one comes. Nothing is lost if the
    /// future is dropped.
    pub(crate) async fn recv(&mut self) -> Option<Utf8Bytes> {
        loop {
            if let Some(frame) = self.try_recv() {
                return Some(frame);
            }
            if self.0.queue().ended {
                return self.try_recv();
            }
            self.0.filled.notified().await;
        }
    }
}

impl Drop for Frames {
    fn drop(&mut self) {
        // What waits for nobody needs no memory either.
        *self.0.queue() = Queue {
            abandoned: true,
            ..Queue::default()
        };
        self.0.taken.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn frames_come_in_order_and_then_an_end() {
        let (outbox, mut frames) = outbox();
        assert!(outbox.push(FrameKind::Alert, "a".into()));
        assert!(outbox.push(FrameKind::Readings, "b".into()));
        assert_eq!((outbox.len(), outbox.alerts()), (2, 1));
        drop(outbox);
        assert_eq!(frames.recv().await.as_deref(), Some("a"));
        assert_eq!(frames.recv().await.as_deref(), Some("b"));
        assert_eq!(frames.recv().await, None);
    }

    #[tokio::test]
    async fn few_readings_wait() {
        let (outbox, mut frames) = outbox();
        for _ in 0..READINGS {
            assert!(outbox.takes_readings());
            outbox.push(FrameKind::Readings, "r".into());
        }
        assert!(!outbox.takes_readings());
        assert!(frames.try_recv().is_some());
        assert!(outbox.takes_readings());
    }

    #[tokio::test]
    async fn nobody_waits_for_a_client_that_has_gone() {
        let (outbox, frames) = outbox();
        outbox.push(FrameKind::Alert, "a".into());
        let gone = tokio::spawn(async move { drop(frames) });
        outbox.drained_to(0).await;
        gone.await.unwrap();
        assert!(outbox.is_abandoned());
        assert!(!outbox.push(FrameKind::Alert, "b".into()));
        assert_eq!(outbox.len(), 0);
    }
}
