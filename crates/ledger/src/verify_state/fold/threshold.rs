//! Alerts of thresholds, by the rules of docs/state.md and docs/detection.md.

use super::super::model::{ThresholdAlert, Waiting};

/// An alert is critical if the value is further beyond its threshold than this share of it.
const CRITICAL: f64 = 0.2;

/// The thresholds of a sensor.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Threshold {
    pub(crate) above: Option<f64>,
    pub(crate) below: Option<f64>,
    /// How far inside its threshold a value clears an alert, as a share of the threshold.
    pub(crate) band: f64,
    /// How long a value must stay beyond a threshold to raise an alert, in milliseconds.
    pub(crate) lasting: i64,
}

/// A value that is the newest of its sensor.
#[derive(Debug, Clone, Copy)]
pub(super) struct Sample {
    pub(super) offset: i64,
    /// Event time.
    pub(super) timestamp: i64,
    /// The event time that counts for the watermark.
    pub(super) progress: i64,
    pub(super) value: f64,
}

/// The last alert of a sensor's thresholds, and a value that may raise the next one.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(crate) struct Crossing {
    pub(crate) alert: Option<ThresholdAlert>,
    pub(in super::super) waiting: Option<Waiting>,
}

impl Threshold {
    fn limit(&self, above: bool) -> Option<f64> {
        if above { self.above } else { self.below }
    }

    /// How far the value is beyond the threshold on that side; negative inside.
    fn distance(&self, above: bool, value: f64) -> Option<f64> {
        let limit = self.limit(above)?;
        Some(if above { value - limit } else { limit - value })
    }

    /// The side on which the value is beyond a threshold.
    fn side(&self, value: f64) -> Option<bool> {
        let is_beyond = |above: &bool| self.distance(*above, value).is_some_and(|by| by > 0.0);
        [true, false].into_iter().find(is_beyond)
    }

    /// Whether a value inside is too close to the threshold to clear an alert.
    fn is_near(&self, above: bool, value: f64) -> bool {
        let share = |limit: f64| self.band * limit.abs();
        let inside = self.distance(above, value).map(|by| -by);
        inside
            .zip(self.limit(above).map(share))
            .is_some_and(|(inside, share)| inside < share)
    }

    fn is_critical(&self, above: bool, value: f64) -> bool {
        let share = |limit: f64| CRITICAL * limit.abs();
        let by = self.distance(above, value);
        by.zip(self.limit(above).map(share))
            .is_some_and(|(by, share)| by > share)
    }
}

impl Crossing {
    pub(super) fn take(&mut self, thresholds: &Threshold, sample: Sample) {
        let Sample {
            offset,
            timestamp,
            progress,
            value,
        } = sample;
        let waiting = self.waiting.take();
        let side = thresholds.side(value);
        if let Some(alert) = self.alert.as_mut().filter(|alert| alert.raised) {
            if side == Some(alert.above) {
                alert.critical |= thresholds.is_critical(alert.above, value);
                alert.count += 1;
                (alert.value, alert.timestamp) = (value, timestamp);
                return;
            }
            if side.is_none() && thresholds.is_near(alert.above, value) {
                return;
            }
            alert.raised = false;
            (alert.value, alert.timestamp) = (value, timestamp);
        }
        let Some(above) = side else { return };
        let since = match waiting {
            Some(waiting) if waiting.above == above => waiting.since,
            _ => progress,
        };
        if progress.saturating_sub(since) < thresholds.lasting {
            self.waiting = Some(Waiting { since, above });
            return;
        }
        self.alert = Some(ThresholdAlert {
            raised: true,
            critical: thresholds.is_critical(above, value),
            above,
            offset,
            value,
            limit: thresholds.limit(above).unwrap_or_default(),
            timestamp,
            raised_at: timestamp,
            count: 1,
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOT: Threshold = Threshold {
        above: Some(50.0),
        below: Some(-10.0),
        band: 0.02,
        lasting: 30,
    };

    /// After values at times, with the offsets 0, 1, ...
    fn after(thresholds: Threshold, values: &[(i64, f64)]) -> Crossing {
        let mut crossing = Crossing::default();
        for (offset, (timestamp, value)) in (0..).zip(values.iter().copied()) {
            let sample = Sample {
                offset,
                timestamp,
                progress: timestamp,
                value,
            };
            crossing.take(&thresholds, sample);
        }
        crossing
    }

    fn raised(crossing: Crossing) -> Option<(bool, i64, u64)> {
        crossing.alert.map(|a| (a.raised, a.raised_at, a.count))
    }

    #[test]
    fn an_alert_is_raised_after_its_duration_and_cleared_well_inside() {
        let log = [
            (0, 51.0),
            (29, 70.0),
            (30, 52.0),
            (40, 61.0),
            (50, 49.5),
            (60, 49.0),
        ];
        let waiting = after(HOT, &log[..2]);
        let since = Waiting {
            since: 0,
            above: true,
        };
        assert_eq!((waiting.alert, waiting.waiting), (None, Some(since)));
        let begun = after(HOT, &log[..3]);
        assert_eq!(begun.waiting, None);
        assert_eq!(raised(begun), Some((true, 30, 1)));
        assert!(!begun.alert.unwrap().critical);
        assert_eq!(raised(after(HOT, &log[..5])), Some((true, 30, 2)));
        let over = after(HOT, &log).alert.unwrap();
        assert_eq!((over.raised, over.critical, over.offset), (false, true, 2));
        assert_eq!((over.value, over.timestamp, over.limit), (49.0, 60, 50.0));
    }

    #[test]
    fn a_value_inside_or_beyond_the_other_threshold_begins_the_wait_again() {
        assert_eq!(after(HOT, &[(0, 51.0), (20, 50.0), (40, 51.0)]).alert, None);
        let other = after(HOT, &[(0, 51.0), (20, -11.0), (49, -11.0)]);
        let since = Waiting {
            since: 20,
            above: false,
        };
        assert_eq!((other.alert, other.waiting), (None, Some(since)));
        // An alert is over when the value is beyond the other threshold.
        let both = after(HOT, &[(0, 51.0), (30, 51.0), (40, -11.0)]);
        assert_eq!(raised(both), Some((false, 30, 1)));
        assert_eq!(both.waiting.unwrap().since, 40);
    }

    #[test]
    fn without_a_duration_the_first_value_raises() {
        let at_once = Threshold { lasting: 0, ..HOT };
        assert_eq!(raised(after(at_once, &[(7, 51.0)])), Some((true, 7, 1)));
        assert_eq!(after(at_once, &[(7, 50.0)]), Crossing::default());
    }

    #[test]
    fn a_time_that_goes_back_does_not_shorten_the_wait() {
        let log = [(0, 20.0), (5, 51.0), (-100, 51.0), (7, 51.0), (35, 51.0)];
        let back = after(HOT, &log[..4]);
        assert_eq!((back.alert, back.waiting.unwrap().since), (None, 5));
        assert_eq!(raised(after(HOT, &log)), Some((true, 35, 1)));
    }
}
