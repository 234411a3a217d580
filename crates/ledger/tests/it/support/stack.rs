//! A stack of a test's own, whose members may be stopped.

use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;

/// Taken down when dropped.
pub(crate) struct OwnStack {
    dir: TempDir,
    env: String,
}

impl OwnStack {
    pub(crate) async fn up() -> Self {
        let mut stack = Self {
            dir: tempfile::tempdir().unwrap(),
            env: String::new(),
        };
        stack.env = stack.control(&["up"]).await;
        stack
    }

    /// `scripts/stack` with these arguments; gives what it printed.
    pub(crate) async fn control(&self, args: &[&str]) -> String {
        let mut command = self.command(args);
        let output = tokio::task::spawn_blocking(move || command.output().unwrap())
            .await
            .unwrap();
        assert!(output.status.success(), "stack {args:?}: {output:?}");
        String::from_utf8(output.stdout).unwrap()
    }

    fn command(&self, args: &[&str]) -> Command {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../scripts/stack");
        let mut command = Command::new(script);
        command
            .args(args)
            .env("STACK_DIR", self.dir.path().join("stack"));
        command
    }

    /// The file with the first records of partition 0 of a topic.
    pub(crate) fn log(&self, topic: &str) -> PathBuf {
        let partition = self.dir.path().join(format!("stack/kafka/{topic}-0"));
        partition.join("00000000000000000000.log")
    }

    /// The value of one of the variables that the stack prints.
    pub(crate) fn variable(&self, name: &str) -> String {
        let mut lines = self.env.lines();
        let value = lines.find_map(|line| {
            line.strip_prefix("export ")?
                .strip_prefix(name)?
                .strip_prefix('=')
        });
        value
            .unwrap_or_else(|| panic!("no {name} in {}", self.env))
            .to_owned()
    }
}

impl Drop for OwnStack {
    fn drop(&mut self) {
        let _ = self.command(&["down"]).output();
    }
}
