//! Parses a record into the message that the consumer must see.

use std::borrow::Cow;
use std::collections::BTreeMap;

use anyhow::{Context, bail};
use iot_core::message::{DeviceMessage, Reading, parse, parse_protobuf};
use iot_core::route::is_name;
use iot_core::{headers, sensor, unit};
use rskafka::record::Record;

/// Tenant or project if neither the topic nor the message names it.
const DEFAULT: &str = "default";

/// Units by sensor, which override those of the standard sensors.
pub(crate) type Units = BTreeMap<String, String>;

/// Parses the message of a record as Protobuf or JSON, by its content type or otherwise
/// by its first byte. Values of known sensors are converted to the sensors' own units.
///
/// # Errors
/// The payload is not a valid message, or a known sensor has a unit of another quantity.
pub(crate) fn message<'r>(
    record: &'r Record,
    units: &'r Units,
) -> anyhow::Result<DeviceMessage<'r>> {
    let payload = record.value.as_deref().unwrap_or_default();
    let content_type = record.headers.get(headers::CONTENT_TYPE);
    let media = content_type.and_then(|value| std::str::from_utf8(value).ok());
    let media = media.map(|text| text.split(';').next().unwrap_or(text).trim());
    let is = |types: &[&str]| {
        media.is_some_and(|media| types.iter().any(|known| media.eq_ignore_ascii_case(known)))
    };
    let protobuf = if is(&[headers::APPLICATION_JSON]) {
        false
    } else if is(&[
        headers::APPLICATION_PROTOBUF,
        "application/x-protobuf",
        "application/vnd.google.protobuf",
    ]) {
        true
    } else {
        let first = payload.iter().find(|byte| !byte.is_ascii_whitespace());
        first.is_some_and(|byte| *byte != b'{')
    };
    let mut message = if protobuf {
        parse_protobuf(payload).context("as Protobuf")?
    } else {
        parse(payload).context("as JSON")?
    };
    let mut readings = message.readings.iter_mut();
    readings.try_for_each(|reading| convert(reading, units))?;
    Ok(message)
}

fn convert<'r>(reading: &mut Reading<'r>, units: &'r Units) -> anyhow::Result<()> {
    // Turns -0 into 0.
    reading.value += 0.0;
    let own = units.get(&*reading.sensor).map(String::as_str);
    let standard = || sensor::lookup(&reading.sensor).map(|known| known.unit);
    let Some(own) = own.or_else(standard) else {
        return Ok(());
    };
    let given = reading.unit.as_deref().unwrap_or(own);
    let Some(value) = unit::convert(reading.value, given, own) else {
        bail!(
            "{} has unit {given:?}, which does not convert to {own}",
            reading.sensor
        );
    };
    reading.value = value;
    reading.unit = Some(Cow::Borrowed(own));
    Ok(())
}

