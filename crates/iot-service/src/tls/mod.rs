//! TLS of clients and of listeners, with rustls.

mod server;

use std::path::Path;
use std::sync::Arc;

use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, RootCertStore};

pub use server::ServerTls;

type Identity = (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>);

/// A TLS setting that cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("{setting}: {problem}")]
pub struct FileError {
    /// Name of the setting within its section: `ca_file`, `cert_file` or `key_file`.
    pub setting: &'static str,
    /// The problem, with the path of the file.
    pub problem: String,
}

impl FileError {
    fn new(setting: &'static str, file: &str, reason: impl std::fmt::Display) -> Self {
        let problem = format!("{file}: {reason}");
        Self { setting, problem }
    }

    fn pem(setting: &'static str, file: &str, error: &pem::Error) -> Self {
        let wanted = match setting {
            "key_file" => "private key",
            _ => "certificate",
        };
        match error {
            pem::Error::NoItemsFound => {
                Self::new(setting, file, format!("there is no {wanted} in it (PEM)"))
            }
            pem::Error::Io(error) => Self::new(setting, file, error),
            error => Self::new(setting, file, format!("{error:?}")),
        }
    }
}

/// A client configuration that trusts the certificates of `ca_file` (those of the
/// system if it is empty). If `cert_file` is not empty, the client presents its
/// certificate chain, with the private key of `key_file`. All files are PEM.
///
/// # Errors
/// The first file that can't be read or contains no usable certificate or key.
pub fn client_config(
    ca_file: &str,
    cert_file: &str,
    key_file: &str,
) -> Result<Arc<ClientConfig>, FileError> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("ring has the cipher suites of the default versions")
        .with_root_certificates(roots(ca_file)?);
    let config = if cert_file.is_empty() {
        builder.with_no_client_auth()
    } else {
        let (certificates, key) = identity(cert_file, key_file)?;
        builder
            .with_client_auth_cert(certificates, key)
            .map_err(|error| FileError::new("cert_file", cert_file, error))?
    };
    Ok(Arc::new(config))
}

/// All problems for which [`client_config`] would fail: with the trusted certificates
/// and with the client's own.
#[must_use]
pub fn file_problems(ca_file: &str, cert_file: &str, key_file: &str) -> Vec<FileError> {
    let authorities = roots(ca_file).map(drop);
    // Only a complete configuration checks that the key matches the certificate.
    let own = match &authorities {
        _ if cert_file.is_empty() => Ok(()),
        Ok(()) => client_config(ca_file, cert_file, key_file).map(drop),
        Err(_) => identity(cert_file, key_file).map(drop),
    };
    let results = [authorities, own];
    results.into_iter().filter_map(Result::err).collect()
}

fn roots(ca_file: &str) -> Result<RootCertStore, FileError> {
    let mut roots = RootCertStore::empty();
    if ca_file.is_empty() {
        let system = rustls_native_certs::load_native_certs();
        // Some systems have certificates that rustls does not accept.
        roots.add_parsable_certificates(system.certs);
        if roots.is_empty() {
            let problem = "this system has no CA certificates; set a file, or install the \
                           package ca-certificates";
            return Err(FileError {
                setting: "ca_file",
                problem: problem.to_owned(),
            });
        }
        return Ok(roots);
    }
    for certificate in certificates("ca_file", ca_file)? {
        roots
            .add(certificate)
            .map_err(|error| FileError::new("ca_file", ca_file, error))?;
    }
    Ok(roots)
}

fn identity(cert_file: &str, key_file: &str) -> Result<Identity, FileError> {
    let certificates = certificates("cert_file", cert_file)?;
    let key = PrivateKeyDer::from_pem_file(Path::new(key_file))
        .map_err(|error| unusable_key(key_file, &error))?;
    Ok((certificates, key))
}

fn unusable_key(file: &str, error: &pem::Error) -> FileError {
    // The parser only says that there is no key, or that it is not valid.
    let is_encrypted = std::fs::read_to_string(file).is_ok_and(|pem| {
        pem.contains("-----BEGIN ENCRYPTED PRIVATE KEY-----")
            || pem.contains("Proc-Type: 4,ENCRYPTED")
    });
    if is_encrypted {
        let reason = "the private key is encrypted: decrypt it (openssl pkey -in OLD -out NEW)";
        return FileError::new("key_file", file, reason);
    }
    FileError::pem("key_file", file, error)
}

fn certificates(
    setting: &'static str,
    file: &str,
) -> Result<Vec<CertificateDer<'static>>, FileError> {
    let unusable = |error| FileError::pem(setting, file, &error);
    let found = CertificateDer::pem_file_iter(Path::new(file)).map_err(unusable)?;
    let found: Result<Vec<_>, _> = found.collect();
    match found.map_err(unusable)? {
        none if none.is_empty() => Err(unusable(pem::Error::NoItemsFound)),
        found => Ok(found),
    }
}

#[cfg(test)]
pub(crate) use server::tests::Issued;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unusable_files_are_reported_with_their_setting() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("empty.pem");
        std::fs::write(&file, "nothing\n").unwrap();
        let file = file.to_str().unwrap();
        let missing = "/nowhere/ca.pem";
        for (ca, expected) in [(file, "there is no certificate"), (missing, "No such file")] {
            let error = client_config(ca, "", "").unwrap_err().to_string();
            assert!(error.starts_with(&format!("ca_file: {ca}: ")), "{error}");
            assert!(error.contains(expected), "{error}");
        }
        let problems = file_problems(missing, file, file);
        let settings: Vec<_> = problems.iter().map(|problem| problem.setting).collect();
        assert_eq!(settings, ["ca_file", "cert_file"]);
    }

    #[test]
    fn an_encrypted_key_is_named_as_such() {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
        let own = rcgen::generate_simple_self_signed([]).unwrap();
        std::fs::write(path("cert.pem"), own.cert.pem()).unwrap();
        // PKCS #8, and the older format of OpenSSL.
        for (label, headers) in [
            ("ENCRYPTED PRIVATE KEY", ""),
            (
                "RSA PRIVATE KEY",
                "Proc-Type: 4,ENCRYPTED\nDEK-Info: AES-256-CBC,00\n\n",
            ),
        ] {
            let pem = format!("-----BEGIN {label}-----\n{headers}AAAA\n-----END {label}-----\n");
            std::fs::write(path("key.pem"), pem).unwrap();
            let error = client_config(&path("cert.pem"), &path("cert.pem"), &path("key.pem"));
            let error = error.unwrap_err().to_string();
            assert!(error.starts_with("key_file: "), "{error}");
            assert!(error.contains("the private key is encrypted"), "{error}");
        }
    }

    #[test]
    fn a_key_of_another_certificate_is_a_problem() {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
        let [one, other] = [(), ()].map(|()| rcgen::generate_simple_self_signed([]).unwrap());
        std::fs::write(path("cert.pem"), one.cert.pem()).unwrap();
        std::fs::write(path("own.pem"), one.signing_key.serialize_pem()).unwrap();
        std::fs::write(path("other.pem"), other.signing_key.serialize_pem()).unwrap();
        let (cert, own, other) = (path("cert.pem"), path("own.pem"), path("other.pem"));
        assert!(file_problems(&cert, &cert, &own).is_empty());
        let problems = file_problems(&cert, &cert, &other);
        assert_eq!(problems.len(), 1, "{problems:?}");
        assert_eq!(problems[0].setting, "cert_file");
    }
}
