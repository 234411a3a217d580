//! An HTTP client for the endpoints that settings name.

use http_body_util::Full;
use hyper::body::Bytes;
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;

use crate::tls::{self, FileError};

/// A client for `http` and `https`. It follows no redirects, and has no deadlines of its own.
pub type Client = legacy::Client<HttpsConnector<HttpConnector>, Full<Bytes>>;

/// A client that trusts the certificates of `ca_file`, or those of the system if it is empty.
///
/// # Errors
/// The file can't be read or has no usable certificate.
pub fn https(ca_file: &str) -> Result<Client, FileError> {
    let tls = tls::client_config(ca_file, "", "")?;
    let connector = HttpsConnectorBuilder::new()
        .with_tls_config((*tls).clone())
        .https_or_http()
        .enable_http1()
        .build();
    Ok(legacy::Client::builder(TokioExecutor::new()).build(connector))
}

/// The innermost cause; the outer errors only say that the request failed.
#[must_use]
pub fn cause(error: &dyn std::error::Error) -> String {
    let mut innermost = error;
    while let Some(source) = innermost.source() {
        innermost = source;
    }
    innermost.to_string()
}
