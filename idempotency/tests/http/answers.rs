//! First answers and replays.

use crate::bench::*;
use idempotency::MemoryStore;

#[tokio::test]
async fn a_duplicate_gets_the_first_answer_and_runs_nothing() {
    let effects = Effects::default();
    let app = app(layer(&MemoryStore::new()), &effects);
    let first = send(&app, request("/charges", Some("k")), "5").await;
    assert_eq!((first.status, first.body.as_str(), first.word()), (201, "nobody:1:5", "kept"));
    assert_eq!(first.header("idempotent-replayed"), None);
    for _ in 0..3 {
        let again = send(&app, request("/charges", Some("k")), "5").await;
        assert_eq!((again.status, again.body.as_str(), again.word()), (201, "nobody:1:5", "kept"));
        assert_eq!(again.header("idempotent-replayed"), Some("true"));
        assert_eq!(again.header("location"), Some("/charges/1"));
        assert_eq!(again.header("content-type"), first.header("content-type"));
    }
    assert_eq!(effects.count(), 1);
}

#[tokio::test]
async fn a_cookie_and_headers_not_on_the_list_are_never_replayed() {
    let effects = Effects::default();
    let app = app(layer(&MemoryStore::new()), &effects);
    let first = send(&app, request("/charges", Some("k")), "5").await;
    assert_eq!(first.header("set-cookie"), Some("session=first-caller"));
    let again = send(&app, request("/charges", Some("k")), "5").await;
    assert_eq!(again.header("set-cookie"), None);
    assert_eq!(again.header("x-private"), None);
}

#[test]
#[should_panic(expected = "set-cookie carries credentials")]
fn a_cookie_cannot_be_put_on_the_list() {
    let _ = layer(&MemoryStore::new()).keep_header(axum::http::header::SET_COOKIE);
}

#[tokio::test]
async fn the_same_payload_under_another_key_is_another_effect() {
    let effects = Effects::default();
    let app = app(layer(&MemoryStore::new()), &effects);
    send(&app, request("/charges", Some("k")), "5").await;
    let other = send(&app, request("/charges", Some("l")), "5").await;
    assert_eq!((other.status, effects.count()), (201, 2));
}

#[tokio::test]
async fn requests_without_a_key_and_safe_methods_pass() {
    let effects = Effects::default();
    let app = app(layer(&MemoryStore::new()), &effects);
    for _ in 0..2 {
        let got = send(&app, request("/charges", None), "5").await;
        assert_eq!((got.status, got.word()), (201, ""));
        let get = request("/charges", Some("k")).method("GET");
        assert_eq!(send(&app, get, "").await.word(), "");
    }
    assert_eq!(effects.count(), 4);
}

#[tokio::test]
async fn a_decline_is_kept_and_a_validation_error_is_not() {
    let effects = Effects::default();
    let app = app(layer(&MemoryStore::new()), &effects);
    for (status, word, entered) in [
        ("402", "kept", 1),
        ("409", "kept", 1),
        ("400", "not-applied", 2),
        ("401", "not-applied", 2),
        ("422", "not-applied", 2),
    ] {
        let before = effects.count();
        for _ in 0..2 {
            let got = send(&app, request("/charges", Some(status)).header("x-answer", status), "5").await;
            assert_eq!((got.status.to_string().as_str(), got.word()), (status, word));
        }
        assert_eq!(effects.count() - before, entered, "{status}");
    }
}

#[tokio::test]
async fn a_handler_says_when_it_begins_and_when_nothing_happened() {
    let effects = Effects::default();
    let app = app(layer(&MemoryStore::new()), &effects);
    let begun = || request("/executions", Some("b")).header("x-answer", "422").header("x-say", "begin");
    let first = send(&app, begun(), "5").await;
    let again = send(&app, begun(), "5").await;
    assert_eq!((first.word(), again.word(), again.status), ("kept", "kept", 422));
    assert_eq!(effects.count(), 1);
    let nothing = || request("/executions", Some("n")).header("x-answer", "503").header("x-say", "nothing");
    for _ in 0..2 {
        assert_eq!(send(&app, nothing(), "5").await.word(), "not-applied");
    }
    assert_eq!(effects.count(), 3);
}

