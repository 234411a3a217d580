//! An issuer that signs tokens.

use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use ring::rand::SystemRandom;
use ring::signature::{
    ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair, RSA_PKCS1_SHA256,
    RsaKeyPair,
};
use serde_json::{Value, json};

/// A key that is in no use, made with openssl genpkey.
const RSA: &str = include_str!("../testdata/rsa2048.pem");

pub(super) struct Issuer {
    pub(super) id: &'static str,
    signer: Signer,
}

pub(super) enum Signer {
    Rsa(RsaKeyPair),
    P256(EcdsaKeyPair),
    Ed25519(Ed25519KeyPair),
    Hmac(Vec<u8>),
}

pub(super) fn rsa(id: &'static str) -> Issuer {
    let lines = RSA.lines().filter(|line| !line.starts_with("-----"));
    let key = STANDARD.decode(lines.collect::<String>()).unwrap();
    Issuer::of(Signer::Rsa(RsaKeyPair::from_pkcs8(&key).unwrap()), id)
}

pub(super) fn p256(id: &'static str) -> Issuer {
    let (algorithm, random) = (&ECDSA_P256_SHA256_FIXED_SIGNING, SystemRandom::new());
    let pkcs8 = EcdsaKeyPair::generate_pkcs8(algorithm, &random).unwrap();
    let pair = EcdsaKeyPair::from_pkcs8(algorithm, pkcs8.as_ref(), &random).unwrap();
    Issuer::of(Signer::P256(pair), id)
}

pub(super) fn ed25519(id: &'static str) -> Issuer {
    let pkcs8 = Ed25519KeyPair::generate_pkcs8(&SystemRandom::new()).unwrap();
    let pair = Ed25519KeyPair::from_pkcs8(pkcs8.as_ref()).unwrap();
    Issuer::of(Signer::Ed25519(pair), id)
}

pub(super) fn hmac(id: &'static str) -> Issuer {
    Issuer::of(Signer::Hmac(vec![7; 32]), id)
}

/// The keys as issuers publish them.
pub(super) fn jwks(issuers: &[&Issuer]) -> Value {
    let keys: Vec<_> = issuers.iter().map(|issuer| issuer.jwk()).collect();
    json!({ "keys": keys })
}

/// A token with this header, signed by `sign`.
pub(super) fn token(header: &Value, claims: &Value, sign: impl Fn(&[u8]) -> Vec<u8>) -> String {
    let text = format!("{}.{}", b64(header.to_string()), b64(claims.to_string()));
    format!("{text}.{}", b64(sign(text.as_bytes())))
}

pub(super) fn hmac_of(secret: &[u8], text: &[u8]) -> Vec<u8> {
    let key = ring::hmac::Key::new(ring::hmac::HMAC_SHA256, secret);
    ring::hmac::sign(&key, text).as_ref().to_vec()
}

fn b64(bytes: impl AsRef<[u8]>) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

impl Issuer {
    pub(super) fn of(signer: Signer, id: &'static str) -> Self {
        Self { id, signer }
    }

    pub(super) fn algorithm(&self) -> &'static str {
        match self.signer {
            Signer::Rsa(_) => "RS256",
            Signer::P256(_) => "ES256",
            Signer::Ed25519(_) => "EdDSA",
            Signer::Hmac(_) => "HS256",
        }
    }

    pub(super) fn sign(&self, claims: &Value) -> String {
        let header = json!({"alg": self.algorithm(), "typ": "JWT", "kid": self.id});
        token(&header, claims, |text| self.signature(text))
    }

    pub(super) fn signature(&self, text: &[u8]) -> Vec<u8> {
        let random = SystemRandom::new();
        match &self.signer {
            Signer::Rsa(pair) => {
                let mut signature = vec![0; pair.public().modulus_len()];
                pair.sign(&RSA_PKCS1_SHA256, &random, text, &mut signature)
                    .unwrap();
                signature
            }
            Signer::P256(pair) => pair.sign(&random, text).unwrap().as_ref().to_vec(),
            Signer::Ed25519(pair) => pair.sign(text).as_ref().to_vec(),
            Signer::Hmac(secret) => hmac_of(secret, text),
        }
    }

    /// What an attacker might take for the secret of an HMAC.
    pub(super) fn public_forms(&self) -> Vec<Vec<u8>> {
        let bytes = match &self.signer {
            Signer::Rsa(pair) => pair.public_key().as_ref().to_vec(),
            Signer::P256(pair) => pair.public_key().as_ref().to_vec(),
            Signer::Ed25519(pair) => pair.public_key().as_ref().to_vec(),
            Signer::Hmac(_) => panic!("a secret has no public form"),
        };
        vec![
            bytes.clone(),
            b64(bytes).into_bytes(),
            self.jwk().to_string().into_bytes(),
        ]
    }

    fn jwk(&self) -> Value {
        let mut jwk = match &self.signer {
            Signer::Rsa(pair) => {
                let public: ring::rsa::PublicKeyComponents<Vec<u8>> = pair.public().into();
                json!({"kty": "RSA", "n": b64(public.n), "e": b64(public.e)})
            }
            Signer::P256(pair) => {
                let point = pair.public_key().as_ref();
                json!({"kty": "EC", "crv": "P-256", "x": b64(&point[1..33]), "y": b64(&point[33..])})
            }
            Signer::Ed25519(pair) => {
                json!({"kty": "OKP", "crv": "Ed25519", "x": b64(pair.public_key())})
            }
            Signer::Hmac(secret) => json!({"kty": "oct", "k": b64(secret)}),
        };
        jwk["kid"] = self.id.into();
        jwk["alg"] = self.algorithm().into();
        jwk
    }
}
