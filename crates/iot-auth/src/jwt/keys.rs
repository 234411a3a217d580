//! Keys of an issuer (RFC 7517).

use std::path::Path;
use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::{Algorithm, DecodingKey};
use serde::Deserialize;
use serde_json::Value;

use super::SHORTEST_SECRET;
use crate::refusal::{Reason, Refusal};
use crate::reloaded;

/// The keys of an issuer that can be used.
#[derive(Debug)]
pub(crate) struct KeySet {
    keys: Vec<Arc<Key>>,
    /// It is of one secret, whatever tokens say of their key.
    is_secret: bool,
}

/// A key, with the only algorithm that it is used with.
#[derive(Debug)]
pub(crate) struct Key {
    id: Option<String>,
    pub(super) algorithm: Algorithm,
    pub(super) decoding: DecodingKey,
}

/// A JSON Web Key, as far as its use is concerned.
#[derive(Debug, Deserialize)]
struct Jwk {
    kty: String,
    kid: Option<String>,
    alg: Option<String>,
    #[serde(rename = "use")]
    usage: Option<String>,
    key_ops: Option<Vec<String>>,
    crv: Option<String>,
    n: Option<String>,
    e: Option<String>,
    x: Option<String>,
    y: Option<String>,
    k: Option<String>,
}

#[derive(Debug, Deserialize)]
struct Jwks {
    keys: Vec<Value>,
}

impl KeySet {
    /// The keys of a file, which may have secrets in it.
    ///
    /// # Errors
    /// It is no JWK set, or has no key that can be used.
    pub(super) fn of_file(text: &str) -> Result<Self, String> {
        Self::parse(text.as_bytes(), true)
    }

    /// The keys that an issuer publishes. Secrets among them are none any more, and left out.
    ///
    /// # Errors
    /// As [`Self::of_file`].
    pub(super) fn published(json: &[u8]) -> Result<Self, String> {
        Self::parse(json, false)
    }

    /// Reads a file of keys.
    ///
    /// # Errors
    /// Its problem.
    pub(crate) fn read(path: &Path) -> Result<Self, String> {
        reloaded::read(path, Self::of_file).map(|(_, keys)| keys)
    }

    /// # Errors
    /// The secret is empty.
    pub(super) fn of_secret(secret: &[u8]) -> Result<Self, String> {
        let key = Key {
            id: None,
            algorithm: Algorithm::HS256,
            decoding: DecodingKey::from_secret(secret).map_err(|error| error.to_string())?,
        };
        Ok(Self {
            keys: vec![Arc::new(key)],
            is_secret: true,
        })
    }

    fn parse(json: &[u8], with_secrets: bool) -> Result<Self, String> {
        let set: Jwks = serde_json::from_slice(json)
            .map_err(|error| format!("is not a JWK set (RFC 7517): {error}"))?;
        let mut keys = Vec::new();
        let mut refused = Vec::new();
        for value in set.keys {
            // The value may be secret, and is not in the message.
            let jwk = serde_json::from_value::<Jwk>(value).map_err(|_| "not a JWK".to_owned());
            match jwk.and_then(|jwk| jwk.key(with_secrets)) {
                Ok(key) => keys.push(Arc::new(key)),
                Err(reason) => refused.push(reason),
            }
        }
        if keys.is_empty() {
            return Err(format!(
                "has no key for RS256, ES256, EdDSA (Ed25519){}: {}",
                if with_secrets { " or HS256" } else { "" },
                if refused.is_empty() {
                    "it is empty".to_owned()
                } else {
                    refused.join(", ")
                },
            ));
        }
        Ok(Self {
            keys,
            is_secret: false,
        })
    }

    /// The key with an id; the only key, if the token or the key has none.
    pub(super) fn find(&self, id: Option<&str>) -> Result<Arc<Key>, Refusal> {
        match (id, self.keys.as_slice()) {
            (_, [only]) if self.is_secret => Ok(only.clone()),
            (None, [only]) => Ok(only.clone()),
            (Some(_), [only]) if only.id.is_none() => Ok(only.clone()),
            (None, _) => {
                let detail = "the token does not name its key (kid), and there are several";
                Err(Refusal::new(Reason::Unknown, detail))
            }
            (Some(id), keys) => {
                let mut keys = keys.iter();
                let key = keys.find(|key| key.id.as_deref() == Some(id)).cloned();
                // The id is of the client's making: it is cut, and escaped.
                let id = || id.chars().take(64).collect::<String>();
                key.ok_or_else(|| {
                    let detail = format!("no key has the id of the token ({:?})", id());
                    Refusal::new(Reason::Unknown, detail)
                })
            }
        }
    }
}

impl Jwk {
    /// The key for verifying, or why it is none.
    fn key(self, with_secrets: bool) -> Result<Key, String> {
        let verifies = |operations: &Vec<String>| operations.iter().any(|one| one == "verify");
        if self.usage.as_deref().is_some_and(|usage| usage != "sig")
            || !self.key_ops.as_ref().is_none_or(verifies)
        {
            return Err("one is not for signatures".into());
        }
        let (algorithm, name, decoding) = match (&*self.kty, self.crv.as_deref()) {
            ("RSA", _) => (Algorithm::RS256, "RS256", self.rsa()?),
            ("EC", Some("P-256")) => (Algorithm::ES256, "ES256", self.p256()?),
            ("OKP", Some("Ed25519")) => (Algorithm::EdDSA, "EdDSA", self.ed25519()?),
            ("oct", _) if with_secrets => (Algorithm::HS256, "HS256", self.secret()?),
            ("oct", _) => return Err("one is a published secret".into()),
            (kty, crv) => return Err(format!("one is {kty:?} {}", crv.unwrap_or_default())),
        };
        // RFC 9864 calls EdDSA with this curve Ed25519.
        let is_its = |alg: &str| alg == name || (name == "EdDSA" && alg == "Ed25519");
        if let Some(alg) = self.alg.filter(|alg| !is_its(alg)) {
            return Err(format!("one is for {alg:?}"));
        }
        Ok(Key {
            id: self.kid,
            algorithm,
            decoding,
        })
    }

