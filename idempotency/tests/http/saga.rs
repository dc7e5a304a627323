//! The barrier over HTTP.

use axum::http::request::Builder;
use idempotency::MemoryStore;

use crate::bench::*;

const RUN: &str = "0192f3a1-0000-7000-8000-000000000001";

pub(crate) fn call(path: &str, direction: &str) -> Builder {
    request(path, None)
        .header("saga-run", RUN)
        .header("saga-step", "charge")
        .header("saga-occurrence", "0")
        .header("saga-direction", direction)
        .header("saga-attempt", "1")
}

#[tokio::test]
async fn a_step_runs_once_and_is_undone_once() {
    let effects = Effects::default();
    let app = app(layer(&MemoryStore::new()).required().barrier(), &effects);
    for _ in 0..2 {
        let got = send(&app, call("/charges", "action"), "5").await;
        assert_eq!((got.status, got.word(), got.body.as_str()), (201, "kept", "nobody:1:5"));
    }
    for _ in 0..2 {
        let got = send(&app, call("/executions", "compensation"), "undo").await;
        assert_eq!((got.status, got.body.as_str()), (201, "nobody:2:undo"));
    }
    let late = send(&app, call("/charges", "action"), "5").await;
    assert_eq!((late.status, late.code().as_str(), late.word()), (410, "too-late", "too-late"));
    assert_eq!(send(&app, call("/charges", "settle"), "").await.word(), "undone");
    assert_eq!(effects.count(), 2);
}

#[tokio::test]
async fn a_compensation_that_comes_first_refuses_its_action() {
    let effects = Effects::default();
    let app = app(layer(&MemoryStore::new()).barrier(), &effects);
    for _ in 0..2 {
        let got = send(&app, call("/executions", "compensation"), "undo").await;
        assert_eq!((got.status, got.word()), (200, "nothing-to-undo"));
    }
    assert_eq!(send(&app, call("/charges", "action"), "5").await.status, 410);
    assert_eq!(effects.count(), 0);
}

#[tokio::test]
async fn a_settlement_refuses_what_never_began_and_tells_what_did() {
    let effects = Effects::default();
    let app = app(layer(&MemoryStore::new()).barrier(), &effects);
    assert_eq!(send(&app, call("/charges", "settle"), "").await.word(), "never-applied");
    assert_eq!(send(&app, call("/charges", "action"), "5").await.word(), "too-late");
    assert_eq!(effects.count(), 0);
    let other = |direction| call("/charges", direction).header("saga-other", "1");
    let run = |builder: Builder| {
        let mut builder = builder;
        builder.headers_mut().unwrap().insert("saga-step", "ship".parse().unwrap());
        builder
    };
    send(&app, run(other("action")), "5").await;
    let told = send(&app, run(other("settle")), "").await;
    assert_eq!((told.status, told.word(), told.body.as_str()), (201, "kept", "nobody:1:5"));
}

#[tokio::test]
async fn malformed_saga_headers_are_refused_by_name() {
    let effects = Effects::default();
    let app = app(layer(&MemoryStore::new()).barrier(), &effects);
    for (name, value) in [
        ("saga-run", "not-a-uuid"),
        ("saga-run", "0192F3A1-0000-7000-8000-000000000001"),
        ("saga-occurrence", "01"),
        ("saga-direction", "undo"),
        ("saga-attempt", "0"),
        ("saga-step", "a%2fb"),
    ] {
        let mut bad = call("/charges", "action");
        bad.headers_mut().unwrap().insert(name, value.parse().unwrap());
        let got = send(&app, bad, "5").await;
        assert_eq!((got.status, got.code().as_str()), (400, "saga-headers-malformed"));
        assert!(got.body.contains(name), "{}", got.body);
    }
    let repeated = call("/charges", "action").header("saga-step", "other");
    assert_eq!(send(&app, repeated, "5").await.status, 400);
    let mut missing = call("/charges", "action");
    missing.headers_mut().unwrap().remove("saga-direction");
    assert!(send(&app, missing, "5").await.body.contains("saga-direction is missing"));
    assert_eq!(effects.count(), 0);
}

#[tokio::test]
async fn without_the_barrier_saga_headers_mean_nothing() {
    let effects = Effects::default();
    let app = app(layer(&MemoryStore::new()), &effects);
    let got = send(&app, call("/charges", "settle"), "5").await;
    assert_eq!((got.status, got.word(), effects.count()), (201, "", 1));
}

#[tokio::test]
async fn a_saga_may_call_by_any_method() {
    let effects = Effects::default();
    let app = |effects| app(layer(&MemoryStore::new()).required().barrier(), effects);
    let early = app(&effects);
    for _ in 0..2 {
        let got = send(&early, call("/charges", "compensation").method("DELETE"), "").await;
        assert_eq!((got.status, got.word()), (200, "nothing-to-undo"));
    }
    assert_eq!(send(&early, call("/charges", "action").method("PUT"), "5").await.status, 410);
    let late = app(&effects);
    let told = |got: Got| (got.status, got.word().to_owned(), got.body);
    for _ in 0..2 {
        let got = send(&late, call("/charges", "action").method("PUT"), "5").await;
        assert_eq!(told(got), (201, "kept".into(), "nobody:1:5".into()));
        let got = send(&late, call("/charges", "settle").method("GET"), "").await;
        assert_eq!(told(got), (201, "kept".into(), "nobody:1:5".into()));
    }
    for _ in 0..2 {
        let got = send(&late, call("/charges", "compensation").method("DELETE"), "").await;
        assert_eq!(told(got), (201, "kept".into(), "nobody:2:".into()));
    }
    let mut incomplete = call("/charges", "compensation").method("DELETE");
    incomplete.headers_mut().unwrap().remove("saga-step");
    assert_eq!(send(&late, incomplete, "").await.code(), "saga-headers-malformed");
    assert_eq!(effects.count(), 2);
}
