//! What both sides of the comparison are made of: the fold computes it, the store
//! holds it.

use std::fmt;

/// Event time of a message, then its number: what is newer is greater. A message
/// without a number is older than one with a number at the same time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Moment {
    /// Milliseconds since the epoch.
    pub(super) timestamp: i64,
    pub(super) seq: Option<u64>,
}

/// Building, floor, room.
pub(super) type Place = [String; 3];

/// Which window of a sensor: its length and its begin, in milliseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Span {
    pub(super) size: i64,
    pub(super) start: i64,
}

/// What a window says of the values in it.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Window {
    pub(super) start: i64,
    pub(super) end: i64,
    pub(super) count: u64,
    pub(super) min: f64,
    pub(super) max: f64,
    pub(super) mean: f64,
    /// Sum of squared distances to the mean.
    pub(super) squares: f64,
    pub(super) first: f64,
    pub(super) last: f64,
    /// Event times of `first` and `last`, milliseconds since the epoch.
    pub(super) first_at: i64,
    pub(super) last_at: i64,
}

/// One field of a value, as it is compared and shown.
#[derive(Debug, Clone)]
pub(super) enum Field {
    Number(i64),
    Count(Option<u64>),
    /// Equal only if every bit is.
    Float(f64),
    Text(Option<String>),
}

impl PartialEq for Field {
    fn eq(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Number(a), Self::Number(b)) => a == b,
            (Self::Count(a), Self::Count(b)) => a == b,
            (Self::Float(a), Self::Float(b)) => a.to_bits() == b.to_bits(),
            (Self::Text(a), Self::Text(b)) => a == b,
            _ => false,
        }
    }
}

impl fmt::Display for Field {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Number(number) => number.fmt(f),
            Self::Count(Some(count)) => count.fmt(f),
            // The shortest text that reads back as the same bits; of NaNs it does not
            // tell which.
            Self::Float(float) if float.is_nan() => write!(f, "NaN {:#x}", float.to_bits()),
            Self::Float(float) => write!(f, "{float:?}"),
            Self::Text(Some(text)) => write!(f, "{text:?}"),
            Self::Count(None) | Self::Text(None) => f.write_str("none"),
        }
    }
}

impl Window {
    /// Fields that do not depend on the values' unit.
    pub(super) fn times(&self) -> [(&'static str, Field); 5] {
        [
            ("start", Field::Number(self.start)),
            ("end", Field::Number(self.end)),
            ("count", Field::Count(Some(self.count))),
            ("first_at", Field::Number(self.first_at)),
            ("last_at", Field::Number(self.last_at)),
        ]
    }

    /// Fields that are values.
    pub(super) fn values(&self) -> [(&'static str, Field); 6] {
        [
            ("min", Field::Float(self.min)),
            ("max", Field::Float(self.max)),
            ("mean", Field::Float(self.mean)),
            ("squares", Field::Float(self.squares)),
            ("first", Field::Float(self.first)),
            ("last", Field::Float(self.last)),
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn floats_are_equal_by_bits_only() {
        assert_ne!(Field::Float(0.0), Field::Float(-0.0));
        assert_ne!(Field::Float(1.0), Field::Float(1.0 + f64::EPSILON));
        assert_eq!(Field::Float(f64::NAN), Field::Float(f64::NAN));
        assert_ne!(Field::Number(1), Field::Count(Some(1)));
    }

    #[test]
    fn numbers_order_messages_of_the_same_time() {
        let at = |timestamp, seq| Moment { timestamp, seq };
        assert!(at(1, None) < at(1, Some(0)));
        assert!(at(1, Some(9)) < at(2, None));
    }
}
