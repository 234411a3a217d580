//! Redis servers of one test each, on ports of their own.

use std::hash::{BuildHasher, Hasher, RandomState};
use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use tempfile::TempDir;

/// Generous: builds share their machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// A server of one test; killed when dropped.
pub(crate) struct Server {
    pub(crate) port: u16,
    arguments: Vec<String>,
    child: Child,
    dir: TempDir,
}

/// A port that nobody listens on, below those that the kernel hands out for
/// outgoing connections: a server that starts again finds it free.
pub(crate) fn free_port() -> u16 {
    loop {
        let port = 10_000 + (RandomState::new().build_hasher().finish() % 10_000) as u16;
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
}

/// Waits until `check` holds.
pub(crate) async fn wait_for(what: &str, check: impl Fn() -> bool) {
    let begun = Instant::now();
    while !check() {
        assert!(begun.elapsed() < PATIENCE, "waited too long for {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

fn spawn(arguments: &[&str], dir: &Path) -> Child {
    let mut command = Command::new("redis-server");
    command.args(arguments).current_dir(dir);
    let child = command.stdin(Stdio::null()).stdout(Stdio::null()).spawn();
    child.expect("redis-server, which scripts/stack installs")
}

impl Server {
    pub(crate) async fn start(arguments: &[&str]) -> Self {
        let (dir, port) = (tempfile::tempdir().unwrap(), free_port());
        let port_text = port.to_string();
        let own = ["--port", &port_text, "--save", "", "--bind", "127.0.0.1"];
        Self::run(&[&own, arguments].concat(), dir, port).await
    }

    /// A sentinel of the master `main`, alone to decide.
    #[allow(dead_code, reason = "not used by all who share this file")]
    pub(crate) async fn sentinel(master: u16) -> Self {
        let (dir, port) = (tempfile::tempdir().unwrap(), free_port());
        let file = dir.path().join("sentinel.conf");
        let text = format!(
            "port {port}\nbind 127.0.0.1\nsentinel monitor main 127.0.0.1 {master} 1\n\
             sentinel down-after-milliseconds main 500\nsentinel failover-timeout main 2000\n"
        );
        std::fs::write(&file, text).unwrap();
        Self::run(&[file.to_str().unwrap(), "--sentinel"], dir, port).await
    }

    async fn run(arguments: &[&str], dir: TempDir, port: u16) -> Self {
        let server = Self {
            port,
            arguments: arguments.iter().map(ToString::to_string).collect(),
            child: spawn(arguments, dir.path()),
            dir,
        };
        server.wait_answer().await;
        server
    }

    async fn wait_answer(&self) {
        wait_for("redis-server", || {
            // One with a password answers as well.
            let answer = self.cli(&["PING"]);
            answer.contains("PONG") || answer.contains("NOAUTH")
        })
        .await;
    }

    /// After [`kill`](Self::kill): again, with the same port and data.
    #[allow(dead_code, reason = "not used by all who share this file")]
    pub(crate) async fn start_again(&mut self) {
        let arguments: Vec<&str> = self.arguments.iter().map(String::as_str).collect();
        self.child = spawn(&arguments, self.dir.path());
        self.wait_answer().await;
    }

    /// Where its files are.
    #[allow(dead_code, reason = "not used by all who share this file")]
    pub(crate) fn dir(&self) -> &Path {
        self.dir.path()
    }

    pub(crate) fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    /// What redis-cli prints.
    pub(crate) fn cli(&self, words: &[&str]) -> String {
        let mut command = Command::new("redis-cli");
        let output = command.args(["-p", &self.port.to_string()]).args(words);
        let output = output.stderr(Stdio::null()).output().unwrap();
        String::from_utf8(output.stdout).unwrap()
    }

    #[allow(dead_code, reason = "not used by all who share this file")]
    pub(crate) fn signal(&self, signal: &str) {
        let pid = self.child.id().to_string();
        let status = Command::new("kill")
            .arg(format!("-{signal}"))
            .arg(pid)
            .status();
        assert!(status.unwrap().success());
    }

    /// SIGKILL.
    pub(crate) fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Killing one that was stopped or has ended is no error.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
