//! Who the clients of this replica are.

use anyhow::{Context, ensure};
use iot_auth::{AuthConfig, Authenticator, Mode};
use iot_service::server::Listener;
use tokio_util::sync::CancellationToken;

use crate::metrics::Metrics;

/// Starts what finds out who the clients of `listener` are, until `stop`.
///
/// # Errors
/// Keys or tokens cannot be read, or `auth` is not set and others than this machine reach the
/// listener. The check of the settings does not know the listener, which tests and the demo bind.
pub(crate) fn start(
    config: &AuthConfig,
    listener: &Listener,
    metrics: &Metrics,
    stop: &CancellationToken,
) -> anyhow::Result<Authenticator> {
    let address = listener.local_addr().context("the HTTP listener")?;
    ensure!(
        config.mode != Mode::Unset || address.ip().to_canonical().is_loopback(),
        "{address} can be reached by others: set auth.mode, or write auth: none"
    );
    Authenticator::start(config, metrics.auth.clone(), stop)
}

#[cfg(test)]
mod tests {
    use prometheus::Registry;
    use tokio::net::TcpListener;

    use super::*;

    #[tokio::test]
    async fn without_auth_only_loopback_is_served() {
        let metrics = Metrics::new(&Registry::new()).unwrap();
        let stop = CancellationToken::new();
        for (address, mode, is_served) in [
            ("127.0.0.1:0", Mode::Unset, true),
            ("0.0.0.0:0", Mode::Unset, false),
            ("0.0.0.0:0", Mode::None, true),
        ] {
            let listener = TcpListener::bind(address).await.unwrap();
            let config = AuthConfig {
                mode,
                ..AuthConfig::default()
            };
            let started = start(&config, &listener.into(), &metrics, &stop);
            assert_eq!(started.is_ok(), is_served, "{address} {mode:?}");
        }
    }
}
