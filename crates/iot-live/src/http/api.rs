//! The REST API, version 1. Lists and channels have the same paths and filters; with
//! `Accept: text/event-stream` a list is an event stream.

use std::borrow::Cow;
use std::sync::Arc;

use axum::Json;
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, RawQuery, State as Extract};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use iot_auth::Refusal;
use iot_fold::{Device, DeviceKey, Windows};
use iot_service::Problem;
use iot_service::config::HumanDuration;
use serde::Serialize;

use super::State;
use crate::access::{Gate, Unanswered};
use crate::channel::{BadChannel, Filter, Kind};
use crate::hub::{AlertPage, Page};
use crate::parameters::{BadParameter, Parameters};
use crate::session::with_sensor;
use crate::sse;

/// Devices returned when a request names no limit.
const DEVICES: usize = 500;
/// Alerts returned when a request names no limit.
const ALERTS: usize = 100;
/// The most of either in one answer.
const MOST: usize = 10_000;

/// An answer other than the one asked for.
#[derive(Debug)]
pub(crate) struct Error(Problem);

impl Error {
    pub(crate) fn new(status: StatusCode, detail: impl Into<String>) -> Self {
        Self(Problem::new(status, detail))
    }

    /// There is no identity. Why is in the log only.
    pub(crate) fn unauthorized() -> Self {
        Self::new(StatusCode::UNAUTHORIZED, "unauthorized")
    }
}

impl IntoResponse for Error {
    fn into_response(self) -> Response {
        self.0.into_response()
    }
}

impl From<Refusal> for Error {
    fn from(refusal: Refusal) -> Self {
        if refusal.is_temporary() {
            let reason = "identities cannot be checked now; retry later";
            return Self::new(StatusCode::SERVICE_UNAVAILABLE, reason);
        }
        Self::unauthorized()
    }
}

impl From<Unanswered> for Error {
    fn from(unanswered: Unanswered) -> Self {
        let status = match unanswered {
            Unanswered::Denied(_) => StatusCode::FORBIDDEN,
            Unanswered::Gone(_) | Unanswered::NoWindows(_) => StatusCode::SERVICE_UNAVAILABLE,
            // Neither reason applies to the only subscription of an event stream.
            Unanswered::Refused(_) => StatusCode::INTERNAL_SERVER_ERROR,
        };
        Self::new(status, unanswered.to_string())
    }
}

impl From<BadParameter> for Error {
    fn from(bad: BadParameter) -> Self {
        Self(Problem::bad_request(bad.to_string()).with_parameter(bad.name))
    }
}

impl From<BadChannel> for Error {
    fn from(bad: BadChannel) -> Self {
        match bad {
            BadChannel::Parameter(bad) => bad.into(),
            BadChannel::Unknown | BadChannel::TooLong(_) => {
                Self(Problem::bad_request(bad.to_string()))
            }
        }
    }
}

impl From<PathRejection> for Error {
    fn from(rejection: PathRejection) -> Self {
        Self(Problem::bad_request(rejection.body_text()))
    }
}

/// Which part of a list a query asks for.
fn page(kind: Kind, query: &str, default: usize) -> Result<Page, BadParameter> {
    let mut parameters = Parameters::read(query)?;
    let filter = Filter::read(kind, &mut parameters)?;
    let limit = parameters.number("limit", MOST)?.unwrap_or(default);
    let offset = parameters.number("offset", usize::MAX)?.unwrap_or(0);
    parameters.finish()?;
    Ok(Page {
        filter,
        limit,
        offset,
    })
}

/// Whether a client accepts event streams and prefers nothing else (RFC 9110, 12.5.1); JSON if it
/// names both with the same weight.
fn wants_events(headers: &HeaderMap) -> bool {
    let accepted = headers.get_all(header::ACCEPT).iter();
    let ranges = accepted
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','));
    let (mut events, mut json, mut any) = (0.0, 0.0, 0.0);
    for range in ranges {
        let mut parts = range.split(';').map(str::trim);
        let name = parts.next().unwrap_or_default().to_ascii_lowercase();
        let weight = parts.find_map(|part| part.strip_prefix("q=").or(part.strip_prefix("Q=")));
        let weight = weight.map_or(Some(1.0_f32), |weight| weight.parse().ok());
        let weight = weight.filter(|weight| (0.0..=1.0).contains(weight));
        let place = match &*name {
            "text/event-stream" => &mut events,
            "application/json" => &mut json,
            "application/*" | "*/*" => &mut any,
            _ => continue,
        };
        *place = weight.unwrap_or(0.0).max(*place);
    }
    events > json && events >= any
}

pub(super) async fn readings(
    state: Extract<State>,
    gate: Gate,
    query: RawQuery,
    headers: HeaderMap,
) -> Result<Response, Error> {
    list(Kind::Readings, (state, gate), query, headers).await
}

pub(super) async fn devices(
    state: Extract<State>,
    gate: Gate,
    query: RawQuery,
    headers: HeaderMap,
) -> Result<Response, Error> {
    list(Kind::Devices, (state, gate), query, headers).await
}

pub(super) async fn alerts(
    state: Extract<State>,
    gate: Gate,
    query: RawQuery,
    headers: HeaderMap,
) -> Result<Response, Error> {
    list(Kind::Alerts, (state, gate), query, headers).await
}

pub(super) async fn stats(
    state: Extract<State>,
    gate: Gate,
    query: RawQuery,
    headers: HeaderMap,
) -> Result<Response, Error> {
    list(Kind::Stats, (state, gate), query, headers).await
}

