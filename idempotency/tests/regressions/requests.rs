//! What a request asks, and how it arrives.

use axum::Router;
use axum::body::Body;
use axum::extract::Path;
use axum::http::{Request, StatusCode};
use axum::routing::post;
use idempotency::MemoryStore;
use tower::ServiceExt;

use crate::{layer, request, text};

/// Nested routers strip their prefix from the URI: siblings looked the same, and replayed each other's answers.
#[tokio::test]
async fn nested_routers_do_not_share_keys() {
    let capture = |name: &'static str| move |Path(id): Path<u32>| async move { format!("{name} {id}") };
    let layer = layer(&MemoryStore::new());
    let nested = |name| Router::new().route("/{id}/capture", post(capture(name))).layer(layer.clone());
    let app = Router::new().nest("/orders", nested("order")).nest("/invoices", nested("invoice"));
    let send = |path| app.clone().oneshot(request("acme", path, "k"));
    assert_eq!(text(send("/orders/1/capture").await.unwrap()).await, "order 1");
    assert_eq!(send("/invoices/1/capture").await.unwrap().status(), StatusCode::UNPROCESSABLE_ENTITY);
    // The route's template is the same, the target is not.
    assert_eq!(send("/orders/2/capture").await.unwrap().status(), StatusCode::UNPROCESSABLE_ENTITY);
    assert_eq!(text(send("/orders/1/capture").await.unwrap()).await, "order 1");
}

/// The query was left out of the digest: two searches were one.
#[tokio::test]
async fn the_query_is_part_of_what_is_asked() {
    let app = Router::new().route("/charges", post(|| async { "charged" })).layer(layer(&MemoryStore::new()));
    let send = |path| app.clone().oneshot(request("acme", path, "k"));
    assert_eq!(send("/charges?cents=5").await.unwrap().status(), StatusCode::OK);
    assert_eq!(send("/charges?cents=50").await.unwrap().status(), StatusCode::UNPROCESSABLE_ENTITY);
    assert_eq!(send("/charges?cents=5").await.unwrap().status(), StatusCode::OK);
}

/// The client went away in the middle of its upload: the server panicked, or kept half a request.
#[tokio::test]
async fn an_upload_that_breaks_off_burns_no_key() {
    let app = Router::new()
        .route("/charges", post(|body: String| async move { format!("charged {body}") }))
        .layer(layer(&MemoryStore::new()).required());
    let torn = futures::stream::iter([Ok("half a requ"), Err(std::io::Error::other("the client went away"))]);
    let (parts, _) = request("acme", "/charges", "k").into_parts();
    let response = app.clone().oneshot(Request::from_parts(parts, Body::from_stream(torn))).await.unwrap();
    assert_eq!(response.status(), StatusCode::BAD_REQUEST);
    assert!(text(response).await.contains("body-unreadable"));
    let (parts, _) = request("acme", "/charges", "k").into_parts();
    let whole = app.oneshot(Request::from_parts(parts, Body::from("another request"))).await.unwrap();
    assert_eq!(text(whole).await, "charged another request");
}
