//! The hub's task.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use iot_auth::Scope;
use iot_core::partition::TopicPartition;
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, MissedTickBehavior, interval, sleep_until};
use tokio_util::sync::CancellationToken;

use super::channels::{ChannelId, Channels};
use super::index::GroupId;
use super::metrics::Outcome;
use super::shown::Shown;
use super::view::View;
use super::{
    AlertPage, Close, Counts, DevicePage, First, HubMetrics, Known, Message, Page, Refused,
    ServiceStats, Settings, Snapshot, Stats, Subscribe, Subscribed,
};
use crate::access::scope::epoch;
use crate::channel::{Filter, Kind};

/// The most answers that are kept for others who ask the same.
const MOST_ANSWERS: usize = 256;
const STATS_EVERY: Duration = Duration::from_secs(1);
/// What clients that may not see everything learn of partitions that are not shown, whose names
/// may be those of others.
const PARTIAL: &str = "some partitions are not shown or not up to date";

pub(super) struct Actor {
    updates: mpsc::Receiver<Message>,
    requests: mpsc::Receiver<Message>,
    shown: Shown,
    /// Partitions that are not shown, or not up to date, and why.
    partial: BTreeMap<Arc<TopicPartition>, String>,
    /// Why it is not known which partitions there are.
    unlisted: Option<String>,
    counts: Box<dyn Fn() -> Counts + Send>,
    metrics: HubMetrics,
    /// Messages processed at the last tick, and when that was.
    counted: (u64, Instant),
    rate: f64,
    /// What clients have missed: when a replica ends many come at once with the same. Forgotten at
    /// the next change.
    missed: HashMap<Asked, Option<Missed>>,
}

/// A channel by its name and scope, and a position of it.
type Asked = (Arc<str>, Option<Arc<Scope>>, u64);

/// The data of publications, of which the last one has a position.
type Missed = Vec<(u64, Bytes)>;

impl Actor {
    pub(super) fn new(
        settings: Settings,
        counts: Box<dyn Fn() -> Counts + Send>,
        metrics: HubMetrics,
        (updates, requests): (mpsc::Receiver<Message>, mpsc::Receiver<Message>),
    ) -> Self {
        let view = View::new(settings.alerts);
        Self {
            updates,
            requests,
            shown: Shown::new(view, Channels::new(settings, metrics.clone())),
            partial: BTreeMap::new(),
            unlisted: None,
            counted: (counts().messages_total, Instant::now()),
            counts,
            metrics,
            rate: 0.0,
            missed: HashMap::new(),
        }
    }

