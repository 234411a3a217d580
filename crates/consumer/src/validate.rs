//! What a message must satisfy beyond its format. One impossible reading refuses the whole
//! message: the other readings of that moment cannot be trusted either, and the dead letter
//! keeps them all.

use iot_core::message::{DeviceMessage, Reading};
use iot_fold::{Catalogue, LATEST};

use crate::config::ValidateConfig;
use crate::config::millis;
use crate::refusal::Refusal;

/// 2000-01-01. Earlier times come from a clock that was never set, or from seconds in place
/// of milliseconds.
const EARLIEST: i64 = 946_684_800_000;
/// Longest device id, in bytes.
const MAX_DEVICE_ID: usize = 256;
/// Longest name of a sensor, in bytes.
const MAX_SENSOR: usize = 128;
/// Largest value. Squares of larger values are infinite and would permanently spoil means
/// and deviations.
const MAX_VALUE: f64 = 1e100;
/// Longest name of a unit, in bytes.
const MAX_UNIT: usize = 32;
/// Longest part of a location, in bytes.
const MAX_PLACE: usize = 128;

/// The limits of one configuration.
#[derive(Debug, Clone)]
pub(crate) struct Validator {
    max_future: i64,
}

impl Validator {
    pub(crate) fn new(config: &ValidateConfig) -> Self {
        Self {
            max_future: millis(*config.max_future),
        }
    }

    /// Checks a message. Its time is compared with the time of its record (`recorded`, in
    /// milliseconds; a fixed time if it has none) and never with a clock, so that reading the
    /// log again decides the same.
    ///
    /// # Errors
    /// The first problem that was found.
    pub(crate) fn check(
        &self,
        message: &DeviceMessage<'_>,
        recorded: Option<i64>,
        catalogue: &Catalogue,
    ) -> Result<(), Refusal> {
        check_text(&message.device_id, MAX_DEVICE_ID).map_err(|()| Refusal::InvalidDeviceId)?;
        if message.timestamp < EARLIEST {
            return Err(Refusal::TimestampImplausible);
        }
        let known = recorded.filter(|at| *at >= 0);
        let latest = known.map_or(LATEST, |at| at.saturating_add(self.max_future).min(LATEST));
        if message.timestamp > latest {
            return Err(Refusal::TimestampInFuture);
        }
        if let Some(place) = &message.location {
            for part in [&place.building, &place.floor, &place.room] {
                let valid = part.is_empty() || check_text(part, MAX_PLACE).is_ok();
                valid.then_some(()).ok_or(Refusal::InvalidLocation)?;
            }
        }
        let mut readings = message.readings.iter();
        readings.try_for_each(|reading| check_reading(reading, catalogue))
    }
}

/// Whether a sensor can have that name.
pub(crate) fn is_sensor(name: &str) -> bool {
    check_text(name, MAX_SENSOR).is_ok()
}

/// Whether a unit can have that name.
pub(crate) fn is_unit(name: &str) -> bool {
    check_text(name, MAX_UNIT).is_ok()
}

fn check_reading(reading: &Reading<'_>, catalogue: &Catalogue) -> Result<(), Refusal> {
    if !is_sensor(&reading.sensor) {
        return Err(Refusal::InvalidSensor);
    }
    if !reading.value.is_finite() || reading.value.abs() > MAX_VALUE {
        return Err(impossible(reading));
    }
    let unit = reading.unit.as_deref();
    if unit.is_some_and(|unit| !is_unit(unit)) {
        return Err(Refusal::UnexpectedUnit {
            sensor: reading.sensor.clone().into_owned(),
        });
    }
    let Some(known) = catalogue.find(&reading.sensor) else {
        return Ok(());
    };
    // A limit says nothing about a value in another unit.
    if unit.is_some_and(|unit| *unit != *known.unit) {
        return Err(Refusal::UnexpectedUnit {
            sensor: known.name.to_string(),
        });
    }
    if !known.physical.contains(&reading.value) {
        return Err(impossible(reading));
    }
    Ok(())
}

fn impossible(reading: &Reading<'_>) -> Refusal {
    Refusal::ImpossibleValue {
        sensor: reading.sensor.clone().into_owned(),
    }
}

fn check_text(text: &str, longest: usize) -> Result<(), ()> {
    let clean = || is_plain(text) || !text.chars().any(char::is_control);
    let valid = !text.is_empty() && text.len() <= longest && clean();
    valid.then_some(()).ok_or(())
}

/// Most text is plain ASCII, which is checked many bytes at a time.
fn is_plain(text: &str) -> bool {
    let bytes = text.bytes();
    bytes.fold(true, |plain, byte| plain & matches!(byte, b' '..=b'~'))
}

#[cfg(test)]
mod tests {
    use std::borrow::Cow;

    use iot_core::message::{Location, Quality};

    use super::*;
    use iot_fold::Limit;

    use crate::config::SensorConfig;

    const NOW: i64 = 1_767_225_600_000;

