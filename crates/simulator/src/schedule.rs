//! Who is due when.
//!
//! Open loop: due times follow from the interval alone, never from when the
//! message before was sent, so a slow sink shows as lateness and not as a slower
//! fleet. They are in the fleet's own time (`clock`). Devices that share an
//! interval have phases spread evenly over it, so the order of their due times
//! is a fixed round and the next one due costs no search.

use std::time::Duration;

/// When rounds begin.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Rhythm {
    /// When the first one began or would have begun, nanoseconds: before zero
    /// if the interval was made longer early on.
    start: i128,
    interval: Duration,
}

/// The due times of those devices of a fleet that share an interval.
#[derive(Debug)]
pub(crate) struct Schedule {
    rhythm: Rhythm,
    /// Place of each device in the fleet, ascending.
    positions: Vec<u32>,
    /// Devices in the whole fleet.
    fleet: u32,
    round: u64,
    next: usize,
}

impl Schedule {
    /// A schedule that begins at `start`. `positions` are places in a fleet of
    /// `fleet` devices, ascending.
    pub(crate) fn new(
        start: Duration,
        interval: Duration,
        positions: Vec<u32>,
        fleet: u32,
    ) -> Self {
        debug_assert!(positions.is_sorted());
        Self {
            rhythm: Rhythm {
                start: signed(start),
                interval,
            },
            positions,
            fleet: fleet.max(1),
            round: 0,
            next: 0,
        }
    }

