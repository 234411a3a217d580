//! SaslAuthenticate (key 36): one step of a login, in the mechanism that
//! [`sasl_handshake`](super::sasl_handshake) chose.
//!
//! Version 0. Version 1 adds the lifetime of the session, which this crate does not renew:
//! when a broker ends it, the connection is opened again. Request:
//!
//! | field | type | since | meaning |
//! |---|---|---|---|
//! | `auth_bytes` | BYTES | 0 | the client's part of the exchange |
//!
//! Response:
//!
//! | field | type | since | meaning |
//! |---|---|---|---|
//! | `error_code` | INT16 | 0 | 0 or `SASL_AUTHENTICATION_FAILED` |
//! | `error_message` | NULLABLE_STRING | 0 | why the login is rejected |
//! | `auth_bytes` | BYTES | 0 | the broker's part of the exchange |

use super::primitives::{Decoder, Encoder, Result};
use super::{ApiKey, ErrorCode, Request};

#[derive(Debug)]
pub(crate) struct SaslAuthenticateRequest<'r> {
    pub(crate) auth_bytes: &'r [u8],
}

#[derive(Debug)]
pub(crate) struct SaslAuthenticate<'a> {
    pub(crate) error: Option<ErrorCode>,
    pub(crate) error_message: Option<&'a str>,
    pub(crate) auth_bytes: &'a [u8],
}

impl Request for SaslAuthenticateRequest<'_> {
    const API: ApiKey = ApiKey::SaslAuthenticate;

    type Response<'a> = SaslAuthenticate<'a>;

    fn encode(&self, _: i16, to: &mut Encoder<'_>) {
        to.bytes(self.auth_bytes);
    }

    fn decode<'a>(_: i16, from: &mut Decoder<'a>) -> Result<SaslAuthenticate<'a>> {
        Ok(SaslAuthenticate {
            error: ErrorCode::new(from.i16()?),
            error_message: from.nullable_string()?,
            auth_bytes: from.bytes()?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_step_is_written_and_its_answer_read() {
        let mut out = Vec::new();
        let request = SaslAuthenticateRequest { auth_bytes: b"n,," };
        request.encode(0, &mut Encoder::new(&mut out, false));
        assert_eq!(out, b"\0\0\0\x03n,,");
        let decode = |bytes| SaslAuthenticateRequest::decode(0, &mut Decoder::new(bytes, false));
        let accepted = decode(b"\0\0\xff\xff\0\0\0\x02ok").unwrap();
        assert_eq!((accepted.error, accepted.auth_bytes), (None, &b"ok"[..]));
        let rejected = decode(b"\0\x3a\0\x02no\0\0\0\0").unwrap();
        assert_eq!(rejected.error, Some(ErrorCode::SaslAuthenticationFailed));
        assert_eq!(rejected.error_message, Some("no"));
    }
}
