mod fetched;
mod issuer;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use iot_service::metrics::Registrar;
use prometheus::Registry;
use serde_json::json;

use super::*;
use crate::identity::{Names, Role, Scope};
use issuer::{Issuer, Signer, ed25519, hmac, p256, rsa, token};

const ISSUER: &str = "https://id.example";

fn config() -> JwtConfig {
    JwtConfig {
        issuer: ISSUER.into(),
        audience: vec!["iot".into(), "iot-staging".into()],
        ..JwtConfig::default()
    }
}

fn metrics() -> AuthMetrics {
    AuthMetrics::new(&Registrar(&Registry::new())).unwrap()
}

fn verifier(issuers: &[&Issuer], config: JwtConfig) -> Verifier {
    crypto::install();
    let keys = KeySet::of_file(&issuer::jwks(issuers).to_string()).unwrap();
    Verifier {
        keys: Keys::Kept(watch::channel(Arc::new(keys)).1),
        config,
    }
}

/// Valid claims, changed by `changes`; null removes one.
fn claims(changes: Value) -> Value {
    let now = Timestamp::now().as_second();
    let mut claims = json!({
        "iss": ISSUER, "aud": "iot", "sub": "ada", "iat": now, "nbf": now, "exp": now + 300,
        "tenants": ["acme"], "role": "operator",
    });
    for (claim, value) in changes.as_object().unwrap() {
        claims[claim] = value.clone();
    }
    claims
        .as_object_mut()
        .unwrap()
        .retain(|_, value| !value.is_null());
    claims
}

async fn reason(verifier: &Verifier, token: &str) -> Option<Reason> {
    let refusal = verifier.verify(token).await.err()?;
    // What is logged does not have the token, nor a part of it that is secret.
    let logged = refusal.to_string();
    for part in token.split('.').filter(|part| part.len() > 8) {
        assert!(!logged.contains(part), "{logged}");
    }
    Some(refusal.reason())
}

#[tokio::test]
async fn each_algorithm_is_verified() {
    let issuers = [rsa("rsa"), p256("p256"), ed25519("ed"), hmac("secret")];
    let all: Vec<_> = issuers.iter().collect();
    let verifier = verifier(&all, config());
    for issuer in &issuers {
        let identity = verifier.verify(&issuer.sign(&claims(json!({})))).await;
        let identity = identity.unwrap_or_else(|refusal| panic!("{}: {refusal}", issuer.id));
        assert_eq!((&*identity.name, identity.role), ("ada", Role::Operator));
        let expected = Scope {
            tenants: claims::names(["acme"]),
            projects: Names::All,
            places: Names::All,
        };
        assert_eq!(*identity.scope, expected);
    }
}

#[tokio::test]
async fn an_rsa_key_may_have_a_zero_in_front() {
    crypto::install();
    let issuer = rsa("k");
    let mut keys = issuer::jwks(&[&issuer]);
    let n = URL_SAFE_NO_PAD.decode(keys["keys"][0]["n"].as_str().unwrap());
    keys["keys"][0]["n"] = URL_SAFE_NO_PAD
        .encode([&[0][..], &n.unwrap()].concat())
        .into();
    let keys = KeySet::of_file(&keys.to_string()).unwrap();
    let verifier = Verifier {
        keys: Keys::Kept(watch::channel(Arc::new(keys)).1),
        config: config(),
    };
    assert_eq!(
        reason(&verifier, &issuer.sign(&claims(json!({})))).await,
        None
    );
}

#[tokio::test]
async fn a_changed_token_is_refused() {
    for issuer in [rsa("k"), p256("k"), ed25519("k"), hmac("k")] {
        let verifier = verifier(&[&issuer], config());
        let valid = issuer.sign(&claims(json!({})));
        let other = issuer.sign(&claims(json!({"tenants": "*"})));
        let (head, signature) = valid.rsplit_once('.').unwrap();
        let (changed, _) = other.rsplit_once('.').unwrap();
        for token in [
            format!("{changed}.{signature}"),
            format!("{head}."),
            format!("{head}.AAAA"),
            format!("{head}.{}", &signature[4..]),
        ] {
            let reason = reason(&verifier, &token).await;
            assert_eq!(reason, Some(Reason::Signature), "{}", issuer.algorithm());
        }
    }
}

