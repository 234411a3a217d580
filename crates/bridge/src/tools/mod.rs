//! The operator's tools: topics, dead letters, and a check of both brokers before the start.
//!
//! Exit codes: 0 when everything is as asked for, 1 when something is not, 2 for an invalid
//! configuration or file.

mod dead_letters;
mod letters;
mod preflight;
mod replay;
mod time;
mod topics;
mod topics_file;

use std::io;
use std::process::ExitCode;

use anyhow::Context;
use iot_service::config::{self, Problems, Sources};
use tokio::runtime::Runtime;

use crate::config::BridgeConfig;
pub(crate) use dead_letters::DeadLettersCommand;
pub(crate) use preflight::Preflight;
pub(crate) use topics::TopicsCommand;

/// The result of a tool that ran to its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Outcome {
    Done,
    /// Something is not as asked for; it was printed.
    NotSo,
}

impl Outcome {
    fn when(done: bool) -> Self {
        if done { Self::Done } else { Self::NotSo }
    }
}

/// Runs a tool with the configuration, and prints why it fails.
pub(crate) fn run(sources: &Sources, tool: impl Tool) -> ExitCode {
    let result = config::load::<BridgeConfig>(sources)
        .map_err(anyhow::Error::from)
        .and_then(|config| tool.run(&config, &runtime()?));
    match result {
        Ok(Outcome::Done) => ExitCode::SUCCESS,
        Ok(Outcome::NotSo) => ExitCode::FAILURE,
        Err(error) if error.is::<Problems>() => {
            eprintln!("{error}");
            ExitCode::from(2)
        }
        // The reader of the output has closed it.
        Err(error) if is_broken_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("iot-bridge: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// A command.
pub(crate) trait Tool {
    #[expect(private_interfaces, reason = "the commands are all in here")]
    fn run(self, config: &BridgeConfig, runtime: &Runtime) -> anyhow::Result<Outcome>;
}

fn runtime() -> anyhow::Result<Runtime> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("starting the runtime")
}

fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error
        .downcast_ref::<io::Error>()
        .is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe)
}
