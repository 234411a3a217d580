//! The channels that somebody is subscribed to. Clients with the same channel and framing share
//! its state: a change is kept once, encoded once, and handed to all of them as the same bytes.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use iot_fold::{Alert, DeviceKey, Value};
use tokio::time::Instant;

use super::groups::Groups;
use super::index::GroupId;
use super::json::{Field, key};
use super::metrics::HubMetrics;
use super::pending::{Latest, Lines};
use super::view::{EntryId, View};
use super::{ClientId, Close, Outbox, Settings, Stats, Times};
use crate::channel::{Channel, Kind, Mode};
use crate::protocol::Framing;

pub(super) type ChannelId = u32;

/// The most channels of a client.
const MOST_CHANNELS: usize = 128;
/// About the largest publication, in bytes.
const MOST_FRAME: usize = 256 << 10;
/// Ends a subscription; the client subscribes again.
const RESYNC: u32 = 2500;

pub(super) struct Channels {
    pub(super) settings: Settings,
    metrics: HubMetrics,
    states: HashMap<ChannelId, State>,
    by_name: HashMap<(Arc<str>, Framing), ChannelId>,
    next: ChannelId,
    clients: HashMap<ClientId, Vec<ChannelId>>,
    /// Channels with changes, by the time at which they are sent.
    due: BTreeSet<(Instant, ChannelId)>,
    /// Clients that wait for conflated changes of their own.
    behind: BTreeSet<(ChannelId, ClientId)>,
    retry_at: Instant,
}

/// A channel in one framing.
pub(super) struct State {
    pub(super) channel: Channel,
    pub(super) group: Option<GroupId>,
    framing: Framing,
    members: HashMap<ClientId, Member>,
    latest: Latest,
    lines: Lines,
    /// The last position of a publication or snapshot.
    offset: u64,
    /// No publication has a position before this replica has reached this one, at which another
    /// replica has left a client.
    held: u64,
    flushed_at: Option<Instant>,
    due_at: Option<Instant>,
    /// Of the oldest change that waits.
    times: Option<Times>,
    /// All alerts of the channel; `None` after a change.
    pub(super) alerts: Option<Arc<[Alert]>>,
}

struct Member {
    outbox: Outbox,
    behind: Latest,
}

impl State {
    fn every(&self, settings: &Settings) -> Duration {
        match (self.channel.max_rate, self.channel.kind, self.channel.mode) {
            (Some(rate), ..) => Duration::from_secs(1) / rate.get(),
            (_, Kind::Alerts, _) | (_, _, Mode::All) => settings.gather,
            _ => settings.interval,
        }
    }

    fn is_conflated(&self) -> bool {
        self.channel.is_conflated()
    }

    /// The position of a publication with everything that has changed.
    fn advance(&mut self, frontier: Option<u64>) -> Option<u64> {
        let frontier = frontier.filter(|frontier| *frontier >= self.held)?;
        self.offset = frontier.max(self.offset + 1).max(self.held + 1);
        Some(self.offset)
    }

    /// Makes later publications newer than a snapshot.
    pub(super) fn starts_at(&mut self, frontier: Option<u64>) {
        self.offset = self.offset.max(frontier.unwrap_or(0));
    }

    /// Makes later publications newer than a position that a client already has.
    pub(super) fn resumes_at(&mut self, offset: u64) {
        self.held = self.held.max(offset);
    }

    /// Adds values of a device that changed.
    pub(super) fn change(&mut self, id: EntryId, readings: &[(Arc<str>, Value)]) {
        let Some(sensor) = &self.channel.filter.sensor else {
            return self.latest.change(id, readings);
        };
        if let Some(reading) = readings.iter().rfind(|(name, _)| name == sensor) {
            self.latest.change(id, std::slice::from_ref(reading));
        }
    }

    /// Adds a device with all of its values.
    pub(super) fn whole(&mut self, id: EntryId) {
        self.latest.whole(id);
    }

    pub(super) fn removed(&mut self, id: EntryId, of: &DeviceKey, limit: usize) {
        if self.is_conflated() {
            self.latest.remove(id, of);
        } else {
            let mut item = Vec::new();
            key(&mut item, of);
            self.lines.add(Field::Removed, &item, limit);
        }
    }

    pub(super) fn line(&mut self, field: Field, item: &[u8], limit: usize) {
        self.lines.add(field, item, limit);
    }
}

