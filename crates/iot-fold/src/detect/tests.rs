//! All detectors together, on readings made from a fixed seed.

use super::*;

/// Numbers that are the same in every run.
struct Random(u64);

impl Random {
    /// Between 0 and 1 (a linear congruential generator, Knuth's MMIX).
    fn next(&mut self) -> f64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005);
        self.0 = self.0.wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 11) as f64 / (1_u64 << 53) as f64
    }

    /// About normal: the sum of twelve (Irwin and Hall).
    fn normal(&mut self) -> f64 {
        (0..12).map(|_| self.next()).sum::<f64>() - 6.0
    }
}

/// Readings of which each has 0.7 of the distance of the one before to the mean of
/// 25, with a deviation of 5 and two decimals.
fn readings(seed: u64, count: usize) -> Vec<f64> {
    let (mut random, mut away) = (Random(seed), 0.0);
    let values = (0..count).map(|_| {
        away = 0.7 * away + 0.51_f64.sqrt() * random.normal();
        ((25.0 + 5.0 * away) * 100.0).round() / 100.0
    });
    values.collect()
}

/// How often each kind is raised.
fn raised(values: &[f64], sensor: &str) -> [u32; AlertKind::ALL.len()] {
    let rules = DetectRules::new(Detection::default());
    let (mut detectors, mut raised) = (Detectors::default(), [0; AlertKind::ALL.len()]);
    let mut active = [false; AlertKind::ALL.len()];
    for value in values {
        let verdicts = detectors.look(
            &rules,
            rules.kinds(sensor, false),
            (Limits::NONE, None),
            (*value, 0),
        );
        for (kind, verdict) in verdicts.into_iter().enumerate() {
            let beyond = matches!(verdict, Verdict::Beyond(_));
            raised[kind] += u32::from(beyond && !active[kind]);
            active[kind] = beyond || active[kind] && verdict == Verdict::Near;
        }
    }
    raised
}

#[test]
fn a_healthy_sensor_is_quiet() {
    let mut all = [0; AlertKind::ALL.len()];
    for seed in 0..20 {
        for (all, one) in all.iter_mut().zip(raised(&readings(seed, 5_000), "x")) {
            *all += one;
        }
    }
    let [threshold, spike, stuck, drift, toggling, silence] = all;
    assert_eq!((threshold, stuck, toggling, silence), (0, 0, 0, 0));
    assert!(spike <= 3 && drift <= 3, "of 100,000 readings: {all:?}");
}

#[test]
fn each_anomaly_is_found_by_its_detector() {
    let mut found = [0; 3];
    for seed in 0..20 {
        let healthy = readings(seed, 1_000);
        let mut spike = healthy.clone();
        spike[800] += 40.0;
        let mut stuck = healthy.clone();
        stuck[800..820].fill(healthy[799]);
        let mut drift = healthy;
        for (step, value) in drift[800..820].iter_mut().enumerate() {
            *value += 1.5 * (step + 1) as f64;
        }
        found[0] += raised(&spike, "x")[AlertKind::Spike as usize];
        found[1] += raised(&stuck, "x")[AlertKind::Stuck as usize];
        found[2] += raised(&drift, "x")[AlertKind::Drift as usize];
    }
    assert_eq!(found[..2], [20, 20]);
    assert!((17..=21).contains(&found[2]), "{found:?}");
}

#[test]
fn a_switch_toggles_and_nothing_else() {
    let mut random = Random(1);
    let calm = (0..2_000).map(|_| f64::from(random.next() < 0.02));
    let mut states: Vec<_> = calm.collect();
    assert_eq!(raised(&states, "switch"), [0; 6]);
    for (number, state) in states[1_000..1_020].iter_mut().enumerate() {
        *state = (number % 2) as f64;
    }
    assert_eq!(raised(&states, "switch"), [0, 0, 0, 0, 1, 0]);
}

#[test]
fn one_value_for_ever_teaches_nothing_wrong() {
    let mut values = vec![20.0; 1_000];
    values.extend(readings(1, 300));
    let [_, spike, _, drift, ..] = raised(&values, "x");
    assert!(spike + drift <= 5, "{spike} {drift}");
    let mut detectors = Detectors::default();
    let rules = DetectRules::new(Detection::default());
    for value in values {
        detectors.look(
            &rules,
            rules.kinds("x", false),
            (Limits::NONE, None),
            (value, 0),
        );
    }
    assert!(detectors.drift.mean.is_finite() && detectors.drift.variance > 0.0);
}
