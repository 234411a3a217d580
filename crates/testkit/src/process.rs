//! A binary as a child process, as a user runs it.

use std::fmt::Display;
use std::fs::File;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, ExitStatus, Stdio};
use std::time::Duration;

use tempfile::TempDir;

use crate::{wait_for, wait_for_sync};

/// The binary `name` of the same build as this test.
///
/// For binaries of other packages; the test's own package has `CARGO_BIN_EXE_name`.
///
/// # Panics
/// When it was not built.
#[must_use]
pub fn binary(name: &str) -> PathBuf {
    // The test is target/<profile>/deps/it-<hash>, the binaries are two up.
    let test = std::env::current_exe().unwrap();
    let path = test.ancestors().nth(2).unwrap().join(name);
    let shown = path.display();
    assert!(
        path.is_file(),
        "{shown} is not there: run cargo build --workspace"
    );
    path
}

/// A binary and how to run it.
///
/// It inherits no environment except `PATH`: what the test sets decides, not the
/// variables of the stack, which the services read as well.
#[derive(Debug)]
pub struct Program {
    command: Command,
    input: Vec<u8>,
    keeps_input: bool,
}

impl Program {
    /// `binary` is a path, or a name that `PATH` has.
    #[must_use]
    pub fn new(binary: impl AsRef<Path>) -> Self {
        let mut command = Command::new(binary.as_ref());
        command.env_clear().env("RUST_BACKTRACE", "1");
        command.envs(std::env::var_os("PATH").map(|path| ("PATH", path)));
        Self {
            command,
            input: Vec::new(),
            keeps_input: false,
        }
    }

    /// More arguments.
    #[must_use]
    pub fn args(mut self, args: &[impl AsRef<str>]) -> Self {
        self.command.args(args.iter().map(AsRef::as_ref));
        self
    }

    /// One setting of a service: `--set key=value`.
    #[must_use]
    pub fn set(self, key: &str, value: impl Display) -> Self {
        self.args(&["--set", &format!("{key}={value}")])
    }

    /// Several settings of a service.
    #[must_use]
    pub fn settings(self, settings: &[(&str, &str)]) -> Self {
        let set = |program: Self, (key, value): &(&str, &str)| program.set(key, value);
        settings.iter().fold(self, set)
    }

    /// A variable of its environment.
    #[must_use]
    pub fn env(mut self, name: &str, value: impl AsRef<str>) -> Self {
        self.command.env(name, value.as_ref());
        self
    }

    /// Where it runs; otherwise where the test does.
    #[must_use]
    pub fn directory(mut self, directory: &Path) -> Self {
        self.command.current_dir(directory);
        self
    }

    /// What it finds on standard input; otherwise nothing.
    #[must_use]
    pub fn input(mut self, input: &str) -> Self {
        self.input = input.into();
        self
    }

    /// Leaves standard input open, for [`Process::write`].
    #[must_use]
    pub fn keep_input(mut self) -> Self {
        self.keeps_input = true;
        self
    }

    /// Starts it.
    #[must_use]
    pub fn start(self) -> Process {
        let dir = tempfile::tempdir().unwrap();
        let stdout = File::create(dir.path().join(STDOUT)).unwrap();
        self.spawn(dir, stdout.into())
    }

    /// Starts it with standard output going to the returned pipe.
    #[must_use]
    pub fn start_piped(self) -> (Process, ChildStdout) {
        let dir = tempfile::tempdir().unwrap();
        let mut process = self.spawn(dir, Stdio::piped());
        let stdout = process.child.stdout.take().unwrap();
        (process, stdout)
    }

    fn spawn(mut self, dir: TempDir, stdout: Stdio) -> Process {
        let binary = Path::new(self.command.get_program());
        let name = binary.file_name().unwrap().to_string_lossy().into_owned();
        let stderr = File::create(dir.path().join(STDERR)).unwrap();
        self.command.stdout(stdout).stderr(stderr);
        self.command.stdin(Stdio::piped());
        let child = self.command.spawn();
        let mut child = child.unwrap_or_else(|error| panic!("starting {name}: {error}"));
        let mut input = child.stdin.take().unwrap();
        // It may end without reading what it does not need.
        let _ = input.write_all(&self.input);
        Process {
            name,
            child,
            input: self.keeps_input.then_some(input),
            dir,
            log_read: 0,
        }
    }

    /// Runs it to its end without blocking the runtime.
    pub async fn run(self) -> Run {
        let run = tokio::task::spawn_blocking(|| self.run_sync());
        run.await.unwrap()
    }

    /// Runs it to its end.
    #[must_use]
    pub fn run_sync(self) -> Run {
        let mut process = self.start();
        let status = process.child.wait().unwrap();
        Run {
            code: status.code(),
            stdout: process.stdout(),
            stderr: process.stderr(),
        }
    }
}

/// How a program ended, and what it printed.
#[derive(Debug)]
pub struct Run {
    /// The exit code; none if a signal ended it.
    pub code: Option<i32>,
    /// All of standard output.
    pub stdout: String,
    /// All of standard error: a service's log.
    pub stderr: String,
}

impl Run {
    /// The JSON on standard output.
    ///
    /// # Panics
    /// When that is not JSON.
    #[must_use]
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.stdout).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }
}

/// How often a process that something waits for is checked.
const LOOK: Duration = Duration::from_millis(200);
const STDOUT: &str = "stdout";
const STDERR: &str = "stderr";

