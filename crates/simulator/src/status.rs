//! Progress of a run: a status line on a terminal, otherwise a log line every ten
//! seconds; and the figures at the end.

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
use crate::sink::stdout;

const TERMINAL_INTERVAL: Duration = Duration::from_millis(500);
const LOG_INTERVAL: Duration = Duration::from_secs(10);

/// Reports the progress and the figures of a run.
#[derive(Debug)]
pub(crate) struct Progress {
    metrics: Metrics,
    config: RunConfig,
    shard: Shard,
    started: Instant,
    start: Snapshot,
}

impl Progress {
    /// Call when the run starts. The attempts to open the sink, before, count as well.
    pub(crate) fn start(metrics: Metrics, config: &SimulatorConfig) -> Self {
        Self {
            started: Instant::now(),
            start: Snapshot::default(),
            metrics,
            config: config.run.clone(),
            shard: config.fleet.shard,
        }
    }

    /// Reports the progress for as long as it is polled.
    pub(crate) async fn report(&self) -> Infallible {
        let bar = std::io::stderr().is_terminal().then(|| self.bar());
        let every = if bar.is_some() {
            TERMINAL_INTERVAL
        } else {
            LOG_INTERVAL
        };
        let mut ticks = interval(every);
        ticks.tick().await;
        let (mut before, mut at) = (self.start.clone(), self.started);
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

    /// A progress bar if the length of the run is known, otherwise a spinner.
    fn bar(&self) -> ProgressBar {
        let template = match self.length() {
            Some(_) => "{elapsed_precise} [{bar:25}] {percent:>3} % {msg}",
            None => "{elapsed_precise} {spinner} {msg}",
        };
        let style = ProgressStyle::with_template(template);
        let style = style.unwrap_or_else(|_| ProgressStyle::default_spinner());
        ProgressBar::new(self.length().unwrap_or(0)).with_style(style)
    }

    /// Length of the run in messages or in milliseconds, if it is limited.
    fn length(&self) -> Option<u64> {
        match (self.config.messages, self.config.duration.as_millis()) {
            (0, 0) => None,
            (0, millis) => Some(millis as u64),
            (messages, _) => Some(self.shard.part_of(messages)),
        }
    }

    fn position(&self) -> u64 {
        match self.config.messages {
            0 => self.started.elapsed().as_millis() as u64,
            _ => self.figures().done(),
        }
    }

    fn figures(&self) -> Figures {
        let now = Snapshot::take(&self.metrics);
        Figures::between(&self.start, &now, self.started.elapsed())
    }

    /// Reports the figures of the run, and checks whether it has failed; `stopped` if it ends
    /// on request.
    ///
    /// # Errors
    /// A condition of `run.fail_when` holds, messages were due and none was confirmed, or
    /// standard output is closed or cannot be written.
    pub(crate) fn finish(&self, stopped: bool) -> anyhow::Result<()> {
        let figures = self.figures();
        self.print(&figures)?;
        self.check(&figures, !stopped && figures.nothing_sent())
    }

    /// The same for a run whose sink was never open, which has failed unless it was stopped.
    ///
    /// # Errors
    /// As for `finish`, and if the run was not stopped.
    pub(crate) fn finish_unopened(&self, stopped: bool) -> anyhow::Result<()> {
        let figures = self.figures();
        self.print(&figures)?;
        self.check(&figures, !stopped)
    }

    fn print(&self, figures: &Figures) -> anyhow::Result<()> {
        let by_name = figures.by_name();
        // First, because standard output may be closed.
        if std::io::stderr().is_terminal() {
            tracing::info!("done: {figures}");
            for (name, figure) in &by_name {
                eprintln!("  {name:22} {figure}");
            }
        } else {
            tracing::info!(figures = json(&by_name), "done: {figures}");
        }
        if self.config.json {
            let line = json(&by_name) + "\n";
            let written = stdout::file().and_then(|mut out| out.write_all(line.as_bytes()));
            written.context("writing the figures to standard output")?;
        }
        Ok(())
    }

    fn check(&self, figures: &Figures, nothing_sent: bool) -> anyhow::Result<()> {
        let holding = self.config.fail_when.iter().filter_map(|condition| {
            let figure = condition.matching_value(figures)?;
            Some(format!("{condition} holds (it is {figure})"))
        });
        let mut failures: Vec<String> = holding.collect();
        if nothing_sent {
            let Figures { errors, drops, .. } = figures;
            failures.push(format!(
                "no message was confirmed ({errors} errors, {drops} drops)"
            ));
        }
        anyhow::ensure!(
            failures.is_empty(),
            "the run failed: {}",
            failures.join(", ")
        );
        Ok(())
    }
}

fn json(figures: &Map<String, Value>) -> String {
    Value::Object(figures.clone()).to_string()
}
