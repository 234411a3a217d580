//! How the consumer lays state out in Redis, schema 2, as docs/state.md has it:
//! names of keys and fields, and the bytes of values. The only file to change when
//! the layout does.

use iot_core::message::Quality;

use super::model::{Moment, Place, Span, Summary, Values, Window};

/// The schema that is read here.
pub(super) const SCHEMA: &str = "2";
/// Fields of a partition's hash that are no values.
pub(super) const SCHEMA_FIELD: &str = "schema";
pub(super) const OFFSET_FIELD: &str = "offset";
/// First byte of a device: the second kind ends with what is known of its silence.
const DEVICE_VERSIONS: [u8; 2] = [2, 3];
/// First byte of sealed windows.
const SEALED_VERSIONS: [u8; 1] = [2];
/// Bytes of an alert.
const ALERT: usize = 60;
/// Between the parts of a name.
const SEPARATOR: char = '\0';

/// A value can't be read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Unreadable(pub(super) String);

/// What is stored of a device.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct StoredDevice {
    pub(super) watermark: i64,
    pub(super) newest: Moment,
    pub(super) place: Option<Place>,
    pub(super) sensors: Vec<(String, StoredSensor)>,
}

/// What is stored of a sensor.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct StoredSensor {
    pub(super) value: f64,
    pub(super) unit: Option<String>,
    pub(super) quality: Quality,
    pub(super) newest: Moment,
    pub(super) open: Vec<Window>,
}

/// Windows of a device that were sealed together, by sensor.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct StoredWindows {
    pub(super) start: i64,
    pub(super) end: i64,
    pub(super) windows: Vec<(String, Summary)>,
}

/// Begin of all keys of a partition.
pub(super) fn key_prefix(prefix: &str, topic: &str, partition: i32) -> String {
    format!("{prefix}:{{{topic}:{partition}}}:")
}

/// Name of a device, which the names of its values contain.
pub(super) fn device_name(tenant: &str, project: &str, device: &str) -> String {
    [tenant, project, device].join("\0")
}

/// Field that holds a device.
pub(super) fn device_field(device: &str) -> String {
    format!("d{SEPARATOR}{device}")
}

/// End of the key that holds sealed windows.
pub(super) fn window_key(device: &str, span: Span) -> String {
    let Span { size, start } = span;
    format!("w{SEPARATOR}{device}{SEPARATOR}{size}{SEPARATOR}{start}")
}

/// Begin of the end of any key that holds sealed windows.
pub(super) const WINDOW: &str = "w\0";

/// Device and span of the end of a key; `None` if it is no key of sealed windows.
pub(super) fn parse_window_key(key: &str) -> Option<(String, Span)> {
    let parts: Vec<&str> = key.split(SEPARATOR).collect();
    let ["w", tenant, project, device, size, start] = parts[..] else {
        return None;
    };
    let span = Span {
        size: size.parse().ok()?,
        start: start.parse().ok()?,
    };
    let device = device_name(tenant, project, device);
    // Another way to write the same numbers is another key.
    (window_key(&device, span) == key).then_some((device, span))
}

/// A name as it is shown.
pub(super) fn shown(name: &str) -> String {
    name.replace(SEPARATOR, "·")
}

/// Reads the value of a [`device_field`].
///
/// # Errors
/// It is of another version, or damaged.
pub(super) fn device(bytes: &[u8]) -> Result<StoredDevice, Unreadable> {
    let (version, mut reader) = Reader::new(bytes, &DEVICE_VERSIONS)?;
    let device = StoredDevice {
        watermark: reader.i64()?,
        newest: reader.moment()?,
        place: reader.option(|reader| Ok([reader.text()?, reader.text()?, reader.text()?]))?,
        sensors: {
            // Which rules the detectors have learnt by.
            reader.u32()?;
            reader.list(|reader| reader.part(sensor))?
        },
    };
    if version > 2 {
        reader.silence()?;
    }
    reader.end()?;
    Ok(device)
}

/// Reads a sensor and its name. What comes after the open windows is alerts and
/// detectors, which are not compared.
fn sensor(reader: &mut Reader<'_>) -> Result<(String, StoredSensor), Unreadable> {
    let name = reader.text()?;
    let sensor = StoredSensor {
        value: reader.f64()?,
        unit: reader.option(Reader::text)?,
        quality: match reader.u8()? {
            0 => Quality::Good,
            1 => Quality::Uncertain,
            2 => Quality::Bad,
            other => return Err(Unreadable(format!("there is no quality {other}"))),
        },
        newest: reader.moment()?,
        open: reader.list(Reader::window)?,
    };
    Ok((name, sensor))
}

/// Reads the value of a [`window_key`].
///
/// # Errors
/// It is of another version, or damaged.
pub(super) fn sealed(bytes: &[u8]) -> Result<StoredWindows, Unreadable> {
    let (_, mut reader) = Reader::new(bytes, &SEALED_VERSIONS)?;
    let sealed = StoredWindows {
        start: reader.i64()?,
        end: reader.i64()?,
        windows: reader.list(|reader| Ok((reader.text()?, reader.summary()?)))?,
    };
    reader.end()?;
    Ok(sealed)
}

