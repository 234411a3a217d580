//! Sends what waits in channels: to all members of a channel at once, and to those that are behind
//! in turn.

use std::collections::BTreeSet;
use std::ops::Bound;
use std::time::Duration;

use tokio::time::Instant;

use super::{ChannelId, Channels, State};
use crate::channel::Kind;
use crate::hub::backlog::{self, Framed};
use crate::hub::groups::Groups;
use crate::hub::pending::Latest;
use crate::hub::view::View;
use crate::hub::{ClientId, Settings, Stats};

/// About the largest publication, in bytes.
const MOST_FRAME: usize = 256 << 10;
/// The most conflated changes that wait for one client: with more of them a snapshot is better.
const MOST_BEHIND: usize = 10_000;
/// The most frames that are encoded for single clients before others get their turn.
const CATCH_UP: usize = 32;
/// The most clients that are checked before others get their turn.
const LOOK_AT: usize = 4_096;
/// What all channels together may keep for their clients before each may keep little.
const MOST_KEPT: usize = 64 << 20;
/// Ends a subscription; the client subscribes again.
const RESYNC: u32 = 2500;

impl Channels {
    /// Sends what is due. `frontier` is the position of this replica.
    pub(crate) fn flush(&mut self, view: &View, groups: &mut Groups, frontier: Option<u64>) {
        let now = Instant::now();
        if self.wakes_at().is_none_or(|at| at > now) {
            return;
        }
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
            self.end(id, client, "too far behind", groups);
        }
    }

    /// Ends a subscription; the client subscribes again.
    pub(super) fn end(
        &mut self,
        id: ChannelId,
        client: ClientId,
        reason: &str,
        groups: &mut Groups,
    ) {
        if let Some(state) = self.states.get(&id)
            && let Some(member) = state.members.get(&client)
        {
            let name = &state.channel.name;
            let frame = state.framing.unsubscribe(name, RESYNC, reason);
            member.outbox.push_last(frame);
            self.part(id, client, groups);
        }
    }

    /// Sends the changes of a channel now.
    pub(crate) fn send(&mut self, id: ChannelId, view: &View, frontier: Option<u64>) {
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
            self.kept += framed.frame.len();
            state.backlog.push(framed);
        }
        let (mut frames, mut bytes) = (0, 0);
        for (client, member) in &mut state.members {
            let given = state
                .backlog
                .give(&mut member.reader, member.held, &member.outbox);
            (frames, bytes) = (frames + given.0, bytes + given.1);
            if state.backlog.waits(&member.reader) && !member.outbox.is_over() {
                self.behind.insert((id, *client));
            }
        }
        self.metrics.framed(state.channel.kind, (frames, bytes));
        self.pace.sent(frames);
        self.kept -= state.trim(most_kept(self.kept));
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
            if let Some(state) = self.states.get_mut(&id) {
                self.kept -= state.trim(most_kept(self.kept));
            }
        }
        is_all
    }

    /// Sends the numbers to the members of a channel that have room: the next ones replace them.
    pub(crate) fn send_stats(&mut self, id: ChannelId, stats: &Stats) {
        let Some(state) = self.states.get(&id) else {
            return;
        };
        let mut data = b"{\"stats\":".to_vec();
        crate::hub::json::value(&mut data, stats);
        data.push(b'}');
        // There is nothing to recover.
        let frame = self.settings.frame_of(state, None, &data).frame;
        let members = state.members.values();
        let sent = members.filter(|member| member.outbox.offer(&frame)).count();
        self.metrics.framed(Kind::Stats, (sent, sent * frame.len()));
    }

    /// Ends the subscriptions for which a change of partitions is too large to be sent: their
    /// clients subscribe again, for a new snapshot.
    pub(crate) fn resync_large(&mut self, groups: &mut Groups) {
        let limit = self.settings.frame();
        let large = self.states.iter();
        let large = large.filter(|(_, state)| state.lines.bytes() > limit);
        for id in large.map(|(id, _)| *id).collect::<Vec<_>>() {
            self.resync(id, groups);
        }
    }

    /// Ends the subscriptions to a channel; the clients subscribe again.
    pub(crate) fn resync(&mut self, id: ChannelId, groups: &mut Groups) {
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
}

/// The most bytes that a channel may keep while all together keep `kept`.
fn most_kept(kept: usize) -> usize {
    if kept > MOST_KEPT {
        backlog::MOST
    } else {
        backlog::BURST
    }
}

impl Settings {
    fn frame_of(&self, state: &State, offset: Option<u64>, data: &[u8]) -> Framed {
        let name = &state.channel.name;
        let frame = |offset| state.framing.publication(name, &state.epoch, offset, data);
        let mut members = state.members.values();
        let is_held = |offset: &u64| members.any(|member| member.held >= *offset);
        Framed {
            frame: frame(offset),
            held: offset.filter(is_held).map(|offset| (offset, frame(None))),
        }
    }

    /// About how many bytes a publication has: two fit in a client's queue, and no frame comes
    /// near 1 MiB, which some clients refuse.
    pub(crate) fn frame(&self) -> usize {
        (self.queue / 2).clamp(1, MOST_FRAME)
    }
}