/// The position of a list: a client that has read it can subscribe from there on.
#[derive(Serialize)]
struct Position {
    epoch: Arc<str>,
    offset: u64,
}

/// A list of devices, up to one position.
#[derive(Serialize)]
struct DeviceList<'d> {
    devices: Vec<Cow<'d, Device>>,
    total: usize,
    position: Position,
}

/// A list of alerts, up to one position.
#[derive(Serialize)]
struct AlertList {
    #[serde(flatten)]
    page: AlertPage,
    position: Position,
}

async fn list(
    kind: Kind,
    (Extract(state), gate): (Extract<State>, Gate),
    RawQuery(query): RawQuery,
    headers: HeaderMap,
) -> Result<Response, Error> {
    let query = query.unwrap_or_default();
    if wants_events(&headers) {
        return sse::stream(state, gate, kind, &query, &headers).await;
    }
    let position = |offset| Position {
        epoch: gate.epoch(),
        offset,
    };
    match kind {
        Kind::Readings | Kind::Devices => {
            let page = page(kind, &query, DEVICES)?;
            let sensor = page.filter.sensor.clone();
            let found = gate.devices(page).await?;
            let devices = found.devices.iter();
            let devices = devices
                .map(|device| with_sensor(device, sensor.as_deref()))
                .collect();
            let position = position(found.position);
            let list = DeviceList {
                devices,
                total: found.total,
                position,
            };
            Ok(Json(list).into_response())
        }
        Kind::Alerts => {
            let page = gate.alerts(page(kind, &query, ALERTS)?).await?;
            let position = position(page.position);
            Ok(Json(AlertList { page, position }).into_response())
        }
        Kind::Stats => {
            Parameters::read(&query)?.finish()?;
            Ok(Json(gate.stats().await?).into_response())
        }
    }
}

/// A device with what only its partition knows.
#[derive(Serialize)]
struct Detail<'d> {
    #[serde(flatten)]
    device: &'d Device,
    windows: Windows,
}

pub(super) async fn device(
    Extract(state): Extract<State>,
    gate: Gate,
    names: Result<Path<[Arc<str>; 3]>, PathRejection>,
    RawQuery(query): RawQuery,
) -> Result<Response, Error> {
    let Path([tenant, project, device]) = names?;
    let query = query.unwrap_or_default();
    let parameters = Parameters::read(&query)?;
    let key = DeviceKey {
        tenant,
        project,
        device,
    };
    detail((&state, &gate), key, parameters).await
}

/// A device named in the query. Unlike a path, a query can name any device: clients remove `.`
/// and `..` from paths, also as `%2E`, and some proxies decode `%2F`.
pub(super) async fn device_by_query(
    Extract(state): Extract<State>,
    gate: Gate,
    RawQuery(query): RawQuery,
) -> Result<Response, Error> {
    let query = query.unwrap_or_default();
    let mut parameters = Parameters::read(&query)?;
    let key = DeviceKey {
        tenant: parameters.required("tenant")?,
        project: parameters.required("project")?,
        device: parameters.required("device")?,
    };
    detail((&state, &gate), key, parameters).await
}

async fn detail(
    (state, gate): (&State, &Gate),
    key: DeviceKey,
    mut parameters: Parameters<'_>,
) -> Result<Response, Error> {
    let size = parameters.text("size");
    parameters.finish()?;
    let size = window_size(&state.settings.window_sizes, size.as_deref())
        .map_err(|reason| BadParameter::new("size", reason))?;
    let Some((device, windows)) = gate.device(key, size).await? else {
        let reason = "no such device is known here";
        return Err(Error::new(StatusCode::NOT_FOUND, reason));
    };
    Ok(Json(Detail {
        device: &device,
        windows,
    })
    .into_response())
}

/// The window size `asked` for, or the smallest one, in milliseconds.
///
/// # Errors
/// `asked` is not a duration, or not one of `sizes`, which the text then lists.
fn window_size(sizes: &[HumanDuration], asked: Option<&str>) -> Result<i64, String> {
    let found = match asked {
        None => sizes.iter().min(),
        Some(text) => {
            let asked: HumanDuration = text.parse()?;
            sizes.iter().find(|size| **size == asked)
        }
    };
    let none = || {
        let sizes: Vec<_> = sizes.iter().map(ToString::to_string).collect();
        format!("size must be one of {}", sizes.join(", "))
    };
    let found = found.ok_or_else(none)?;
    Ok(i64::try_from(found.as_millis()).unwrap_or(i64::MAX))
}

pub(super) async fn unknown() -> Response {
    Error::new(StatusCode::NOT_FOUND, "there is nothing here").into_response()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accept_chooses_between_events_and_json() {
        let wants = |accept: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(header::ACCEPT, accept.parse().unwrap());
            wants_events(&headers)
        };
        for events in [
            "text/event-stream",
            "Text/Event-Stream; charset=utf-8",
            "application/json;q=0.5, text/event-stream;q=0.8",
            "*/*;q=0.1, text/event-stream",
            "text/event-stream, */*",
        ] {
            assert!(wants(events), "{events}");
        }
        for json in [
            "",
            "*/*",
            "text/*",
            "text/event-stream;q=0",
            "text/event-stream;q=nan",
            "text/event-stream, application/json",
            "text/event-stream;Q=0.5, application/json;q=0.8",
            "text/event-stream;q=0.5, */*",
        ] {
            assert!(!wants(json), "{json}");
        }
    }
}
