//! The replicas of the consumer behind the one address of the page. They are processes of their
//! own, so that a kill is what it is anywhere else: nothing is stored, sent or said any more.

use std::io::Read;
use std::net::SocketAddr;
use std::process::Stdio;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use iot_service::Listeners;
use tokio::io::{AsyncBufReadExt, BufReader, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream};
use tokio::process::{Child, ChildStdin, Command};
use tokio::sync::Notify;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::brokers::listen;
use crate::services::{self, until_ready};
use crate::stage::say;

/// How long a killed replica stays away; an orchestrator takes about as long to start it again.
const AWAY: Duration = Duration::from_secs(10);
/// For the last steps of a replica that is stopped.
const STOP: Duration = Duration::from_secs(30);

/// All replicas, and the address that leads to one of them.
pub(crate) struct Replicas {
    slots: Arc<[Slot]>,
    tasks: JoinSet<Result<()>>,
    stop: CancellationToken,
}

/// The place of a replica, which comes back to it after a kill.
#[derive(Debug, Default)]
struct Slot {
    /// While it runs.
    addresses: Mutex<Option<Addresses>>,
    /// Connections of the page's address that lead to it.
    connections: AtomicUsize,
    kill: Notify,
}

/// Where a replica listens.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Addresses {
    pub(crate) http: SocketAddr,
    pub(crate) ops: SocketAddr,
}

impl Slot {
    fn addresses(&self) -> Option<Addresses> {
        *self
            .addresses
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    fn set(&self, addresses: Option<Addresses>) {
        *self
            .addresses
            .lock()
            .unwrap_or_else(PoisonError::into_inner) = addresses;
    }

    fn connections(&self) -> usize {
        self.connections.load(Ordering::Relaxed)
    }
}

impl Replicas {
    /// Starts `count` replicas; `page` leads to them once they listen.
    pub(crate) async fn start(
        count: u8,
        page: TcpListener,
        kafka: &str,
        log_level: &str,
    ) -> Result<Self> {
        let slots: Arc<[Slot]> = (0..count).map(|_| Slot::default()).collect();
        let (stop, mut tasks) = (CancellationToken::new(), JoinSet::new());
        let mut starting = JoinSet::new();
        for _ in 0..count {
            let start = Replica::start(kafka.to_owned(), log_level.to_owned());
            starting.spawn(start);
        }
        for number in 0..slots.len() {
            let started = starting.join_next().await;
            let replica = started.context("a replica was not started")???;
            slots[number].set(Some(replica.addresses));
            let (slots, stop) = (slots.clone(), stop.clone());
            let (kafka, log_level) = (kafka.to_owned(), log_level.to_owned());
            tasks.spawn(async move {
                let again = || Replica::start(kafka.clone(), log_level.clone());
                keep(number, &slots[number], replica, again, stop).await
            });
        }
        tasks.spawn(lead(page, slots.clone(), stop.clone()));
        Ok(Self { slots, tasks, stop })
    }

    /// Waits until all are ready.
    ///
    /// # Errors
    /// One has ended.
    pub(crate) async fn ready(&mut self) -> Result<()> {
        let ready = async {
            for addresses in self.slots.iter().filter_map(Slot::addresses) {
                until_ready(addresses.ops).await;
            }
        };
        tokio::select! {
            () = ready => Ok(()),
            error = ended(&mut self.tasks) => Err(error),
        }
    }

    /// Those that run, by number.
    pub(crate) fn running(&self) -> impl Iterator<Item = (usize, Addresses)> {
        let slots = (1..).zip(&*self.slots);
        slots.filter_map(|(number, slot)| Some((number, slot.addresses()?)))
    }

    /// Kills the replica that most connections lead to, without a warning.
    pub(crate) fn kill_one(&self) {
        let running = self.slots.iter().filter(|slot| slot.addresses().is_some());
        if let Some(slot) = running.max_by_key(|slot| slot.connections()) {
            slot.kill.notify_one();
        }
    }

    /// Waits until one ends with an error.
    pub(crate) async fn ended(&mut self) -> anyhow::Error {
        ended(&mut self.tasks).await
    }