impl Channel {
    pub(super) fn is_conflated(&self) -> bool {
        self.kind == Kind::Devices || (self.kind == Kind::Readings && self.mode == Mode::Latest)
    }

    pub(super) fn takes_sensor(&self, name: &str) -> bool {
        self.filter
            .sensor
            .as_deref()
            .is_none_or(|sensor| sensor == name)
    }

    pub(super) fn selects_alert(&self, alert: &Alert) -> bool {
        let filter = &self.filter;
        self.takes_sensor(&alert.sensor)
            && filter.min_level.is_none_or(|level| alert.level >= level)
            && filter.state.is_none_or(|state| alert.state == state)
            && filter.selects(&alert.key, alert.location.as_deref())
    }
}

impl Channels {
    pub(super) fn new(settings: Settings, metrics: HubMetrics) -> Self {
        Self {
            settings,
            metrics,
            states: HashMap::new(),
            by_name: HashMap::new(),
            next: 0,
            clients: HashMap::new(),
            due: BTreeSet::new(),
            behind: BTreeSet::new(),
            retry_at: Instant::now(),
        }
    }

    pub(super) fn clients(&self) -> usize {
        self.clients.len()
    }

    pub(super) fn state(&mut self, id: ChannelId) -> Option<&mut State> {
        self.states.get_mut(&id)
    }

    /// Whether the client may subscribe.
    pub(super) fn admits(&self, client: ClientId, channel: &Channel) -> Result<(), super::Refused> {
        let Some(channels) = self.clients.get(&client) else {
            return Ok(());
        };
        let has = |id: &ChannelId| {
            let state = self.states.get(id);
            state.is_some_and(|state| state.channel.name == channel.name)
        };
        if channels.iter().any(has) {
            return Err(super::Refused::Already);
        }
        if channels.len() >= MOST_CHANNELS {
            return Err(super::Refused::TooMany);
        }
        Ok(())
    }

    /// The state of a channel, which may be a new one.
    pub(super) fn open(
        &mut self,
        channel: &Channel,
        framing: Framing,
        groups: &mut Groups,
        view: &View,
    ) -> ChannelId {
        let name = (channel.name.clone(), framing);
        if let Some(id) = self.by_name.get(&name) {
            return *id;
        }
        self.next += 1;
        let id = self.next;
        let group = (channel.kind != Kind::Stats).then(|| groups.add(channel, id, view));
        self.by_name.insert(name, id);
        let state = State {
            channel: channel.clone(),
            group,
            framing,
            members: HashMap::new(),
            latest: Latest::default(),
            lines: Lines::default(),
            offset: 0,
            held: 0,
            flushed_at: None,
            due_at: None,
            times: None,
            alerts: None,
        };
        self.states.insert(id, state);
        self.metrics.subscribed(channel.kind, 0);
        id
    }

    pub(super) fn join(&mut self, id: ChannelId, client: ClientId, outbox: Outbox) {
        let Some(state) = self.states.get_mut(&id) else {
            return;
        };
        let behind = Latest::default();
        state.members.insert(client, Member { outbox, behind });
        self.metrics.subscribed(state.channel.kind, 1);
        self.clients.entry(client).or_default().push(id);
    }

    /// Forgets a channel that nobody is subscribed to.
    pub(super) fn tidy(&mut self, id: ChannelId, groups: &mut Groups) {
        if self
            .states
            .get(&id)
            .is_none_or(|state| !state.members.is_empty())
        {
            return;
        }
        if let Some(state) = self.states.remove(&id) {
            self.by_name.remove(&(state.channel.name, state.framing));
            state.group.into_iter().for_each(|of| groups.remove(of, id));
            if let Some(at) = state.due_at {
                self.due.remove(&(at, id));
            }
        }
    }

    pub(super) fn unsubscribe(&mut self, client: ClientId, name: &str, groups: &mut Groups) {
        let channels = self
            .clients
            .get(&client)
            .map_or(&[][..], |channels| channels);
        let of_name = |id: &&ChannelId| {
            let state = self.states.get(id);
            state.is_some_and(|state| *state.channel.name == *name)
        };
        if let Some(id) = channels.iter().find(of_name).copied() {
            self.part(id, client, groups);
        }
    }

