//! The bytes of what the detectors of a sensor have learnt.

use super::{Packer, UnpackError, Unpacker};
use crate::detect::{Detectors, Drift, Pending, Spike, Stuck, Toggling};

pub(super) fn put_detectors(packer: &mut Packer, detectors: &Detectors) {
    let Detectors {
        spike,
        stuck,
        drift,
        toggling,
        pending,
        ..
    } = detectors;
    packer.u32(detectors.readings);
    packer.u8(detectors.values);
    packer.f64(detectors.last);
    packer.f64(detectors.other);
    packer.f64(detectors.step);
    packer.f64(spike.mean);
    packer.f64(spike.variance);
    packer.u8(spike.beyond);
    packer.u32(stuck.run);
    packer.f64(stuck.varies);
    packer.f64(stuck.usual);
    for value in [drift.mean, drift.variance, drift.up, drift.down] {
        packer.f64(value);
    }
    packer.u32(toggling.changes);
    packer.option(*pending, |packer, pending| {
        packer.i64(pending.since);
        packer.u8(u8::from(pending.above));
    });
}

/// `version` is that of the device's format.
pub(super) fn take_detectors(
    unpacker: &mut Unpacker<'_>,
    version: u8,
) -> Result<Detectors, UnpackError> {
    Ok(Detectors {
        readings: unpacker.u32()?,
        values: unpacker.u8()?,
        last: unpacker.f64()?,
        other: unpacker.f64()?,
        step: unpacker.f64()?,
        spike: Spike {
            mean: unpacker.f64()?,
            variance: unpacker.f64()?,
            beyond: unpacker.u8()?,
        },
        stuck: Stuck {
            run: unpacker.u32()?,
            varies: unpacker.f64()?,
            usual: unpacker.f64()?,
        },
        drift: Drift {
            mean: unpacker.f64()?,
            variance: unpacker.f64()?,
            up: unpacker.f64()?,
            down: unpacker.f64()?,
        },
        toggling: Toggling {
            changes: unpacker.u32()?,
        },
        pending: match version {
            ..=4 => None,
            _ => unpacker.option(take_pending)?,
        },
    })
}

fn take_pending(unpacker: &mut Unpacker<'_>) -> Result<Pending, UnpackError> {
    Ok(Pending {
        since: unpacker.i64()?,
        above: unpacker.flag()?,
    })
}
