//! Fleet time: the clock by which devices are due.
//!
//! Schedules assume the full load. The shape of the load determines how fast fleet
//! time passes: at half the speed there is half the load, and in a pause it stops.
//! So a shape needs no schedule of its own, and no device misses a turn.

use std::collections::VecDeque;
use std::f64::consts::TAU;
use std::time::Duration;

use tokio::time::Instant;

use crate::config::{LoadConfig, Shape};

/// Number of changes across which [`Clock::when`] converts exactly: more than are made while a
/// worker is late.
const PAST: usize = 16;

/// The clock of fleet time.
#[derive(Debug, Clone)]
pub(crate) struct Clock {
    current: Segment,
    /// The segments before the current one, oldest first, without pauses: a worker that is late
    /// still creates messages that were due in them.
    past: VecDeque<Segment>,
}

/// The time between two changes, in which fleet time follows one load and speed.
#[derive(Debug, Clone)]
struct Segment {
    load: LoadConfig,
    /// Seconds of fleet time per second at full load.
    speed: f64,
    paused: bool,
    /// When `time` and `age` were last updated.
    since: Instant,
    /// Fleet time at `since`.
    time: Duration,
    /// How long the shape had lasted at `since`, in seconds.
    age: f64,
}

impl Clock {
    /// A clock whose fleet time is zero at `now`.
    pub(crate) fn new(load: LoadConfig, speed: f64, paused: bool, now: Instant) -> Self {
        Self {
            current: Segment {
                load,
                speed,
                paused,
                since: now,
                time: Duration::ZERO,
                age: 0.0,
            },
            past: VecDeque::new(),
        }
    }

    /// Fleet time at `now`, which must not be before the latest change.
    pub(crate) fn at(&self, now: Instant) -> Duration {
        self.current.at(now)
    }

    /// When fleet time reaches `time`, or did before a change; `None` if it never does. Time
    /// spent in pauses is left out.
    pub(crate) fn when(&self, time: Duration) -> Option<Instant> {
        self.segment(time).when(time)
    }

    /// Changes load, speed or pause from `now` on. A new shape starts from its beginning.
    pub(crate) fn change(&mut self, load: &LoadConfig, speed: f64, paused: bool, now: Instant) {
        let current = &mut self.current;
        if current.load == *load && current.speed == speed && current.paused == paused {
            return;
        }
        let before = current.clone();
        current.time = before.at(now);
        let passed = now.saturating_duration_since(before.since);
        if before.paused {
            // Otherwise the pause would count as lateness of the messages due before it.
            self.past.iter_mut().for_each(|past| past.since += passed);
        } else {
            current.age += passed.as_secs_f64();
            self.past.push_back(before);
        }
        if self.past.len() > PAST {
            self.past.pop_front();
        }
        current.since = now;
        (current.speed, current.paused) = (speed, paused);
        if current.load != *load {
            current.load = load.clone();
            current.age = 0.0;
        }
    }

    /// The segment in which fleet time reaches `time`.
    fn segment(&self, time: Duration) -> &Segment {
        if time >= self.current.time {
            return &self.current;
        }
        let mut past = self.past.iter();
        let found = past.rfind(|past| past.time <= time);
        found.or(self.past.front()).unwrap_or(&self.current)
    }

    /// End of the segment in which fleet time reaches `time`; `None` if it has not ended.
    fn end(&self, time: Duration) -> Option<Duration> {
        let times = self.past.iter().skip(1).map(|past| past.time);
        times.chain([self.current.time]).find(|end| *end > time)
    }
}

impl Segment {
    /// Fleet time at `now`.
    fn at(&self, now: Instant) -> Duration {
        let passed = now.saturating_duration_since(self.since);
        if self.paused {
            self.time
        } else if self.is_plain() {
            self.time + passed
        } else {
            self.time + seconds(self.passed(passed.as_secs_f64()))
        }
    }

