//! Configuration of librdkafka clients, and the checks of users' properties.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use iot_service::config::Problems;
use rdkafka::client::ClientContext;
use rdkafka::config::{ClientConfig, RDKafkaLogLevel};
use rdkafka::error::KafkaError;
use rdkafka::producer::{BaseProducer, DeliveryResult, Producer, ProducerContext};

use crate::security::{Client, KafkaSecurity};

/// What the librdkafka of this build supports.
pub const SUPPORT: Client = if cfg!(feature = "tls") {
    Client::Complete
} else {
    Client::WithoutOpenssl
};

/// Properties that have a setting in `kafka.security`, which is the second of each pair.
const SECURITY_PROPERTIES: &[(&str, &str)] = &[
    ("security.protocol", "use kafka.security.protocol"),
    ("sasl.mechanism", "use kafka.security.mechanism"),
    ("sasl.mechanisms", "use kafka.security.mechanism"),
    ("sasl.username", "use kafka.security.username"),
    ("sasl.password", "use kafka.security.password"),
    ("ssl.ca.location", "use kafka.security.ca_file"),
    ("ssl.certificate.location", "use kafka.security.cert_file"),
    ("ssl.key.location", "use kafka.security.key_file"),
];

impl KafkaSecurity {
    /// Names and values of the properties that the section stands for.
    ///
    /// # Errors
    /// The password file can't be read.
    pub fn librdkafka_properties(&self) -> anyhow::Result<Vec<(&'static str, String)>> {
        let mut properties = vec![("security.protocol", self.protocol.to_string())];
        if self.protocol.sasl() {
            properties.push(("sasl.mechanisms", self.mechanism.to_string()));
            properties.push(("sasl.username", self.username.clone()));
            properties.push(("sasl.password", self.login_password()?));
        }
        if self.protocol.tls() {
            let ca = match self.ca_file.as_str() {
                // Looks where the distributions keep the system's.
                "" => "probe",
                file => file,
            };
            properties.push(("ssl.ca.location", ca.to_owned()));
        }
        if !self.cert_file.is_empty() {
            properties.push(("ssl.certificate.location", self.cert_file.clone()));
            properties.push(("ssl.key.location", self.key_file.clone()));
        }
        Ok(properties)
    }

    /// Adds encryption and login to a client's configuration.
    ///
    /// # Errors
    /// The password file can't be read.
    pub fn apply(&self, client: &mut ClientConfig) -> anyhow::Result<()> {
        for (name, value) in self.librdkafka_properties()? {
            client.set(name, value);
        }
        Ok(())
    }
}

/// Properties that users may not set in `kafka.properties` of a service, besides those of
/// `kafka.security`, and why.
#[derive(Debug, Clone, Copy)]
pub struct Reserved {
    /// Whole names.
    pub names: &'static [(&'static str, &'static str)],
    /// What further names begin with.
    pub prefixes: &'static [(&'static str, &'static str)],
}

impl Reserved {
    /// Why users may not set a property; `None` if they may.
    #[must_use]
    pub fn reason(&self, name: &str) -> Option<&'static str> {
        let mut names = self.names.iter().chain(SECURITY_PROPERTIES);
        let mut prefixes = self.prefixes.iter();
        let found = names
            .find(|(reserved, _)| *reserved == name)
            .or_else(|| prefixes.find(|(prefix, _)| name.starts_with(prefix)));
        found.map(|(_, reason)| *reason)
    }

    /// Adds a problem for each property that users may not set, and for each that librdkafka
    /// does not know or whose value it rejects. Returns the others.
    pub fn check(
        &self,
        properties: &BTreeMap<String, String>,
        problems: &mut Problems,
    ) -> BTreeMap<String, String> {
        let mut usable = BTreeMap::new();
        for (name, value) in properties {
            let checked = match self.reason(name) {
                Some(reason) => Err(format!("can't be set: {reason}")),
                None => check_property(name, value),
            };
            match checked {
                Ok(()) => drop(usable.insert(name.clone(), value.clone())),
                Err(problem) => problems.add(format!("kafka.properties.{name}"), problem),
            }
        }
        usable
    }
}

/// Whether librdkafka takes a property.
///
/// # Errors
/// librdkafka does not know the name or rejects the value, in its own words.
pub fn check_property(name: &str, value: &str) -> Result<(), String> {
    match ClientConfig::new().set(name, value).create_native_config() {
        Ok(_) => Ok(()),
        Err(KafkaError::ClientConfig(_, message, ..)) => Err(message.trim_end().to_owned()),
        Err(error) => Err(error.to_string()),
    }
}

