//! A payment service behind the layer, and a client that sends raw requests to it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use axum::Router;
use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, Request, Response, StatusCode};
use axum::response::IntoResponse;
use axum::routing::post;
use http_body_util::BodyExt;
use idempotency::{Execution, IdempotencyLayer, MemoryStore, Scope, Secret};
use tower::ServiceExt;

/// What the handler counts: its effects.
#[derive(Clone, Default)]
pub(crate) struct Effects(Arc<AtomicU32>);

impl Effects {
    pub(crate) fn happen(&self) -> u32 {
        self.0.fetch_add(1, Ordering::SeqCst) + 1
    }

    pub(crate) fn count(&self) -> u32 {
        self.0.load(Ordering::SeqCst)
    }
}

pub(crate) fn secret() -> Secret {
    Secret::new([5; 32])
}

/// A layer whose scope is the (in a real service: verified) header `x-tenant`.
pub(crate) fn layer(store: &MemoryStore) -> IdempotencyLayer {
    IdempotencyLayer::leased(store.clone(), secret()).scope(|request| {
        let tenant = request.headers.get("x-tenant").map_or("nobody", |tenant| tenant.to_str().unwrap());
        (tenant != "unverified").then(|| Scope::of([tenant]))
    })
}

/// Answers as the header `x-answer` tells it to, and counts an effect each time it is entered.
pub(crate) async fn charge(
    State(effects): State<Effects>,
    headers: HeaderMap,
    body: String,
) -> Response<Body> {
    let count = effects.happen();
    let status = headers.get("x-answer").map_or("201", |status| status.to_str().unwrap());
    let status = StatusCode::from_bytes(status.as_bytes()).unwrap();
    let cookie = ("set-cookie", "session=first-caller");
    let tenant = headers.get("x-tenant").map_or("nobody", |tenant| tenant.to_str().unwrap()).to_owned();
    let location = ("location", format!("/charges/{count}"));
    (status, [cookie], [location, ("x-private", "secret".into())], format!("{tenant}:{count}:{body}"))
        .into_response()
}

pub(crate) async fn with_execution(
    execution: Execution,
    state: State<Effects>,
    headers: HeaderMap,
    body: String,
) -> Response<Body> {
    match headers.get("x-say").map(|say| say.to_str().unwrap()) {
        Some("begin") => execution.begin(),
        Some("nothing") => execution.nothing_happened(),
        _ => {}
    }
    charge(state, headers, body).await
}

pub(crate) fn app(layer: IdempotencyLayer, effects: &Effects) -> Router {
    Router::new()
        .route("/charges", post(charge).get(charge).put(charge).delete(charge))
        .route("/executions", post(with_execution))
        .layer(layer)
        .with_state(effects.clone())
}

/// A request under construction.
pub(crate) fn request(path: &str, key: Option<&str>) -> axum::http::request::Builder {
    let request = Request::post(path);
    match key {
        Some(key) => request.header("idempotency-key", format!("\"{key}\"")),
        None => request,
    }
}

/// An answer read whole.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Got {
    pub(crate) status: u16,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: String,
}

impl Got {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(own, _)| own == name).map(|(_, value)| value.as_str())
    }

    pub(crate) fn word(&self) -> &str {
        self.header("idempotency-status").unwrap_or("")
    }

    pub(crate) fn code(&self) -> String {
        let json: serde_json::Value = serde_json::from_str(&self.body).expect("a problem is JSON");
        assert_eq!(self.header("content-type"), Some("application/problem+json"));
        assert_eq!(json["status"], self.status);
        assert!(json["retryable"].is_boolean());
        json["code"].as_str().unwrap().to_owned()
    }
}

pub(crate) async fn send(app: &Router, request: axum::http::request::Builder, body: &str) -> Got {
    let response = app.clone().oneshot(request.body(Body::from(body.to_owned())).unwrap()).await.unwrap();
    let (parts, body) = response.into_parts();
    let headers =
        parts.headers.iter().map(|(n, v)| (n.to_string(), v.to_str().unwrap().to_owned())).collect();
    let body = body.collect().await.unwrap().to_bytes();
    Got { status: parts.status.as_u16(), headers, body: String::from_utf8(body.to_vec()).unwrap() }
}
