//! Whether the MQTT brokers grant what the configuration needs.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, anyhow};
use iot_mqtt::{Granted, Protocol};
use tokio::time::timeout;

use super::Check;
use crate::config::{MqttConfig, SessionPlan};
use crate::mqtt::{Link, LinkEvent};

const BROKERS: &str = "mqtt: brokers";
const SESSION: &str = "mqtt: session";
const QOS: &str = "mqtt: quality of service";
const WILDCARDS: &str = "mqtt: wildcards";
const SHARED: &str = "mqtt: shared subscription";
const LARGEST: &str = "mqtt: largest message";
const IN_FLIGHT: &str = "mqtt: in flight";
const OVERLAP: &str = "mqtt: overlapping filters";

/// How long a broker may take to answer; longer than the link itself waits.
const DEADLINE: Duration = Duration::from_secs(20);

/// Asks every broker, under a client id of its own: a running bridge keeps its
/// session. Subscribes to nothing, and leaves no session behind.
pub(crate) async fn mqtt_broker_checks(config: &MqttConfig) -> Vec<Check> {
    let (mut answered, mut failed) = (Vec::new(), Vec::new());
    for broker in &config.brokers {
        match connect(broker, config).await {
            Ok(answer) => answered.push(answer),
            Err(error) => failed.push(format!("{error:#}")),
        }
    }
    let mut checks = vec![brokers(&answered, &failed)];
    for (broker, granted) in &answered {
        let mut of_one = mqtt_checks(granted, config);
        if config.brokers.len() > 1 {
            for check in &mut of_one {
                check.found = format!("{broker}: {}", check.found);
            }
        }
        checks.extend(of_one);
    }
    checks
}

/// The name of a broker, and what it grants.
type Answer = (Arc<str>, Granted);

async fn connect(broker: &str, config: &MqttConfig) -> anyhow::Result<Answer> {
    // With the bridge's session expiry, because only then the broker says how long
    // it would keep the session; DISCONNECT ends it.
    let config = MqttConfig {
        brokers: vec![broker.to_string()],
        ..config.clone()
    };
    let plan = SessionPlan {
        client_id: format!("{}-preflight", config.client_id),
        filters: Vec::new(),
    };
    let mut link = Link::new(&config, plan)?;
    let event = timeout(DEADLINE, link.next(true)).await;
    let answer = match event.context("an MQTT broker does not answer")? {
        LinkEvent::Connected {
            broker, granted, ..
        } => Ok((broker, granted)),
        LinkEvent::Lost { broker, error, .. } => Err(anyhow!("{broker}: {error}")),
        other => Err(anyhow!("an MQTT broker answered with {other:?}")),
    };
    let closed = timeout(DEADLINE, link.close(answer.is_ok())).await;
    closed.context("the MQTT broker does not take the DISCONNECT")?;
    answer
}

fn brokers(answered: &[Answer], failed: &[String]) -> Check {
    let names: Vec<&str> = answered.iter().map(|(name, _)| &**name).collect();
    match (answered.is_empty(), failed.is_empty()) {
        (_, true) => Check::ok(BROKERS, names.join(", ")),
        (false, false) => Check::warning(
            BROKERS,
            failed.join("; "),
            "repair it, or remove it from mqtt.brokers: if another fails, none may be left",
        ),
        (true, false) => Check::problem(
            BROKERS,
            failed.join("; "),
            "check mqtt.brokers, user and password, the network, and that the broker runs",
        ),
    }
}

/// Compares what the broker granted with what the configuration needs.
pub(crate) fn mqtt_checks(granted: &Granted, config: &MqttConfig) -> Vec<Check> {
    let mut checks = vec![session(granted, config), qos(granted, config)];
    checks.extend(wildcards(granted, config));
    checks.extend(shared(granted, config));
    checks.push(largest(granted));
    checks.push(in_flight(config));
    checks.extend(overlap(config));
    checks
}

/// Without an answer the broker keeps what was asked for (MQTT 5, section 3.2.2.3.2).
fn session(granted: &Granted, config: &MqttConfig) -> Check {
    let asked = config.session_expiry;
    if config.protocol == Protocol::V311 {
        let found =
            "kept for as long as the broker is configured to: MQTT 3.1.1 can't ask for a time";
        return Check::ok(SESSION, found);
    }
    let Some(kept) = granted.session_expiry.filter(|kept| *kept < *asked) else {
        return Check::ok(
            SESSION,
            format!("kept for {asked} while the bridge is away"),
        );
    };
    let kept = iot_service::config::HumanDuration(kept);
    let found = format!("kept for {kept}, not for {asked}");
    if kept.is_zero() {
        let advice =
            "let the broker keep sessions: messages that arrive while the bridge is away are lost";
        Check::problem(SESSION, found, advice)
    } else {
        let advice = "raise the broker's limit (Mosquitto: persistent_client_expiration): after a longer absence messages are lost";
        Check::warning(SESSION, found, advice)
    }
}

