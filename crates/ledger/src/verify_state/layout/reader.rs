//! Reads values in the layout of docs/state.md.

use super::super::model::{Moment, Span, Summary, ThresholdAlert, Values, Waiting, Window};
use super::{StoredDetection, Unreadable};

/// Size of an alert in bytes.
const ALERT: usize = 60;
/// Kind of the alerts of thresholds.
const THRESHOLD: u8 = 0;
/// Size of what the detectors of a sensor have learnt, up to the value that waits.
pub(super) const DETECTORS: usize = 102;

/// Reads little-endian numbers and length-prefixed strings.
pub(super) struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    /// Reads the version, which must be one of `versions`.
    pub(super) fn new(bytes: &'a [u8], versions: &[u8]) -> Result<(u8, Self), Unreadable> {
        let mut reader = Self(bytes);
        let version = reader.u8()?;
        if versions.contains(&version) {
            return Ok((version, reader));
        }
        let known = versions.iter().map(u8::to_string).collect::<Vec<_>>();
        let known = known.join(" or ");
        Err(Unreadable(format!(
            "unknown version {version}; expected {known}"
        )))
    }

    /// Reads the offset of the last message, and skips the rest of the state of silence
    /// detection, which is not compared.
    pub(super) fn silence(&mut self, version: u8) -> Result<Option<i64>, Unreadable> {
        // Time and clock, and from version 4 on the age.
        let numbers = if version > 3 { 3 } else { 2 };
        let heard = self.option(|reader| {
            let offset = reader.i64()?;
            reader.take(numbers * size_of::<i64>())?;
            Ok(offset)
        })?;
        self.option(|reader| reader.take(ALERT).map(drop))?;
        Ok(heard)
    }

    /// Reads the alert of the thresholds and the value that waits to raise one, and skips other
    /// alerts and the detectors.
    pub(super) fn detection(&mut self) -> Result<StoredDetection, Unreadable> {
        let mut alert = None;
        for _ in 0..self.u8()? {
            let mut part = Reader(self.take(ALERT)?);
            if part.u8()? == THRESHOLD {
                alert = Some(part.threshold_alert()?);
            }
        }
        self.take(DETECTORS)?;
        let waiting = self.option(|reader| {
            Ok(Waiting {
                since: reader.i64()?,
                above: reader.flag()?,
            })
        })?;
        self.end()?;
        Ok(StoredDetection { alert, waiting })
    }

    /// Reads an alert after its kind.
    pub(super) fn threshold_alert(&mut self) -> Result<ThresholdAlert, Unreadable> {
        Ok(ThresholdAlert {
            raised: self.flag()?,
            critical: self.flag()?,
            above: self.flag()?,
            offset: self.i64()?,
            value: self.f64()?,
            limit: self.f64()?,
            timestamp: self.i64()?,
            raised_at: self.i64()?,
            count: self.u64()?,
        })
    }

    pub(super) fn ahead(&mut self, version: u8) -> Result<Option<bool>, Unreadable> {
        (version > 3).then(|| self.flag()).transpose()
    }

    pub(super) fn flag(&mut self) -> Result<bool, Unreadable> {
        Ok(self.option(|_| Ok(()))?.is_some())
    }

    pub(super) fn take(&mut self, length: usize) -> Result<&'a [u8], Unreadable> {
        let (head, rest) = self
            .0
            .split_at_checked(length)
            .ok_or_else(|| Unreadable("the value is truncated".into()))?;
        self.0 = rest;
        Ok(head)
    }

    pub(super) fn u8(&mut self) -> Result<u8, Unreadable> {
        Ok(self.take(1)?.iter().copied().sum())
    }

    pub(super) fn u32(&mut self) -> Result<u32, Unreadable> {
        let bytes = self.take(4)?;
        Ok(bytes.iter().rev().fold(0, |n, b| n << 8 | u32::from(*b)))
    }

    pub(super) fn u64(&mut self) -> Result<u64, Unreadable> {
        let bytes = self.take(8)?;
        Ok(bytes.iter().rev().fold(0, |n, b| n << 8 | u64::from(*b)))
    }

    pub(super) fn i64(&mut self) -> Result<i64, Unreadable> {
        self.u64().map(u64::cast_signed)
    }

    pub(super) fn f64(&mut self) -> Result<f64, Unreadable> {
        self.u64().map(f64::from_bits)
    }

    /// Length-prefixed bytes.
    pub(super) fn bytes(&mut self) -> Result<&'a [u8], Unreadable> {
        let length = self.u32()?;
        // A length that does not fit into usize exceeds any value.
        self.take(usize::try_from(length).unwrap_or(usize::MAX))
    }

    /// Reads from a length-prefixed part and skips its rest.
    pub(super) fn part<T>(
        &mut self,
        read: impl FnOnce(&mut Self) -> Result<T, Unreadable>,
    ) -> Result<T, Unreadable> {
        read(&mut Self(self.bytes()?))
    }

    pub(super) fn text(&mut self) -> Result<String, Unreadable> {
        let text = std::str::from_utf8(self.bytes()?);
        text.map(str::to_owned)
            .map_err(|_| Unreadable("a string is not UTF-8".into()))
    }

    pub(super) fn option<T>(
        &mut self,
        read: impl FnOnce(&mut Self) -> Result<T, Unreadable>,
    ) -> Result<Option<T>, Unreadable> {
        match self.u8()? {
            0 => Ok(None),
            1 => read(self).map(Some),
            other => Err(Unreadable(format!("invalid flag {other}"))),
        }
    }

    /// Items with their number first.
    pub(super) fn list<T>(
        &mut self,
        read: impl Fn(&mut Self) -> Result<T, Unreadable>,
    ) -> Result<Vec<T>, Unreadable> {
        // No memory is reserved, because a corrupt number can be huge.
        (0..self.u32()?).map(|_| read(self)).collect()
    }

    pub(super) fn moment(&mut self) -> Result<Moment, Unreadable> {
        Ok(Moment {
            timestamp: self.i64()?,
            seq: self.option(Self::u64)?,
        })
    }

    pub(super) fn values(&mut self) -> Result<Values, Unreadable> {
        Ok(Values {
            count: self.u64()?,
            min: self.f64()?,
            max: self.f64()?,
            mean: self.f64()?,
            squared_deviations: self.f64()?,
            first: self.f64()?,
            last: self.f64()?,
        })
    }

    pub(super) fn window(&mut self) -> Result<Window, Unreadable> {
        Ok(Window {
            span: Span {
                size: self.u32()?.into(),
                start: self.i64()?,
            },
            values: self.values()?,
            first_at: self.u32()?.into(),
            last_at: self.u32()?.into(),
            time_mean: self.f64()?,
            time_squared_deviations: self.f64()?,
            deviation_products: self.f64()?,
        })
    }

    pub(super) fn summary(&mut self) -> Result<Summary, Unreadable> {
        Ok(Summary {
            values: self.values()?,
            slope: self.option(Self::f64)?,
        })
    }

    pub(super) fn end(&self) -> Result<(), Unreadable> {
        match self.0.len() {
            0 => Ok(()),
            more => Err(Unreadable(format!("{more} bytes follow the value"))),
        }
    }
}
