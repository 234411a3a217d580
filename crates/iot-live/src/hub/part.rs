//! A partition as it is shown, and the feed that is about to replace the one that shows it.

use std::sync::Arc;

use iot_core::partition::TopicPartition;
use iot_fold::{Alert, Change, Contents, Device, DeviceKey, Place, Updates};
use tokio::sync::mpsc;

use super::history::History;
use super::view::{EntryId, View};
use super::{Marks, Opening, Question};

/// A partition that is shown.
pub(super) struct Part {
    pub(super) partition: Arc<TopicPartition>,
    /// As entries of `mode=all` name it: `topic:3`.
    pub(super) name: Arc<str>,
    pub(super) feed: u64,
    /// Its devices by their places in the partition's state, some of which are free.
    pub(super) places: Vec<Option<EntryId>>,
    /// The next offset that is not shown.
    pub(super) reached: i64,
    pub(super) marks: Arc<Marks>,
    pub(super) questions: mpsc::Sender<Question>,
    pub(super) history: History,
    /// A feed that has not reached what is shown yet.
    pub(super) next: Option<Shadow>,
    /// Whether the feed that is shown has ended, and `next` is awaited.
    pub(super) is_over: bool,
}

/// A feed that is not shown yet.
pub(super) struct Shadow {
    pub(super) feed: u64,
    pub(super) reached: i64,
    partition: Arc<TopicPartition>,
    devices: Vec<Option<Device>>,
    alerts: Vec<Alert>,
    marks: Arc<Marks>,
    questions: mpsc::Sender<Question>,
}

impl Part {
    /// A partition without devices, and what is to be shown of it.
    pub(super) fn new(shadow: Shadow) -> (Self, Contents) {
        let (topic, number) = shadow.partition.parts();
        let part = Self {
            name: format!("{topic}:{number}").into(),
            partition: shadow.partition.clone(),
            feed: shadow.feed,
            places: Vec::new(),
            reached: shadow.reached,
            marks: shadow.marks.clone(),
            questions: shadow.questions.clone(),
            history: History::new(shadow.reached),
            next: None,
            is_over: false,
        };
        (part, shadow.contents())
    }

    /// Goes by another feed; returns what is to be shown.
    pub(super) fn follow(&mut self, shadow: Shadow) -> Contents {
        if shadow.reached > self.reached {
            self.history = History::new(shadow.reached);
        }
        (self.feed, self.reached) = (shadow.feed, shadow.reached);
        self.marks = shadow.marks.clone();
        self.questions = shadow.questions.clone();
        (self.next, self.is_over) = (None, false);
        shadow.contents()
    }
}

impl Shadow {
    pub(super) fn new(opening: Opening, feed: u64) -> Self {
        let mut shadow = Self {
            feed,
            reached: opening.reached,
            partition: opening.partition,
            devices: Vec::new(),
            alerts: opening.all.alerts,
            marks: opening.marks,
            questions: opening.questions,
        };
        for (place, device) in opening.all.devices {
            *shadow.place(place) = Some(device);
        }
        shadow
    }

    fn place(&mut self, place: usize) -> &mut Option<Device> {
        if self.devices.len() <= place {
            self.devices.resize(place + 1, None);
        }
        &mut self.devices[place]
    }

    /// Takes in what changed.
    pub(super) fn apply(&mut self, updates: &Updates, reached: i64) {
        for update in updates.iter() {
            let device = self.place(update.place);
            match update.change {
                Change::Removed(_) => *device = None,
                Change::Described { key, location } => {
                    let device = device.get_or_insert_with(|| View::empty(key));
                    device.location = location.cloned();
                }
                Change::Message {
                    seq,
                    timestamp,
                    is_ahead,
                    readings,
                } => {
                    if let Some(device) = device {
                        device.update((seq, timestamp, is_ahead), readings);
                    }
                }
            }
        }
        let mut turns = turns(updates).into_iter().peekable();
        for (offset, alert) in &updates.alerts {
            while let Some(turn) = turns.next_if(|turn| turn.is_before(*offset)) {
                self.turn(turn);
            }
            let is_before = |known: &&mut Alert| {
                let series = |alert: &Alert| (alert.kind, alert.sensor.clone(), alert.key.clone());
                known.id == alert.id || series(known) == series(alert)
            };
            match self.alerts.iter_mut().find(is_before) {
                Some(known) => known.clone_from(alert),
                None => self.alerts.push(alert.clone()),
            }
        }
        for turn in turns {
            self.turn(turn);
        }
        self.reached = reached;
    }

    fn turn(&mut self, Turn { key, what, .. }: Turn) {
        match what {
            What::Moved(location) => {
                for alert in self.alerts.iter_mut().filter(|alert| alert.key == key) {
                    alert.location.clone_from(&location);
                }
            }
            What::Removed => self.alerts.retain(|alert| alert.key != key),
        }
    }

    fn contents(self) -> Contents {
        let devices = self.devices.into_iter().enumerate();
        let devices = devices.filter_map(|(place, device)| Some((place, device?)));
        Contents {
            devices: devices.collect(),
            alerts: self.alerts,
        }
    }
}

/// What happens to a device and so to its alerts, with the record that did it.
pub(super) struct Turn {
    pub(super) offset: i64,
    pub(super) key: DeviceKey,
    pub(super) what: What,
}

pub(super) enum What {
    Moved(Option<Arc<Place>>),
    Removed,
}

impl Turn {
    /// Whether it comes before an alert of the record at this offset: a record moves its device
    /// first, and removes others last.
    pub(super) fn is_before(&self, offset: i64) -> bool {
        match self.what {
            What::Moved(_) => self.offset <= offset,
            What::Removed => self.offset < offset,
        }
    }
}

/// In order.
pub(super) fn turns(updates: &Updates) -> Vec<Turn> {
    let turns = updates.iter().filter_map(|update| {
        let (key, what) = match update.change {
            Change::Removed(key) => (key, What::Removed),
            Change::Described { key, location } => (key, What::Moved(location.cloned())),
            Change::Message { .. } => return None,
        };
        Some(Turn {
            offset: update.offset,
            key: key.clone(),
            what,
        })
    });
    turns.collect()
}
