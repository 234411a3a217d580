//! The newest values that messages brought, without counting the owners of their texts.

use std::collections::HashMap;
use std::sync::Arc;

use foldhash::fast::FixedState;
use iot_core::message::Quality;

use crate::model::Value;

/// A reading, with the numbers of its texts.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct PackedReading {
    pub(crate) value: f64,
    pub(crate) timestamp: i64,
    pub(crate) sensor: u32,
    /// [`NO_UNIT`] if there is none.
    pub(crate) unit: u32,
    pub(crate) quality: Quality,
    pub(crate) is_ahead: bool,
}

const NO_UNIT: u32 = u32::MAX;

/// Newest values that a message brought, in its order.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct NewValues<'u> {
    pub(crate) readings: &'u [PackedReading],
    /// All of the batch.
    pub(crate) texts: &'u [Arc<str>],
}

/// The newest value of a sensor, as [`Value`].
#[derive(Debug, Clone, Copy)]
pub struct NewValue<'u> {
    /// The sensor.
    pub sensor: &'u Arc<str>,
    /// The unit, if it is known.
    pub unit: Option<&'u Arc<str>>,
    reading: &'u PackedReading,
}

impl<'u> NewValues<'u> {
    /// One after the other. A message can have several of one sensor.
    pub fn iter(&self) -> impl DoubleEndedIterator<Item = NewValue<'u>> + use<'u> {
        let Self { readings, texts } = *self;
        readings.iter().map(move |reading| NewValue {
            sensor: &texts[reading.sensor as usize],
            unit: texts.get(reading.unit as usize),
            reading,
        })
    }

    /// Copies that stay, with the names of their sensors.
    pub fn named(&self) -> impl Iterator<Item = (Arc<str>, Value)> + use<'u> {
        let named = |new: NewValue<'_>| (new.sensor.clone(), new.with_unit(new.unit.cloned()));
        self.iter().map(named)
    }
}

impl NewValue<'_> {
    /// The value, with this unit.
    pub(crate) fn with_unit(&self, unit: Option<Arc<str>>) -> Value {
        let PackedReading {
            value,
            timestamp,
            quality,
            is_ahead,
            ..
        } = *self.reading;
        Value {
            value,
            unit,
            quality,
            timestamp,
            is_ahead,
        }
    }
}

/// The numbers of the texts in a list, by address: those of a partition are shared.
#[derive(Debug, Default)]
pub(crate) struct Numbers(HashMap<usize, u32, FixedState>);

impl Numbers {
    pub(crate) fn of(&mut self, text: &Arc<str>, texts: &mut Vec<Arc<str>>) -> u32 {
        // The list keeps the text, so that no other one has its address.
        *self.0.entry(Arc::as_ptr(text).addr()).or_insert_with(|| {
            texts.push(text.clone());
            // There are no more than readings, of which a batch has few.
            (texts.len() - 1) as u32
        })
    }

    pub(crate) fn of_unit(&mut self, unit: Option<&Arc<str>>, texts: &mut Vec<Arc<str>>) -> u32 {
        unit.map_or(NO_UNIT, |unit| self.of(unit, texts))
    }

    /// Starts with a new list.
    pub(crate) fn clear(&mut self) {
        self.0.clear();
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn packed(readings: &[(Arc<str>, Value)]) -> (Vec<PackedReading>, Vec<Arc<str>>) {
        let (mut numbers, mut texts) = (Numbers::default(), Vec::new());
        let mut pack = |(sensor, value): &(Arc<str>, Value)| PackedReading {
            value: value.value,
            timestamp: value.timestamp,
            sensor: numbers.of(sensor, &mut texts),
            unit: numbers.of_unit(value.unit.as_ref(), &mut texts),
            quality: value.quality,
            is_ahead: value.is_ahead,
        };
        let readings = readings.iter().map(&mut pack).collect();
        (readings, texts)
    }

    #[test]
    fn values_come_back_as_they_were_and_their_texts_are_kept_once() {
        let [name, unit]: [Arc<str>; 2] = ["temperature".into(), "celsius".into()];
        let value = |value, unit: Option<&Arc<str>>| Value {
            value,
            unit: unit.cloned(),
            quality: Quality::Uncertain,
            timestamp: 7,
            is_ahead: true,
        };
        let all = [
            (name.clone(), value(1.0, Some(&unit))),
            (name.clone(), value(2.0, None)),
            ("humidity".into(), value(3.0, Some(&unit))),
            (unit.clone(), value(4.0, None)),
        ];
        let (readings, texts) = packed(&all);
        assert_eq!(texts.len(), 3);
        let (readings, texts) = (&readings[..], &texts[..]);
        let named: Vec<_> = NewValues { readings, texts }.named().collect();
        assert_eq!(named, all);
    }
}
