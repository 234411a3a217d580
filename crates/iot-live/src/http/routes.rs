//! The table of routes, each with the rule by which requests to it are answered.

use axum::Router;
use axum::extract::{Extension, FromRequestParts, Request, State as Extract};
use axum::http::request::Parts;
use axum::http::{StatusCode, Uri};
use axum::middleware::{Next, from_fn, from_fn_with_state, map_response};
use axum::response::{IntoResponse, Response};
use axum::routing::{MethodRouter, get};
use iot_service::server::Peer;

use super::{State, api, harden, page, socket};
use crate::access::Gate;
use crate::parameters::is_given;

/// Names under which programs put tokens into URLs, where logs and histories keep them.
const TOKENS: [&str; 2] = ["token", "access_token"];

/// Who may use a route.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Rule {
    /// Everybody: there is nothing about devices in its answers.
    Public,
    /// Clients with an identity. The handler gets its [`Gate`].
    Read,
    /// Clients that prove who they are in the first message of a connection.
    Session,
}

/// A route. There is none without a rule.
pub(super) struct Route {
    pub(super) path: &'static str,
    pub(super) rule: Rule,
    handler: MethodRouter<State>,
}

/// All routes.
pub(super) fn table() -> Vec<Route> {
    let route = |path, rule, handler| Route {
        path,
        rule,
        handler,
    };
    vec![
        route("/", Rule::Public, get(page::index)),
        route("/static/{name}", Rule::Public, get(page::asset)),
        route("/api/v1/readings", Rule::Read, get(api::readings)),
        route("/api/v1/devices", Rule::Read, get(api::devices)),
        route(
            "/api/v1/devices/{tenant}/{project}/{device}",
            Rule::Read,
            get(api::device),
        ),
        route("/api/v1/device", Rule::Read, get(api::device_by_query)),
        route("/api/v1/alerts", Rule::Read, get(api::alerts)),
        route("/api/v1/stats", Rule::Read, get(api::stats)),
        route("/ws", Rule::Session, get(socket::upgrade)),
        route("/connection/websocket", Rule::Session, get(socket::upgrade)),
    ]
}

/// Page, API, WebSocket and event streams.
pub(super) fn router(state: State) -> Router {
    let mut router = Router::new();
    for Route {
        path,
        rule,
        handler,
    } in table()
    {
        let handler = match rule {
            Rule::Read => handler.layer(from_fn_with_state(state.clone(), identify)),
            Rule::Public | Rule::Session => handler,
        };
        router = router.route(path, handler);
    }
    router
        .fallback(api::unknown)
        .layer(from_fn(without_token_in_url))
        .layer(from_fn_with_state(state.clone(), for_us))
        .layer(map_response(harden))
        .with_state(state)
}

/// Lets the handler have what the identity of the request may ask.
async fn identify(
    Extract(state): Extract<State>,
    Extension(Peer(peer)): Extension<Peer>,
    mut request: Request,
    next: Next,
) -> Response {
    match state.door.admit(request.headers(), peer).await {
        Ok(gate) => {
            request.extensions_mut().insert(gate);
            next.run(request).await
        }
        Err(refusal) => api::Error::from(refusal).into_response(),
    }
}

/// Refuses tokens in URLs by the name of the parameter.
async fn without_token_in_url(uri: Uri, request: Request, next: Next) -> Response {
    let query = uri.query().unwrap_or_default();
    match TOKENS.iter().find(|name| is_given(query, name)) {
        None => next.run(request).await,
        Some(name) => {
            let reason = format!(
                "parameter {name:?}: a token must not be in a URL; send `Authorization: Bearer`, \
                 or the token in the connect request of a WebSocket"
            );
            api::Error::new(StatusCode::BAD_REQUEST, reason).into_response()
        }
    }
}

/// Refuses requests to names that are not of this service (RFC 9110, 15.5.20).
async fn for_us(Extract(state): Extract<State>, request: Request, next: Next) -> Response {
    if state.door.is_for_us(request.headers()) {
        return next.run(request).await;
    }
    let reason = "this service has another name; see `auth` in docs/security.md";
    api::Error::new(StatusCode::MISDIRECTED_REQUEST, reason).into_response()
}

impl<S: Sync> FromRequestParts<S> for Gate {
    type Rejection = api::Error;

    /// The gate that [`Rule::Read`] has made.
    async fn from_request_parts(parts: &mut Parts, _state: &S) -> Result<Self, api::Error> {
        let gate = parts.extensions.get().cloned();
        gate.ok_or_else(api::Error::unauthorized)
    }
}
