//! The beginning of a subscription: a snapshot in pages, or what the client has missed.

use std::borrow::Cow;
use std::sync::Arc;

use bytes::Bytes;
use iot_fold::Device;
use serde::Serialize;

use super::Wanted;
use crate::channel::{Channel, Kind};
use crate::hub::{First, Snapshot, Subscribed};
use crate::protocol::Framing;
use crate::protocol::messages::{Publication, Reply, SubscribeResult};

/// A reply and a page have at most this many bytes of data, unless a single device is longer: a
/// client has 5 s to receive the reply, and each takes memory while it is sent.
pub(crate) const PAGE: usize = 4 << 10;

/// The parts that a subscription begins with, made one at a time: the reply, and then
/// publications. What the channel publishes later comes after them.
pub(crate) struct Start {
    framing: Framing,
    channel: Arc<str>,
    epoch: Arc<str>,
    /// The position of the whole.
    offset: u64,
    /// The reply, until it is written.
    reply: Option<Reply>,
    rest: Rest,
}

enum Rest {
    Pages(Pages),
    Missed(std::iter::Peekable<std::vec::IntoIter<(Option<u64>, Bytes)>>),
}

impl Start {
    pub(super) fn new(framing: Framing, wanted: &Wanted, subscribed: Subscribed) -> Self {
        let Subscribed {
            epoch,
            offset,
            first,
            partial,
        } = subscribed;
        // Statistics are sent each second: there is nothing to recover.
        let has_position = wanted.channel.kind != Kind::Stats;
        let result = SubscribeResult {
            recoverable: has_position,
            positioned: has_position,
            epoch: epoch.to_string(),
            was_recovering: wanted.is_recovering,
            ..SubscribeResult::default()
        };
        let reply = Reply {
            id: wanted.id,
            subscribe: Some(result),
            ..Reply::default()
        };
        let rest = match first {
            First::Snapshot(snapshot) => {
                Rest::Pages(Pages::new(&wanted.channel, snapshot, partial))
            }
            First::Missed(missed) => Rest::Missed(positioned(missed).into_iter().peekable()),
        };
        Self {
            framing,
            channel: wanted.channel.name.clone(),
            epoch,
            offset: if has_position { offset } else { 0 },
            reply: Some(reply),
            rest,
        }
    }

    /// Whether no part is left.
    pub(crate) fn is_over(&mut self) -> bool {
        let is_rest_over = match &mut self.rest {
            Rest::Pages(pages) => pages.is_done,
            Rest::Missed(missed) => missed.peek().is_none(),
        };
        self.reply.is_none() && is_rest_over
    }

    /// The reply with as much as fits.
    fn reply(&mut self, mut reply: Reply) -> Bytes {
        if let Some(result) = &mut reply.subscribe {
            match &mut self.rest {
                Rest::Pages(pages) => {
                    let (data, is_last) = pages.next().unwrap_or_default();
                    result.data = data;
                    // A client that loses the connection between two pages has no position, and
                    // gets a snapshot.
                    result.offset = if is_last { self.offset } else { 0 };
                }
                Rest::Missed(missed) => {
                    result.recovered = true;
                    result.offset = self.offset;
                    let mut bytes = 0;
                    while let Some((offset, data)) = missed.next_if(|(_, data)| {
                        bytes += data.len();
                        bytes <= PAGE
                    }) {
                        let offset = offset.unwrap_or(0);
                        result.publications.push(Publication { offset, data });
                    }
                }
            }
        }
        self.framing.reply(&reply)
    }
}

impl Iterator for Start {
    type Item = Bytes;

    fn next(&mut self) -> Option<Bytes> {
        if let Some(reply) = self.reply.take() {
            return Some(self.reply(reply));
        }
        let (offset, data) = match &mut self.rest {
            Rest::Pages(pages) => {
                let (data, is_last) = pages.next()?;
                (is_last.then_some(self.offset), data)
            }
            Rest::Missed(missed) => missed.next()?,
        };
        Some(
            self.framing
                .publication(&self.channel, &self.epoch, offset, &data),
        )
    }
}

/// What a client has missed, with the position of the last. The others have none: they are in the
/// order of partitions, and a client that has lost its connection after one of them must begin
/// where it did before.
pub(crate) fn positioned(missed: Vec<(u64, Bytes)>) -> Vec<(Option<u64>, Bytes)> {
    let last = missed.len().saturating_sub(1);
    let missed = missed.into_iter().enumerate();
    missed
        .map(|(at, (offset, data))| ((at == last).then_some(offset), data))
        .collect()
}

/// A snapshot as JSON, one page at a time; all but the last have `"more":true`. Each comes with
/// whether it is the last. There is at least one.
pub(crate) struct Pages {
    snapshot: Snapshot,
    /// Only this sensor of each device.
    sensor: Option<Arc<str>>,
    /// What the snapshot lacks, and why; in the first page.
    partial: Vec<String>,
    /// Devices or alerts that were written.
    written: usize,
    is_done: bool,
}

impl Pages {
    pub(crate) fn new(channel: &Channel, snapshot: Snapshot, partial: Vec<String>) -> Self {
        let sensor = channel.filter.sensor.clone();
        Self {
            snapshot,
            sensor,
            partial,
            written: 0,
            is_done: false,
        }
    }

    fn page(&mut self) -> (Vec<u8>, bool) {
        let (name, count) = match &self.snapshot {
            Snapshot::Devices(devices) => ("devices", devices.len()),
            Snapshot::Alerts(alerts) => ("alerts", alerts.len()),
            Snapshot::Stats(stats) => return (json(&Single { stats }), true),
        };
        let mut page = format!("{{\"{name}\":[").into_bytes();
        let begin = self.written;
        while self.written < count {
            let entry = match &self.snapshot {
                Snapshot::Devices(devices) => {
                    json(&with_sensor(&devices[self.written], self.sensor.as_deref()))
                }
                Snapshot::Alerts(alerts) => json(&alerts[self.written]),
                Snapshot::Stats(_) => break,
            };
            if self.written > begin {
                if page.len() + entry.len() > PAGE {
                    break;
                }
                page.push(b',');
            }
            page.extend_from_slice(&entry);
            self.written += 1;
        }
        let is_last = self.written == count;
        page.push(b']');
        if begin == 0 && !self.partial.is_empty() {
            page.extend_from_slice(br#","partial":"#);
            page.extend_from_slice(&json(&self.partial));
        }
        if !is_last {
            page.extend_from_slice(br#","more":true"#);
        }
        page.push(b'}');
        (page, is_last)
    }
}

impl Iterator for Pages {
    type Item = (Bytes, bool);

    fn next(&mut self) -> Option<Self::Item> {
        if self.is_done {
            return None;
        }
        let (page, is_last) = self.page();
        self.is_done = is_last;
        Some((page.into(), is_last))
    }
}

#[derive(Serialize)]
struct Single<'s, S> {
    stats: &'s S,
}

/// A device with only the readings of one sensor, if one is asked for.
pub(crate) fn with_sensor<'d>(device: &'d Device, sensor: Option<&str>) -> Cow<'d, Device> {
    let Some(sensor) = sensor else {
        return Cow::Borrowed(device);
    };
    let readings = device.readings.iter().filter(|(name, _)| **name == *sensor);
    Cow::Owned(Device {
        key: device.key.clone(),
        location: device.location.clone(),
        readings: readings.cloned().collect(),
        ..*device
    })
}

fn json(value: &impl Serialize) -> Vec<u8> {
    serde_json::to_vec(value).expect("keys are texts")
}
