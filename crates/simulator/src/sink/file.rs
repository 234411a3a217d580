//! Sink `file`: one line of JSON per message, appended to a file.

use std::fs;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::task::{Context as TaskContext, Waker};

use anyhow::Context;
use tokio::signal::unix::{Signal, SignalKind, signal};

use super::stdout::lines;
use super::{SendError, Sent, Sink};
use crate::lane::Batch;

/// Opens the file at a path, and says whether its last line is torn.
type Opener<W> = fn(&Path) -> io::Result<(W, bool)>;

/// Appends to a file. On a full disk, writing is retried from the byte where it
/// stopped, so that no line is split or duplicated.
#[derive(Debug)]
pub(crate) struct Appender<W> {
    path: PathBuf,
    open: Opener<W>,
    /// SIGHUP: the file was renamed, by logrotate for example.
    hangups: Option<Signal>,
    /// Whether the file must be opened again.
    renamed: bool,
    /// `None` while a blocking task has it.
    rest: Option<Rest<W>>,
}

/// The rest of a batch to write, and the file.
#[derive(Debug)]
struct Rest<W> {
    file: W,
    /// Whether the last line of the file has no end.
    torn: bool,
    lines: Vec<u8>,
    written: usize,
}

/// Opens the file for appending, and creates it if it does not exist. SIGHUP opens it again.
///
/// # Errors
/// The file can't be opened.
pub(crate) fn open(path: &Path) -> anyhow::Result<Appender<fs::File>> {
    let context = || format!("opening file.path {}", path.display());
    let opened = open_file(path).with_context(context)?;
    let mut appender = Appender::new(path, open_file, opened);
    let hangups = signal(SignalKind::hangup()).context("listening for SIGHUP")?;
    appender.hangups = Some(hangups);
    Ok(appender)
}

fn open_file(path: &Path) -> io::Result<(fs::File, bool)> {
    let file = fs::OpenOptions::new()
        .append(true)
        .create(true)
        .open(path)?;
    let metadata = file.metadata()?;
    // A file that can be written but not read is taken as complete.
    let is_torn = || last_byte(path).is_ok_and(|last| last != b'\n');
    Ok((file, metadata.is_file() && metadata.len() > 0 && is_torn()))
}

fn last_byte(path: &Path) -> io::Result<u8> {
    let mut file = fs::File::open(path)?;
    file.seek(SeekFrom::End(-1))?;
    let mut last = [0];
    file.read_exact(&mut last)?;
    Ok(last[0])
}

impl<W> Appender<W> {
    fn new(path: &Path, open: Opener<W>, (file, torn): (W, bool)) -> Self {
        Self {
            path: path.to_owned(),
            open,
            hangups: None,
            renamed: false,
            rest: Some(Rest {
                file,
                torn,
                lines: Vec::new(),
                written: 0,
            }),
        }
    }

    /// Notes a SIGHUP that has arrived.
    fn note_hangup(&mut self) {
        let mut context = TaskContext::from_waker(Waker::noop());
        if let Some(hangups) = &mut self.hangups {
            self.renamed |= hangups.poll_recv(&mut context).is_ready();
        }
    }

    /// Opens the file again if it was renamed; a batch that is partly written ends in the
    /// old one.
    fn follow(&mut self) -> Result<(), SendError> {
        self.note_hangup();
        let Some(rest) = self.rest.as_mut().filter(|rest| rest.written == 0) else {
            return Ok(());
        };
        if self.renamed {
            let failed =
                |error| SendError::Retry(format!("reopening {}: {error}", self.path.display()));
            (rest.file, rest.torn) = (self.open)(&self.path).map_err(failed)?;
            self.renamed = false;
        }
        Ok(())
    }
}

impl<W: Write> Rest<W> {
    fn write(&mut self) -> io::Result<()> {
        if self.torn {
            self.file.write_all(b"\n")?;
            self.torn = false;
        }
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
        self.follow()?;
        let Some(mut rest) = self.rest.take() else {
            // The blocking task that had it was lost with the runtime.
            return Err(SendError::Closed);
        };
        let write = move || {
            let result = rest.write();
            (rest, result)
        };
        let written = tokio::task::spawn_blocking(write).await;
        let (rest, result) = written.map_err(|error| {
            if error.is_panic() {
                SendError::Broken(format!("writing {} panicked", self.path.display()))
            } else {
                // The runtime is shutting down.
                SendError::Closed
            }
        })?;
        self.rest = Some(rest);
        let failed = |error| SendError::Retry(format!("writing {}: {error}", self.path.display()));
        result.map(|()| Sent::default()).map_err(failed)
    }

