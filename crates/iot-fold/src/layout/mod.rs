//! What a store holds: keys and bytes. docs/state.md describes the same as tables, for
//! readers that are not this program.
//!
//! A stored value begins with the version of its format. Readers accept the versions
//! that they know and refuse the others.

mod detectors;
mod device;
mod log_time;
mod pack;
mod windows;

use crate::model::DeviceKey;
pub(crate) use device::{ALERT_BYTES, WINDOW_BYTES, is_without_time};
pub(crate) use log_time::BYTES as TIME_BYTES;
pub use log_time::KEY as TIME_KEY;
pub use pack::UnpackError;
pub(crate) use pack::{Packer, Unpacker};
pub(crate) use windows::{
    SENSOR_BYTES as SEALED_BYTES, decode as decode_windows, encode as encode_windows,
};

/// The version of keys and values together. A store writes it beside the values, and
/// refuses state that has another one, except [`SCHEMA_BEFORE`].
pub const SCHEMA: &str = "3";

/// The schema before, which has no fields about the log. A store takes its state over in place.
pub const SCHEMA_BEFORE: &str = "2";

/// Bytes of the removal of a device, rounded up, without its names.
pub(crate) const REMOVED_BYTES: usize = 4;

/// Separates the parts of a key. Names can't contain it: validation refuses control
/// characters.
const SEPARATOR: char = '\0';

/// The key of a device's live value: `d`, tenant, project, device.
pub(crate) fn device_key(key: &DeviceKey) -> String {
    join('d', key, &[])
}

/// The device whose live value has this key; `None` for any other key.
pub(crate) fn parse_device_key(name: &str) -> Option<DeviceKey> {
    let mut parts = name.split(SEPARATOR);
    let mut next = || parts.next();
    let ("d", tenant, project, device) = (next()?, next()?, next()?, next()?) else {
        return None;
    };
    next().is_none().then(|| DeviceKey {
        tenant: tenant.into(),
        project: project.into(),
        device: device.into(),
    })
}

/// The key of a device's sealed windows that start at `start` and are `size` ms long:
/// `w`, tenant, project, device, size, start.
pub(crate) fn window_key(key: &DeviceKey, size: i64, start: i64) -> String {
    join('w', key, &[&size.to_string(), &start.to_string()])
}

fn join(kind: char, key: &DeviceKey, rest: &[&str]) -> String {
    let mut out = String::from(kind);
    let names = [&*key.tenant, &*key.project, &*key.device];
    for part in names.iter().chain(rest) {
        out.push(SEPARATOR);
        out.push_str(part);
    }
    out
}
