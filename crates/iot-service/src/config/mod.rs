//! Layered configuration: defaults, then a YAML file, then the environment,
//! then flags; later layers win.
//!
//! A service describes its settings as plain structs that implement
//! [`Settings`]. [`load`] reads all layers and reports all problems at once,
//! each with the path of the setting and the source of its value.

mod alias;
mod live;
mod load;
mod tree;
mod types;
mod yaml;

use std::fmt;
use std::path::PathBuf;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

pub use alias::{Alias, Aliases};
pub use live::Live;
pub(crate) use live::watch;
pub use load::{assert_example, load};
pub(crate) use load::{load_given, to_yaml, without_effect};
pub use tree::{extract, parse_yaml, parse_yaml_as, read_yaml_as};
pub use types::{ByteSize, HumanDuration, Secret};

use crate::logs::LogFormat;
use crate::tls::FileError;

/// The settings of one service.
///
/// Every struct in it has `#[serde(default, deny_unknown_fields)]`. Its serialised
/// `Default` is the list of known settings and their types: a string from the
/// environment becomes a number, a boolean or a list if the default is one, a number in the file
/// stays as written if the default is a string, and an empty map accepts any keys.
pub trait Settings: Serialize + DeserializeOwned + Default + Clone + Send + Sync + 'static {
    /// Name of the service, such as `iot-bridge`.
    const SERVICE: &'static str;
    /// A commented YAML file with exactly the defaults.
    const EXAMPLE: &'static str;
    /// Well-known environment variables and the paths of their settings, such as
    /// `("KAFKA_BROKERS", "kafka.brokers")`.
    const ENV: &'static [(&'static str, &'static str)];
    /// Other names of settings, accepted in every layer above the defaults.
    const ALIASES: Aliases = &[];
    /// Paths of the settings, or whole sections, that take effect without a restart.
    /// `log.level` always does.
    const LIVE: &'static [&'static str];

    /// Adds all problems that the types do not rule out.
    fn validate(&self, problems: &mut Problems);
    /// Adds what is valid and may not be what is wanted; `check-config` prints it.
    fn warnings(&self, _warnings: &mut Problems) {}
    /// Section `log`.
    fn log(&self) -> &LogConfig;
    /// Section `ops`.
    fn ops(&self) -> &OpsConfig;
    /// Section `http`, if the service has an API of its own.
    fn http(&self) -> Option<&HttpConfig> {
        None
    }
}

/// Section `log`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LogConfig {
    /// `off`, `error`, `warn`, `info`, `debug`, `trace`, or directives by module such as
    /// `info,iot_bridge=debug`.
    pub level: String,
    /// Format of the lines: `auto`, `json` or `text`.
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
    /// Address (`host:port`) of `/metrics`, `/livez` and `/readyz`.
    pub listen: String,
}

/// Section `http`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct HttpConfig {
    /// Address (`host:port`) of the service's API.
    pub listen: String,
    /// Encryption.
    pub tls: HttpTlsConfig,
}

/// Section `http.tls`. Without files the listener has no TLS.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct HttpTlsConfig {
    /// PEM file with the certificate of the listener, and those between it and its authority.
    pub cert_file: String,
    /// PEM file with its private key.
    pub key_file: String,
}

/// The sources of settings above the defaults, in ascending priority.
#[derive(Debug, Clone, Default)]
pub struct Sources {
    /// YAML file.
    pub file: Option<PathBuf>,
    /// Environment variables. The well-known ones, `IOT_SECTION__KEY`, and
    /// `IOT_KEY` for a setting outside of sections are used, others ignored.
    pub env: Vec<(String, String)>,
    /// Dotted paths and values from the command line.
    pub flags: Vec<(String, String)>,
}

/// All problems of a configuration.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Problems(Vec<Problem>);

#[derive(Debug, Clone, PartialEq, Eq)]
struct Problem {
    path: String,
    message: String,
}

impl Problems {
    /// Adds a problem of the setting with this path, such as `kafka.linger`.
    pub fn add(&mut self, path: impl Into<String>, message: impl Into<String>) {
        let (path, message) = (path.into(), message.into());
        self.0.push(Problem { path, message });
    }

    /// Whether there are no problems.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Returns `value` if there are no problems.
    ///
    /// # Errors
    /// The problems, if there are any.
    pub fn or<T>(self, value: T) -> Result<T, Problems> {
        if self.is_empty() {
            Ok(value)
        } else {
            Err(self)
        }
    }
}

impl fmt::Display for Problems {
    /// One line per problem.
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
    let tls = settings.http().and_then(|http| http.tls.problem());
    if let Some(FileError { setting, problem }) = tls {
        problems.add(format!("http.tls.{setting}"), problem);
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
