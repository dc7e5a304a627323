//! What a client does over several attempts.

use std::convert::Infallible;
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::extract::Path;
use axum::http::{HeaderMap, StatusCode};
use axum::routing::post;
use idempotency::Key;
use idempotency::client::{ClientLayer, Http, Outcome, Retries, Send};

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
    let http = Http::new(reqwest::Client::builder()).unwrap();
    let outcome = send.request(&http, http.post(&url)).await;
    assert!(matches!(outcome, Outcome::Applied(_)), "{outcome:?}");
    assert_eq!(*keys.lock().unwrap(), ["\"order-1/charge\""; 3]);
    server.abort();
}

/// A refused connection has no effect, but it does not undo an earlier doubt.
#[tokio::test]
async fn doubt_survives_a_refused_connection() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/charges", listener.local_addr().unwrap());
    let http = Http::new(reqwest::Client::builder()).unwrap();
    // The first connection is taken, and broken once the request has come; the later ones find nobody.
    let server = tokio::spawn(async move {
        let (mut socket, _) = listener.accept().await.unwrap();
        drop(listener);
        let mut request = [0; 64];
        tokio::io::AsyncReadExt::read_exact(&mut socket, &mut request).await.unwrap();
    });
    let retries = Retries { pause: std::time::Duration::from_millis(1), ..Retries::default() };
    let doubtful =
        Send::new(Key::random()).retries(retries).request(&http, http.post(&url).body("x".repeat(100))).await;
    assert!(matches!(doubtful, Outcome::Unknown { .. }), "{doubtful:?}");
    server.await.unwrap();
    let refused = Send::new(Key::random()).retries(retries).request(&http, http.post(&url)).await;
    assert!(matches!(refused, Outcome::NotApplied { .. }), "{refused:?}");
}

/// What an answer points to is not the effect, and that nobody is there says nothing about it. Nor is what became of
/// the last of several requests what became of the call.
#[tokio::test]
async fn a_request_is_sent_once_and_its_redirect_not_followed() {
    let bind = || tokio::net::TcpListener::bind("127.0.0.1:0");
    let nowhere = format!("http://{}/", bind().await.unwrap().local_addr().unwrap());
    let asked: Arc<Mutex<u32>> = Arc::default();
    let seen = asked.clone();
    let handler = move |Path(status): Path<u16>| async move {
        *seen.lock().unwrap() += 1;
        (StatusCode::from_u16(status).unwrap(), [("location", nowhere)])
    };
    let listener = bind().await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let app = Router::new().route("/{status}", post(handler));
    let server = tokio::spawn(async move { axum::serve(listener, app).await });
    let again = reqwest::retry::for_host("127.0.0.1").classify_fn(|sent| match sent.status() {
        Some(status) if status == 503 => sent.retryable(),
        _ => sent.success(),
    });
    let follows = reqwest::redirect::Policy::limited(10);
    let http = Http::new(reqwest::Client::builder().redirect(follows).retry(again)).unwrap();
    let send =
        async |status| Send::new(Key::random()).request(&http, http.post(format!("{url}/{status}"))).await;
    let done = send(303).await;
    assert!(matches!(&done, Outcome::Applied(answer) if answer.status() == 303), "{done:?}");
    // A proxy's on the way, which has not let the request through.
    for status in [301, 302, 307, 308, 503] {
        let unclear = send(status).await;
        assert!(matches!(unclear, Outcome::Unknown { .. }), "{status}: {unclear:?}");
    }
    assert_eq!(*asked.lock().unwrap(), 6);
    server.abort();
}

/// What makes a call a saga's is its headers, whatever its method is.
#[tokio::test]
async fn a_settlement_by_get_says_that_it_is_one() {
    use idempotency::Direction;
    use idempotency::barrier::Call;
    use tower::{Layer, ServiceExt};
    let seen = |request: http::Request<()>| std::future::ready(Ok::<_, Infallible>(request.into_parts().0));
    let client = ClientLayer.layer(tower::service_fn(seen));
    let call = Call {
        run: "0192f3a1-0000-7000-8000-000000000001".parse().unwrap(),
        step: "charge".into(),
        occurrence: 0,
        direction: Direction::Settle,
        attempt: 1,
    };
    let read = |parts: &http::request::Parts| {
        Call::read(|name| parts.headers.get(name).map(http::HeaderValue::as_bytes)).unwrap()
    };
    let plain = http::Request::get("/charges").body(()).unwrap();
    let sent = client.clone().oneshot(plain).await.unwrap();
    assert_eq!((sent.headers.len(), read(&sent)), (0, None), "a read needs no key");
    let settlement = http::Request::get("/charges").extension(call.clone()).body(()).unwrap();
    let sent = client.oneshot(settlement).await.unwrap();
    assert_eq!(read(&sent), Some(call));
}
