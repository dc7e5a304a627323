//! What is refused before anything is begun.

use crate::bench::*;
use idempotency::MemoryStore;

#[tokio::test]
async fn a_missing_or_malformed_key_is_told_what_is_wrong() {
    let effects = Effects::default();
    let app = app(layer(&MemoryStore::new()).required(), &effects);
    let missing = send(&app, request("/charges", None), "5").await;
    assert_eq!((missing.status, missing.code().as_str(), missing.word()), (400, "key-missing", "not-begun"));
    let bare = request("/charges", None).header("idempotency-key", "bare");
    let long = request("/charges", None).header("idempotency-key", format!("\"{}\"", "k".repeat(256)));
    let empty = request("/charges", None).header("idempotency-key", "\"\"");
    let twice = request("/charges", Some("k")).header("idempotency-key", "\"l\"");
    for bad in [bare, long, empty, twice] {
        let got = send(&app, bad, "5").await;
        assert_eq!((got.status, got.code().as_str()), (400, "key-malformed"));
        assert!(
            !got.body.contains("bare") && !got.body.contains("kkk"),
            "a key is not repeated in an answer"
        );
    }
    assert_eq!(effects.count(), 0);
}

#[tokio::test]
async fn a_bare_token_and_a_quoted_string_are_one_key() {
    let effects = Effects::default();
    let app = app(layer(&MemoryStore::new()).bare_tokens(), &effects);
    let bare = request("/charges", None).header("idempotency-key", "k");
    let first = send(&app, bare, "5").await;
    let again = send(&app, request("/charges", Some("k")), "5").await;
    assert_eq!((first.body, effects.count()), (again.body, 1));
}

#[tokio::test]
async fn another_payload_target_or_method_under_the_key_is_a_mismatch() {
    let effects = Effects::default();
    let app = app(layer(&MemoryStore::new()), &effects);
    send(&app, request("/charges", Some("k")), "5").await;
    for (other, body, part) in [
        (request("/charges", Some("k")), "6", "body"),
        (request("/charges?dry=1", Some("k")), "5", "target"),
        (request("/executions", Some("k")), "5", "target"),
        (request("/charges", Some("k")).method("PATCH"), "5", "method"),
    ] {
        let got = send(&app, other, body).await;
        assert_eq!((got.status, got.code().as_str(), got.word()), (422, "key-reused", "mismatch"));
        assert!(got.body.contains(&format!("the {part} differs")), "{}", got.body);
    }
    assert_eq!(effects.count(), 1);
}

#[tokio::test]
async fn a_body_over_the_limit_is_refused_before_the_handler() {
    let effects = Effects::default();
    let app = app(layer(&MemoryStore::new()).body_limit(10), &effects);
    let got = send(&app, request("/charges", Some("k")), "0123456789x").await;
    assert_eq!((got.status, got.code().as_str()), (413, "body-too-large"));
    assert_eq!(effects.count(), 0);
    assert_eq!(send(&app, request("/charges", Some("k")), "0123456789").await.status, 201);
}

#[tokio::test]
async fn a_caller_whose_identity_is_not_verified_is_refused() {
    let effects = Effects::default();
    let app = app(layer(&MemoryStore::new()), &effects);
    let got = send(&app, request("/charges", Some("k")).header("x-tenant", "unverified"), "5").await;
    assert_eq!((got.status, got.code().as_str()), (403, "scope-missing"));
    assert_eq!(effects.count(), 0);
}

#[tokio::test]
async fn problems_link_to_the_documentation() {
    let effects = Effects::default();
    let app = app(layer(&MemoryStore::new()).required().docs("https://docs.example/keys"), &effects);
    let got = send(&app, request("/charges", None), "5").await;
    assert!(got.body.contains("https://docs.example/keys#key-missing"));
    assert_eq!(got.header("link"), Some("<https://docs.example/keys>; rel=\"describedby\""));
}
