//! The end of a run: every message that was due is sent, or counted.

use std::time::Duration;

use tokio::time::Instant;

use super::send_order::{After, SendOrder};
use super::{Exit, State, Stop, Worker, returned};
use crate::metrics::Dropped;

/// How long a worker that is late catches up at the end of the run.
const CATCH_UP: Duration = Duration::from_secs(1);

impl Worker {
    /// At the end of the run, creates the messages that were due by now: a worker that is late
    /// would leave out those that wait the longest. What it cannot create in time is dropped,
    /// and so is what a paused fleet has not created.
    pub(super) async fn catch_up(&mut self, state: &mut State, stop: &Stop) -> Exit {
        let end = Instant::now();
        let is_scheduled = matches!(state.send_order, SendOrder::Scheduled(_));
        if state.ended || !is_scheduled {
            return Exit::Complete;
        }
        while !state.config.fleet.paused
            && self.make_due(state, end) == After::Again
            && end.elapsed() < CATCH_UP
            && !stop.abandon.is_cancelled()
        {
            self.dispatch(Instant::now());
            tokio::select! {
                biased;
                done = returned(&mut self.handles) => if self.take_back(done).is_break() {
                    return Exit::Closed;
                },
                () = tokio::task::yield_now() => {}
            }
        }
        state.lateness.flush();
        self.drop_behind(state, Dropped::Shutdown, end);
        // A regrouping continues with this state.
        state.ended = stop.generate.is_cancelled();
        Exit::Complete
    }

    /// Before a change replaces the schedule or its intervals, creates the messages that were
    /// due by `now`. What a late worker cannot create in time is dropped.
    pub(super) fn finish_schedule(&mut self, state: &mut State, now: Instant) {
        if state.ended {
            return;
        }
        let is_scheduled = matches!(state.send_order, SendOrder::Scheduled(_));
        if is_scheduled && !state.config.fleet.paused {
            while self.make_due(state, now) == After::Again && now.elapsed() < CATCH_UP {}
            state.lateness.flush();
        }
        self.drop_behind(state, Dropped::Late, now);
    }

    /// Drops the messages that were due by `now`, and that the worker has not reached.
    pub(super) fn drop_behind(&mut self, state: &mut State, reason: Dropped, now: Instant) {
        let time = state.clock.at(now);
        // A fleet that is paused from the start never was at its first turn.
        if state.ended || time.is_zero() {
            return;
        }
        let SendOrder::Scheduled(rounds) = &mut state.send_order else {
            return;
        };
        let mut dropped: u64 = 0;
        for round in rounds {
            for (index, member) in round.members.iter().enumerate() {
                let member = &mut self.members[*member];
                let turns = round.schedule.turns_until(index, time);
                let skipped =
                    u32::try_from(turns).map_or(member.skip, |turns| turns.min(member.skip));
                let behind = (turns - u64::from(skipped)).min(member.left());
                member.skip -= skipped;
                member.use_up(behind);
                dropped = dropped.saturating_add(behind);
            }
            round.schedule.skip_until(time);
        }
        state.unfinished_devices = self.unfinished_devices();
        self.metrics.dropped(reason, dropped);
    }

    /// Sends the messages that wait, without creating more.
    pub(super) async fn drain(&mut self, state: &mut State, stop: &Stop) -> Exit {
        for handle in &mut self.handles {
            handle.lane.flush();
        }
        while self.waiting() > 0 {
            let now = Instant::now();
            if self.held() > 0 {
                self.release(state, 1.0, now);
                state.lateness.flush();
                self.handles
                    .iter_mut()
                    .for_each(|handle| handle.lane.flush());
                // Devices whose sensors all have a dropout create nothing.
                if self.waiting() == 0 {
                    break;
                }
            }
            self.dispatch(now);
            self.report_depth(state, self.waiting());
            tokio::select! {
                () = stop.abandon.cancelled() => {
                    self.metrics.dropped(Dropped::Shutdown, self.not_handed_over() as u64);
                    return Exit::Complete;
                }
                () = stop.regroup.cancelled() => return Exit::Regroup,
                done = returned(&mut self.handles) => {
                    if self.take_back(done).is_break() {
                        return Exit::Closed;
                    }
                }
            }
        }
        Exit::Complete
    }
}