    /// When fleet time reaches `time`; `None` if it never does.
    fn when(&self, time: Duration) -> Option<Instant> {
        let ahead = time.saturating_sub(self.time);
        if self.paused {
            return None;
        }
        if self.is_plain() {
            return Some(self.since + ahead);
        }
        let wanted = ahead.as_secs_f64();
        let mut above = 1e-3;
        while self.passed(above) < wanted {
            above *= 2.0;
            if above > 1e9 {
                return None;
            }
        }
        let mut below = 0.0;
        // Each step halves the error: after 60 it is below a nanosecond.
        for _ in 0..60 {
            let middle = f64::midpoint(below, above);
            if self.passed(middle) < wanted {
                below = middle;
            } else {
                above = middle;
            }
        }
        Some(self.since + seconds(above))
    }

    /// Whether fleet time passes like real time.
    fn is_plain(&self) -> bool {
        self.load.shape == Shape::Constant && self.speed == 1.0
    }

    /// Seconds of fleet time that pass within `seconds` after `since`.
    fn passed(&self, seconds: f64) -> f64 {
        let until = area(&self.load, self.age + seconds);
        self.speed * (until - area(&self.load, self.age))
    }
}

/// Converts fleet time to real time by linear interpolation between one time and now, or the
/// next change. This is exact enough for the milliseconds of a turn, and cheaper than
/// [`Clock::when`].
#[derive(Debug, Clone, Copy)]
pub(crate) struct Interpolation {
    time: Duration,
    at: Instant,
    /// Seconds per second of fleet time.
    slope: f64,
    /// Fleet time of the next change, if there was one.
    end: Option<Duration>,
}

impl Interpolation {
    pub(crate) fn new(clock: &Clock, time: Duration, now: Instant) -> Self {
        let at = clock.when(time).unwrap_or(now);
        let end = clock.end(time);
        let (until, then) = match end.and_then(|end| Some((end, clock.when(end)?))) {
            Some(end) => end,
            None => (clock.at(now), now),
        };
        let passed = until.saturating_sub(time).as_secs_f64();
        let took = then.saturating_duration_since(at).as_secs_f64();
        Self {
            time,
            at,
            slope: if passed > 0.0 { took / passed } else { 0.0 },
            end,
        }
    }

    /// Whether it is valid for fleet time `time`, which must not be before the first.
    pub(crate) fn covers(&self, time: Duration) -> bool {
        self.end.is_none_or(|end| time < end)
    }

    /// When fleet time was `time`, which must not be before the first.
    pub(crate) fn when(&self, time: Duration) -> Instant {
        let ahead = time.saturating_sub(self.time).as_secs_f64();
        self.at + seconds(ahead * self.slope)
    }
}

/// The area under the shape over its first `seconds`, in seconds of full load.
fn area(load: &LoadConfig, seconds: f64) -> f64 {
    let (least, rest) = (load.least, 1.0 - load.least);
    let period = load.period.as_secs_f64();
    let above_least = match load.shape {
        Shape::Constant => return seconds,
        Shape::Ramp => {
            let ramp = seconds.min(period);
            ramp * ramp / (2.0 * period) + (seconds - ramp)
        }
        Shape::Step => {
            let steps = f64::from(load.steps);
            let length = period / steps;
            let done = (seconds / length).floor().min(steps);
            length * done * (done - 1.0) / 2.0 / steps + (seconds - done * length) * done / steps
        }
        Shape::Sine => seconds / 2.0 - (TAU * seconds / period).sin() * period / (2.0 * TAU),
        Shape::Burst => {
            let burst = load.burst.as_secs_f64();
            let bursts = (seconds / period).floor();
            bursts * burst + (seconds - bursts * period).min(burst)
        }
    };
    least * seconds + rest * above_least
}

