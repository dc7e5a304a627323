//! What a request asks for, as a fingerprint.

use bytes::Bytes;
use http::request::Parts;

use super::json;
use crate::{Fingerprint, Secret};

/// The fingerprint of a request: method, original path and query, body.
pub(super) fn fingerprint(secret: &Secret, parts: &Parts, body: &Bytes, canonical_json: bool) -> Fingerprint {
    let uri = original_uri(parts);
    let target = uri.path_and_query().map_or(uri.path(), |target| target.as_str());
    let canonical = match canonical_json && is_json(parts) {
        true => json::canonical(body),
        false => None,
    };
    let body = canonical.as_deref().unwrap_or(body);
    Fingerprint::new(secret, parts.method.as_str().as_bytes(), target.as_bytes(), body)
}

/// A nested axum router strips its prefix from the URI. Two siblings would then look the same, and replay
/// each other's answers.
fn original_uri(parts: &Parts) -> &http::Uri {
    #[cfg(feature = "axum")]
    if let Some(original) = parts.extensions.get::<axum::extract::OriginalUri>() {
        return &original.0;
    }
    &parts.uri
}

fn is_json(parts: &Parts) -> bool {
    let kind =
        parts.headers.get(http::header::CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or("");
    let kind = kind.split(';').next().unwrap_or("").trim();
    kind.eq_ignore_ascii_case("application/json") || kind.to_ascii_lowercase().ends_with("+json")
}
