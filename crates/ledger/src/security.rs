//! The settings of `kafka.security` as arguments, with the environment variables of the
//! services.

use clap::error::ErrorKind;
use iot_kafka::security::{Client, KafkaSecurity, SaslMechanism, SecurityProtocol};
use iot_service::config::{Problems, Secret};

/// Kafka's brokers, encryption and login.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct KafkaArgs {
    /// Kafka brokers, separated by commas
    #[arg(
        long,
        env = "KAFKA_BROKERS",
        value_delimiter = ',',
        default_value = "127.0.0.1:9092"
    )]
    pub(crate) brokers: Vec<String>,
    #[command(flatten)]
    pub(crate) security: SecurityArgs,
}

#[derive(Debug, Clone, clap::Args)]
pub(crate) struct SecurityArgs {
    /// Protocol of Kafka's listener: plaintext, ssl (TLS), sasl_plaintext or sasl_ssl
    #[arg(
        long,
        env = "IOT_KAFKA__SECURITY__PROTOCOL",
        default_value = "plaintext"
    )]
    security_protocol: SecurityProtocol,
    /// Mechanism of the login: PLAIN, SCRAM-SHA-256 or SCRAM-SHA-512
    #[arg(long, env = "IOT_KAFKA__SECURITY__MECHANISM", default_value = "PLAIN")]
    sasl_mechanism: SaslMechanism,
    /// User name of the login
    #[arg(long, env = "IOT_KAFKA__SECURITY__USERNAME", default_value = "")]
    username: String,
    /// Password of the login; other users can see it on the command line
    #[arg(
        long,
        env = "IOT_KAFKA__SECURITY__PASSWORD",
        default_value = "",
        hide_env_values = true
    )]
    password: Secret,
    /// File with the password of the login
    #[arg(long, env = "IOT_KAFKA__SECURITY__PASSWORD_FILE", default_value = "")]
    password_file: String,
    /// Certificates to trust (PEM) [default: those of the system]
    #[arg(long, env = "IOT_KAFKA__SECURITY__CA_FILE", default_value = "")]
    ca_file: String,
    /// Client certificate (PEM)
    #[arg(long, env = "IOT_KAFKA__SECURITY__CERT_FILE", default_value = "")]
    cert_file: String,
    /// Key of the client certificate (PEM)
    #[arg(long, env = "IOT_KAFKA__SECURITY__KEY_FILE", default_value = "")]
    key_file: String,
}

impl SecurityArgs {
    /// The settings; ends the process if they are not valid.
    pub(crate) fn checked(self) -> KafkaSecurity {
        let security = KafkaSecurity {
            protocol: self.security_protocol,
            mechanism: self.sasl_mechanism,
            username: self.username,
            password: self.password,
            password_file: self.password_file,
            ca_file: self.ca_file,
            cert_file: self.cert_file,
            key_file: self.key_file,
        };
        let mut problems = Problems::default();
        security.validate(Client::Complete, &mut problems);
        if !problems.is_empty() {
            clap::Error::raw(ErrorKind::ValueValidation, format!("{problems}\n")).exit();
        }
        security
    }
}
