//! Compares alerts with anomalies: recall, precision and delay.

use std::collections::{BTreeMap, BTreeSet};

use iot_core::sensor;
use serde::{Deserialize, Serialize};

/// Kind of alerts that are checked against the sensor's threshold instead of labels.
const THRESHOLD: &str = "threshold";
/// Kind of anomalies without readings, which no alert of readings can find.
const DROPOUT: &str = "dropout";

/// Identity of one sensor of a device.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
pub(super) struct Series {
    pub(super) tenant: String,
    pub(super) project: String,
    pub(super) device: String,
    pub(super) sensor: String,
}

/// A line of the simulator's truth file, with the times of its first and last reading in
/// milliseconds since the Unix epoch.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub(super) struct Anomaly {
    #[serde(flatten)]
    pub(super) series: Series,
    pub(super) kind: String,
    pub(super) from: i64,
    pub(super) to: i64,
}

/// A raised alert.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub(super) struct Alert {
    pub(super) id: String,
    #[serde(flatten)]
    pub(super) series: Series,
    pub(super) kind: String,
    pub(super) raised_at: i64,
}

/// The data to compare.
#[derive(Debug, Default)]
pub(super) struct Evidence {
    /// Times and values.
    readings: BTreeMap<Series, Vec<(i64, f64)>>,
    anomalies: Vec<Anomaly>,
    /// Times of the readings with a label, by kind.
    labels: BTreeMap<(Series, String), BTreeSet<i64>>,
    /// Alerts by id.
    alerts: BTreeMap<String, Alert>,
}

/// The result for one kind.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub(super) struct Score {
    /// Number of anomalies after the warm-up.
    pub(super) anomalies: usize,
    /// Number of anomalies during which an alert was raised.
    pub(super) found: usize,
    /// `found` / `anomalies`; `None` without anomalies.
    pub(super) recall: Option<f64>,
    pub(super) alerts: usize,
    /// Number of alerts raised during an anomaly of the kind, or beyond the threshold.
    pub(super) right: usize,
    /// `right` / `alerts`; `None` without alerts.
    pub(super) precision: Option<f64>,
    /// Number of readings from the first of an anomaly to its alert, both included.
    pub(super) delay_p50: Option<usize>,
    pub(super) delay_p95: Option<usize>,
}

impl Evidence {
    pub(super) fn add_reading(&mut self, series: Series, time: i64, value: f64) {
        self.readings.entry(series).or_default().push((time, value));
    }

    pub(super) fn add_anomaly(&mut self, anomaly: Anomaly) {
        self.anomalies.push(anomaly);
    }

    /// Adds a labelled reading; consecutive ones are one anomaly.
    pub(super) fn add_label(&mut self, series: Series, kind: &str, time: i64) {
        let labels = self.labels.entry((series, kind.to_owned()));
        labels.or_default().insert(time);
    }

    /// Adds an alert; a duplicate with the same id is ignored.
    pub(super) fn add_alert(&mut self, alert: Alert) {
        self.alerts.insert(alert.id.clone(), alert);
    }

    /// The number of readings and of sensors.
    pub(super) fn counts(&self) -> (usize, usize) {
        let readings = self.readings.values().map(Vec::len).sum();
        (readings, self.readings.len())
    }

    /// The scores by kind. Anomalies before the `warm_up`-th reading of their sensor do not
    /// count, because detectors have to learn first. Neither do alerts of sensors or times
    /// without readings.
    pub(super) fn score(mut self, warm_up: usize) -> BTreeMap<String, Score> {
        for readings in self.readings.values_mut() {
            readings.sort_by_key(|(time, _)| *time);
        }
        self.join_labels();
        let mut scores = BTreeMap::<String, Score>::new();
        let alerts: Vec<&Alert> = self.alerts.values().filter(|a| self.covers(a)).collect();
        for alert in &alerts {
            let score = scores.entry(alert.kind.clone()).or_default();
            score.alerts += 1;
            score.right += usize::from(self.is_right(alert));
        }
        let mut delays = BTreeMap::<&str, Vec<usize>>::new();
        let anomalies = self.anomalies.iter();
        for anomaly in anomalies.filter(|anomaly| self.counts_in(anomaly, warm_up)) {
            let score = scores.entry(anomaly.kind.clone()).or_default();
            score.anomalies += 1;
            let of_it = alerts.iter().filter(|alert| anomaly.has(alert));
            if let Some(first) = of_it.map(|alert| alert.raised_at).min() {
                score.found += 1;
                let number = |at| self.number(&anomaly.series, at);
                let delay = number(first) - number(anomaly.from) + 1;
                delays.entry(&anomaly.kind).or_default().push(delay);
            }
        }
        for (kind, score) in &mut scores {
            let delays = delays.remove(&**kind).unwrap_or_default();
            score.finish(delays);
        }
        scores
    }

