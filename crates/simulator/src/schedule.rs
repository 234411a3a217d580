//! Who is due when.
//!
//! Open loop: due times follow from the start and the interval alone, never
//! from when the message before was sent, so a slow sink shows as lateness and
//! not as a slower fleet. All devices share one interval and their phases are
//! spread evenly over it, so the order of due times is a fixed round and the
//! next one due costs no search.

use std::time::Duration;

use tokio::time::Instant;

/// The due times of some devices of a fleet.
#[derive(Debug)]
pub(crate) struct Schedule {
    start: Instant,
    interval: Duration,
    /// Place of each device in the fleet's round, ascending.
    positions: Vec<u32>,
    /// Devices in the whole fleet.
    fleet: u32,
    round: u64,
    next: usize,
}

impl Schedule {
    /// A schedule that begins at `start`. `positions` are places in a round of
    /// `fleet` devices, ascending.
    pub(crate) fn new(start: Instant, interval: Duration, positions: Vec<u32>, fleet: u32) -> Self {
        debug_assert!(positions.is_sorted());
        Self {
            start,
            interval,
            positions,
            fleet: fleet.max(1),
            round: 0,
            next: 0,
        }
    }

    /// The next device (its index in `positions`) and when it is due.
    pub(crate) fn peek(&self) -> Option<(usize, Instant)> {
        let position = *self.positions.get(self.next)?;
        Some((self.next, self.due(self.round, position)))
    }

    /// Goes on to the one after.
    pub(crate) fn advance(&mut self) {
        self.next += 1;
        if self.next >= self.positions.len() {
            self.next = 0;
            self.round += 1;
        }
    }

    /// Changes the interval without a gap or a burst: the next device is due
    /// when it was, or a new interval from now if that is sooner.
    pub(crate) fn retime(&mut self, interval: Duration, now: Instant) {
        let Some((index, due)) = self.peek() else {
            return;
        };
        let due = due.min(now + interval);
        self.interval = interval;
        self.round = 0;
        let phase = self.phase(self.positions[index]);
        self.start = due.checked_sub(phase).unwrap_or(due);
    }

    fn due(&self, round: u64, position: u32) -> Instant {
        let rounds = self.interval.as_nanos().saturating_mul(u128::from(round));
        self.start + nanos(rounds) + self.phase(position)
    }

    fn phase(&self, position: u32) -> Duration {
        nanos(self.interval.as_nanos() * u128::from(position) / u128::from(self.fleet))
    }
}

fn nanos(nanos: u128) -> Duration {
    Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
}

/// How many messages of `total` fall to the device at `position` in the round
/// of `fleet` devices, when they take turns.
pub(crate) fn quota(total: u64, position: u32, fleet: u32) -> u64 {
    let fleet = u64::from(fleet.max(1));
    total / fleet + u64::from(u64::from(position) < total % fleet)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn drain(schedule: &mut Schedule, count: usize) -> Vec<(usize, Duration)> {
        let start = schedule.start;
        (0..count)
            .map(|_| {
                let (index, due) = schedule.peek().expect("devices");
                schedule.advance();
                (index, due - start)
            })
            .collect()
    }

    #[test]
    fn phases_are_spread_evenly_and_rounds_follow() {
        let mut schedule = Schedule::new(Instant::now(), SECOND, vec![0, 1, 2, 3], 4);
        let due: Vec<u128> = drain(&mut schedule, 6)
            .iter()
            .map(|d| d.1.as_millis())
            .collect();
        assert_eq!(due, [0, 250, 500, 750, 1_000, 1_250]);
    }

    #[test]
    fn parts_of_a_fleet_interleave() {
        let start = Instant::now();
        let mut odd = Schedule::new(start, SECOND, vec![1, 3], 4);
        let due: Vec<u128> = drain(&mut odd, 3).iter().map(|d| d.1.as_millis()).collect();
        assert_eq!(due, [250, 750, 1_250]);
    }

    #[test]
    fn nobody_is_ever_due_in_an_empty_part() {
        let mut schedule = Schedule::new(Instant::now(), SECOND, vec![], 4);
        assert_eq!(schedule.peek(), None);
        schedule.retime(SECOND, Instant::now());
    }

    #[test]
    fn a_new_interval_goes_on_from_the_next_device() {
        let start = Instant::now();
        let mut schedule = Schedule::new(start, 10 * SECOND, vec![0, 1], 2);
        drain(&mut schedule, 1);
        schedule.retime(SECOND, start + 4 * SECOND);
        assert_eq!(schedule.peek(), Some((1, start + 5 * SECOND)));
        schedule.advance();
        assert_eq!(schedule.peek(), Some((0, start + 5 * SECOND + SECOND / 2)));
    }

    #[test]
    fn a_shorter_interval_does_not_wait_for_the_old_one() {
        let start = Instant::now();
        let mut schedule = Schedule::new(start, 3_600 * SECOND, vec![0], 1);
        drain(&mut schedule, 1);
        schedule.retime(SECOND, start + SECOND);
        assert_eq!(schedule.peek(), Some((0, start + 2 * SECOND)));
    }

    proptest! {
        #[test]
        fn due_times_never_go_back(
            fleet in 1_u32..50, interval in 1_u64..100_000, take in 1_usize..300,
        ) {
            let positions: Vec<u32> = (0..fleet).step_by(3).collect();
            let interval = Duration::from_micros(interval);
            let mut schedule = Schedule::new(Instant::now(), interval, positions, fleet);
            let due = drain(&mut schedule, take);
            prop_assert!(due.is_sorted_by_key(|(_, due)| *due));
        }

        #[test]
        fn quotas_add_up_to_the_total(total in 0_u64..10_000, fleet in 1_u32..200) {
            let quotas: Vec<u64> = (0..fleet).map(|p| quota(total, p, fleet)).collect();
            prop_assert_eq!(quotas.iter().sum::<u64>(), total);
            prop_assert!(quotas.is_sorted_by(|a, b| a >= b));
            prop_assert!(quotas[0] - quotas[quotas.len() - 1] <= 1);
        }
    }
}
