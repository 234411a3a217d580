//! Messages of which some readings are refused. The good ones are accepted, and one dead letter
//! lists the others. Whether and which readings are refused depends on the log and the settings
//! only, so reading the log again decides the same.

use iot_core::dead_letter::{self, PartialReading};
use iot_core::message::{
    DeviceMessage, MAX_REFUSED, ParseError, Reading, RefusedReading as Unreadable, remaining,
    short_name,
};

use iot_fold::{Event, Fold, Folded};
use kafka_fetch::Record;

use crate::config::Partial;
use crate::mapping::Beside;
use crate::refusal::Refusal;

/// A reading that is refused while others of its message are accepted.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct RefusedReading {
    /// Its position among the readings of the message, from 0.
    index: usize,
    /// The name of its sensor, if it has one; shortened.
    sensor: Option<String>,
    refusal: Refusal,
}

impl RefusedReading {
    pub(crate) fn refusal(&self) -> &Refusal {
        &self.refusal
    }

    pub(crate) fn sensor(&self) -> Option<&str> {
        self.sensor.as_deref()
    }
}

/// The refused readings of the current message. Kept for the next one, to reuse its memory.
#[derive(Debug)]
pub(crate) struct Refused {
    policy: Partial,
    /// As the parsers list them.
    unreadable: Vec<Unreadable>,
    /// All of them, by position once they are [settled](Self::settle).
    readings: Vec<RefusedReading>,
    /// The value of the header [`dead_letter::PARTIAL`].
    header: String,
}

impl Refused {
    pub(crate) fn new(policy: Partial) -> Self {
        Self {
            policy,
            unreadable: Vec::new(),
            readings: Vec::new(),
            header: String::new(),
        }
    }

