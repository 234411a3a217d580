//! JSON values of any type: a value of the wrong type is kept as its kind instead of
//! ending the parser.

use std::borrow::Cow;
use std::fmt;

use serde::Deserialize;
use serde::de::{Deserializer, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};

use crate::message::JsonKind;

/// A value of the expected shape, or the kind of value found instead.
pub(super) struct Lenient<T>(pub(super) Result<T, JsonKind>);

/// Builds a value from a map, a sequence or a scalar; kinds that a shape does not
/// implement become `Lenient(Err(kind))`.
pub(super) trait Shape<'de>: Sized {
    fn from_map<A: MapAccess<'de>>(map: A) -> Result<Lenient<Self>, A::Error> {
        drain_map(map)?;
        Ok(Lenient(Err(JsonKind::Object)))
    }

    fn from_seq<A: SeqAccess<'de>>(seq: A) -> Result<Lenient<Self>, A::Error> {
        drain_seq(seq)?;
        Ok(Lenient(Err(JsonKind::Array)))
    }

    fn from_scalar(scalar: Scalar<'de>) -> Lenient<Self> {
        Lenient(Err(scalar.kind()))
    }
}

/// Skips the rest of a map. `IgnoredAny` does not recurse, so deep nesting is safe.
fn drain_map<'de, A: MapAccess<'de>>(mut map: A) -> Result<(), A::Error> {
    while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
    Ok(())
}

pub(super) fn drain_seq<'de, A: SeqAccess<'de>>(mut seq: A) -> Result<(), A::Error> {
    while seq.next_element::<IgnoredAny>()?.is_some() {}
    Ok(())
}

impl<'de, T: Shape<'de>> Deserialize<'de> for Lenient<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(ShapeVisitor(std::marker::PhantomData))
    }
}

struct ShapeVisitor<T>(std::marker::PhantomData<T>);

impl<'de, T: Shape<'de>> Visitor<'de> for ShapeVisitor<T> {
    type Value = Lenient<T>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any JSON value")
    }

    fn visit_unit<E: Error>(self) -> Result<Self::Value, E> {
        Ok(T::from_scalar(Scalar::Null))
    }

    fn visit_bool<E: Error>(self, _: bool) -> Result<Self::Value, E> {
        Ok(T::from_scalar(Scalar::Boolean))
    }

    fn visit_u64<E: Error>(self, value: u64) -> Result<Self::Value, E> {
        Ok(T::from_scalar(Scalar::Unsigned(value)))
    }

    fn visit_i64<E: Error>(self, value: i64) -> Result<Self::Value, E> {
        Ok(T::from_scalar(Scalar::Negative(value)))
    }

    fn visit_f64<E: Error>(self, value: f64) -> Result<Self::Value, E> {
        Ok(T::from_scalar(Scalar::Float(value)))
    }

    fn visit_borrowed_str<E: Error>(self, text: &'de str) -> Result<Self::Value, E> {
        Ok(T::from_scalar(Scalar::Text(Cow::Borrowed(text))))
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Self::Value, E> {
        Ok(T::from_scalar(Scalar::Text(Cow::Owned(text.to_owned()))))
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Self::Value, A::Error> {
        T::from_map(map)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, seq: A) -> Result<Self::Value, A::Error> {
        T::from_seq(seq)
    }
}

/// Any JSON value that is not an array or an object.
pub(super) enum Scalar<'a> {
    Null,
    Boolean,
    Unsigned(u64),
    Negative(i64),
    Float(f64),
    Text(Cow<'a, str>),
}

impl Scalar<'_> {
    pub(super) fn kind(&self) -> JsonKind {
        match self {
            Self::Null => JsonKind::Null,
            Self::Boolean => JsonKind::Boolean,
            Self::Unsigned(_) | Self::Negative(_) | Self::Float(_) => JsonKind::Number,
            Self::Text(_) => JsonKind::Text,
        }
    }
}

impl<'de> Shape<'de> for Scalar<'de> {
    fn from_scalar(scalar: Scalar<'de>) -> Lenient<Self> {
        Lenient(Ok(scalar))
    }
}