/// Without an answer the broker has all of them (MQTT 5, section 3.2.2.3.4).
fn qos(granted: &Granted, config: &MqttConfig) -> Check {
    let (most, asked) = (granted.maximum_qos.unwrap_or(2), config.qos);
    if asked == 0 {
        let advice =
            "set mqtt.qos: 1: with 0 the broker drops messages that it can't deliver at once";
        return Check::warning(QOS, "mqtt.qos is 0", advice);
    }
    let found = format!("mqtt.qos is {asked}, the broker has up to {most}");
    match most {
        0 => Check::problem(
            QOS,
            found,
            "use a broker or listener with QoS 1: with 0 messages are lost",
        ),
        most if most < asked => Check::warning(QOS, found, format!("set mqtt.qos: {most}")),
        _ => Check::ok(QOS, found),
    }
}

fn wildcards(granted: &Granted, config: &MqttConfig) -> Option<Check> {
    let filter = config
        .filters
        .iter()
        .find(|filter| filter.contains(['+', '#']))?;
    Some(if granted.wildcard_subscriptions == Some(false) {
        let found = format!("not available, and {filter} has one");
        Check::problem(
            WILDCARDS,
            found,
            "list topics without + and # in mqtt.filters",
        )
    } else {
        Check::ok(WILDCARDS, "available")
    })
}

fn shared(granted: &Granted, config: &MqttConfig) -> Option<Check> {
    if config.share_group.is_empty() {
        return None;
    }
    Some(if granted.shared_subscriptions == Some(false) {
        let advice =
            "use a broker with shared subscriptions, or one bridge without mqtt.share_group";
        Check::problem(SHARED, "not available", advice)
    } else {
        Check::ok(SHARED, "available")
    })
}

fn largest(granted: &Granted) -> Check {
    Check::ok(
        LARGEST,
        match granted.maximum_packet_size {
            Some(limit) => {
                format!("the broker accepts packets of up to {limit} bytes from publishers")
            }
            None => "the broker states no limit".into(),
        },
    )
}

fn in_flight(config: &MqttConfig) -> Check {
    // The broker's Receive Maximum limits messages to the broker; the bridge sends none.
    let asked = config.receive_maximum;
    Check::ok(
        IN_FLIGHT,
        format!("up to {asked} unacknowledged messages, if the broker allows as many"),
    )
}

/// A broker may deliver a message once for each filter that it matches (MQTT 5, section
/// 3.3.4).
fn overlap(config: &MqttConfig) -> Option<Check> {
    let overlaps = config.overlaps();
    let (filter, other) = overlaps.first()?;
    let more = match overlaps.len() - 1 {
        0 => String::new(),
        more => format!(", and {more} more pairs"),
    };
    Some(Check::warning(
        OVERLAP,
        format!("{filter} and {other}{more}"),
        "make mqtt.filters disjoint: some brokers deliver messages that match both twice",
    ))
}

#[cfg(test)]
mod tests {
    use super::super::Status;
    use super::super::tests::status;
    use super::*;

    fn checks(granted: Granted, change: impl FnOnce(&mut MqttConfig)) -> Vec<Check> {
        let mut config = MqttConfig::default();
        change(&mut config);
        mqtt_checks(&granted, &config)
    }

    #[test]
    fn a_broker_without_limits_grants_everything() {
        let checks = checks(Granted::default(), |config| config.share_group = "g".into());
        assert_eq!(checks.len(), 6);
        for check in &checks {
            assert_eq!(status(&checks, check.name), Status::Ok);
        }
    }

    #[test]
    fn a_session_that_is_not_kept_as_long_is_reported() {
        for (seconds, expected) in [
            (0, Status::Problem),
            (3600, Status::Warning),
            (86_400, Status::Ok),
            (100_000, Status::Ok),
        ] {
            let granted = Granted {
                session_expiry: Some(Duration::from_secs(seconds)),
                ..Granted::default()
            };
            assert_eq!(
                status(&checks(granted, |_| {}), SESSION),
                expected,
                "{seconds} s"
            );
        }
    }

    #[test]
    fn a_lower_quality_of_service_is_reported() {
        for (asked, most, expected) in [
            (0, None, Status::Warning),
            (1, Some(0), Status::Problem),
            (1, Some(1), Status::Ok),
            (2, Some(1), Status::Warning),
            (2, None, Status::Ok),
        ] {
            let granted = Granted {
                maximum_qos: most,
                ..Granted::default()
            };
            let checks = checks(granted, |config| config.qos = asked);
            assert_eq!(status(&checks, QOS), expected, "{asked} of {most:?}");
        }
    }

    #[test]
    fn overlapping_filters_of_a_session_are_reported() {
        let checks = checks(Granted::default(), |config| {
            config.filters = vec!["a/#".into(), "b".into(), "a/+".into(), "a/b".into()];
        });
        assert_eq!(status(&checks, OVERLAP), Status::Warning);
        let check = checks.iter().find(|check| check.name == OVERLAP);
        assert_eq!(check.unwrap().found, "a/# and a/+, and 2 more pairs");
    }

    #[test]
    fn missing_kinds_of_subscriptions_matter_only_if_used() {
        let none = Granted {
            shared_subscriptions: Some(false),
            wildcard_subscriptions: Some(false),
            ..Granted::default()
        };
        let used = checks(none.clone(), |config| config.share_group = "g".into());
        assert_eq!(status(&used, SHARED), Status::Problem);
        assert_eq!(status(&used, WILDCARDS), Status::Problem);
        let unused = checks(none, |config| config.filters = vec!["a/b".into()]);
        assert!(
            unused.iter().all(|check| check.status == Status::Ok),
            "{unused:?}"
        );
    }
}