    /// Ends a subscription.
    fn part(&mut self, id: ChannelId, client: ClientId, groups: &mut Groups) {
        if let Some(channels) = self.clients.get_mut(&client) {
            channels.retain(|other| *other != id);
            if channels.is_empty() {
                self.clients.remove(&client);
            }
        }
        self.behind.remove(&(id, client));
        if let Some(state) = self.states.get_mut(&id)
            && state.members.remove(&client).is_some()
        {
            self.metrics.subscribed(state.channel.kind, -1);
        }
        self.tidy(id, groups);
    }

    pub(super) fn leave(&mut self, client: ClientId, groups: &mut Groups) {
        for id in self.clients.get(&client).cloned().unwrap_or_default() {
            self.part(id, client, groups);
        }
    }

    /// Forgets clients that nobody serves any more, however that came, and measures the others.
    pub(super) fn sweep(&mut self, groups: &mut Groups) {
        let (mut over, mut waiting) = (BTreeSet::new(), 0);
        for state in self.states.values() {
            for (client, member) in &state.members {
                waiting += member.outbox.waiting();
                if member.outbox.is_over() {
                    over.insert(*client);
                }
            }
        }
        over.into_iter()
            .for_each(|client| self.leave(client, groups));
        let now = Instant::now();
        let oldest = self.states.values().filter_map(|state| state.times);
        let oldest = oldest
            .map(|times| now.saturating_duration_since(times.arrived))
            .max();
        self.metrics.waits(waiting, oldest.unwrap_or_default());
    }

    /// Ends all connections.
    pub(super) fn close(&mut self, close: Close) {
        for state in self.states.values() {
            state
                .members
                .values()
                .for_each(|member| member.outbox.close(close));
        }
    }

    /// Notes that a channel has changes to send.
    pub(super) fn touch(&mut self, id: ChannelId, times: Option<Times>) {
        let Some(state) = self.states.get_mut(&id) else {
            return;
        };
        if state.times.is_none() {
            state.times = times;
        }
        if state.due_at.is_none() {
            let now = Instant::now();
            let every = state.every(&self.settings);
            let at = state.flushed_at.map_or(now, |last| now.max(last + every));
            state.due_at = Some(at);
            self.due.insert((at, id));
        }
    }

    /// When [`flush`](Self::flush) has something to do.
    pub(super) fn wakes_at(&self) -> Option<Instant> {
        let due = self.due.first().map(|(at, _)| *at);
        let retry = (!self.behind.is_empty()).then_some(self.retry_at);
        due.into_iter().chain(retry).min()
    }

    /// Sends what is due. `frontier` is the position of this replica.
    pub(super) fn flush(&mut self, view: &View, frontier: impl FnOnce() -> Option<u64>) {
        let now = Instant::now();
        if self.wakes_at().is_none_or(|at| at > now) {
            return;
        }
        let frontier = frontier();
        while let Some((at, id)) = self.due.first().copied()
            && at <= now
        {
            self.send(id, view, frontier);
        }
        if self.retry_at <= now {
            self.retry_at = now + self.settings.gather;
            self.catch_up(view, frontier);
        }
    }

    /// Sends the changes of a channel now.
    pub(super) fn send(&mut self, id: ChannelId, view: &View, frontier: Option<u64>) {
        let Some(state) = self.states.get_mut(&id) else {
            return;
        };
        if let Some(at) = state.due_at.take() {
            self.due.remove(&(at, id));
        }
        let times = state.times.take();
        if !state.latest.is_empty() || !state.lines.is_empty() {
            state.flushed_at = Some(Instant::now());
            times.into_iter().for_each(|times| self.metrics.sent(times));
        }
        let limit = self.settings.frame();
        while !state.latest.is_empty() {
            let batch = state.latest.take(view, &state.channel, limit);
            if batch.is_empty() {
                continue;
            }
            self.metrics.skipped(batch.skipped, state.members.len());
            let offset = if state.latest.is_empty() {
                state.advance(frontier)
            } else {
                None
            };
            let frame = self.settings.frame_of(state, offset, &batch.data);
            let mut sent = 0;
            for (client, member) in &mut state.members {
                if member.behind.is_empty() && member.outbox.offer(&frame) {
                    sent += 1;
                } else if !member.outbox.is_over() {
                    member.behind.absorb(&batch);
                    self.behind.insert((id, *client));
                    self.metrics.conflated.inc();
                }
            }
            self.metrics.framed(state.channel.kind, sent, frame.len());
        }
        if state.lines.is_empty() {
            return;
        }
        let all = state.lines.take(state.channel.kind == Kind::Readings);
        let last = all.len() - 1;
        for (number, data) in all.into_iter().enumerate() {
            let offset = if number == last {
                state.advance(frontier)
            } else {
                None
            };
            let frame = self.settings.frame_of(state, offset, &data);
            let members = state.members.values();
            let sent = members
                .filter(|member| member.outbox.push(frame.clone()))
                .count();
            self.metrics.framed(state.channel.kind, sent, frame.len());
        }
    }

