//! Sink `file`: one line of JSON per message, appended to a file.

use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use anyhow::Context;

use super::stdout::lines;
use super::{SendError, Sent, Sink};
use crate::lane::Batch;

/// Appends to a file. On a full disk, writing is retried from the byte where it
/// stopped, so that no line is split or duplicated.
#[derive(Debug)]
pub(crate) struct Appender<W> {
    path: PathBuf,
    /// `None` while a blocking task has it.
    rest: Option<Rest<W>>,
}

/// The rest of a batch to write, and the file.
#[derive(Debug)]
struct Rest<W> {
    file: W,
    lines: Vec<u8>,
    written: usize,
}

/// Opens the file for appending, and creates it if it does not exist.
///
/// # Errors
/// The file can't be opened.
pub(crate) fn open(path: &Path) -> anyhow::Result<Appender<fs::File>> {
    let file = fs::OpenOptions::new().append(true).create(true).open(path);
    let file = file.with_context(|| format!("opening file.path {}", path.display()))?;
    Ok(Appender::new(path, file))
}

impl<W> Appender<W> {
    fn new(path: &Path, file: W) -> Self {
        Self {
            path: path.to_owned(),
            rest: Some(Rest {
                file,
                lines: Vec::new(),
                written: 0,
            }),
        }
    }
}

impl<W: Write> Rest<W> {
    fn write(&mut self) -> io::Result<()> {
        while self.written < self.lines.len() {
            match self.file.write(&self.lines[self.written..]) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(written) => self.written += written,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

impl<W: Write + Send + 'static> Sink for Appender<W> {
    fn begin(&mut self, batch: &Batch) {
        if let Some(rest) = &mut self.rest {
            rest.lines = lines(batch);
            rest.written = 0;
        }
    }

    async fn attempt(&mut self, _batch: &Batch) -> Result<Sent, SendError> {
        let Some(mut rest) = self.rest.take() else {
            // The blocking task that had it was lost with the runtime.
            return Err(SendError::Closed);
        };
        let write = move || {
            let result = rest.write();
            (rest, result)
        };
        let written = tokio::task::spawn_blocking(write).await;
        // The runtime is shutting down, or the write panicked.
        let (rest, result) = written.map_err(|_| SendError::Closed)?;
        self.rest = Some(rest);
        let failed = |error| SendError::Retry(format!("writing {}: {error}", self.path.display()));
        result.map(|()| Sent::default()).map_err(failed)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::super::tests::batch;
    use super::*;

    /// A disk with limited space, and its content.
    #[derive(Debug, Clone, Default)]
    struct Disk(Arc<Mutex<(usize, Vec<u8>)>>);

    impl Write for Disk {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let (space, content) = &mut *self.0.lock().unwrap();
            let fits = bytes.len().min(*space);
            if fits == 0 {
                return Err(io::ErrorKind::StorageFull.into());
            }
            *space -= fits;
            content.extend_from_slice(&bytes[..fits]);
            Ok(fits)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[tokio::test]
    async fn a_full_disk_neither_splits_nor_duplicates_lines() {
        let disk = Disk::default();
        disk.0.lock().unwrap().0 = 4;
        let mut sink = Appender::new(Path::new("out.ndjson"), disk.clone());
        for payloads in [["one", "two"], ["three", "four"]] {
            let batch = batch(&payloads);
            sink.begin(&batch);
            while let Err(error) = sink.attempt(&batch).await {
                assert!(
                    error.to_string().starts_with("writing out.ndjson: "),
                    "{error}"
                );
                disk.0.lock().unwrap().0 = 3;
            }
        }
        let content = disk.0.lock().unwrap().1.clone();
        assert_eq!(
            String::from_utf8(content).unwrap(),
            "one\ntwo\nthree\nfour\n"
        );
    }
}