    /// Stops all of them, and waits for their last steps.
    pub(crate) async fn stop(mut self) -> Result<()> {
        self.stop.cancel();
        let mut result = Ok(());
        while let Some(ended) = self.tasks.join_next().await {
            result = result.and(ended.map_err(anyhow::Error::from).flatten());
        }
        result
    }
}

async fn ended(tasks: &mut JoinSet<Result<()>>) -> anyhow::Error {
    match tasks.join_next().await {
        Some(Ok(Err(error))) => error.context("a replica of the consumer"),
        Some(Err(panic)) => anyhow!("a replica of the consumer: {panic}"),
        Some(Ok(Ok(()))) | None => anyhow!("a replica of the consumer ended unexpectedly"),
    }
}

/// A running process.
struct Replica {
    process: Child,
    /// Its end stops the process, also when this one is killed.
    lifeline: ChildStdin,
    addresses: Addresses,
}

impl Replica {
    async fn start(kafka: String, log_level: String) -> Result<Self> {
        let program = std::env::current_exe().context("finding the demo's program")?;
        let mut process = Command::new(program)
            .args(["replica", "--kafka", &kafka, "--log-level", &log_level])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            // Ctrl-C is for this process, which stops the others in order.
            .process_group(0)
            .kill_on_drop(true)
            .spawn()
            .context("starting a replica of the consumer")?;
        let lifeline = process.stdin.take().context("its standard input")?;
        let output = process.stdout.take().context("its standard output")?;
        let mut line = String::new();
        BufReader::new(output).read_line(&mut line).await?;
        let mut addresses = line.split_whitespace().map(str::parse);
        let (Some(Ok(http)), Some(Ok(ops))) = (addresses.next(), addresses.next()) else {
            bail!("a replica of the consumer did not start");
        };
        let addresses = Addresses { http, ops };
        Ok(Self {
            process,
            lifeline,
            addresses,
        })
    }
}

/// Keeps the replica of a slot running until `stop`.
async fn keep<Start: Future<Output = Result<Replica>>>(
    number: usize,
    slot: &Slot,
    mut replica: Replica,
    again: impl Fn() -> Start,
    stop: CancellationToken,
) -> Result<()> {
    loop {
        let killed = tokio::select! {
            () = stop.cancelled() => {
                drop(replica.lifeline);
                // It is killed if that takes too long.
                let _ = tokio::time::timeout(STOP, replica.process.wait()).await;
                return Ok(());
            }
            () = slot.kill.notified() => true,
            status = replica.process.wait() => {
                let status = status.context("waiting for it")?;
                say(&format!("  Replica {} has ended: {status}", number + 1));
                false
            }
        };
        slot.set(None);
        if killed {
            replica.process.kill().await.context("killing it")?;
            say(&format!("  Replica {} is killed", number + 1));
        }
        let back = async {
            tokio::time::sleep(AWAY).await;
            again().await
        };
        replica = match stop.run_until_cancelled(back).await {
            None => return Ok(()),
            Some(started) => started?,
        };
        slot.set(Some(replica.addresses));
        say(&format!("  Replica {} is back", number + 1));
    }
}

/// Leads each connection to the running replica with the fewest. The others are asked if that one
/// does not answer.
async fn lead(page: TcpListener, slots: Arc<[Slot]>, stop: CancellationToken) -> Result<()> {
    let mut connections = JoinSet::new();
    loop {
        let accepted = tokio::select! {
            () = stop.cancelled() => return Ok(()),
            Some(_) = connections.join_next() => continue,
            accepted = page.accept() => accepted,
        };
        match accepted {
            Ok((client, _)) => {
                let slots = slots.clone();
                connections.spawn(async move { connect(client, &slots).await });
            }
            // Of this connection, or too many files are open: others may still come.
            Err(error) => {
                tracing::warn!(%error, "cannot accept a connection");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

async fn connect(mut client: TcpStream, slots: &[Slot]) {
    let mut order: Vec<_> = slots.iter().collect();
    order.sort_by_key(|slot| slot.connections());
    for slot in order {
        let Some(addresses) = slot.addresses() else {
            continue;
        };
        let Ok(mut replica) = TcpStream::connect(addresses.http).await else {
            continue;
        };
        // A frame is not to wait for the next one.
        let _ = (client.set_nodelay(true), replica.set_nodelay(true));
        slot.connections.fetch_add(1, Ordering::Relaxed);
        // Either side can end it; the other one sees that.
        let _ = copy_bidirectional(&mut client, &mut replica).await;
        slot.connections.fetch_sub(1, Ordering::Relaxed);
        return;
    }
}

/// What a process of a replica does: it says where it listens, and runs until standard input
/// ends.
pub(crate) async fn run(kafka: &str) -> Result<()> {
    let (http, ops) = (listen(0, "--port").await?, listen(0, "--port").await?);
    say(&format!("{} {}", http.local_addr()?, ops.local_addr()?));
    let stop = CancellationToken::new();
    let ends = stop.clone();
    // A thread, because reading standard input can't be cancelled.
    std::thread::spawn(move || {
        let (mut input, mut nothing) = (std::io::stdin(), [0; 64]);
        while matches!(input.read(&mut nothing), Ok(1..)) {}
        ends.cancel();
    });
    let listeners = Listeners {
        ops,
        http: Some(http.into()),
    };
    iot_consumer::run(services::consumer(kafka), listeners, stop).await
}
