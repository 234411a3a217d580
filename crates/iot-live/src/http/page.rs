//! The page, embedded in the binary.

use std::collections::hash_map::DefaultHasher;
use std::hash::{Hash, Hasher};

use axum::extract::Path;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};

use super::api;

/// Files that are served under `/static/`, by name.
macro_rules! assets {
    ($($name:literal),* $(,)?) => {
        &[$(($name, include_bytes!(concat!("../../page/", $name)))),*]
    };
}

const INDEX: &[u8] = include_bytes!("../../page/index.html");

const ASSETS: &[(&str, &[u8])] = assets![
    "alerts.js",
    "app.css",
    "app.js",
    "chart.js",
    "dom.js",
    "favicon.svg",
    "format.js",
    "history.js",
    "identity.js",
    "live.js",
    "places.js",
    "session.js",
    "store.js",
    "subscription.js",
    "view-alerts.js",
    "view-chart.js",
    "view-detail.js",
    "view-list.js",
    "view-places.js",
    "view-row.js",
    "view-session.js",
    "view-summary.js",
];

pub(super) async fn index(headers: HeaderMap) -> Response {
    answer("index.html", INDEX, &headers)
}

pub(super) async fn asset(Path(name): Path<String>, headers: HeaderMap) -> Response {
    match ASSETS.iter().find(|(known, _)| *known == name) {
        Some((name, bytes)) => answer(name, bytes, &headers),
        None => api::unknown().await,
    }
}

/// Browsers keep the file but ask each time whether it is still the one, so
/// that a page never mixes files of two versions.
fn answer(name: &str, bytes: &'static [u8], headers: &HeaderMap) -> Response {
    let tag = tag(bytes);
    let caching = [
        (header::ETAG, tag.clone()),
        (header::CACHE_CONTROL, "no-cache".to_owned()),
    ];
    let known = headers.get_all(header::IF_NONE_MATCH).iter();
    if known
        .filter_map(|value| value.to_str().ok())
        .any(|value| value.contains(&tag))
    {
        return (StatusCode::NOT_MODIFIED, caching).into_response();
    }
    (caching, [(header::CONTENT_TYPE, media_type(name))], bytes).into_response()
}

fn tag(bytes: &[u8]) -> String {
    let mut hasher = DefaultHasher::new();
    bytes.hash(&mut hasher);
    format!("\"{:016x}\"", hasher.finish())
}

fn media_type(name: &str) -> &'static str {
    match name.rsplit_once('.').map(|(_, extension)| extension) {
        Some("html") => "text/html; charset=utf-8",
        Some("css") => "text/css; charset=utf-8",
        Some("js") => "text/javascript; charset=utf-8",
        Some("svg") => "image/svg+xml",
        Some("png") => "image/png",
        _ => "application/octet-stream",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_file_of_the_page_is_served() {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/page");
        let files = std::fs::read_dir(folder).unwrap().map(Result::unwrap);
        let files = files.filter(|entry| entry.file_type().unwrap().is_file());
        let mut files: Vec<_> = files
            .map(|f| f.file_name().into_string().unwrap())
            .collect();
        files.retain(|name| name != "index.html");
        files.sort();
        let served: Vec<_> = ASSETS.iter().map(|(name, _)| *name).collect();
        assert_eq!(served, files, "add what is missing to ASSETS");
        assert!(
            files
                .iter()
                .all(|name| media_type(name) != "application/octet-stream")
        );
    }
}
