use rand_pcg::Pcg32;

use super::*;
use crate::config::AnomalyConfig;

mod process;

const PLAIN: Conditions = Conditions {
    trend: 0.0,
    variation: 1.0,
};
const NEVER: f64 = 0.0;

fn at(elapsed: f64) -> Moment {
    Moment {
        timestamp: 0,
        elapsed,
    }
}

/// The process with the default settings.
fn process(profile: &Profile) -> Process {
    Process::new(profile, &SensorsConfig::default(), Duration::from_secs(5))
}

/// Readings one millisecond apart.
fn samples(name: &str, conditions: &Conditions, rate: f64, count: usize) -> Vec<Sample> {
    let profile = find(name).expect(name);
    let config = AnomalyConfig {
        rate,
        ..AnomalyConfig::default()
    };
    let odds = Odds::new(&config, profile.anomalies());
    let mut rng = Pcg32::new(7, 11);
    let process = process(profile);
    let mut state = profile.first_state(&process, &mut rng);
    (0..count)
        .map(|n| {
            let at = Moment {
                timestamp: n as i64,
                elapsed: 0.0,
            };
            profile.sample(&process, &mut state, at, conditions, &odds, &mut rng)
        })
        .collect()
}

fn values(name: &str, conditions: &Conditions, count: usize) -> Vec<f64> {
    samples(name, conditions, NEVER, count)
        .iter()
        .map(|sample| sample.value.unwrap())
        .collect()
}