    /// Starts with a message: parses it with the function for this policy.
    ///
    /// # Errors
    /// The message is refused whole.
    pub(crate) fn parse<'p>(
        &mut self,
        parse: impl FnOnce(Option<&mut Vec<Unreadable>>) -> Result<DeviceMessage<'p>, ParseError>,
    ) -> Result<DeviceMessage<'p>, ParseError> {
        self.readings.clear();
        self.unreadable.clear();
        let message = parse(match self.policy {
            Partial::Accept => Some(&mut self.unreadable),
            Partial::Refuse => None,
        })?;
        let unreadable = self.unreadable.drain(..);
        self.readings.extend(unreadable.map(|reading| {
            let Unreadable {
                index,
                sensor,
                defect,
            } = reading;
            let refusal = Refusal::Unreadable(defect);
            RefusedReading {
                index,
                sensor,
                refusal,
            }
        }));
        Ok(message)
    }

    /// Leaves out the readings that `check` refuses. It gets each reading with its place in the
    /// list and its position in the message.
    ///
    /// # Errors
    /// The message is refused whole, for that reason.
    pub(crate) fn retain(
        &mut self,
        readings: &mut Vec<Reading<'_>>,
        mut check: impl FnMut(usize, usize, &Reading<'_>) -> Result<(), Refusal>,
    ) -> Result<(), Refusal> {
        let refused: Vec<_> = self.readings.iter().map(|reading| reading.index).collect();
        let mut places = remaining(refused).enumerate();
        let mut result = Ok(());
        readings.retain(|reading| {
            if result.is_err() {
                return true;
            }
            let (place, index) = places.next().unwrap_or_default();
            match check(place, index, reading) {
                Ok(()) => true,
                Err(refusal) => {
                    result = self.add(index, reading, refusal);
                    false
                }
            }
        });
        self.readings.sort_by_key(|reading| reading.index);
        result
    }

    fn add(
        &mut self,
        index: usize,
        reading: &Reading<'_>,
        refusal: Refusal,
    ) -> Result<(), Refusal> {
        if self.policy == Partial::Refuse {
            return Err(refusal);
        }
        self.readings.push(RefusedReading {
            index,
            sensor: Some(short_name(&reading.sensor)),
            refusal,
        });
        if self.readings.len() > MAX_REFUSED {
            return Err(self.readings[0].refusal.clone());
        }
        Ok(())
    }

    /// Folds what is left of the message, without the readings for which the device has no room.
    /// Adds what it changes to `folded`.
    ///
    /// # Errors
    /// The message is refused whole, and the state has not changed.
    pub(crate) fn fold(
        &mut self,
        fold: &mut Fold,
        record: &Record<'_>,
        identity: (&str, &str),
        message: &mut DeviceMessage<'_>,
        beside: &Beside,
        folded: &mut Folded,
    ) -> Result<(), Refusal> {
        let event = event(record, identity, message, beside);
        self.settle(says_anything(fold, &event))?;
        match fold.apply(&event, folded) {
            Err(full @ iot_fold::Refusal::TooManySensors) => {
                let excess = fold.excess(&event);
                self.retain(&mut message.readings, |place, _, _| {
                    if excess.binary_search(&place).is_ok() {
                        return Err(full.into());
                    }
                    Ok(())
                })?;
                let event = self::event(record, identity, message, beside);
                self.settle(says_anything(fold, &event))?;
                Ok(fold.apply(&event, folded)?)
            }
            applied => Ok(applied?),
        }
    }

    /// Writes the list of the refused readings into the header, for a message of which something
    /// is left.
    ///
    /// # Errors
    /// Nothing is left, or the list of the refused ones is too long for a header. The message is
    /// refused whole, for the reason of the first.
    pub(crate) fn settle(&mut self, is_any_left: bool) -> Result<(), Refusal> {
        let Some(first) = self.readings.first() else {
            return Ok(());
        };
        let listed = self.readings.iter().map(|reading| PartialReading {
            reading: reading.index,
            sensor: reading.sensor().map(Into::into),
            reason: reading.refusal.reason().into(),
        });
        let header = dead_letter::partial(&listed.collect::<Vec<_>>());
        match header {
            Some(header) if is_any_left => self.header = header,
            _ => return Err(first.refusal.clone()),
        }
        Ok(())
    }

    /// The refused readings by position, and the header that lists them; `None` without any.
    pub(crate) fn listed(&self) -> Option<Listed<'_>> {
        let first = self.readings.first()?;
        Some(Listed {
            first,
            all: &self.readings,
            header: &self.header,
        })
    }
}

/// Whether something of a message is left for the fold: a reading, or a state in a word.
fn says_anything(fold: &Fold, event: &Event<'_>) -> bool {
    !event.message.readings.is_empty() || fold.has_unmatched(event)
}

fn event<'m>(
    record: &Record<'_>,
    (tenant, project): (&'m str, &'m str),
    message: &'m DeviceMessage<'m>,
    beside: &'m Beside,
) -> Event<'m> {
    Event {
        offset: record.offset(),
        recorded: record.timestamp(),
        tenant,
        project,
        message,
        is_undated: beside.is_undated,
        unmatched: &beside.unmatched,
    }
}

/// The refused readings of a message of which others were accepted.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Listed<'a> {
    pub(crate) first: &'a RefusedReading,
    pub(crate) all: &'a [RefusedReading],
    /// The value of the header [`dead_letter::PARTIAL`].
    pub(crate) header: &'a str,
}

#[cfg(test)]
mod tests {
    use iot_core::message::{parse, parse_partial};

    use super::*;

