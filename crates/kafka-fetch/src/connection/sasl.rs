//! The login, by the mechanisms of rsasl.

use std::fmt::Display;
use std::time::Duration;

use rsasl::config::SASLConfig;
use rsasl::prelude::{Mechname, SASLClient, Session};

use super::{Connection, ConnectionError};
use crate::protocol::sasl_authenticate::SaslAuthenticateRequest;
use crate::protocol::sasl_handshake::SaslHandshakeRequest;
use crate::settings::Sasl;

/// Logs in, in as many steps as the mechanism takes.
pub(super) async fn log_in(
    connection: &mut Connection,
    sasl: &Sasl,
) -> Result<(), ConnectionError> {
    let mechanism = sasl.mechanism.name();
    let request = SaslHandshakeRequest { mechanism };
    let handshake = connection.request(&request, Duration::ZERO).await?;
    if handshake.error.is_some() {
        let offered = handshake.mechanisms.join(", ");
        let reason = format!("the broker offers {offered}, not {mechanism}");
        return Err(ConnectionError::Login(reason));
    }
    let mut session = session(sasl)?;
    let mut theirs: Option<Vec<u8>> = None;
    loop {
        let mut ours = Vec::new();
        let step = session.step(theirs.as_deref(), &mut ours);
        let state = step.map_err(failed)?;
        if state.has_sent_message() {
            let request = SaslAuthenticateRequest { auth_bytes: &ours };
            let response = connection.request(&request, Duration::ZERO).await?;
            if let Some(error) = response.error {
                let message = response.error_message.map(str::to_owned);
                let message = message.unwrap_or_else(|| error.to_string());
                return Err(ConnectionError::Login(message));
            }
            theirs = Some(response.auth_bytes.to_vec());
        }
        if state.is_finished() {
            return Ok(());
        }
    }
}

fn session(sasl: &Sasl) -> Result<Session, ConnectionError> {
    let (name, password) = (sasl.username.clone(), sasl.password.clone());
    let config = SASLConfig::with_credentials(None, name, password).map_err(failed)?;
    let wanted = Mechname::parse(sasl.mechanism.name().as_bytes()).map_err(failed)?;
    let session = SASLClient::new(config).start_suggested(&[wanted]);
    session.map_err(failed)
}

fn failed(error: impl Display) -> ConnectionError {
    ConnectionError::Login(error.to_string())
}
