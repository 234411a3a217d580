//! Errors of HTTP APIs (RFC 9457).

use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;

/// An answer other than the one asked for: `application/problem+json` with `title`, `status`,
/// `detail` and, if one is wrong, `parameter`. There is no `type`: the status says which it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    status: StatusCode,
    detail: String,
    parameter: Option<String>,
}

#[derive(Serialize)]
struct Body<'p> {
    title: &'p str,
    status: u16,
    detail: &'p str,
    #[serde(skip_serializing_if = "Option::is_none")]
    parameter: Option<&'p str>,
}

impl Problem {
    /// A problem; `detail` is for people.
    pub fn new(status: StatusCode, detail: impl Into<String>) -> Self {
        Self {
            status,
            detail: detail.into(),
            parameter: None,
        }
    }

    /// A request that cannot be understood.
    pub fn bad_request(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, detail)
    }

    /// The same, about a parameter of the query.
    #[must_use]
    pub fn with_parameter(self, name: Option<String>) -> Self {
        Self {
            parameter: name,
            ..self
        }
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let body = Body {
            title: self.status.canonical_reason().unwrap_or_default(),
            status: self.status.as_u16(),
            detail: &self.detail,
            parameter: self.parameter.as_deref(),
        };
        let mut response = (self.status, axum::Json(body)).into_response();
        let headers = response.headers_mut();
        let problem = HeaderValue::from_static("application/problem+json");
        headers.insert(header::CONTENT_TYPE, problem);
        if self.status == StatusCode::UNAUTHORIZED {
            // RFC 9110, 15.5.2.
            let scheme = HeaderValue::from_static("Bearer");
            headers.insert(header::WWW_AUTHENTICATE, scheme);
        }
        response
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt;
    use serde_json::{Value, json};

    use super::*;

    async fn answer(problem: Problem) -> (Response, Value) {
        let (parts, body) = problem.into_response().into_parts();
        let body = body.collect().await.unwrap().to_bytes();
        let body = serde_json::from_slice(&body).unwrap();
        (Response::from_parts(parts, axum::body::Body::empty()), body)
    }

    #[tokio::test]
    async fn a_problem_names_what_is_wrong() {
        let problem = Problem::bad_request("limit must be a number");
        let (response, body) = answer(problem.with_parameter(Some("limit".into()))).await;
        assert_eq!(response.status(), 400);
        assert_eq!(
            response.headers()["content-type"],
            "application/problem+json"
        );
        let expected = json!({
            "title": "Bad Request",
            "status": 400,
            "detail": "limit must be a number",
            "parameter": "limit",
        });
        assert_eq!(body, expected);
    }

    #[tokio::test]
    async fn only_those_without_an_identity_are_asked_for_one() {
        for (status, challenge) in [(401, Some("Bearer")), (403, None)] {
            let problem = Problem::new(StatusCode::from_u16(status).unwrap(), "no");
            let (response, body) = answer(problem).await;
            let found = response.headers().get("www-authenticate");
            assert_eq!(found.map(|found| found.to_str().unwrap()), challenge);
            assert_eq!(body.get("parameter"), None);
        }
    }
}
