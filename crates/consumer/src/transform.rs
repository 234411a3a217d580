//! Values in the units of the catalogue.

use std::borrow::Cow;

use iot_core::message::DeviceMessage;
use iot_core::unit;
use iot_fold::{Catalogue, Known};

/// Converts readings of known sensors that come in another unit of the same quantity, and
/// adds the unit to those without one. Readings of other sensors, and those in a unit of
/// another quantity, stay as they are. Only with `has_chips`, which is for those
/// of a mapping with `nested`, sensors can be named after a chip.
pub(crate) fn to_known_units<'m>(
    message: &mut DeviceMessage<'m>,
    catalogue: &'m Catalogue,
    has_chips: bool,
) {
    for reading in &mut message.readings {
        // -0.0 becomes 0.0: the minimum of the two would depend on their order.
        reading.value += 0.0;
        let Some(known) = find(catalogue, &reading.sensor, has_chips) else {
            continue;
        };
        let given = reading.unit.as_deref().unwrap_or(&known.unit);
        if let Some(value) = unit::convert(reading.value, given, &known.unit) {
            reading.value = value;
            reading.unit = Some(Cow::Borrowed(&known.unit));
        }
    }
}

/// The entry of the catalogue for a reading, whose sensor may be named after a chip.
pub(crate) fn find<'c>(
    catalogue: &'c Catalogue,
    sensor: &str,
    has_chips: bool,
) -> Option<&'c Known> {
    if has_chips {
        catalogue.find_of_chip(sensor)
    } else {
        catalogue.find(sensor)
    }
}

#[cfg(test)]
mod tests {
    use iot_core::message::parse;

    use super::*;
    use crate::config::SensorConfig;

    #[test]
    fn readings_of_known_sensors_get_their_unit() {
        let json = br#"{"device_id":"d","timestamp":1,"readings":[
            {"sensor":"temperature","value":212,"unit":"degF"},
            {"sensor":"temperature","value":20},
            {"sensor":"pressure","value":1,"unit":"furlong"},
            {"sensor":"oven","value":212,"unit":"degF"},
            {"sensor":"core","value":0,"unit":"K"},
            {"sensor":"core","value":5},
            {"sensor":"vibration","value":7,"unit":"mm/s"}]}"#;
        let sensor = |name: &str, unit: &str| SensorConfig {
            name: name.into(),
            unit: unit.into(),
            ..SensorConfig::default()
        };
        let configured = [sensor("core", "celsius"), sensor("vibration", "mm/s")];
        let catalogue = Catalogue::new(configured.iter().map(SensorConfig::known));
        let mut message = parse(json).unwrap();
        to_known_units(&mut message, &catalogue, false);
        let readings = message.readings.iter();
        let found: Vec<_> = readings.map(|r| (r.value, r.unit.as_deref())).collect();
        let expected = [
            (100.0, Some("celsius")),
            (20.0, Some("celsius")),
            (1.0, Some("furlong")),
            (212.0, Some("degF")),
            (-273.15, Some("celsius")),
            (5.0, Some("celsius")),
            (7.0, Some("mm/s")),
        ];
        assert_eq!(found, expected);
    }
}