#[tokio::test]
async fn a_key_of_another_issuer_is_refused() {
    let (own, other) = (ed25519("k"), ed25519("k"));
    let verifier = verifier(&[&own], config());
    let token = other.sign(&claims(json!({})));
    assert_eq!(reason(&verifier, &token).await, Some(Reason::Signature));
    let token = ed25519("unknown").sign(&claims(json!({})));
    assert_eq!(reason(&verifier, &token).await, Some(Reason::Unknown));
}

#[tokio::test]
async fn no_algorithm_is_no_way_in() {
    let verifier = verifier(&[&ed25519("k"), &hmac("s")], config());
    for alg in ["none", "None", "NONE", "", "HS1"] {
        for kid in ["k", "s"] {
            let header = json!({"alg": alg, "typ": "JWT", "kid": kid});
            let token = token(&header, &claims(json!({})), |_| Vec::new());
            assert!(reason(&verifier, &token).await.is_some(), "{alg} {kid}");
        }
    }
}

/// A public key is known to everyone: as a secret of HS256 it would let everyone sign.
#[tokio::test]
async fn a_public_key_is_no_secret() {
    for issuer in [rsa("k"), p256("k"), ed25519("k")] {
        let verifier = verifier(&[&issuer], config());
        let header = json!({"alg": "HS256", "kid": "k"});
        for secret in issuer.public_forms() {
            let token = token(&header, &claims(json!({})), |text| {
                issuer::hmac_of(&secret, text)
            });
            assert_eq!(reason(&verifier, &token).await, Some(Reason::Algorithm));
        }
    }
}

#[tokio::test]
async fn a_key_is_used_with_its_own_algorithm_only() {
    let issuer = rsa("k");
    let verifier = verifier(&[&issuer], config());
    for alg in ["RS384", "RS512", "PS256", "ES256", "EdDSA"] {
        let header = json!({"alg": alg, "kid": "k"});
        let token = token(&header, &claims(json!({})), |text| issuer.signature(text));
        assert_eq!(
            reason(&verifier, &token).await,
            Some(Reason::Algorithm),
            "{alg}"
        );
    }
}

#[tokio::test]
async fn claims_are_checked() {
    let issuer = ed25519("k");
    let verifier = verifier(&[&issuer], config());
    let now = Timestamp::now().as_second();
    for (changes, expected) in [
        (json!({"exp": now - 60}), Reason::Expired),
        (json!({"exp": null}), Reason::Claims),
        (json!({"exp": "soon"}), Reason::Claims),
        (json!({"nbf": now + 60}), Reason::NotYetValid),
        (json!({"nbf": "soon"}), Reason::Claims),
        (json!({"iat": now + 60}), Reason::NotYetValid),
        (json!({"iss": "https://evil.example"}), Reason::Issuer),
        (json!({"iss": null}), Reason::Issuer),
        (json!({"iss": 7}), Reason::Issuer),
        (json!({"aud": "other"}), Reason::Audience),
        (json!({"aud": ["other"]}), Reason::Audience),
        (json!({"aud": []}), Reason::Audience),
        (json!({"aud": null}), Reason::Audience),
        (json!({"sub": null}), Reason::Claims),
        (json!({"tenants": 7}), Reason::Claims),
        (json!({"role": {"admin": true}}), Reason::Claims),
    ] {
        let token = issuer.sign(&claims(changes.clone()));
        assert_eq!(reason(&verifier, &token).await, Some(expected), "{changes}");
    }
    for changes in [
        // Within the leeway of 30 s.
        json!({"exp": now - 10}),
        json!({"nbf": now + 10, "iat": now + 10}),
        json!({"nbf": null, "iat": null}),
        json!({"aud": ["other", "iot-staging"]}),
    ] {
        let token = issuer.sign(&claims(changes.clone()));
        assert_eq!(reason(&verifier, &token).await, None, "{changes}");
    }
}

