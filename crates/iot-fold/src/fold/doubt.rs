//! Retained messages without a time, and states that are not numbers.

use iot_core::message::Quality;

use super::{Event, Fold, Folded, write_key};
use crate::stamp::Stamp;

impl Fold {
    /// Takes a retained message without a time. It sets only values that do not exist yet; they
    /// count in no window and reach no detector. It does not end the silence of a known device; a
    /// new one is watched for silence like any other.
    pub(super) fn fill(&mut self, at: usize, event: &Event<'_>, folded: &mut Folded) {
        let stamp = Stamp::undated(event.message.timestamp);
        let is_new = self.devices[at].state.newest == Stamp::NONE;
        let noted = self.note(is_new, is_new);
        if is_new {
            let state = &mut self.devices[at].state;
            state.newest = stamp;
            if let Some(location) = &event.message.location
                && state.move_to(location)
            {
                state.share(&mut self.names);
                self.devices[at].find_limits(&self.rules);
            }
            self.hear(at, event, folded);
        }
        let mut has_changed = is_new;
        for reading in &event.message.readings {
            folded.readings += 1;
            if self.devices[at].sensor(&reading.sensor).is_some() {
                folded.stale += 1;
                continue;
            }
            let number = self.sensor(at, &reading.sensor);
            let device = &mut self.devices[at];
            let sensor = &mut device.state.sensors[number];
            sensor.newest = stamp;
            sensor.take(reading);
            sensor.share(&mut self.names);
            device.find_by_unit(number, &self.rules);
            self.show(at, number);
            has_changed = true;
        }
        if has_changed {
            self.mark_unsaved(at);
            self.show_message(at, event, noted);
        }
        if is_new {
            self.reveal(folded);
            self.retire(folded);
        }
    }

    /// Whether the device of an event has a sensor whose state it gives in a word.
    #[must_use]
    pub fn has_unmatched(&self, event: &Event<'_>) -> bool {
        let mut key = String::new();
        let device = &event.message.device_id;
        write_key(&mut key, event.tenant, event.project, device);
        let Some(at) = self.index.get(&key) else {
            return false;
        };
        let device = &self.devices[*at];
        let mut unmatched = event.unmatched.iter();
        unmatched.any(|sensor| device.sensor(sensor).is_some())
    }

    /// Makes the value of a sensor uncertain, because its newest state is unknown.
    pub(super) fn doubt(&mut self, at: usize, sensor: &str, stamp: Stamp) {
        let device = &mut self.devices[at];
        let Some(number) = device.sensor(sensor) else {
            return;
        };
        let sensor = &mut device.state.sensors[number];
        if !sensor.newest.yields_to(stamp) {
            return;
        }
        sensor.newest = stamp;
        if sensor.quality == Quality::Good {
            sensor.quality = Quality::Uncertain;
        }
        self.show(at, number);
    }
}
