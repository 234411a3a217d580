//! Access to internals for the benchmarks.

use rand::SeedableRng;
use rand_pcg::Pcg32;
use tokio::time::Instant;

use crate::config::{Format, KafkaConfig, SimulatorConfig};
use crate::fleet::{Device, DeviceProfile, Emitted, Origin};
use crate::lane::{Lane, Limits, Times};
use crate::sensors::{self, Moment};

/// As large as a message with one reading.
const PAYLOAD: [u8; 240] = [b'x'; 240];

/// The name of a sensor and the function that returns its next value, NaN during a
/// dropout.
pub type Sensor = (&'static str, Box<dyn FnMut() -> f64>);

/// All sensors.
#[must_use]
pub fn sensors() -> Vec<Sensor> {
    let devices = DeviceProfile::all(&SimulatorConfig::default()).remove(0);
    let sensors = sensors::PROFILES.iter().zip(devices.sensors);
    let next = sensors.map(|(profile, sensor)| {
        let mut rng = Pcg32::seed_from_u64(1);
        let mut state = profile.first_state(&sensor.process, &mut rng);
        let conditions = devices.conditions;
        let mut elapsed = 0.0;
        let next = move || {
            elapsed += 5.0 / 3600.0;
            let at = Moment {
                timestamp: 0,
                elapsed,
            };
            let process = &sensor.process;
            let sample =
                profile.sample(process, &mut state, at, &conditions, &sensor.odds, &mut rng);
            sample.value.unwrap_or(f64::NAN)
        };
        let sensor: Sensor = (profile.name, Box::new(next));
        sensor
    });
    next.collect()
}

/// Returns a function that appends the next message of a device with these sensors.
pub fn device(format: Format, sensors: &[&str]) -> impl FnMut(&mut Vec<u8>) {
    let mut config = SimulatorConfig {
        format,
        ..SimulatorConfig::default()
    };
    config.sensors.enabled = sensors.iter().map(|name| (*name).to_owned()).collect();
    let profiles = DeviceProfile::all(&config);
    let mut device = Device::new(&config, &profiles, 0);
    let mut truths = Vec::new();
    move |out| {
        let at = Moment {
            timestamp: 1_750_000_000_000,
            elapsed: 1.0,
        };
        device.emit(&profiles, at, out, &mut truths);
        truths.clear();
    }
}

/// Returns a function that fills a batch with prepared messages, takes it and returns it
/// to the lane. Its result is the number of messages.
pub fn batch() -> impl FnMut() -> usize {
    let kafka = KafkaConfig::default();
    let mut lane = Lane::new(Limits {
        batch_bytes: kafka.batch_size.bytes(),
        batch_messages: kafka.batch_messages,
        linger: *kafka.linger,
        buffer_bytes: kafka.buffer.bytes(),
    });
    let now = Instant::now();
    let times = Times {
        due: now,
        timestamp: 0,
    };
    move || loop {
        lane.push(now, Origin::default(), times, |out| {
            out.extend_from_slice(&PAYLOAD);
            Emitted::Message {
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