fn seconds(seconds: f64) -> Duration {
    Duration::try_from_secs_f64(seconds.max(0.0)).unwrap_or(Duration::MAX)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn load(shape: Shape, least: f64) -> LoadConfig {
        LoadConfig {
            shape,
            least,
            period: "10s".parse().unwrap(),
            steps: 4,
            burst: "2s".parse().unwrap(),
        }
    }

    /// The share of the full load in each of the first `count` seconds.
    fn shares(shape: Shape, least: f64, count: u32) -> Vec<f64> {
        let load = load(shape, least);
        let share = |second| area(&load, f64::from(second + 1)) - area(&load, f64::from(second));
        (0..count)
            .map(|second| (share(second) * 1e3).round() / 1e3)
            .collect()
    }

    #[test]
    fn shapes_have_their_share_of_the_load() {
        assert_eq!(shares(Shape::Constant, 0.1, 2), [1.0, 1.0]);
        assert_eq!(shares(Shape::Ramp, 0.0, 12)[..3], [0.05, 0.15, 0.25]);
        assert_eq!(shares(Shape::Ramp, 0.5, 12)[9..], [0.975, 1.0, 1.0]);
        let steps = shares(Shape::Step, 0.2, 12);
        assert_eq!(
            steps,
            [0.2, 0.2, 0.3, 0.4, 0.4, 0.6, 0.6, 0.7, 0.8, 0.8, 1.0, 1.0]
        );
        let sine = shares(Shape::Sine, 0.0, 20);
        assert_eq!((sine[0], sine[4], sine[9]), (sine[10], sine[14], sine[19]));
        assert!(sine[0] < 0.05 && sine[4] > 0.95, "{sine:?}");
        assert_eq!(shares(Shape::Burst, 0.1, 12)[..4], [1.0, 1.0, 0.1, 0.1]);
        assert_eq!(shares(Shape::Burst, 0.1, 12)[9..], [0.1, 1.0, 1.0]);
    }

    #[test]
    fn fleet_time_continues_after_a_pause_and_a_change_of_speed() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let constant = LoadConfig::default();
        let mut clock = Clock::new(constant.clone(), 1.0, false, start);
        clock.change(&constant, 1.0, true, at(10));
        assert_eq!(
            (clock.at(at(99)).as_secs(), clock.when(seconds(11.0))),
            (10, None)
        );
        clock.change(&constant, 2.0, false, at(100));
        assert_eq!(clock.at(at(103)).as_secs(), 16);
        let ramp = load(Shape::Ramp, 0.0);
        clock.change(&ramp, 1.0, false, at(103));
        clock.change(&ramp, 1.0, true, at(108));
        clock.change(&ramp, 1.0, false, at(200));
        // The second half of the ramp: three quarters of five seconds.
        assert_eq!(clock.at(at(205)), seconds(16.0 + 1.25 + 3.75));
    }

    #[test]
    fn times_before_a_change_keep_their_due_times() {
        let start = Instant::now();
        let at = |millis| start + Duration::from_millis(millis);
        let constant = LoadConfig::default();
        let mut clock = Clock::new(constant.clone(), 1.0, false, start);
        clock.change(&constant, 1.0, false, at(2_000));
        assert_eq!(clock.when(seconds(1.0)), Some(at(1_000)));
        clock.change(&constant, 2.0, false, at(3_000));
        assert_eq!(clock.when(seconds(1.0)), Some(at(1_000)));
        assert_eq!(clock.when(seconds(5.0)), Some(at(4_000)));
        let turn = Interpolation::new(&clock, seconds(1.0), at(4_000));
        assert_eq!(turn.when(seconds(2.0)), at(2_000));
        assert!(turn.covers(seconds(2.0)) && !turn.covers(seconds(3.0)));
        clock.change(&constant, 2.0, true, at(4_000));
        clock.change(&constant, 2.0, false, at(64_000));
        // Without the minute of the pause.
        assert_eq!(clock.when(seconds(1.0)), Some(at(61_000)));
        assert_eq!(clock.when(seconds(7.0)), Some(at(65_000)));
    }

    proptest! {
        #[test]
        fn when_is_the_inverse_of_at(
            index in 0_usize..5, least in 0.01_f64..1.0, speed in 0.1_f64..10.0,
            age in 0_u64..30_000, passed in 0_u64..100_000,
        ) {
            let shape = [Shape::Constant, Shape::Ramp, Shape::Step, Shape::Sine, Shape::Burst][index];
            let start = Instant::now();
            let mut clock = Clock::new(load(shape, least), speed, false, start);
            let changed = start + Duration::from_millis(age);
            clock.change(&load(shape, least), speed, false, changed);
            let now = changed + Duration::from_millis(passed);
            let found = clock.when(clock.at(now)).unwrap();
            let error = found.max(now) - found.min(now);
            prop_assert!(error < Duration::from_micros(1), "{error:?}");
            let end = Interpolation::new(&clock, clock.at(changed), now).when(clock.at(now));
            let error = end.max(now) - end.min(now);
            prop_assert!(error < Duration::from_micros(1), "{error:?} by interpolation");
        }
    }
}