    /// Sends conflated changes to clients that have room again.
    fn catch_up(&mut self, view: &View, frontier: Option<u64>) {
        let limit = self.settings.frame();
        let settings = &self.settings;
        self.behind.retain(|(id, client)| {
            let Some(state) = self.states.get_mut(id) else {
                return false;
            };
            let Some(mut member) = state.members.remove(client) else {
                return false;
            };
            while !member.behind.is_empty() && member.outbox.has_room(limit) {
                let batch = member.behind.take(view, &state.channel, limit);
                if batch.is_empty() {
                    continue;
                }
                let is_all = member.behind.is_empty() && state.latest.is_empty();
                let offset = if is_all {
                    state.advance(frontier)
                } else {
                    None
                };
                let frame = settings.frame_of(state, offset, &batch.data);
                if !member.outbox.offer(&frame) {
                    member.behind.absorb(&batch);
                    break;
                }
                self.metrics.skipped(batch.skipped, 1);
                self.metrics.framed(state.channel.kind, 1, frame.len());
            }
            let stays = !member.behind.is_empty() && !member.outbox.is_over();
            state.members.insert(*client, member);
            stays
        });
    }

    /// Sends the numbers to all who want them and have room: the next ones replace them.
    pub(super) fn send_stats(&mut self, stats: impl Fn() -> Stats) {
        let of_stats = |state: &&mut State| state.channel.kind == Kind::Stats;
        let mut data = None;
        for state in self.states.values_mut().filter(of_stats) {
            let data = data.get_or_insert_with(|| {
                let mut data = b"{\"stats\":".to_vec();
                super::json::value(&mut data, &stats());
                data.push(b'}');
                data
            });
            let now = jiff::Timestamp::now().as_microsecond().unsigned_abs();
            let offset = state.advance(Some(now));
            let frame = self.settings.frame_of(state, offset, data);
            let members = state.members.values();
            let sent = members.filter(|member| member.outbox.offer(&frame)).count();
            self.metrics.framed(Kind::Stats, sent, frame.len());
        }
    }

    /// Ends the subscriptions for which a change of partitions is too large to be sent: their
    /// clients subscribe again, for a new snapshot.
    pub(super) fn resync_large(&mut self, groups: &mut Groups) {
        let limit = self.settings.frame();
        let large = self.states.iter();
        let large = large.filter(|(_, state)| state.lines.bytes() > limit);
        for id in large.map(|(id, _)| *id).collect::<Vec<_>>() {
            self.resync(id, groups);
        }
    }

    /// Ends the subscriptions to a channel; the clients subscribe again.
    pub(super) fn resync(&mut self, id: ChannelId, groups: &mut Groups) {
        let Some(state) = self.states.get_mut(&id) else {
            return;
        };
        let reason = "the partitions of this channel have changed";
        let frame = state
            .framing
            .unsubscribe(&state.channel.name, RESYNC, reason);
        let members: Vec<_> = state.members.iter().collect();
        for (_, member) in &members {
            member.outbox.push(frame.clone());
        }
        let clients: Vec<_> = members.into_iter().map(|(client, _)| *client).collect();
        clients
            .into_iter()
            .for_each(|client| self.part(id, client, groups));
    }

    /// The channels of every change.
    pub(super) fn of_all_changes(&self) -> Vec<ChannelId> {
        let all = self.states.iter();
        let all = all.filter(|(_, state)| state.channel.mode == Mode::All);
        all.map(|(id, _)| *id).collect()
    }
}

impl Settings {
    fn frame_of(&self, state: &State, offset: Option<u64>, data: &[u8]) -> bytes::Bytes {
        let name = &state.channel.name;
        state.framing.publication(name, &self.epoch, offset, data)
    }

    /// About how many bytes a publication has: two fit in a client's queue, and no frame comes
    /// near 1 MiB, which some clients refuse.
    pub(super) fn frame(&self) -> usize {
        (self.queue / 2).clamp(1, MOST_FRAME)
    }
}
