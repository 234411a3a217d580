//! Where clients prove who they are.

use std::net::IpAddr;
use std::sync::Arc;

use axum::http::HeaderMap;
use iot_auth::{Authenticator, Refusal};

use super::Gate;
use crate::hub::Hub;

/// Makes gates of identities: handlers reach the hub in no other way.
#[derive(Clone)]
pub(crate) struct Door {
    auth: Authenticator,
    hub: Hub,
    /// What positions of unrestricted clients belong to.
    log: Arc<str>,
}

impl Door {
    pub(crate) fn new(auth: Authenticator, hub: Hub, log: Arc<str>) -> Self {
        Self { auth, hub, log }
    }

    /// Whether the request is to a name of this service.
    pub(crate) fn is_for_us(&self, headers: &HeaderMap) -> bool {
        self.auth.host_allowed(headers)
    }

    /// Whether clients can prove who they are by a token in a connect request.
    pub(crate) fn uses_tokens(&self) -> bool {
        self.auth.uses_tokens()
    }

    /// Lets in the identity that the headers of a request name.
    ///
    /// # Errors
    /// They name none, or it is not proved.
    pub(crate) async fn admit(&self, headers: &HeaderMap, peer: IpAddr) -> Result<Gate, Refusal> {
        let identity = self.auth.identify(headers, peer).await?;
        Ok(Gate::new(identity, self.hub.clone(), self.log.clone()))
    }

    /// Lets in the identity that a token names.
    ///
    /// # Errors
    /// The token is not valid now, or cannot be checked now.
    pub(crate) async fn admit_token(&self, token: &str) -> Result<Gate, Refusal> {
        let identity = self.auth.identify_token(token).await?;
        Ok(Gate::new(identity, self.hub.clone(), self.log.clone()))
    }
}
