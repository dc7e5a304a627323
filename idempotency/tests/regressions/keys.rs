//! Whose a key is, what it says, and who gets to see it.

use std::io::Write;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::body::Body;
use axum::http::{HeaderMap, Request, StatusCode};
use axum::routing::post;
use idempotency::once::{Failed, Once, Ran};
use idempotency::{Fingerprint, Key, MemoryStore, Scope, Secret};
use tower::ServiceExt;

use crate::{layer, request, text};

/// The default scope was everybody's: one tenant read another's answer.
#[tokio::test]
async fn tenants_never_see_each_others_answers() {
    let handler = |headers: HeaderMap| async move { headers["x-tenant"].to_str().unwrap().to_owned() };
    let app = Router::new().route("/charges", post(handler)).layer(layer(&MemoryStore::new()));
    for _ in 0..2 {
        for tenant in ["acme", "globex"] {
            let response = app.clone().oneshot(request(tenant, "/charges", "same-key")).await.unwrap();
            assert_eq!(text(response).await, tenant);
        }
    }
}

/// The digest was taken again when the work was done, of an input that the work had changed meanwhile: the record
/// of another key was completed, and the first one stayed in flight.
#[tokio::test]
async fn work_that_changes_its_input_is_still_the_work_that_was_asked() {
    let once = Once::new(MemoryStore::new(), Secret::new([5; 32]), Scope::of(["tests"]));
    let key = Key::new("k").unwrap();
    let input = Arc::new(AtomicU32::new(5));
    let charge = |input: Arc<AtomicU32>| {
        let asked = input.load(Ordering::SeqCst);
        let work =
            move |_| async move { Ok::<_, Failed<std::io::Error>>(input.fetch_add(100, Ordering::SeqCst)) };
        let (once, key) = (once.clone(), key.clone());
        async move { once.run(&key, "charge", &asked, work).await.unwrap() }
    };
    assert_eq!(charge(input).await, Ran::First(5));
    assert_eq!(charge(Arc::new(AtomicU32::new(5))).await, Ran::Replayed(5));
}

/// A key that a caller had chosen was a field's name in the application's own session.
#[tokio::test]
async fn a_key_is_a_name_in_no_store() {
    let store = MemoryStore::new();
    let app = Router::new().route("/charges", post(|| async {})).layer(layer(&store));
    app.oneshot(request("acme", "/charges", "user")).await.unwrap();
    let id = Secret::new([5; 32]).key_id(&Scope::of(["acme"]), &Key::new("user").unwrap());
    assert_eq!(store.ids(), [id]);
    assert!(!id.0.windows(4).any(|bytes| bytes == b"user"));
}

/// `x-a: bc` and `x-ab: c` were one digest.
#[test]
fn parts_that_together_read_alike_are_told_apart() {
    let (secret, key) = (Secret::new([5; 32]), Key::new("k").unwrap());
    let print =
        |target: &str, body: &str| Fingerprint::new(&secret, b"POST", target.as_bytes(), body.as_bytes());
    assert!(print("/ab", "c").difference(&print("/a", "bc")).is_some());
    assert!(print("/a", "").difference(&print("", "/a")).is_some());
    assert_ne!(secret.key_id(&Scope::of(["ab", "c"]), &key), secret.key_id(&Scope::of(["a", "bc"]), &key));
    let (long, short) = (Key::new("ck").unwrap(), Key::new("k").unwrap());
    assert_ne!(secret.key_id(&Scope::of(["ab"]), &long), secret.key_id(&Scope::of(["abc"]), &short));
}

#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// A raw key in a log gives whoever reads it the stored answers.
#[tokio::test(flavor = "current_thread")]
async fn raw_keys_are_in_no_log_and_no_debug_output() {
    const CANARY: &str = "canary-7f3a";
    let log = Log::default();
    let writer = log.clone();
    let subscriber = tracing_subscriber::fmt()
        .with_max_level(tracing::Level::TRACE)
        .with_span_events(tracing_subscriber::fmt::format::FmtSpan::FULL)
        .with_writer(move || writer.clone())
        .finish();
    let _guard = tracing::subscriber::set_default(subscriber);
    let handler = |execution: idempotency::Execution, body: String| async move {
        tracing::info!(?execution, "in the handler");
        if body == "fail" { StatusCode::INTERNAL_SERVER_ERROR } else { StatusCode::CREATED }
    };
    let layer = layer(&MemoryStore::new()).required();
    let app = Router::new().route("/charges", post(handler)).layer(layer.clone());
    for body in ["ok", "ok", "other", "fail", "fail"] {
        let key = format!("{CANARY}-{}", body == "fail");
        let (parts, _) = request(CANARY, "/charges", &key).into_parts();
        let response = app.clone().oneshot(Request::from_parts(parts, Body::from(body))).await.unwrap();
        assert!(!text(response).await.contains(CANARY));
    }
    tracing::info!(?layer, key = ?Key::new(CANARY).unwrap(), scope = ?Scope::of([CANARY]), "debug");
    let written = String::from_utf8(log.0.lock().unwrap().clone()).unwrap();
    assert!(written.contains("in the handler"), "the log is on");
    assert!(!written.contains(CANARY), "{written}");
}
