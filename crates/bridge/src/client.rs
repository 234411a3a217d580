//! How the bridge's Kafka clients are configured, and what they say of brokers
//! that they can't use.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use rdkafka::client::ClientContext;
use rdkafka::config::{ClientConfig, RDKafkaLogLevel};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::producer::{BaseProducer, DeliveryResult, Producer, ProducerContext};
use tokio::sync::watch;

use crate::config::{Acks, KafkaConfig};
use crate::kafka::DEAD_LETTER_MAX;

/// Room for key and headers beside a payload of the largest size.
const RECORD_OVERHEAD: usize = 64 << 10;

/// What is handed over has lingered already: just long enough for a lot to be
/// handed over in whole.
const LINGER_MS: &str = "0.5";

/// What every client of the bridge is configured with.
///
/// # Errors
/// The password file can't be read.
pub(crate) fn client(config: &KafkaConfig) -> anyhow::Result<ClientConfig> {
    let mut client = anywhere(config)?;
    client.set("bootstrap.servers", config.brokers.join(","));
    Ok(client)
}

/// What a producer is configured with.
///
/// # Errors
/// The password file can't be read.
pub(crate) fn producer(config: &KafkaConfig) -> anyhow::Result<ClientConfig> {
    let mut client = client(config)?;
    produce(config, &mut client);
    Ok(client)
}

/// The settings without the brokers to begin with.
fn anywhere(config: &KafkaConfig) -> anyhow::Result<ClientConfig> {
    let mut client = ClientConfig::new();
    client
        .set("client.id", "iot-bridge")
        .set("reconnect.backoff.max.ms", "2000")
        .set("socket.timeout.ms", millis(*config.request_timeout))
        .set_log_level(match config.properties.get("debug") {
            Some(_) => RDKafkaLogLevel::Debug,
            None => RDKafkaLogLevel::Warning,
        });
    for (name, value) in &config.properties {
        client.set(name, value);
    }
    for (name, value) in config.security.librdkafka_properties()? {
        client.set(name, value);
    }
    Ok(client)
}

fn produce(config: &KafkaConfig, client: &mut ClientConfig) {
    let acks = match config.acks {
        Acks::All => "all",
        Acks::One => "1",
        Acks::Zero => "0",
    };
    let largest = DEAD_LETTER_MAX + RECORD_OVERHEAD;
    client
        .set("acks", acks)
        .set("enable.idempotence", config.idempotent().to_string())
        .set("linger.ms", LINGER_MS)
        .set("batch.size", config.batch_size.0.to_string())
        .set("compression.type", config.compression.name())
        .set("request.timeout.ms", millis(*config.request_timeout))
        .set("message.max.bytes", largest.to_string())
        // The bridge creates its topics before it writes to them: one that is
        // not there was deleted.
        .set("topic.metadata.propagation.max.ms", "5000")
        // The ring bounds what is queued, well below these.
        .set("queue.buffering.max.messages", "10000000")
        .set("queue.buffering.max.kbytes", "2097151");
    let given = |names: [&str; 2]| {
        let mut names = names.iter();
        names.any(|name| config.properties.contains_key(*name))
    };
    // The ring keeps every message until Kafka has it: no record may expire.
    if !given(["message.timeout.ms", "delivery.timeout.ms"]) {
        client.set("message.timeout.ms", "0");
    }
    // Without idempotence a request that is sent again comes after those that
    // were sent behind it.
    if !config.idempotent() && !given(["max.in.flight", "max.in.flight.requests.per.connection"]) {
        client.set("max.in.flight", "1");
    }
}

fn millis(duration: Duration) -> String {
    duration.as_millis().to_string()
}

/// What librdkafka has against a property.
pub(crate) fn check_property(name: &str, value: &str) -> Result<(), String> {
    match ClientConfig::new().set(name, value).create_native_config() {
        Ok(_) => Ok(()),
        Err(KafkaError::ClientConfig(_, message, ..)) => Err(message.trim_end().to_owned()),
        Err(error) => Err(error.to_string()),
    }
}

/// What librdkafka has against the settings of the producer as a whole: what
/// contradicts itself, and what it would ignore. Connects to nothing.
pub(crate) fn check_producer(config: &KafkaConfig) -> Result<(), String> {
    let mut client = anywhere(config).map_err(|error| format!("{error:#}"))?;
    produce(config, &mut client);
    let warnings = Warnings::default();
    let producer: BaseProducer<Warnings> =
        client
            .create_with_context(warnings)
            .map_err(|error| match error {
                KafkaError::ClientCreation(message) => message,
                other => other.to_string(),
            })?;
    producer.poll(Duration::ZERO);
    match producer
        .context()
        .0
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .as_slice()
    {
        [] => Ok(()),
        warnings => Err(warnings.join("; ")),
    }
}

