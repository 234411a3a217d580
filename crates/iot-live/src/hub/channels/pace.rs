//! How long changes are gathered: longer while many frames are sent, because each costs a system
//! call for each client, whatever it holds.

use std::time::Duration;

use tokio::time::Instant;

/// Up to so many frames a second changes are gathered for the time that is set.
const FRAMES: f64 = 30_000.0;
/// The most times that this is.
const LONGEST: u32 = 5;
/// How often the time is adjusted.
const EVERY: Duration = Duration::from_millis(200);

#[derive(Debug)]
pub(super) struct Pace {
    least: Duration,
    gather: Duration,
    /// Sent since the last adjustment.
    frames: usize,
    since: Instant,
}

impl Pace {
    pub(super) fn new(least: Duration) -> Self {
        Self {
            least,
            gather: least,
            frames: 0,
            since: Instant::now(),
        }
    }

    /// For how long changes are gathered now.
    pub(super) fn gather(&self) -> Duration {
        self.gather
    }

    /// Counts frames for single clients.
    pub(super) fn sent(&mut self, frames: usize) {
        self.frames += frames;
        let elapsed = self.since.elapsed();
        if elapsed < EVERY {
            return;
        }
        let share = self.frames as f64 / elapsed.as_secs_f64() / FRAMES;
        // Half of the way: more changes in a frame do not mean as many frames less.
        let wanted = self.gather.mul_f64(f64::midpoint(1.0, share.min(100.0)));
        self.gather = wanted.clamp(self.least, self.least * LONGEST);
        (self.frames, self.since) = (0, Instant::now());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LEAST: Duration = Duration::from_millis(10);

    /// A second with so many frames.
    async fn second(pace: &mut Pace, frames: usize) {
        for _ in 0..10 {
            tokio::time::advance(EVERY / 2).await;
            pace.sent(frames / 10);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn changes_are_gathered_longer_only_while_many_frames_are_sent() {
        let mut pace = Pace::new(LEAST);
        second(&mut pace, 29_000).await;
        assert_eq!(pace.gather(), LEAST);
        second(&mut pace, 150_000).await;
        assert_eq!(pace.gather(), LEAST * LONGEST);
        second(&mut pace, 30_000).await;
        let same = pace.gather();
        assert!(same > LEAST * (LONGEST - 1), "{same:?}");
        second(&mut pace, 1_000).await;
        assert_eq!(pace.gather(), LEAST);
    }

    #[tokio::test(start_paused = true)]
    async fn without_a_time_nothing_is_gathered() {
        let mut pace = Pace::new(Duration::ZERO);
        second(&mut pace, 1_000_000).await;
        assert_eq!(pace.gather(), Duration::ZERO);
    }
}
