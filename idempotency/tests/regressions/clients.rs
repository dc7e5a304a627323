//! What a client does over several attempts.

use std::sync::{Arc, Mutex};

use axum::Router;
use axum::http::{HeaderMap, StatusCode};
use axum::routing::post;
use idempotency::Key;
use idempotency::client::{Outcome, Retries, Send};

/// Every attempt of one call carries one key; what a died process retries, its caller names.
#[tokio::test]
async fn one_key_for_all_attempts() {
    let keys: Arc<Mutex<Vec<String>>> = Arc::default();
    let seen = keys.clone();
    let handler = move |headers: HeaderMap| async move {
        let mut seen = seen.lock().unwrap();
        seen.push(headers["idempotency-key"].to_str().unwrap().to_owned());
        // Its effect is unknown twice; the third answer is definite.
        if seen.len() < 3 { StatusCode::SERVICE_UNAVAILABLE } else { StatusCode::CREATED }
    };
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/charges", listener.local_addr().unwrap());
    let server =
        tokio::spawn(
            async move { axum::serve(listener, Router::new().route("/charges", post(handler))).await },
        );
    let retries = Retries { pause: std::time::Duration::from_millis(1), ..Retries::default() };
    let send = Send::new(Key::new("order-1/charge").unwrap()).retries(retries);
    let outcome = send.request(reqwest::Client::new().post(&url)).await;
    assert!(matches!(outcome, Outcome::Applied(_)), "{outcome:?}");
    assert_eq!(*keys.lock().unwrap(), ["\"order-1/charge\""; 3]);
    server.abort();
}

/// A refused connection has no effect, but it does not undo an earlier doubt.
#[tokio::test]
async fn doubt_survives_a_refused_connection() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/charges", listener.local_addr().unwrap());
    let client = reqwest::Client::new();
    // The first connection is taken, and broken once the request has come; the later ones find nobody.
    let server = tokio::spawn(async move {
        let (mut socket, _) = listener.accept().await.unwrap();
        drop(listener);
        let mut request = [0; 64];
        tokio::io::AsyncReadExt::read_exact(&mut socket, &mut request).await.unwrap();
    });
    let retries = Retries { pause: std::time::Duration::from_millis(1), ..Retries::default() };
    let doubtful =
        Send::new(Key::random()).retries(retries).request(client.post(&url).body("x".repeat(100))).await;
    assert!(matches!(doubtful, Outcome::Unknown { .. }), "{doubtful:?}");
    server.await.unwrap();
    let refused = Send::new(Key::random()).retries(retries).request(client.post(&url)).await;
    assert!(matches!(refused, Outcome::NotApplied { .. }), "{refused:?}");
}
