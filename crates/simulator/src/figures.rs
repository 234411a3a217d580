//! The named figures of a run, reported during and after it, and conditions on them.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use prometheus::core::Metric;
use prometheus::proto::Histogram;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::metrics::{Dropped, Metrics};

/// The metrics at one point in time.
#[derive(Debug, Clone, Default)]
pub(crate) struct Snapshot {
    messages: u64,
    bytes: u64,
    batches: u64,
    errors: u64,
    retries: u64,
    possible_duplicates: u64,
    rerouted: u64,
    throttled: u64,
    drops: [u64; Dropped::ALL.len()],
    delivery: Distribution,
    send: Distribution,
    late: Distribution,
}

impl Snapshot {
    pub(crate) fn take(metrics: &Metrics) -> Self {
        Self {
            messages: metrics.messages.get(),
            bytes: metrics.bytes.get(),
            batches: metrics.batches.get(),
            errors: metrics.send_errors.get(),
            retries: metrics.retries.get(),
            possible_duplicates: metrics.possible_duplicates.get(),
            rerouted: metrics.rerouted.get(),
            throttled: metrics.throttled.get(),
            drops: Dropped::ALL.map(|reason| metrics.drops(reason)),
            delivery: Distribution::of(&metrics.deliveries.histogram()),
            send: Distribution::of(metrics.send_latency.metric().get_histogram()),
            late: Distribution::of(metrics.lateness.metric().get_histogram()),
        }
    }
}

/// Cumulative number of observations up to each bound; bounds are in seconds.
#[derive(Debug, Clone, Default)]
struct Distribution(Vec<(f64, u64)>);

impl Distribution {
    fn of(histogram: &Histogram) -> Self {
        let buckets = histogram.get_bucket().iter();
        let buckets = buckets.map(|bucket| (bucket.upper_bound(), bucket.cumulative_count()));
        let all = (f64::INFINITY, histogram.get_sample_count());
        Self(buckets.chain([all]).collect())
    }

    fn since(&self, before: &Self) -> Self {
        let mut buckets = self.0.clone();
        for ((_, count), (_, before)) in buckets.iter_mut().zip(&before.0) {
            *count = count.saturating_sub(*before);
        }
        Self(buckets)
    }

    /// The quantile in milliseconds, interpolated linearly within a bucket as in
    /// Prometheus; the last finite bound if the quantile exceeds it. `None` without
    /// observations.
    fn quantile(&self, q: f64) -> Option<f64> {
        let (_, all) = self.0.last().filter(|(_, all)| *all > 0)?;
        let rank = q * *all as f64;
        let (mut low, mut below) = (0.0, 0);
        for (bound, count) in &self.0 {
            if *count as f64 >= rank {
                let within = (rank - below as f64) / (count - below).max(1) as f64;
                let high = if bound.is_finite() { *bound } else { low };
                return Some(rounded(1e3 * (low + (high - low) * within)));
            }
            (low, below) = (*bound, *count);
        }
        None
    }
}

/// Rounds to three decimals.
fn rounded(figure: f64) -> f64 {
    (figure * 1e3).round() / 1e3
}

/// The figures of a period. Their names are a public interface.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Figures {
    seconds: f64,
    /// Messages that the sink confirmed.
    messages: u64,
    /// Messages per second.
    rate: f64,
    /// Payload bytes that the sink confirmed.
    bytes: u64,
    /// Batches that the sink confirmed.
    batches: u64,
    /// Failed attempts to connect or to send.
    pub(crate) errors: u64,
    /// Attempts to send after the first.
    retries: u64,
    /// Messages sent again although they may have arrived.
    possible_duplicates: u64,
    /// Messages sent to another partition because their own was unavailable.
    rerouted: u64,
    /// Dropped messages, for any reason.
    pub(crate) drops: u64,
    /// `drops_buffer_full` and the other reasons.
    #[serde(flatten)]
    drops_by_reason: BTreeMap<String, u64>,
    /// Messages created late because the buffer was nearly full.
    throttled: u64,
    /// From when a message was due until it was confirmed; dropped messages count as slower
    /// than the greatest bound.
    delivery_p50_ms: Option<f64>,
    delivery_p95_ms: Option<f64>,
    delivery_p99_ms: Option<f64>,
    /// From handing over a batch to its confirmation.
    send_p50_ms: Option<f64>,
    send_p95_ms: Option<f64>,
    send_p99_ms: Option<f64>,
    /// From when a message was due until it was created.
    late_p50_ms: Option<f64>,
    late_p95_ms: Option<f64>,
    late_p99_ms: Option<f64>,
}

