//! The publications of a channel that some of its members have not received yet, where none may be left
//! out. They are kept once, however many members wait for them.

use std::collections::VecDeque;
use std::time::Duration;

use bytes::Bytes;
use tokio::time::Instant;

use super::{Close, Outbox};

/// The most bytes that wait in a channel beside the queues of its clients for longer than
/// [`STUCK`].
pub(super) const MOST: usize = 1 << 20;
/// The most that wait at all: many changes at once are no fault of the clients.
pub(super) const BURST: usize = 16 << 20;
/// How long a client may read nothing while something waits for it.
const STUCK: Duration = Duration::from_secs(5);

/// A publication, encoded for all members.
#[derive(Debug)]
pub(super) struct Framed {
    pub(super) frame: Bytes,
    /// Its position, and the same without one: for members that begin at a later position of
    /// another replica.
    pub(super) held: Option<(u64, Bytes)>,
}

impl Framed {
    /// The frame for a member that is at least at position `held`.
    pub(super) fn of(&self, held: u64) -> &Bytes {
        match &self.held {
            Some((offset, bare)) if *offset <= held => bare,
            _ => &self.frame,
        }
    }
}

/// How far a member is.
#[derive(Debug)]
pub(super) struct Reader {
    /// The first publication that it has not received.
    next: u64,
    /// When it last took something while more waited.
    waits_since: Option<Instant>,
}

#[derive(Debug, Default)]
pub(super) struct Backlog {
    /// The number of the first publication.
    first: u64,
    /// With the time since which they wait.
    frames: VecDeque<(Instant, Framed)>,
    bytes: usize,
}

impl Backlog {
    /// A member that gets what comes from now on.
    pub(super) fn reader(&self) -> Reader {
        Reader {
            next: self.end(),
            waits_since: None,
        }
    }

    fn end(&self) -> u64 {
        self.first + self.frames.len() as u64
    }

    pub(super) fn push(&mut self, framed: Framed) {
        self.bytes += framed.frame.len();
        self.frames.push_back((Instant::now(), framed));
    }

    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Gives a member what it has room for. Returns the number of frames and bytes; ends its
    /// queue if it does not read.
    pub(super) fn give(&self, reader: &mut Reader, held: u64, outbox: &Outbox) -> (usize, usize) {
        let (mut sent, mut bytes) = (0, 0);
        if reader.next < self.first {
            outbox.close(Close::Slow);
            return (0, 0);
        }
        let waiting = self.frames.range((reader.next - self.first) as usize..);
        for (_, framed) in waiting {
            let frame = framed.of(held);
            if !outbox.offer(frame) {
                break;
            }
            (sent, bytes) = (sent + 1, bytes + frame.len());
        }
        reader.next += sent as u64;
        let now = Instant::now();
        if !self.waits(reader) {
            reader.waits_since = None;
        } else if sent > 0 {
            reader.waits_since = Some(now);
        } else if now - *reader.waits_since.get_or_insert(now) >= STUCK {
            outbox.close(Close::Slow);
        }
        (sent, bytes)
    }

    /// Whether something waits for a member.
    pub(super) fn waits(&self, reader: &Reader) -> bool {
        reader.next < self.end()
    }

    /// Drops what all have received, and the oldest ones if more than `most` bytes wait, or more
    /// than [`MOST`] for too long: a member that is as far behind is disconnected.
    pub(super) fn trim<'r>(&mut self, readers: impl Iterator<Item = &'r Reader>, most: usize) {
        let least = readers.map(|reader| reader.next).min();
        let least = least.unwrap_or(self.end());
        let now = Instant::now();
        while let Some((since, framed)) = self.frames.front() {
            let is_late = self.bytes > MOST && now - *since >= STUCK;
            if self.first >= least && self.bytes <= most && !is_late {
                break;
            }
            self.bytes -= framed.frame.len();
            self.frames.pop_front();
            self.first += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::outbox;
    use super::*;

    fn framed(bytes: usize) -> Framed {
        Framed {
            frame: vec![b'x'; bytes].into(),
            held: None,
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_slow_client_is_disconnected_and_the_others_get_everything() {
        let mut backlog = Backlog::default();
        let (reads, mut frames) = outbox(1_000);
        let (stuck, mut unread) = outbox(1_000);
        let (mut reader, mut other) = (backlog.reader(), backlog.reader());
        for _ in 0..100 {
            backlog.push(framed(100));
        }
        let mut got = 0;
        while got < 100 {
            backlog.give(&mut reader, 0, &reads);
            backlog.give(&mut other, 0, &stuck);
            backlog.trim([&reader, &other].into_iter(), MOST);
            got += frames.take().await.unwrap().len();
            assert!(!stuck.is_over());
        }
        assert!(!backlog.waits(&reader) && backlog.waits(&other));
        assert_eq!(backlog.frames.len(), 90);
        tokio::time::advance(STUCK).await;
        backlog.give(&mut other, 0, &stuck);
        assert_eq!(unread.take().await.unwrap().len(), 10);
        assert_eq!(unread.take().await, Err(Close::Slow));
        assert!(!reads.is_over());
    }

    #[tokio::test(start_paused = true)]
    async fn a_burst_is_kept_for_clients_that_read_it_in_time() {
        const COUNT: usize = 3 * MOST / 1_000;
        let mut backlog = Backlog::default();
        let (reads, mut frames) = outbox(1_000);
        let (slow, mut late) = outbox(1_000);
        let (mut reader, mut other) = (backlog.reader(), backlog.reader());
        for _ in 0..COUNT {
            backlog.push(framed(1_000));
        }
        for _ in 0..COUNT {
            backlog.give(&mut reader, 0, &reads);
            backlog.trim([&reader, &other].into_iter(), BURST);
            assert_eq!(frames.take().await.unwrap().len(), 1);
        }
        assert!(!backlog.waits(&reader) && !reads.is_over());
        // This one reads, but not enough of it.
        for _ in 0..5 {
            tokio::time::advance(STUCK / 5).await;
            backlog.give(&mut other, 0, &slow);
            assert_eq!(late.take().await.unwrap().len(), 1);
        }
        backlog.trim([&reader, &other].into_iter(), BURST);
        assert!(backlog.bytes() <= MOST);
        backlog.give(&mut other, 0, &slow);
        assert!(slow.is_over());
    }

    #[test]
    fn no_more_is_kept_than_is_allowed() {
        for most in [MOST, BURST] {
            let mut backlog = Backlog::default();
            let (outbox, _frames) = outbox(1_000);
            let mut reader = backlog.reader();
            for _ in 0..=most / 1_000 {
                backlog.give(&mut reader, 0, &outbox);
                assert!(!outbox.is_over());
                backlog.push(framed(1_000));
                backlog.trim([&reader].into_iter(), most);
            }
            assert!(backlog.bytes() <= most);
            backlog.push(framed(most));
            backlog.trim([&reader].into_iter(), most);
            backlog.give(&mut reader, 0, &outbox);
            assert!(outbox.is_over());
        }
    }

    #[test]
    fn a_member_from_a_replica_that_was_ahead_gets_no_lower_position() {
        let framed = Framed {
            frame: "with 7".into(),
            held: Some((7, "without".into())),
        };
        assert_eq!(
            [6, 7, 8].map(|held| &framed.of(held)[..]),
            [&b"with 7"[..], b"without", b"without"]
        );
    }
}