    /// The next device (its index in `positions`) and when it is due.
    pub(crate) fn peek(&self) -> Option<(usize, Duration)> {
        let position = *self.positions.get(self.next)?;
        let Rhythm { start, interval } = self.rhythm;
        let rounds = signed(interval).saturating_mul(i128::from(self.round));
        let phase = signed(phase(interval, position, self.fleet));
        let due = start.saturating_add(rounds).saturating_add(phase);
        Some((self.next, nanos(u128::try_from(due).unwrap_or(0))))
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
    pub(crate) fn retime(&mut self, interval: Duration, now: Duration) {
        let Some((index, due)) = self.peek() else {
            return;
        };
        let due = due.min(now + interval);
        let phase = phase(interval, self.positions[index], self.fleet);
        self.round = 0;
        self.rhythm = Rhythm {
            start: signed(due) - signed(phase),
            interval,
        };
    }

    /// When its rounds begin; none if it has no devices, as then nobody keeps that.
    pub(crate) fn rhythm(&self) -> Option<Rhythm> {
        (!self.positions.is_empty()).then_some(self.rhythm)
    }

    /// Goes on in the rhythm of another part of the fleet, with the first device
    /// that is due after `time`.
    pub(crate) fn follow(&mut self, rhythm: Rhythm, time: Duration) {
        let passed = (signed(time) - rhythm.start).max(0);
        let interval = signed(rhythm.interval).max(1);
        let phase = |position: &u32| signed(phase(rhythm.interval, *position, self.fleet));
        let next = self
            .positions
            .partition_point(|position| phase(position) <= passed % interval);
        self.round = u64::try_from(passed / interval).unwrap_or(u64::MAX);
        self.next = next;
        self.rhythm = rhythm;
        if next >= self.positions.len() {
            (self.round, self.next) = (self.round + 1, 0);
        }
    }
}

/// When a device is due first.
fn phase(interval: Duration, position: u32, fleet: u32) -> Duration {
    nanos(interval.as_nanos() * u128::from(position) / u128::from(fleet))
}

fn signed(duration: Duration) -> i128 {
    // As nanoseconds it has 94 bits at most.
    duration.as_nanos() as i128
}

fn nanos(nanos: u128) -> Duration {
    Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
}

/// How many of the fleet's first `total` messages fall to each of its devices,
/// whose intervals are given in the order of their places. Of those that are due
/// at the same moment the first places come first.
pub(crate) fn quotas(total: u64, intervals: &[Duration]) -> Vec<u64> {
    let fleet = u32::try_from(intervals.len()).unwrap_or(u32::MAX);
    let places = || (0..fleet).zip(intervals);
    let due_before = |time: u128| {
        let due = places().map(move |(position, interval)| {
            let phase = phase(*interval, position, fleet).as_nanos();
            let rounds = time
                .saturating_sub(phase)
                .div_ceil(interval.as_nanos().max(1));
            u64::try_from(rounds).unwrap_or(u64::MAX)
        });
        due.collect::<Vec<u64>>()
    };
    let count = |time| {
        due_before(time)
            .iter()
            .fold(0, |sum: u64, due| sum.saturating_add(*due))
    };
    let longest = intervals.iter().map(Duration::as_nanos).max().unwrap_or(1);
    let (mut none, mut all) = (0, longest.saturating_mul(u128::from(total) + 1));
    // The last moment before which there are not more than `total`.
    while all - none > 1 {
        let middle = none + (all - none) / 2;
        match count(middle) <= total {
            true => none = middle,
            false => all = middle,
        }
    }
    let (mut quotas, next) = (due_before(none), due_before(none + 1));
    let mut left = total.saturating_sub(quotas.iter().sum());
    for (quota, next) in quotas.iter_mut().zip(next) {
        let more = (next - *quota).min(left);
        *quota += more;
        left -= more;
    }
    quotas
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn schedule(interval: Duration, positions: Vec<u32>, fleet: u32) -> Schedule {
        Schedule::new(Duration::ZERO, interval, positions, fleet)
    }

    fn drain(schedule: &mut Schedule, count: usize) -> Vec<(usize, Duration)> {
        let mut next = || {
            let due = schedule.peek().expect("devices");
            schedule.advance();
            due
        };
        (0..count).map(|_| next()).collect()
    }

    #[test]
    fn phases_are_spread_evenly_and_rounds_follow() {
        let mut schedule = schedule(SECOND, vec![0, 1, 2, 3], 4);
        let due: Vec<u128> = drain(&mut schedule, 6)
            .iter()
            .map(|d| d.1.as_millis())
            .collect();
        assert_eq!(due, [0, 250, 500, 750, 1_000, 1_250]);
    }

    #[test]
    fn parts_of_a_fleet_interleave() {
        let mut odd = schedule(SECOND, vec![1, 3], 4);
        let due: Vec<u128> = drain(&mut odd, 3).iter().map(|d| d.1.as_millis()).collect();
        assert_eq!(due, [250, 750, 1_250]);
    }

    #[test]
    fn nobody_is_ever_due_in_an_empty_part() {
        let mut schedule = schedule(SECOND, vec![], 4);
        assert_eq!(schedule.peek(), None);
        schedule.retime(SECOND, SECOND);
    }

    #[test]
    fn a_new_interval_goes_on_from_the_next_device() {
        let mut schedule = schedule(10 * SECOND, vec![0, 1], 2);
        drain(&mut schedule, 1);
        schedule.retime(SECOND, 4 * SECOND);
        assert_eq!(schedule.peek(), Some((1, 5 * SECOND)));
        schedule.advance();
        assert_eq!(schedule.peek(), Some((0, 5 * SECOND + SECOND / 2)));
    }

    #[test]
    fn a_shorter_interval_does_not_wait_for_the_old_one() {
        let mut schedule = schedule(3_600 * SECOND, vec![0], 1);
        drain(&mut schedule, 1);
        schedule.retime(SECOND, SECOND);
        assert_eq!(schedule.peek(), Some((0, 2 * SECOND)));
    }

    #[test]
    fn a_longer_interval_makes_no_gap_before_the_next_device() {
        let mut schedule = schedule(5 * SECOND, (0..100).collect(), 100);
        drain(&mut schedule, 1_250);
        schedule.retime(3_600 * SECOND, 62 * SECOND);
        assert_eq!(schedule.peek(), Some((50, 62 * SECOND + SECOND / 2)));
        schedule.advance();
        assert_eq!(schedule.peek(), Some((51, 98 * SECOND + SECOND / 2)));
    }

    #[test]
    fn parts_that_are_shared_out_anew_go_on_where_they_were() {
        let (mut all, mut part) = (
            schedule(SECOND, vec![0, 1, 2, 3], 4),
            schedule(SECOND, vec![2], 4),
        );
        assert_eq!(schedule(SECOND, vec![], 4).rhythm(), None);
        all.retime(2 * SECOND, Duration::ZERO);
        let rhythm = all.rhythm().unwrap();
        for (time, next) in [(0.0, 1.0), (0.9, 1.0), (1.0, 3.0), (1.9, 3.0), (3.0, 5.0)] {
            part.follow(rhythm, Duration::from_secs_f64(time));
            assert_eq!(
                part.peek(),
                Some((0, Duration::from_secs_f64(next))),
                "{time}"
            );
        }
    }

    #[test]
    fn a_device_with_half_the_interval_has_twice_the_quota() {
        assert_eq!(quotas(30, &[SECOND, SECOND / 2]), [10, 20]);
        assert_eq!(quotas(6, &[SECOND; 4]), [2, 2, 1, 1]);
        assert_eq!(quotas(0, &[SECOND; 2]), [0, 0]);
    }

    proptest! {
        #[test]
        fn due_times_never_go_back(
            fleet in 1_u32..50, interval in 1_u64..100_000, take in 1_usize..300,
        ) {
            let positions: Vec<u32> = (0..fleet).step_by(3).collect();
            let mut schedule = schedule(Duration::from_micros(interval), positions, fleet);
            let due = drain(&mut schedule, take);
            prop_assert!(due.is_sorted_by_key(|(_, due)| *due));
        }

        /// The same as going through all of them in order.
        #[test]
        fn quotas_are_what_is_due_first(
            total in 0_usize..300, millis in proptest::collection::vec(100_u64..5_000, 1..20),
        ) {
            let intervals: Vec<_> = millis.into_iter().map(Duration::from_millis).collect();
            let fleet = intervals.len() as u32;
            let mut due: Vec<(Duration, u32)> = Vec::new();
            for (position, interval) in (0..fleet).zip(&intervals) {
                let mut one = schedule(*interval, vec![position], fleet);
                due.extend(drain(&mut one, total).iter().map(|(_, due)| (*due, position)));
            }
            due.sort_unstable();
            let mut expected = vec![0; intervals.len()];
            due[..total].iter().for_each(|(_, position)| expected[*position as usize] += 1);
            prop_assert_eq!(quotas(total as u64, &intervals), expected);
        }
    }
}
