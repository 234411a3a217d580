//! The only way to what the hub knows.

use std::sync::Arc;
use std::time::Duration;

use iot_auth::{Identity, Scope};
use iot_fold::{Device, DeviceKey, Windows};
use jiff::Timestamp;
use tokio::time::Instant;

use super::{Denied, decide, scope};
use crate::channel::{Channel, Filter};
use crate::hub::{
    AlertPage, ClientId, DevicePage, Gone, Hub, NoWindows, Page, Refused, Stats, Subscribe,
    Subscribed,
};

/// Later than any connection ends: timers do not take the year 9999.
const FAR: Duration = Duration::from_secs(365 * 24 * 3_600);

/// What one identity may ask the hub.
#[derive(Clone)]
pub(crate) struct Gate {
    identity: Arc<Identity>,
    hub: Hub,
    /// What positions of unrestricted clients belong to.
    log: Arc<str>,
}

/// Why there is no answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Unanswered {
    /// The identity may not have it.
    #[error(transparent)]
    Denied(#[from] Denied),
    /// The hub refuses the subscription.
    #[error(transparent)]
    Refused(#[from] Refused),
    /// The hub does not answer.
    #[error(transparent)]
    Gone(#[from] Gone),
    /// The windows of a device are not available.
    #[error(transparent)]
    NoWindows(#[from] NoWindows),
}

impl Gate {
    pub(super) fn new(identity: Identity, hub: Hub, log: Arc<str>) -> Self {
        Self {
            identity: Arc::new(identity),
            hub,
            log,
        }
    }

    /// Whose it is.
    pub(crate) fn identity(&self) -> &Identity {
        &self.identity
    }

    /// When the identity has to be proved again; `None` for never.
    pub(crate) fn expires_at(&self) -> Option<Instant> {
        let left = self.expires_in(Timestamp::now())?;
        Some(Instant::now() + left)
    }

    /// How long the identity counts still; `None` for ever.
    pub(crate) fn expires_in(&self, now: Timestamp) -> Option<Duration> {
        let left = self.identity.expires?.duration_since(now);
        // One that has expired meanwhile has no time left.
        Some(Duration::try_from(left).unwrap_or_default().min(FAR))
    }

    /// Whether another gate is to the same.
    pub(crate) fn sees_as(&self, other: &Self) -> bool {
        self.identity.scope == other.identity.scope
    }

    /// What the positions of lists and subscriptions belong to.
    pub(crate) fn epoch(&self) -> Arc<str> {
        let scope = &self.identity.scope;
        scope::epoch(&self.log, (**scope != Scope::ALL).then_some(scope))
    }

    /// Devices by tenant, project and id.
    pub(crate) async fn devices(&self, mut page: Page) -> Result<DevicePage, Unanswered> {
        page.filter = decide(&self.identity, page.filter)?;
        Ok(self.hub.devices(page).await?)
    }

    /// A device with its windows of length `size` (ms); `None` if it is not known, or outside of
    /// the scope.
    pub(crate) async fn device(
        &self,
        key: DeviceKey,
        size: i64,
    ) -> Result<Option<(Arc<Device>, Windows)>, Unanswered> {
        let asked = Filter {
            tenant: Some(key.tenant.clone()),
            project: Some(key.project.clone()),
            ..Filter::default()
        };
        let filter = decide(&self.identity, asked)?;
        Ok(self.hub.device(key, filter, size).await?)
    }

    /// Alerts in the order in which they are listed.
    pub(crate) async fn alerts(&self, mut page: Page) -> Result<AlertPage, Unanswered> {
        page.filter = decide(&self.identity, page.filter)?;
        Ok(self.hub.alerts(page).await?)
    }

    /// The service at a glance.
    pub(crate) async fn stats(&self) -> Result<Stats, Unanswered> {
        let filter = decide(&self.identity, Filter::default())?;
        Ok(self.hub.stats(filter).await?)
    }

    /// Subscribes a client. Publications in its outbox are newer than the answer.
    pub(crate) async fn subscribe(
        &self,
        mut subscribe: Subscribe,
    ) -> Result<Subscribed, Unanswered> {
        subscribe.channel.filter = decide(&self.identity, subscribe.channel.filter)?;
        Ok(self.hub.subscribe(subscribe).await??)
    }

    /// Ends a subscription. When this is answered, nothing of the channel comes any more.
    pub(crate) async fn unsubscribe(
        &self,
        client: ClientId,
        channel: Channel,
    ) -> Result<(), Unanswered> {
        self.forget(client, channel).await;
        // Answered after it.
        self.stats().await.map(drop)
    }

    /// Ends a subscription, if there is one.
    pub(crate) async fn forget(&self, client: ClientId, channel: Channel) {
        self.hub.unsubscribe(client, channel).await;
    }

    /// Ends all subscriptions of a client, which subscribes again. When this is answered, nothing
    /// of them comes any more but their ends.
    pub(crate) async fn resubscribe(&self, client: ClientId) -> Result<(), Unanswered> {
        Ok(self.hub.resubscribe(client).await?)
    }

    /// Ends all subscriptions of a client that has left.
    pub(crate) async fn leave(&self, client: ClientId) {
        self.hub.leave(client).await;
    }
}
