//! The layer behind real servers: plain hyper over HTTP/1, tonic over HTTP/2, as the examples show them.

#[path = "../examples/hyper.rs"]
mod hyper_example;
#[path = "../examples/tonic.rs"]
mod tonic_example;

use tokio::net::TcpListener;
use tonic::transport::Channel;
use tonic_example::{Receipt, charge};

#[tokio::test]
async fn plain_hyper_replays_over_a_real_connection() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/charges", listener.local_addr().unwrap());
    let server = tokio::spawn(hyper_example::serve(listener));
    let client = reqwest::Client::new();
    let send =
        |body: &'static str| client.post(&url).header("idempotency-key", "\"order-1\"").body(body).send();
    let first = send("500").await.unwrap();
    assert_eq!((first.status().as_u16(), first.headers().get("idempotent-replayed")), (201, None));
    let first = first.text().await.unwrap();
    assert!(first.ends_with(": 500\n"), "{first}");
    let again = send("500").await.unwrap();
    assert_eq!(
        (again.status().as_u16(), &again.headers()["idempotent-replayed"]),
        (201, &"true".parse().unwrap())
    );
    assert_eq!(again.text().await.unwrap(), first);
    assert_eq!(send("501").await.unwrap().status(), 422);
    assert_eq!(client.post(&url).send().await.unwrap().status(), 400, "the key is required");
    server.abort();
}

#[tokio::test]
async fn tonic_replays_and_refuses_in_its_own_words() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    let server = tokio::spawn(tonic_example::serve(listener));
    let channel = Channel::from_shared(address).unwrap().connect().await.unwrap();
    let send = |key, cents| charge(channel.clone(), key, cents);

    let first = send(Some("order-1"), 500).await.unwrap();
    assert!(!first.metadata().contains_key("idempotent-replayed"));
    assert_eq!(first.get_ref(), &Receipt { number: 1, cents: 500 });
    let again = send(Some("order-1"), 500).await.unwrap();
    assert_eq!(again.metadata().get("idempotent-replayed").unwrap(), "true");
    assert_eq!(again.get_ref(), first.get_ref());

    let reused = send(Some("order-1"), 501).await.unwrap_err();
    assert_eq!(reused.code(), tonic::Code::AlreadyExists, "{reused}");
    assert!(reused.message().starts_with("key-reused: "), "{reused}");
    assert_eq!(reused.metadata().get("idempotency-status").unwrap(), "mismatch");
    let missing = send(None, 500).await.unwrap_err();
    assert_eq!(missing.code(), tonic::Code::InvalidArgument, "{missing}");

    // Turned away before it took effect: the key is free, although HTTP says 200.
    let invalid = send(Some("order-2"), 0).await.unwrap_err();
    assert_eq!(invalid.message(), "nothing to charge");
    assert_eq!(send(Some("order-2"), 700).await.unwrap().get_ref().cents, 700);
    server.abort();
}