    fn rsa(&self) -> Result<DecodingKey, String> {
        let (n, e) = (bytes(self.n.as_deref())?, bytes(self.e.as_deref())?);
        // Some issuers put a zero in front (RFC 7518, 6.3.1.1), which ring does not accept.
        let zeros = n.iter().take_while(|byte| **byte == 0).count();
        let n = &n[zeros..];
        // ring verifies with 2,048 to 8,192 bits only.
        if !(256..=1024).contains(&n.len()) {
            return Err(format!("one is RSA with {} bits", n.len() * 8));
        }
        Ok(DecodingKey::from_rsa_raw_components(n, &e))
    }

    fn p256(&self) -> Result<DecodingKey, String> {
        let (x, y) = (bytes(self.x.as_deref())?, bytes(self.y.as_deref())?);
        if (x.len(), y.len()) != (32, 32) {
            return Err("one is not a point of P-256".into());
        }
        Ok(DecodingKey::from_ec_der(&[&[4][..], &x, &y].concat()))
    }

    fn ed25519(&self) -> Result<DecodingKey, String> {
        let x = bytes(self.x.as_deref())?;
        if x.len() != 32 {
            return Err("one is not a point of Ed25519".into());
        }
        Ok(DecodingKey::from_ed_der(&x))
    }

    fn secret(&self) -> Result<DecodingKey, String> {
        let secret = bytes(self.k.as_deref())?;
        if secret.len() < SHORTEST_SECRET {
            return Err("one is a secret of less than 32 bytes".into());
        }
        DecodingKey::from_secret(&secret).map_err(|error| error.to_string())
    }
}

fn bytes(part: Option<&str>) -> Result<Vec<u8>, String> {
    let decoded = part.and_then(|part| URL_SAFE_NO_PAD.decode(part).ok());
    decoded.ok_or_else(|| "one is incomplete".into())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn b64(bytes: &[u8]) -> String {
        URL_SAFE_NO_PAD.encode(bytes)
    }

    #[test]
    fn unusable_keys_are_left_out() {
        let x = b64(&[1; 32]);
        let set = json!({"keys": [
            {"kty": "OKP", "crv": "Ed25519", "kid": "ed", "x": x},
            {"kty": "OKP", "crv": "X25519", "kid": "agreement", "x": x},
            {"kty": "OKP", "crv": "Ed25519", "kid": "encryption", "use": "enc", "x": x},
            {"kty": "OKP", "crv": "Ed25519", "kid": "signing", "key_ops": ["sign"], "x": x},
            {"kty": "OKP", "crv": "Ed25519", "kid": "other", "alg": "ES256", "x": x},
            {"kty": "RSA", "kid": "short", "n": b64(&[1; 128]), "e": "AQAB"},
            {"kty": "EC", "crv": "P-256", "kid": "half", "x": x},
            {"kty": "quantum", "kid": "new"},
            7,
        ]});
        let keys = KeySet::of_file(&set.to_string()).unwrap();
        assert_eq!(keys.keys.len(), 1);
        assert_eq!(keys.find(Some("ed")).unwrap().algorithm, Algorithm::EdDSA);
    }

    #[test]
    fn a_published_secret_is_no_secret() {
        let set = json!({"keys": [{"kty": "oct", "kid": "s", "k": b64(&[7; 32])}]}).to_string();
        assert!(KeySet::of_file(&set).is_ok());
        let error = KeySet::published(set.as_bytes()).unwrap_err();
        assert!(error.contains("published secret"), "{error}");
        let weak = json!({"keys": [{"kty": "oct", "k": b64(&[7; 31])}]}).to_string();
        let error = KeySet::of_file(&weak).unwrap_err();
        assert!(error.contains("less than 32 bytes"), "{error}");
    }

    #[test]
    fn only_a_single_key_needs_no_id() {
        let key = |id: &str| json!({"kty": "OKP", "crv": "Ed25519", "kid": id, "x": b64(&[1; 32])});
        let of = |keys: Value| KeySet::of_file(&json!({ "keys": keys }).to_string()).unwrap();
        assert!(of(json!([key("a")])).find(None).is_ok());
        assert!(of(json!([key("a")])).find(Some("b")).is_err());
        let mut without_id = key("a");
        without_id["kid"] = Value::Null;
        assert!(of(json!([without_id])).find(Some("b")).is_ok());
        let two = of(json!([key("a"), key("b")]));
        assert!(two.find(Some("b")).is_ok());
        for id in [None, Some("c")] {
            assert_eq!(two.find(id).unwrap_err().reason(), Reason::Unknown);
        }
    }

    #[test]
    fn what_is_no_key_set_is_refused() {
        for text in [
            "",
            "[]",
            "{}",
            r#"{"keys": []}"#,
            r#"{"keys": 7}"#,
            "<html>",
        ] {
            assert!(KeySet::of_file(text).is_err(), "{text:?}");
        }
    }
}