/// Takes down what librdkafka says of properties without effect.
#[derive(Default)]
struct Warnings(Mutex<Vec<String>>);

impl ClientContext for Warnings {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        if facility == "CONFWARN" && matches!(level, RDKafkaLogLevel::Warning) {
            let text = message.split_once("]: ").map_or(message, |(_, text)| text);
            // Deprecated ones do something still, but for those of which it says:
            let works = text.contains("deprecated") || text.contains("experimental");
            if !works || text.contains("No longer used") {
                let mut warnings = self.0.lock().unwrap_or_else(PoisonError::into_inner);
                warnings.push(text.trim().to_owned());
            }
        }
    }
}

impl ProducerContext for Warnings {
    type DeliveryOpaque = ();

    fn delivery(&self, _: &DeliveryResult<'_>, (): ()) {}
}

/// Says once at the start what the settings give up.
pub(crate) fn warn_of_weaknesses(config: &KafkaConfig) {
    for (setting, reason) in config.weaknesses() {
        tracing::warn!(setting, reason, "delivery is best effort");
    }
}

/// Keeps why a broker can't be used, and tells the receivers when none can.
pub(crate) fn report(trouble: &watch::Sender<Option<String>>, error: &KafkaError, reason: &str) {
    let none_left = error.rdkafka_error_code() == Some(RDKafkaErrorCode::AllBrokersDown);
    trouble.send_if_modified(|trouble| {
        // It says less than the reason of one of them.
        if !none_left || trouble.is_none() {
            *trouble = Some(without_times(reason).to_owned());
        }
        none_left
    });
}

/// The reason without how long that took and how often it happened: the same
/// reason stays the same text.
fn without_times(reason: &str) -> &str {
    reason.split(" (after ").next().unwrap_or(reason).trim_end()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{DeliveryGuarantee, Idempotence};

    fn producer_of(change: impl FnOnce(&mut KafkaConfig)) -> ClientConfig {
        let mut config = KafkaConfig::default();
        change(&mut config);
        producer(&config).unwrap()
    }

    #[test]
    fn the_default_is_idempotent_and_never_gives_up() {
        let client = producer_of(|_| {});
        for (name, value) in [
            ("acks", "all"),
            ("enable.idempotence", "true"),
            ("message.timeout.ms", "0"),
        ] {
            assert_eq!(client.get(name), Some(value), "{name}");
        }
        assert_eq!(client.get("max.in.flight"), None);
    }

    #[test]
    fn without_idempotence_one_request_is_on_its_way_at_a_time() {
        for (acks, name) in [(Acks::Zero, "0"), (Acks::One, "1")] {
            let client = producer_of(|config| {
                config.delivery = DeliveryGuarantee::BestEffort;
                config.acks = acks;
            });
            assert_eq!(client.get("acks"), Some(name));
            assert_eq!(client.get("enable.idempotence"), Some("false"));
            assert_eq!(client.get("max.in.flight"), Some("1"));
        }
        let client = producer_of(|config| config.idempotence = Idempotence::Off);
        assert_eq!(client.get("max.in.flight"), Some("1"));
    }

    #[test]
    fn properties_of_best_effort_are_used() {
        let client = producer_of(|config| {
            config.delivery = DeliveryGuarantee::BestEffort;
            config.acks = Acks::One;
            for (name, value) in [("delivery.timeout.ms", "9000"), ("max.in.flight", "3")] {
                config.properties.insert(name.into(), value.into());
            }
        });
        // Two names of one property would leave it to chance.
        assert_eq!(client.get("message.timeout.ms"), None);
        let native = client.create_native_config().unwrap();
        assert_eq!(native.get("max.in.flight").unwrap(), "3");
    }

    #[test]
    fn receivers_hear_of_it_when_no_broker_is_left_and_why() {
        let (sender, mut receiver) = watch::channel(None);
        let refused = KafkaError::Global(RDKafkaErrorCode::Authentication);
        let reason = "b:1: SASL authentication error (after 3ms in state AUTH_REQ)";
        report(&sender, &refused, reason);
        assert!(!receiver.has_changed().unwrap(), "others may be there");
        let all_down = KafkaError::Global(RDKafkaErrorCode::AllBrokersDown);
        report(&sender, &all_down, "1/1 brokers are down");
        assert!(receiver.has_changed().unwrap());
        let now = receiver.borrow_and_update().clone();
        assert_eq!(now.as_deref(), Some("b:1: SASL authentication error"));
    }
}
