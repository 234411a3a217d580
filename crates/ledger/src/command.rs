//! The command line.

use std::process::ExitCode;

use crate::{consume, kafka, publish, push_load, score, subscribe, verify_push, verify_state};

/// Send numbered messages through the system and verify what happened to each.
///
/// Exit codes: 0 success; 1 a message was not acknowledged, is lost or corrupt, state or
/// what is pushed differs from the log, or a server cannot be reached; 2 invalid arguments.
#[derive(Debug, clap::Parser)]
#[command(name = "iot-ledger", version)]
pub(crate) enum Command {
    /// Publish a run of messages over MQTT 5 with QoS 1.
    Publish(publish::Args),
    /// Subscribe with MQTT 5 and QoS 1, and discard the messages.
    Subscribe(subscribe::Args),
    /// Read messages of a Kafka topic and discard them.
    Consume(consume::Args),
    /// Read Kafka and report the lost, duplicate, reordered and corrupt messages of a run.
    VerifyKafka(kafka::Args),
    /// Fold the log and compare a consumer's state in Redis with the result, bit by bit.
    VerifyState(verify_state::Args),
    /// Subscribe at several replicas and compare what they push with the log.
    VerifyPush(verify_push::Args),
    /// Load a push server and measure what its clients receive.
    #[command(subcommand)]
    PushLoad(push_load::Command),
    /// Compare alerts with the simulator's labelled anomalies.
    Score(score::Args),
}

impl Command {
    /// Runs the command and returns the exit code of the process.
    pub(crate) async fn run(self) -> anyhow::Result<ExitCode> {
        match self {
            Self::Publish(args) => publish::run(args).await,
            Self::Subscribe(args) => subscribe::run(args).await,
            Self::Consume(args) => consume::run(args).await,
            Self::VerifyKafka(args) => kafka::run(args).await,
            Self::VerifyState(args) => verify_state::run(args).await,
            Self::VerifyPush(args) => verify_push::run(args).await,
            Self::PushLoad(command) => command.run().await,
            Self::Score(args) => score::run(args).await,
        }
    }
}