/// Reads little-endian numbers, and texts with their length first.
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    /// Begins with the version, which has to be one of these.
    fn new(bytes: &'a [u8], versions: &[u8]) -> Result<(u8, Self), Unreadable> {
        let mut reader = Self(bytes);
        let version = reader.u8()?;
        if versions.contains(&version) {
            return Ok((version, reader));
        }
        let known = versions.iter().map(u8::to_string).collect::<Vec<_>>();
        let known = known.join(" or ");
        Err(Unreadable(format!("its format is {version}, not {known}")))
    }

    /// When the device was last heard and its last silence, which are detection and not
    /// compared.
    fn silence(&mut self) -> Result<(), Unreadable> {
        self.option(|reader| reader.take(3 * size_of::<i64>()).map(drop))?;
        self.option(|reader| reader.take(ALERT).map(drop))?;
        Ok(())
    }

    fn take(&mut self, length: usize) -> Result<&'a [u8], Unreadable> {
        let (head, rest) = self
            .0
            .split_at_checked(length)
            .ok_or_else(|| Unreadable("it ends too early".into()))?;
        self.0 = rest;
        Ok(head)
    }

    fn u8(&mut self) -> Result<u8, Unreadable> {
        Ok(self.take(1)?.iter().copied().sum())
    }

    fn u32(&mut self) -> Result<u32, Unreadable> {
        let bytes = self.take(4)?;
        Ok(bytes.iter().rev().fold(0, |n, b| n << 8 | u32::from(*b)))
    }

    fn u64(&mut self) -> Result<u64, Unreadable> {
        let bytes = self.take(8)?;
        Ok(bytes.iter().rev().fold(0, |n, b| n << 8 | u64::from(*b)))
    }

    fn i64(&mut self) -> Result<i64, Unreadable> {
        self.u64().map(u64::cast_signed)
    }

    fn f64(&mut self) -> Result<f64, Unreadable> {
        self.u64().map(f64::from_bits)
    }

    /// Bytes with their length before them.
    fn bytes(&mut self) -> Result<&'a [u8], Unreadable> {
        let length = self.u32()?;
        // What does not fit is too long for any value.
        self.take(usize::try_from(length).unwrap_or(usize::MAX))
    }

    /// Reads from a part with its length before it, and skips the rest of it.
    fn part<T>(
        &mut self,
        read: impl FnOnce(&mut Self) -> Result<T, Unreadable>,
    ) -> Result<T, Unreadable> {
        read(&mut Self(self.bytes()?))
    }

    fn text(&mut self) -> Result<String, Unreadable> {
        let text = std::str::from_utf8(self.bytes()?);
        text.map(str::to_owned)
            .map_err(|_| Unreadable("a text is not UTF-8".into()))
    }

    fn option<T>(
        &mut self,
        read: impl FnOnce(&mut Self) -> Result<T, Unreadable>,
    ) -> Result<Option<T>, Unreadable> {
        match self.u8()? {
            0 => Ok(None),
            1 => read(self).map(Some),
            other => Err(Unreadable(format!("{other} is neither yes nor no"))),
        }
    }

    /// A number of items and the items.
    fn list<T>(
        &mut self,
        read: impl Fn(&mut Self) -> Result<T, Unreadable>,
    ) -> Result<Vec<T>, Unreadable> {
        // Not reserved: a damaged number can be any.
        (0..self.u32()?).map(|_| read(self)).collect()
    }

    fn moment(&mut self) -> Result<Moment, Unreadable> {
        Ok(Moment {
            timestamp: self.i64()?,
            seq: self.option(Self::u64)?,
        })
    }

    fn values(&mut self) -> Result<Values, Unreadable> {
        Ok(Values {
            count: self.u64()?,
            min: self.f64()?,
            max: self.f64()?,
            mean: self.f64()?,
            squares: self.f64()?,
            first: self.f64()?,
            last: self.f64()?,
        })
    }

    fn window(&mut self) -> Result<Window, Unreadable> {
        Ok(Window {
            span: Span {
                size: self.u32()?.into(),
                start: self.i64()?,
            },
            values: self.values()?,
            first_at: self.u32()?.into(),
            last_at: self.u32()?.into(),
            time_mean: self.f64()?,
            time_squares: self.f64()?,
            products: self.f64()?,
        })
    }

    fn summary(&mut self) -> Result<Summary, Unreadable> {
        Ok(Summary {
            values: self.values()?,
            slope: self.option(Self::f64)?,
        })
    }

    fn end(&self) -> Result<(), Unreadable> {
        match self.0.len() {
            0 => Ok(()),
            more => Err(Unreadable(format!("{more} bytes follow its end"))),
        }
    }
}

#[cfg(test)]
#[path = "layout_tests.rs"]
mod tests;
