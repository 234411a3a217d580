//! Starts Redis servers for one test, each on a free port.

use std::path::Path;
use std::process::{Command, Stdio};

use tempfile::TempDir;

use crate::port::free_port;
use crate::process::{Process, Program};
use crate::wait_for;

/// A Redis server of one test. Killed when dropped.
#[derive(Debug)]
pub struct RedisServer {
    port: u16,
    arguments: Vec<String>,
    process: Process,
    dir: TempDir,
}

impl RedisServer {
    /// Starts a server that keeps data in memory only, unless `options`, which are for
    /// `redis-server`, say otherwise.
    ///
    /// # Panics
    /// If `redis-server` is missing; `scripts/stack` installs it.
    pub async fn start(options: &[&str]) -> Self {
        let (dir, port) = (tempfile::tempdir().unwrap(), free_port());
        let port_text = port.to_string();
        let own = ["--port", &port_text, "--save", "", "--bind", "127.0.0.1"];
        Self::launch(&[&own, options].concat(), dir, port).await
    }

    /// Starts a sentinel for the master `main` on `master_port`. Quorum is 1.
    ///
    /// # Panics
    /// Like [`Self::start`].
    pub async fn start_sentinel(master_port: u16) -> Self {
        let (dir, port) = (tempfile::tempdir().unwrap(), free_port());
        let file = dir.path().join("sentinel.conf");
        let text = format!(
            "port {port}\nbind 127.0.0.1\nsentinel monitor main 127.0.0.1 {master_port} 1\n\
             sentinel down-after-milliseconds main 500\nsentinel failover-timeout main 2000\n"
        );
        std::fs::write(&file, text).unwrap();
        Self::launch(&[file.to_str().unwrap(), "--sentinel"], dir, port).await
    }

    async fn launch(arguments: &[&str], dir: TempDir, port: u16) -> Self {
        let arguments: Vec<_> = arguments.iter().map(ToString::to_string).collect();
        let mut server = Self {
            port,
            process: spawn(&arguments, dir.path()),
            arguments,
            dir,
        };
        server.wait_for_answer().await;
        server
    }

    async fn wait_for_answer(&mut self) {
        wait_for("redis-server", async || {
            self.process.assert_running();
            // A server with a password answers NOAUTH, which also means that it is up.
            let answer = self.cli(&["PING"]);
            answer.contains("PONG") || answer.contains("NOAUTH")
        })
        .await;
    }

    /// Starts the server again after [`kill`](Self::kill), with the same port and files.
    pub async fn start_again(&mut self) {
        self.process = spawn(&self.arguments, self.dir.path());
        self.wait_for_answer().await;
    }

    /// The server's working directory.
    #[must_use]
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// The port on which it listens.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The server's URL, `redis://127.0.0.1:PORT`.
    #[must_use]
    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    /// Sends a command with `redis-cli`; returns its standard output.
    pub fn cli(&self, words: &[&str]) -> String {
        let mut command = Command::new("redis-cli");
        let output = command.args(["-p", &self.port.to_string()]).args(words);
        let output = output.stderr(Stdio::null()).output().unwrap();
        String::from_utf8(output.stdout).unwrap()
    }

    /// Sends the server a signal by name, such as `STOP` or `CONT`.
    pub fn signal(&self, name: &str) {
        self.process.signal(name);
    }

    /// Kills the server (SIGKILL).
    pub fn kill(&mut self) {
        self.process.kill();
    }
}

fn spawn(arguments: &[String], dir: &Path) -> Process {
    let server = Program::new("redis-server").args(arguments);
    server.directory(dir).start()
}
