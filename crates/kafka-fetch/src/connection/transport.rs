//! The stream below a connection: TCP, and TLS where it is wanted.

use std::io::Error;
use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use super::{ConnectionError, in_time};

/// How long one address may take, of which a name can have several.
const REACHED: Duration = Duration::from_secs(5);

pub(super) trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}

impl<T: AsyncRead + AsyncWrite + Unpin + Send> Stream for T {}

/// Connects to a `host:port`.
pub(super) async fn connect(
    address: &str,
    tls: Option<Arc<rustls::ClientConfig>>,
) -> Result<Box<dyn Stream>, ConnectionError> {
    let stream = reach(address).await?;
    stream.set_nodelay(true)?;
    let Some(tls) = tls else {
        return Ok(Box::new(stream));
    };
    let name = server_name(address)?;
    Ok(Box::new(
        TlsConnector::from(tls).connect(name, stream).await?,
    ))
}

/// The first of the addresses of a `host:port` that answers.
async fn reach(address: &str) -> Result<TcpStream, ConnectionError> {
    let mut failed = Error::other("the name has no address").into();
    for address in tokio::net::lookup_host(address).await? {
        match in_time(REACHED, TcpStream::connect(address)).await {
            Ok(stream) => return Ok(stream),
            Err(error) => failed = error,
        }
    }
    Err(failed)
}

fn server_name(address: &str) -> Result<ServerName<'static>, ConnectionError> {
    let (host, _) = address.rsplit_once(':').unwrap_or((address, ""));
    let host = host.trim_start_matches('[').trim_end_matches(']');
    let name = ServerName::try_from(host.to_owned());
    name.map_err(|_| ConnectionError::ServerName(host.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn certificates_are_for_names_and_addresses() {
        for (address, name) in [
            ("kafka:9093", "kafka"),
            ("10.0.0.1:9093", "10.0.0.1"),
            ("[::1]:9093", "::1"),
        ] {
            let found = server_name(address).unwrap();
            assert_eq!(found.to_str(), name);
        }
        let error = server_name("a b:9093").unwrap_err().to_string();
        assert_eq!(error, r#"a certificate can't be for "a b""#);
    }
}