impl Figures {
    /// The figures of the period between two snapshots.
    pub(crate) fn between(before: &Snapshot, after: &Snapshot, elapsed: Duration) -> Self {
        let count = |of: fn(&Snapshot) -> u64| of(after) - of(before);
        let drops = after.drops.iter().zip(before.drops).map(|(a, b)| a - b);
        let reasons = Dropped::ALL.map(|reason| format!("drops_{}", reason.label()));
        let delivery = after.delivery.since(&before.delivery);
        let (send, late) = (
            after.send.since(&before.send),
            after.late.since(&before.late),
        );
        let (seconds, messages) = (elapsed.as_secs_f64(), count(|at| at.messages));
        Self {
            seconds: rounded(seconds),
            messages,
            rate: rounded(messages as f64 / seconds.max(1e-9)),
            bytes: count(|at| at.bytes),
            batches: count(|at| at.batches),
            errors: count(|at| at.errors),
            retries: count(|at| at.retries),
            possible_duplicates: count(|at| at.possible_duplicates),
            rerouted: count(|at| at.rerouted),
            drops: drops.clone().sum(),
            drops_by_reason: reasons.into_iter().zip(drops).collect(),
            throttled: count(|at| at.throttled),
            delivery_p50_ms: delivery.quantile(0.5),
            delivery_p95_ms: delivery.quantile(0.95),
            delivery_p99_ms: delivery.quantile(0.99),
            send_p50_ms: send.quantile(0.5),
            send_p95_ms: send.quantile(0.95),
            send_p99_ms: send.quantile(0.99),
            late_p50_ms: late.quantile(0.5),
            late_p95_ms: late.quantile(0.95),
            late_p99_ms: late.quantile(0.99),
        }
    }

    /// All figures by name.
    pub(crate) fn by_name(&self) -> Map<String, Value> {
        match serde_json::to_value(self) {
            Ok(Value::Object(figures)) => figures,
            // A struct serialises to an object.
            _ => Map::new(),
        }
    }

    /// Whether messages were due and none was confirmed: those that are not confirmed at the
    /// end are dropped.
    pub(crate) fn nothing_sent(&self) -> bool {
        // A closed output is not a failure.
        let closed = format!("drops_{}", Dropped::OutputClosed.label());
        let closed = self.drops_by_reason.get(&closed).copied();
        self.messages == 0 && self.drops > closed.unwrap_or(0)
    }

    /// Messages that are confirmed or dropped.
    pub(crate) fn done(&self) -> u64 {
        self.messages + self.drops
    }

    /// The names of all figures.
    fn names() -> Vec<String> {
        let nothing = Snapshot::default();
        let figures = Self::between(&nothing, &nothing, Duration::ZERO);
        figures
            .by_name()
            .into_iter()
            .map(|(name, _)| name)
            .collect()
    }
}

/// One line for a terminal.
impl fmt::Display for Figures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:.0} msg/s", self.rate)?;
        let quantiles = [
            ("delivery", self.delivery_p50_ms, self.delivery_p99_ms),
            ("send", self.send_p50_ms, self.send_p99_ms),
            ("late", self.late_p50_ms, self.late_p99_ms),
        ];
        for (what, p50, p99) in quantiles {
            if let (Some(p50), Some(p99)) = (p50, p99) {
                write!(f, " | {what} P50 {p50:.1} P99 {p99:.1} ms")?;
            }
        }
        write!(f, " | {} errors, {} drops", self.errors, self.drops)
    }
}

/// A condition on a figure, such as `drops>0`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Condition {
    name: String,
    comparison: Comparison,
    limit: f64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Comparison {
    AtLeast,
    AtMost,
    Above,
    Below,
}

impl Comparison {
    /// Longer operators first, because they contain the shorter ones.
    const ALL: [(&'static str, Self); 4] = [
        (">=", Self::AtLeast),
        ("<=", Self::AtMost),
        (">", Self::Above),
        ("<", Self::Below),
    ];

    fn operator(self) -> &'static str {
        let found = Self::ALL.iter().find(|(_, comparison)| *comparison == self);
        found.map_or("", |(operator, _)| operator)
    }
}

impl Condition {
    /// The figure's value, if the condition holds. A condition on a missing figure, such
    /// as a latency when nothing was sent, never holds.
    pub(crate) fn matching_value(&self, figures: &Figures) -> Option<f64> {
        let figure = figures.by_name().get(&self.name)?.as_f64()?;
        let holds = match self.comparison {
            Comparison::AtLeast => figure >= self.limit,
            Comparison::AtMost => figure <= self.limit,
            Comparison::Above => figure > self.limit,
            Comparison::Below => figure < self.limit,
        };
        holds.then_some(figure)
    }
}

impl fmt::Display for Condition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{}{}{}",
            self.name,
            self.comparison.operator(),
            self.limit
        )
    }
}

