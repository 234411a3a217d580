use rand_pcg::Pcg32;

use super::*;

const PLAIN: Conditions = Conditions {
    anomaly_rate: 0.0,
    trend: 0.0,
    variation: 1.0,
};

fn samples(name: &str, conditions: &Conditions, count: usize) -> Vec<Sample> {
    let profile = find(name).expect(name);
    let mut rng = Pcg32::new(7, 11);
    let mut state = profile.first_state(&mut rng);
    (0..count)
        .map(|_| profile.sample(&mut state, 0.0, conditions, &mut rng))
        .collect()
}

fn values(name: &str, conditions: &Conditions, count: usize) -> Vec<f64> {
    samples(name, conditions, count)
        .iter()
        .map(|sample| sample.value)
        .collect()
}

fn mean_and_deviation(values: &[f64]) -> (f64, f64) {
    let count = values.len() as f64;
    let mean = values.iter().sum::<f64>() / count;
    let variance = values.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / count;
    (mean, variance.sqrt())
}

fn share(values: &[f64], what: impl Fn(f64) -> bool) -> f64 {
    values.iter().filter(|v| what(**v)).count() as f64 / values.len() as f64
}

#[test]
fn agrees_with_the_standard_catalogue() {
    for standard in iot_core::sensor::ALL {
        let profile = find(standard.name).expect(standard.name);
        assert_eq!(profile.unit, standard.unit);
        let (least, most) = profile.physical;
        assert_eq!(least..=most, standard.physical, "{}", standard.name);
    }
}

#[test]
fn normal_values_have_the_mean_and_deviation_of_the_table() {
    for (name, mean, deviation) in [
        ("temperature", 25.0, 5.0),
        ("humidity", 60.0, 10.0),
        ("current", 2.5, 0.5),
    ] {
        let (m, d) = mean_and_deviation(&values(name, &PLAIN, 200_000));
        assert!((m - mean).abs() < 0.02 * mean, "{name}: mean {m}");
        assert!((d / deviation - 1.0).abs() < 0.02, "{name}: deviation {d}");
    }
}

#[test]
fn pressure_is_clipped_and_not_reshaped() {
    let values = values("pressure", &PLAIN, 200_000);
    // N(1013, 20): 3.2 % lie above 1050 and are clipped to it, 8.9 % above 1040.
    assert!((share(&values, |v| v == 1050.0) - 0.032).abs() < 0.004);
    assert!((share(&values, |v| v > 1040.0) - 0.089).abs() < 0.006);
}

#[test]
fn normal_values_stay_in_their_bounds() {
    for profile in PROFILES {
        let (least, most) = profile.bounds;
        let wild = Conditions {
            trend: 1.0,
            ..PLAIN
        };
        let values = values(profile.name, &wild, 50_000);
        assert!(
            values.iter().all(|v| (least..=most).contains(v)),
            "{}",
            profile.name
        );
    }
}

#[test]
fn neighbours_are_correlated_by_the_smoothing() {
    for name in ["temperature", "switch"] {
        let values = values(name, &PLAIN, 200_000);
        let (mean, deviation) = mean_and_deviation(&values);
        let covariance = values
            .windows(2)
            .map(|pair| (pair[0] - mean) * (pair[1] - mean))
            .sum::<f64>()
            / values.len() as f64;
        let correlation = covariance / (deviation * deviation);
        assert!(
            (correlation - SMOOTHING).abs() < 0.02,
            "{name}: {correlation}"
        );
    }
}

#[test]
fn a_switch_is_on_four_times_out_of_five() {
    let values = values("switch", &PLAIN, 100_000);
    assert!((share(&values, |v| v == 1.0) - 0.8).abs() < 0.01);
    assert!(values.iter().all(|v| *v == 0.0 || *v == 1.0));
}

#[test]
fn anomalies_come_at_their_rate_stick_out_and_are_labelled() {
    let conditions = Conditions {
        anomaly_rate: 0.05,
        ..PLAIN
    };
    for profile in PROFILES {
        let samples = samples(profile.name, &conditions, 100_000);
        let spikes: Vec<f64> = samples
            .iter()
            .filter(|sample| sample.label == Some("spike"))
            .map(|sample| sample.value)
            .collect();
        let rate = spikes.len() as f64 / samples.len() as f64;
        if profile.anomaly == Anomaly::None {
            assert!(spikes.is_empty());
            continue;
        }
        assert!((rate - 0.05).abs() < 0.005, "{}: {rate}", profile.name);
        let (least, most) = profile.physical;
        assert!(spikes.iter().all(|v| (least..=most).contains(v)));
        let alert = iot_core::sensor::lookup(profile.name).and_then(|s| s.alert);
        let seen = share(&spikes, |v| alert.is_some_and(|a| a.is_crossed_by(v)));
        assert!(seen > 0.5, "{}: {seen} of the spikes alert", profile.name);
    }
}

#[test]
fn a_spike_is_two_to_five_times_the_value() {
    let profile = find("current").unwrap();
    assert_eq!(profile.anomalous(3.0, 0.0), Some(6.0));
    assert_eq!(profile.anomalous(3.0, 1.0), Some(15.0));
    assert_eq!(find("humidity").unwrap().anomalous(50.0, 1.0), Some(10.0));
    assert_eq!(
        find("pressure").unwrap().anomalous(1013.0, 1.0),
        Some(2000.0)
    );
}

#[test]
fn the_anomaly_rate_does_not_change_the_values_around() {
    let often = Conditions {
        anomaly_rate: 0.1,
        ..PLAIN
    };
    let plain = samples("temperature", &PLAIN, 1_000);
    for (with, without) in samples("temperature", &often, 1_000).iter().zip(plain) {
        assert!(with.label.is_some() || *with == without);
    }
}

#[test]
fn a_trend_moves_the_mean() {
    let conditions = Conditions {
        trend: 1.0,
        ..PLAIN
    };
    let profile = find("temperature").unwrap();
    let mut rng = Pcg32::new(1, 1);
    let mut at = |hour: f64| {
        let mut state = 0.0;
        let values: Vec<f64> = (0..20_000)
            .map(|_| {
                profile
                    .sample(&mut state, hour - FIRST_HOUR, &conditions, &mut rng)
                    .value
            })
            .collect();
        mean_and_deviation(&values).0
    };
    assert!((at(15.0) - 28.0).abs() < 0.5 && (at(27.0) - 22.0).abs() < 0.5);
}
