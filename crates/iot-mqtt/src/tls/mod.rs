//! Section `mqtt.tls`: which certificates are trusted, and which the client presents.

use std::io;

use iot_service::config::Problems;
use iot_service::tls::{self, FileError};
use serde::{Deserialize, Serialize};
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::pki_types::ServerName;
use tokio_rustls::rustls::{AlertDescription, CertificateError, Error, InvalidMessage};

use crate::MqttUrl;

/// Section `mqtt.tls`, for brokers whose address starts with `mqtts://`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TlsConfig {
    /// PEM file with the CA certificates to trust; those of the system if empty.
    pub ca_file: String,
    /// PEM file with the client's certificate; none is presented if empty.
    pub cert_file: String,
    /// PEM file with the key of that certificate.
    pub key_file: String,
    /// The name that the broker's certificate must have; the host of its address if empty.
    pub server_name: String,
}

/// Why TLS can't be used as it is set.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file is missing or has the wrong content, or the system has no certificates.
    #[error("mqtt.tls.{0}")]
    File(#[from] FileError),
    /// Not a DNS name or address.
    #[error("{0:?} is not a name that a certificate can have: set mqtt.tls.server_name")]
    Name(String),
    /// The task that reads the files failed.
    #[error("reading certificates: {0}")]
    Task(#[from] tokio::task::JoinError),
}

impl TlsConfig {
    /// Adds every problem to `problems`, missing files included. `brokers` are the
    /// addresses in `mqtt.brokers`.
    pub fn validate(&self, brokers: &[String], problems: &mut Problems) {
        if *self == Self::default() {
            return;
        }
        let is_tls = |broker: &String| broker.parse().is_ok_and(|url: MqttUrl| url.tls);
        if !brokers.iter().any(is_tls) {
            let message = "is set, but no address in mqtt.brokers starts with mqtts://: \
                           nothing would be encrypted";
            problems.add("mqtt.tls", message);
        }
        for (this, other, path) in [
            (&self.cert_file, &self.key_file, "mqtt.tls.key_file"),
            (&self.key_file, &self.cert_file, "mqtt.tls.cert_file"),
        ] {
            if !this.is_empty() && other.is_empty() {
                problems.add(path, "is needed: a certificate and its key go together");
            }
        }
        // A certificate without a key was reported above.
        let (cert_file, key_file) = match self.key_file.as_str() {
            "" => ("", ""),
            key_file => (self.cert_file.as_str(), key_file),
        };
        for FileError { setting, problem } in tls::file_problems(&self.ca_file, cert_file, key_file)
        {
            problems.add(format!("mqtt.tls.{setting}"), problem);
        }
        if !self.server_name.is_empty()
            && let Err(error) = self.name("")
        {
            problems.add("mqtt.tls.server_name", error.to_string());
        }
    }

    /// A connector, and the name to expect in the certificate of `host`.
    pub(crate) async fn connector(
        &self,
        host: &str,
    ) -> Result<(TlsConnector, ServerName<'static>), TlsError> {
        let name = self.name(host)?;
        let own = self.clone();
        let read = move || tls::client_config(&own.ca_file, &own.cert_file, &own.key_file);
        let config = tokio::task::spawn_blocking(read).await??;
        Ok((TlsConnector::from(config), name))
    }

    fn name(&self, host: &str) -> Result<ServerName<'static>, TlsError> {
        let name = match self.server_name.as_str() {
            "" => host,
            name => name,
        };
        ServerName::try_from(name.to_string()).map_err(|_| TlsError::Name(name.to_string()))
    }
}

/// Replaces an error of TLS by one that says what to do; returns others unchanged.
pub(crate) fn explain(error: io::Error) -> io::Error {
    let inner = error.get_ref().and_then(|inner| inner.downcast_ref());
    let Some(text) = inner.and_then(explanation) else {
        return error;
    };
    io::Error::new(error.kind(), text)
}

fn explanation(error: &Error) -> Option<String> {
    let advice = match error {
        // A bad signature: another CA has the name of the trusted one.
        Error::InvalidCertificate(
            CertificateError::UnknownIssuer | CertificateError::BadSignature,
        ) => {
            "the broker's certificate is signed by a CA that is not trusted: \
             set mqtt.tls.ca_file to the certificate of that CA"
        }
        Error::InvalidCertificate(CertificateError::NotValidForNameContext {
            expected,
            presented,
        }) if presented.is_empty() => {
            return Some(format!(
                "the broker's certificate has no subject alternative name (SAN), and a common \
                 name does not count: issue one with the name {}",
                expected.to_str()
            ));
        }
        Error::InvalidCertificate(CertificateError::NotValidForNameContext {
            expected,
            presented,
        }) => {
            return Some(format!(
                "the broker's certificate is not for {} but for {}: use a name of the \
                 certificate in mqtt.brokers, or set mqtt.tls.server_name to one",
                expected.to_str(),
                presented.join(", ")
            ));
        }
        Error::InvalidCertificate(
            CertificateError::Expired | CertificateError::ExpiredContext { .. },
        ) => "the broker's certificate has expired, or this system's clock is wrong",
        Error::InvalidCertificate(
            CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. },
        ) => "the broker's certificate is not valid yet, or this system's clock is wrong",
        Error::InvalidCertificate(CertificateError::Other(other))
            if other.to_string().contains("CaUsedAsEndEntity") =>
        {
            "the broker presents the certificate of a CA: it needs its own, signed by that CA"
        }
        Error::AlertReceived(AlertDescription::CertificateRequired) => {
            "the broker requires a certificate from its clients: \
             set mqtt.tls.cert_file and mqtt.tls.key_file"
        }
        Error::AlertReceived(
            AlertDescription::UnknownCA
            | AlertDescription::BadCertificate
            | AlertDescription::CertificateUnknown
            | AlertDescription::CertificateExpired
            | AlertDescription::CertificateRevoked
            | AlertDescription::DecryptError,
        ) => {
            return Some(format!(
                "the broker does not accept the certificate in mqtt.tls.cert_file ({error})"
            ));
        }
        Error::InvalidMessage(InvalidMessage::InvalidContentType) => {
            "the broker does not speak TLS at this port"
        }
        _ => return None,
    };
    Some(advice.to_string())
}

#[cfg(test)]
mod tests;
