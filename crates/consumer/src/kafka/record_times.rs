//! Warns about consumed topics that accept records from the future. Such a record can
//! take the watermark and the latest values of its device to its time, and later messages do not
//! bring them back.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use iot_kafka::context::Quiet;
use iot_kafka::lookup;
use iot_service::health::Component;
use rdkafka::admin::AdminClient;
use tokio::sync::watch;

use super::base_config;
use crate::config::KafkaConfig;

/// How far a record may be ahead of the broker's clock, in milliseconds: Kafka's default since 4.0.
const MOST_AHEAD: i64 = 3_600_000;
/// The setting of a topic, and the one that Kafka had before 3.6.
const AHEAD: &str = "message.timestamp.after.max.ms";
const DIFFERENCE: &str = "message.timestamp.difference.max.ms";
/// The default of the former while Kafka had both.
const UNLIMITED: &str = "9223372036854775807";
/// How often settings are read again: somebody may have corrected them.
const EVERY: Duration = Duration::from_secs(60);
/// Deadline for Kafka's answer.
const ANSWER: Duration = Duration::from_secs(10);
/// Topics in the reason; the others are counted.
const NAMED: usize = 5;

type Topics = BTreeSet<Arc<str>>;

/// Checks the settings of topics from their first assignment on.
pub(crate) struct RecordTimes(watch::Sender<Topics>);

impl RecordTimes {
    /// Starts the task, which ends when this is dropped.
    pub(crate) fn start(kafka: KafkaConfig, health: Component) -> Self {
        let (topics, consumed) = watch::channel(Topics::new());
        health.ready();
        tokio::spawn(check_all(kafka, consumed, health));
        Self(topics)
    }

    /// Checks this topic too.
    pub(crate) fn check(&self, topic: &Arc<str>) {
        self.0
            .send_if_modified(|topics| topics.insert(topic.clone()));
    }
}

async fn check_all(kafka: KafkaConfig, mut consumed: watch::Receiver<Topics>, health: Component) {
    loop {
        let topics = consumed.borrow_and_update().clone();
        match configs(&kafka, &topics).await {
            Ok(configs) => match warning(&configs) {
                Some(reason) => health.degraded(reason),
                None => health.ready(),
            },
            // It says nothing about the topics; whether Kafka answers at all is shown elsewhere.
            Err(error) => tracing::debug!(%error, "cannot check the record times of topics"),
        }
        tokio::select! {
            changed = consumed.changed() => if changed.is_err() {
                return;
            },
            () = tokio::time::sleep(EVERY) => {}
        }
    }
}

/// The settings of these topics, as far as this user may read them.
async fn configs(
    kafka: &KafkaConfig,
    topics: &Topics,
) -> anyhow::Result<HashMap<String, lookup::Configs>> {
    if topics.is_empty() {
        return Ok(HashMap::new());
    }
    // Rarely used: a client that is kept would need somebody to notice that it lost its brokers.
    let admin: AdminClient<Quiet> = base_config(kafka)?.create_with_context(Quiet)?;
    let names: Vec<&str> = topics.iter().map(|topic| &**topic).collect();
    lookup::topic_configs(&admin, &names, ANSWER).await
}

/// What to do about the topics that accept records from the future; `None` if there is none.
fn warning(topics: &HashMap<String, lookup::Configs>) -> Option<String> {
    let accepting = topics.iter().filter(|(_, configs)| {
        let value = |name: &str| configs.get(name).map(String::as_str);
        // Kafka 3.6 to 3.9 have both: the older counts while the newer has its default.
        let newer = value(AHEAD).filter(|limit| *limit != UNLIMITED);
        let limit = newer.or_else(|| value(DIFFERENCE)).or_else(|| value(AHEAD));
        let limit = limit.and_then(|limit| limit.parse::<i64>().ok());
        let is_brokers_time = value("message.timestamp.type") == Some("LogAppendTime");
        !is_brokers_time && limit.is_some_and(|limit| limit > MOST_AHEAD)
    });
    let mut names: Vec<&str> = accepting.map(|(name, _)| name.as_str()).collect();
    names.sort_unstable();
    let more = match names.len().saturating_sub(NAMED) {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    names.truncate(NAMED);
    (!names.is_empty()).then(|| {
        format!(
            "{}{more} accept records whose time is more than an hour ahead, which can stop the \
             windows and values of a device: set {AHEAD} of the topics to {MOST_AHEAD}",
            names.join(", ")
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn topics(settings: &[(&str, &[(&str, &str)])]) -> HashMap<String, lookup::Configs> {
        let topics = settings.iter().map(|(topic, configs)| {
            let configs = configs.iter();
            let configs = configs.map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
            ((*topic).to_owned(), configs.collect())
        });
        topics.collect()
    }

    #[test]
    fn only_topics_that_accept_more_than_an_hour_are_named() {
        let none = "9223372036854775807";
        let found = topics(&[
            ("default", &[(AHEAD, "3600000"), (DIFFERENCE, none)]),
            (
                "limited-before-4",
                &[(AHEAD, none), (DIFFERENCE, "3600000")],
            ),
            ("b", &[(AHEAD, "3600001")]),
            ("a", &[(AHEAD, none)]),
            ("old", &[(DIFFERENCE, none)]),
            (
                "by-brokers",
                &[(AHEAD, none), ("message.timestamp.type", "LogAppendTime")],
            ),
            ("unknown", &[("retention.ms", "1")]),
        ]);
        let reason = warning(&found).unwrap();
        assert!(reason.starts_with("a, b, old accept records"), "{reason}");
        let good = topics(&[("default", &[(AHEAD, "3600000")])]);
        assert_eq!(warning(&good), None);
        assert_eq!(warning(&HashMap::new()), None);
    }

    #[test]
    fn many_topics_are_counted() {
        let names: Vec<String> = (0..9).map(|number| format!("t{number}")).collect();
        let settings: &[(&str, &str)] = &[(AHEAD, "86400000")];
        let all: Vec<_> = names.iter().map(|name| (name.as_str(), settings)).collect();
        let reason = warning(&topics(&all)).unwrap();
        assert!(
            reason.starts_with("t0, t1, t2, t3, t4 and 4 more accept"),
            "{reason}"
        );
    }
}
