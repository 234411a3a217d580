//! Logs: one line per event on standard error, as JSON or as text.

use std::io::IsTerminal;

use serde::{Deserialize, Serialize};
use tracing_subscriber::filter::{EnvFilter, LevelFilter};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{Layer, Registry, fmt, reload};

use crate::config::LogConfig;

/// Format of log lines.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// Text on a terminal, JSON elsewhere.
    #[default]
    Auto,
    /// One JSON object per line.
    Json,
    /// Readable text.
    Text,
}

/// Changes the level of a running process.
#[derive(Debug, Clone)]
pub struct LogControl(reload::Handle<EnvFilter, Registry>);

impl LogControl {
    /// Applies a level, or directives such as `info,iot_bridge=debug`. An invalid
    /// level is logged and the old one stays.
    pub fn set_level(&self, level: &str) {
        match parse_level(level).map(|filter| self.0.reload(filter)) {
            Ok(Ok(())) => {}
            Ok(Err(error)) => {
                tracing::warn!(%error, "cannot change the log level; keeping the old one")
            }
            Err(error) => tracing::warn!(error, "cannot change the log level; keeping the old one"),
        }
    }
}

/// Parses `log.level`: a level, and optional directives `module=level`.
pub(crate) fn parse_level(level: &str) -> Result<EnvFilter, String> {
    let refused = || format!("{level:?} is not a level (error, warn, info, debug, trace)");
    // EnvFilter takes any other bare word for a module, and silences all others.
    let has_level = |directive: &str| {
        let level = directive.rsplit('=').next().unwrap_or_default();
        !level.is_empty() && level.parse::<LevelFilter>().is_ok()
    };
    if !level.split(',').map(str::trim).all(has_level) {
        return Err(refused());
    }
    level.parse().map_err(|_| refused())
}

/// Checks a level or directives, as clap's `value_parser`.
///
/// # Errors
/// `text` is not a level.
pub fn level(text: &str) -> Result<String, String> {
    parse_level(text).map(|_| text.to_owned())
}

/// Sets the process's log subscriber. A second call in a process changes nothing and
/// returns `None`.
pub fn init(config: &LogConfig) -> Option<LogControl> {
    let filter = parse_level(&config.level).unwrap_or_else(|_| EnvFilter::new("info"));
    let (filter, handle) = reload::Layer::new(filter);
    let json = match config.format {
        LogFormat::Auto => !std::io::stderr().is_terminal(),
        LogFormat::Json => true,
        LogFormat::Text => false,
    };
    let lines = fmt::layer().with_writer(std::io::stderr);
    let lines = if json {
        lines.json().flatten_event(true).boxed()
    } else {
        lines.with_ansi(std::io::stderr().is_terminal()).boxed()
    };
    let set = tracing_subscriber::registry()
        .with(filter)
        .with(lines)
        .try_init();
    set.ok().map(|()| LogControl(handle))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels_and_directives_are_accepted() {
        for level in [
            "info",
            "WARN",
            "off",
            "info,rskafka=off",
            "warn,iot_bridge=debug",
        ] {
            assert!(parse_level(level).is_ok(), "{level}");
        }
        for level in ["warning", "", "loud", "iot_bridge", "info,iot_bridge=loud"] {
            assert!(parse_level(level).is_err(), "{level}");
        }
    }
}
