//! Checks what a replica does: `role`, `follow` and `follow_topics`.

use iot_core::route::is_reserved;
use iot_service::config::Problems;

use crate::config::{ConsumerConfig, Follow, Role};
use crate::kafka::patterns::TopicFilter;

/// Checks what the replica does.
pub(super) fn check(config: &ConsumerConfig, problems: &mut Problems) {
    match (config.role, config.follow) {
        (Role::Serve, Follow::None) => problems.add(
            "follow",
            "must not be none with role: serve, which shows only what it follows",
        ),
        (Role::Fold, Follow::Topics) => problems.add(
            "follow",
            "must not be topics with role: fold, which follows nothing",
        ),
        _ => {}
    }
    match (config.follow, config.follow_topics.is_empty()) {
        (Follow::Topics, true) => {
            problems.add(
                "follow_topics",
                "needs at least one topic with follow: topics",
            );
        }
        (Follow::All | Follow::None, false) => {
            problems.add("follow_topics", "has an effect only with follow: topics");
        }
        _ => {}
    }
    for topic in config
        .follow_topics
        .iter()
        .filter(|topic| is_reserved(topic))
    {
        problems.add(
            "follow_topics",
            format!("{topic} is reserved and never followed"),
        );
    }
    if config.role.serves() && config.follow != Follow::None {
        for (path, topics) in [
            ("kafka.topics", &config.kafka.topics),
            ("follow_topics", &config.follow_topics),
        ] {
            if let Err(reason) = TopicFilter::new(topics) {
                problems.add(path, reason);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use iot_service::config::{Sources, load};

    use super::*;

    /// The settings, or all problems.
    fn loaded(env: &[(&str, &str)]) -> Result<ConsumerConfig, String> {
        let env = env.iter();
        let sources = Sources {
            env: env
                .map(|(name, value)| ((*name).into(), (*value).into()))
                .collect(),
            ..Sources::default()
        };
        load(&sources).map_err(|problems| problems.to_string())
    }

    #[test]
    fn roles_and_followed_topics_are_set_by_environment() {
        let config = loaded(&[
            ("IOT_ROLE", "serve"),
            ("IOT_FOLLOW", "topics"),
            ("IOT_FOLLOW_TOPICS", r#"["^acme\\.", "device-data"]"#),
        ]);
        let config = config.unwrap();
        assert_eq!((config.role, config.follow), (Role::Serve, Follow::Topics));
        assert_eq!(config.follow_topics, [r"^acme\.", "device-data"]);
    }

    #[test]
    fn settings_without_effect_together_are_refused_by_name() {
        for (env, path, expected) in [
            (
                &[("IOT_ROLE", "serve"), ("IOT_FOLLOW", "none")][..],
                "follow",
                "must not be none with role: serve",
            ),
            (
                &[
                    ("IOT_ROLE", "fold"),
                    ("IOT_FOLLOW", "topics"),
                    ("IOT_FOLLOW_TOPICS", "a"),
                ],
                "follow",
                "must not be topics with role: fold",
            ),
            (
                &[("IOT_FOLLOW", "topics")],
                "follow_topics",
                "needs at least one topic",
            ),
            (
                &[("IOT_FOLLOW_TOPICS", "a")],
                "follow_topics",
                "has an effect only with follow: topics",
            ),
            (
                &[("IOT_FOLLOW", "topics"), ("IOT_FOLLOW_TOPICS", "^(")],
                "follow_topics",
                "^( is not a valid regular expression",
            ),
            (
                &[("IOT_FOLLOW", "topics"), ("IOT_FOLLOW_TOPICS", "iot.x")],
                "follow_topics",
                "iot.x is reserved",
            ),
            (
                &[("KAFKA_TOPIC", "^[")],
                "kafka.topics",
                "^[ is not a valid regular",
            ),
        ] {
            let problems = loaded(env).unwrap_err();
            assert!(problems.starts_with(path), "{path}: {problems}");
            assert!(problems.contains(expected), "{expected}: {problems}");
        }
        // Its own client judges the pattern of a replica that follows nothing.
        loaded(&[("KAFKA_TOPIC", "^["), ("IOT_FOLLOW", "none")]).unwrap();
    }
}