/// A running program. Killed when dropped; if the test failed, the end of its output
/// is shown.
#[derive(Debug)]
pub struct Process {
    name: String,
    child: Child,
    input: Option<ChildStdin>,
    dir: TempDir,
    /// Up to where [`Self::wait_for_log`] has read standard error.
    log_read: usize,
}

impl Process {
    /// Writes to its standard input.
    ///
    /// # Panics
    /// When that is not [kept](Program::keep_input), or the process has ended.
    pub fn write(&mut self, text: &str) {
        let input = self.input.as_mut().expect("standard input that is kept");
        input.write_all(text.as_bytes()).unwrap();
    }

    /// What it has printed to standard output so far.
    #[must_use]
    pub fn stdout(&self) -> String {
        self.output(STDOUT)
    }

    /// What it has printed to standard error so far: a service's log.
    #[must_use]
    pub fn stderr(&self) -> String {
        self.output(STDERR)
    }

    fn output(&self, stream: &str) -> String {
        let bytes = std::fs::read(self.dir.path().join(stream)).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// Waits for a line of the log that contains `text`, after the line that the call
    /// before found; returns it.
    ///
    /// # Panics
    /// When the process ends without it, or it does not come in time.
    pub fn wait_for_log(&mut self, text: &str) -> String {
        wait_for_sync(&format!("{text:?} in the log"), || {
            let ended = self.child.try_wait().unwrap();
            let log = self.stderr();
            for line in log[self.log_read..].split_inclusive('\n') {
                // The rest of this one is still to come.
                if !line.ends_with('\n') {
                    break;
                }
                self.log_read += line.len();
                if line.contains(text) {
                    return Some(line.trim_end().to_owned());
                }
            }
            assert!(
                ended.is_none(),
                "{} ended without logging {text:?}",
                self.name
            );
            None
        })
    }

    /// Sends a signal by its name: `TERM`, `INT`, `HUP`, `STOP`, `CONT`.
    ///
    /// # Panics
    /// When the process has ended.
    pub fn signal(&self, name: &str) {
        send_signal(name, &self.child.id().to_string());
    }

    /// SIGKILL: the process can do nothing about it.
    pub fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Waits until it ends by itself.
    ///
    /// # Panics
    /// When it does not end in time.
    pub async fn ended(&mut self) -> ExitStatus {
        let what = format!("the end of {}", self.name);
        wait_for(&what, async || self.child.try_wait().unwrap()).await
    }

    /// [`Self::ended`], blocking.
    ///
    /// # Panics
    /// When it does not end in time.
    pub fn ended_sync(&mut self) -> ExitStatus {
        let what = format!("the end of {}", self.name);
        wait_for_sync(&what, || self.child.try_wait().unwrap())
    }

    /// SIGTERM, and the exit code that it ends with.
    ///
    /// # Panics
    /// When it does not end in time.
    pub async fn stop(&mut self) -> Option<i32> {
        self.signal("TERM");
        self.ended().await.code()
    }

    /// Awaits something that the process has to live for.
    ///
    /// # Panics
    /// When it ends first.
    pub async fn while_running<T>(&mut self, future: impl Future<Output = T>) -> T {
        let mut future = std::pin::pin!(future);
        loop {
            match tokio::time::timeout(LOOK, &mut future).await {
                Ok(value) => return value,
                Err(_) => self.assert_running(),
            }
        }
    }

    /// # Panics
    /// When it has ended.
    pub fn assert_running(&mut self) {
        let status = self.child.try_wait().unwrap();
        assert!(status.is_none(), "{} ended with {status:?}", self.name);
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It is no error if it has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
        if !std::thread::panicking() {
            return;
        }
        for stream in [STDOUT, STDERR] {
            let output = self.output(stream);
            let lines: Vec<&str> = output.lines().collect();
            eprintln!("--- last lines of {} on {stream}:", self.name);
            for line in &lines[lines.len().saturating_sub(60)..] {
                eprintln!("{line}");
            }
        }
    }
}

/// Sends a signal, by its name, to a process of this test.
pub(crate) fn send_signal(name: &str, pid: &str) {
    let sent = Command::new("kill")
        .args([&format!("-{name}"), pid])
        .status();
    assert!(sent.unwrap().success(), "sending SIG{name} to {pid}");
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str) -> Program {
        Program::new("sh").args(&["-c", script])
    }

    #[test]
    fn a_program_gets_its_input_and_no_variables_of_the_test() {
        let run = shell("cat; echo $KIND $CARGO_MANIFEST_DIR >&2; exit 3")
            .env("KIND", "own")
            .input("{\"a\":1}")
            .run_sync();
        assert_eq!((run.code, &*run.stderr), (Some(3), "own\n"));
        assert_eq!(run.json()["a"], 1);
    }

    #[test]
    fn log_lines_are_found_in_order_and_a_signal_ends_the_process() {
        let mut process =
            shell("echo one >&2; echo two >&2; echo one more >&2; exec sleep 60").start();
        assert_eq!(process.wait_for_log("one"), "one");
        assert_eq!(process.wait_for_log("one"), "one more");
        process.assert_running();
        process.signal("TERM");
        assert_eq!(process.ended_sync().code(), None);
    }

    #[test]
    #[should_panic(expected = "sh ended without logging \"never\"")]
    fn a_process_that_ends_without_the_line_fails_the_test_at_once() {
        shell("echo something >&2").start().wait_for_log("never");
    }
}
