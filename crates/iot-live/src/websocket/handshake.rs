//! The opening handshake (RFC 6455, section 4.2).

use axum::extract::FromRequestParts;
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, Version, header};
use axum::response::{IntoResponse, Response};
use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use hyper::upgrade::OnUpgrade;
use sha1::{Digest, Sha1};

/// The only version (section 4.1).
const VERSION: &str = "13";
/// What a server adds to the key, so that only WebSocket servers answer right (section 1.3).
const GUID: &str = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11";

/// A request to become a WebSocket.
#[derive(Debug)]
pub(crate) struct Handshake {
    /// The connection, once the answer is sent.
    connection: OnUpgrade,
    /// The answer to the client's key.
    accept: HeaderValue,
}

/// Why a request cannot become a WebSocket.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Refused {
    /// Not GET.
    #[error("the method of a WebSocket handshake is GET")]
    Method,
    /// HTTP/1.0, or a header is missing or has another value.
    #[error("not a WebSocket handshake: {0}")]
    Header(&'static str),
    /// A version of the protocol that no browser has used since 2011.
    #[error("unknown version of the WebSocket protocol; this server has 13")]
    Version,
    /// The connection cannot change its protocol.
    #[error("this connection cannot become a WebSocket")]
    Connection,
}

impl IntoResponse for Refused {
    fn into_response(self) -> Response {
        let status = match self {
            Self::Method => StatusCode::METHOD_NOT_ALLOWED,
            Self::Header(_) => StatusCode::BAD_REQUEST,
            Self::Version | Self::Connection => StatusCode::UPGRADE_REQUIRED,
        };
        // Section 4.4; and RFC 9110, 15.5.22.
        let headers = [
            (header::SEC_WEBSOCKET_VERSION, VERSION),
            (header::UPGRADE, "websocket"),
        ];
        let text = self.to_string();
        if status == StatusCode::UPGRADE_REQUIRED {
            (status, headers, text).into_response()
        } else {
            (status, text).into_response()
        }
    }
}

impl<S: Sync> FromRequestParts<S> for Handshake {
    type Rejection = Refused;

    async fn from_request_parts(parts: &mut Parts, _state: &S) -> Result<Self, Refused> {
        let accept = accept(parts)?;
        let connection = parts.extensions.remove().ok_or(Refused::Connection)?;
        Ok(Self { connection, accept })
    }
}

impl Handshake {
    /// The answer with the subprotocol that was selected, and the connection once it is sent.
    pub(crate) fn accept(self, protocol: Option<&'static str>) -> (Response, OnUpgrade) {
        let mut response = StatusCode::SWITCHING_PROTOCOLS.into_response();
        let headers = response.headers_mut();
        headers.clear();
        let upgrade = HeaderValue::from_static("upgrade");
        headers.insert(header::CONNECTION, upgrade);
        let websocket = HeaderValue::from_static("websocket");
        headers.insert(header::UPGRADE, websocket);
        headers.insert(header::SEC_WEBSOCKET_ACCEPT, self.accept);
        if let Some(protocol) = protocol {
            let protocol = HeaderValue::from_static(protocol);
            headers.insert(header::SEC_WEBSOCKET_PROTOCOL, protocol);
        }
        (response, self.connection)
    }
}

/// The answer to the key of a request that is a handshake.
fn accept(request: &Parts) -> Result<HeaderValue, Refused> {
    if request.method != Method::GET {
        return Err(Refused::Method);
    }
    if request.version < Version::HTTP_11 {
        return Err(Refused::Header("it needs HTTP/1.1"));
    }
    let headers = &request.headers;
    if !lists(headers, &header::CONNECTION, "upgrade") {
        return Err(Refused::Header("`Connection` does not have `Upgrade`"));
    }
    if !lists(headers, &header::UPGRADE, "websocket") {
        return Err(Refused::Header("`Upgrade` is not `websocket`"));
    }
    let version = headers.get(header::SEC_WEBSOCKET_VERSION);
    if version.is_none_or(|version| version != VERSION) {
        return Err(Refused::Version);
    }
    let bad_key = Refused::Header("`Sec-WebSocket-Key` is not 16 bytes in base64");
    let key = headers.get(header::SEC_WEBSOCKET_KEY).ok_or(bad_key)?;
    if BASE64.decode(key).ok().is_none_or(|key| key.len() != 16) {
        return Err(bad_key);
    }
    let digest = Sha1::new().chain_update(key).chain_update(GUID).finalize();
    HeaderValue::from_str(&BASE64.encode(digest)).map_err(|_| bad_key)
}

