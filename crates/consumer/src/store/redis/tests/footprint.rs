//! How much memory of Redis a device takes; docs/state.md has what came of it.

use iot_core::message::{DeviceMessage, Quality, Reading};
use iot_fold::{Event, Fold, Folded};

use super::*;
use crate::config::ConsumerConfig;

const NAMES: [&str; 5] = ["temperature", "humidity", "pressure", "switch", "current"];
/// Readings, ten seconds apart: all windows are open, and some of a minute sealed.
const READINGS: i64 = 30;

fn message(device: usize, at: i64, sensors: usize) -> DeviceMessage<'static> {
    let reading = |sensor: &'static str| Reading {
        sensor: sensor.into(),
        value: ((device as i64 * 7 + at * 13) % 97) as f64 / 4.0,
        unit: None,
        quality: Quality::Good,
    };
    DeviceMessage {
        device_id: format!("device-{device:06}").into(),
        tenant: None,
        project: None,
        seq: Some(at as u64),
        timestamp: at * 10_000,
        location: None,
        readings: NAMES[..sensors].iter().copied().map(reading).collect(),
    }
}

#[tokio::test]
#[ignore = "measures"]
async fn memory_of_devices() {
    for (devices, sensors) in [(1_000, 5), (1_000, 1), (10_000, 1)] {
        let server = RedisServer::start(&[]).await;
        let bench = Bench::at(&server.url(), "footprint");
        let rules = ConsumerConfig::default().fold_rules();
        let mut fold = Fold::new(rules, &bench.topic, PART);
        let (mut offset, mut applied, mut windows) = (0, None, Vec::new());
        for at in 0..READINGS {
            for device in 0..devices {
                let message = message(device, at, sensors);
                let event = Event {
                    offset,
                    recorded: Some(now()),
                    tenant: "default",
                    project: "default",
                    message: &message,
                    is_undated: false,
                    unmatched: &[],
                };
                fold.apply(&event, &mut Folded::default()).unwrap();
                fold.take_updates();
                offset += 1;
                if offset % 1_000 == 0 {
                    let mut changes = fold.take_changes();
                    windows.append(&mut changes.windows);
                    bench.apply(applied, offset, &changes).await.unwrap();
                    applied = Some(offset);
                }
            }
        }
        let key = bench.key("state");
        let live: usize = bench.raw(&["MEMORY", "USAGE", &key, "SAMPLES", "0"]).await;
        let before = memory(&bench, "used_memory").await as usize;
        let count = windows.len();
        // In steps as small as the pipeline's: one with all of them would block Redis.
        while !windows.is_empty() {
            let rest = windows.split_off(windows.len().min(1_000));
            let sealed = changes([], std::mem::replace(&mut windows, rest));
            bench.apply(applied, offset + 1, &sealed).await.unwrap();
            offset += 1;
            applied = Some(offset);
        }
        let sealed = memory(&bench, "used_memory").await as usize - before;
        let each = sealed / count;
        println!(
            "{devices} devices with {sensors}: {live} B live, {} B per sensor; {} keys of sealed \
             windows, {each} B each, {} B per sensor",
            live / devices / sensors,
            count,
            each / sensors,
        );
    }
}
