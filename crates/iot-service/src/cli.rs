//! The command line that all services share: `run`, `check-config`,
//! `config example` and `health` with the same configuration sources, and the
//! exit codes 0 (stopped on request), 2 (invalid configuration) and 1 (anything
//! else).

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

use crate::Listeners;
use crate::config::{self, Live, OpsConfig, Problems, Settings, Sources};
use crate::server::{self, Listener};
use crate::{logs, probe};

/// Exit code for an invalid configuration, the same as clap's for invalid arguments.
const BAD_CONFIG: u8 = 2;

/// Where the configuration comes from, for `#[command(flatten)]`.
#[derive(Debug, Clone, clap::Args)]
pub struct ConfigArgs {
    /// Read settings from this YAML file; see `config example`
    #[arg(long, short, value_name = "FILE", global = true)]
    config: Option<PathBuf>,
    /// Set one setting, such as kafka.linger=20ms; may be repeated
    #[arg(long, value_name = "KEY=VALUE", value_parser = key_value, global = true)]
    set: Vec<(String, String)>,
}

impl ConfigArgs {
    /// The sources of the configuration: the file, this process's environment,
    /// `flags` (dotted path and value), and `--set`, which overrides them all.
    #[must_use]
    pub fn sources(&self, mut flags: Vec<(String, String)>) -> Sources {
        flags.extend(self.set.iter().cloned());
        Sources {
            file: self.config.clone(),
            // No setting has a name or value that is not Unicode.
            env: std::env::vars_os()
                .filter_map(|(k, v)| Some((k.into_string().ok()?, v.into_string().ok()?)))
                .collect(),
            flags,
        }
    }
}

fn key_value(text: &str) -> Result<(String, String), String> {
    let (key, value) = text.split_once('=').ok_or("expected KEY=VALUE")?;
    Ok((key.trim().into(), value.into()))
}

/// Commands besides `run`, for `#[command(flatten)]` in a subcommand enum.
#[derive(Debug, Clone, clap::Subcommand)]
pub enum ConfigCommand {
    /// Print the effective configuration, or all its problems
    CheckConfig,
    /// Work with configuration files
    #[command(subcommand)]
    Config(ConfigFile),
    /// Query whether the running service is live; exits with 1 if it is not
    Health {
        /// Query whether it is ready instead
        #[arg(long)]
        ready: bool,
    },
}

/// Subcommands of `config`.
#[derive(Debug, Clone, clap::Subcommand)]
pub enum ConfigFile {
    /// Print a commented file with every setting and its default
    Example,
}

impl ConfigCommand {
    /// Runs the command and returns the exit code of the process.
    #[must_use]
    pub fn execute<S: Settings>(&self, sources: &Sources) -> ExitCode {
        match self {
            Self::Config(ConfigFile::Example) => print!("{}", S::EXAMPLE),
            Self::CheckConfig => match config::load::<S>(sources) {
                Ok(settings) => {
                    print!("{}", config::to_yaml(&settings));
                    let mut warnings = Problems::default();
                    settings.warnings(&mut warnings);
                    for warning in warnings.to_string().lines() {
                        eprintln!("warning: {warning}");
                    }
                }
                Err(problems) => return refuse::<S>(&problems),
            },
            Self::Health { ready } => match config::load::<S>(sources) {
                Ok(settings) => return health(settings.ops(), *ready),
                Err(problems) => return refuse::<S>(&problems),
            },
        }
        ExitCode::SUCCESS
    }
}

/// Runs a service until it ends or receives SIGTERM or SIGINT, and returns the exit
/// code of the process: loads the configuration, starts logs and runtime, binds the
/// listeners, and calls `service`.
pub fn run<S, F, Fut>(sources: Sources, service: F) -> ExitCode
where
    S: Settings,
    F: FnOnce(Live<S>, Listeners, CancellationToken) -> Fut,
    Fut: Future<Output = anyhow::Result<()>>,
{
    let (settings, given) = match config::load_given::<S>(&sources) {
        Ok(loaded) => loaded,
        Err(problems) => return refuse::<S>(&problems),
    };
    let logs = logs::init(settings.log());
    server::raise_open_files();
    let run = async {
        let listeners = bind(&settings).await?;
        let shutdown = CancellationToken::new();
        cancel_on_signal(shutdown.clone())?;
        for (setting, reason) in config::without_effect::<S>(&sources) {
            tracing::info!(setting, "is set but ignored: {reason}");
        }
        let live = config::watch((settings, given), sources, logs, shutdown.clone())?;
        tracing::info!(
            service = S::SERVICE,
            version = env!("CARGO_PKG_VERSION"),
            ops = %listeners.ops.local_addr()?,
            "started"
        );
        service(live, listeners, shutdown).await
    };
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build();
    let result = runtime.context("starting the runtime").and_then(|runtime| {
        let result = runtime.block_on(run);
        // A stage that hangs in a blocking call must not delay the exit.
        runtime.shutdown_background();
        result
    });
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!("{} failed: {error:#}", S::SERVICE);
            ExitCode::FAILURE
        }
    }
}

/// Prints the health report of the running service.
fn health(ops: &OpsConfig, ready: bool) -> ExitCode {
    let path = if ready { "/readyz" } else { "/livez" };
    match probe::get(&ops.listen, path) {
        Ok(response) => {
            println!("{}", response.body);
            if response.ok {
                ExitCode::SUCCESS
            } else {
                ExitCode::FAILURE
            }
        }
        Err(error) => {
            eprintln!("no answer from {} (ops.listen): {error}", ops.listen);
            ExitCode::FAILURE
        }
    }
}

fn refuse<S: Settings>(problems: &Problems) -> ExitCode {
    eprintln!("{}: the configuration is not valid\n{problems}", S::SERVICE);
    ExitCode::from(BAD_CONFIG)
}

async fn bind<S: Settings>(settings: &S) -> anyhow::Result<Listeners> {
    let http = match settings.http() {
        Some(http) => {
            let socket = listen("http.listen", &http.listen).await?;
            Some(Listener::new(socket, &http.tls).context("http.tls")?)
        }
        None => None,
    };
    let ops = listen("ops.listen", &settings.ops().listen).await?;
    Ok(Listeners { ops, http })
}

async fn listen(setting: &str, address: &str) -> anyhow::Result<TcpListener> {
    TcpListener::bind(address)
        .await
        .with_context(|| format!("can't listen on {address} ({setting})"))
}

/// Cancels `token` on the first SIGTERM or SIGINT; a second one exits the process
/// at once with code 1.
///
/// # Errors
/// The signal handlers cannot be installed.
pub fn cancel_on_signal(token: CancellationToken) -> std::io::Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    tokio::spawn(async move {
        for received in 1.. {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
            if received > 1 {
                tracing::warn!("received a second stop signal; exiting at once");
                std::process::exit(1);
            }
            token.cancel();
        }
    });
    Ok(())
}
