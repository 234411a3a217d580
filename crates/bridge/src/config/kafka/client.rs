//! What the settings mean to librdkafka.

use std::time::Duration;

use iot_core::dead_letter;
use iot_kafka::librdkafka;
use rdkafka::config::{ClientConfig, RDKafkaLogLevel};

use super::{Acks, KafkaConfig};

/// Records have lingered before librdkafka gets them: just long enough for it to get a
/// whole lot at once.
const LINGER_MS: &str = "0.5";

impl KafkaConfig {
    /// Configuration of any client of the bridge.
    ///
    /// # Errors
    /// The password file can't be read.
    pub(crate) fn client(&self) -> anyhow::Result<ClientConfig> {
        let mut client = self.client_without_brokers()?;
        client.set("bootstrap.servers", self.brokers.join(","));
        Ok(client)
    }

    /// Configuration of a producer.
    ///
    /// # Errors
    /// The password file can't be read.
    pub(crate) fn producer(&self) -> anyhow::Result<ClientConfig> {
        let mut client = self.client()?;
        self.produce(&mut client);
        Ok(client)
    }

    /// Whether librdkafka takes the settings of the producer as a whole. Connects to
    /// nothing.
    pub(super) fn check_producer(&self) -> Result<(), String> {
        let client = self.client_without_brokers();
        let mut client = client.map_err(|error| format!("{error:#}"))?;
        self.produce(&mut client);
        librdkafka::check_producer(&client)
    }

    fn client_without_brokers(&self) -> anyhow::Result<ClientConfig> {
        let mut client = ClientConfig::new();
        client
            .set("client.id", "iot-bridge")
            .set("reconnect.backoff.max.ms", "2000")
            .set("socket.timeout.ms", millis(*self.request_timeout))
            .set_log_level(match self.properties.get("debug") {
                Some(_) => RDKafkaLogLevel::Debug,
                None => RDKafkaLogLevel::Warning,
            });
        for (name, value) in &self.properties {
            client.set(name, value);
        }
        self.security.apply(&mut client)?;
        Ok(client)
    }

    fn produce(&self, client: &mut ClientConfig) {
        let acks = match self.acks {
            Acks::All => "all",
            Acks::One => "1",
            Acks::Zero => "0",
        };
        let largest = dead_letter::TOPIC_MAX_MESSAGE_BYTES;
        client
            .set("acks", acks)
            .set("enable.idempotence", self.idempotent().to_string())
            .set("linger.ms", LINGER_MS)
            .set("batch.size", self.batch_size.0.to_string())
            .set("compression.type", self.compression.name())
            .set("request.timeout.ms", millis(*self.request_timeout))
            .set("message.max.bytes", largest.to_string())
            // The bridge creates its topics before it writes to them: a missing one was
            // deleted.
            .set("topic.metadata.propagation.max.ms", "5000")
            // The ring bounds what is queued, well below these.
            .set("queue.buffering.max.messages", "10000000")
            .set("queue.buffering.max.kbytes", "2097151");
        let is_set = |names: [&str; 2]| {
            let mut names = names.iter();
            names.any(|name| self.properties.contains_key(*name))
        };
        // The ring keeps every message until Kafka has it: no record may expire.
        if !is_set(["message.timeout.ms", "delivery.timeout.ms"]) {
            client.set("message.timeout.ms", "0");
        }
        // Without idempotence a retried request would come after those sent behind it.
        let in_flight = ["max.in.flight", "max.in.flight.requests.per.connection"];
        if !self.idempotent() && !is_set(in_flight) {
            client.set("max.in.flight", "1");
        }
    }
}

fn millis(duration: Duration) -> String {
    duration.as_millis().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{DeliveryGuarantee, Idempotence};

    fn producer_of(change: impl FnOnce(&mut KafkaConfig)) -> ClientConfig {
        let mut config = KafkaConfig::default();
        change(&mut config);
        config.producer().unwrap()
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
    fn without_idempotence_one_request_is_in_flight_at_a_time() {
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
        // Which of two names of one property counts would be left to chance.
        assert_eq!(client.get("message.timeout.ms"), None);
        let native = client.create_native_config().unwrap();
        assert_eq!(native.get("max.in.flight").unwrap(), "3");
    }
}
