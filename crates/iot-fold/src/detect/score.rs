//! Alerts against labelled anomalies of the simulator, and what detectors cost.
//! docs/detection.md has the commands and what came of them.

use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::time::Instant;

use iot_core::message::parse;
use serde::Deserialize;

use super::*;
use crate::catalogue::Catalogue;
use crate::fold::{Event, Fold, FoldRules, Folded};
use crate::limits::LimitRules;
use crate::model::AlertStatus;
use crate::window::WindowRules;

/// A line of the simulator's truth file.
#[derive(Deserialize)]
struct Label {
    device: String,
    sensor: String,
    kind: String,
    from: i64,
    to: i64,
}

/// Device and sensor.
type Series = (String, String);

#[derive(Default)]
struct Score {
    alerts: usize,
    /// Raised while there was an anomaly of the kind.
    right: usize,
    /// Raised in an anomaly of another kind or within three readings of its end.
    other: usize,
    anomalies: usize,
    found: usize,
    /// Readings from the first of an anomaly to its alert, both counted.
    delays: Vec<usize>,
}

fn lines(variable: &str) -> impl Iterator<Item = String> {
    let path = std::env::var(variable).expect("docs/detection.md says what to give");
    BufReader::new(File::open(path).unwrap())
        .lines()
        .map(Result::unwrap)
}

/// What the consumer says of the messages in a file: times of all readings, and
/// times at which alerts were raised, by label of their kind.
type Said = (
    HashMap<Series, Vec<i64>>,
    BTreeMap<&'static str, Vec<(Series, i64)>>,
);

fn consume() -> Said {
    let detect = std::env::var("DETECT").map_or_else(
        |_| Detection::default(),
        |detect| serde_json::from_str(&detect).unwrap(),
    );
    let rules = FoldRules {
        windows: WindowRules::new(vec![60_000], 30_000, 15),
        detect: DetectRules::new(detect),
        limits: LimitRules::new(&Catalogue::new([]), &[]),
        silence: None,
        retention: None,
        devices: 100_000,
        sensors: 64,
    };
    let mut fold = Fold::new(rules, "device-data", 0);
    let (mut times, mut raised) = (HashMap::<Series, Vec<i64>>::new(), BTreeMap::new());
    for (offset, line) in (0..).zip(lines("MESSAGES")) {
        let message = parse(line.as_bytes()).unwrap();
        let event = Event {
            offset,
            recorded: None,
            tenant: "t",
            project: "p",
            message: &message,
            is_undated: false,
            unmatched: &[],
        };
        fold.apply(&event, &mut Folded::default()).unwrap();
        for reading in &message.readings {
            let series = (message.device_id.to_string(), reading.sensor.to_string());
            times.entry(series).or_default().push(message.timestamp);
        }
        for (_, alert) in fold.take_updates().alerts {
            if alert.state == AlertStatus::Raised && alert.count == 1 {
                let series = (alert.key.device.to_string(), alert.sensor.to_string());
                let list: &mut Vec<_> = raised.entry(alert.kind.label()).or_default();
                list.push((series, alert.raised_at));
            }
        }
        fold.take_changes();
    }
    (times, raised)
}

#[test]
#[ignore = "needs files of the simulator"]
fn alerts_are_scored_by_labels() {
    let (times, raised) = consume();
    let number = |series: &Series, at: i64| times[series].partition_point(|time| *time < at);
    let labels = lines("TRUTH").map(|line| serde_json::from_str::<Label>(&line).unwrap());
    let mut labelled = BTreeMap::<Series, Vec<Label>>::new();
    for label in labels {
        let series = (label.device.clone(), label.sensor.clone());
        labelled.entry(series).or_default().push(label);
    }
    let mut scores = BTreeMap::<String, Score>::new();
    for (kind, alerts) in &raised {
        let score = scores.entry((*kind).to_owned()).or_default();
        for (series, at) in alerts {
            let labels = labelled.get(series).map_or(&[][..], |labels| labels);
            let within = |label: &&Label| label.from <= *at && *at <= label.to;
            let near = |label: &&Label| {
                label.from <= *at && number(series, *at) <= number(series, label.to) + 3
            };
            let right = labels.iter().filter(|label| label.kind == *kind);
            let right = right.filter(within).count() > 0;
            score.alerts += 1;
            score.right += usize::from(right);
            score.other += usize::from(!right && labels.iter().any(|label| near(&label)));
        }
    }
    let mut anomalous = BTreeMap::<_, (usize, usize)>::new();
    for (series, labels) in &labelled {
        for label in labels {
            // Nothing is said while detectors learn.
            if label.kind == "dropout" || number(series, label.from) < 200 {
                continue;
            }
            let score = scores.entry(label.kind.clone()).or_default();
            let of_kind = raised.get(&*label.kind).map_or(&[][..], |alerts| alerts);
            let mut alerts = of_kind
                .iter()
                .filter(|(of, at)| of == series && (label.from..=label.to).contains(at));
            let sensors = anomalous.entry((label.kind.clone(), series.1.clone()));
            let sensors = sensors.or_default();
            score.anomalies += 1;
            sensors.0 += 1;
            if let Some((_, at)) = alerts.next() {
                score.found += 1;
                sensors.1 += 1;
                let delay = number(series, *at) - number(series, label.from) + 1;
                score.delays.push(delay);
            }
        }
    }
    let readings: usize = times.values().map(Vec::len).sum();
    println!("{readings} readings of {} sensors", times.len());
    println!(
        "| kind | anomalies | found | recall | alerts | right | precision | wrong a 100,000 readings | near another anomaly | delay P50 | P95 |"
    );
    for (kind, mut score) in scores {
        score.delays.sort_unstable();
        let delay = |part: usize| score.delays.get(score.delays.len() * part / 100);
        println!(
            "| {kind} | {} | {} | {:.3} | {} | {} | {:.3} | {:.2} | {} | {:?} | {:?} |",
            score.anomalies,
            score.found,
            score.found as f64 / score.anomalies as f64,
            score.alerts,
            score.right,
            score.right as f64 / score.alerts as f64,
            (score.alerts - score.right) as f64 / readings as f64 * 1e5,
            score.other,
            delay(50).unwrap_or(&0),
            delay(95).unwrap_or(&0),
        );
    }
    println!("found by sensor: {anomalous:?}");
    let mut wrong = BTreeMap::<_, usize>::new();
    for (kind, alerts) in &raised {
        for ((_, sensor), _) in alerts {
            *wrong.entry((*kind, sensor)).or_default() += 1;
        }
    }
    println!("alerts by sensor: {wrong:?}");
}

#[test]
#[ignore = "measures"]
fn cost_of_a_reading() {
    const READINGS: u32 = 10_000_000;
    let rules = DetectRules::new(Detection::default());
    let limits = Catalogue::new([]).find("temperature").unwrap().limits;
    let (kinds, mut detectors) = (rules.kinds("temperature", false), Detectors::default());
    let (mut random, mut beyond) = (1_u64, 0_usize);
    let begun = Instant::now();
    for _ in 0..READINGS {
        random = random
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        let value = 20.0 + (random >> 52) as f64 / 500.0;
        let verdicts = detectors.look(&rules, kinds, (limits, None), (value, 0));
        beyond += usize::from(verdicts.iter().any(|v| *v != Verdict::Normal));
    }
    let each = begun.elapsed().as_nanos() / u128::from(READINGS);
    println!("{each} ns a reading; {beyond} were not normal");
}
