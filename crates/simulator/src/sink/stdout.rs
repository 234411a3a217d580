//! Sink `stdout`: one line of JSON per message.

use std::io::{ErrorKind, Write};
use std::sync::{Arc, Mutex, PoisonError};

use super::{SendError, Sent, Sink};
use crate::lane::Batch;

/// Writes lines to an output that can block, such as a pipe.
#[derive(Debug)]
pub(crate) struct Lines<W>(Arc<Mutex<W>>);

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
            Ok(Err(error)) => {
                // A retry would repeat what was already written.
                if error.kind() != ErrorKind::BrokenPipe {
                    tracing::error!(%error, "cannot write to standard output");
                }
                Err(SendError::Closed)
            }
            // The runtime is shutting down.
            Err(_) => Err(SendError::Closed),
        }
    }
}
