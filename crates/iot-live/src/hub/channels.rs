//! The channels that somebody is subscribed to. Clients with the same channel and framing share
//! its state: a change is kept once, encoded once, and handed to all of them as the same bytes.

use std::collections::{BTreeSet, HashMap};
use std::ops::Bound;
use std::sync::Arc;
use std::time::Duration;

use iot_fold::{Alert, DeviceKey, Value};
use tokio::time::Instant;

use super::backlog::{Backlog, Framed, Reader};
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
/// The most conflated changes that wait for one client: with more of them a snapshot is better.
const MOST_BEHIND: usize = 10_000;
/// The most frames that are encoded for clients of their own before others get their turn.
const CATCH_UP: usize = 32;
/// The most clients that are checked before others get their turn.
const LOOK_AT: usize = 4_096;
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
    /// Clients that wait for room in their queues.
    behind: BTreeSet<(ChannelId, ClientId)>,
    /// The last of them that had its turn.
    turn: (ChannelId, ClientId),
    retry_at: Instant,
    /// Clients that are so far behind that they subscribe again.
    lost: Vec<(ChannelId, ClientId)>,
}

/// A channel in one framing.
pub(super) struct State {
    pub(super) channel: Channel,
    pub(super) group: Option<GroupId>,
    framing: Framing,
    members: HashMap<ClientId, Member>,
    latest: Latest,
    lines: Lines,
    backlog: Backlog,
    /// The last position of a publication or snapshot.
    offset: u64,
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
    reader: Reader,
    /// The position at which it began. Another replica may have left it there before this one has
    /// reached it: till then it gets publications without positions.
    held: u64,
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
        self.offset = frontier?.max(self.offset + 1);
        Some(self.offset)
    }

    /// Forgets what all members have got.
    fn trim(&mut self) {
        let members = self.members.values();
        let reading = members.filter(|member| !member.outbox.is_over());
        self.backlog.trim(reading.map(|member| &member.reader));
    }

    /// Makes later publications newer than a snapshot.
    pub(super) fn starts_at(&mut self, frontier: Option<u64>) {
        self.offset = self.offset.max(frontier.unwrap_or(0));
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
            turn: (0, ClientId(0)),
            retry_at: Instant::now(),
            lost: Vec::new(),
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
            backlog: Backlog::default(),
            offset: 0,
            flushed_at: None,
            due_at: None,
            times: None,
            alerts: None,
        };
        self.states.insert(id, state);
        self.metrics.subscribed(channel.kind, 0);
        id
    }

    /// Adds a client that begins at position `held`.
    pub(super) fn join(&mut self, id: ChannelId, (client, held): (ClientId, u64), outbox: Outbox) {
        let Some(state) = self.states.get_mut(&id) else {
            return;
        };
        let member = Member {
            outbox,
            behind: Latest::default(),
            reader: state.backlog.reader(),
            held,
        };
        state.members.insert(client, member);
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
    pub(super) fn flush(
        &mut self,
        view: &View,
        groups: &mut Groups,
        frontier: impl FnOnce() -> Option<u64>,
    ) {
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
            let is_all = self.catch_up(view, frontier);
            // After the work: there is time for messages, however much of it there was.
            let pause = if is_all {
                self.settings.gather
            } else {
                Duration::ZERO
            };
            self.retry_at = Instant::now() + pause;
        }
        for (id, client) in std::mem::take(&mut self.lost) {
            if let Some(state) = self.states.get(&id)
                && let Some(member) = state.members.get(&client)
            {
                let name = &state.channel.name;
                let frame = state.framing.unsubscribe(name, RESYNC, "too far behind");
                member.outbox.push_last(frame);
                self.part(id, client, groups);
            }
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
            let framed = self.settings.frame_of(state, offset, &batch.data);
            let mut sent = 0;
            for (client, member) in &mut state.members {
                let frame = framed.of(member.held);
                if member.behind.is_empty() && member.outbox.offer(frame) {
                    sent += 1;
                } else if !member.outbox.is_over() {
                    member.behind.absorb(&batch);
                    self.behind.insert((id, *client));
                    self.metrics.conflated.inc();
                    if member.behind.len() > MOST_BEHIND {
                        member.behind = Latest::default();
                        self.lost.push((id, *client));
                    }
                }
            }
            let bytes = framed.frame.len();
            self.metrics
                .framed(state.channel.kind, (sent, sent * bytes));
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
            let framed = self.settings.frame_of(state, offset, &data);
            state.backlog.push(framed);
        }
        for (client, member) in &mut state.members {
            let given = state
                .backlog
                .give(&mut member.reader, member.held, &member.outbox);
            self.metrics.framed(state.channel.kind, given);
            if state.backlog.waits(&member.reader) && !member.outbox.is_over() {
                self.behind.insert((id, *client));
            }
        }
        state.trim();
    }

    /// Sends what waits to clients that have room again, in turn. Returns whether all of them had
    /// theirs.
    fn catch_up(&mut self, view: &View, frontier: Option<u64>) -> bool {
        let after = (Bound::Excluded(self.turn), Bound::Unbounded);
        let rest = self.behind.range(after);
        let all = rest.chain(self.behind.range(..=self.turn));
        let turns: Vec<_> = all.take(LOOK_AT).copied().collect();
        let mut encoded = 0;
        let mut shared = BTreeSet::new();
        let mut is_all = true;
        for turn in turns {
            if encoded >= CATCH_UP {
                is_all = false;
                break;
            }
            self.turn = turn;
            let (id, client) = turn;
            let settings = &self.settings;
            let member = self.states.get_mut(&id).and_then(|state| {
                let member = state.members.remove(&client)?;
                Some((state, member))
            });
            let Some((state, mut member)) = member else {
                self.behind.remove(&turn);
                continue;
            };
            let kind = state.channel.kind;
            let given = state
                .backlog
                .give(&mut member.reader, member.held, &member.outbox);
            self.metrics.framed(kind, given);
            shared.insert(id);
            let limit = settings.frame();
            while encoded < CATCH_UP && !member.behind.is_empty() && member.outbox.has_room(limit) {
                let batch = member.behind.take(view, &state.channel, limit);
                encoded += 1;
                if batch.is_empty() {
                    continue;
                }
                let is_last = member.behind.is_empty() && state.latest.is_empty();
                let offset = if is_last {
                    state.advance(frontier)
                } else {
                    None
                };
                let offset = offset.filter(|offset| *offset > member.held);
                let frame = settings.frame_of(state, offset, &batch.data).frame;
                if !member.outbox.offer(&frame) {
                    member.behind.absorb(&batch);
                    break;
                }
                self.metrics.skipped(batch.skipped, 1);
                self.metrics.framed(kind, (1, frame.len()));
            }
            let waits = !member.behind.is_empty() || state.backlog.waits(&member.reader);
            if !waits || member.outbox.is_over() {
                self.behind.remove(&turn);
            }
            state.members.insert(client, member);
        }
        for id in shared {
            self.states.get_mut(&id).into_iter().for_each(State::trim);
        }
        is_all
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
            // There is nothing to recover.
            let frame = self.settings.frame_of(state, None, data).frame;
            let members = state.members.values();
            let sent = members.filter(|member| member.outbox.offer(&frame)).count();
            self.metrics.framed(Kind::Stats, (sent, sent * frame.len()));
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
            member.outbox.push_last(frame.clone());
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
    fn frame_of(&self, state: &State, offset: Option<u64>, data: &[u8]) -> Framed {
        let name = &state.channel.name;
        let frame = |offset| state.framing.publication(name, &self.epoch, offset, data);
        let mut members = state.members.values();
        let is_held = |offset: &u64| members.any(|member| member.held >= *offset);
        Framed {
            frame: frame(offset),
            held: offset.filter(is_held).map(|offset| (offset, frame(None))),
        }
    }

    /// About how many bytes a publication has: two fit in a client's queue, and no frame comes
    /// near 1 MiB, which some clients refuse.
    pub(super) fn frame(&self) -> usize {
        (self.queue / 2).clamp(1, MOST_FRAME)
    }
}
