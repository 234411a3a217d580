//! The part of Kafka's protocol that fetching takes (<https://kafka.apache.org/protocol>):
//! six requests, each in a file of its own, and the versions of them that are spoken here.
//!
//! A request is an INT32 length and as many bytes: a header, then the body. A response too.
//!
//! Request header, version 1, or 2 where the request's version is flexible:
//!
//! | field | type | since | meaning |
//! |---|---|---|---|
//! | `request_api_key` | INT16 | 0 | which request it is: [`ApiKey`] |
//! | `request_api_version` | INT16 | 0 | in which version |
//! | `correlation_id` | INT32 | 0 | the response has the same number |
//! | `client_id` | NULLABLE_STRING | 1 | name of the client, for quotas and logs; not compact in version 2 either |
//! | tagged fields | TAG_BUFFER | 2 | none |
//!
//! Response header, version 0, or 1 where the response's version is flexible:
//!
//! | field | type | since | meaning |
//! |---|---|---|---|
//! | `correlation_id` | INT32 | 0 | that of the request |
//! | tagged fields | TAG_BUFFER | 1 | ignored |

pub(crate) mod api_versions;
pub(crate) mod error;
pub(crate) mod fetch;
pub(crate) mod list_offsets;
pub(crate) mod metadata;
pub(crate) mod primitives;
pub(crate) mod sasl_authenticate;
pub(crate) mod sasl_handshake;

use std::fmt;
use std::ops::RangeInclusive;

use bytes::BufMut;

pub(crate) use error::ErrorCode;
use primitives::{Decoder, Encoder, Malformed};

/// A request of the protocol, by its number (`api_key`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ApiKey {
    /// Records of partitions.
    Fetch = 1,
    /// Where logs start and end.
    ListOffsets = 2,
    /// Brokers, and the leaders of partitions.
    Metadata = 3,
    /// Choice of a SASL mechanism.
    SaslHandshake = 17,
    /// Requests and versions that a broker supports.
    ApiVersions = 18,
    /// One step of a SASL login.
    SaslAuthenticate = 36,
}

impl fmt::Display for ApiKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self:?}")
    }
}

/// What this crate speaks of a request.
#[derive(Debug)]
pub(crate) struct Support {
    pub(crate) api: ApiKey,
    /// Versions, of which the newest is used that the broker has too.
    pub(crate) versions: RangeInclusive<i16>,
    /// First version with compact types and tagged fields.
    flexible: i16,
    /// The first Kafka that has one of the versions.
    pub(crate) kafka: &'static str,
}

/// All that is spoken here. Fetch needs the newest Kafka, so that Kafka 2.3 (2019) is the
/// oldest that can be read from. Fetch 12 (Kafka 2.7) recognizes a truncated log, Metadata 10
/// (Kafka 2.8) adds the ids of topics, and Fetch 13 (Kafka 3.1) names topics by them.
pub(crate) const SUPPORTED: [Support; 6] = [
    support(ApiKey::Fetch, 11..=13, 12, "2.3"),
    support(ApiKey::ListOffsets, 5..=5, 6, "2.2"),
    support(ApiKey::Metadata, 7..=10, 9, "2.1"),
    support(ApiKey::SaslHandshake, 1..=1, i16::MAX, "1.0"),
    support(ApiKey::ApiVersions, 0..=0, 3, "0.10"),
    support(ApiKey::SaslAuthenticate, 0..=0, 2, "1.0"),
];

const fn support(
    api: ApiKey,
    versions: RangeInclusive<i16>,
    flexible: i16,
    kafka: &'static str,
) -> Support {
    Support {
        api,
        versions,
        flexible,
        kafka,
    }
}

impl ApiKey {
    pub(crate) fn support(self) -> &'static Support {
        let mut all = SUPPORTED.iter();
        all.find(|support| support.api == self)
            .expect("the table has every request")
    }

    pub(crate) fn is_flexible(self, version: i16) -> bool {
        version >= self.support().flexible
    }
}

/// A request, and how its response is read.
pub(crate) trait Request {
    const API: ApiKey;

    /// May borrow from the bytes of the response.
    type Response<'a>;

    /// The newest version that this request can be sent in, of those that are spoken here.
    fn newest(&self) -> i16 {
        *Self::API.support().versions.end()
    }

    /// Appends the body.
    fn encode(&self, version: i16, to: &mut Encoder<'_>);

    /// Reads the body of the response.
    fn decode<'a>(version: i16, from: &mut Decoder<'a>) -> Result<Self::Response<'a>, Malformed>;
}

/// Replaces `out` by a whole request, from its length on.
pub(crate) fn encode<R: Request>(
    request: &R,
    version: i16,
    correlation_id: i32,
    client_id: &str,
    out: &mut Vec<u8>,
) {
    out.clear();
    out.put_i32(0);
    let mut header = Encoder::new(out, false);
    header.i16(R::API as i16);
    header.i16(version);
    header.i32(correlation_id);
    header.string(client_id);
    let mut body = Encoder::new(out, R::API.is_flexible(version));
    // Those of the header.
    body.tagged_fields();
    request.encode(version, &mut body);
    let length = out.len() as i32 - 4;
    out[..4].copy_from_slice(&length.to_be_bytes());
}

/// Reads a response after its correlation id.
pub(crate) fn decode<R: Request>(
    version: i16,
    response: &[u8],
) -> Result<R::Response<'_>, Malformed> {
    let mut decoder = Decoder::new(response, R::API.is_flexible(version));
    // Responses to ApiVersions never have them, whatever the version, so that clients can
    // read those of brokers that they know nothing about.
    if R::API != ApiKey::ApiVersions {
        decoder.tagged_fields()?;
    }
    R::decode(version, &mut decoder)
}
