//! ApiVersions (key 18): which requests a broker supports, in which versions. It is the
//! first request on every connection, before the login.
//!
//! Version 0, which every broker answers. The request has no fields. Response:
//!
//! | field | type | since | meaning |
//! |---|---|---|---|
//! | `error_code` | INT16 | 0 | 0 or why the broker does not answer |
//! | `api_keys` | ARRAY | 0 | for each request: |
//! | - `api_key` | INT16 | 0 | its number |
//! | - `min_version` | INT16 | 0 | the oldest version of it |
//! | - `max_version` | INT16 | 0 | the newest version of it |

use super::primitives::{Decoder, Encoder, Result};
use super::{ApiKey, ErrorCode, Request};

#[derive(Debug)]
pub(crate) struct ApiVersionsRequest;

/// What a broker supports.
#[derive(Debug)]
pub(crate) struct ApiVersions {
    pub(crate) error: Option<ErrorCode>,
    ranges: Vec<Range>,
}

/// Versions of a request that a broker has.
#[derive(Debug, Clone, Copy)]
struct Range {
    api_key: i16,
    min_version: i16,
    max_version: i16,
}

impl Request for ApiVersionsRequest {
    const API: ApiKey = ApiKey::ApiVersions;

    type Response<'a> = ApiVersions;

    fn encode(&self, _: i16, _: &mut Encoder<'_>) {}

    fn decode<'a>(_: i16, from: &mut Decoder<'a>) -> Result<ApiVersions> {
        Ok(ApiVersions {
            error: ErrorCode::new(from.i16()?),
            ranges: from.array(|from| {
                Ok(Range {
                    api_key: from.i16()?,
                    min_version: from.i16()?,
                    max_version: from.i16()?,
                })
            })?,
        })
    }
}

impl ApiVersions {
    /// The newest version of a request that both sides speak, if there is one.
    pub(crate) fn negotiate(&self, api: ApiKey) -> Option<i16> {
        let ours = &api.support().versions;
        let mut ranges = self.ranges.iter();
        let theirs = ranges.find(|range| range.api_key == api as i16)?;
        let version = theirs.max_version.min(*ours.end());
        (version >= theirs.min_version.max(*ours.start())).then_some(version)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn versions(ranges: &[[i16; 3]]) -> ApiVersions {
        let mut out = vec![0, 0, 0, 0, 0, ranges.len() as u8];
        out.extend(
            ranges
                .as_flattened()
                .iter()
                .flat_map(|number| number.to_be_bytes()),
        );
        ApiVersionsRequest::decode(0, &mut Decoder::new(&out, false)).unwrap()
    }

    #[test]
    fn the_newest_common_version_is_chosen() {
        for (range, expected) in [
            ([3, 0, 13], Some(10)),
            ([3, 0, 9], Some(9)),
            ([3, 7, 7], Some(7)),
            ([3, 10, 12], Some(10)),
            ([3, 0, 6], None),
            ([3, 11, 13], None),
            ([1, 0, 13], None),
        ] {
            let found = versions(&[[18, 0, 4], range]).negotiate(ApiKey::Metadata);
            assert_eq!(found, expected, "{range:?}");
        }
    }

    #[test]
    fn errors_are_passed_on() {
        let response = [0, 35, 0, 0, 0, 0];
        let response = ApiVersionsRequest::decode(0, &mut Decoder::new(&response, false));
        assert_eq!(response.unwrap().error, Some(ErrorCode::UnsupportedVersion));
    }
}
