//! Schedules: which device is due when.
//!
//! Open loop: due times depend on the interval alone, never on when the previous
//! message was sent, so a slow sink causes lateness and not a slower fleet. They
//! are in fleet time (`clock`). Devices with the same interval have evenly spread
//! phases, so the order of their due times is a fixed round and finding the next
//! one needs no search.

use std::time::Duration;

/// The due times of devices that share an interval.
#[derive(Debug)]
pub(crate) struct Schedule {
    /// Start of the first round in nanoseconds. It is negative if the interval was made
    /// longer early on.
    start: i128,
    interval: Duration,
    /// The phase of each device within a round, ascending.
    phases: Vec<Phase>,
    round: u64,
    next: usize,
}

/// A fraction of an interval, in units of 2^-32.
type Phase = u32;

impl Schedule {
    /// A schedule that starts at `start`. `positions` are ascending positions in a fleet
    /// of `fleet` devices.
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

    /// A schedule for devices whose next due times are given. It also returns their order
    /// (indexes into `due`), each with the number of turns to skip, which is above 0 for
    /// a device due an interval or more after the first one.
    pub(crate) fn resume(interval: Duration, due: &[Duration]) -> (Self, Vec<(usize, u64)>) {
        let start = due.iter().min().copied().unwrap_or_default();
        let nanos = interval.as_nanos().max(1);
        let mut order: Vec<(Phase, usize, u64)> = Vec::with_capacity(due.len());
        for (index, due) in due.iter().enumerate() {
            let ahead = (*due - start).as_nanos();
            // Rounded up, so that `at` returns this time, or one later by at most interval / 2^32.
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

    /// Index and due time of the next device.
    pub(crate) fn peek(&self) -> Option<(usize, Duration)> {
        (self.next < self.phases.len()).then(|| (self.next, self.due(self.next)))
    }

    /// Next due time of a device.
    pub(crate) fn due(&self, index: usize) -> Duration {
        let round = self.round + u64::from(index < self.next);
        let rounds = signed(self.interval).saturating_mul(i128::from(round));
        let phase = signed(at(self.interval, self.phases[index]));
        let due = self.start.saturating_add(rounds).saturating_add(phase);
        nanos(u128::try_from(due).unwrap_or(0))
    }

    /// Number of turns of a device from its next due time until `time`, inclusive.
    pub(crate) fn turns_until(&self, index: usize, time: Duration) -> u64 {
        let due = self.due(index);
        if due > time {
            return 0;
        }
        let rounds = (time - due).as_nanos() / self.interval.as_nanos().max(1);
        u64::try_from(rounds).unwrap_or(u64::MAX).saturating_add(1)
    }

    /// Advances to the following device.
    pub(crate) fn advance(&mut self) {
        self.next += 1;
        if self.next >= self.phases.len() {
            self.next = 0;
            self.round += 1;
        }
    }

    /// Advances past all turns until `time`, inclusive.
    pub(crate) fn skip_until(&mut self, time: Duration) {
        if let Some((index, _)) = self.peek() {
            // Whole rounds at once: there can be very many.
            let rounds = self.turns_until(index, time).saturating_sub(1);
            self.round = self.round.saturating_add(rounds);
        }
        while self.peek().is_some_and(|(_, due)| due <= time) {
            self.advance();
        }
    }

    /// Changes the interval without a gap or a burst: the next device is due at its old
    /// time, or after one new interval if that is sooner.
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

/// The phase of a position; phases are spread evenly.
fn spread(position: u32, fleet: u32) -> Phase {
    let part = (u64::from(position) << 32) / u64::from(fleet.max(1));
    Phase::try_from(part).unwrap_or(Phase::MAX)
}

/// The time of a phase within an interval.
fn at(interval: Duration, phase: Phase) -> Duration {
    nanos((interval.as_nanos() * u128::from(phase)) >> 32)
}

fn signed(duration: Duration) -> i128 {
    // A Duration has at most 94 bits of nanoseconds.
    duration.as_nanos() as i128
}

fn nanos(nanos: u128) -> Duration {
    Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
}

/// The number of messages of each device among the fleet's first `total` messages.
/// `intervals` are in the order of positions; devices due at the same time send in this
/// order.
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
    let (mut low, mut high) = (0, longest.saturating_mul(u128::from(total) + 1));
    // Find the latest time before which at most `total` messages are due.
    while high - low > 1 {
        let middle = low + (high - low) / 2;
        if count(middle) <= total {
            low = middle;
        } else {
            high = middle;
        }
    }
    let (mut quotas, next) = (due_before(low), due_before(low + 1));
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
    fn phases_are_spread_evenly_in_every_round() {
        let mut schedule = schedule(SECOND, vec![0, 1, 2, 3], 4);
        let due: Vec<u128> = drain(&mut schedule, 6)
            .iter()
            .map(|d| d.1.as_millis())
            .collect();
        assert_eq!(due, [0, 250, 500, 750, 1_000, 1_250]);
    }

    #[test]
    fn a_part_of_a_fleet_keeps_its_phases() {
        let mut odd = schedule(SECOND, vec![1, 3], 4);
        let due: Vec<u128> = drain(&mut odd, 3).iter().map(|d| d.1.as_millis()).collect();
        assert_eq!(due, [250, 750, 1_250]);
    }

    #[test]
    fn turns_until_a_time_are_counted() {
        let mut schedule = schedule(SECOND, vec![0, 1], 2);
        let turns = |schedule: &Schedule, millis| {
            [0, 1].map(|index| schedule.turns_until(index, Duration::from_millis(millis)))
        };
        assert_eq!(turns(&schedule, 0), [1, 0]);
        assert_eq!(turns(&schedule, 2_500), [3, 3]);
        drain(&mut schedule, 3);
        assert_eq!(turns(&schedule, 2_499), [1, 1]);
    }

    #[test]
    fn turns_until_a_time_are_skipped() {
        let mut schedule = schedule(SECOND, vec![0, 1, 2, 3], 4);
        drain(&mut schedule, 3);
        schedule.skip_until(Duration::from_millis(1_000_250));
        assert_eq!(schedule.peek(), Some((2, Duration::from_millis(1_000_500))));
        schedule.skip_until(SECOND);
        assert_eq!(schedule.peek(), Some((2, Duration::from_millis(1_000_500))));
    }

    #[test]
    fn an_empty_schedule_has_no_due_times() {
        let mut schedule = schedule(SECOND, vec![], 4);
        assert_eq!(schedule.peek(), None);
        schedule.retime(SECOND, SECOND);
    }

    #[test]
    fn a_new_interval_continues_with_the_next_device() {
        let mut schedule = schedule(10 * SECOND, vec![0, 1], 2);
        drain(&mut schedule, 1);
        schedule.retime(SECOND, 4 * SECOND);
        assert_eq!(schedule.peek(), Some((1, 5 * SECOND)));
        schedule.advance();
        assert_eq!(schedule.peek(), Some((0, 5 * SECOND + SECOND / 2)));
    }

    #[test]
    fn a_shorter_interval_takes_effect_at_once() {
        let mut schedule = schedule(3_600 * SECOND, vec![0], 1);
        drain(&mut schedule, 1);
        schedule.retime(SECOND, SECOND);
        assert_eq!(schedule.peek(), Some((0, 2 * SECOND)));
    }

    #[test]
    fn a_longer_interval_leaves_no_gap_before_the_next_device() {
        let mut schedule = schedule(5 * SECOND, (0..100).collect(), 100);
        drain(&mut schedule, 1_250);
        schedule.retime(3_600 * SECOND, 62 * SECOND);
        assert_eq!(schedule.peek(), Some((50, 62 * SECOND + SECOND / 2)));
        schedule.advance();
        let (next, due) = schedule.peek().unwrap();
        assert_eq!((next, (10.0 * due.as_secs_f64()).round()), (51, 985.0));
    }

    #[test]
    fn merged_schedules_keep_their_due_times() {
        let (mut all, late) = (
            schedule(SECOND, vec![0, 1, 2], 4),
            schedule(SECOND, vec![3], 4),
        );
        drain(&mut all, 7);
        let due = [all.due(0), all.due(1), all.due(2), late.due(0)];
        assert_eq!(due.map(|due| due.as_millis()), [3_000, 2_250, 2_500, 750]);
        let (mut together, order) = Schedule::resume(SECOND, &due);
        // The device that is behind catches up first.
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
    fn quotas_are_proportional_to_the_rate() {
        assert_eq!(quotas(30, &[SECOND, SECOND / 2]), [10, 20]);
        assert_eq!(quotas(6, &[SECOND; 4]), [2, 2, 1, 1]);
        assert_eq!(quotas(0, &[SECOND; 2]), [0, 0]);
    }

    proptest! {
        #[test]
        fn due_times_are_ascending(
            fleet in 1_u32..50, interval in 1_u64..100_000, take in 1_usize..300,
        ) {
            let positions: Vec<u32> = (0..fleet).step_by(3).collect();
            let mut schedule = schedule(Duration::from_micros(interval), positions, fleet);
            let due = drain(&mut schedule, take);
            prop_assert!(due.is_sorted_by_key(|(_, due)| *due));
        }

        /// Compares with sorting all due times.
        #[test]
        fn quotas_count_the_first_messages(
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
