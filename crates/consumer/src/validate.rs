//! What a message and its readings must satisfy beyond their format.

use std::ops::RangeInclusive;

use iot_core::message::{DeviceMessage, Reading, quoted};
use iot_fold::{Catalogue, Known, LATEST};

use crate::config::ValidateConfig;
use crate::config::millis;
use crate::partial::Refused;
use crate::refusal::{BadText, Refusal};
use crate::transform::find;

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

    /// Checks a message, but not its readings. Its time is compared with the time of its record (`recorded`, in
    /// milliseconds; a fixed time if it has none) and never with a clock, so that reading the
    /// log again decides the same.
    ///
    /// # Errors
    /// The first problem that was found.
    pub(crate) fn check(
        &self,
        message: &DeviceMessage<'_>,
        recorded: Option<i64>,
    ) -> Result<(), Refusal> {
        check_text(&message.device_id, MAX_DEVICE_ID).map_err(Refusal::InvalidDeviceId)?;
        let found = message.timestamp;
        if found < EARLIEST {
            let earliest = EARLIEST;
            return Err(Refusal::TimestampImplausible { earliest, found });
        }
        let known = recorded.filter(|at| *at >= 0);
        let latest = known.map_or(LATEST, |at| at.saturating_add(self.max_future).min(LATEST));
        if found > latest {
            return Err(Refusal::TimestampInFuture { latest, found });
        }
        if let Some(place) = &message.location {
            for (part, name) in [
                ("building", &place.building),
                ("floor", &place.floor),
                ("room", &place.room),
            ] {
                if !name.is_empty() {
                    check_text(name, MAX_PLACE)
                        .map_err(|defect| Refusal::InvalidLocation { part, defect })?;
                }
            }
        }
        Ok(())
    }
}

/// Leaves out the readings that are not valid. With `has_chips`, sensors can be named
/// after a chip.
///
/// # Errors
/// The message is refused whole.
pub(crate) fn check_readings(
    readings: &mut Vec<Reading<'_>>,
    (catalogue, has_chips): (&Catalogue, bool),
    refused: &mut Refused,
) -> Result<(), Refusal> {
    let check = |index, reading: &Reading<'_>| {
        check_reading(index, reading, find(catalogue, &reading.sensor, has_chips))
    };
    if readings.iter().all(|reading| check(0, reading).is_ok()) {
        return Ok(());
    }
    refused.retain(readings, |_, index, reading| check(index, reading))
}

/// Whether a sensor can have that name.
pub(crate) fn is_sensor(name: &str) -> bool {
    check_text(name, MAX_SENSOR).is_ok()
}

/// Whether a unit can have that name.
pub(crate) fn is_unit(name: &str) -> bool {
    check_text(name, MAX_UNIT).is_ok()
}

fn check_reading(
    index: usize,
    reading: &Reading<'_>,
    known: Option<&Known>,
) -> Result<(), Refusal> {
    check_text(&reading.sensor, MAX_SENSOR)
        .map_err(|defect| Refusal::InvalidSensor { index, defect })?;
    let possible = -MAX_VALUE..=MAX_VALUE;
    if !possible.contains(&reading.value) {
        return Err(impossible(reading, &possible));
    }
    let unit = reading.unit.as_deref();
    if let Some(unit) = unit
        && !is_unit(unit)
    {
        return Err(Refusal::UnexpectedUnit {
            sensor: reading.sensor.clone().into_owned(),
            expected: format!("1 to {MAX_UNIT} bytes without control characters"),
            found: quoted(unit),
        });
    }
    let Some(known) = known else {
        return Ok(());
    };
    // A limit says nothing about a value in another unit.
    if let Some(unit) = unit
        && *unit != *known.unit
    {
        return Err(Refusal::UnexpectedUnit {
            sensor: reading.sensor.clone().into_owned(),
            expected: known.unit.to_string(),
            found: quoted(unit),
        });
    }
    if !known.physical.contains(&reading.value) {
        return Err(impossible(reading, &known.physical));
    }
    Ok(())
}

fn impossible(reading: &Reading<'_>, possible: &RangeInclusive<f64>) -> Refusal {
    Refusal::ImpossibleValue {
        sensor: reading.sensor.clone().into_owned(),
        least: *possible.start(),
        greatest: *possible.end(),
        found: reading.value,
    }
}