/// Whether a header lists a word, in any case.
fn lists(headers: &HeaderMap, name: &HeaderName, word: &str) -> bool {
    let values = headers.get_all(name).iter();
    let values = values.filter_map(|value| value.to_str().ok());
    let mut words = values.flat_map(|value| value.split(','));
    words.any(|found| found.trim().eq_ignore_ascii_case(word))
}

/// Whether the client offers a subprotocol.
pub(crate) fn offers(headers: &HeaderMap, protocol: &str) -> bool {
    let values = headers.get_all(header::SEC_WEBSOCKET_PROTOCOL).iter();
    let values = values.filter_map(|value| value.to_str().ok());
    let mut offered = values.flat_map(|value| value.split(','));
    // Their case matters.
    offered.any(|offered| offered.trim() == protocol)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The example of section 1.3, with other values of some headers; an empty one is left out.
    fn request(changes: &[(HeaderName, &str)]) -> Parts {
        let mut request = axum::http::Request::new(()).into_parts().0;
        for (name, value) in [
            (header::UPGRADE, "websocket"),
            (header::CONNECTION, "Upgrade"),
            (header::SEC_WEBSOCKET_KEY, "dGhlIHNhbXBsZSBub25jZQ=="),
            (header::SEC_WEBSOCKET_VERSION, "13"),
        ]
        .iter()
        .chain(changes)
        {
            if value.is_empty() {
                request.headers.remove(name);
            } else {
                request.headers.insert(name, value.parse().unwrap());
            }
        }
        request
    }

    #[test]
    fn the_key_is_answered_as_in_the_standard() {
        for changes in [
            &[][..],
            &[(header::CONNECTION, "keep-alive, Upgrade")],
            &[(header::UPGRADE, "WebSocket")],
        ] {
            let accept = accept(&request(changes)).unwrap();
            assert_eq!(accept, "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
        }
    }

    #[test]
    fn requests_that_are_no_handshake_are_refused() {
        for (name, value, status) in [
            (header::UPGRADE, "", 400),
            (header::UPGRADE, "h2c", 400),
            (header::CONNECTION, "", 400),
            (header::CONNECTION, "close", 400),
            (header::SEC_WEBSOCKET_KEY, "", 400),
            (header::SEC_WEBSOCKET_KEY, "c2hvcnQ=", 400),
            (header::SEC_WEBSOCKET_KEY, "not base64", 400),
            (header::SEC_WEBSOCKET_VERSION, "", 426),
            (header::SEC_WEBSOCKET_VERSION, "8", 426),
        ] {
            let refused = accept(&request(&[(name.clone(), value)])).unwrap_err();
            let response = refused.into_response();
            assert_eq!(response.status(), status, "{name}: {value:?}");
            let version = response.headers().get(header::SEC_WEBSOCKET_VERSION);
            assert_eq!(version.is_some(), status == 426);
        }
        let mut other = request(&[]);
        other.method = Method::POST;
        assert_eq!(accept(&other), Err(Refused::Method));
        let mut old = request(&[]);
        old.version = Version::HTTP_10;
        assert!(matches!(accept(&old), Err(Refused::Header(_))));
    }

    #[test]
    fn subprotocols_are_found_in_lists() {
        let headers =
            request(&[(header::SEC_WEBSOCKET_PROTOCOL, "a, centrifuge-protobuf")]).headers;
        assert!(offers(&headers, "centrifuge-protobuf") && offers(&headers, "a"));
        assert!(!offers(&headers, "centrifuge") && !offers(&HeaderMap::new(), "a"));
    }
}
