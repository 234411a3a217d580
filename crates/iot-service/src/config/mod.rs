//! Layered configuration: defaults, then a YAML file, then the environment,
//! then flags; the later wins.
//!
//! A service describes its settings as plain structs that implement
//! [`Settings`]. [`load`] reads all layers and reports every problem at once,
//! each with the path of the setting and where its value came from.

mod alias;
mod live;
mod load;
mod tree;
mod types;

use std::fmt;
use std::path::PathBuf;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

pub use alias::{Alias, Aliases};
pub use live::Live;
pub(crate) use live::watch;
pub use load::{assert_example, load};
pub(crate) use load::{load_given, to_yaml, without_effect};
pub use tree::{extract, parse_yaml, read_yaml};
pub use types::{ByteSize, HumanDuration, Secret};

use crate::logs::LogFormat;

/// The settings of one service.
///
/// Every struct in it has `#[serde(default, deny_unknown_fields)]`. What its
/// `Default` serialises to is the list of known settings and of their types: a
/// text from the environment becomes a number, a boolean or a list where the
/// default is one, and an empty map takes any keys.
pub trait Settings: Serialize + DeserializeOwned + Default + Clone + Send + Sync + 'static {
    /// The name of the service, such as `iot-bridge`.
    const SERVICE: &'static str;
    /// A commented YAML file that holds exactly the defaults.
    const EXAMPLE: &'static str;
    /// Well-known variables and the settings they stand for, such as
    /// `("KAFKA_BROKERS", "kafka.brokers")`.
    const ENV: &'static [(&'static str, &'static str)];
    /// Other names of settings; a file or a layer above it may use either.
    const ALIASES: Aliases = &[];
    /// Paths of the settings (or whole sections) that a running service takes
    /// over when they change. `log.level` is one always.
    const LIVE: &'static [&'static str];

    /// Adds every problem that types alone don't show.
    fn validate(&self, problems: &mut Problems);
    /// How to log.
    fn log(&self) -> &LogConfig;
    /// Where the ops listener is.
    fn ops(&self) -> &OpsConfig;
    /// Where the service's own API is, if it has one.
    fn http(&self) -> Option<&HttpConfig> {
        None
    }
}

/// Section `log`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LogConfig {
    /// `error`, `warn`, `info`, `debug`, `trace`, or directives by module.
    pub level: String,
    /// `auto`, `json` or `text`.
    pub format: LogFormat,
}

impl Default for LogConfig {
    fn default() -> Self {
        Self {
            level: "info".into(),
            format: LogFormat::Auto,
        }
    }
}

/// Section `ops`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct OpsConfig {
    /// `host:port` of `/metrics`, `/livez` and `/readyz`.
    pub listen: String,
}

/// Section `http`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct HttpConfig {
    /// `host:port` of the service's API.
    pub listen: String,
}

/// Where settings come from, besides the defaults.
#[derive(Debug, Clone, Default)]
pub struct Sources {
    /// A YAML file.
    pub file: Option<PathBuf>,
    /// Environment variables: the well-known ones, `IOT_SECTION__KEY`, and
    /// `IOT_KEY` for a setting outside of sections are taken, others ignored.
    pub env: Vec<(String, String)>,
    /// Dotted paths and values from the command line.
    pub flags: Vec<(String, String)>,
}

/// Everything that is wrong with a configuration.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Problems(Vec<Problem>);

#[derive(Debug, Clone, PartialEq, Eq)]
struct Problem {
    path: String,
    message: String,
}

impl Problems {
    /// Adds a problem of the setting at `path`, such as `kafka.linger`.
    pub fn add(&mut self, path: impl Into<String>, message: impl Into<String>) {
        let (path, message) = (path.into(), message.into());
        self.0.push(Problem { path, message });
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Ends a check: the value when there is no problem.
    ///
    /// # Errors
    /// All problems, if there are any.
    pub fn or<T>(self, value: T) -> Result<T, Problems> {
        if self.is_empty() {
            Ok(value)
        } else {
            Err(self)
        }
    }
}

impl fmt::Display for Problems {
    /// One line a problem.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, Problem { path, message }) in self.0.iter().enumerate() {
            if index > 0 {
                f.write_str("\n")?;
            }
            write!(f, "{path}: {message}")?;
        }
        Ok(())
    }
}

impl std::error::Error for Problems {}

/// Checks the sections that every service has.
fn validate_common<S: Settings>(settings: &S, problems: &mut Problems) {
    if let Err(message) = crate::logs::parse_level(&settings.log().level) {
        problems.add("log.level", message);
    }
    let http = settings.http().map(|http| ("http.listen", &http.listen));
    let listens = [("ops.listen", &settings.ops().listen)]
        .into_iter()
        .chain(http);
    for (path, listen) in listens {
        let port = listen.rsplit_once(':').map(|(_, port)| port.parse::<u16>());
        if !matches!(port, Some(Ok(_))) {
            problems.add(path, format!("{listen:?} is not host:port"));
        }
    }
}
