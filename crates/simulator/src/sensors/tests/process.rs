//! Correlation over time, and devices with a level of their own.

use rand::SeedableRng;

use super::*;
use crate::config::SensorConfig;

/// Values of many devices: `count` readings each, of which every `apart`th is kept.
fn fleet_values(
    name: &str,
    change: impl Fn(&mut SensorsConfig),
    (devices, count, apart): (u64, usize, usize),
) -> Vec<Vec<f64>> {
    let profile = find(name).unwrap();
    let mut config = SensorsConfig::default();
    change(&mut config);
    let process = Process::new(profile, &config, Duration::from_secs(2));
    let odds = Odds::new(&AnomalyConfig::default(), &[]);
    let values = (0..devices).map(|device| {
        let mut rng = Pcg32::seed_from_u64(device);
        let mut state = profile.first_state(&process, &mut rng);
        let sample = (0..count).filter_map(|_| {
            let sample = profile.sample(&process, &mut state, at(0.0), &PLAIN, &odds, &mut rng);
            sample.value
        });
        sample.step_by(apart).collect()
    });
    values.collect()
}

fn slow(correlation: u64, own_level: f64) -> impl Fn(&mut SensorConfig) {
    move |sensor| {
        sensor.correlation = Duration::from_secs(correlation).into();
        sensor.own_level = own_level;
    }
}

#[test]
fn a_correlation_time_keeps_the_distribution() {
    let slow = slow(600, 0.6);
    // Of each device one value: all are independent.
    let values = fleet_values("pressure", |c| slow(&mut c.pressure), (20_000, 30, 30));
    let mut values = values.concat();
    assert!((share(&values, |v| v == 1050.0) - 0.032).abs() < 0.006);
    let profile = find("pressure").unwrap();
    let rounding = 0.4 * 0.5 / profile.steps / process(profile).deviation();
    let limit = 1.95 / (values.len() as f64).sqrt() + rounding;
    let distance = distance(&mut values, profile);
    assert!(distance < limit, "{distance}, {limit} at most");
    // Over time, too: one device over 2,000 correlation times.
    let slow = self::slow(60, 0.0);
    let values = fleet_values("temperature", |c| slow(&mut c.temperature), (1, 60_000, 1));
    let (mean, deviation) = mean_and_deviation(&values[0]);
    assert!((mean - 25.0).abs() < 0.5, "{mean}");
    assert!((deviation / 5.0 - 1.0).abs() < 0.06, "{deviation}");
}

#[test]
fn values_are_correlated_for_their_correlation_time() {
    let slow = slow(60, 0.0);
    let values = fleet_values("temperature", |c| slow(&mut c.temperature), (1, 200_000, 1));
    let (values, (mean, deviation)) = (&values[0], mean_and_deviation(&values[0]));
    // Readings are 2 s apart.
    for (lag, expected) in [(1, (-2.0_f64 / 60.0).exp()), (30, (-1.0_f64).exp())] {
        let pairs = values.iter().zip(&values[lag..]);
        let covariance: f64 = pairs.map(|(a, b)| (a - mean) * (b - mean)).sum();
        let correlation = covariance / (values.len() - lag) as f64 / deviation.powi(2);
        assert!(
            (correlation - expected).abs() < 0.05,
            "{lag}: {correlation}"
        );
    }
    let is_slow = |c: &mut SensorsConfig| c.switch.correlation = Duration::from_secs(600).into();
    let switch = fleet_values("switch", is_slow, (1, 200_000, 1)).concat();
    assert!((share(&switch, |v| v == 1.0) - 0.8).abs() < 0.08);
    let changes = switch.windows(2).filter(|two| two[0] != two[1]).count();
    // Of 666 draws, 0.32 are changes.
    assert!((140..300).contains(&changes), "{changes}");
}

#[test]
fn a_device_keeps_its_own_level() {
    let slow = slow(20, 0.6);
    let devices = fleet_values("temperature", |c| slow(&mut c.temperature), (400, 2_000, 1));
    let of_devices: Vec<_> = devices.iter().map(|v| mean_and_deviation(v)).collect();
    let (means, deviations): (Vec<f64>, Vec<f64>) = of_devices.into_iter().unzip();
    // Variances of 0.6 and 0.4 of 25.
    let between = mean_and_deviation(&means).1;
    assert!((between - 15.0_f64.sqrt()).abs() < 0.4, "{between}");
    let within = mean_and_deviation(&deviations).0;
    assert!((within - 10.0_f64.sqrt()).abs() < 0.2, "{within}");
    let all = mean_and_deviation(&devices.concat()).1;
    assert!((all - 5.0).abs() < 0.3, "{all}");
}

#[test]
fn a_room_does_not_swing_within_a_minute() {
    let slow = slow(1_800, 0.6);
    // A minute of readings every 2 s.
    let rooms = fleet_values("temperature", |c| slow(&mut c.temperature), (200, 30, 1));
    for values in rooms {
        let most = values.iter().fold(f64::MIN, |a, b| a.max(*b));
        let least = values.iter().fold(f64::MAX, |a, b| a.min(*b));
        assert!(most - least < 5.0, "{values:?}");
    }
}
