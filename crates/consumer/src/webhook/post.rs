//! One notification on its way to the endpoint.

use std::time::Duration;

use anyhow::Context;
use http_body_util::Full;
use hyper::body::Bytes;
use hyper::header::{AUTHORIZATION, CONTENT_TYPE, HeaderValue};
use hyper::{Request, StatusCode, Uri};
use iot_core::headers::APPLICATION_JSON;
use iot_service::Backoff;
use iot_service::client::{self, Client};
use iot_service::config::{HumanDuration, Secret};
use tokio::time::timeout;

use crate::config::WebhookConfig;

/// Longest delay between two attempts.
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// The result of one attempt.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Sent {
    Accepted,
    /// Transient: a retry may succeed.
    Failed(String),
    /// Permanent: a retry would fail too.
    Refused(String),
}

/// Where notifications go. Redirects are not followed: the token is for this endpoint.
pub(super) struct Poster {
    client: Client,
    uri: Uri,
    timeout: HumanDuration,
    token: Secret,
    token_file: String,
}

impl Poster {
    /// # Errors
    /// The URL is not valid, or the CA certificates cannot be read.
    pub(super) fn new(config: &WebhookConfig) -> anyhow::Result<Self> {
        Ok(Self {
            client: client::https(&config.ca_file).context("setting up the webhook")?,
            uri: config.url.expose().parse().context("webhook.url")?,
            timeout: config.timeout,
            token: config.bearer_token.clone(),
            token_file: config.bearer_token_file.clone(),
        })
    }

    /// Makes one attempt.
    pub(super) async fn send(&self, body: &[u8]) -> Sent {
        let request = match self.request(body) {
            Ok(request) => request,
            Err(error) => return Sent::Failed(format!("{error:#}")),
        };
        match timeout(*self.timeout, self.client.request(request)).await {
            Ok(Ok(response)) => judge(response.status()),
            Ok(Err(error)) => Sent::Failed(client::cause(&error)),
            Err(_) => Sent::Failed(format!("no answer within {}", self.timeout)),
        }
    }

    fn request(&self, body: &[u8]) -> anyhow::Result<Request<Full<Bytes>>> {
        let request = Request::post(&self.uri).header(CONTENT_TYPE, APPLICATION_JSON);
        let token = self.token().context("webhook.bearer_token_file")?;
        let request = match token.expose() {
            "" => request,
            token => {
                let mut value = HeaderValue::try_from(format!("Bearer {token}"))
                    .context("webhook.bearer_token")?;
                value.set_sensitive(true);
                request.header(AUTHORIZATION, value)
            }
        };
        Ok(request.body(Full::new(Bytes::copy_from_slice(body)))?)
    }

    /// The file is read for each attempt, so that a new token takes effect without a restart.
    fn token(&self) -> std::io::Result<Secret> {
        if self.token_file.is_empty() {
            return Ok(self.token.clone());
        }
        let text = std::fs::read_to_string(&self.token_file)?;
        Ok(text.trim().into())
    }
}

/// The backoff between attempts.
pub(super) fn pauses() -> Backoff {
    Backoff::new(Duration::from_millis(500), LONGEST_PAUSE)
}

fn judge(status: StatusCode) -> Sent {
    let again = [StatusCode::REQUEST_TIMEOUT, StatusCode::TOO_MANY_REQUESTS];
    if status.is_success() {
        Sent::Accepted
    } else if status.is_server_error() || again.contains(&status) {
        Sent::Failed(format!("it answers {status}"))
    } else {
        Sent::Refused(format!("it answers {status}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_may_pass_is_tried_again() {
        for (status, again) in [
            (500, true),
            (503, true),
            (429, true),
            (408, true),
            (400, false),
            (401, false),
            (404, false),
            (302, false),
        ] {
            let judged = judge(StatusCode::from_u16(status).unwrap());
            assert_eq!(matches!(judged, Sent::Failed(_)), again, "{status}");
            assert_eq!(matches!(judged, Sent::Refused(_)), !again, "{status}");
        }
        assert_eq!(judge(StatusCode::NO_CONTENT), Sent::Accepted);
    }
}
