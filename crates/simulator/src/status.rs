//! What is told to those who watch: on a terminal one line that changes, else a
//! log line now and then; and at the end what the run came to.

use std::convert::Infallible;
use std::io::{IsTerminal, Write};
use std::time::Duration;

use anyhow::Context;
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::{Map, Value};
use tokio::time::{Instant, interval};

use crate::config::{RunConfig, Shard, SimulatorConfig};
use crate::figures::{Figures, Snapshot};
use crate::metrics::Metrics;

const ON_A_TERMINAL: Duration = Duration::from_millis(500);
const IN_A_LOG: Duration = Duration::from_secs(10);

/// A run that is watched from its start to its end.
#[derive(Debug)]
pub(crate) struct Watch {
    metrics: Metrics,
    config: RunConfig,
    shard: Shard,
    began: Instant,
    start: Snapshot,
}

impl Watch {
    /// The run begins.
    pub(crate) fn start(metrics: Metrics, config: &SimulatorConfig) -> Self {
        Self {
            began: Instant::now(),
            start: Snapshot::take(&metrics),
            metrics,
            config: config.run.clone(),
            shard: config.fleet.shard,
        }
    }

    /// Tells how it goes, for as long as it is polled.
    pub(crate) async fn tell(&self) -> Infallible {
        let bar = std::io::stderr().is_terminal().then(|| self.bar());
        let every = if bar.is_some() {
            ON_A_TERMINAL
        } else {
            IN_A_LOG
        };
        let mut ticks = interval(every);
        ticks.tick().await;
        let (mut before, mut at) = (self.start.clone(), self.began);
        loop {
            let now = ticks.tick().await;
            let snapshot = Snapshot::take(&self.metrics);
            let figures = Figures::between(&before, &snapshot, now - at);
            let queue = self.metrics.queue_depth.get();
            match &bar {
                Some(bar) => {
                    bar.set_position(self.position());
                    bar.set_message(format!("{figures} | {queue} queued"));
                }
                None => tracing::info!("{figures} | {queue} queued"),
            }
            (before, at) = (snapshot, now);
        }
    }

    /// With its end, where that is known.
    fn bar(&self) -> ProgressBar {
        let template = match self.length() {
            Some(_) => "{elapsed_precise} [{bar:25}] {percent:>3} % {msg}",
            None => "{elapsed_precise} {spinner} {msg}",
        };
        let style = ProgressStyle::with_template(template);
        let style = style.unwrap_or_else(|_| ProgressStyle::default_spinner());
        ProgressBar::new(self.length().unwrap_or(0)).with_style(style)
    }

    /// In messages, or in milliseconds.
    fn length(&self) -> Option<u64> {
        match (self.config.messages, self.config.duration.as_millis()) {
            (0, 0) => None,
            (0, millis) => Some(millis as u64),
            (messages, _) => Some(self.shard.part_of(messages)),
        }
    }

    fn position(&self) -> u64 {
        match self.config.messages {
            0 => self.began.elapsed().as_millis() as u64,
            _ => self.figures().done(),
        }
    }

    fn figures(&self) -> Figures {
        let now = Snapshot::take(&self.metrics);
        Figures::between(&self.start, &now, self.began.elapsed())
    }

    /// Tells what it came to.
    ///
    /// # Errors
    /// One of the conditions on which a run fails holds, or nobody reads the
    /// figures.
    pub(crate) fn end(&self) -> anyhow::Result<()> {
        let figures = self.figures();
        let by_name = figures.by_name();
        if self.config.json {
            let told = writeln!(std::io::stdout(), "{}", json(&by_name));
            told.context("writing the figures to standard output")?;
        }
        if std::io::stderr().is_terminal() {
            tracing::info!("done: {figures}");
            for (name, figure) in &by_name {
                eprintln!("  {name:22} {figure}");
            }
        } else {
            tracing::info!(figures = json(&by_name), "done: {figures}");
        }
        let holding = self.config.fail_when.iter().filter_map(|condition| {
            let figure = condition.holds(&figures)?;
            Some(format!("{condition} holds (it is {figure})"))
        });
        let holding: Vec<String> = holding.collect();
        anyhow::ensure!(holding.is_empty(), "the run failed: {}", holding.join(", "));
        Ok(())
    }
}

fn json(figures: &Map<String, Value>) -> String {
    Value::Object(figures.clone()).to_string()
}
