//! The truth file: one line of JSON per anomaly with the times of its first and last
//! reading, against which detectors are scored.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::Context;

use crate::fleet::Truth;

/// Longest time for which lines stay in the buffer.
const FLUSH_EVERY: Duration = Duration::from_secs(1);

/// The channel of ended anomalies. It is unbounded, so that workers never wait for the
/// disk.
pub(crate) type Truths = Sender<Truth>;

/// The thread that writes the file.
#[derive(Debug)]
pub(crate) struct Writer {
    path: PathBuf,
    thread: JoinHandle<std::io::Result<()>>,
}

/// Creates or empties the file.
///
/// # Errors
/// The file can't be created.
pub(crate) fn create(path: &Path) -> anyhow::Result<(Truths, Writer)> {
    let context = || format!("creating anomaly.truth_file {}", path.display());
    let file = File::create(path).with_context(context)?;
    let (truths, lines) = mpsc::channel();
    let thread = std::thread::Builder::new()
        .name("truth".into())
        .spawn(move || write(BufWriter::new(file), &lines))
        .context("starting the thread of the truth file")?;
    let path = path.to_owned();
    Ok((truths, Writer { path, thread }))
}

impl Writer {
    /// Waits until everything is written. All senders must be gone.
    ///
    /// # Errors
    /// The file is incomplete, such as on a full disk.
    pub(crate) fn finish(self) -> anyhow::Result<()> {
        let written = self.thread.join();
        let written =
            written.map_err(|_| anyhow::anyhow!("the thread of the truth file panicked"))?;
        written.with_context(|| format!("writing anomaly.truth_file {}", self.path.display()))
    }
}

fn write(mut file: impl Write, lines: &Receiver<Truth>) -> std::io::Result<()> {
    let mut unflushed = false;
    loop {
        match lines.recv_timeout(FLUSH_EVERY) {
            Ok(truth) => {
                serde_json::to_writer(&mut file, &truth)?;
                file.write_all(b"\n")?;
                unflushed = true;
            }
            Err(RecvTimeoutError::Timeout) if unflushed => {
                file.flush()?;
                unflushed = false;
            }
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => return file.flush(),
        }
    }
}
