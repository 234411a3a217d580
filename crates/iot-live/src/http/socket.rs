//! The WebSocket endpoint.

use axum::Extension;
use axum::extract::State as Extract;
use axum::extract::ws::WebSocketUpgrade;
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use iot_service::server::Permit;

use super::State;
use crate::protocol::{Framing, MAX_FRAME};
use crate::session::ws::Connection;

/// The subprotocol of binary frames.
const PROTOBUF: &str = "centrifuge-protobuf";
/// The library allocates this for each connection; a command has about 200 bytes.
const READ_BUFFER: usize = 512;
/// Each message is written at once: the frames that wait are gathered before.
const WRITE_BUFFER: usize = 0;
/// Many times the size of a message: the library buffers one at a time.
const MAX_WRITE_BUFFER: usize = 8 << 20;

pub(super) async fn upgrade(
    Extract(state): Extract<State>,
    Extension(permit): Extension<Permit>,
    headers: HeaderMap,
    mut upgrade: WebSocketUpgrade,
) -> Response {
    if !same_origin(&headers) {
        let reason = "pages of other sites may not connect";
        return (StatusCode::FORBIDDEN, reason).into_response();
    }
    let mut framing = Framing::Json;
    if upgrade
        .requested_protocols()
        .any(|protocol| protocol == PROTOBUF)
    {
        framing = Framing::Protobuf;
        // Browsers refuse the connection without it.
        upgrade.set_selected_protocol(HeaderValue::from_static(PROTOBUF));
    }
    upgrade
        .read_buffer_size(READ_BUFFER)
        .write_buffer_size(WRITE_BUFFER)
        .max_write_buffer_size(MAX_WRITE_BUFFER)
        // A frame that is a little too long is refused with a reason.
        .max_message_size(2 * MAX_FRAME)
        .max_frame_size(2 * MAX_FRAME)
        .on_upgrade(move |socket| async move {
            let State {
                hub,
                metrics,
                clients,
                open,
                ..
            } = state;
            let client = clients.add();
            let metrics = metrics.web_sockets.clone();
            // Apart from the variables of the handshake, so that an idle client costs little.
            let connection = Connection::new(socket, framing, hub, client, metrics);
            Box::pin(connection.serve()).await;
            drop((open, permit));
        })
}

/// A browser always names the page's origin: it must be ours, or any site could
/// read the data (cross-site WebSocket hijacking). Other clients name none.
fn same_origin(headers: &HeaderMap) -> bool {
    let Some(origin) = headers.get(header::ORIGIN) else {
        return true;
    };
    let origin = origin
        .to_str()
        .ok()
        .and_then(|origin| origin.split_once("://"));
    let host = headers
        .get(header::HOST)
        .and_then(|host| host.to_str().ok());
    let (Some((scheme, origin)), Some(host)) = (origin, host) else {
        return false;
    };
    let port = match scheme {
        "http" => ":80",
        "https" => ":443",
        _ => return false,
    };
    // Browsers leave the default port out, some proxies add it.
    let [origin, host] = [origin, host].map(|name| name.strip_suffix(port).unwrap_or(name));
    origin.eq_ignore_ascii_case(host)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(origin: Option<&str>, host: &str) -> HeaderMap {
        let mut headers = HeaderMap::new();
        headers.insert(header::HOST, host.parse().unwrap());
        if let Some(origin) = origin {
            headers.insert(header::ORIGIN, origin.parse().unwrap());
        }
        headers
    }

    #[test]
    fn only_our_own_page_may_connect() {
        assert!(same_origin(&headers(None, "localhost:8080")));
        assert!(same_origin(&headers(
            Some("http://localhost:8080"),
            "localhost:8080"
        )));
        assert!(same_origin(&headers(
            Some("https://IoT.example"),
            "iot.example"
        )));
        for (origin, host) in [
            ("https://iot.example", "iot.example:443"),
            ("http://[::1]:80", "[::1]"),
        ] {
            assert!(same_origin(&headers(Some(origin), host)), "{origin}");
        }
        for (origin, host) in [
            ("http://iot.example", "iot.example:443"),
            ("file://", ""),
            ("ftp://iot.example", "iot.example"),
        ] {
            assert!(!same_origin(&headers(Some(origin), host)), "{origin}");
        }
        for other in ["http://evil.example", "http://localhost", "null", "file://"] {
            assert!(
                !same_origin(&headers(Some(other), "localhost:8080")),
                "{other}"
            );
        }
    }
}
