//! The real Kafka, Mosquitto and Redis that `scripts/stack` starts.
//!
//! Tests that need them are `#[ignore = "needs the stack"]`. They use topics, tenants
//! and client ids of their own ([`unique`]), so that all of them can run at once
//! against one stack.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use tempfile::TempDir;

use crate::process::send_signal;

/// A variable that `scripts/stack env` prints, such as `KAFKA_SASL_BROKERS`.
///
/// # Panics
/// When it is not set: a test without its services fails, it is not skipped.
#[must_use]
pub fn variable(name: &str) -> String {
    std::env::var(name).unwrap_or_else(|_| {
        panic!(
            "{name} is not set: start the stack and take its variables with \
             scripts/stack up; eval \"$(scripts/stack env)\""
        )
    })
}

/// Kafka's addresses, `KAFKA_BROKERS`.
///
/// # Panics
/// Like [`variable`].
#[must_use]
pub fn kafka_brokers() -> String {
    variable("KAFKA_BROKERS")
}

/// Mosquitto's address, `MQTT_URL`.
///
/// # Panics
/// Like [`variable`].
#[must_use]
pub fn mqtt_url() -> String {
    variable("MQTT_URL")
}

/// Redis' address, `REDIS_URL`.
///
/// # Panics
/// Like [`variable`].
#[must_use]
pub fn redis_url() -> String {
    variable("REDIS_URL")
}

/// A name that no other test, process or earlier run has: `name`, hexadecimal digits
/// and `-`, which is valid as a topic, tenant, group and client id.
#[must_use]
pub fn unique(name: &str) -> String {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    let (process, count) = (std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
    format!(
        "{name}-{process:x}-{:x}-{count}",
        now.as_micros() & 0xffff_ffff
    )
}

/// A stack of the test's own, whose members may be stopped. Taken down when dropped.
#[derive(Debug)]
pub struct OwnStack {
    dir: TempDir,
    env: String,
}

impl OwnStack {
    /// With one Kafka broker.
    pub async fn up() -> Self {
        Self::up_with(1).await
    }

    /// With one Kafka broker, the member `kafka`, or more: `kafka-2` and `kafka-3`.
    pub async fn up_with(brokers: u32) -> Self {
        let mut stack = Self {
            dir: tempfile::tempdir().unwrap(),
            env: String::new(),
        };
        let number = brokers.to_string();
        stack.env = stack.run(&["up", "--brokers", &number]).await;
        stack
    }

    /// Stops a member in order; its port and data stay.
    pub async fn stop(&self, member: &str) {
        self.run(&["stop", member]).await;
    }

    /// Starts a member that was stopped or killed.
    pub async fn start(&self, member: &str) {
        self.run(&["start", member]).await;
    }

    /// Ends a member with SIGKILL.
    pub async fn kill(&self, member: &str) {
        let status = self.run(&["status"]).await;
        let mut lines = status.lines().map(str::split_whitespace);
        let line = lines.find(|line| line.clone().next() == Some(member));
        let pid = line.and_then(Iterator::last);
        send_signal(
            "KILL",
            pid.unwrap_or_else(|| panic!("no {member} in\n{status}")),
        );
        // Nothing runs any more; this removes the pid that the script remembers.
        self.stop(member).await;
    }

    /// The value of one of the variables that the stack prints.
    ///
    /// # Panics
    /// When the stack prints no such variable.
    #[must_use]
    pub fn variable(&self, name: &str) -> String {
        let prefix = format!("export {name}=");
        let value = self.env.lines().find_map(|line| line.strip_prefix(&prefix));
        value
            .unwrap_or_else(|| panic!("no {name} in {}", self.env))
            .to_owned()
    }

    /// Where the stack keeps state, data and logs.
    #[must_use]
    pub fn dir(&self) -> PathBuf {
        self.dir.path().join("stack")
    }

    async fn run(&self, args: &[&str]) -> String {
        let mut command = self.command(args);
        let output = tokio::task::spawn_blocking(move || command.output());
        let output = output.await.unwrap().unwrap();
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "scripts/stack {args:?}: {errors}");
        String::from_utf8(output.stdout).unwrap()
    }

    fn command(&self, args: &[&str]) -> Command {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../scripts/stack");
        let mut command = Command::new(script);
        command.args(args).env("STACK_DIR", self.dir());
        command
    }
}

impl Drop for OwnStack {
    fn drop(&mut self) {
        let _ = self.command(&["down"]).output();
    }
}
