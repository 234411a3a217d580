//! The command line.

use std::process::ExitCode;

use crate::{consume, kafka, publish, score, subscribe, verify_state};

/// Sends numbered messages through the system and proves what became of each.
///
/// Exit codes: 0 all is well; 1 a message was not acknowledged, is lost or changed,
/// state is not what the log says, or a server is not reached; 2 bad arguments.
#[derive(Debug, clap::Parser)]
#[command(name = "iot-ledger", version)]
pub(crate) enum Command {
    /// Publish a run of messages over MQTT 5 with QoS 1.
    Publish(publish::Args),
    /// Subscribe with MQTT 5 and QoS 1, take messages and throw them away.
    Subscribe(subscribe::Args),
    /// Read messages of a Kafka topic and throw them away.
    Consume(consume::Args),
    /// Read Kafka and report what of a run was lost, doubled, reordered or changed.
    VerifyKafka(kafka::Args),
    /// Fold the log and compare what a consumer keeps in Redis with it, exactly.
    VerifyState(verify_state::Args),
    /// Compare alerts with the anomalies that the simulator has labelled.
    Score(score::Args),
}

impl Command {
    /// Does it.
    pub(crate) async fn run(self) -> anyhow::Result<ExitCode> {
        match self {
            Self::Publish(args) => publish::run(args).await,
            Self::Subscribe(args) => subscribe::run(args).await,
            Self::Consume(args) => consume::run(args).await,
            Self::VerifyKafka(args) => kafka::run(args).await,
            Self::VerifyState(args) => verify_state::run(args).await,
            Self::Score(args) => score::run(args).await,
        }
    }
}
