//! Tokens in requests (RFC 6750, section 2.1).

use http::HeaderMap;
use http::header::AUTHORIZATION;

use crate::refusal::{Reason, Refusal};

/// Longest token, in bytes. Those of large organisations with hundreds of groups have 4 to 6 KiB.
const LONGEST: usize = 8 * 1024;

/// The token of a request.
pub(crate) fn token(headers: &HeaderMap) -> Result<&str, Refusal> {
    let mut values = headers.get_all(AUTHORIZATION).iter();
    let missing = || Refusal::new(Reason::Missing, "no Authorization header");
    let value = values.next().ok_or_else(missing)?;
    if values.next().is_some() {
        let detail = "more than one Authorization header";
        return Err(Refusal::new(Reason::Malformed, detail));
    }
    let malformed = || Refusal::new(Reason::Malformed, "Authorization is not `Bearer TOKEN`");
    let value = value.to_str().map_err(|_| malformed())?;
    let (scheme, token) = value.split_once(' ').ok_or_else(malformed)?;
    if !scheme.eq_ignore_ascii_case("bearer") {
        return Err(malformed());
    }
    check(token.trim_start_matches(' '))
}

/// Refuses what cannot be a token, before anything parses it.
pub(crate) fn check(token: &str) -> Result<&str, Refusal> {
    if token.is_empty() {
        return Err(Refusal::new(Reason::Missing, "the token is empty"));
    }
    if token.len() > LONGEST {
        let detail = format!("a token of {} bytes; at most {LONGEST}", token.len());
        return Err(Refusal::new(Reason::TooLong, detail));
    }
    Ok(token)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(values: &[&str]) -> Result<String, Reason> {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append(AUTHORIZATION, value.parse().unwrap());
        }
        let found = token(&headers).map(str::to_owned);
        found.map_err(|refusal| refusal.reason())
    }

    #[test]
    fn the_scheme_is_bearer_in_any_case() {
        assert_eq!(of(&["Bearer abc"]), Ok("abc".into()));
        assert_eq!(of(&["bearer  abc"]), Ok("abc".into()));
    }

    #[test]
    fn other_headers_are_refused() {
        assert_eq!(of(&[]), Err(Reason::Missing));
        assert_eq!(of(&["Bearer "]), Err(Reason::Missing));
        for malformed in ["Basic YTpi", "Bearer", "abc", "Bearér abc"] {
            assert_eq!(of(&[malformed]), Err(Reason::Malformed), "{malformed}");
        }
        assert_eq!(of(&["Bearer a", "Bearer b"]), Err(Reason::Malformed));
    }

    #[test]
    fn a_token_of_more_than_8_kib_is_refused() {
        let longest = "a".repeat(LONGEST);
        assert_eq!(of(&[&format!("Bearer {longest}")]), Ok(longest.clone()));
        assert_eq!(of(&[&format!("Bearer {longest}a")]), Err(Reason::TooLong));
    }
}