    fn message() -> DeviceMessage<'static> {
        DeviceMessage {
            device_id: "d".into(),
            tenant: None,
            project: None,
            seq: None,
            timestamp: NOW,
            location: None,
            readings: vec![reading("temperature", 21.5)],
        }
    }

    fn reading(sensor: &'static str, value: f64) -> Reading<'static> {
        Reading {
            sensor: sensor.into(),
            value,
            unit: None,
            quality: Quality::Good,
        }
    }

    fn refused(change: impl FnOnce(&mut DeviceMessage<'static>)) -> &'static str {
        let mut message = message();
        change(&mut message);
        let validator = Validator::new(&ValidateConfig::default());
        match validator.check(&message, Some(NOW), &Catalogue::new([])) {
            Ok(()) => "",
            Err(refusal) => refusal.reason(),
        }
    }

    #[test]
    fn a_plain_message_and_an_unknown_sensor_pass() {
        assert_eq!(refused(|_| ()), "");
        assert_eq!(
            refused(|m| m.readings.push(reading("vibration", -1e12))),
            ""
        );
    }

    #[test]
    fn impossible_values_are_refused() {
        for (sensor, value) in [
            ("temperature", 200.1),
            ("temperature", -91.0),
            ("humidity", 101.0),
            ("switch", 2.0),
            ("vibration", f64::NAN),
            ("vibration", f64::INFINITY),
            ("vibration", -1.1e100),
        ] {
            let reason = refused(|m| m.readings.push(reading(sensor, value)));
            assert_eq!(reason, "impossible_value", "{sensor} {value}");
        }
        assert_eq!(refused(|m| m.readings[0].value = 200.0), "");
    }

    #[test]
    fn the_clock_is_compared_with_the_record() {
        assert_eq!(refused(|m| m.timestamp = NOW + 300_000), "");
        assert_eq!(
            refused(|m| m.timestamp = NOW + 300_001),
            "timestamp_in_future"
        );
        assert_eq!(refused(|m| m.timestamp = i64::MAX), "timestamp_in_future");
        assert_eq!(
            refused(|m| m.timestamp = NOW / 1_000),
            "timestamp_implausible"
        );
        assert_eq!(refused(|m| m.timestamp = i64::MIN), "timestamp_implausible");
    }

    #[test]
    fn without_a_time_of_the_record_there_is_a_fixed_bound() {
        let validator = Validator::new(&ValidateConfig::default());
        let check = |timestamp, recorded| {
            let message = DeviceMessage {
                timestamp,
                ..message()
            };
            validator.check(&message, recorded, &Catalogue::new([]))
        };
        for recorded in [None, Some(-1)] {
            assert_eq!(check(NOW, recorded), Ok(()));
            assert_eq!(check(LATEST, recorded), Ok(()));
            for later in [LATEST + 1, i64::MAX] {
                assert_eq!(check(later, recorded), Err(Refusal::TimestampInFuture));
            }
        }
        let made_up = Some(i64::MAX);
        assert_eq!(check(LATEST + 1, made_up), Err(Refusal::TimestampInFuture));
    }

    #[test]
    fn names_are_bounded() {
        let long = |n| Cow::Owned("x".repeat(n));
        assert_eq!(refused(|m| m.device_id = long(256)), "");
        assert_eq!(refused(|m| m.device_id = long(257)), "invalid_device_id");
        assert_eq!(
            refused(|m| m.device_id = "a\0b".into()),
            "invalid_device_id"
        );
        assert_eq!(
            refused(|m| m.readings[0].sensor = long(129)),
            "invalid_sensor"
        );
        let place = |room| {
            Some(Location {
                room,
                ..Location::default()
            })
        };
        assert_eq!(refused(|m| m.location = place("r1".into())), "");
        assert_eq!(
            refused(|m| m.location = place(long(129))),
            "invalid_location"
        );
    }

    #[test]
    fn a_sensor_of_the_settings_has_its_limits_and_its_unit() {
        let sensor = SensorConfig {
            name: "vibration".into(),
            unit: "mm/s".into(),
            min: Limit::At(0.0),
            ..SensorConfig::default()
        };
        let catalogue = Catalogue::new([sensor.known()]);
        let check = |value, unit: Option<&'static str>| {
            let mut reading = reading("vibration", value);
            reading.unit = unit.map(Into::into);
            check_reading(&reading, &catalogue).map_err(|refusal| refusal.reason())
        };
        assert_eq!(check(0.0, None), Ok(()));
        assert_eq!(check(1e99, Some("mm/s")), Ok(()));
        assert_eq!(check(-0.1, None), Err("impossible_value"));
        assert_eq!(check(1.0, Some("inch/s")), Err("unexpected_unit"));
    }

    #[test]
    fn a_standard_sensor_has_its_unit() {
        assert_eq!(refused(|m| m.readings[0].unit = Some("celsius".into())), "");
        assert_eq!(
            refused(|m| m.readings[0].unit = Some("kelvin".into())),
            "unexpected_unit"
        );
    }
}
