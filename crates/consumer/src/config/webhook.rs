//! Section `webhook`.

use hyper::Uri;
use iot_service::config::{HumanDuration, Problems, Secret};
use iot_service::tls::file_problems;
use serde::{Deserialize, Serialize};

/// Section `webhook`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct WebhookConfig {
    /// Where alerts are posted; empty for nowhere. It may have secrets in it.
    pub url: Secret,
    /// Who posts them.
    pub bearer_token: Secret,
    /// File that holds the token.
    pub bearer_token_file: String,
    /// PEM file with the certificates to trust; empty for those of the system.
    pub ca_file: String,
    /// How long one POST may take.
    pub timeout: HumanDuration,
    /// How long the first alert of a group waits for others.
    pub group_wait: HumanDuration,
    /// Shortest time between two notifications of a group.
    pub group_interval: HumanDuration,
    /// Alerts in one notification; further ones are counted.
    pub max_alerts: usize,
    /// Alerts that wait to be grouped; further ones are dropped.
    pub queue: usize,
    /// How long before the start of the consumer an alert may be.
    pub max_age: HumanDuration,
}

impl Default for WebhookConfig {
    fn default() -> Self {
        Self {
            url: Secret::default(),
            bearer_token: Secret::default(),
            bearer_token_file: String::new(),
            ca_file: String::new(),
            timeout: HumanDuration::from_secs(10),
            group_wait: HumanDuration::from_secs(10),
            group_interval: HumanDuration::from_secs(60),
            max_alerts: 50,
            queue: 10_000,
            max_age: HumanDuration::from_secs(600),
        }
    }
}

impl WebhookConfig {
    pub(crate) fn validate(&self, problems: &mut Problems) {
        if !self.url.is_empty() {
            self.check_endpoint(problems);
        }
        let tokens = [
            self.bearer_token.is_empty(),
            self.bearer_token_file.is_empty(),
        ];
        if tokens == [false, false] {
            let message = "set either this or bearer_token";
            problems.add("webhook.bearer_token_file", message);
        }
        for (path, time) in [
            ("webhook.timeout", self.timeout),
            ("webhook.group_interval", self.group_interval),
        ] {
            if time.is_zero() {
                problems.add(path, "must be longer than 0");
            }
        }
        for (path, count) in [
            ("webhook.max_alerts", self.max_alerts),
            ("webhook.queue", self.queue),
        ] {
            if !(1..=1_000_000).contains(&count) {
                problems.add(path, "must be 1 to 1000000");
            }
        }
    }

    fn check_endpoint(&self, problems: &mut Problems) {
        // What is wrong with it is not said: it would be shown.
        let url = self.url.expose().parse::<Uri>().ok();
        let scheme = url.as_ref().and_then(Uri::scheme_str);
        if !matches!(scheme, Some("http" | "https")) {
            problems.add("webhook.url", "must be http://HOST... or https://HOST...");
        }
        let authority = url.as_ref().and_then(Uri::authority);
        if authority.is_some_and(|authority| authority.as_str().contains('@')) {
            problems.add("webhook.url", "takes no login: use bearer_token");
        }
        for error in file_problems(&self.ca_file, "", "") {
            problems.add(format!("webhook.{}", error.setting), error.problem);
        }
        if !self.bearer_token_file.is_empty()
            && let Err(error) = std::fs::read_to_string(&self.bearer_token_file)
        {
            let problem = format!("{}: {error}", self.bearer_token_file);
            problems.add("webhook.bearer_token_file", problem);
        }
    }
}
