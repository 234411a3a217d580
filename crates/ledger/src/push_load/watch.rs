//! `push-load watch`: many clients on few threads.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::net::{SocketAddr, ToSocketAddrs};
use std::process::ExitCode;
use std::rc::Rc;
use std::thread;
use std::time::Instant;

use anyhow::Context;
use serde::Serialize;
use tokio::runtime::Builder;
use tokio::sync::{mpsc, oneshot};
use tokio::task::LocalSet;

use super::client::{Client, Shared};
use super::tally::{Counts, Tally};
use crate::histogram::Percentiles;

/// Stands for the number of a client's channel.
const NUMBER: &str = "{n}";

#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Args {
    /// Server to connect to (HOST:PORT)
    #[arg(long)]
    server: String,
    /// Path of the WebSocket
    #[arg(long, default_value = "/connection/websocket")]
    path: String,
    /// Number of clients
    #[arg(long, default_value_t = 1_000)]
    clients: usize,
    /// Channel of each client; {n} is the client's number modulo --spread
    #[arg(long)]
    channel: String,
    /// Number of different channels
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..))]
    spread: u32,
    /// Of the clients, how many read nothing once they are subscribed
    #[arg(long, default_value_t = 0)]
    deaf: usize,
    /// Connect again when a connection ends, and continue from the last position
    #[arg(long)]
    reconnect: bool,
    /// How many clients may be connecting at the same time
    #[arg(long, default_value_t = 500)]
    opening: usize,
    /// Number of threads
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=64))]
    threads: u16,
}

/// The figures since the last ones.
#[derive(Serialize)]
struct Figures {
    seconds: f64,
    /// Clients with a subscription now.
    subscribed: u64,
    #[serde(flatten)]
    counts: Counts,
    ended: BTreeMap<String, u64>,
    /// From the time in a message to its arrival.
    latency_ms: Option<Percentiles>,
}

/// Asks a thread for what it has received, and how many clients are subscribed.
type Question = oneshot::Sender<(Tally, u64)>;

pub(super) async fn run(args: Args) -> anyhow::Result<ExitCode> {
    // The threads of the clients do the work; this one waits for input.
    tokio::task::spawn_blocking(move || watch(&args)).await??;
    Ok(ExitCode::SUCCESS)
}

fn watch(args: &Args) -> anyhow::Result<()> {
    let found = args.server.to_socket_addrs();
    let found = found.with_context(|| format!("--server {}", args.server))?;
    let server = found.into_iter().find(SocketAddr::is_ipv4);
    let server = server.with_context(|| format!("--server {}: no IPv4 address", args.server))?;
    let mut threads = Vec::new();
    for number in 0..usize::from(args.threads) {
        let (questions, asked) = mpsc::unbounded_channel();
        let args = args.clone();
        thread::Builder::new()
            .name(format!("clients-{number}"))
            .spawn(move || clients(&args, server, number, asked))?;
        threads.push(questions);
    }
    let mut since = Instant::now();
    for line in std::io::stdin().lines() {
        line.context("reading standard input")?;
        let figures = figures(&threads, since.elapsed().as_secs_f64())?;
        since = Instant::now();
        let mut out = std::io::stdout().lock();
        writeln!(out, "{}", serde_json::to_string(&figures)?)?;
        out.flush()?;
    }
    Ok(())
}

fn figures(threads: &[mpsc::UnboundedSender<Question>], seconds: f64) -> anyhow::Result<Figures> {
    let (mut all, mut subscribed) = (Tally::default(), 0);
    for thread in threads {
        let (question, answer) = oneshot::channel();
        let _ = thread.send(question);
        let (tally, count) = answer.blocking_recv().context("a thread has ended")?;
        all.merge(&tally);
        subscribed += count;
    }
    Ok(Figures {
        seconds,
        subscribed,
        counts: all.counts,
        ended: all.ended,
        latency_ms: all.latency.percentiles(),
    })
}

/// Runs the clients of a thread.
fn clients(
    args: &Args,
    server: SocketAddr,
    number: usize,
    mut asked: mpsc::UnboundedReceiver<Question>,
) {
    let runtime = Builder::new_current_thread().enable_all().build();
    let runtime = match runtime {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("iot-ledger: starting a thread: {error}");
            return;
        }
    };
    let opening = args.opening.div_ceil(usize::from(args.threads));
    let at = (args.server.clone(), args.path.clone());
    let shared = Rc::new(Shared::new(server, at, args.reconnect, opening));
    let tasks = LocalSet::new();
    for client in (number..args.clients).step_by(usize::from(args.threads)) {
        let of = client % args.spread as usize;
        let client = Client {
            shared: shared.clone(),
            channel: args.channel.replace(NUMBER, &of.to_string()),
            is_deaf: client < args.deaf,
        };
        tasks.spawn_local(client.run());
    }
    runtime.block_on(tasks.run_until(async move {
        while let Some(question) = asked.recv().await {
            let tally = std::mem::take(&mut *shared.tally.borrow_mut());
            let _ = question.send((tally, shared.subscribed.get()));
        }
    }));
}