/// The readings of each anomaly of a kind.
fn episodes(samples: &[Sample], kind: Kind) -> Vec<&[Sample]> {
    let ends = samples.iter().filter_map(|sample| sample.ended);
    let ends = ends.filter(|episode| episode.kind == kind);
    ends.map(|episode| &samples[episode.from as usize..=episode.to as usize])
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
fn sensors_agree_with_the_standard_sensors() {
    for standard in iot_core::sensor::ALL {
        let profile = find(standard.name).expect(standard.name);
        assert_eq!(profile.unit, standard.unit);
        let (least, most) = profile.physical;
        assert_eq!(least..=most, standard.physical, "{}", standard.name);
    }
}

#[test]
fn normal_values_have_the_mean_and_deviation_of_their_profile() {
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
fn pressure_is_clipped_to_its_bounds() {
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
fn consecutive_values_are_correlated_by_the_smoothing() {
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
fn a_switch_is_on_with_its_probability() {
    let values = values("switch", &PLAIN, 100_000);
    assert!((share(&values, |v| v == 1.0) - 0.8).abs() < 0.01);
    assert!(values.iter().all(|v| *v == 0.0 || *v == 1.0));
}

#[test]
fn anomalies_have_their_rate_and_label() {
    const RATE: f64 = 0.1;
    for profile in PROFILES {
        let samples = samples(profile.name, &PLAIN, RATE, 400_000);
        let share = |kind| {
            let of_kind = samples.iter().filter(|sample| sample.anomaly == Some(kind));
            of_kind.count() as f64 / samples.len() as f64
        };
        let possible = profile.anomalies();
        for kind in possible {
            let (share, expected) = (share(*kind), RATE / possible.len() as f64);
            assert!(
                (share / expected - 1.0).abs() < 0.1,
                "{} {kind:?}: {share}",
                profile.name
            );
        }
        let all: f64 = possible.iter().map(|kind| share(*kind)).sum();
        assert!((all / RATE - 1.0).abs() < 0.05, "{}: {all}", profile.name);
    }
}

#[test]
fn most_spikes_cross_the_alert_threshold() {
    for profile in PROFILES.iter().filter(|p| p.spike != Spike::None) {
        let samples = samples(profile.name, &PLAIN, 0.1, 100_000);
        let spikes = samples.iter().filter(|s| s.anomaly == Some(Kind::Spike));
        let spikes: Vec<f64> = spikes.filter_map(|sample| sample.value).collect();
        let (least, most) = profile.physical;
        assert!(spikes.iter().all(|v| (least..=most).contains(v)));
        let alert = iot_core::sensor::lookup(profile.name).and_then(|s| s.alert);
        let seen = share(&spikes, |v| alert.is_some_and(|a| a.is_crossed_by(v)));
        assert!(seen > 0.5, "{}: {seen} of the spikes alert", profile.name);
    }
}

#[test]
fn a_stuck_value_does_not_change() {
    let samples = samples("temperature", &PLAIN, 0.1, 100_000);
    let stuck = episodes(&samples, Kind::Stuck);
    assert!(stuck.len() > 50);
    for readings in stuck {
        let values: Vec<_> = readings.iter().map(|reading| reading.value).collect();
        assert_eq!(values.len(), 20);
        assert!(values.iter().all(|value| *value == values[0]));
    }
}

#[test]
fn a_drift_moves_away_until_its_end() {
    let samples = samples("pressure", &PLAIN, 0.1, 100_000);
    let mut ups = 0;
    let drifts = episodes(&samples, Kind::Drift);
    for readings in &drifts {
        let values: Vec<_> = readings.iter().filter_map(|r| r.value).collect();
        let half = values.len() / 2;
        let mean = |values: &[f64]| values.iter().sum::<f64>() / values.len() as f64;
        // The halves differ by three deviations (of 20 hPa) on average, and readings
        // scatter by one.
        ups += usize::from(mean(&values[half..]) > mean(&values[..half]));
        let away = (values[values.len() - 1] - 1013.0).abs();
        assert!(away > 40.0, "{values:?}");
    }
    let share = ups as f64 / drifts.len() as f64;
    assert!((0.3..0.7).contains(&share), "{share} of them go up");
}

#[test]
fn a_dropout_has_no_readings_and_a_switch_toggles() {
    let samples = samples("switch", &PLAIN, 0.1, 100_000);
    for readings in episodes(&samples, Kind::Dropout) {
        assert!(readings.iter().all(|reading| reading.value.is_none()));
    }
    let toggling = episodes(&samples, Kind::Toggling);
    assert!(toggling.len() > 50);
    for readings in toggling {
        let changes = readings.windows(2).all(|two| two[0].value != two[1].value);
        assert!(changes && readings.len() == 20);
    }
}

#[test]
fn a_spike_is_two_to_five_times_the_value() {
    let profile = find("current").unwrap();
    assert_eq!(profile.spiked(2.5, 3.0, 0.0), 6.0);
    assert_eq!(profile.spiked(2.5, 3.0, 1.0), 15.0);
    let (humidity, pressure) = (find("humidity").unwrap(), find("pressure").unwrap());
    assert_eq!(humidity.spiked(60.0, 50.0, 1.0), 10.0);
    assert_eq!(pressure.spiked(1013.0, 1013.0, 1.0), 2000.0);
}

#[test]
fn a_spike_from_any_permitted_mean_stands_out() {
    for profile in PROFILES.iter().filter(|p| p.spike != Spike::None) {
        for (share, size) in [(0.0, 0.0), (0.05, 0.5), (0.5, 0.0), (1.0, 1.0)] {
            let (least, most) = profile.bounds;
            let (mean, deviation) = (least + share * (most - least), (most - least) / 20.0);
            let process = Process {
                normal: Normal::Gauss { mean, deviation },
                ..process(profile)
            };
            let value = profile.spiked(mean, mean, size);
            let value = profile.set_apart(&process, value, mean, size);
            let moved = (value - mean).abs();
            assert!(moved >= 3.0 * deviation, "{} {mean}: {value}", profile.name);
        }
    }
}

#[test]
fn the_anomaly_rate_does_not_change_normal_values() {
    let plain = samples("temperature", &PLAIN, NEVER, 1_000);
    for (with, without) in samples("temperature", &PLAIN, 0.1, 1_000).iter().zip(plain) {
        assert!(with.anomaly.is_some() || *with == without);
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
    let config = AnomalyConfig {
        rate: NEVER,
        ..AnomalyConfig::default()
    };
    let odds = Odds::new(&config, profile.anomalies());
    let process = process(profile);
    let mut mean_at = |hour: f64| {
        let mut state = profile.first_state(&process, &mut rng);
        let values: Vec<f64> = (0..20_000)
            .filter_map(|_| {
                let at = at(hour - FIRST_HOUR);
                profile
                    .sample(&process, &mut state, at, &conditions, &odds, &mut rng)
                    .value
            })
            .collect();
        mean_and_deviation(&values).0
    };
    assert!((mean_at(15.0) - 28.0).abs() < 0.5 && (mean_at(27.0) - 22.0).abs() < 0.5);
}

/// The distribution function of N(0, 1): Abramowitz and Stegun, 7.1.26, to
/// 1.5e-7.
fn normal_below(z: f64) -> f64 {
    let x = z.abs() / std::f64::consts::SQRT_2;
    let t = 1.0 / (1.0 + 0.327_591_1 * x);
    let tail = [
        1.061_405_429,
        -1.453_152_027,
        1.421_413_741,
        -0.284_496_736,
        0.254_829_592,
    ]
    .iter()
    .fold(0.0, |sum, coefficient| (sum + coefficient) * t)
        * (-x * x).exp();
    if z > 0.0 {
        1.0 - tail / 2.0
    } else {
        tail / 2.0
    }
}

/// The Kolmogorov-Smirnov distance of values from the normal distribution clipped to
/// the sensor's bounds.
fn distance(values: &mut [f64], profile: &Profile) -> f64 {
    let Normal::Gauss { mean, deviation } = profile.normal else {
        panic!("{} is not normal", profile.name);
    };
    values.sort_by(f64::total_cmp);
    let count = values.len() as f64;
    let (least, most) = profile.bounds;
    let mut distance: f64 = 0.0;
    for (index, value) in values.iter().enumerate() {
        if (least..most).contains(value) && *value > least {
            let expected = normal_below((value - mean) / deviation);
            let (below, up_to) = (index as f64 / count, (index + 1) as f64 / count);
            distance = distance.max(expected - below).max(up_to - expected);
        }
    }
    distance
}

#[test]
fn normal_values_are_normally_distributed() {
    for name in ["temperature", "humidity", "pressure", "current"] {
        let profile = find(name).unwrap();
        let values = values(name, &PLAIN, 400_000);
        // Far enough apart to be independent in spite of the smoothing.
        let mut apart: Vec<f64> = values.into_iter().step_by(20).collect();
        // The critical value at a level of 0.001, plus the effect of rounding: half a
        // step, times the greatest density of 0.4 per deviation.
        let rounding = 0.4 * 0.5 / profile.steps / process(profile).deviation();
        let limit = 1.95 / (apart.len() as f64).sqrt() + rounding;
        let distance = distance(&mut apart, profile);
        assert!(distance < limit, "{name}: {distance}, {limit} at most");
    }
}

#[test]
fn the_distance_detects_a_smaller_deviation() {
    let profile = find("temperature").unwrap();
    let shrunken = Conditions {
        variation: 0.9,
        ..PLAIN
    };
    let values = values("temperature", &shrunken, 400_000);
    let mut apart: Vec<f64> = values.into_iter().step_by(20).collect();
    assert!(distance(&mut apart, profile) > 0.02);
}

#[test]
fn trends_have_their_periods() {
    const PERIODS: usize = 16;
    const IN_A_PERIOD: usize = 64;
    let conditions = Conditions {
        trend: 1.0,
        ..PLAIN
    };
    for (name, hours) in [
        ("temperature", 24.0),
        ("humidity", 365.0 * 24.0),
        ("pressure", 96.0),
        ("switch", 24.0),
        ("current", 24.0),
    ] {
        let profile = find(name).unwrap();
        let odds = Odds::new(&AnomalyConfig::default(), &[]);
        let mut rng = Pcg32::new(3, 5);
        let process = process(profile);
        let mut state = profile.first_state(&process, &mut rng);
        let count = PERIODS * IN_A_PERIOD;
        let values: Vec<f64> = (0..count)
            .map(|n| {
                let at = at(hours * n as f64 / IN_A_PERIOD as f64);
                // The mean of several readings reduces the noise.
                let readings = (0..50).filter_map(|_| {
                    profile
                        .sample(&process, &mut state, at, &conditions, &odds, &mut rng)
                        .value
                });
                readings.sum::<f64>() / 50.0
            })
            .collect();
        // Amplitude of the wave with this number of periods.
        let power = |times: usize| {
            let turn = std::f64::consts::TAU * times as f64 / count as f64;
            let (mut re, mut im) = (0.0, 0.0);
            for (n, value) in values.iter().enumerate() {
                re += value * (turn * n as f64).cos();
                im += value * (turn * n as f64).sin();
            }
            re.hypot(im)
        };
        let others = (1..count / 2).filter(|times| *times != PERIODS).map(power);
        let next = others.fold(0.0, f64::max);
        assert!(
            power(PERIODS) > 4.0 * next,
            "{name}: {} {next}",
            power(PERIODS)
        );
    }
}
