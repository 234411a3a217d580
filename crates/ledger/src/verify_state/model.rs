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

/// What a window says of the values in it, open or sealed.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Values {
    pub(super) count: u64,
    pub(super) min: f64,
    pub(super) max: f64,
    pub(super) mean: f64,
    /// Sum of squared distances to the mean.
    pub(super) squares: f64,
    pub(super) first: f64,
    pub(super) last: f64,
}

/// An open window. Times are milliseconds since its begin.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Window {
    pub(super) span: Span,
    pub(super) values: Values,
    /// Event times of `first` and `last`.
    pub(super) first_at: i64,
    pub(super) last_at: i64,
    pub(super) time_mean: f64,
    /// Sum of squared distances of the times to their mean.
    pub(super) time_squares: f64,
    /// Sum of the products of both distances.
    pub(super) products: f64,
}

/// What remains of a window that is sealed.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Summary {
    pub(super) values: Values,
    /// Units per hour; none if all values have the same time.
    pub(super) slope: Option<f64>,
}

/// One field of a value, as it is compared and shown.
#[derive(Debug, Clone)]
pub(super) enum Field {
    Number(i64),
    Count(Option<u64>),
    /// Equal only if every bit is.
    Float(f64),
    Text(Option<String>),
    Nothing,
}

impl PartialEq for Field {
    fn eq(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Number(a), Self::Number(b)) => a == b,
            (Self::Count(a), Self::Count(b)) => a == b,
            (Self::Float(a), Self::Float(b)) => a.to_bits() == b.to_bits(),
            (Self::Text(a), Self::Text(b)) => a == b,
            (Self::Nothing, Self::Nothing) => true,
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
            Self::Count(None) | Self::Text(None) | Self::Nothing => f.write_str("none"),
        }
    }
}

impl Span {
    pub(super) fn end(self) -> i64 {
        self.start.saturating_add(self.size)
    }
}

impl Values {
    fn fields(&self) -> [(&'static str, Field); 7] {
        [
            ("count", Field::Count(Some(self.count))),
            ("min", Field::Float(self.min)),
            ("max", Field::Float(self.max)),
            ("mean", Field::Float(self.mean)),
            ("squares", Field::Float(self.squares)),
            ("first", Field::Float(self.first)),
            ("last", Field::Float(self.last)),
        ]
    }
}

impl Window {
    pub(super) fn fields(&self) -> Vec<(&'static str, Field)> {
        let mut fields = Vec::from(self.values.fields());
        fields.extend([
            ("first_at", Field::Number(self.first_at)),
            ("last_at", Field::Number(self.last_at)),
            ("time_mean", Field::Float(self.time_mean)),
            ("time_squares", Field::Float(self.time_squares)),
            ("products", Field::Float(self.products)),
        ]);
        fields
    }
}

impl Summary {
    pub(super) fn fields(&self) -> Vec<(&'static str, Field)> {
        let mut fields = Vec::from(self.values.fields());
        fields.push(("slope", self.slope.map_or(Field::Nothing, Field::Float)));
        fields
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
        assert_ne!(Field::Nothing, Field::Float(0.0));
    }

    #[test]
    fn numbers_order_messages_of_the_same_time() {
        let at = |timestamp, seq| Moment { timestamp, seq };
        assert!(at(1, None) < at(1, Some(0)));
        assert!(at(1, Some(9)) < at(2, None));
    }
}
