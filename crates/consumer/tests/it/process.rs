//! The binary as a process of its own, for what can't be done to a task: to kill
//! it, and to stop it for a while.

use std::fs::File;
use std::net::SocketAddr;
use std::ops::Deref;
use std::process::{Child, Command, Stdio};

use tempfile::TempDir;

use crate::redis_server::free_port;
use crate::service::{Endpoints, wait_for};

/// A consumer; killed when dropped, its log shown if the test failed.
pub(crate) struct Process {
    at: Endpoints,
    child: Child,
    dir: TempDir,
}

impl Process {
    /// Starts it with these settings and waits until it answers.
    pub(crate) async fn start(settings: &[(&str, &str)]) -> Self {
        let address = || SocketAddr::from(([127, 0, 0, 1], free_port()));
        let at = Endpoints {
            ops: address(),
            http: address(),
        };
        let mut command = Command::new(env!("CARGO_BIN_EXE_iot-consumer"));
        let (ops, http) = (at.ops.to_string(), at.http.to_string());
        let own = [("ops.listen", ops.as_str()), ("http.listen", &http)];
        for (key, value) in settings.iter().chain(&own) {
            command.args(["--set", &format!("{key}={value}")]);
        }
        // Only what the test sets decides.
        for variable in [
            "KAFKA_BROKERS",
            "KAFKA_TOPIC",
            "REDIS_URL",
            "REDIS_ENDPOINT",
        ] {
            command.env_remove(variable);
        }
        let dir = tempfile::tempdir().unwrap();
        let log = File::create(dir.path().join("log")).unwrap();
        command.stdout(log.try_clone().unwrap()).stderr(log);
        let child = command.stdin(Stdio::null()).spawn().unwrap();
        let process = Self { at, child, dir };
        let livez = format!("http://{}/livez", process.ops);
        wait_for("the process", async || reqwest::get(&livez).await.ok()).await;
        process
    }

    /// Sends a signal, `KILL` for one, to it alone.
    pub(crate) fn signal(&self, signal: &str) {
        let pid = self.child.id().to_string();
        let status = Command::new("kill")
            .arg(format!("-{signal}"))
            .arg(pid)
            .status();
        assert!(status.unwrap().success());
    }

    /// SIGKILL: it can do nothing about it.
    pub(crate) fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

impl Deref for Process {
    type Target = Endpoints;

    fn deref(&self) -> &Endpoints {
        &self.at
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // One that has ended already is no error.
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            let log = std::fs::read_to_string(self.dir.path().join("log")).unwrap_or_default();
            let tail: Vec<&str> = log.lines().rev().take(60).collect();
            eprintln!("--- last lines of the consumer:");
            tail.iter().rev().for_each(|line| eprintln!("{line}"));
        }
    }
}
