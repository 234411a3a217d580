//! Keys that an issuer publishes: fetched by one task, and again before they are old, or when a
//! token names a key that is not among them.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail};
use http::{Request, Uri};
use http_body_util::{BodyExt, Full, Limited};
use iot_service::Backoff;
use iot_service::client::{self, Client};
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::keys::{Key, KeySet};
use crate::config::JwtConfig;
use crate::metrics::AuthMetrics;
use crate::refusal::{Reason, Refusal};

/// Time between two fetches that tokens with unknown keys cause: anyone can make such tokens.
pub(super) const BETWEEN: Duration = Duration::from_secs(10);
/// Delays between attempts while the issuer does not answer.
const FIRST_PAUSE: Duration = Duration::from_millis(500);
const LONGEST_PAUSE: Duration = Duration::from_secs(60);
/// Largest answer; sets of keys have some KiB.
const LARGEST: usize = 1024 * 1024;

/// The keys of an issuer.
#[derive(Debug)]
pub(super) struct Fetched {
    state: watch::Receiver<State>,
    asked: mpsc::Sender<()>,
    /// How long a client waits for a fetch.
    patience: Duration,
    /// Time between two fetches that clients cause.
    between: Duration,
}

/// What the last fetch has left.
#[derive(Debug, Clone, Default)]
struct State {
    /// The keys of the last fetch that had some.
    keys: Option<Arc<KeySet>>,
    /// When the last fetch ended.
    ended: Option<Instant>,
    /// Whether it had none.
    has_failed: bool,
}

impl Fetched {
    /// Fetches keys until `stop`. Between two fetches that clients cause is the time `between`.
    ///
    /// # Errors
    /// The URL is not valid, or the CA certificates cannot be read.
    pub(super) fn start(
        config: &JwtConfig,
        between: Duration,
        metrics: AuthMetrics,
        stop: &CancellationToken,
    ) -> anyhow::Result<Self> {
        let source = Source {
            client: client::https(&config.ca_file).context("setting up jwks_url")?,
            uri: config.jwks_url.parse().context("jwks_url")?,
            timeout: *config.timeout,
        };
        let (sender, state) = watch::channel(State::default());
        let (asked, asks) = mpsc::channel(1);
        let task = Task {
            source,
            refresh: *config.refresh,
            between,
            backoff: Backoff::new(FIRST_PAUSE, LONGEST_PAUSE),
            metrics,
            state: sender,
        };
        let stop = stop.clone();
        tokio::spawn(async move { stop.run_until_cancelled(task.run(asks)).await });
        Ok(Self {
            state,
            asked,
            patience: *config.timeout,
            between,
        })
    }

    /// The key with an id. If it is unknown, keys are fetched first, unless that was done less
    /// than `between` ago.
    pub(super) async fn find(&self, id: Option<&str>) -> Result<Arc<Key>, Refusal> {
        let mut state = self.state.clone();
        let now = state.borrow_and_update().clone();
        let unknown = match now.find(id) {
            Ok(key) => return Ok(key),
            Err(refusal) => refusal,
        };
        if now
            .ended
            .is_some_and(|ended| ended.elapsed() < self.between)
        {
            return Err(unknown);
        }
        // A full queue has such a question already.
        let _ = self.asked.try_send(());
        match timeout(self.patience, state.changed()).await {
            Ok(Ok(())) => state.borrow().find(id),
            Ok(Err(_)) | Err(_) => Err(unknown),
        }
    }
}

impl State {
    fn find(&self, id: Option<&str>) -> Result<Arc<Key>, Refusal> {
        let detail = match &self.keys {
            None => "the issuer's keys have not been fetched yet",
            Some(keys) => match keys.find(id) {
                Err(_) if self.has_failed => {
                    "the token's key is unknown, and may be one that could not be fetched"
                }
                found => return found,
            },
        };
        Err(Refusal::new(Reason::Unavailable, detail))
    }
}

/// The task that fetches.
struct Task {
    source: Source,
    refresh: Duration,
    between: Duration,
    backoff: Backoff,
    metrics: AuthMetrics,
    state: watch::Sender<State>,
}

impl Task {
    async fn run(mut self, mut asks: mpsc::Receiver<()>) {
        loop {
            let pause = self.fetch().await;
            tokio::select! {
                () = sleep(pause) => {}
                () = asked(&mut asks, self.between) => {}
            }
        }
    }

    /// Makes one attempt, and returns the time until the next one.
    async fn fetch(&mut self) -> Duration {
        let fetched = self.source.fetch().await;
        self.metrics.fetched(fetched.is_ok());
        let ended = Some(Instant::now());
        match fetched {
            Ok(keys) => {
                self.state.send_modify(|state| {
                    *state = State {
                        keys: Some(Arc::new(keys)),
                        ended,
                        has_failed: false,
                    };
                });
                self.backoff.reset();
                self.refresh
            }
            Err(error) => {
                let has_keys = self.state.borrow().keys.is_some();
                let (url, pause) = (&self.source.uri, self.backoff.next_delay());
                let error = format!("{error:#}");
                if has_keys {
                    tracing::warn!(%url, error, "cannot fetch keys; using those of before, retrying");
                } else {
                    tracing::error!(%url, error, "cannot fetch keys; refusing clients, retrying");
                }
                self.state.send_modify(|state| {
                    state.ended = ended;
                    state.has_failed = true;
                });
                pause
            }
        }
    }
}

/// Waits until the time `between` has passed and someone asks.
async fn asked(asks: &mut mpsc::Receiver<()>, between: Duration) {
    // Asked before the last fetch has ended, which has answered it.
    while asks.try_recv().is_ok() {}
    sleep(between).await;
    if asks.recv().await.is_none() {
        std::future::pending::<()>().await;
    }
}

/// Where keys are fetched. Redirects are not followed: keys come from nowhere else.
struct Source {
    client: Client,
    uri: Uri,
    timeout: Duration,
}

impl Source {
    async fn fetch(&self) -> anyhow::Result<KeySet> {
        let answer = timeout(self.timeout, self.get()).await;
        let body = answer.with_context(|| format!("no answer within {:?}", self.timeout))??;
        KeySet::published(&body).map_err(|problem| anyhow::anyhow!("the answer {problem}"))
    }

    async fn get(&self) -> anyhow::Result<Vec<u8>> {
        let request = Request::get(&self.uri)
            .header(
                http::header::ACCEPT,
                "application/jwk-set+json, application/json",
            )
            .body(Full::default())?;
        let answer = self.client.request(request).await;
        let answer = answer.map_err(|error| anyhow::anyhow!(client::cause(&error)))?;
        if !answer.status().is_success() {
            bail!("it answers {}", answer.status());
        }
        let body = Limited::new(answer.into_body(), LARGEST).collect().await;
        let body = body.map_err(|error| anyhow::anyhow!("{error}"))?;
        Ok(body.to_bytes().to_vec())
    }
}
