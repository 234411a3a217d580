//! Values in the units of the standard sensors.

use std::borrow::Cow;

use iot_core::message::DeviceMessage;
use iot_core::{sensor, unit};

/// Converts the readings of standard sensors that come in another unit of the same
/// quantity. Those of others, and those in a unit that doesn't fit, stay as they are.
pub(crate) fn to_standard_units(message: &mut DeviceMessage<'_>) {
    for reading in &mut message.readings {
        // There is one zero: which of two comes out of a minimum is nobody's to say.
        reading.value += 0.0;
        let Some(given) = &reading.unit else { continue };
        let Some(known) = sensor::lookup(&reading.sensor) else {
            continue;
        };
        if given == known.unit {
            continue;
        }
        if let Some(value) = unit::convert(reading.value, given, known.unit) {
            reading.value = value;
            reading.unit = Some(Cow::Borrowed(known.unit));
        }
    }
}

#[cfg(test)]
mod tests {
    use iot_core::message::parse;

    use super::*;

    #[test]
    fn readings_of_standard_sensors_get_their_unit() {
        let json = br#"{"device_id":"d","timestamp":1,"readings":[
            {"sensor":"temperature","value":212,"unit":"degF"},
            {"sensor":"temperature","value":20},
            {"sensor":"pressure","value":1,"unit":"furlong"},
            {"sensor":"oven","value":212,"unit":"degF"}]}"#;
        let mut message = parse(json).unwrap();
        to_standard_units(&mut message);
        let found: Vec<_> = message
            .readings
            .iter()
            .map(|r| (r.value, r.unit.as_deref()))
            .collect();
        let expected = [
            (100.0, Some("celsius")),
            (20.0, Some("celsius")),
            (1.0, Some("furlong")),
            (212.0, Some("degF")),
        ];
        assert_eq!(found[0], expected[0]);
        assert_eq!((found[1].0, &found[2..]), (20.0, &expected[2..]));
    }
}
