//! TLS of the clients that are written in Rust.

use std::path::Path;
use std::sync::Arc;

use anyhow::Context;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, RootCertStore};

/// A configuration that trusts the certificates of `ca_file` (those of the
/// system if it is empty), and shows the certificate chain of `cert_file`, with
/// the key of `key_file`, if they are not empty. All files are PEM.
///
/// # Errors
/// A file that can't be read or holds nothing of use; each is named.
pub fn client_config(
    ca_file: &str,
    cert_file: &str,
    key_file: &str,
) -> anyhow::Result<Arc<ClientConfig>> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .context("choosing the versions of TLS")?
        .with_root_certificates(roots(ca_file)?);
    let config = if cert_file.is_empty() {
        builder.with_no_client_auth()
    } else {
        let key = PrivateKeyDer::from_pem_file(Path::new(key_file))
            .with_context(|| format!("reading the private key in {key_file}"))?;
        builder
            .with_client_auth_cert(certificates(cert_file)?, key)
            .with_context(|| format!("using the certificate in {cert_file}"))?
    };
    Ok(Arc::new(config))
}

fn roots(ca_file: &str) -> anyhow::Result<RootCertStore> {
    let mut roots = RootCertStore::empty();
    if ca_file.is_empty() {
        let system = rustls_native_certs::load_native_certs();
        roots.add_parsable_certificates(system.certs);
        anyhow::ensure!(
            !roots.is_empty(),
            "the system has no certificates to trust: give a ca_file"
        );
        return Ok(roots);
    }
    for certificate in certificates(ca_file)? {
        roots
            .add(certificate)
            .with_context(|| format!("using a certificate in {ca_file}"))?;
    }
    Ok(roots)
}

fn certificates(file: &str) -> anyhow::Result<Vec<CertificateDer<'static>>> {
    let read = || CertificateDer::pem_file_iter(Path::new(file))?.collect::<Result<Vec<_>, _>>();
    let certificates = read().with_context(|| format!("reading the certificates in {file}"))?;
    anyhow::ensure!(
        !certificates.is_empty(),
        "there is no certificate in {file}"
    );
    Ok(certificates)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_is_no_use_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("empty.pem");
        std::fs::write(&file, "nothing\n").unwrap();
        let file = file.to_str().unwrap();
        let missing = "/nowhere/ca.pem";
        for (ca, expected) in [(file, "no certificate in"), (missing, "reading")] {
            let error = client_config(ca, "", "").unwrap_err();
            let error = format!("{error:#}");
            assert!(error.contains(expected) && error.contains(ca), "{error}");
        }
    }
}