    pub(super) async fn run(mut self, stop: CancellationToken) {
        let mut ticks = interval(STATS_EVERY);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let wakes_at = self.shown.channels.wakes_at();
            let mut request = None;
            tokio::select! {
                biased;
                () = stop.cancelled() => break,
                _ = ticks.tick() => self.tick(),
                () = sleep_until(wakes_at.unwrap_or_else(Instant::now)), if wakes_at.is_some() => {}
                update = self.updates.recv() => match update {
                    Some(update) => self.take(update),
                    None => break,
                },
                asked = self.requests.recv() => match asked {
                    Some(asked) => request = Some(asked),
                    None => break,
                },
            }
            self.round(request);
            self.flush();
        }
        self.flush();
        self.shown.channels.close(Close::Shutdown);
    }

    /// Takes the updates that wait, and then one request: partitions never wait for many clients,
    /// and a client sees what was sent before its request. Whatever woke the task, so that what
    /// is due all the time does not keep these waiting.
    fn round(&mut self, mut request: Option<Message>) {
        for _ in 0..self.updates.len() {
            match self.updates.try_recv() {
                Ok(update) => self.take(update),
                Err(_) => break,
            }
        }
        while let Some(next) = request.take().or_else(|| self.requests.try_recv().ok()) {
            if !next.is_abandoned() {
                return self.take(next);
            }
        }
    }

    /// The position of this replica; unknown while partitions are not shown.
    fn frontier(&self) -> Option<u64> {
        let hidden = |partition: &Arc<TopicPartition>| self.shown.part_of(partition).is_none();
        if self.unlisted.is_some() || self.partial.keys().any(hidden) {
            return None;
        }
        self.shown.frontier()
    }

    fn flush(&mut self) {
        let due = self.shown.channels.wakes_at();
        if due.is_some_and(|at| at <= Instant::now()) {
            let frontier = self.frontier();
            let shown = &mut self.shown;
            let (view, groups) = (&shown.view, &mut shown.groups);
            shown.channels.flush(view, groups, frontier);
        }
    }

    fn take(&mut self, message: Message) {
        if message.is_update() {
            self.missed.clear();
        }
        // Those who asked may be gone by now: answers may fail.
        match message {
            Message::Open(opening, feed) => self.shown.open(*opening, feed),
            Message::Update {
                partition,
                feed,
                updates,
                reached,
                times,
            } => self
                .shown
                .update(&partition, feed, (updates, reached), times),
            Message::Closed { partition, feed } => self.shown.close(&partition, feed),
            Message::Partial { partition, reason } => {
                match reason {
                    Some(reason) => self.partial.insert(partition, reason),
                    None => self.partial.remove(&partition),
                };
            }
            Message::Unlisted(reason) => self.unlisted = reason,
            Message::Interval(every) => self.shown.channels.settings.interval = every,
            Message::Subscribe(subscribe, answer) => self.subscribe(*subscribe, answer),
            Message::Unsubscribe(client, channel) => {
                let shown = &mut self.shown;
                let groups = &mut shown.groups;
                shown.channels.unsubscribe(client, &channel.name, groups);
            }
            Message::Leave(client) => {
                let shown = &mut self.shown;
                shown.channels.leave(client, &mut shown.groups);
            }
            Message::Devices(page, answer) => drop(answer.send(self.devices(&page))),
            Message::Resubscribe(client, answer) => {
                let shown = &mut self.shown;
                shown.channels.resubscribe(client, &mut shown.groups);
                let _ = answer.send(());
            }
            Message::Device(key, filter, answer) => {
                let known = self.shown.view.find(&key).filter(|(device, _)| {
                    filter.takes_device(&device.key, device.location.as_deref())
                });
                let known = known.and_then(|(device, part)| -> Option<Known> {
                    Some((device, self.shown.parts.get(&part)?.questions.clone()))
                });
                drop(answer.send(known));
            }
            Message::Alerts(page, answer) => drop(answer.send(self.alerts(&page))),
            Message::Stats(filter, answer) => drop(answer.send(self.stats(&filter, None))),
        }
    }

    fn subscribe(
        &mut self,
        subscribe: Subscribe,
        answer: oneshot::Sender<Result<Subscribed, Refused>>,
    ) {
        let Subscribe {
            client,
            channel,
            framing,
            outbox,
            since,
        } = subscribe;
        if let Err(refused) = self.shown.channels.admits(client, &channel) {
            drop(answer.send(Err(refused)));
            return;
        }
        let frontier = self.frontier();
        let shown = &mut self.shown;
        let (view, groups) = (&shown.view, &mut shown.groups);
        let id = shown.channels.open(&channel, framing, groups, view);
        // What waits is older than the snapshot.
        if !channel.is_conflated() {
            shown.channels.send(id, view, frontier);
        }
        let scope = &channel.filter.scope;
        let epoch = epoch(&self.shown.channels.settings.epoch, scope.as_deref());
        let asked = since.as_ref().filter(|since| *since.epoch == *epoch);
        let missed = asked.zip(frontier).and_then(|(since, frontier)| {
            let key = (channel.name.clone(), scope.clone(), since.offset);
            let missed = match self.missed.get(&key) {
                Some(missed) => missed.clone()?,
                None => {
                    let missed = self.shown.missed(&channel, since.offset, frontier);
                    if self.missed.len() < MOST_ANSWERS {
                        self.missed.insert(key, missed.clone());
                    }
                    missed?
                }
            };
            Some((since.offset, missed))
        });
        let outcome = match (&missed, &since) {
            (Some(_), _) => Outcome::Recovered,
            (None, Some(_)) => Outcome::Expired,
            (None, None) => Outcome::Snapshot,
        };
        let (offset, held, first) = match missed {
            // Nothing: the client is as far as this replica, or was further at another one.
            Some((since, missed)) if missed.is_empty() => {
                let now = since.max(frontier.unwrap_or(0));
                (now, now, First::Missed(missed))
            }
            Some((since, missed)) => {
                let newest = missed.last().map_or(since, |(offset, _)| *offset);
                (since, newest, First::Missed(missed))
            }
            None => {
                let snapshot = self.snapshot(id);
                // Of statistics there is nothing to recover.
                let now = frontier.filter(|_| channel.kind != Kind::Stats);
                if let Some(state) = self.shown.channels.state(id) {
                    state.starts_at(now);
                }
                let now = now.unwrap_or(0);
                (now, now, First::Snapshot(snapshot))
            }
        };
        let subscribed = Subscribed {
            epoch,
            offset,
            first,
            partial: self.partial_texts(&channel.filter),
        };
        if answer.send(Ok(subscribed)).is_ok() {
            self.shown.channels.join(id, (client, held), outbox);
            self.metrics.began(outcome);
        } else {
            self.shown.channels.tidy(id, &mut self.shown.groups);
        }
    }

    /// Everything that a channel has now.
    fn snapshot(&mut self, id: ChannelId) -> Snapshot {
        let shown = &mut self.shown;
        let Some(state) = shown.channels.state(id) else {
            return Snapshot::Devices(Arc::default());
        };
        match (state.channel.kind, state.group) {
            (Kind::Alerts, _) => {
                let filter = &state.channel.filter;
                let alerts = state.alerts.get_or_insert_with(|| {
                    let alerts = shown.view.alerts(|alert| filter.takes_alert(alert));
                    alerts.into_iter().cloned().collect()
                });
                Snapshot::Alerts(alerts.clone())
            }
            (Kind::Stats, group) | (_, group @ None) => {
                let filter = state.channel.filter.clone();
                Snapshot::Stats(Box::new(self.stats(&filter, group)))
            }
            (Kind::Readings | Kind::Devices, Some(of)) => {
                let devices = shown.groups.snapshot(of, &shown.view);
                let Some(sensor) = &state.channel.filter.sensor else {
                    return Snapshot::Devices(devices);
                };
                // Shared as they are: the session writes only this sensor of them.
                let has_it = devices.iter();
                let has_it = has_it.filter(|device| device.readings.find(sensor).is_ok());
                Snapshot::Devices(has_it.cloned().collect())
            }
        }
    }

    fn partial_texts(&self, filter: &Filter) -> Vec<String> {
        if filter.scope.is_some() {
            let is_partial = self.unlisted.is_some() || !self.partial.is_empty();
            return is_partial.then(|| PARTIAL.to_owned()).into_iter().collect();
        }
        let texts = self.partial.iter();
        let texts = texts.map(|(partition, reason)| format!("{partition}: {reason}"));
        self.unlisted.iter().cloned().chain(texts).collect()
    }

    fn devices(&self, page: &Page) -> DevicePage {
        let (devices, total) = self.shown.view.page(page);
        DevicePage {
            devices,
            total,
            position: self.frontier().unwrap_or(0),
        }
    }

    fn alerts(&self, page: &Page) -> AlertPage {
        let all = self
            .shown
            .view
            .alerts(|alert| page.filter.takes_alert(alert));
        let shown = all.iter().skip(page.offset).take(page.limit);
        AlertPage {
            alerts: shown.map(|alert| (*alert).clone()).collect(),
            total: all.len(),
            raised: View::by_level(&all),
            position: self.frontier().unwrap_or(0),
        }
    }

    fn tick(&mut self) {
        let shown = &mut self.shown;
        shown.channels.sweep(&mut shown.groups);
        // Positions go on without changes, too.
        self.missed.clear();
        let (before, at) = self.counted;
        let now = (self.counts)().messages_total;
        let seconds = at.elapsed().as_secs_f64();
        if seconds > 0.0 {
            self.rate = now.saturating_sub(before) as f64 / seconds;
            self.counted = (now, Instant::now());
        }
        self.metrics.rate.set(self.rate);
        self.metrics.devices.set(self.shown.view.devices() as i64);
        self.metrics
            .queued(self.updates.len() + self.requests.len());
        for (id, filter, group) in self.shown.channels.of_stats() {
            let stats = self.stats(&filter, group);
            self.shown.channels.send_stats(id, &stats);
        }
    }

    /// The service at a glance, for a client that may see what `filter` takes. `group` has its
    /// devices already.
    fn stats(&self, filter: &Filter, group: Option<GroupId>) -> Stats {
        let Shown {
            view,
            groups,
            channels,
            ..
        } = &self.shown;
        let (devices, alerts_active, service) = if filter.scope.is_none() {
            let counts = (self.counts)();
            let service = ServiceStats {
                counts,
                messages_per_second: self.rate,
                // Those with a subscription are connected, too.
                clients: counts.clients.max(channels.clients()),
            };
            (view.devices(), view.active_alerts(), Some(service))
        } else {
            let devices = group.map_or_else(|| view.count(filter), |of| groups.devices(of));
            (devices, view.active_alerts_of(filter), None)
        };
        Stats {
            service,
            alerts_active,
            devices,
            server_time: jiff::Timestamp::now().as_millisecond(),
            partial: self.partial_texts(filter),
        }
    }
}
