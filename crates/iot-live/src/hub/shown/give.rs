//! Hands what changed to the channels that it concerns.

use std::mem::take;
use std::sync::Arc;

use iot_fold::{Alert, Device, DeviceKey, Place};

use super::{Reading, Shown};
use crate::hub::Times;
use crate::hub::channels::ChannelId;
use crate::hub::groups::Concerned;
use crate::hub::json::{self, Field};
use crate::hub::view::{EntryId, PartId};

/// A change of a device that the view has already.
pub(super) struct Changed<'c> {
    pub(super) id: EntryId,
    /// What the partition knows now.
    pub(super) device: &'c Device,
    pub(super) readings: &'c [Reading],
    /// The place of the device as it was shown before if it is new or has moved; `None` inside if
    /// it was not known.
    pub(super) before: Option<Option<Option<Arc<Place>>>>,
    /// Partition and offset of the message.
    pub(super) origin: Option<(&'c str, i64)>,
    pub(super) times: Option<Times>,
}

impl Shown {
    /// Tells channels that a device is not theirs any more.
    pub(super) fn left(
        &mut self,
        id: EntryId,
        key: &DeviceKey,
        leaves: &Concerned,
        times: Option<Times>,
    ) {
        let limit = self.channels.settings.frame();
        for channel in leaves.readings.iter().chain(&leaves.whole) {
            if let Some(state) = self.channels.state(*channel) {
                state.removed(id, key, limit);
            }
            self.channels.touch(*channel, times);
        }
    }

    /// Hands a change of a device to channels.
    pub(super) fn changed(&mut self, changed: &Changed<'_>) {
        if self.groups.is_empty() {
            return;
        }
        let Changed { id, device, .. } = *changed;
        let key = &device.key;
        let shared = self
            .view
            .is_shared(id)
            .then(|| self.view.shown(id))
            .flatten();
        let shown = shared.as_deref().unwrap_or(device);
        let place = shown.location.as_deref();
        let mut entered = Concerned::default();
        if let Some(before) = &changed.before {
            let before = before.as_ref().map(|place| place.as_deref());
            let has = |sensor: &str| shown.readings.find(sensor).is_ok();
            let moved = self.groups.moved(key, id, (before, Some(place)), has);
            entered = moved.0;
            self.left(id, key, &moved.1, changed.times);
        }
        let mut concerned = take(&mut self.concerned);
        concerned.clear();
        let is_changed = |sensor: &str| changed.readings.iter().any(|(name, _)| **name == *sensor);
        self.groups
            .changed((key, place), is_changed, &mut concerned);
        let mut written = None;
        for channel in &concerned.readings {
            if !entered.readings.contains(channel) {
                self.give(*channel, changed, shown, false, &mut written);
            }
        }
        for channel in &entered.readings {
            self.give(*channel, changed, shown, true, &mut None);
        }
        // Those that it enters are among them.
        for channel in &concerned.whole {
            self.give(*channel, changed, shown, false, &mut None);
        }
        self.concerned = concerned;
    }

    /// Gives a change to a channel; `written` has its JSON once one needs it.
    fn give(
        &mut self,
        channel: ChannelId,
        changed: &Changed<'_>,
        shown: &Device,
        is_whole: bool,
        written: &mut Option<Vec<u8>>,
    ) {
        let limit = self.channels.settings.frame();
        let Some(state) = self.channels.state(channel) else {
            return;
        };
        if state.channel.is_conflated() {
            if is_whole {
                state.whole(changed.id);
            } else {
                state.change(changed.id, changed.readings);
            }
        } else if is_whole || state.channel.filter.sensor.is_some() {
            let readings = if is_whole {
                &shown.readings
            } else {
                changed.readings
            };
            let mut item = Vec::new();
            let takes = |name: &str| state.channel.filter.takes_sensor(name);
            json::device(&mut item, changed.device, readings, takes, changed.origin);
            state.line(Field::Devices, &item, limit);
        } else {
            let item = written.get_or_insert_with(|| {
                let mut item = Vec::new();
                let (device, readings) = (changed.device, changed.readings);
                json::device(&mut item, device, readings, |_| true, changed.origin);
                item
            });
            state.line(Field::Devices, item, limit);
        }
        self.channels.touch(channel, changed.times);
    }

    /// Lists an alert as it is now, and hands it to channels. Returns those that are not listed any
    /// more; the caller hands these to channels at the end, because each turn makes a publication.
    #[must_use]
    pub(super) fn alert(&mut self, part: PartId, alert: Alert, times: Option<Times>) -> Vec<Alert> {
        let mut channels = Vec::new();
        let place = alert.location.as_deref();
        self.groups.alerts(&alert.key, place, &mut channels);
        let (before, gone) = self.view.list(part, alert.clone());
        let limit = self.channels.settings.frame();
        let mut item = None;
        for channel in channels {
            if let Some(state) = self.channels.state(channel)
                && state.channel.filter.takes_alert(&alert)
            {
                let item = item.get_or_insert_with(|| {
                    let mut item = Vec::new();
                    json::value(&mut item, &alert);
                    item
                });
                state.alerts = None;
                state.line(Field::Alerts, item, limit);
                self.channels.touch(channel, times);
            }
        }
        if let Some(before) = before {
            self.gone_unless(&before, Some(&alert), times);
        }
        gone
    }

    /// Tells channels that an alert is not known any more.
    pub(super) fn gone(&mut self, alert: &Alert) {
        self.gone_unless(alert, None, None);
    }

    /// Tells channels of an alert that it is not theirs any more, as it is now.
    fn gone_unless(&mut self, before: &Alert, now: Option<&Alert>, times: Option<Times>) {
        let mut channels = Vec::new();
        let place = before.location.as_deref();
        self.groups.alerts(&before.key, place, &mut channels);
        let limit = self.channels.settings.frame();
        for channel in channels {
            if let Some(state) = self.channels.state(channel)
                && state.channel.filter.takes_alert(before)
                && !now.is_some_and(|now| state.channel.filter.takes_alert(now))
            {
                let mut item = Vec::new();
                json::value(&mut item, &before.id);
                state.alerts = None;
                state.line(Field::Gone, &item, limit);
                self.channels.touch(channel, times);
            }
        }
    }
}
