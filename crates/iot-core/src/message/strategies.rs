//! Random messages for tests.

use std::borrow::Cow;

use proptest::prelude::*;

use super::*;

/// Strings, which may be shared between strategies.
type Texts = BoxedStrategy<Cow<'static, str>>;

pub(super) fn finite() -> impl Strategy<Value = f64> {
    use prop::num::f64::{NORMAL, SUBNORMAL, ZERO};
    NORMAL | SUBNORMAL | ZERO
}

/// Numbers as sensors have them, which the fast path for JSON reads.
pub(super) fn decimal() -> impl Strategy<Value = f64> {
    (-100_000_000_000_i64..100_000_000_000).prop_map(|hundredths| hundredths as f64 / 100.0)
}

/// Both kinds of numbers.
pub(super) fn value() -> impl Strategy<Value = f64> {
    prop_oneof![decimal(), finite()]
}

/// Messages with any characters in their strings.
pub(super) fn message(
    value: impl Strategy<Value = f64>,
) -> impl Strategy<Value = DeviceMessage<'static>> {
    let text = prop_oneof![".{0,12}", "[a-z0-9_\"\\\\\n-]{0,12}"].prop_map(Cow::Owned);
    let text: Texts = text.boxed();
    let name = text
        .clone()
        .prop_filter("not empty", |text| !text.is_empty());
    message_of(name.boxed(), text.clone(), text, value)
}

/// Messages with strings that JSON does not escape.
pub(super) fn plain_message(
    value: impl Strategy<Value = f64>,
) -> impl Strategy<Value = DeviceMessage<'static>> {
    // Sometimes longer than 127 bytes, where the varint of the length takes two bytes.
    let name = prop_oneof![9 => "[a-zäß0-9_-]{1,20}", 1 => "[a-z]{120,300}"];
    let name = name.prop_map(Cow::Owned).boxed();
    let part = prop_oneof![Just(Cow::Borrowed("")), name.clone()].boxed();
    message_of(name.clone(), name, part, value)
}

fn message_of(
    name: Texts,
    optional: Texts,
    part: Texts,
    value: impl Strategy<Value = f64>,
) -> impl Strategy<Value = DeviceMessage<'static>> {
    let optional = proptest::option::of(optional);
    let quality = prop_oneof![
        Just(Quality::Good),
        Just(Quality::Uncertain),
        Just(Quality::Bad)
    ];
    let reading = (name.clone(), value, optional.clone(), quality).prop_map(
        |(sensor, value, unit, quality)| Reading {
            sensor,
            value,
            unit,
            quality,
        },
    );
    let location =
        (part.clone(), part.clone(), part).prop_map(|(building, floor, room)| Location {
            building,
            floor,
            room,
        });
    (
        name,
        optional.clone(),
        optional,
        any::<u64>().prop_map(Some),
        any::<i64>(),
        proptest::option::of(location),
        proptest::collection::vec(reading, 1..6),
    )
        .prop_map(
            |(device_id, tenant, project, seq, timestamp, location, readings)| DeviceMessage {
                device_id,
                tenant,
                project,
                seq,
                timestamp,
                location,
                readings,
            },
        )
}

pub(super) fn json(message: &DeviceMessage<'_>) -> Vec<u8> {
    let mut out = Vec::new();
    message.write_json(&mut out);
    out
}

/// A message with bytes inserted, removed and truncated.
pub(super) fn damaged(
    message: impl Strategy<Value = DeviceMessage<'static>>,
) -> impl Strategy<Value = Vec<u8>> {
    let damage = (any::<prop::sample::Index>(), any::<u8>(), 0_u8..3);
    (message, prop::collection::vec(damage, 1..6)).prop_map(|(message, damages)| {
        let mut bytes = json(&message);
        for (at, byte, how) in damages {
            let at = at.index(bytes.len() + 1);
            match how {
                0 => bytes.insert(at, byte),
                1 if at < bytes.len() => {
                    bytes.remove(at);
                }
                _ => bytes.truncate(at),
            }
        }
        bytes
    })
}