impl From<Condition> for String {
    fn from(condition: Condition) -> Self {
        condition.to_string()
    }
}

impl TryFrom<String> for Condition {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl FromStr for Condition {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let invalid = || {
            format!(
                "invalid condition {text:?}: expected a figure, an operator (>=, <=, >, <) and a finite number"
            )
        };
        let found = Comparison::ALL.iter().find_map(|(operator, comparison)| {
            let (name, limit) = text.split_once(operator)?;
            Some((name.trim(), *comparison, limit.trim()))
        });
        let Some((name, comparison, limit)) = found else {
            return Err(invalid());
        };
        let names = Figures::names();
        if !names.iter().any(|known| known == name) {
            return Err(format!(
                "unknown figure {name:?}; known: {}",
                names.join(", ")
            ));
        }
        match limit.parse::<f64>() {
            // With NaN no condition would hold, and with an infinity always or never.
            Ok(limit) if limit.is_finite() => Ok(Self {
                name: name.into(),
                comparison,
                limit,
            }),
            _ => Err(invalid()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn figures(messages: u64, drops: u64) -> Figures {
        let mut after = Snapshot {
            messages,
            ..Snapshot::default()
        };
        after.drops[0] = drops;
        Figures::between(&Snapshot::default(), &after, Duration::from_secs(4))
    }

    #[test]
    fn conditions_hold_or_not() {
        let matching_value = |condition: &str| {
            let condition: Condition = condition.parse().unwrap();
            assert_eq!(condition.to_string().parse(), Ok(condition.clone()));
            condition.matching_value(&figures(1_000, 7))
        };
        assert_eq!(matching_value("drops>0"), Some(7.0));
        assert_eq!(matching_value("drops_buffer_full >= 7"), Some(7.0));
        assert_eq!(matching_value("drops_refused>0"), None);
        assert_eq!(matching_value("rate<250"), None);
        assert_eq!(matching_value("rate<=250"), Some(250.0));
        assert_eq!(matching_value("send_p99_ms>0"), None, "nothing was sent");
    }

    #[test]
    fn a_run_without_a_due_message_does_not_fail_for_an_error() {
        let nothing_sent = |messages, drops| {
            let mut figures = figures(messages, drops);
            figures.errors = 1;
            figures.nothing_sent()
        };
        assert!(!nothing_sent(0, 0) && !nothing_sent(1, 7));
        assert!(nothing_sent(0, 7));
    }

    #[test]
    fn dropped_messages_make_no_latency_better() {
        let metrics = Metrics::new(&prometheus::Registry::new(), crate::config::SinkKind::Null);
        let metrics = metrics.unwrap();
        let local = metrics.deliveries.local();
        (0..90).for_each(|_| local.observe(0.0005));
        local.flush();
        let figures = || {
            let after = Snapshot::take(&metrics);
            Figures::between(&Snapshot::default(), &after, Duration::from_secs(1))
        };
        assert!(figures().delivery_p99_ms.unwrap() < 1.0);
        metrics.dropped(Dropped::BufferFull, 10);
        let figures = figures();
        assert!(figures.delivery_p50_ms.unwrap() < 1.0);
        assert_eq!(
            figures.delivery_p95_ms,
            Some(3_600_000.0),
            "an hour, or never"
        );
    }

    #[test]
    fn invalid_conditions_are_rejected() {
        let error = |text: &str| text.parse::<Condition>().unwrap_err();
        assert_eq!(
            error("drops"),
            "invalid condition \"drops\": expected a figure, an operator (>=, <=, >, <) and a finite number"
        );
        for text in [
            "",
            " ",
            "drops>none",
            "drops>",
            "drops>NaN",
            "drops>inf",
            "drops<-inf",
            "drops>1e999",
        ] {
            let expected = format!("invalid condition {text:?}: ");
            assert!(error(text).starts_with(&expected), "{}", error(text));
        }
        let unknown = error("losses>0");
        assert!(
            unknown.starts_with("unknown figure \"losses\"; known: "),
            "{unknown}"
        );
        assert!(unknown.contains("drops_buffer_full, "), "{unknown}");
    }

    #[test]
    fn quantiles_cover_the_period_between_snapshots() {
        let at = |counts: [u64; 3]| {
            Distribution(vec![
                (0.01, counts[0]),
                (0.02, counts[1]),
                (f64::INFINITY, counts[2]),
            ])
        };
        let difference = at([5, 105, 110]).since(&at([5, 5, 10]));
        assert_eq!(difference.quantile(0.5), Some(15.0));
        assert_eq!(
            at([0, 0, 10]).quantile(0.5),
            Some(20.0),
            "beyond the last bound"
        );
        assert_eq!(at([0, 0, 0]).quantile(0.5), None);
    }
}
