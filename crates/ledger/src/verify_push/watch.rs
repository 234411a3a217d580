//! Receives from all clients.

use std::collections::HashSet;
use std::time::Duration;

use anyhow::{Context, bail};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until, timeout_at};

use super::client::{Client, Event, Events};
use super::filter::Filter;
use super::report::Report;
use super::seen::Seen;
use super::{Args, Goal, alerts};

/// Events that wait.
const QUEUE: usize = 1_024;
/// How often clients that are complete are compared with each other.
const COMPARE: Duration = Duration::from_millis(200);

/// The clients and what they have received.
pub(super) struct Watch {
    urls: Vec<String>,
    /// The first one takes everything.
    pub(super) filters: Vec<Filter>,
    /// The number of clients before those of the end.
    clients: usize,
    patience: Duration,
    events: mpsc::Receiver<(usize, Event)>,
    sender: Events,
    running: JoinSet<()>,
    seen: Vec<Seen>,
    report: Report,
}

/// What all clients have received.
pub(super) struct Clients {
    pub(super) seen: Vec<Seen>,
    /// The number of the first client of the end.
    pub(super) at_the_end: usize,
    /// By their numbers.
    pub(super) filters: Vec<Filter>,
}

impl Watch {
    /// Starts clients, spread over the replicas and the filters.
    pub(super) fn new(args: &Args) -> Self {
        let (sender, events) = mpsc::channel(QUEUE);
        let urls = &args.urls;
        let mut filters = vec![Filter::default()];
        filters.extend(args.filters.iter().cloned());
        let mut watch = Self {
            urls: urls.clone(),
            filters,
            clients: args.clients.map_or(urls.len(), usize::from),
            patience: *args.patience,
            events,
            sender,
            running: JoinSet::new(),
            seen: Vec::new(),
            report: Report {
                gaps_allowed: args.allow_snapshots,
                alert_gaps_allowed: args.allow_alert_snapshots,
                ..Report::default()
            },
        };
        for number in 0..watch.clients {
            let mut urls = urls.clone();
            let replicas = urls.len();
            urls.rotate_left(number % replicas);
            // Each filter has clients at all replicas, if there are enough clients.
            let filter = match args.filters.len() {
                0 => 0,
                filters => 1 + number / replicas % filters,
            };
            let name = format!("client {} of {}", number + 1, urls[0]);
            watch.start(name, urls, filter);
        }
        watch
    }

    fn start(&mut self, name: String, urls: Vec<String>, filter: usize) {
        let (number, sender) = (self.seen.len(), self.sender.clone());
        let client = Client::new(number, urls, &self.filters[filter], sender);
        self.running.spawn(client.run());
        self.seen.push(Seen::new(name, filter));
    }

    /// Receives until all clients have snapshots.
    ///
    /// # Errors
    /// A client has none in time.
    pub(super) async fn until_ready(&mut self) -> anyhow::Result<()> {
        let deadline = Instant::now() + self.patience;
        while let Some(waiting) = self.seen.iter().find(|seen| !seen.is_ready()) {
            let name = waiting.name.clone();
            if timeout_at(deadline, self.next()).await.is_err() {
                let why = self.report.breaks.last().cloned();
                let why = why.unwrap_or_else(|| "no snapshot".into());
                bail!("{name}: no snapshot in time; last failure: {why}");
            }
        }
        Ok(())
    }

    /// Receives for a time, or until each client has so many changes, or until a signal.
    ///
    /// # Errors
    /// Signals can't be received.
    pub(super) async fn receive(
        &mut self,
        duration: Option<Duration>,
        records: Option<u64>,
    ) -> anyhow::Result<()> {
        let mut terminate = signal(SignalKind::terminate()).context("handling SIGTERM")?;
        let mut interrupt = signal(SignalKind::interrupt()).context("handling SIGINT")?;
        let begun = Instant::now();
        let mut progress = begun;
        loop {
            let enough = |seen: &Seen| records.is_some_and(|records| seen.received >= records);
            if self.seen.iter().all(enough) {
                return Ok(());
            }
            let end = match (duration, records) {
                (Some(duration), _) => Some(begun + duration),
                (None, Some(_)) => Some(progress + self.patience),
                (None, None) => None,
            };
            let end = async {
                match end {
                    Some(end) => sleep_until(end).await,
                    None => std::future::pending().await,
                }
            };
            let received = self.received();
            tokio::select! {
                () = self.next() => {}
                () = end => return Ok(()),
                _ = terminate.recv() => return Ok(()),
                _ = interrupt.recv() => return Ok(()),
            }
            if self.received() > received {
                progress = Instant::now();
            }
        }
    }

    /// Receives while something else is done.
    pub(super) async fn receive_during<T>(&mut self, work: impl Future<Output = T>) -> T {
        let mut work = std::pin::pin!(work);
        loop {
            tokio::select! {
                done = &mut work => return done,
                () = self.next() => {}
            }
        }
    }

    /// Starts a further client at each replica, which goes to no other.
    pub(super) fn join_at_the_end(&mut self) {
        for url in self.urls.clone() {
            self.start(format!("last client of {url}"), vec![url], 0);
        }
    }

    /// Receives until all clients have what the log has, and show the same alerts; or until there
    /// is no progress.
    pub(super) async fn until_equal(&mut self, goal: &Goal) {
        let mut progress = Instant::now();
        let mut waiting: HashSet<usize> = (0..self.seen.len()).collect();
        loop {
            waiting.retain(|number| {
                let seen = &self.seen[*number];
                !seen.is_ready() || !goal.is_reached(seen)
            });
            if waiting.is_empty() && alerts::are_equal(&self.seen, self.clients, &self.filters) {
                return;
            }
            let received = self.received();
            let until = Instant::now() + COMPARE;
            while timeout_at(until, self.next()).await.is_ok() {}
            if self.received() > received {
                progress = Instant::now();
            }
            if progress.elapsed() > self.patience {
                return;
            }
        }
    }

    fn received(&self) -> u64 {
        self.seen.iter().map(|seen| seen.received).sum()
    }

    /// Stops the clients. What they have received, and what was found.
    pub(super) fn finish(mut self) -> (Clients, Report) {
        self.running.abort_all();
        self.report.clients = self.seen.len() as u64;
        let clients = Clients {
            seen: self.seen,
            at_the_end: self.clients,
            filters: self.filters,
        };
        (clients, self.report)
    }

    /// Takes the next event.
    async fn next(&mut self) {
        // There is always a sender: this one's own.
        if let Some((number, event)) = self.events.recv().await {
            self.seen[number].take(event, &mut self.report);
        }
    }
}
