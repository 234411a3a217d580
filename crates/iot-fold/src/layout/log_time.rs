//! The bytes of the time of a partition.

use super::{Packer, UnpackError, Unpacker};
use crate::log_time::{LogPosition, LogTime};

/// The version of the format.
const VERSION: u8 = 1;
/// Key of the value: `p`, `time`.
pub const KEY: &str = "p\0time";
/// Most bytes of the value.
pub(crate) const BYTES: usize = 166;

pub(super) fn put_position(packer: &mut Packer, position: LogPosition) {
    packer.i64(position.offset);
    packer.i64(position.recorded);
    packer.i64(position.clock);
    packer.i64(position.age);
}

pub(super) fn take_position(unpacker: &mut Unpacker<'_>) -> Result<LogPosition, UnpackError> {
    let position = take_position_of_format_3(unpacker)?;
    let age = unpacker.i64()?;
    Ok(LogPosition { age, ..position })
}

/// In format 3 of a device a position had no age.
pub(super) fn take_position_of_format_3(
    unpacker: &mut Unpacker<'_>,
) -> Result<LogPosition, UnpackError> {
    let (offset, recorded) = (unpacker.i64()?, unpacker.i64()?);
    Ok(LogPosition {
        offset,
        recorded,
        clock: unpacker.i64()?,
        age: recorded,
    })
}

impl LogTime {
    pub(crate) fn pack(&self) -> Vec<u8> {
        let mut packer = Packer::new(VERSION, BYTES);
        put_position(&mut packer, self.now);
        packer.u8(u8::from(self.is_taken_over));
        packer.u32(self.times.len() as u32);
        for time in &self.times {
            packer.i64(*time);
        }
        packer.finish()
    }

    /// The time that [`pack`](Self::pack) wrote.
    ///
    /// # Errors
    /// This version cannot read the value.
    pub(crate) fn unpack(bytes: &[u8]) -> Result<Self, UnpackError> {
        let (_, mut unpacker) = Unpacker::new(bytes, VERSION..=VERSION)?;
        let now = take_position(&mut unpacker)?;
        let is_taken_over = unpacker.flag()?;
        let count = unpacker.u32()? as usize;
        if count > Self::MOST {
            return Err(UnpackError::Damaged);
        }
        let times = (0..count).map(|_| unpacker.i64());
        let times = times.collect::<Result<_, _>>()?;
        unpacker.finish()?;
        Ok(Self {
            now,
            times,
            is_taken_over,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::log_time::MaxSteps;

    #[test]
    fn the_time_of_a_partition_is_read_as_it_was_written() {
        let mut time = LogTime::new(3, 1_000);
        for offset in 4..40 {
            let bytes = time.pack();
            assert!(bytes.len() <= BYTES, "{}", bytes.len());
            assert_eq!(LogTime::unpack(&bytes), Ok(time.clone()));
            let most = MaxSteps { clock: 5, age: 7 };
            time.advance(offset, Some(1_000 + offset), most);
        }
        let mut more = time.pack();
        more[1 + 32 + 1] = 17;
        assert_eq!(LogTime::unpack(&more), Err(UnpackError::Damaged));
        more[0] = 2;
        assert_eq!(LogTime::unpack(&more), Err(UnpackError::Version(2)));
    }
}
