//! Parses a record into the message that the consumer must see.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, bail, ensure};
use iot_core::message::{
    DeviceMessage, Reading, parse, parse_partial, parse_protobuf, parse_protobuf_partial,
};
use iot_core::route::is_name;
use iot_core::{headers, sensor, unit};
use rskafka::record::Record;

/// Tenant or project if neither the topic nor the message names it.
const DEFAULT: &str = "default";

/// Units by sensor, which override those of the standard sensors.
pub(crate) type Units = BTreeMap<String, String>;

/// Parses the message of a record as Protobuf or JSON, by its content type or otherwise
/// by its first byte. Values of known sensors are converted to the sensors' own units. Readings at
/// the positions `refused`, as the consumer's dead letter lists them, are left out.
///
/// # Errors
/// The payload is not a valid message, a known sensor has a unit of another quantity, or `refused`
/// does not have all invalid readings, has one that is not there, or has all.
pub(crate) fn message<'r>(
    record: &'r Record,
    units: &'r Units,
    refused: Option<&BTreeSet<usize>>,
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
    let mut invalid = Vec::new();
    let parsed = match (protobuf, refused) {
        (true, None) => parse_protobuf(payload),
        (true, Some(_)) => parse_protobuf_partial(payload, &mut invalid),
        (false, None) => parse(payload),
        (false, Some(_)) => parse_partial(payload, &mut invalid),
    };
    let mut message = parsed.context(if protobuf { "as Protobuf" } else { "as JSON" })?;
    if let Some(refused) = refused {
        let invalid = invalid.iter().map(|reading| reading.index).collect();
        leave_out(&mut message.readings, &invalid, refused)?;
    }
    let mut readings = message.readings.iter_mut();
    readings.try_for_each(|reading| convert(reading, units))?;
    Ok(message)
}

/// Leaves out the readings at the positions `refused`. Those at `invalid` are not in the list.
fn leave_out(
    readings: &mut Vec<Reading<'_>>,
    invalid: &BTreeSet<usize>,
    refused: &BTreeSet<usize>,
) -> anyhow::Result<()> {
    let count = readings.len() + invalid.len();
    if let Some(unlisted) = invalid.difference(refused).next() {
        bail!("readings[{unlisted}] is invalid, and its dead letter does not list it");
    }
    if let Some(absent) = refused.range(count..).next() {
        bail!("its dead letter lists readings[{absent}], of {count} readings");
    }
    let mut positions = (0..count).filter(|position| !invalid.contains(position));
    readings.retain(|_| {
        let position = positions.next();
        position.is_none_or(|position| !refused.contains(&position))
    });
    ensure!(!readings.is_empty(), "its dead letter lists every reading");
    Ok(())
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
                message(&record, &NONE, None).unwrap_or_else(|e| panic!("{content_type}: {e:#}"));
            assert_eq!((&*message.device_id, message.timestamp), ("d", 1));
            assert_eq!(message.readings[0].value, 2.0);
        }
        for (value, content_type) in [
            (PROTOBUF, "application/json"),
            (JSON, "application/protobuf"),
            (b"".as_slice(), ""),
        ] {
            assert!(message(&record(value, content_type), &NONE, None).is_err());
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
            let message = message(&record, &units, None).ok()?;
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
    fn exactly_the_listed_readings_are_left_out() {
        let json = br#"{"device_id":"d","timestamp":1,"readings":[
            {"sensor":"a","value":1},{"sensor":"b","value":null},{"sensor":"a","value":3},
            {"sensor":"temperature","value":1,"unit":"bar"},{"sensor":"c","value":5}]}"#;
        let record = record(json, "");
        let read = |refused: &[usize]| {
            let refused = refused.iter().copied().collect();
            let message = message(&record, &NONE, Some(&refused));
            let message = message.map_err(|error| format!("{error:#}"))?;
            let readings = message.readings.iter();
            Ok::<_, String>(readings.map(|r| r.value).collect::<Vec<_>>())
        };
        assert_eq!(read(&[1, 3]), Ok(vec![1.0, 3.0, 5.0]));
        // Of two readings of a sensor the one at that position.
        assert_eq!(read(&[0, 1, 3]), Ok(vec![3.0, 5.0]));
        assert_eq!(read(&[1, 2, 3, 4]), Ok(vec![1.0]));
        for (refused, expected) in [
            (&[3][..], "readings[1] is invalid"),
            (&[1], "temperature has unit"),
            (&[1, 3, 5], "lists readings[5], of 5"),
            (&[0, 1, 2, 3, 4], "lists every reading"),
        ] {
            let error = read(refused).unwrap_err();
            assert!(error.contains(expected), "{error}");
        }
        assert!(message(&record, &NONE, None).is_err());
    }

    #[test]
    fn the_tenant_of_the_topic_takes_precedence() {
        let record = record(JSON, "");
        let message = message(&record, &NONE, None).unwrap();
        assert_eq!(owner("device-data", &message).unwrap(), ("acme", "default"));
        assert_eq!(owner("acme.plant", &message).unwrap(), ("acme", "plant"));
        assert_eq!(owner("a.b.c", &message).unwrap(), ("acme", "default"));
        assert!(owner("evil.plant", &message).is_err());
    }
}
