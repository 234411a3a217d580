//! The bytes of sealed windows: one value with those of all sensors of a device that
//! have the same length and start.

use std::sync::Arc;

use super::{Packer, UnpackError, Unpacker};
use crate::model::WindowSummary;
use crate::sealed::Sealed;
use crate::window::deviation;

/// The version of the format.
const VERSION: u8 = 2;
/// Bytes before the first sensor.
const HEAD_BYTES: usize = 21;
/// Bytes of one sensor's window, rounded up, without its name.
pub(crate) const SENSOR_BYTES: usize = 80;

pub(crate) fn encode(sealed: &Sealed) -> Vec<u8> {
    let names: usize = sealed.sensors.iter().map(|(sensor, _)| sensor.len()).sum();
    let bytes = HEAD_BYTES + sealed.sensors.len() * SENSOR_BYTES + names;
    let mut packer = Packer::new(VERSION, bytes);
    packer.i64(sealed.start);
    packer.i64(sealed.end());
    packer.u32(sealed.sensors.len() as u32);
    for (sensor, window) in &sealed.sensors {
        packer.text(sensor);
        packer.u64(window.count);
        for value in [
            window.min,
            window.max,
            window.mean,
            window.squares,
            window.first,
            window.last,
        ] {
            packer.f64(value);
        }
        packer.option(window.slope(), Packer::f64);
    }
    packer.finish()
}

/// The summaries in a value, by sensor.
pub(crate) fn decode(bytes: &[u8]) -> Result<Vec<(Arc<str>, WindowSummary)>, UnpackError> {
    let (_, mut unpacker) = Unpacker::new(bytes, VERSION..=VERSION)?;
    let (start, end) = (unpacker.i64()?, unpacker.i64()?);
    let mut windows = Vec::new();
    for _ in 0..unpacker.u32()? {
        let sensor = unpacker.text()?;
        let count = unpacker.u64()?;
        let summary = WindowSummary {
            start,
            end,
            count,
            min: unpacker.f64()?,
            max: unpacker.f64()?,
            mean: unpacker.f64()?,
            deviation: deviation(count, unpacker.f64()?),
            first: unpacker.f64()?,
            last: unpacker.f64()?,
            slope: unpacker.option(Unpacker::f64)?,
            sealed: true,
        };
        windows.push((sensor, summary));
    }
    unpacker.finish()?;
    Ok(windows)
}
