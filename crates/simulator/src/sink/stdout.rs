//! Sink `stdout`: one line of JSON per message.

use std::fs::File;
use std::io::{self, ErrorKind, Write};
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use super::{SendError, Sent, Sink};
use crate::lane::Batch;

/// Writes lines to an output that can block, such as a pipe.
#[derive(Debug)]
pub(crate) struct Lines<W>(Arc<Mutex<W>>);

/// Standard output.
///
/// # Errors
/// It is closed.
pub(crate) fn open() -> io::Result<Lines<File>> {
    file().map(Lines::new)
}

/// Standard output, without a buffer.
///
/// # Errors
/// It is closed.
pub(crate) fn file() -> io::Result<File> {
    check()?;
    // `std::io::Stdout` takes a failed write to a closed or read-only output for success.
    let out = io::stdout().as_fd().try_clone_to_owned()?;
    Ok(File::from(out))
}

/// Whether the program was started without standard output (`>&-`).
///
/// # Errors
/// It was.
pub(crate) fn check() -> io::Result<()> {
    if CLOSED.load(Ordering::Relaxed) {
        let message = "it was closed when the program started";
        return Err(io::Error::new(ErrorKind::NotConnected, message));
    }
    Ok(())
}

static CLOSED: AtomicBool = AtomicBool::new(false);

/// Runs before `main`: Rust's runtime opens /dev/null in the place of a closed standard
/// output, and everything written would seem to arrive.
#[cfg(target_os = "linux")]
#[used]
#[allow(unsafe_code)]
// SAFETY: the section holds pointers to functions that the C runtime calls once; this one
// only makes system calls and sets an atomic.
#[unsafe(link_section = ".init_array")]
static NOTE_CLOSED: extern "C" fn() = {
    extern "C" fn note_closed() {
        let is_missing = |path| std::fs::symlink_metadata(path).is_err();
        let closed = !is_missing("/proc/self/fd") && is_missing("/proc/self/fd/1");
        CLOSED.store(closed, Ordering::Relaxed);
    }
    note_closed
};

impl<W: Write + Send + 'static> Lines<W> {
    /// A sink that writes to `out`.
    pub(crate) fn new(out: W) -> Self {
        Self(Arc::new(Mutex::new(out)))
    }
}

/// The payloads of a batch, one per line.
pub(super) fn lines(batch: &Batch) -> Vec<u8> {
    let mut lines = Vec::with_capacity(batch.payload_bytes() + batch.len());
    for message in batch.messages() {
        lines.extend_from_slice(message.payload);
        lines.push(b'\n');
    }
    lines
}

impl<W: Write + Send + 'static> Sink for Lines<W> {
    async fn attempt(&mut self, batch: &Batch) -> Result<Sent, SendError> {
        let lines = lines(batch);
        let out = Arc::clone(&self.0);
        let written = tokio::task::spawn_blocking(move || {
            let mut out = out.lock().unwrap_or_else(PoisonError::into_inner);
            out.write_all(&lines)?;
            out.flush()
        })
        .await;
        match written {
            Ok(Ok(())) => Ok(Sent::default()),
            Ok(Err(error)) if error.kind() == ErrorKind::BrokenPipe => Err(SendError::Closed),
            // A retry would repeat what was already written.
            Ok(Err(error)) => Err(SendError::Broken(format!(
                "writing to standard output: {error}"
            ))),
            // The runtime is shutting down.
            Err(_) => Err(SendError::Closed),
        }
    }
}
