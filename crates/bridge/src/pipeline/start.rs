//! What a pipeline is made of.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use iot_core::headers::BRIDGE_SESSIONS_TOPIC;
use iot_service::config::Live;
use iot_service::health::Component;
use tokio::sync::mpsc;
use tokio::time::interval;

use super::maintenance::Limits;
use super::{Now, Pipeline};
use crate::config::{BridgeConfig, SessionPlan};
use crate::creator::Wanted;
use crate::dedupe::{Dedupe, PayloadIds};
use crate::kafka::{Delivery, Kafka};
use crate::metrics::Metrics;
use crate::mqtt::Link;
use crate::pace::{Alarm, Pace};
use crate::ring::Ring;
use crate::router::Router;
use crate::topics::Topics;
use crate::window_limit::WindowLimitDetector;

/// The health components of one session.
pub(crate) struct Components {
    pub(crate) mqtt: Component,
    pub(crate) delivery: Component,
}

/// What a session needs besides the configuration.
pub(crate) struct Parts {
    pub(crate) plan: SessionPlan,
    pub(crate) kafka: Kafka,
    pub(crate) delivery_reports: mpsc::UnboundedReceiver<Delivery>,
    /// Rings when the producer has reported every record.
    pub(crate) all_reported: Arc<Alarm>,
    /// Requests for topics to be created.
    pub(crate) wanted: mpsc::UnboundedSender<Wanted>,
    pub(crate) health: Components,
    pub(crate) metrics: Metrics,
    pub(crate) pace: Pace,
}

impl Pipeline {
    /// Connects to MQTT and starts to restore the session's numbering. Nothing is
    /// received before that is done.
    ///
    /// # Errors
    /// A broker's address is invalid.
    pub(crate) fn new(live: Live<BridgeConfig>, parts: Parts) -> anyhow::Result<Self> {
        let config = live.current();
        let client_id: Arc<str> = parts.plan.client_id.as_str().into();
        let (created_end, created) = mpsc::unbounded_channel();
        let (create, max) = (config.topics.create, config.topics.max_per_tenant);
        let mut topics = Topics::new(max, create, parts.wanted, created_end);
        let letters: Arc<str> = config.dead_letter.topic.as_str().into();
        let dead_letters = topics.open_own(&letters);
        let checkpoints = if Dedupe::is_enabled(&config) {
            let delivery = &parts.health.delivery;
            delivery.not_ready("reading the last checkpoint from Kafka");
            topics.open_own(&BRIDGE_SESSIONS_TOPIC.into())
        } else {
            parts.health.delivery.ready();
            // No checkpoints are written.
            dead_letters
        };
        Ok(Self {
            limits: Limits::of(&config),
            link: Link::new(&config.mqtt, parts.plan)?,
            kafka: parts.kafka,
            delivery_reports: parts.delivery_reports,
            all_reported: parts.all_reported,
            router: Router::new(config.route.clone(), config.metrics.tenants),
            topics,
            created,
            dedupe: Dedupe::new(&config, &client_id, letters),
            payload_ids: PayloadIds::new(&config.dedupe),
            ring: Ring::new(),
            window_limit: WindowLimitDetector::default(),
            dead_letters,
            checkpoints,
            last_failure: None,
            producer_failed: false,
            drain: None,
            failing_back: false,
            known_brokers: HashSet::new(),
            now: Now::get(),
            ticks: interval(Duration::from_secs(1)),
            health: parts.health,
            gauges: parts.metrics.session(&client_id),
            metrics: parts.metrics,
            pace: parts.pace,
            client_id,
            config,
            live,
        })
    }
}
