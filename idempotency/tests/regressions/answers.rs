//! What is kept of an answer, and for how long.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU32, Ordering};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::http::header::LINK;
use axum::http::{HeaderValue, Response};
use axum::routing::post;
use idempotency::{MemoryStore, Time};
use tower::ServiceExt;

use crate::{layer, request, text};

/// A body that comes in pieces was kept as it stood when the first caller had drained it: empty.
#[tokio::test]
async fn a_streamed_answer_is_replayed_whole() {
    let handler = || async {
        let pieces = ["one ", "two ", "three"].map(Ok::<_, std::io::Error>);
        Body::from_stream(futures::stream::iter(pieces))
    };
    let app = Router::new().route("/charges", post(handler)).layer(layer(&MemoryStore::new()));
    for replayed in [false, true, true] {
        let response = app.clone().oneshot(request("acme", "/charges", "k")).await.unwrap();
        assert_eq!(response.headers().contains_key("idempotent-replayed"), replayed);
        assert_eq!(text(response).await, "one two three");
    }
}

/// Of two headers with one name the last survived.
#[tokio::test]
async fn a_repeated_header_is_replayed_as_often() {
    let handler = || async {
        let mut response = Response::new(Body::empty());
        for link in ["</charges/1>; rel=self", "</refunds>; rel=related"] {
            response.headers_mut().append(LINK, HeaderValue::from_static(link));
        }
        response
    };
    let app = Router::new().route("/charges", post(handler)).layer(layer(&MemoryStore::new()));
    for _ in 0..2 {
        let response = app.clone().oneshot(request("acme", "/charges", "k")).await.unwrap();
        let links: Vec<_> = response.headers().get_all(LINK).iter().collect();
        assert_eq!(links, ["</charges/1>; rel=self", "</refunds>; rel=related"]);
    }
}

/// Answers were kept for minutes, and clients retried for a day.
#[tokio::test]
async fn an_answer_outlives_a_day_of_retries() {
    let (clock, runs) = (Arc::new(AtomicI64::new(0)), Arc::new(AtomicU32::new(0)));
    let (time, counted) = (clock.clone(), runs.clone());
    let store = MemoryStore::with_clock(move || Time(time.load(Ordering::SeqCst)));
    let handler = move || async move { counted.fetch_add(1, Ordering::SeqCst).to_string() };
    let app = Router::new().route("/charges", post(handler)).layer(layer(&store));
    let day = Duration::from_secs(24 * 3600).as_micros() as i64;
    for (at, runs_by_then) in [(0, 1), (day / 2, 1), (day - 1, 1), (day, 2)] {
        clock.store(at, Ordering::SeqCst);
        let response = app.clone().oneshot(request("acme", "/charges", "k")).await.unwrap();
        assert!(response.status().is_success());
        assert_eq!(runs.load(Ordering::SeqCst), runs_by_then, "after {at} microseconds");
    }
}
