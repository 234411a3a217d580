//! TLS of a listener. Its certificate and key follow the changes of their files, so that a renewed
//! certificate needs no restart.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use rustls::ServerConfig;
use tokio::sync::watch;
use tokio_rustls::TlsAcceptor;

use super::{FileError, identity};
use crate::config::HttpTlsConfig;

/// How often the files are polled, as the configuration file is.
const POLL_INTERVAL: Duration = Duration::from_secs(2);

/// Certificate and key of a listener. Clones follow the same files.
#[derive(Debug, Clone)]
pub struct ServerTls(watch::Receiver<Arc<ServerConfig>>);

impl ServerTls {
    /// Reads the files of `config`, and polls them as long as this or a clone exists.
    ///
    /// # Errors
    /// A file that cannot be read or used.
    ///
    /// # Panics
    /// Without a runtime.
    pub fn start(config: &HttpTlsConfig) -> Result<Self, FileError> {
        let (mut files, followed) = Files::read(config)?;
        tokio::spawn(async move {
            loop {
                tokio::select! {
                    () = files.sender.closed() => return,
                    () = tokio::time::sleep(POLL_INTERVAL) => files.poll(),
                }
            }
        });
        Ok(Self(followed))
    }

    /// For the next connection.
    pub(crate) fn acceptor(&self) -> TlsAcceptor {
        self.0.borrow().clone().into()
    }
}

/// The content of certificate and key, or why there is none.
type Content = [Result<Vec<u8>, io::ErrorKind>; 2];

/// The files that a listener follows.
struct Files {
    config: HttpTlsConfig,
    seen: Content,
    sender: watch::Sender<Arc<ServerConfig>>,
}

impl Files {
    fn read(
        config: &HttpTlsConfig,
    ) -> Result<(Self, watch::Receiver<Arc<ServerConfig>>), FileError> {
        // Before they are used: what changes in between is seen by the next poll.
        let seen = content(config);
        let (sender, receiver) = watch::channel(server_config(config)?);
        let config = config.clone();
        let files = Self {
            config,
            seen,
            sender,
        };
        Ok((files, receiver))
    }

    /// Takes new contents. Those that cannot be used, such as a certificate whose key is not there
    /// yet, are reported, and the old ones stay in use.
    fn poll(&mut self) {
        let now = content(&self.config);
        if now == self.seen {
            return;
        }
        self.seen = now;
        match server_config(&self.config) {
            Ok(config) => {
                tracing::info!(cert_file = self.config.cert_file, "certificate reloaded");
                self.sender.send_replace(config);
            }
            Err(error) => {
                tracing::error!(%error, "cannot use the new certificate; keeping the old one");
            }
        }
    }
}

fn content(config: &HttpTlsConfig) -> Content {
    [&config.cert_file, &config.key_file]
        .map(|file| std::fs::read(file).map_err(|error| error.kind()))
}

/// TLS with the certificate chain and the key of `config`.
///
/// # Errors
/// The first file that cannot be read or used.
pub(crate) fn server_config(config: &HttpTlsConfig) -> Result<Arc<ServerConfig>, FileError> {
    let HttpTlsConfig {
        cert_file,
        key_file,
    } = config;
    let (certificates, key) = identity(cert_file, key_file)?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut server = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("ring has the cipher suites of the default versions")
        .with_no_client_auth()
        .with_single_cert(certificates, key)
        .map_err(|error| FileError::new("cert_file", cert_file, error))?;
    server.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(Arc::new(server))
}

impl HttpTlsConfig {
    /// Whether the listener has TLS.
    #[must_use]
    pub fn is_on(&self) -> bool {
        !(self.cert_file.is_empty() && self.key_file.is_empty())
    }

    /// The setting, within its section, that cannot be used, and why.
    pub(crate) fn problem(&self) -> Option<FileError> {
        let without = |setting, file: &str, of: &str| {
            let problem = format!("must be set too: it has the {of} of the listener");
            let missing = || FileError { setting, problem };
            file.is_empty().then(missing)
        };
        if !self.is_on() {
            return None;
        }
        without("cert_file", &self.cert_file, "certificates")
            .or_else(|| without("key_file", &self.key_file, "private key"))
            .or_else(|| server_config(self).err())
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use tempfile::TempDir;

    use super::*;

    /// A certificate for `localhost` and its key in files.
    pub(crate) struct Issued {
        _dir: TempDir,
        pub(crate) config: HttpTlsConfig,
    }

    impl Issued {
        pub(crate) fn new() -> Self {
            let dir = tempfile::tempdir().unwrap();
            let path = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
            let config = HttpTlsConfig {
                cert_file: path("cert.pem"),
                key_file: path("key.pem"),
            };
            let issued = Self { _dir: dir, config };
            issued.renew();
            issued
        }

        /// Puts another certificate and key into the files.
        pub(crate) fn renew(&self) {
            let new = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
            std::fs::write(&self.config.cert_file, new.cert.pem()).unwrap();
            std::fs::write(&self.config.key_file, new.signing_key.serialize_pem()).unwrap();
        }
    }

    #[test]
    fn unusable_files_are_named_with_their_setting() {
        let issued = Issued::new();
        let HttpTlsConfig {
            cert_file,
            key_file,
        } = &issued.config;
        let problem = |cert_file: &str, key_file: &str| {
            let config = HttpTlsConfig {
                cert_file: cert_file.into(),
                key_file: key_file.into(),
            };
            config.problem().map(|error| error.to_string())
        };
        assert_eq!(problem("", ""), None);
        assert_eq!(problem(cert_file, key_file), None);
        for (cert, key, expected) in [
            ("", &**key_file, "cert_file: must be set too"),
            (&**cert_file, "", "key_file: must be set too"),
            (
                "/nowhere/cert.pem",
                key_file,
                "cert_file: /nowhere/cert.pem: ",
            ),
            (
                cert_file,
                "/nowhere/key.pem",
                "key_file: /nowhere/key.pem: ",
            ),
            (cert_file, cert_file, "there is no private key"),
            (key_file, key_file, "there is no certificate"),
        ] {
            let found = problem(cert, key).unwrap_or_default();
            assert!(found.contains(expected), "{found}");
        }
        let other = Issued::new();
        let found = problem(cert_file, &other.config.key_file).unwrap();
        assert!(found.starts_with("cert_file: "), "{found}");
    }

    #[test]
    fn a_renewed_certificate_is_taken_and_a_broken_one_is_not() {
        let issued = Issued::new();
        let (mut files, followed) = Files::read(&issued.config).unwrap();
        let config = || Arc::as_ptr(&followed.borrow());
        let first = config();
        files.poll();
        assert_eq!(config(), first);

        issued.renew();
        files.poll();
        let second = config();
        assert_ne!(second, first);

        // A certificate comes before its key, half a file before a whole one, or nothing at all.
        let (next, old) = (
            Issued::new(),
            std::fs::read(&issued.config.cert_file).unwrap(),
        );
        std::fs::copy(&next.config.cert_file, &issued.config.cert_file).unwrap();
        files.poll();
        std::fs::write(&issued.config.cert_file, &old[..old.len() / 2]).unwrap();
        files.poll();
        std::fs::remove_file(&issued.config.key_file).unwrap();
        files.poll();
        assert_eq!(config(), second);

        issued.renew();
        files.poll();
        assert_ne!(config(), second);
    }
}
