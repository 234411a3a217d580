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
use crate::hub::view::{AlertFilter, DeviceFilter, MOST};
use crate::hub::{Gone, OwnedWindows};

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

/// A device and its windows, named in the query. Unlike a path, a query can name any device:
/// clients remove `.` and `..` from paths, also as `%2E`, and some proxies decode `%2F`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct DeviceQuery {
    tenant: String,
    project: String,
    device: String,
    /// As in [`WindowQuery`].
    size: Option<String>,
}

pub(super) async fn device(
    Extract(state): Extract<State>,
    names: Result<Path<(String, String, String)>, PathRejection>,
    query: Result<Query<WindowQuery>, QueryRejection>,
) -> Result<Response, Error> {
    let Path((tenant, project, device)) = names?;
    let Query(WindowQuery { size }) = query?;
    let asked = DeviceQuery {
        tenant,
        project,
        device,
        size,
    };
    detail(&state, asked).await
}

pub(super) async fn device_by_query(
    Extract(state): Extract<State>,
    query: Result<Query<DeviceQuery>, QueryRejection>,
) -> Result<Response, Error> {
    let Query(asked) = query?;
    detail(&state, asked).await
}

async fn detail(state: &State, asked: DeviceQuery) -> Result<Response, Error> {
    let size = state.windows.find(asked.size.as_deref());
    let size = size.map_err(|reason| Error(StatusCode::BAD_REQUEST, reason))?;
    let name = format!("{}/{}/{}", asked.tenant, asked.project, asked.device);
    let key = DeviceKey {
        tenant: asked.tenant.into(),
        project: asked.project.into(),
        device: asked.device.into(),
    };
    let Some((device, owned)) = state.hub.device(key, size).await? else {
        return Err(Error(
            StatusCode::NOT_FOUND,
            format!("no device {name} is known here"),
        ));
    };
    let windows = match owned {
        Some(owned) => all_windows(state, owned).await?,
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

pub(super) async fn alerts(
    Extract(state): Extract<State>,
    filter: Result<Query<AlertFilter>, QueryRejection>,
) -> Result<Response, Error> {
    let Query(filter) = filter?;
    check_limit(filter.limit)?;
    Ok(Json(state.hub.alerts(filter).await?).into_response())
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
