//! The channels that somebody is subscribed to. Clients with the same channel and framing share
//! its state: a change is kept once, encoded once, and handed to all of them as the same bytes.

mod pace;
mod send;
mod state;

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use iot_auth::Scope;
use tokio::time::Instant;

use super::backlog::Backlog;
use super::groups::Groups;
use super::index::GroupId;
use super::metrics::HubMetrics;
use super::pending::{Latest, Lines};
use super::view::View;
use super::{ClientId, Close, Outbox, Refused, Settings, Times};
use crate::access::scope::epoch;
use crate::channel::{Channel, Filter, Kind, Mode};
use crate::protocol::Framing;
use pace::Pace;
use state::Member;
pub(super) use state::State;

pub(super) type ChannelId = u32;

/// The most channels of a client.
const MOST_CHANNELS: usize = 128;

/// What channels that share their state have in common: the name with its scope, and the framing.
type Key = (Arc<str>, Option<Arc<Scope>>, Framing);

pub(super) struct Channels {
    pub(super) settings: Settings,
    metrics: HubMetrics,
    states: HashMap<ChannelId, State>,
    by_name: HashMap<Key, ChannelId>,
    next: ChannelId,
    clients: HashMap<ClientId, Vec<ChannelId>>,
    /// Channels with changes, by the time at which they are sent.
    due: BTreeSet<(Instant, ChannelId)>,
    /// Clients that wait for room in their queues.
    behind: BTreeSet<(ChannelId, ClientId)>,
    /// The last of them that had its turn.
    turn: (ChannelId, ClientId),
    retry_at: Instant,
    pace: Pace,
    /// Bytes that channels keep for clients without room.
    kept: usize,
    /// Clients that are so far behind that they subscribe again.
    lost: Vec<(ChannelId, ClientId)>,
}

impl Channels {
    pub(super) fn new(settings: Settings, metrics: HubMetrics) -> Self {
        Self {
            pace: Pace::new(settings.gather),
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
            kept: 0,
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
    pub(super) fn admits(&self, client: ClientId, channel: &Channel) -> Result<(), Refused> {
        let Some(channels) = self.clients.get(&client) else {
            return Ok(());
        };
        let has = |id: &ChannelId| {
            let state = self.states.get(id);
            state.is_some_and(|state| state.channel.name == channel.name)
        };
        if channels.iter().any(has) {
            return Err(Refused::Already);
        }
        if channels.len() >= MOST_CHANNELS {
            return Err(Refused::TooMany);
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
        let scope = &channel.filter.scope;
        let key = (channel.name.clone(), scope.clone(), framing);
        if let Some(id) = self.by_name.get(&key) {
            return *id;
        }
        self.next += 1;
        let id = self.next;
        // Those of everything are counted already.
        let is_of_all = channel.kind == Kind::Stats && scope.is_none();
        let group = (!is_of_all).then(|| groups.add(channel, id, view));
        self.by_name.insert(key, id);
        let state = State {
            channel: channel.clone(),
            group,
            framing,
            epoch: epoch(&self.settings.epoch, scope.as_deref()),
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
            self.kept -= state.backlog.bytes();
            let Channel { name, filter, .. } = state.channel;
            self.by_name.remove(&(name, filter.scope, state.framing));
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

    /// Ends all subscriptions of a client, which subscribes again.
    pub(super) fn resubscribe(&mut self, client: ClientId, groups: &mut Groups) {
        for id in self.clients.get(&client).cloned().unwrap_or_default() {
            let reason = "what this client may see has changed";
            self.end(id, client, reason, groups);
        }
    }

    /// Forgets disconnected clients, and measures what waits for the others.
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
            let every = state.every(&self.settings, self.pace.gather());
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

    /// The channels of statistics, with what their clients may see.
    pub(super) fn of_stats(&self) -> Vec<(ChannelId, Filter, Option<GroupId>)> {
        let all = self.states.iter();
        let all = all.filter(|(_, state)| state.channel.kind == Kind::Stats);
        all.map(|(id, state)| (*id, state.channel.filter.clone(), state.group))
            .collect()
    }

    /// The channels with `mode=all`.
    pub(super) fn of_all_changes(&self) -> Vec<ChannelId> {
        let all = self.states.iter();
        let all = all.filter(|(_, state)| state.channel.mode == Mode::All);
        all.map(|(id, _)| *id).collect()
    }
}
