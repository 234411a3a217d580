//! The values that `verify-state` compares: those that the fold computes from Kafka's
//! log, and those that the consumer has stored in Redis.

use std::fmt;

/// Event time and sequence number of a message; newer is greater. With equal event times,
/// a message without a sequence number is older than one with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Moment {
    /// Event time, in milliseconds since the Unix epoch.
    pub(crate) timestamp: i64,
    /// Sequence number.
    pub(crate) seq: Option<u64>,
}

/// Building, floor, room.
pub(crate) type Place = [String; 3];

/// A window: size in milliseconds, and start in milliseconds since the Unix epoch.
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
    /// Sum of the squared deviations of the values from their mean.
    pub(super) squared_deviations: f64,
    pub(super) first: f64,
    pub(super) last: f64,
}

/// An open window. `first_at`, `last_at` and `time_mean` are milliseconds since the
/// window's start.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Window {
    pub(super) span: Span,
    pub(super) values: Values,
    /// Event times of `first` and `last`.
    pub(super) first_at: i64,
    pub(super) last_at: i64,
    /// Mean of the event times.
    pub(super) time_mean: f64,
    /// Sum of the squared deviations of the event times from their mean.
    pub(super) time_squared_deviations: f64,
    /// Sum of the products of each value's deviation and its event time's.
    pub(super) deviation_products: f64,
}

/// A sealed window.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Summary {
    pub(super) values: Values,
    /// Slope in units per hour; `None` if all values have the same event time.
    pub(super) slope: Option<f64>,
}

/// The last alert of a sensor's thresholds.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct ThresholdAlert {
    pub(crate) raised: bool,
    pub(crate) critical: bool,
    /// Whether it is about a value above the threshold.
    pub(crate) above: bool,
    /// Offset of the record that raised it.
    pub(crate) offset: i64,
    pub(crate) value: f64,
    pub(crate) limit: f64,
    /// Event time of the last change.
    pub(crate) timestamp: i64,
    pub(crate) raised_at: i64,
    pub(crate) count: u64,
}

/// A value beyond a threshold that has not raised an alert yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Waiting {
    pub(super) since: i64,
    pub(super) above: bool,
}

/// The value of one field, for comparison and display.
#[derive(Debug, Clone)]
pub(super) enum FieldValue {
    Signed(i64),
    Unsigned(u64),
    /// Compared by its bits: NaN equals itself, and -0.0 differs from 0.0.
    Float(f64),
    Text(String),
    /// The field is optional and has no value.
    Missing,
}

impl PartialEq for FieldValue {
    fn eq(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Signed(a), Self::Signed(b)) => a == b,
            (Self::Unsigned(a), Self::Unsigned(b)) => a == b,
            (Self::Float(a), Self::Float(b)) => a.to_bits() == b.to_bits(),
            (Self::Text(a), Self::Text(b)) => a == b,
            (Self::Missing, Self::Missing) => true,
            _ => false,
        }
    }
}

impl fmt::Display for FieldValue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Signed(number) => number.fmt(f),
            Self::Unsigned(number) => number.fmt(f),
            // `{:?}` is the shortest text that parses back to the same bits, except for NaN.
            Self::Float(float) if float.is_nan() => write!(f, "NaN {:#x}", float.to_bits()),
            Self::Float(float) => write!(f, "{float:?}"),
            Self::Text(text) => write!(f, "{text:?}"),
            Self::Missing => f.write_str("none"),
        }
    }
}

impl Span {
    pub(super) fn end(self) -> i64 {
        self.start.saturating_add(self.size)
    }
}

impl Values {
    fn fields(&self) -> [(&'static str, FieldValue); 7] {
        [
            ("count", FieldValue::Unsigned(self.count)),
            ("min", FieldValue::Float(self.min)),
            ("max", FieldValue::Float(self.max)),
            ("mean", FieldValue::Float(self.mean)),
            (
                "squared_deviations",
                FieldValue::Float(self.squared_deviations),
            ),
            ("first", FieldValue::Float(self.first)),
            ("last", FieldValue::Float(self.last)),
        ]
    }
}

impl Window {
    pub(super) fn fields(&self) -> Vec<(&'static str, FieldValue)> {
        let mut fields = Vec::from(self.values.fields());
        fields.extend([
            ("first_at", FieldValue::Signed(self.first_at)),
            ("last_at", FieldValue::Signed(self.last_at)),
            ("time_mean", FieldValue::Float(self.time_mean)),
            (
                "time_squared_deviations",
                FieldValue::Float(self.time_squared_deviations),
            ),
            (
                "deviation_products",
                FieldValue::Float(self.deviation_products),
            ),
        ]);
        fields
    }
}

impl ThresholdAlert {
    pub(super) fn fields(alert: Option<&Self>) -> [(&'static str, FieldValue); 9] {
        use FieldValue::{Float, Signed, Unsigned};
        let field = |of: fn(&Self) -> FieldValue| alert.map_or(FieldValue::Missing, of);
        [
            ("raised", field(|alert| Unsigned(alert.raised.into()))),
            ("critical", field(|alert| Unsigned(alert.critical.into()))),
            ("above", field(|alert| Unsigned(alert.above.into()))),
            ("offset", field(|alert| Signed(alert.offset))),
            ("value", field(|alert| Float(alert.value))),
            ("limit", field(|alert| Float(alert.limit))),
            ("timestamp", field(|alert| Signed(alert.timestamp))),
            ("raised_at", field(|alert| Signed(alert.raised_at))),
            ("count", field(|alert| Unsigned(alert.count))),
        ]
    }
}

impl Waiting {
    pub(super) fn fields(waiting: Option<Self>) -> [(&'static str, FieldValue); 2] {
        let since = waiting.map(|waiting| FieldValue::Signed(waiting.since));
        let above = waiting.map(|waiting| FieldValue::Unsigned(waiting.above.into()));
        [
            ("since", since.unwrap_or(FieldValue::Missing)),
            ("above", above.unwrap_or(FieldValue::Missing)),
        ]
    }
}

impl Summary {
    pub(super) fn fields(&self) -> Vec<(&'static str, FieldValue)> {
        let mut fields = Vec::from(self.values.fields());
        let slope = self.slope.map_or(FieldValue::Missing, FieldValue::Float);
        fields.push(("slope", slope));
        fields
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn floats_are_compared_by_bits() {
        assert_ne!(FieldValue::Float(0.0), FieldValue::Float(-0.0));
        assert_ne!(
            FieldValue::Float(1.0),
            FieldValue::Float(1.0 + f64::EPSILON)
        );
        assert_eq!(FieldValue::Float(f64::NAN), FieldValue::Float(f64::NAN));
        assert_ne!(FieldValue::Signed(1), FieldValue::Unsigned(1));
        assert_ne!(FieldValue::Missing, FieldValue::Float(0.0));
    }

    #[test]
    fn messages_are_ordered_by_time_and_then_by_number() {
        let at = |timestamp, seq| Moment { timestamp, seq };
        assert!(at(1, None) < at(1, Some(0)));
        assert!(at(1, Some(9)) < at(2, None));
    }
}
