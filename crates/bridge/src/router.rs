//! From the MQTT topic of a message to its Kafka topic and key.

use std::collections::HashMap;
use std::sync::Arc;

use iot_core::route::{Route, RouteRules};
use prometheus::IntCounter;

use crate::metrics::{Metrics, Refusal};
use crate::topics::{TopicId, Topics};

/// How many MQTT topics are remembered, so that each is taken apart once.
const REMEMBERED: usize = 10_000;
const OTHER_TENANTS: &str = "other";

/// Where messages of an MQTT topic go.
#[derive(Debug, Clone)]
pub(crate) struct Way {
    pub(crate) topic: TopicId,
    pub(crate) key: Option<Arc<str>>,
    /// Counts the tenant's messages.
    pub(crate) tenant: IntCounter,
}

/// Why a message has no way: the reason, and what it is about.
pub(crate) type NoWay = (Refusal, String);

/// Applies the rules, and remembers.
#[derive(Debug)]
pub(crate) struct Router {
    rules: RouteRules,
    ways: HashMap<Box<[u8]>, Way>,
    tenants: HashMap<String, IntCounter>,
    counted_tenants: usize,
}

impl Router {
    /// The first `counted_tenants` are counted by name.
    pub(crate) fn new(rules: RouteRules, counted_tenants: usize) -> Self {
        Self {
            rules,
            ways: HashMap::new(),
            tenants: HashMap::new(),
            counted_tenants,
        }
    }

    pub(crate) fn route(
        &mut self,
        mqtt_topic: &[u8],
        topics: &mut Topics,
        metrics: &Metrics,
    ) -> Result<Way, NoWay> {
        if let Some(way) = self.ways.get(mqtt_topic) {
            let way = way.clone();
            return match topics.accepts(way.topic) {
                Ok(()) => Ok(way),
                Err(refusal) => Err((refusal, topics.name(way.topic).to_string())),
            };
        }
        let text = std::str::from_utf8(mqtt_topic);
        let text = text.map_err(|_| (Refusal::TopicNotUtf8, String::new()))?;
        let route = self.rules.route(text);
        let route = route.map_err(|error| (Refusal::Route(error.reason()), error.to_string()))?;
        let topic = topics.open(&route);
        let topic = topic.map_err(|refusal| (refusal, route.topic.clone()))?;
        let Route { tenant, key, .. } = route;
        let way = Way {
            topic,
            key: key.map(Arc::from),
            tenant: self.tenant(&tenant, metrics),
        };
        if self.ways.len() == REMEMBERED {
            self.ways.clear();
        }
        self.ways.insert(mqtt_topic.into(), way.clone());
        Ok(way)
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
            let way = router.route(topic.as_bytes(), &mut topics, &metrics);
            way.unwrap().tenant.inc();
        }
        let counts = ["a", "b", "other"].map(|tenant| metrics.tenant(tenant).get());
        assert_eq!(counts, [2, 1, 3]);
    }

    #[test]
    fn what_has_no_way_says_why() {
        let metrics = Metrics::new(&Registry::new()).unwrap();
        let (wanted, _wanted) = mpsc::unbounded_channel();
        let (created, _created) = mpsc::unbounded_channel();
        let mut topics = Topics::new(10, false, wanted, created);
        let mut router = Router::new(RouteRules::default(), 2);
        let mut reason = |topic: &[u8]| {
            let routed = router.route(topic, &mut topics, &metrics);
            routed.err().map(|(refusal, _)| refusal.as_str())
        };
        assert_eq!(reason(b"a/b"), Some("too_few_parts"));
        assert_eq!(reason(&[0xff]), Some("topic_not_utf8"));
        assert_eq!(reason(b"a/b/c/d/t/p"), None);
        assert_eq!(reason(b"a/b/c/d/t/p"), None, "nor the second time");
    }
}
