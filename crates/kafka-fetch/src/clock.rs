//! The wall clock, with the steps that it makes: when somebody sets it, or after the machine was
//! suspended.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// What both clocks may differ by between two readings without a step. Slewing, as NTP does it,
/// changes both clocks alike on Linux.
const TOLERANCE: Duration = Duration::from_millis(20);
/// Both clocks are read again if reading them took longer: the task was interrupted.
const AT_ONCE: Duration = Duration::from_millis(1);
const ATTEMPTS: usize = 5;

/// A time by the wall clock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stamp {
    /// Microseconds since the epoch.
    pub micros: i64,
    /// How often the clock was set before, as far as this fetcher has noticed: only stamps of the
    /// same number can be compared.
    pub steps: u64,
}

/// Reads the wall clock, and compares it with the monotonic one.
#[derive(Debug)]
pub(crate) struct Clock {
    start: Instant,
    known: Mutex<Known>,
}

#[derive(Debug, Default)]
struct Known {
    /// The wall clock when the monotonic clock was started, as of the last reading.
    origin: Option<i64>,
    steps: u64,
}

impl Known {
    /// A reading of the wall clock (microseconds since the epoch), so long after the start.
    fn stamp(&mut self, micros: i64, since: Duration) -> Stamp {
        let origin = micros.saturating_sub(whole_micros(since));
        let tolerance = TOLERANCE.as_micros() as u64;
        if self
            .origin
            .is_some_and(|before| before.abs_diff(origin) > tolerance)
        {
            self.steps += 1;
        }
        self.origin = Some(origin);
        Stamp {
            micros,
            steps: self.steps,
        }
    }
}

impl Default for Clock {
    fn default() -> Self {
        Self {
            start: Instant::now(),
            known: Mutex::default(),
        }
    }
}

impl Clock {
    pub(crate) fn now(&self) -> Stamp {
        // Under the lock, so that readings are compared in their order.
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let (mut micros, mut since) = self.read();
        for _ in 1..ATTEMPTS {
            if self.start.elapsed().saturating_sub(since) <= AT_ONCE {
                break;
            }
            (micros, since) = self.read();
        }
        known.stamp(micros, since)
    }

    fn read(&self) -> (i64, Duration) {
        let since = self.start.elapsed();
        let wall = SystemTime::now().duration_since(UNIX_EPOCH);
        (wall.map_or(0, whole_micros), since)
    }
}

fn whole_micros(time: Duration) -> i64 {
    i64::try_from(time.as_micros()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_in_either_direction_are_counted_and_slewing_is_not() {
        let mut known = Known::default();
        let mut steps = |seconds: f64, micros: i64| {
            let stamp = known.stamp(micros, Duration::from_secs_f64(seconds));
            assert_eq!(stamp.micros, micros);
            stamp.steps
        };
        assert_eq!(steps(0.0, 1_000_000_000), 0);
        assert_eq!(steps(1.0, 1_001_000_000), 0);
        // A clock that is 10 ms a second too fast.
        assert_eq!(steps(2.0, 1_002_010_000), 0);
        assert_eq!(steps(3.0, 1_003_020_000), 0);
        assert_eq!(steps(4.0, 1_003_900_000), 1, "set back by 120 ms");
        assert_eq!(steps(5.0, 1_004_900_000), 1);
        assert_eq!(steps(6.0, 1_965_900_000), 2, "set to 16 minutes later");
    }

    #[test]
    fn the_clock_does_not_step_by_itself() {
        let clock = Clock::default();
        let first = clock.now();
        let last = (0..1_000).map(|_| clock.now()).last();
        let last = last.unwrap_or(first);
        assert_eq!((first.steps, last.steps), (0, 0));
        assert!(last.micros >= first.micros && first.micros > 1_767_225_600_000_000);
    }
}
