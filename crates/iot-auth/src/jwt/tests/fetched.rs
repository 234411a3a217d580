//! Keys from a URL.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use axum::Router;
use axum::http::StatusCode;
use axum::routing::get;
use testkit::wait_for;
use tokio::net::TcpListener;

use super::*;

const NEVER: Duration = Duration::from_secs(3600);

/// What the issuer's endpoint answers, and how often it was asked.
#[derive(Clone, Default)]
struct Endpoint(Arc<Mutex<(Option<String>, usize)>>);

impl Endpoint {
    fn set(&self, answer: Option<String>) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).0 = answer;
    }

    fn publish(&self, issuers: &[&Issuer]) {
        self.set(Some(issuer::jwks(issuers).to_string()));
    }

    fn asked(&self) -> usize {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).1
    }

    fn answer(&self) -> (StatusCode, String) {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        state.1 += 1;
        match &state.0 {
            Some(keys) => (StatusCode::OK, keys.clone()),
            None => (StatusCode::INTERNAL_SERVER_ERROR, String::new()),
        }
    }

    /// A verifier that fetches from it, because of clients after the time `between`.
    async fn verifier(&self, between: Duration, stop: &CancellationToken) -> Verifier {
        crypto::install();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let endpoint = self.clone();
        let routes = Router::new().route("/keys", get(async move || endpoint.answer()));
        let refused = prometheus::IntCounter::new("refused", "of this test").unwrap();
        let serving = iot_service::server::serve(listener, routes, 8, refused, stop.clone());
        tokio::spawn(serving);
        let config = JwtConfig {
            jwks_url: format!("http://{address}/keys"),
            ..config()
        };
        let keys = Fetched::start(&config, between, metrics(), stop).unwrap();
        Verifier {
            keys: Keys::Fetched(keys),
            config,
        }
    }
}

#[tokio::test]
async fn a_new_key_is_fetched_when_a_token_names_it() {
    let (before, after) = (ed25519("before"), p256("after"));
    let (endpoint, stop) = (Endpoint::default(), CancellationToken::new());
    let _stop = stop.clone().drop_guard();
    endpoint.publish(&[&before]);
    let verifier = endpoint.verifier(Duration::ZERO, &stop).await;
    // The first client waits for the first fetch.
    assert_eq!(
        reason(&verifier, &before.sign(&claims(json!({})))).await,
        None
    );
    endpoint.publish(&[&before, &after]);
    assert_eq!(
        reason(&verifier, &after.sign(&claims(json!({})))).await,
        None
    );
    assert_eq!(endpoint.asked(), 2);
    endpoint.publish(&[&after]);
    let unknown = ed25519("unknown").sign(&claims(json!({})));
    assert_eq!(reason(&verifier, &unknown).await, Some(Reason::Unknown));
    let withdrawn = before.sign(&claims(json!({})));
    assert_eq!(reason(&verifier, &withdrawn).await, Some(Reason::Unknown));
}

#[tokio::test]
async fn tokens_with_unknown_keys_do_not_flood_the_issuer() {
    let issuer = ed25519("k");
    let (endpoint, stop) = (Endpoint::default(), CancellationToken::new());
    let _stop = stop.clone().drop_guard();
    endpoint.publish(&[&issuer]);
    let verifier = endpoint.verifier(NEVER, &stop).await;
    assert_eq!(
        reason(&verifier, &issuer.sign(&claims(json!({})))).await,
        None
    );
    for _ in 0..100 {
        let unknown = ed25519("unknown").sign(&claims(json!({})));
        assert_eq!(reason(&verifier, &unknown).await, Some(Reason::Unknown));
    }
    assert_eq!(endpoint.asked(), 1);
}

#[tokio::test]
async fn keys_of_before_stay_in_use_while_fetches_fail() {
    let (before, after) = (ed25519("before"), ed25519("after"));
    let (endpoint, stop) = (Endpoint::default(), CancellationToken::new());
    let _stop = stop.clone().drop_guard();
    endpoint.publish(&[&before]);
    let verifier = endpoint.verifier(Duration::ZERO, &stop).await;
    let (known, new) = (
        before.sign(&claims(json!({}))),
        after.sign(&claims(json!({}))),
    );
    assert_eq!(reason(&verifier, &known).await, None);
    // A failure, and answers that are no keys.
    for answer in [None, Some("<html>".into()), Some(r#"{"keys": []}"#.into())] {
        endpoint.set(answer);
        // It may be of a key that could not be fetched.
        assert_eq!(reason(&verifier, &new).await, Some(Reason::Unavailable));
        assert_eq!(reason(&verifier, &known).await, None);
    }
    endpoint.publish(&[&after]);
    wait_for("the new key", async || {
        reason(&verifier, &new).await.is_none()
    })
    .await;
}

#[tokio::test]
async fn clients_are_refused_for_now_until_there_are_keys() {
    let issuer = ed25519("k");
    let (endpoint, stop) = (Endpoint::default(), CancellationToken::new());
    let _stop = stop.clone().drop_guard();
    let verifier = endpoint.verifier(NEVER, &stop).await;
    let token = issuer.sign(&claims(json!({})));
    let refusal = verifier.verify(&token).await.unwrap_err();
    assert!(refusal.is_temporary(), "{refusal}");
    endpoint.publish(&[&issuer]);
    // Nobody has to ask: failed fetches are retried.
    wait_for("keys", async || reason(&verifier, &token).await.is_none()).await;
}
