//! The values on both sides of the comparison: computed by the fold, and stored.

use std::fmt;

/// Event time and sequence number of a message; newer is greater. At the same time a
/// message without a number is older than one with a number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Moment {
    /// Milliseconds since the Unix epoch.
    pub(super) timestamp: i64,
    pub(super) seq: Option<u64>,
}

/// Building, floor, room.
pub(super) type Place = [String; 3];

/// Length and start of a window, in milliseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Span {
    pub(super) size: i64,
    pub(super) start: i64,
}

/// The aggregates of a window, open or sealed.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Values {
    pub(super) count: u64,
    pub(super) min: f64,
    pub(super) max: f64,
    pub(super) mean: f64,
    /// Sum of squared deviations from the mean.
    pub(super) squares: f64,
    pub(super) first: f64,
    pub(super) last: f64,
}

/// An open window. Times are in milliseconds since its start.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Window {
    pub(super) span: Span,
    pub(super) values: Values,
    /// Event times of `first` and `last`.
    pub(super) first_at: i64,
    pub(super) last_at: i64,
    pub(super) time_mean: f64,
    /// Sum of squared deviations of the times from their mean.
    pub(super) time_squares: f64,
    /// Sum of the products of both deviations.
    pub(super) products: f64,
}

/// A sealed window.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Summary {
    pub(super) values: Values,
    /// Slope in units per hour; `None` if all values have the same time.
    pub(super) slope: Option<f64>,
}

/// A field of a value, for comparison and display.
#[derive(Debug, Clone)]
pub(super) enum Field {
    Number(i64),
    Count(Option<u64>),
    /// Compared bit by bit.
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
            // `{:?}` is the shortest text that parses back to the same bits, except for NaN.
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
    fn floats_are_compared_by_bits() {
        assert_ne!(Field::Float(0.0), Field::Float(-0.0));
        assert_ne!(Field::Float(1.0), Field::Float(1.0 + f64::EPSILON));
        assert_eq!(Field::Float(f64::NAN), Field::Float(f64::NAN));
        assert_ne!(Field::Number(1), Field::Count(Some(1)));
        assert_ne!(Field::Nothing, Field::Float(0.0));
    }

    #[test]
    fn messages_are_ordered_by_time_and_then_by_number() {
        let at = |timestamp, seq| Moment { timestamp, seq };
        assert!(at(1, None) < at(1, Some(0)));
        assert!(at(1, Some(9)) < at(2, None));
    }
}