    /// Waits for SIGHUP.
    async fn idle(&mut self) {
        match &mut self.hangups {
            Some(hangups) => {
                hangups.recv().await;
                self.renamed = true;
            }
            None => std::future::pending().await,
        }
    }

    async fn attend(&mut self) -> Result<(), SendError> {
        if let Some(rest) = &mut self.rest {
            // Between batches.
            rest.written = 0;
            rest.lines.clear();
        }
        self.follow()
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

    fn on(disk: &Disk) -> Appender<Disk> {
        let open: Opener<Disk> = |_| Ok((Disk::default(), false));
        Appender::new(Path::new("out.ndjson"), open, (disk.clone(), false))
    }

    async fn append(sink: &mut Appender<fs::File>, payloads: &[&str]) {
        let batch = batch(payloads);
        sink.begin(&batch);
        assert!(sink.attempt(&batch).await.is_ok());
    }

    #[tokio::test]
    async fn a_write_only_file_is_appended_to() {
        use std::os::unix::fs::PermissionsExt;

        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("out.ndjson");
        fs::write(&path, "{0}\n").unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o200)).unwrap();
        // As root, this tests nothing: root reads all files.
        let mut sink = open(&path).unwrap();
        append(&mut sink, &["{1}"]).await;
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "{0}\n{1}\n");
    }

    #[tokio::test]
    async fn a_panic_of_the_write_is_not_taken_for_a_closed_output() {
        #[derive(Debug)]
        struct Panics;
        impl Write for Panics {
            fn write(&mut self, _: &[u8]) -> io::Result<usize> {
                panic!("a test");
            }

            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        let open: Opener<Panics> = |_| Ok((Panics, false));
        let mut sink = Appender::new(Path::new("out.ndjson"), open, (Panics, false));
        let batch = batch(&["{1}"]);
        sink.begin(&batch);
        let error = sink.attempt(&batch).await.unwrap_err();
        assert_eq!(error.to_string(), "writing out.ndjson panicked");
    }

    #[tokio::test]
    async fn a_torn_last_line_is_ended_before_the_first_message() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("out.ndjson");
        for (before, after) in [
            ("", "{1}\n{2}\n"),
            ("{0}\n", "{0}\n{1}\n{2}\n"),
            ("{0}\n{\"a", "{0}\n{\"a\n{1}\n{2}\n"),
        ] {
            fs::write(&path, before).unwrap();
            let mut sink = open(&path).unwrap();
            append(&mut sink, &["{1}"]).await;
            append(&mut sink, &["{2}"]).await;
            assert_eq!(fs::read_to_string(&path).unwrap(), after);
        }
    }

    #[tokio::test]
    async fn a_renamed_file_is_opened_again_between_batches() {
        let directory = tempfile::tempdir().unwrap();
        let (path, old) = (directory.path().join("out"), directory.path().join("old"));
        let mut sink = open(&path).unwrap();
        append(&mut sink, &["{1}"]).await;
        fs::rename(&path, &old).unwrap();
        append(&mut sink, &["{2}"]).await;
        // A batch that is partly written ends in the old file.
        let three = batch(&["{3}"]);
        sink.begin(&three);
        sink.renamed = true;
        let rest = sink.rest.as_mut().unwrap();
        rest.written = rest.file.write(b"{").unwrap();
        assert!(sink.attempt(&three).await.is_ok());
        append(&mut sink, &["{4}"]).await;
        assert_eq!(fs::read_to_string(&path).unwrap(), "{4}\n");
        fs::rename(&path, directory.path().join("older")).unwrap();
        fs::create_dir(&path).unwrap();
        sink.renamed = true;
        let five = batch(&["{5}"]);
        sink.begin(&five);
        let error = sink.attempt(&five).await.unwrap_err().to_string();
        assert!(error.starts_with("reopening "), "{error}");
        fs::remove_dir(&path).unwrap();
        assert!(sink.attempt(&five).await.is_ok());
        assert_eq!(fs::read_to_string(&old).unwrap(), "{1}\n{2}\n{3}\n");
        assert_eq!(fs::read_to_string(&path).unwrap(), "{5}\n");
    }

    #[tokio::test]
    async fn a_full_disk_neither_splits_nor_duplicates_lines() {
        let disk = Disk::default();
        disk.0.lock().unwrap().0 = 4;
        let mut sink = on(&disk);
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
