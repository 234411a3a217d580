//! SaslHandshake (key 17): the choice of the mechanism that a client logs in by.
//!
//! Version 1, after which the steps of the login are requests too
//! ([`sasl_authenticate`](super::sasl_authenticate)); after version 0 they would be bare bytes.
//!
//! Request:
//!
//! | field | type | since | meaning |
//! |---|---|---|---|
//! | `mechanism` | STRING | 0 | name of the mechanism, such as `SCRAM-SHA-512` |
//!
//! Response:
//!
//! | field | type | since | meaning |
//! |---|---|---|---|
//! | `error_code` | INT16 | 0 | 0 or `UNSUPPORTED_SASL_MECHANISM` |
//! | `mechanisms` | ARRAY of STRING | 0 | the mechanisms that the broker offers |

use super::primitives::{Decoder, Encoder, Result};
use super::{ApiKey, ErrorCode, Request};

#[derive(Debug)]
pub(crate) struct SaslHandshakeRequest<'r> {
    pub(crate) mechanism: &'r str,
}

#[derive(Debug)]
pub(crate) struct SaslHandshake {
    pub(crate) error: Option<ErrorCode>,
    pub(crate) mechanisms: Vec<String>,
}

impl Request for SaslHandshakeRequest<'_> {
    const API: ApiKey = ApiKey::SaslHandshake;

    type Response<'a> = SaslHandshake;

    fn encode(&self, _: i16, to: &mut Encoder<'_>) {
        to.string(self.mechanism);
    }

    fn decode<'a>(_: i16, from: &mut Decoder<'a>) -> Result<SaslHandshake> {
        Ok(SaslHandshake {
            error: ErrorCode::new(from.i16()?),
            mechanisms: from.array(|from| Ok(from.string()?.to_owned()))?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_offered_mechanisms_are_read() {
        let mut out = Vec::new();
        let request = SaslHandshakeRequest { mechanism: "PLAIN" };
        request.encode(1, &mut Encoder::new(&mut out, false));
        assert_eq!(out, b"\x00\x05PLAIN");
        let response = b"\x00\x21\0\0\0\x02\x00\x05PLAIN\x00\x01X";
        let response = SaslHandshakeRequest::decode(1, &mut Decoder::new(response, false)).unwrap();
        assert_eq!(response.error, Some(ErrorCode::UnsupportedSaslMechanism));
        assert_eq!(response.mechanisms, ["PLAIN", "X"]);
    }
}
