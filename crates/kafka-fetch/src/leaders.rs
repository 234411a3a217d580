//! Looks up the leaders of partitions: takes cursors that no broker's task holds, and passes each
//! to the task of the broker to fetch from.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::broker::BrokerTask;
use crate::clock::Clock;
use crate::directory::{Directory, Source};
use crate::protocol::metadata::Broker;
use crate::settings::Settings;
use crate::subscription::Cursor;

/// A failure this long after the last one has nothing to do with it.
const CALM: Duration = Duration::from_secs(10);
/// The delays after failures: doubled each time, from the first to the longest.
const FIRST_DELAY: Duration = Duration::from_millis(50);
const LONGEST_DELAY: Duration = Duration::from_secs(1);

/// Passes cursors to brokers, and takes back those that brokers can't serve.
pub(crate) struct Leaders {
    directory: Directory,
    /// One for all, so that times of several brokers can be compared.
    clock: Arc<Clock>,
    /// Where brokers give cursors back.
    back: mpsc::UnboundedSender<Cursor>,
    stop: CancellationToken,
    /// By number: address and inbox of the broker's task.
    brokers: HashMap<i32, (String, mpsc::UnboundedSender<Cursor>)>,
    /// Failures in succession, and when the last one was.
    failures: u32,
    failed_at: Option<Instant>,
}

impl Leaders {
    pub(crate) fn new(
        settings: Arc<Settings>,
        back: mpsc::UnboundedSender<Cursor>,
        stop: CancellationToken,
    ) -> Self {
        Self {
            directory: Directory::new(settings),
            clock: Arc::default(),
            back,
            stop,
            brokers: HashMap::new(),
            failures: 0,
            failed_at: None,
        }
    }

    pub(crate) async fn run(mut self, mut inbox: mpsc::UnboundedReceiver<Cursor>) {
        let mut cursors = Vec::new();
        while inbox.recv_many(&mut cursors, usize::MAX).await > 0 {
            while !cursors.is_empty() {
                self.back_off(&mut cursors).await;
                while let Ok(cursor) = inbox.try_recv() {
                    cursors.push(cursor);
                }
                cursors.retain(|cursor| !cursor.is_over());
                self.place(&mut cursors).await;
            }
        }
    }

    /// Waits if any cursor comes from a failure.
    async fn back_off(&mut self, cursors: &mut [Cursor]) {
        let mut any = false;
        for cursor in cursors {
            any |= std::mem::take(&mut cursor.failed);
        }
        if !any {
            return;
        }
        if self.failed_at.is_none_or(|last| last.elapsed() > CALM) {
            self.failures = 0;
        }
        self.directory.rotate();
        tokio::time::sleep(delay(self.failures)).await;
        self.failures = self.failures.saturating_add(1);
        self.failed_at = Some(Instant::now());
    }

    /// Hands out the cursors whose broker is known; the others stay.
    async fn place(&mut self, cursors: &mut Vec<Cursor>) {
        if cursors.is_empty() {
            return;
        }
        let topics = cursors.iter().map(|cursor| &*cursor.partition.topic);
        let mut topics: Vec<&str> = topics.collect();
        topics.sort_unstable();
        topics.dedup();
        match self.directory.look_up(&topics).await {
            Ok(metadata) => {
                for mut cursor in std::mem::take(cursors) {
                    let source = Source::find(&metadata, cursor.key(), cursor.preferred);
                    let other = source.as_ref().ok();
                    let other = other.and_then(|source| source.other_than(cursor.topic_id));
                    if let Some(found) = other {
                        cursor.end_other_log(found);
                        continue;
                    }
                    let newest = cursor.newest_epoch;
                    match source.and_then(|source| source.is_current(newest).map(|()| source)) {
                        Ok(source) => self.send(cursor, &source),
                        Err(error) => {
                            cursor.fail(&error);
                            cursors.push(cursor);
                        }
                    }
                }
            }
            Err(error) => {
                for cursor in cursors {
                    cursor.fail(&error);
                }
            }
        }
    }

    /// Passes a cursor to the broker that it is to be fetched from.
    fn send(&mut self, mut cursor: Cursor, source: &Source<'_>) {
        cursor.led_by(source.leader_epoch);
        cursor.set_topic_id(source.topic_id);
        let Broker { node_id, address } = source.broker;
        let is_there = |(other, _): &(String, _)| other == address;
        if !self.brokers.get(node_id).is_some_and(is_there) {
            let inbox = self.start(*node_id, address);
            self.brokers.insert(*node_id, (address.clone(), inbox));
        }
        // The task lives as long as the inbox.
        let _ = self.brokers[node_id].1.send(cursor);
    }

    fn start(&self, number: i32, address: &str) -> mpsc::UnboundedSender<Cursor> {
        let (sender, inbox) = mpsc::unbounded_channel();
        let settings = self.directory.settings.clone();
        let shared = (settings, self.clock.clone());
        let broker = BrokerTask::new(number, address, shared, inbox, self.back.clone());
        let stop = self.stop.clone();
        tokio::spawn(async move { stop.run_until_cancelled(broker.run()).await });
        sender
    }
}

/// The delay after a failure that follows `failures` others. Jittered, so that clients that lost
/// the same broker do not come back in step.
fn delay(failures: u32) -> Duration {
    let step = FIRST_DELAY * 2_u32.pow(failures.min(10));
    step.min(LONGEST_DELAY)
        .mul_f64(rand::random_range(0.5..=1.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_double_up_to_a_second() {
        for (failures, step) in [(0, 50), (1, 100), (4, 800), (5, 1_000), (u32::MAX, 1_000)] {
            let (delay, step) = (delay(failures), Duration::from_millis(step));
            assert!((step / 2..=step).contains(&delay), "{failures}: {delay:?}");
        }
    }
}
