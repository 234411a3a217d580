//! The system's binaries as processes, as a user runs them.

use std::fs::File;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use tempfile::TempDir;

use super::PATIENCE;

/// The binary `name`, from the same build as this test.
fn binary(name: &str) -> PathBuf {
    // The test is target/<profile>/deps/it-<hash>, the binaries are two up.
    let test = std::env::current_exe().unwrap();
    let path = test.parent().unwrap().parent().unwrap().join(name);
    assert!(
        path.is_file(),
        "{} is not there: `cargo build --workspace` first",
        path.display()
    );
    path
}

/// A running service; killed when dropped, its log shown if the test failed.
pub(crate) struct Process {
    name: String,
    child: Child,
    dir: TempDir,
}

impl Process {
    /// Starts `name` with `--set` for each setting after the other arguments.
    pub(crate) fn start(name: &str, args: &[&str], settings: &[(&str, &str)]) -> Self {
        let mut command = Command::new(binary(name));
        command.args(args);
        for (key, value) in settings {
            command.args(["--set", &format!("{key}={value}")]);
        }
        let dir = tempfile::tempdir().unwrap();
        let log = File::create(dir.path().join("log")).unwrap();
        // Only what a test sets decides: not the stack's variables, which the
        // services would read as well.
        for variable in [
            "KAFKA_BROKERS",
            "KAFKA_TOPIC",
            "MQTT_URL",
            "REDIS_URL",
            "REDIS_ENDPOINT",
        ] {
            command.env_remove(variable);
        }
        command.env("RUST_BACKTRACE", "1").stdin(Stdio::null());
        command.stdout(log.try_clone().unwrap()).stderr(log);
        let child = command
            .spawn()
            .unwrap_or_else(|error| panic!("starting {name}: {error}"));
        Self {
            name: name.to_owned(),
            child,
            dir,
        }
    }

    /// SIGKILL: the process can do nothing about it.
    pub(crate) fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// SIGTERM.
    fn terminate(&self) {
        let pid = self.child.id().to_string();
        assert!(
            Command::new("kill")
                .args(["-TERM", &pid])
                .status()
                .unwrap()
                .success()
        );
    }

    /// Waits until it ended by itself.
    pub(crate) async fn ended(&mut self) -> ExitStatus {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status;
            }
            assert!(Instant::now() < deadline, "{} does not end", self.name);
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// SIGTERM, and the exit code that it ended with.
    pub(crate) async fn stop(&mut self) -> Option<i32> {
        self.terminate();
        self.ended().await.code()
    }

    /// Panics if it ended already.
    pub(crate) fn assert_running(&mut self) {
        let status = self.child.try_wait().unwrap();
        assert!(status.is_none(), "{} ended with {status:?}", self.name);
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            let log = std::fs::read_to_string(self.dir.path().join("log")).unwrap_or_default();
            let tail: Vec<&str> = log.lines().rev().take(60).collect();
            eprintln!("--- last lines of {}:", self.name);
            tail.iter().rev().for_each(|line| eprintln!("{line}"));
        }
    }
}

/// How a command ended.
#[derive(Debug)]
pub(crate) struct Run {
    pub(crate) code: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Run {
    /// The JSON object on standard output.
    pub(crate) fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.stdout).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }
}

/// Runs the ledger to its end.
pub(crate) async fn run(args: &[&str]) -> Run {
    let mut command = Command::new(env!("CARGO_BIN_EXE_iot-ledger"));
    command.args(args);
    let output = tokio::task::spawn_blocking(move || command.output().unwrap())
        .await
        .unwrap();
    Run {
        code: output.status.code(),
        stdout: String::from_utf8(output.stdout).unwrap(),
        stderr: String::from_utf8(output.stderr).unwrap(),
    }
}
