//! Requests, and answers read whole.

use axum::Router;
use axum::body::Body;
use axum::http::Request;
use http_body_util::BodyExt;
use tower::ServiceExt;

#[derive(Debug, PartialEq, Eq, Clone)]
pub(crate) struct Got {
    pub(crate) status: u16,
    pub(crate) word: String,
    pub(crate) replayed: bool,
    pub(crate) body: String,
}

pub(crate) async fn send(app: &Router, request: axum::http::request::Builder, body: &str) -> Got {
    let request = request.body(Body::from(body.to_owned())).unwrap();
    let response = app.clone().oneshot(request).await.unwrap();
    let (parts, body) = response.into_parts();
    let header = |name: &str| parts.headers.get(name).map(|value| value.to_str().unwrap().to_owned());
    let body = body.collect().await.unwrap().to_bytes();
    Got {
        status: parts.status.as_u16(),
        word: header("idempotency-status").unwrap_or_default(),
        replayed: header("idempotent-replayed").is_some(),
        body: String::from_utf8_lossy(&body).into_owned(),
    }
}

/// A request to charge, which the handler answers as `x-do` says.
pub(crate) fn charge(key: &str, what: &str) -> axum::http::request::Builder {
    Request::post("/charges").header("idempotency-key", format!("\"{key}\"")).header("x-do", what)
}

pub(crate) fn step(step: &str, direction: &str, what: &str) -> axum::http::request::Builder {
    Request::post("/charges")
        .header("saga-run", "0192f3a1-0000-7000-8000-000000000001")
        .header("saga-step", step)
        .header("saga-occurrence", "0")
        .header("saga-direction", direction)
        .header("saga-attempt", "1")
        .header("x-do", what)
}
