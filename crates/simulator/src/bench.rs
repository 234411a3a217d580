//! The inside, as benchmarks need it.

use rand::SeedableRng;
use rand_pcg::Pcg32;
use tokio::time::Instant;

use crate::config::{Format, KafkaConfig, SimulatorConfig};
use crate::fleet::{Device, Habits, Origin, Said};
use crate::lane::{Lane, Limits};
use crate::sensors::{self, Moment};

/// Of a message with one reading, bytes.
const PAYLOAD: [u8; 240] = [b'x'; 240];

/// A sensor by name, with what makes its next value: NaN while it has dropped out.
pub type Sensor = (&'static str, Box<dyn FnMut() -> f64>);

/// Every sensor.
#[must_use]
pub fn sensors() -> Vec<Sensor> {
    let habits = Habits::all(&SimulatorConfig::default()).remove(0);
    let sensors = sensors::PROFILES.iter().zip(habits.sensors);
    let next = sensors.map(|(profile, habit)| {
        let mut rng = Pcg32::seed_from_u64(1);
        let (mut state, conditions) = (profile.first_state(&mut rng), habits.conditions);
        let mut elapsed = 0.0;
        let next = move || {
            elapsed += 5.0 / 3600.0;
            let at = Moment {
                timestamp: 0,
                elapsed,
            };
            let sample = profile.sample(&mut state, at, &conditions, &habit.odds, &mut rng);
            sample.value.unwrap_or(f64::NAN)
        };
        let sensor: Sensor = (profile.name, Box::new(next));
        sensor
    });
    next.collect()
}

/// What appends the next message of a device with those sensors.
pub fn device(format: Format, sensors: &[&str]) -> impl FnMut(&mut Vec<u8>) {
    let mut config = SimulatorConfig {
        format,
        ..SimulatorConfig::default()
    };
    config.sensors.enabled = sensors.iter().map(|name| (*name).to_owned()).collect();
    let habits = Habits::all(&config);
    let mut device = Device::new(&config, &habits, 0);
    let mut truths = Vec::new();
    move |out| {
        let at = Moment {
            timestamp: 1_750_000_000_000,
            elapsed: 1.0,
        };
        device.speak(&habits, at, out, &mut truths);
        truths.clear();
    }
}

/// What fills a batch with ready messages, takes it and gives it back, and says how
/// many there were.
pub fn batch() -> impl FnMut() -> usize {
    let kafka = KafkaConfig::default();
    let mut lane = Lane::new(Limits {
        batch_bytes: kafka.batch_size.bytes(),
        batch_messages: kafka.batch_messages,
        linger: *kafka.linger,
        buffer_bytes: kafka.buffer.bytes(),
    });
    let now = Instant::now();
    move || loop {
        lane.push(now, Origin::default(), 0, |out| {
            out.extend_from_slice(&PAYLOAD);
            Said::Message {
                label: None,
                id: 0..0,
            }
        });
        if let Some(batch) = lane.take(now) {
            let count = batch.messages().count();
            lane.done(batch);
            return count;
        }
    }
}
