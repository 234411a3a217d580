//! Topics by name and by pattern, as librdkafka matches them for the members of a group.

use iot_core::route::is_reserved;
use regex::bytes::{Regex, RegexBuilder};

/// Names, and patterns that begin with `^`.
#[derive(Debug, Clone)]
pub(crate) struct TopicFilter {
    names: Vec<String>,
    patterns: Vec<Regex>,
}

impl TopicFilter {
    /// # Errors
    /// One is not a valid pattern; the text says which.
    pub(crate) fn new(topics: &[String]) -> Result<Self, String> {
        let (patterns, names): (Vec<_>, Vec<_>) =
            topics.iter().partition(|topic| topic.starts_with('^'));
        let compile = |pattern: &String| {
            // Its own text shows the place in several lines.
            // Names of topics are ASCII.
            let compiled = RegexBuilder::new(pattern).unicode(false).build();
            compiled.map_err(|_| format!("{pattern} is not a valid regular expression"))
        };
        Ok(Self {
            names: names.into_iter().cloned().collect(),
            patterns: patterns
                .into_iter()
                .map(compile)
                .collect::<Result<_, _>>()?,
        })
    }

    /// Whether it has this topic. No pattern has a reserved one.
    pub(crate) fn has(&self, topic: &str) -> bool {
        self.names.iter().any(|name| name == topic)
            || (!is_reserved(topic)
                && self
                    .patterns
                    .iter()
                    .any(|one| one.is_match(topic.as_bytes())))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn topics_match_by_name_or_pattern_and_reserved_ones_never() {
        let default = crate::config::KafkaConfig::default().topics;
        let filter = TopicFilter::new(&default).unwrap();
        for topic in ["device-data", "acme.plant"] {
            assert!(filter.has(topic), "{topic}");
        }
        for topic in [
            "device-data-2",
            "acme",
            "acme.plant.x",
            "iot.dead-letter",
            "__consumer_offsets",
        ] {
            assert!(!filter.has(topic), "{topic}");
        }
        // As a search, like librdkafka.
        let filter = TopicFilter::new(&["^acme".into()]).unwrap();
        assert!(filter.has("acme.plant") && !filter.has("x-acme"));
        let error = TopicFilter::new(&["^(".into()]).unwrap_err();
        assert_eq!(error, "^( is not a valid regular expression");
    }
}
