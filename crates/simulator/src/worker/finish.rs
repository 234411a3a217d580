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
    /// would leave out those that wait the longest. What it cannot create in time is dropped.
    pub(super) async fn catch_up(&mut self, state: &mut State, stop: &Stop) -> Exit {
        let end = Instant::now();
        if state.config.fleet.paused || !matches!(state.send_order, SendOrder::Scheduled(_)) {
            return Exit::Complete;
        }
        while self.make_due(state, end) == After::Again
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
        self.metrics
            .dropped(Dropped::Shutdown, self.behind(state, end));
        Exit::Complete
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
            }
            self.dispatch(now);
            self.report_depth(state, self.waiting());
            tokio::select! {
                () = stop.abandon.cancelled() => {
                    self.metrics.dropped(Dropped::Shutdown, self.waiting() as u64);
                    return Exit::Complete;
                }
                () = stop.regroup.cancelled() => {
                    self.release(state, f64::INFINITY, Instant::now());
                    return Exit::Regroup;
                }
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
