//! Which of two messages of a device is newer, although its clock may be wrong.
//!
//! Devices are ordered by their own clocks. A clock that was ahead once would make every
//! later message an older one until the clocks meet. Therefore the record time, which the device usually does
//! not choose, decides two things: the watermark never passes it, and a value
//! from a clock that was ahead of it gives way to the next one that is not.

use iot_core::message::DeviceMessage;

/// How far a message may be ahead of its record without counting as ahead, in milliseconds.
/// Many devices round to seconds. Within that time a value keeps older ones away, so it is
/// short.
const TOLERANCE: i64 = 1_000;

/// Time and number of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Stamp {
    /// Event time, in milliseconds since the epoch.
    pub(crate) timestamp: i64,
    pub(crate) seq: Option<u64>,
    /// Whether `timestamp` was ahead of the time of its own record, or was taken from the record
    /// because the message had no time.
    pub(crate) is_ahead: bool,
}

impl Stamp {
    /// That of a device or a sensor without messages; every message replaces it.
    pub(crate) const NONE: Self = Self {
        timestamp: i64::MIN,
        seq: None,
        is_ahead: false,
    };

    /// That of a message, whose record has this time.
    pub(crate) fn new(message: &DeviceMessage<'_>, recorded: Option<i64>) -> Self {
        let timestamp = message.timestamp;
        let is_ahead = |at: i64| timestamp > at.saturating_add(TOLERANCE);
        Self {
            timestamp,
            seq: message.seq,
            is_ahead: known(recorded).is_some_and(is_ahead),
        }
    }

    /// That of a message without a time, which may be much older than its record: it yields to
    /// the next message that is not ahead.
    pub(crate) fn undated(timestamp: i64) -> Self {
        Self {
            timestamp,
            seq: None,
            is_ahead: true,
        }
    }

    /// Whether a later record of the log with the stamp `next` replaces what has this one.
    pub(crate) fn yields_to(self, next: Self) -> bool {
        next.order() >= self.order() || (self.is_ahead && !next.is_ahead)
    }

    /// Whether a message with the stamp `next` repeats the one with this stamp.
    pub(crate) fn is_repeated_by(self, next: Self) -> bool {
        next.seq.is_some() && next.order() == self.order()
    }

    /// A message without a number is older than one of the same time with a number.
    fn order(self) -> (i64, Option<u64>) {
        (self.timestamp, self.seq)
    }

    /// How far the message takes the watermark of its device, and the wait of a value beyond a
    /// limit.
    pub(crate) fn reaches(self, recorded: Option<i64>) -> i64 {
        known(recorded).map_or(self.timestamp, |at| at.min(self.timestamp))
    }
}

/// The time of a record, if it has one.
fn known(recorded: Option<i64>) -> Option<i64> {
    recorded.filter(|at| *at >= 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stamp(timestamp: i64, recorded: Option<i64>) -> Stamp {
        let message = DeviceMessage {
            device_id: "d".into(),
            tenant: None,
            project: None,
            seq: None,
            timestamp,
            location: None,
            readings: Vec::new(),
        };
        Stamp::new(&message, recorded)
    }

    #[test]
    fn only_a_clear_difference_from_the_record_is_ahead() {
        assert!(!stamp(5_000, None).is_ahead);
        assert!(!stamp(5_000, Some(-1)).is_ahead);
        assert!(!stamp(5_000, Some(9_000)).is_ahead);
        assert!(!stamp(5_000, Some(4_000)).is_ahead);
        assert!(stamp(5_000, Some(3_999)).is_ahead);
    }

    #[test]
    fn only_what_was_ahead_yields_to_what_is_older() {
        let (good, later, ahead) = (
            stamp(1_000, Some(1_000)),
            stamp(2_000, Some(2_000)),
            stamp(90_000, Some(1_500)),
        );
        assert!(good.yields_to(later) && good.yields_to(good) && !later.yields_to(good));
        assert!(good.yields_to(ahead) && ahead.yields_to(later));
        let less_ahead = stamp(50_000, Some(3_000));
        assert!(!ahead.yields_to(less_ahead) && less_ahead.yields_to(ahead));
    }

    #[test]
    fn the_record_limits_the_watermark() {
        assert_eq!(stamp(5_000, Some(4_999)).reaches(Some(4_999)), 4_999);
        assert_eq!(stamp(5_000, Some(9_000)).reaches(Some(9_000)), 5_000);
        assert_eq!(stamp(5_000, Some(-1)).reaches(Some(-1)), 5_000);
    }
}
