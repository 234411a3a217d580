//! How many connections a service takes, by the limit of open files.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// The most connections of an API, whatever the system allows.
const MOST: usize = 50_000;
/// The most connections of the ops listener: probes and scrapers.
const MOST_OPS: usize = 64;

/// How many connections each listener takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Of `/metrics`, `/livez` and `/readyz`.
    pub ops: usize,
    /// Of the service's own API, page and WebSockets.
    pub http: usize,
}

impl Limits {
    /// Half of the open files that this process may have for the API, and an eighth for ops. The
    /// rest is for Kafka, MQTT, the store and files.
    #[must_use]
    pub fn of_this_process() -> Self {
        let open_files = getrlimit(Resource::Nofile).current;
        let open_files =
            open_files.map_or(usize::MAX, |count| count.try_into().unwrap_or(usize::MAX));
        Self::of(open_files)
    }

    fn of(open_files: usize) -> Self {
        Self {
            ops: (open_files / 8).clamp(1, MOST_OPS),
            http: (open_files / 2).clamp(1, MOST),
        }
    }
}

/// Raises the limit of open files to the most that this process may set. Many systems have 1,024
/// as the default and allow far more.
pub fn raise_open_files() {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    if current == maximum {
        return;
    }
    let wanted = Rlimit {
        current: maximum,
        maximum,
    };
    match setrlimit(Resource::Nofile, wanted) {
        Ok(()) => tracing::info!(
            from = current,
            to = maximum,
            "raised the limit of open files"
        ),
        Err(error) => {
            tracing::warn!(%error, limit = current, "cannot raise the limit of open files");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn most_descriptors_are_not_for_clients_of_the_api() {
        for (open_files, ops, http) in [
            (256, 32, 128),
            (1_024, 64, 512),
            (1_048_576, 64, 50_000),
            (usize::MAX, 64, 50_000),
            (3, 1, 1),
        ] {
            assert_eq!(Limits::of(open_files), Limits { ops, http });
        }
    }
}