    /// Joins consecutive labelled readings to anomalies.
    fn join_labels(&mut self) {
        for ((series, kind), times) in std::mem::take(&mut self.labels) {
            let Some(readings) = self.readings.get(&series) else {
                continue;
            };
            let labelled = |(time, _): &(i64, f64)| times.contains(time);
            for run in readings.chunk_by(|a, b| labelled(a) == labelled(b)) {
                if let (Some(first), Some(last)) = (run.first(), run.last())
                    && labelled(first)
                {
                    self.anomalies.push(Anomaly {
                        series: series.clone(),
                        kind: kind.clone(),
                        from: first.0,
                        to: last.0,
                    });
                }
            }
        }
    }

    fn covers(&self, alert: &Alert) -> bool {
        let readings = self.readings.get(&alert.series);
        let ends = readings.and_then(|readings| Some((readings.first()?.0, readings.last()?.0)));
        ends.is_some_and(|(first, last)| (first..=last).contains(&alert.raised_at))
    }

    fn counts_in(&self, anomaly: &Anomaly, warm_up: usize) -> bool {
        anomaly.kind != DROPOUT
            && self.readings.contains_key(&anomaly.series)
            && self.number(&anomaly.series, anomaly.from) >= warm_up
    }

    fn is_right(&self, alert: &Alert) -> bool {
        if alert.kind == THRESHOLD {
            return self.is_beyond_limit(alert);
        }
        self.anomalies.iter().any(|anomaly| anomaly.has(alert))
    }

    /// Whether a reading at the time of the alert crosses the standard sensor's threshold.
    fn is_beyond_limit(&self, alert: &Alert) -> bool {
        let limit = sensor::lookup(&alert.series.sensor).and_then(|sensor| sensor.alert);
        let readings = self.readings.get(&alert.series);
        let (Some(limit), Some(readings)) = (limit, readings) else {
            return false;
        };
        let from = readings.partition_point(|(time, _)| *time < alert.raised_at);
        let then = readings[from..].iter();
        then.take_while(|(time, _)| *time == alert.raised_at)
            .any(|(_, value)| limit.is_crossed_by(*value))
    }

    /// The number of readings of a sensor before a time.
    fn number(&self, series: &Series, at: i64) -> usize {
        let readings = self.readings.get(series);
        readings.map_or(0, |all| all.partition_point(|(time, _)| *time < at))
    }
}

impl Anomaly {
    /// Whether an alert of this kind was raised during the anomaly.
    fn has(&self, alert: &Alert) -> bool {
        self.kind == alert.kind
            && (self.from..=self.to).contains(&alert.raised_at)
            && self.series == alert.series
    }
}