#[tokio::test]
async fn an_identity_expires_when_its_token_is_refused() {
    let issuer = ed25519("k");
    let verifier = verifier(&[&issuer], config());
    let expires = Timestamp::now().as_second() + 300;
    for (exp, expected) in [
        (
            json!(expires),
            Timestamp::from_second(expires + 30).unwrap(),
        ),
        (json!(1e15), Timestamp::MAX),
    ] {
        let token = issuer.sign(&claims(json!({ "exp": exp })));
        let identity = verifier.verify(&token).await.unwrap();
        assert_eq!(identity.expires, Some(expected));
    }
}

#[tokio::test]
async fn issuer_and_audience_may_be_left_out_only_as_the_settings_say() {
    let issuer = hmac("k");
    let token = issuer.sign(&claims(json!({"iss": null, "aud": "other"})));
    let any = JwtConfig {
        audience: vec!["*".into()],
        ..JwtConfig::default()
    };
    assert_eq!(reason(&verifier(&[&issuer], any), &token).await, None);
    assert!(
        reason(&verifier(&[&issuer], config()), &token)
            .await
            .is_some()
    );
}

#[tokio::test]
async fn what_is_no_token_is_refused() {
    let issuer = ed25519("k");
    let verifier = verifier(&[&issuer], config());
    let valid = issuer.sign(&claims(json!({})));
    let critical = token(
        &json!({"alg": "EdDSA", "kid": "k", "crit": ["b64"], "b64": false}),
        &claims(json!({})),
        |text| issuer.signature(text),
    );
    for token in [
        "",
        ".",
        "..",
        "a.b",
        "a.b.c",
        "a.b.c.d",
        "\u{0}",
        &format!("{valid}.x"),
        &valid[1..],
        &critical,
    ] {
        assert!(reason(&verifier, token).await.is_some(), "{token:?}");
    }
    assert_eq!(reason(&verifier, &critical).await, Some(Reason::Malformed));
    let no_object = token(&json!({"alg": "EdDSA", "kid": "k"}), &json!([1]), |text| {
        issuer.signature(text)
    });
    assert!(reason(&verifier, &no_object).await.is_some());
}

#[tokio::test(start_paused = true)]
async fn a_secret_is_read_from_its_file_again() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("secret");
    std::fs::write(&path, "0123456789abcdef0123456789abcdef\n").unwrap();
    let config = JwtConfig {
        secret_file: path.to_str().unwrap().into(),
        ..JwtConfig::default()
    };
    let stop = CancellationToken::new();
    let verifier = Verifier::start(&config, metrics(), &stop).unwrap();
    let [before, after] = [
        "0123456789abcdef0123456789abcdef",
        "fedcba9876543210fedcba9876543210",
    ]
    .map(|secret| Issuer::of(Signer::Hmac(secret.into()), "any").sign(&claims(json!({}))));
    assert_eq!(reason(&verifier, &before).await, None);
    assert_eq!(reason(&verifier, &after).await, Some(Reason::Signature));

    std::fs::write(&path, "fedcba9876543210fedcba9876543210").unwrap();
    let Keys::Kept(keys) = &verifier.keys else {
        panic!("a file is polled");
    };
    keys.clone().changed().await.unwrap();
    assert_eq!(reason(&verifier, &after).await, None);
    assert_eq!(reason(&verifier, &before).await, Some(Reason::Signature));
}

#[test]
fn a_short_secret_is_refused() {
    assert_eq!(secret("short\n").unwrap_err(), TOO_SHORT);
}
