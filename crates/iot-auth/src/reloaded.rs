//! A file whose content follows its changes.

use std::fmt::Display;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// How often files are polled: the same as configuration files, whose content is compared, too.
const POLL_INTERVAL: Duration = Duration::from_secs(2);

/// Parses a file now, and again whenever its content changes, until `stop`. A new content that
/// cannot be used is logged, and the old one stays.
///
/// # Errors
/// The file cannot be read or used now.
pub(crate) fn follow<T, E, P>(
    path: &Path,
    parse: P,
    stop: &CancellationToken,
) -> Result<watch::Receiver<T>, String>
where
    T: Send + Sync + 'static,
    E: Display + 'static,
    P: Fn(&str) -> Result<T, E> + Send + 'static,
{
    let (text, parsed) = read(path, &parse)?;
    let (sender, receiver) = watch::channel(parsed);
    let (path, stop) = (path.to_owned(), stop.clone());
    let poll = poll(path, text, parse, sender);
    tokio::spawn(async move { stop.run_until_cancelled(poll).await });
    Ok(receiver)
}

async fn poll<T, E: Display>(
    path: PathBuf,
    text: String,
    parse: impl Fn(&str) -> Result<T, E>,
    sender: watch::Sender<T>,
) {
    let mut seen = Ok(text);
    loop {
        tokio::time::sleep(POLL_INTERVAL).await;
        let now = content(&path);
        if now == seen {
            continue;
        }
        let file = path.display();
        match now
            .clone()
            .and_then(|text| parse(&text).map_err(|error| error.to_string()))
        {
            Ok(parsed) => {
                tracing::info!(%file, "file of auth reloaded");
                sender.send_replace(parsed);
            }
            Err(error) => {
                tracing::error!(%file, error, "file of auth cannot be used; keeping the old content");
            }
        }
        seen = now;
    }
}

/// The content of a file, and what it says.
///
/// # Errors
/// The file cannot be read or used.
pub(crate) fn read<T, E: Display>(
    path: &Path,
    parse: impl Fn(&str) -> Result<T, E>,
) -> Result<(String, T), String> {
    let named = |message: String| format!("{}: {message}", path.display());
    let text = content(path).map_err(named)?;
    let parsed = parse(&text).map_err(|error| named(error.to_string()))?;
    Ok((text, parsed))
}

fn content(path: &Path) -> Result<String, String> {
    std::fs::read_to_string(path).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn number(text: &str) -> Result<u32, std::num::ParseIntError> {
        text.trim().parse()
    }

    #[tokio::test(start_paused = true)]
    async fn a_broken_or_missing_file_keeps_the_old_content() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("number");
        std::fs::write(&path, "1").unwrap();
        let stop = CancellationToken::new();
        let mut following = follow(&path, number, &stop).unwrap();
        assert_eq!(*following.borrow_and_update(), 1);

        std::fs::write(&path, "broken").unwrap();
        tokio::time::sleep(POLL_INTERVAL * 2).await;
        std::fs::remove_file(&path).unwrap();
        tokio::time::sleep(POLL_INTERVAL * 2).await;
        assert!(!following.has_changed().unwrap());

        std::fs::write(&path, "2").unwrap();
        following.changed().await.unwrap();
        assert_eq!(*following.borrow_and_update(), 2);
        stop.cancel();
        assert!(following.changed().await.is_err(), "it ends with `stop`");
    }

    #[test]
    fn a_file_that_cannot_be_used_is_named() {
        let error = read(Path::new("/nowhere/keys"), number).unwrap_err();
        assert!(error.starts_with("/nowhere/keys: No such file"), "{error}");
    }
}
