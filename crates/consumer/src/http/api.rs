//! The REST API, version 1.

use axum::Json;
use axum::extract::rejection::{PathRejection, QueryRejection};
use axum::extract::{Path, Query, State as Extract};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use iot_fold::{Device, DeviceKey, DeviceWindows, Windows, add_stored};
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::State;
use crate::hub::Gone;
use crate::hub::view::{DeviceFilter, MOST};
use crate::owner::OwnedWindows;

/// An answer other than the one asked for.
#[derive(Debug)]
pub(super) struct Error(StatusCode, String);

impl IntoResponse for Error {
    fn into_response(self) -> Response {
        (self.0, Json(json!({ "error": self.1 }))).into_response()
    }
}

impl From<Gone> for Error {
    fn from(gone: Gone) -> Self {
        Self(StatusCode::SERVICE_UNAVAILABLE, gone.to_string())
    }
}

impl From<QueryRejection> for Error {
    fn from(rejection: QueryRejection) -> Self {
        Self(StatusCode::BAD_REQUEST, rejection.body_text())
    }
}

impl From<PathRejection> for Error {
    fn from(rejection: PathRejection) -> Self {
        Self(StatusCode::BAD_REQUEST, rejection.body_text())
    }
}

/// Nothing can be asked for besides the path.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct NoQuery {}

/// Checks the parameter `limit`.
fn check_limit(limit: Option<usize>) -> Result<(), Error> {
    if limit.is_some_and(|limit| limit > MOST) {
        let reason = format!("limit must be at most {MOST}");
        return Err(Error(StatusCode::BAD_REQUEST, reason));
    }
    Ok(())
}

pub(super) async fn devices(
    Extract(state): Extract<State>,
    filter: Result<Query<DeviceFilter>, QueryRejection>,
) -> Result<Response, Error> {
    let Query(filter) = filter?;
    check_limit(filter.limit)?;
    let (devices, total) = state.hub.devices(filter).await?;
    Ok(Json(json!({ "devices": devices, "total": total })).into_response())
}

/// A device with what only its owner knows.
#[derive(Serialize)]
struct Detail<'d> {
    #[serde(flatten)]
    device: &'d Device,
    windows: Windows,
}

/// Which windows of a device are asked for.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct WindowQuery {
    /// Their length, such as `5m`; the smallest there is by default.
    size: Option<String>,
}

pub(super) async fn device(
    Extract(state): Extract<State>,
    names: Result<Path<(String, String, String)>, PathRejection>,
    query: Result<Query<WindowQuery>, QueryRejection>,
) -> Result<Response, Error> {
    let Path((tenant, project, device)) = names?;
    let size = state.windows.find(query?.size.as_deref());
    let size = size.map_err(|reason| Error(StatusCode::BAD_REQUEST, reason))?;
    let name = format!("{tenant}/{project}/{device}");
    let key = DeviceKey {
        tenant: tenant.into(),
        project: project.into(),
        device: device.into(),
    };
    let Some((device, owned)) = state.hub.device(key, size).await? else {
        return Err(Error(
            StatusCode::NOT_FOUND,
            format!("no device {name} is known here"),
        ));
    };
    let windows = match owned {
        Some(owned) => all_windows(&state, owned).await?,
        None => Windows::new(),
    };
    let device = &*device;
    Ok(Json(Detail { device, windows }).into_response())
}

/// Open windows from the owner, sealed ones from the store.
async fn all_windows(state: &State, owned: OwnedWindows) -> Result<Windows, Error> {
    let OwnedWindows { partition, windows } = owned;
    let DeviceWindows { mut here, stored } = windows;
    let stored = state.store.windows(&partition, &stored).await;
    let stored = stored.map_err(|error| {
        let reason = format!("the windows are not available now: {error}");
        Error(StatusCode::SERVICE_UNAVAILABLE, reason)
    })?;
    for value in &stored {
        // The others are no worse for it.
        if let Err(error) = add_stored(&mut here, value) {
            state.metrics.unreadable_window(&partition, &error);
        }
    }
    Ok(here)
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct AlertQuery {
    limit: Option<usize>,
}

pub(super) async fn alerts(
    Extract(state): Extract<State>,
    query: Result<Query<AlertQuery>, QueryRejection>,
) -> Result<Response, Error> {
    let Query(AlertQuery { limit }) = query?;
    check_limit(limit)?;
    let alerts = state.hub.alerts(limit).await?;
    Ok(Json(json!({ "alerts": alerts })).into_response())
}

pub(super) async fn stats(
    Extract(state): Extract<State>,
    query: Result<Query<NoQuery>, QueryRejection>,
) -> Result<Response, Error> {
    query?;
    Ok(Json(state.hub.stats().await?).into_response())
}

pub(super) async fn unknown() -> Response {
    Error(StatusCode::NOT_FOUND, "there is nothing here".to_owned()).into_response()
}