fn check_text(text: &str, longest: usize) -> Result<(), BadText> {
    if text.is_empty() {
        return Err(BadText::Empty);
    }
    let bytes = text.len();
    if bytes > longest {
        return Err(BadText::TooLong { bytes, longest });
    }
    if is_plain(text) {
        return Ok(());
    }
    let control = text.find(char::is_control);
    control.map_or(Ok(()), |at| Err(BadText::Control { at }))
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

    use crate::config::{Partial, SensorConfig};

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

    fn checked(change: impl FnOnce(&mut DeviceMessage<'static>)) -> Result<(), Refusal> {
        let mut message = message();
        change(&mut message);
        let validator = Validator::new(&ValidateConfig::default());
        validator.check(&message, Some(NOW))?;
        let mut refused = Refused::new(Partial::Refuse);
        check_readings(
            &mut message.readings,
            (&Catalogue::new([]), false),
            &mut refused,
        )
    }

    #[test]
    fn readings_that_are_not_valid_are_left_out_alone() {
        let mut readings = vec![reading("temperature", 999.0), reading("humidity", 50.0)];
        for (sensor, value, unit) in [
            ("pressure", 1_000.0, Some("")),
            ("current", 1.0, Some("kelvin")),
            ("a\0b", 1.0, None),
            ("vibration", f64::NAN, None),
            ("vibration", 7.0, None),
        ] {
            let mut reading = reading(sensor, value);
            reading.unit = unit.map(Into::into);
            readings.push(reading);
        }
        let mut refused = Refused::new(Partial::Accept);
        check_readings(&mut readings, (&Catalogue::new([]), false), &mut refused).unwrap();
        let left: Vec<_> = readings.iter().map(|r| &*r.sensor).collect();
        assert_eq!(left, ["humidity", "vibration"]);
        refused.settle(!readings.is_empty()).unwrap();
        let listed = refused.listed().unwrap().all.iter();
        let reasons: Vec<_> = listed.map(|r| r.refusal().reason()).collect();
        let expected = [
            "impossible_value",
            "unexpected_unit",
            "unexpected_unit",
            "invalid_sensor",
            "impossible_value",
        ];
        assert_eq!(reasons, expected);
    }

    fn refused(change: impl FnOnce(&mut DeviceMessage<'static>)) -> &'static str {
        match checked(change) {
            Ok(()) => "",
            Err(refusal) => refusal.reason(),
        }
    }

    #[test]
    fn refusals_say_what_was_expected_and_what_was_found() {
        let said = |change: fn(&mut DeviceMessage<'static>)| checked(change).unwrap_err();
        let place = |room| {
            let location = Location::default();
            Some(Location { room, ..location })
        };
        for (refusal, expected) in [
            (
                said(|m| m.device_id = "a\0b".into()),
                "device_id has a control character at byte 1",
            ),
            (
                said(|m| m.readings.push(reading("", 1.0))),
                "readings[1]: sensor is empty",
            ),
            (
                checked(|m| m.location = place("r".repeat(129).into())).unwrap_err(),
                "location.room has 129 bytes, more than 128",
            ),
            (
                said(|m| m.readings[0].value = 200.5),
                "the value of temperature must be from -90.0 to 200.0, not 200.5",
            ),
            (
                said(|m| m.readings[0].unit = Some("kelvin".into())),
                "the unit of temperature must be celsius, not \"kelvin\"",
            ),
            (
                said(|m| m.timestamp = 5),
                "timestamp must be at least 946684800000, in the year 2000, not 5",
            ),
        ] {
            assert_eq!(refusal.to_string(), expected);
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

    fn after_latest(found: i64) -> Refusal {
        let latest = LATEST;
        Refusal::TimestampInFuture { latest, found }
    }

    #[test]
    fn without_a_time_of_the_record_there_is_a_fixed_bound() {
        let validator = Validator::new(&ValidateConfig::default());
        let check = |timestamp, recorded| {
            let message = DeviceMessage {
                timestamp,
                ..message()
            };
            validator.check(&message, recorded)
        };
        for recorded in [None, Some(-1)] {
            assert_eq!(check(NOW, recorded), Ok(()));
            assert_eq!(check(LATEST, recorded), Ok(()));
            for later in [LATEST + 1, i64::MAX] {
                assert_eq!(check(later, recorded), Err(after_latest(later)));
            }
        }
        let made_up = Some(i64::MAX);
        assert_eq!(check(LATEST + 1, made_up), Err(after_latest(LATEST + 1)));
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
            check_reading(0, &reading, catalogue.find("vibration"))
                .map_err(|refusal| refusal.reason())
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
