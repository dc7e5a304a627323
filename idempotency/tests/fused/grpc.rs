//! What a gRPC call says about its effect, where it is not said in trailers that are at hand.

use axum::Router;
use axum::body::Body;
use axum::http::{HeaderMap, Response, StatusCode};
use axum::routing::post;
use http_body_util::{BodyExt, Full};
use idempotency::fused::SqliteTx;
use idempotency::{IdempotencyLayer, Secret, SqliteStore, sqlx};

use crate::client::{Got, charge, send};

/// Inserts a row, and answers a body of this kind that ends as told.
async fn shop(
    kind: &'static str,
    body: &'static [u8],
    trailers: Option<&'static str>,
) -> (Router, SqliteStore) {
    let store = SqliteStore::connect("sqlite::memory:").await.unwrap();
    sqlx::query("CREATE TABLE charges (note TEXT NOT NULL)").execute(store.pool()).await.unwrap();
    let handler = move |mut tx: SqliteTx| async move {
        sqlx::query("INSERT INTO charges VALUES ('5')").execute(&mut *tx).await.unwrap();
        let trailers = trailers
            .map(|status| HeaderMap::from_iter([("grpc-status".parse().unwrap(), status.parse().unwrap())]));
        let body = Full::from(body).with_trailers(async move { trailers.map(Ok) });
        Response::builder().header("content-type", kind).body(Body::new(body)).unwrap()
    };
    let layer = IdempotencyLayer::fused(store.clone(), Secret::new([4; 32])).global_keys().answer_limit(100);
    (Router::new().route("/charges", post(handler)).layer(layer), store)
}

/// A call, and the rows that are there after it.
async fn call(shop: &(Router, SqliteStore), kind: &str) -> (Got, i64) {
    let got = send(&shop.0, charge("k", "").header("content-type", kind), "").await;
    let rows = sqlx::query_scalar("SELECT count(*) FROM charges").fetch_one(shop.1.pool()).await.unwrap();
    (got, rows)
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_too_large_to_be_read_whole_took_effect() {
    let kind = "application/grpc";
    let shop = shop(kind, &[7; 101], Some("0")).await;
    let (first, rows) = call(&shop, kind).await;
    assert_eq!((first.status, first.word.as_str(), first.body.len(), rows), (200, "kept", 101, 1));
    let (again, rows) = call(&shop, kind).await;
    assert_eq!((again.word.as_str(), again.replayed, again.body.as_str(), rows), ("kept", true, "", 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_of_grpc_web_is_judged_by_the_status_in_its_body() {
    const WEB: &str = "application/grpc-web+proto";
    const TEXT: &str = "application/grpc-web-text";
    let answers: [(&str, &[u8], &str, i64); 6] = [
        (WEB, b"\0\0\0\0\x02ok\x80\0\0\0\x10grpc-status: 0\r\n", "kept", 1),
        (WEB, b"\0\0\0\0\x02ok\x80\0\0\0\x21grpc-message:no\r\nGrpc-Status:13\r\n", "not-applied", 0),
        (WEB, b"\0\0\0\0\x02ok", "not-applied", 0),
        // Each frame encoded by itself, and both together.
        (TEXT, b"AAAAAAJvaw==gAAAABBncnBjLXN0YXR1czogMA0K", "kept", 1),
        (TEXT, b"AAAAAAJva4AAAAAQZ3JwYy1zdGF0dXM6IDANCg==", "kept", 1),
        (TEXT, b"AAAAAAJvaw==gAAAABBncnBjLXN0YXR1czogOQ0K", "kept", 0),
    ];
    for (kind, body, word, rows) in answers {
        let shop = shop(kind, body, None).await;
        for again in [false, true] {
            let (got, there) = call(&shop, kind).await;
            let kept = word == "kept";
            assert_eq!(
                (got.status, got.word.as_str(), there),
                (StatusCode::OK.as_u16(), word, rows),
                "{kind}"
            );
            assert_eq!(
                (got.body, got.replayed),
                (String::from_utf8_lossy(body).into(), again && kept),
                "{kind}"
            );
        }
    }
}
