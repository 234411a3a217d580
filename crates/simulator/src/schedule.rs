//! Who is due when.
//!
//! Open loop: due times follow from the interval alone, never from when the
//! message before was sent, so a slow sink shows as lateness and not as a slower
//! fleet. They are in the fleet's own time (`clock`). Devices that share an
//! interval have phases spread evenly over it, so the order of their due times
//! is a fixed round and the next one due costs no search.

use std::time::Duration;

/// The due times of those devices of a fleet that share an interval.
#[derive(Debug)]
pub(crate) struct Schedule {
    /// When its first round began or would have begun, nanoseconds: before zero
    /// if the interval was made longer early on.
    start: i128,
    interval: Duration,
    /// When in a round each device is due, ascending.
    phases: Vec<Phase>,
    round: u64,
    next: usize,
}

/// A part of an interval, in units of 2^-32.
type Phase = u32;

impl Schedule {
    /// A schedule that begins at `start`. `positions` are places in a fleet of
    /// `fleet` devices, ascending.
    pub(crate) fn new(start: Duration, interval: Duration, positions: &[u32], fleet: u32) -> Self {
        debug_assert!(positions.is_sorted());
        let phases = positions.iter().map(|position| spread(*position, fleet));
        Self {
            start: signed(start),
            interval,
            phases: phases.collect(),
            round: 0,
            next: 0,
        }
    }

    /// A schedule for devices that are due at these times next, whose order it
    /// also returns. Of one that is due later than an interval after the first, it
    /// says how many turns it has to leave out.
    pub(crate) fn resume(interval: Duration, due: &[Duration]) -> (Self, Vec<(usize, u64)>) {
        let start = due.iter().min().copied().unwrap_or_default();
        let nanos = interval.as_nanos().max(1);
        let mut order: Vec<(Phase, usize, u64)> = Vec::with_capacity(due.len());
        for (index, due) in due.iter().enumerate() {
            let ahead = (*due - start).as_nanos();
            // Rounded up, so that the time comes out the same again.
            let part = ((ahead % nanos) << 32).div_ceil(nanos);
            let phase = Phase::try_from(part).unwrap_or(Phase::MAX);
            order.push((
                phase,
                index,
                u64::try_from(ahead / nanos).unwrap_or(u64::MAX),
            ));
        }
        order.sort_unstable();
        let schedule = Self {
            start: signed(start),
            interval,
            phases: order.iter().map(|(phase, ..)| *phase).collect(),
            round: 0,
            next: 0,
        };
        let order = order.into_iter().map(|(_, index, skip)| (index, skip));
        (schedule, order.collect())
    }

    /// The next device (its index) and when it is due.
    pub(crate) fn peek(&self) -> Option<(usize, Duration)> {
        (self.next < self.phases.len()).then(|| (self.next, self.due(self.next)))
    }

    /// When a device is due next.
    pub(crate) fn due(&self, index: usize) -> Duration {
        let round = self.round + u64::from(index < self.next);
        let rounds = signed(self.interval).saturating_mul(i128::from(round));
        let phase = signed(at(self.interval, self.phases[index]));
        let due = self.start.saturating_add(rounds).saturating_add(phase);
        nanos(u128::try_from(due).unwrap_or(0))
    }

    /// Goes on to the one after.
    pub(crate) fn advance(&mut self) {
        self.next += 1;
        if self.next >= self.phases.len() {
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
        self.interval = interval;
        self.round = 0;
        self.start = signed(due) - signed(at(interval, self.phases[index]));
    }

    /// The time from one turn of a device to the next.
    pub(crate) fn interval(&self) -> Duration {
        self.interval
    }
}

/// The phase of a place: they are spread evenly.
fn spread(position: u32, fleet: u32) -> Phase {
    let part = (u64::from(position) << 32) / u64::from(fleet.max(1));
    Phase::try_from(part).unwrap_or(Phase::MAX)
}

/// When in an interval that is.
fn at(interval: Duration, phase: Phase) -> Duration {
    nanos((interval.as_nanos() * u128::from(phase)) >> 32)
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
            let phase = at(*interval, spread(position, fleet)).as_nanos();
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
        Schedule::new(Duration::ZERO, interval, &positions, fleet)
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
        let (next, due) = schedule.peek().unwrap();
        assert_eq!((next, (10.0 * due.as_secs_f64()).round()), (51, 985.0));
    }

    #[test]
    fn devices_that_come_together_keep_their_turns() {
        let (mut all, late) = (
            schedule(SECOND, vec![0, 1, 2], 4),
            schedule(SECOND, vec![3], 4),
        );
        drain(&mut all, 7);
        let due = [all.due(0), all.due(1), all.due(2), late.due(0)];
        assert_eq!(due.map(|due| due.as_millis()), [3_000, 2_250, 2_500, 750]);
        let (mut together, order) = Schedule::resume(SECOND, &due);
        // The one that is behind catches up first.
        assert_eq!(order, [(3, 0), (0, 2), (1, 1), (2, 1)]);
        let due: Vec<u128> = drain(&mut together, 5)
            .iter()
            .map(|d| d.1.as_millis())
            .collect();
        assert_eq!(due, [750, 1_000, 1_250, 1_500, 1_750]);
        let (nobody, order) = Schedule::resume(SECOND, &[]);
        assert_eq!((nobody.peek(), order), (None, Vec::new()));
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
