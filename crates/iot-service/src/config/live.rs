//! Hot reload: the settings of a running service follow their file.

use std::sync::Arc;
use std::time::Duration;

use serde_json::{Map, Value};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::load::{complete, join, load_given, tree};
use super::{Problems, Settings, Sources};
use crate::logs::LogControl;

/// How often the file is polled. The content is compared instead of the time or
/// inode, because Kubernetes updates a ConfigMap by swapping a symbolic link to a
/// directory above the file.
const POLL_INTERVAL: Duration = Duration::from_secs(2);

/// The current settings of a service. Clones see the same changes.
#[derive(Debug)]
pub struct Live<S>(watch::Receiver<Arc<S>>);

impl<S> Clone for Live<S> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<S> Live<S> {
    /// Settings that never change.
    pub fn fixed(settings: S) -> Self {
        Self(watch::channel(Arc::new(settings)).1)
    }

    /// Settings that change when the sender of `settings` sends.
    pub fn of(settings: watch::Receiver<Arc<S>>) -> Self {
        Self(settings)
    }

    /// The current settings.
    pub fn current(&self) -> Arc<S> {
        self.0.borrow().clone()
    }

    /// Waits for the next change; never returns once the sender is gone.
    pub async fn changed(&mut self) {
        if self.0.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

/// Reloads the settings when the file changes or on SIGHUP, until `stop`. `given` is
/// the tree of raw values that `settings` were read from.
pub(crate) fn watch<S: Settings>(
    (settings, given): (S, Value),
    sources: Sources,
    logs: Option<LogControl>,
    stop: CancellationToken,
) -> std::io::Result<Live<S>> {
    let mut hangups = signal(SignalKind::hangup())?;
    let (sender, receiver) = watch::channel(Arc::new(settings));
    tokio::spawn(async move {
        let mut given = given;
        // The file may have changed since it was loaded, so the first poll reloads.
        let mut seen = None;
        loop {
            let asked = tokio::select! {
                () = stop.cancelled() => return,
                _ = hangups.recv() => true,
                () = tokio::time::sleep(POLL_INTERVAL) => false,
            };
            let now = content(&sources);
            if asked || now != seen {
                seen = now;
                reload(&sources, &mut given, &sender, logs.as_ref());
            }
        }
    });
    Ok(Live(receiver))
}

fn content(sources: &Sources) -> Option<Vec<u8>> {
    std::fs::read(sources.file.as_ref()?).ok()
}

fn reload<S: Settings>(
    sources: &Sources,
    given: &mut Value,
    current: &watch::Sender<Arc<S>>,
    logs: Option<&LogControl>,
) {
    let running = current.borrow().clone();
    match adopt(running.as_ref(), given, sources) {
        Ok((settings, taken, diff)) => {
            for setting in &diff.refused {
                tracing::warn!(setting, "changed in the file; restart to apply it");
            }
            if let Some(logs) = logs {
                logs.set_level(&settings.log().level);
            }
            *given = taken;
            if !diff.applied.is_empty() {
                tracing::info!(changed = diff.applied.join(", "), "configuration reloaded");
                current.send_replace(Arc::new(settings));
            }
        }
        Err(problems) => tracing::error!(
            problems = problems.to_string(),
            "the new configuration is invalid; keeping the old one"
        ),
    }
}

/// The paths of changed settings: those that a reload applied, and those that need a
/// restart.
#[derive(Debug, Default, PartialEq, Eq)]
struct Diff {
    applied: Vec<String>,
    refused: Vec<String>,
}

/// The settings after a reload: live settings have their new values, the others keep
/// the old ones.
fn adopt<S: Settings>(
    running: &S,
    given: &Value,
    sources: &Sources,
) -> Result<(S, Value, Diff), Problems> {
    let (wanted, mut taken) = load_given::<S>(sources)?;
    let mut diff = Diff::default();
    keep_fixed::<S>(
        &tree(running),
        &tree(&wanted),
        given,
        &mut taken,
        "",
        &mut diff,
    );
    let settings: S = complete(&taken, &tree(&S::default())).map_err(|error| {
        let mut problems = Problems::default();
        problems.add(error.path().to_string(), error.inner().to_string());
        problems
    })?;
    let mut problems = Problems::default();
    settings.validate(&mut problems);
    problems.or((settings, taken, diff))
}

/// Compares the running and the wanted settings, and restores in `taken` the old value
/// of each changed setting that is not live.
fn keep_fixed<S: Settings>(
    running: &Value,
    wanted: &Value,
    before: &Value,
    taken: &mut Value,
    path: &str,
    diff: &mut Diff,
) {
    for (key, new) in wanted.as_object().into_iter().flatten() {
        let old = &running[key];
        if old == new {
            continue;
        }
        let path = join(path, key);
        if is_section(old, new) {
            if taken.get(key).is_none() {
                taken[key] = Value::Object(Map::new());
            }
            keep_fixed::<S>(old, new, &before[key], &mut taken[key], &path, diff);
        } else if is_live::<S>(&path) {
            diff.applied.push(path);
        } else {
            match (before.get(key), taken.as_object_mut()) {
                (Some(value), _) => taken[key] = value.clone(),
                (None, Some(section)) => drop(section.remove(key)),
                (None, None) => {}
            }
            diff.refused.push(path);
        }
    }
}

/// Sections have fixed keys; a free-form map counts as one value.
fn is_section(old: &Value, new: &Value) -> bool {
    match (old.as_object(), new.as_object()) {
        (Some(old), Some(new)) => old.keys().eq(new.keys()),
        _ => false,
    }
}

fn is_live<S: Settings>(path: &str) -> bool {
    let covers = |live: &str| {
        path.strip_prefix(live)
            .is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
    };
    path == "log.level" || S::LIVE.iter().any(|live| covers(live))
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use serde::{Deserialize, Serialize};

    use super::super::{HumanDuration, LogConfig, OpsConfig, Secret};
    use super::*;

    #[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
    #[serde(default, deny_unknown_fields)]
    struct Example {
        interval: HumanDuration,
        password: Secret,
        topic: String,
        log: LogConfig,
        ops: OpsConfig,
    }

    impl Default for Example {
        fn default() -> Self {
            Self {
                interval: HumanDuration::from_secs(3),
                password: Secret::default(),
                topic: "device-data".into(),
                log: LogConfig {
                    level: "warn".into(),
                    ..LogConfig::default()
                },
                ops: OpsConfig {
                    listen: "127.0.0.1:0".into(),
                },
            }
        }
    }

    impl Settings for Example {
        const SERVICE: &'static str = "example";
        const EXAMPLE: &'static str = "";
        const ENV: &'static [(&'static str, &'static str)] = &[];
        const LIVE: &'static [&'static str] = &["interval"];

        fn validate(&self, problems: &mut Problems) {
            if self.interval.is_zero() {
                problems.add("interval", "must not be zero");
            }
        }

        fn log(&self) -> &LogConfig {
            &self.log
        }

        fn ops(&self) -> &OpsConfig {
            &self.ops
        }
    }

    /// A file like in a mounted ConfigMap: updates swap a link to its directory.
    struct Mounted(tempfile::TempDir);

    impl Mounted {
        fn new(yaml: &str) -> Self {
            let mounted = Self(tempfile::tempdir().unwrap());
            mounted.swap("first", yaml);
            std::os::unix::fs::symlink("data/app.yaml", mounted.file()).unwrap();
            mounted
        }

        fn swap(&self, version: &str, yaml: &str) {
            let root = self.0.path();
            std::fs::create_dir(root.join(version)).unwrap();
            std::fs::write(root.join(version).join("app.yaml"), yaml).unwrap();
            std::os::unix::fs::symlink(version, root.join("new")).unwrap();
            std::fs::rename(root.join("new"), root.join("data")).unwrap();
        }

        fn file(&self) -> std::path::PathBuf {
            self.0.path().join("app.yaml")
        }
    }

    fn sources(file: &Path) -> Sources {
        Sources {
            file: Some(file.into()),
            ..Sources::default()
        }
    }

    #[tokio::test]
    async fn a_swapped_file_is_reloaded() {
        let mounted = Mounted::new("interval: 5s\npassword: hunter2\n");
        let sources = sources(&mounted.file());
        let loaded = load_given::<Example>(&sources).unwrap();
        let stop = CancellationToken::new();
        let mut live = watch(loaded, sources, None, stop.clone()).unwrap();
        let deadline = Duration::from_secs(60);

        mounted.swap("good", "interval: 7s\npassword: hunter2\ntopic: other\n");
        tokio::time::timeout(deadline, live.changed())
            .await
            .expect("a reload");
        let now = live.current();
        assert_eq!(now.interval, HumanDuration::from_secs(7));
        assert_eq!(now.topic, "device-data", "not a live setting");
        assert_eq!(now.password.expose(), "hunter2");
        stop.cancel();
    }

    #[test]
    fn an_invalid_reload_is_refused_with_its_problems() {
        let mounted = Mounted::new("interval: 5s\n");
        let sources = sources(&mounted.file());
        let (running, given) = load_given::<Example>(&sources).unwrap();
        mounted.swap("bad", "interval: 0s\ntopik: x\n");
        let problems = adopt(&running, &given, &sources).unwrap_err().to_string();
        assert!(
            problems.contains("interval: must not be zero"),
            "{problems}"
        );
        assert!(problems.contains("did you mean \"topic\"?"), "{problems}");
    }

    #[test]
    fn only_live_settings_return_to_their_default_when_removed() {
        let mounted = Mounted::new("interval: 5s\ntopic: mine\nlog:\n  format: json\n");
        let sources = sources(&mounted.file());
        let (running, given) = load_given::<Example>(&sources).unwrap();
        mounted.swap("less", "log:\n  level: debug\n");
        let (settings, given, diff) = adopt(&running, &given, &sources).unwrap();
        assert_eq!(settings.interval, HumanDuration::from_secs(3));
        assert_eq!(settings.topic, "mine");
        assert_eq!(
            (&*settings.log.level, settings.log.format),
            ("debug", running.log.format)
        );
        assert_eq!(diff.refused, ["log.format", "topic"]);
        assert_eq!(running.log.level, "warn", "the service's own default");
        let (_, _, again) = adopt(&settings, &given, &sources).unwrap();
        assert_eq!(again.applied, Vec::<String>::new());
    }
}
