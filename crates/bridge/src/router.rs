//! Routes MQTT topics to Kafka topics and keys.

use std::collections::HashMap;
use std::sync::Arc;

use iot_core::route::{Route, RouteRules};
use prometheus::IntCounter;

use crate::message::DeadLetterCause;
use crate::metrics::Metrics;
use crate::refusal::Refusal;
use crate::topic_id::TopicId;
use crate::topics::Topics;

/// How many MQTT topics are cached, so that the rules apply once to each.
const CACHED: usize = 10_000;
const OTHER_TENANTS: &str = "other";

/// Where messages of an MQTT topic go.
#[derive(Debug, Clone)]
pub(crate) struct Destination {
    pub(crate) topic: TopicId,
    pub(crate) key: Option<Arc<str>>,
    /// Counts the tenant's messages.
    pub(crate) tenant: IntCounter,
}

/// Applies the routing rules, with a cache.
#[derive(Debug)]
pub(crate) struct Router {
    rules: RouteRules,
    cache: HashMap<Box<[u8]>, Destination>,
    tenants: HashMap<String, IntCounter>,
    counted_tenants: usize,
}

impl Router {
    /// The first `counted_tenants` tenants have a counter of their own.
    pub(crate) fn new(rules: RouteRules, counted_tenants: usize) -> Self {
        Self {
            rules,
            cache: HashMap::new(),
            tenants: HashMap::new(),
            counted_tenants,
        }
    }

    /// The destination of messages of an MQTT topic, or why they are dead
    /// letters. Opens the Kafka topic.
    pub(crate) fn route(
        &mut self,
        mqtt_topic: &[u8],
        topics: &mut Topics,
        metrics: &Metrics,
    ) -> Result<Destination, DeadLetterCause> {
        let refused = |reason, detail| DeadLetterCause { reason, detail };
        if let Some(destination) = self.cache.get(mqtt_topic) {
            let destination = destination.clone();
            return match topics.accepts(destination.topic) {
                Ok(()) => Ok(destination),
                Err(reason) => Err(refused(reason, topics.name(destination.topic).to_string())),
            };
        }
        let text = std::str::from_utf8(mqtt_topic);
        let text = text.map_err(|_| refused(Refusal::TopicNotUtf8, String::new()))?;
        let route = self.rules.route(text);
        let route =
            route.map_err(|error| refused(Refusal::Route(error.reason()), error.to_string()))?;
        let topic = topics.open(&route);
        let topic = topic.map_err(|reason| refused(reason, route.topic.clone()))?;
        let Route { tenant, key, .. } = route;
        let destination = Destination {
            topic,
            key: key.map(Arc::from),
            tenant: self.tenant(&tenant, metrics),
        };
        if self.cache.len() == CACHED {
            self.cache.clear();
        }
        self.cache.insert(mqtt_topic.into(), destination.clone());
        Ok(destination)
    }

    fn tenant(&mut self, name: &str, metrics: &Metrics) -> IntCounter {
        if let Some(counter) = self.tenants.get(name) {
            return counter.clone();
        }
        if self.tenants.len() >= self.counted_tenants {
            return metrics.tenant(OTHER_TENANTS);
        }
        let counter = metrics.tenant(name);
        self.tenants.insert(name.to_owned(), counter.clone());
        counter
    }
}

#[cfg(test)]
mod tests {
    use prometheus::Registry;
    use tokio::sync::mpsc;

    use super::*;

    #[test]
    fn tenants_are_counted_by_name_up_to_a_number() {
        let registry = Registry::new();
        let metrics = Metrics::new(&registry).unwrap();
        let (wanted, _wanted) = mpsc::unbounded_channel();
        let (created, _created) = mpsc::unbounded_channel();
        let mut topics = Topics::new(10, false, wanted, created);
        let mut router = Router::new(RouteRules::default(), 2);
        for tenant in ["a", "b", "a", "c", "d", "c"] {
            let topic = format!("mtic/msg/client/realtime/{tenant}/p");
            let destination = router.route(topic.as_bytes(), &mut topics, &metrics);
            destination.unwrap().tenant.inc();
        }
        let counts = ["a", "b", "other"].map(|tenant| metrics.tenant(tenant).get());
        assert_eq!(counts, [2, 1, 3]);
    }

    #[test]
    fn a_message_that_cannot_be_routed_has_a_reason() {
        let metrics = Metrics::new(&Registry::new()).unwrap();
        let (wanted, _wanted) = mpsc::unbounded_channel();
        let (created, _created) = mpsc::unbounded_channel();
        let mut topics = Topics::new(10, false, wanted, created);
        let mut router = Router::new(RouteRules::default(), 2);
        let mut reason = |topic: &[u8]| {
            let routed = router.route(topic, &mut topics, &metrics);
            routed.err().map(|cause| cause.reason.as_str())
        };
        assert_eq!(reason(b"a/b"), Some("too_few_parts"));
        assert_eq!(reason(&[0xff]), Some("topic_not_utf8"));
        assert_eq!(reason(b"a/b/c/d/t/p"), None);
        assert_eq!(reason(b"a/b/c/d/t/p"), None, "from the cache");
    }
}