#[tokio::test]
async fn where_begin_is_explicit_nothing_else_burns_a_key() {
    let effects = Effects::default();
    let app = app(layer(&MemoryStore::new()).explicit_begin(), &effects);
    for _ in 0..2 {
        let got = send(&app, request("/executions", Some("n")).header("x-answer", "402"), "5").await;
        assert_eq!(got.word(), "not-applied");
    }
    let begun = || request("/executions", Some("n")).header("x-answer", "402").header("x-say", "begin");
    assert_eq!(send(&app, begun(), "5").await.word(), "kept");
}

#[tokio::test]
async fn canonical_json_compares_what_is_said() {
    let effects = Effects::default();
    let app = app(layer(&MemoryStore::new()).canonical_json(), &effects);
    let json = || request("/charges", Some("k")).header("content-type", "application/json; charset=utf-8");
    let first = send(&app, json(), r#"{"cents":500,"to":"a"}"#).await;
    let again = send(&app, json(), r#"{ "to": "a", "cents": 5e2 }"#).await;
    assert_eq!((again.status, &again.body), (201, &first.body));
    let other = send(&app, json(), r#"{"cents":501,"to":"a"}"#).await;
    assert_eq!((other.status, other.code().as_str()), (422, "key-reused"));
}

#[tokio::test]
async fn an_answer_over_the_limit_reaches_the_first_and_leaves_a_tombstone() {
    let effects = Effects::default();
    let app = app(layer(&MemoryStore::new()).answer_limit(20), &effects);
    let body = "x".repeat(100);
    let first = send(&app, request("/charges", Some("k")), &body).await;
    assert_eq!((first.status, first.body), (201, format!("nobody:1:{body}")));
    let again = send(&app, request("/charges", Some("k")), &body).await;
    assert_eq!((again.status, again.code().as_str(), again.word()), (201, "answer-not-retained", "kept"));
    assert_eq!(again.header("location"), Some("/charges/1"));
    assert_eq!(effects.count(), 1);
}

#[tokio::test]
async fn sealed_answers_are_replayed_and_lie_unreadable() {
    use idempotency::Store;
    let (effects, store) = (Effects::default(), MemoryStore::new());
    let app = app(layer(&store).sealed(idempotency::Seal::new(&secret())), &effects);
    let pan = "4242424242424242";
    let first = send(&app, request("/charges", Some("k")), pan).await;
    let again = send(&app, request("/charges", Some("k")), pan).await;
    assert_eq!(first.body, again.body);
    let id = secret().key_id(&idempotency::Scope::of(["nobody"]), &idempotency::Key::new("k").unwrap());
    let row = store.inspect(&id).await.unwrap().unwrap().dated.row;
    let stored = row.action_answer.unwrap();
    assert!(!stored.windows(16).any(|window| window == pan.as_bytes()));
}

#[tokio::test]
async fn a_grpc_answer_over_the_limit_leaves_a_tombstone_as_well() {
    use axum::body::Body;
    use axum::http::{HeaderMap, Response};
    use http_body_util::{BodyExt, Full};
    let effects = Effects::default();
    let own = effects.clone();
    let handler = move || async move {
        own.happen();
        let trailers = HeaderMap::from_iter([("grpc-status".parse().unwrap(), "0".parse().unwrap())]);
        let body = Full::from(vec![7; 100]).with_trailers(async { Some(Ok(trailers)) });
        Response::builder().header("content-type", "application/grpc").body(Body::new(body)).unwrap()
    };
    let service = axum::routing::post(handler);
    let layer = layer(&MemoryStore::new()).answer_limit(20);
    let app = axum::Router::new().route("/charges", service).layer(layer);
    let call = || request("/charges", Some("k")).header("content-type", "application/grpc");
    let first = send(&app, call(), "").await;
    assert_eq!((first.status, first.word(), first.body.len()), (200, "kept", 100));
    let again = send(&app, call(), "").await;
    assert_eq!((again.header("grpc-status"), again.word()), (Some("15"), "kept"));
    assert!(again.header("grpc-message").unwrap().starts_with("answer-not-retained: "));
    assert_eq!(effects.count(), 1);
}