/// Tenant and project of a message: those of a topic `<tenant>.<project>`, on other topics
/// those of the message.
///
/// # Errors
/// The message contradicts the topic, or has an invalid name.
pub(crate) fn owner<'m>(
    topic: &'m str,
    message: &'m DeviceMessage<'_>,
) -> anyhow::Result<(&'m str, &'m str)> {
    let named = (message.tenant.as_deref(), message.project.as_deref());
    if let Some((tenant, project)) = topic.split_once('.')
        && is_name(tenant)
        && is_name(project)
    {
        if named.0.unwrap_or(tenant) != tenant || named.1.unwrap_or(project) != project {
            bail!("the message names another tenant or project than its topic");
        }
        return Ok((tenant, project));
    }
    let (tenant, project) = (named.0.unwrap_or(DEFAULT), named.1.unwrap_or(DEFAULT));
    if !is_name(tenant) || !is_name(project) {
        bail!("the message has an invalid tenant or project");
    }
    Ok((tenant, project))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use rskafka::chrono::DateTime;

    use super::*;

    static NONE: Units = Units::new();

    const JSON: &[u8] =
        br#" {"device_id":"d","tenant":"acme","timestamp":1,"readings":[{"sensor":"s","value":2}]}"#;
    /// Device `d`, time 1, sensor `s` with the value 2.0, encoded by hand from the `.proto`.
    const PROTOBUF: &[u8] =
        b"\x0a\x01d\x28\x01\x3a\x0c\x0a\x01s\x11\x00\x00\x00\x00\x00\x00\x00\x40";

    fn record(value: &[u8], content_type: &str) -> Record {
        let mut headers = BTreeMap::new();
        if !content_type.is_empty() {
            headers.insert(headers::CONTENT_TYPE.into(), content_type.into());
        }
        Record {
            key: None,
            value: Some(value.to_vec()),
            headers,
            timestamp: DateTime::from_timestamp_millis(0).unwrap(),
        }
    }

    #[test]
    fn both_formats_are_parsed_with_and_without_a_content_type() {
        for (value, content_type) in [
            (JSON, ""),
            (JSON, "application/json; charset=utf-8"),
            (JSON, "text/plain"),
            (PROTOBUF, ""),
            (PROTOBUF, "Application/Protobuf"),
        ] {
            let record = record(value, content_type);
            let message =
                message(&record, &NONE).unwrap_or_else(|e| panic!("{content_type}: {e:#}"));
            assert_eq!((&*message.device_id, message.timestamp), ("d", 1));
            assert_eq!(message.readings[0].value, 2.0);
        }
        for (value, content_type) in [
            (PROTOBUF, "application/json"),
            (JSON, "application/protobuf"),
            (b"".as_slice(), ""),
        ] {
            assert!(message(&record(value, content_type), &NONE).is_err());
        }
    }

    #[test]
    fn only_values_of_known_sensors_are_converted() {
        let units = [("humidity", "ratio"), ("vibration", "mm/s")];
        let units = units
            .map(|(name, unit)| (name.to_owned(), unit.to_owned()))
            .into();
        let read = |sensor: &str, value: f64, unit: &str| {
            let json = format!(
                r#"{{"device_id":"d","timestamp":1,
                "readings":[{{"sensor":"{sensor}","value":{value}{unit}}}]}}"#
            );
            let record = record(json.as_bytes(), "");
            let message = message(&record, &units).ok()?;
            let reading = &message.readings[0];
            Some((reading.value, reading.unit.as_deref().map(str::to_owned)))
        };
        let in_unit = |value, unit: &str| Some((value, Some(unit.to_owned())));
        let kelvin = r#","unit":"K""#;
        let celsius = in_unit(300.0 - 273.15, "celsius");
        assert_eq!(read("temperature", 300.0, kelvin), celsius);
        assert_eq!(read("temperature", 20.0, ""), in_unit(20.0, "celsius"));
        assert_eq!(read("oven", 300.0, kelvin), in_unit(300.0, "K"));
        assert_eq!(read("oven", 300.0, ""), Some((300.0, None)));
        assert_eq!(read("pressure", 1.0, kelvin), None);
        let percent = r#","unit":"percent""#;
        assert_eq!(read("humidity", 60.0, percent), in_unit(0.6, "ratio"));
        assert_eq!(read("vibration", 7.0, ""), in_unit(7.0, "mm/s"));
        assert_eq!(read("vibration", 7.0, percent), None);
    }

    #[test]
    fn the_tenant_of_the_topic_takes_precedence() {
        let record = record(JSON, "");
        let message = message(&record, &NONE).unwrap();
        assert_eq!(owner("device-data", &message).unwrap(), ("acme", "default"));
        assert_eq!(owner("acme.plant", &message).unwrap(), ("acme", "plant"));
        assert_eq!(owner("a.b.c", &message).unwrap(), ("acme", "default"));
        assert!(owner("evil.plant", &message).is_err());
    }
}
