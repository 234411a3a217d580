//! The WebSocket endpoint.

use axum::Extension;
use axum::extract::State as Extract;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use hyper_util::rt::TokioIo;
use iot_service::server::{Peer, Permit};

use super::{State, api};
use crate::protocol::{Framing, MAX_FRAME};
use crate::session::ws::{Connection, Entrance};
use crate::websocket::{Handshake, Limits, Socket, offers};

/// The subprotocol of binary frames.
const PROTOBUF: &str = "centrifuge-protobuf";
/// A frame that is a little too long is refused with a reason.
const LIMITS: Limits = Limits {
    message: 2 * MAX_FRAME,
};

pub(super) async fn upgrade(
    Extract(state): Extract<State>,
    Extension(permit): Extension<Permit>,
    Extension(Peer(peer)): Extension<Peer>,
    headers: HeaderMap,
    handshake: Handshake,
) -> Response {
    if !same_origin(&headers) {
        let reason = "pages of other sites may not connect";
        return (StatusCode::FORBIDDEN, reason).into_response();
    }
    let by_headers = match state.door.admit(&headers, peer).await {
        Ok(gate) => Some(gate),
        // It can be in the connect request.
        Err(refusal) if refusal.is_missing() && state.door.uses_tokens() => None,
        Err(refusal) => return api::Error::from(refusal).into_response(),
    };
    // Browsers refuse the connection unless what they offered is selected.
    let protocol = offers(&headers, PROTOBUF).then_some(PROTOBUF);
    let framing = match protocol {
        Some(_) => Framing::Protobuf,
        None => Framing::Json,
    };
    let (answer, connection) = handshake.accept(protocol);
    tokio::spawn(async move {
        // The client may leave before it has the answer.
        let Ok(connection) = connection.await else {
            return;
        };
        let socket = Socket::new(TokioIo::new(connection), LIMITS);
        let State {
            door,
            metrics,
            clients,
            open,
            ..
        } = state;
        let client = clients.add();
        let metrics = metrics.web_sockets.clone();
        // Apart from the variables of the handshake, so that an idle client costs little.
        let entrance = Entrance::new(door, by_headers);
        let connection = Connection::new(socket, framing, entrance, client, metrics);
        Box::pin(connection.serve()).await;
        drop((open, permit));
    });
    answer
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