    fn message(readings: &str) -> String {
        format!(r#"{{"device_id":"d","timestamp":1,"readings":[{readings}]}}"#)
    }

    fn parsed<'p>(refused: &mut Refused, json: &'p str) -> Result<DeviceMessage<'p>, ParseError> {
        refused.parse(|unreadable| match unreadable {
            Some(unreadable) => parse_partial(json.as_bytes(), unreadable),
            None => parse(json.as_bytes()),
        })
    }

    fn too_many(_: usize, _: usize, reading: &Reading<'_>) -> Result<(), Refusal> {
        match reading.value {
            0.0 => Err(iot_fold::Refusal::TooManySensors.into()),
            _ => Ok(()),
        }
    }

    const MIXED: &str = r#"{"sensor":"a","value":1},{"sensor":"b","value":null},
        {"sensor":"c","value":0},{"sensor":"d","value":2},{"sensor":"e","value":0}"#;

    #[test]
    fn good_readings_are_left_and_the_others_listed_by_position() {
        let mut refused = Refused::new(Partial::Accept);
        let json = message(MIXED);
        // Twice: nothing of the message before may be left.
        for _ in 0..2 {
            let mut message = parsed(&mut refused, &json).unwrap();
            refused.retain(&mut message.readings, too_many).unwrap();
            refused.settle(!message.readings.is_empty()).unwrap();
            let left: Vec<_> = message.readings.iter().map(|r| &*r.sensor).collect();
            assert_eq!(left, ["a", "d"]);
            let listed = refused.listed().unwrap();
            assert_eq!(listed.first.sensor(), Some("b"));
            let found = dead_letter::read_partial(listed.header.as_bytes()).unwrap();
            let found: Vec<_> = found
                .iter()
                .map(|r| (r.reading, r.sensor.as_deref().unwrap_or(""), &*r.reason))
                .collect();
            let expected = [
                (1, "b", "not_a_number"),
                (2, "c", "too_many_sensors"),
                (4, "e", "too_many_sensors"),
            ];
            assert_eq!(found, expected);
        }
        let good = message(r#"{"sensor":"a","value":1}"#);
        let good = parsed(&mut refused, &good).unwrap();
        refused.settle(!good.readings.is_empty()).unwrap();
        assert!(refused.listed().is_none());
    }

    #[test]
    fn the_policy_refuse_refuses_the_message() {
        let mut refused = Refused::new(Partial::Refuse);
        let json = message(MIXED);
        let error = parsed(&mut refused, &json).unwrap_err();
        assert_eq!(
            error.to_string(),
            "readings[1]: value must be a number, not null"
        );
        let json = message(r#"{"sensor":"a","value":1},{"sensor":"c","value":0}"#);
        let mut message = parsed(&mut refused, &json).unwrap();
        let error = refused.retain(&mut message.readings, too_many).unwrap_err();
        assert_eq!(error.reason(), "too_many_sensors");
    }

    #[test]
    fn without_a_good_reading_the_message_is_refused_for_the_first_reason() {
        let mut refused = Refused::new(Partial::Accept);
        let json = message(r#"{"sensor":"b","value":null},{"sensor":"c","value":0}"#);
        let mut message = parsed(&mut refused, &json).unwrap();
        refused.retain(&mut message.readings, too_many).unwrap();
        let error = refused.settle(!message.readings.is_empty()).unwrap_err();
        assert_eq!(error.reason(), "not_a_number");
    }

    #[test]
    fn too_many_refused_readings_refuse_the_message() {
        let mut refused = Refused::new(Partial::Accept);
        let bad = |count| {
            let bad = vec![r#"{"sensor":"b","value":0}"#; count];
            message(&format!(r#"{{"sensor":"a","value":1}},{}"#, bad.join(",")))
        };
        let json = bad(MAX_REFUSED + 1);
        let mut message = parsed(&mut refused, &json).unwrap();
        let error = refused.retain(&mut message.readings, too_many).unwrap_err();
        assert_eq!(error.reason(), "too_many_sensors");
        // Fewer, and still too many for the header.
        let json = bad(MAX_REFUSED);
        let mut message = parsed(&mut refused, &json).unwrap();
        refused.retain(&mut message.readings, too_many).unwrap();
        let error = refused.settle(!message.readings.is_empty()).unwrap_err();
        assert_eq!(error.reason(), "too_many_sensors");
    }
}
