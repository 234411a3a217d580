//! Checks section `store`, and reads its login.

use std::time::Duration;

use iot_service::config::Problems;
use iot_service::tls;

use super::url::{Servers, Target, Topology};
use crate::config::StoreConfig;

/// More connections do not help.
const MOST_CONNECTIONS: usize = 1_000;

impl StoreConfig {
    /// Adds all problems of the section.
    pub(crate) fn validate(&self, problems: &mut Problems) {
        match Target::parse(self.url.expose()) {
            Err(message) => problems.add("store.url", message),
            Ok(Target::Memory) => self.check_memory(problems),
            Ok(Target::Redis(servers)) => self.check_redis(&servers, problems),
        }
        if !(1..=MOST_CONNECTIONS).contains(&self.connections) {
            problems.add("store.connections", "must be between 1 and 1000");
        }
        for (path, value) in [
            ("store.connect_timeout", self.connect_timeout),
            ("store.response_timeout", self.response_timeout),
        ] {
            // An owner whose partition is revoked may wait for both.
            if value.is_zero() || *value > Duration::from_secs(60) {
                problems.add(path, "must be longer than 0 and at most 1m");
            }
        }
        let is_plain = |c: char| c.is_ascii_alphanumeric() || "-_.:".contains(c);
        if self.key_prefix.is_empty() || !self.key_prefix.chars().all(is_plain) {
            let message = "must be letters, digits and -_.: (the partition stands in braces \
                           behind it)";
            problems.add("store.key_prefix", message);
        }
    }

    fn check_memory(&self, problems: &mut Problems) {
        for (path, given) in [
            ("store.username", !self.username.is_empty()),
            ("store.password", !self.password.is_empty()),
            ("store.password_file", !self.password_file.is_empty()),
            ("store.db", self.db != 0),
            ("store.ca_file", !self.ca_file.is_empty()),
        ] {
            if given {
                problems.add(path, "has no effect: store.url is memory://");
            }
        }
    }

    fn check_redis(&self, servers: &Servers, problems: &mut Problems) {
        let in_url = servers.password.is_some();
        match (self.password.is_empty(), self.password_file.is_empty()) {
            (false, _) if in_url => problems.add("store.password", "store.url has one too"),
            (_, false) if in_url => problems.add("store.password_file", "store.url has one too"),
            (false, false) => problems.add("store.password_file", "set either this or password"),
            (true, false) => match self.password(servers) {
                Err(error) => problems.add("store.password_file", error),
                Ok(password) if password.is_empty() => {
                    problems.add("store.password_file", "is empty");
                }
                Ok(_) => {}
            },
            (_, true) => {}
        }
        if servers.username.is_some() && !self.username.is_empty() {
            problems.add("store.username", "store.url has one too");
        }
        if servers.db.is_some() && self.db != 0 {
            problems.add("store.db", "store.url has one too");
        }
        if servers.topology == Topology::Cluster && self.db(servers) != 0 {
            problems.add("store.db", "must be 0: a Redis Cluster has no other");
        }
        if !self.ca_file.is_empty() {
            if servers.tls {
                for tls::FileError { problem, .. } in tls::file_problems(&self.ca_file, "", "") {
                    problems.add("store.ca_file", problem);
                }
            } else {
                problems.add(
                    "store.ca_file",
                    "has no effect unless store.url is rediss...",
                );
            }
        }
    }

    pub(super) fn db(&self, servers: &Servers) -> u16 {
        servers.db.unwrap_or(self.db)
    }

    pub(super) fn username<'s>(&'s self, servers: &'s Servers) -> Option<&'s str> {
        let own = Some(self.username.as_str()).filter(|name| !name.is_empty());
        own.or(servers.username.as_deref())
    }

    /// The password, empty if there is none. A password file is read each time.
    ///
    /// # Errors
    /// The file can't be read; the text says which.
    pub(super) fn password(&self, servers: &Servers) -> Result<String, String> {
        if !self.password_file.is_empty() {
            let text = std::fs::read_to_string(&self.password_file)
                .map_err(|error| format!("{}: {error}", self.password_file))?;
            return Ok(text.trim_end_matches(['\r', '\n']).to_owned());
        }
        let password = servers.password.as_ref().unwrap_or(&self.password);
        Ok(password.expose().to_owned())
    }
}

#[cfg(test)]
mod tests {
    use iot_service::config::HumanDuration;

    use super::*;
    use crate::config::Missing;

    fn problems(change: impl FnOnce(&mut StoreConfig)) -> String {
        let mut config = StoreConfig::default();
        change(&mut config);
        let mut problems = Problems::default();
        config.validate(&mut problems);
        problems.to_string()
    }

    #[test]
    fn the_defaults_and_a_full_set_are_valid() {
        assert_eq!(problems(|_| {}), "");
        let full = |config: &mut StoreConfig| {
            config.url = "redis://127.0.0.1".into();
            (config.username, config.password) = ("me".into(), "hunter2".into());
            config.db = 3;
            config.missing = Missing::Refuse;
        };
        assert_eq!(problems(full), "");
    }

    #[test]
    fn what_contradicts_itself_or_has_no_effect_is_named() {
        type Change = fn(&mut StoreConfig);
        let cases: [(Change, &str); 9] = [
            (|c| c.password = "x".into(), "store.password: has no effect"),
            (
                |c| (c.url, c.password) = ("redis://:a@h".into(), "b".into()),
                "store.password: store.url has one too",
            ),
            (
                |c| (c.url, c.password_file) = ("redis://h".into(), "/nowhere".into()),
                "store.password_file: /nowhere: No such file",
            ),
            (
                |c| (c.url, c.db) = ("redis-cluster://h".into(), 1),
                "store.db: must be 0",
            ),
            (
                |c| (c.url, c.ca_file) = ("redis://h".into(), "/nowhere".into()),
                "store.ca_file: has no effect unless",
            ),
            (
                |c| (c.url, c.ca_file) = ("rediss://h".into(), "/nowhere".into()),
                "store.ca_file: /nowhere: No such file",
            ),
            (|c| c.connections = 0, "store.connections"),
            (|c| c.key_prefix = "{x}".into(), "store.key_prefix"),
            (
                |c| c.response_timeout = HumanDuration::from_secs(0),
                "store.response_timeout",
            ),
        ];
        for (change, expected) in cases {
            let found = problems(change);
            assert!(found.contains(expected), "{expected} is not in:\n{found}");
        }
    }

    #[test]
    fn a_password_is_read_from_its_file_and_never_printed() {
        let mut config = StoreConfig {
            url: "redis://me:hunter2@h/1".into(),
            ..StoreConfig::default()
        };
        let printed = format!("{config:?} {}", serde_json::to_string(&config).unwrap());
        assert!(!printed.contains("hunter2"), "{printed}");
        let Ok(Target::Redis(servers)) = Target::parse(config.url.expose()) else {
            panic!("{config:?}")
        };
        assert_eq!(config.password(&servers), Ok("hunter2".into()));
        assert_eq!(
            (config.username(&servers), config.db(&servers)),
            (Some("me"), 1)
        );
        let file = std::env::temp_dir().join(format!("iot-store-password-{}", std::process::id()));
        std::fs::write(&file, "from a file\n").unwrap();
        config.password_file = file.to_str().unwrap().into();
        assert_eq!(config.password(&servers), Ok("from a file".into()));
        std::fs::remove_file(file).unwrap();
    }
}