impl Score {
    fn finish(&mut self, mut delays: Vec<usize>) {
        let share = |part: usize, all: usize| (all > 0).then(|| part as f64 / all as f64);
        self.recall = share(self.found, self.anomalies);
        self.precision = share(self.right, self.alerts);
        delays.sort_unstable();
        let percentile = |part: usize| delays.get(delays.len() * part / 100).copied();
        (self.delay_p50, self.delay_p95) = (percentile(50), percentile(95));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn series(sensor: &str) -> Series {
        let [tenant, project, device] = ["t", "p", "d"].map(str::to_owned);
        Series {
            tenant,
            project,
            device,
            sensor: sensor.to_owned(),
        }
    }

    /// One reading per second; `temperature` is above its threshold from second 70 on.
    fn evidence() -> Evidence {
        let mut evidence = Evidence::default();
        // In descending order, because the log is not ordered by event time.
        for second in (0..100_i64).rev() {
            let value = if second < 70 { 20.0 } else { 60.0 };
            for sensor in ["temperature", "humidity"] {
                evidence.add_reading(series(sensor), second * 1_000, value);
            }
        }
        evidence
    }

    fn anomaly(kind: &str, from: i64, to: i64) -> Anomaly {
        Anomaly {
            series: series("temperature"),
            kind: kind.to_owned(),
            from: from * 1_000,
            to: to * 1_000,
        }
    }

    fn alert(kind: &str, sensor: &str, second: i64) -> Alert {
        Alert {
            id: format!("{kind} {sensor} {second}"),
            series: series(sensor),
            kind: kind.to_owned(),
            raised_at: second * 1_000,
        }
    }

    #[test]
    fn recall_precision_and_delay_are_computed() {
        let mut evidence = evidence();
        // Within the warm-up, found, missed, and found late.
        for (from, to) in [(5, 9), (20, 29), (40, 49), (60, 69)] {
            evidence.add_anomaly(anomaly("stuck", from, to));
        }
        evidence.add_anomaly(anomaly("dropout", 30, 35));
        for second in [6, 24, 69, 69] {
            evidence.add_alert(alert("stuck", "temperature", second));
        }
        // Another kind, another sensor, after all readings, a sensor without readings.
        evidence.add_alert(alert("drift", "temperature", 45));
        evidence.add_alert(alert("stuck", "humidity", 45));
        evidence.add_alert(alert("stuck", "temperature", 100));
        evidence.add_alert(alert("stuck", "pressure", 45));
        assert_eq!(evidence.counts(), (200, 2));
        let scores = evidence.score(10);
        let stuck = Score {
            anomalies: 3,
            found: 2,
            recall: Some(2.0 / 3.0),
            alerts: 4,
            right: 3,
            precision: Some(0.75),
            delay_p50: Some(10),
            delay_p95: Some(10),
        };
        assert_eq!(scores["stuck"], stuck);
        let drift = &scores["drift"];
        assert_eq!((drift.recall, drift.precision), (None, Some(0.0)));
        assert!(!scores.contains_key("dropout"));
    }

    #[test]
    fn threshold_alerts_need_no_label() {
        let mut evidence = evidence();
        for second in [69, 70, 71] {
            evidence.add_alert(alert("threshold", "temperature", second));
        }
        let scores = evidence.score(0);
        let threshold = &scores["threshold"];
        assert_eq!((threshold.alerts, threshold.right), (3, 2));
        assert_eq!(threshold.recall, None);
    }

    #[test]
    fn consecutive_labelled_readings_are_one_anomaly() {
        let mut evidence = evidence();
        for second in [30, 31, 32, 40] {
            evidence.add_label(series("temperature"), "drift", second * 1_000);
        }
        evidence.add_alert(alert("drift", "temperature", 32));
        let scores = evidence.score(0);
        let drift = &scores["drift"];
        assert_eq!((drift.anomalies, drift.found), (2, 1));
        assert_eq!((drift.precision, drift.delay_p50), (Some(1.0), Some(3)));
    }

    #[test]
    fn truth_file_and_alerts_are_parsed() {
        let line = r#"{"tenant":"t","project":"p","device":"d","sensor":"temperature",
            "kind":"stuck","from":20000,"to":29000}"#;
        let read: Anomaly = serde_json::from_str(line).unwrap();
        assert_eq!(read, anomaly("stuck", 20, 29));
        let event = r#"{"id":"stuck temperature 24","tenant":"t","project":"p","device":"d",
            "location":null,"sensor":"temperature","kind":"stuck","level":"warning",
            "state":"raised","value":1.0,"limit":10.0,"message":"","timestamp":24000,
            "raised_at":24000,"count":1}"#;
        let read: Alert = serde_json::from_str(event).unwrap();
        assert_eq!(read, alert("stuck", "temperature", 24));
    }
}