/// Whether librdkafka takes the configuration of a producer as a whole. Connects to nothing
/// if the configuration names no brokers.
///
/// # Errors
/// Properties contradict each other, or would be ignored, in librdkafka's own words.
pub fn check_producer(client: &ClientConfig) -> Result<(), String> {
    let created = client.create_with_context(Warnings::default());
    let producer: BaseProducer<Warnings> = created.map_err(|error| match error {
        KafkaError::ClientCreation(message) => message,
        other => other.to_string(),
    })?;
    producer.poll(Duration::ZERO);
    let warnings = &producer.context().0;
    match &warnings.lock().unwrap_or_else(PoisonError::into_inner)[..] {
        [] => Ok(()),
        warnings => Err(warnings.join("; ")),
    }
}

/// Collects librdkafka's warnings about properties without effect.
#[derive(Default)]
struct Warnings(Mutex<Vec<String>>);

impl ClientContext for Warnings {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        if facility == "CONFWARN" && matches!(level, RDKafkaLogLevel::Warning) {
            let text = message.split_once("]: ").map_or(message, |(_, text)| text);
            // Deprecated ones still have an effect, unless the warning says otherwise.
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

#[cfg(test)]
mod tests {
    use super::*;

    const RESERVED: Reserved = Reserved {
        names: &[("bootstrap.servers", "use kafka.brokers")],
        prefixes: &[("ssl.", "use kafka.security")],
    };

    #[test]
    fn reserved_unknown_and_invalid_properties_are_rejected() {
        let properties = [
            ("bootstrap.servers", "b:1"),
            ("sasl.password", "hunter2"),
            ("ssl.cipher.suites", "x"),
            ("linger.mss", "1"),
            ("socket.keepalive.enable", "maybe"),
            ("client.rack", "r1"),
        ];
        let properties = properties.map(|(name, value)| (name.to_owned(), value.to_owned()));
        let mut problems = Problems::default();
        let usable = RESERVED.check(&properties.into(), &mut problems);
        assert_eq!(usable, [("client.rack".into(), "r1".into())].into());
        let problems = problems.to_string();
        for line in [
            "kafka.properties.bootstrap.servers: can't be set: use kafka.brokers",
            "kafka.properties.sasl.password: can't be set: use kafka.security.password",
            "kafka.properties.ssl.cipher.suites: can't be set: use kafka.security",
            "kafka.properties.linger.mss: No such configuration property",
            "kafka.properties.socket.keepalive.enable: Expected bool",
        ] {
            assert!(problems.contains(line), "{line} is not in:\n{problems}");
        }
        assert!(!problems.contains("hunter2"), "{problems}");
    }

    #[test]
    fn librdkafka_knows_the_properties_of_the_section() {
        for (name, _) in SECURITY_PROPERTIES {
            let known = check_property(name, "1");
            assert!(
                known.is_ok() || !known.unwrap_err().contains("No such"),
                "{name}"
            );
        }
    }

    #[test]
    fn contradictions_and_properties_without_effect_are_rejected() {
        let mut client = ClientConfig::new();
        client.set("enable.idempotence", "true");
        assert_eq!(check_producer(&client), Ok(()));
        client.set("fetch.min.bytes", "10");
        let warning = check_producer(&client).unwrap_err();
        assert!(warning.contains("consumer property"), "{warning}");
        client.set("max.in.flight", "6");
        let error = check_producer(&client).unwrap_err();
        assert!(error.contains("max.in.flight"), "{error}");
    }

    #[test]
    fn the_password_file_is_read_without_its_line_end() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "hunter2\n").unwrap();
        let security = KafkaSecurity {
            protocol: crate::security::SecurityProtocol::SaslPlaintext,
            username: "bridge".into(),
            password_file: file.path().to_str().unwrap().into(),
            ..KafkaSecurity::default()
        };
        let properties = security.librdkafka_properties().unwrap();
        assert!(
            properties.contains(&("sasl.password", "hunter2".into())),
            "{properties:?}"
        );
        assert!(properties.contains(&("security.protocol", "sasl_plaintext".into())));
    }

    #[test]
    #[cfg(not(feature = "tls"))]
    fn a_build_without_openssl_rejects_tls() {
        let security = KafkaSecurity {
            protocol: crate::security::SecurityProtocol::Ssl,
            ..KafkaSecurity::default()
        };
        let mut problems = Problems::default();
        security.validate(SUPPORT, &mut problems);
        let problems = problems.to_string();
        assert!(problems.contains("this build has no TLS"), "{problems}");
    }
}
