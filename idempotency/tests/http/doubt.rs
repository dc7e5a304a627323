//! In flight, in doubt, gone clients, failing handlers, a store that is down.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use axum::Router;
use axum::http::StatusCode;
use axum::routing::post;
use idempotency::store::{Change, Expected, Swap};
use idempotency::*;
use tokio::sync::Notify;

use crate::bench::*;

/// A handler that waits in the middle: it tells when it was entered, and ends when it is told to.
#[derive(Clone, Default)]
struct Gate {
    entered: Arc<Notify>,
    open: Arc<Notify>,
}

fn gated(layer: IdempotencyLayer, effects: &Effects) -> (Router, Gate) {
    let gate = Gate::default();
    let (own, effects) = (gate.clone(), effects.clone());
    let handler = move || async move {
        let count = effects.happen();
        own.entered.notify_one();
        own.open.notified().await;
        (StatusCode::CREATED, count.to_string())
    };
    (Router::new().route("/charges", post(handler)).layer(layer), gate)
}

#[tokio::test]
async fn a_duplicate_in_flight_gets_409_with_retry_after_from_the_lease() {
    let effects = Effects::default();
    let (app, gate) = gated(layer(&MemoryStore::new()).lease(Duration::from_secs(20)), &effects);
    let first = tokio::spawn({
        let app = app.clone();
        async move { send(&app, request("/charges", Some("k")), "").await }
    });
    gate.entered.notified().await;
    let got = send(&app, request("/charges", Some("k")), "").await;
    assert_eq!((got.status, got.code().as_str(), got.word()), (409, "request-in-flight", "in-flight"));
    let after: u64 = got.header("retry-after").unwrap().parse().unwrap();
    assert!((1..=20).contains(&after), "{after}");
    let other = send(&app, request("/charges", Some("k")), "other").await;
    assert_eq!(other.status, 422, "a mismatch wins over in flight");
    gate.open.notify_one();
    assert_eq!(first.await.unwrap().body, "1");
    assert_eq!(effects.count(), 1);
}

#[tokio::test]
async fn duplicates_may_wait_for_the_first_answer() {
    let effects = Effects::default();
    let (app, gate) = gated(layer(&MemoryStore::new()).wait(Duration::from_secs(60)), &effects);
    let callers: Vec<_> = (0..20)
        .map(|_| {
            let app = app.clone();
            tokio::spawn(async move { send(&app, request("/charges", Some("k")), "").await })
        })
        .collect();
    gate.entered.notified().await;
    gate.open.notify_one();
    for caller in callers {
        let got = caller.await.unwrap();
        assert_eq!((got.status, got.body.as_str()), (201, "1"));
    }
    assert_eq!(effects.count(), 1);
}

#[tokio::test]
async fn duplicates_wait_for_a_first_in_another_process() {
    let (effects, store) = (Effects::default(), MemoryStore::new());
    let (one, gate) = gated(layer(&store), &effects);
    // A layer of its own has no memory of what runs in the other.
    let (two, _) = gated(layer(&store).wait(Duration::from_secs(60)), &effects);
    let first = tokio::spawn(async move { send(&one, request("/charges", Some("k")), "").await });
    gate.entered.notified().await;
    let second = tokio::spawn(async move { send(&two, request("/charges", Some("k")), "").await });
    gate.open.notify_one();
    assert_eq!(first.await.unwrap().body, second.await.unwrap().body);
    assert_eq!(effects.count(), 1);
}

#[tokio::test]
async fn a_wait_is_bounded() {
    let effects = Effects::default();
    let (app, gate) = gated(layer(&MemoryStore::new()).wait(Duration::from_millis(30)), &effects);
    let first = tokio::spawn({
        let app = app.clone();
        async move { send(&app, request("/charges", Some("k")), "").await }
    });
    gate.entered.notified().await;
    assert_eq!(send(&app, request("/charges", Some("k")), "").await.status, 409);
    gate.open.notify_one();
    first.await.unwrap();
}

#[tokio::test]
async fn a_client_that_goes_away_frees_no_key_and_stops_no_handler() {
    let effects = Effects::default();
    let store = MemoryStore::new();
    let layer = layer(&store);
    let (app, gate) = gated(layer.clone(), &effects);
    let client = tokio::spawn({
        let app = app.clone();
        async move { send(&app, request("/charges", Some("k")), "").await }
    });
    gate.entered.notified().await;
    client.abort();
    assert!(client.await.unwrap_err().is_cancelled());
    assert_eq!(send(&app, request("/charges", Some("k")), "").await.status, 409, "it still runs");
    gate.open.notify_one();
    layer.drain().await;
    let again = send(&app, request("/charges", Some("k")), "").await;
    assert_eq!((again.status, again.body.as_str(), effects.count()), (201, "1", 1));
}

#[tokio::test]
async fn a_slow_handler_keeps_its_claim() {
    let effects = Effects::default();
    let store = MemoryStore::new();
    let (app, gate) =
        gated(layer(&store).lease(Duration::from_millis(40)).in_doubt(InDoubt::RunAgain), &effects);
    let first = tokio::spawn({
        let app = app.clone();
        async move { send(&app, request("/charges", Some("k")), "").await }
    });
    gate.entered.notified().await;
    let id = secret().key_id(&Scope::of(["nobody"]), &Key::new("k").unwrap());
    let lease = || async { store.inspect(&id).await.unwrap().unwrap().dated.lease_until };
    let begin = lease().await;
    // Renewed at least four times: it has outlived its lease.
    let mut seen = vec![begin];
    while seen.len() < 5 {
        tokio::time::sleep(Duration::from_millis(2)).await;
        let now = lease().await;
        if seen.last() != Some(&now) {
            seen.push(now);
        }
    }
    assert_eq!(send(&app, request("/charges", Some("k")), "").await.status, 409);
    gate.open.notify_one();
    assert_eq!(first.await.unwrap().status, 201);
    assert_eq!(effects.count(), 1);
}

#[tokio::test]
async fn a_failed_handler_leaves_doubt_and_is_not_run_again() {
    let effects = Effects::default();
    let app = app(layer(&MemoryStore::new()), &effects);
    for status in ["500", "503", "429", "504"] {
        let before = effects.count();
        let first = send(&app, request("/charges", Some(status)).header("x-answer", status), "5").await;
        assert_eq!(first.word(), "unknown");
        let again = send(&app, request("/charges", Some(status)), "5").await;
        assert_eq!((again.status, again.code().as_str(), again.word()), (409, "outcome-unknown", "unknown"));
        assert_eq!(effects.count() - before, 1);
    }
}

#[tokio::test]
async fn what_is_idempotent_by_itself_may_run_again() {
    let effects = Effects::default();
    let app = app(layer(&MemoryStore::new()).in_doubt(InDoubt::RunAgain), &effects);
    let failed = send(&app, request("/charges", Some("k")).header("x-answer", "500"), "5").await;
    assert_eq!(failed.status, 500);
    let again = send(&app, request("/charges", Some("k")), "5").await;
    assert_eq!((again.status, again.word(), effects.count()), (201, "kept", 2));
}

#[tokio::test]
async fn a_panic_is_caught_and_leaves_doubt() {
    let effects = Effects::default();
    let own = effects.clone();
    let handler = move || async move {
        own.happen();
        panic!("the handler's own fault");
        #[allow(unreachable_code, reason = "the handler needs a type of answer")]
        StatusCode::OK
    };
    let app = Router::new().route("/charges", post(handler)).layer(layer(&MemoryStore::new()));
    let first = send(&app, request("/charges", Some("k")), "").await;
    assert_eq!((first.status, first.code().as_str(), first.word()), (500, "handler-failed", "unknown"));
    assert_eq!(send(&app, request("/charges", Some("k")), "").await.word(), "unknown");
    assert_eq!(effects.count(), 1);
}

#[tokio::test]
async fn a_hook_settles_what_is_in_doubt() {
    // What the hook does not know is for the setting to decide, and nothing else is.
    for (found, in_doubt, status, runs) in [
        (Reconciled::Applied(Answer::new(201, "found")), InDoubt::Unknown, 201, 1),
        (Reconciled::Applied(Answer::new(201, "found")), InDoubt::RunAgain, 201, 1),
        (Reconciled::Rejected(Answer::new(402, "declined")), InDoubt::Unknown, 402, 1),
        (Reconciled::Rejected(Answer::new(402, "declined")), InDoubt::RunAgain, 402, 1),
        (Reconciled::NotApplied, InDoubt::Unknown, 201, 2),
        (Reconciled::Unknown, InDoubt::Unknown, 409, 1),
        (Reconciled::Unknown, InDoubt::RunAgain, 201, 2),
    ] {
        let effects = Effects::default();
        let hook = found.clone();
        let layer = layer(&MemoryStore::new()).reconcile(move |question| {
            assert_eq!(question.execution.direction(), Direction::Action);
            assert!(question.execution.in_doubt());
            assert_eq!(question.body, "5");
            let found = hook.clone();
            async move { found }
        });
        let app = app(layer.in_doubt(in_doubt), &effects);
        send(&app, request("/charges", Some("k")).header("x-answer", "500"), "5").await;
        let mut answers = Vec::new();
        for _ in 0..2 {
            answers.push(send(&app, request("/charges", Some("k")), "5").await);
        }
        for got in &answers {
            assert_eq!(got.status, status, "{found:?} {in_doubt:?}");
        }
        assert_eq!(answers[0].body, answers[1].body);
        assert_eq!(effects.count(), runs, "{found:?} {in_doubt:?}");
    }
}

#[tokio::test]
async fn a_hook_is_asked_before_a_compensation_undoes_by_key() {
    use crate::saga::call;
    let effects = Effects::default();
    let layer = layer(&MemoryStore::new()).barrier().undo_by_key().reconcile(|question| async move {
        assert_eq!(question.execution.direction(), Direction::Action);
        Reconciled::NotApplied
    });
    let app = app(layer, &effects);
    let failed = send(&app, call("/charges", "action").header("x-answer", "500"), "5").await;
    assert_eq!((failed.word(), effects.count()), ("unknown", 1));
    let undone = send(&app, call("/charges", "compensation"), "undo").await;
    assert_eq!((undone.word(), effects.count()), ("nothing-to-undo", 1));
    assert_eq!(send(&app, call("/charges", "action"), "5").await.status, 410);
}

/// A store that can be switched off, or loses the answers of what it has done.
#[derive(Clone, Debug)]
struct Faulty {
    inner: MemoryStore,
    fault: Arc<std::sync::Mutex<Fault>>,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Fault {
    None,
    Down,
    /// So many operations take effect and their answers are lost.
    LoseAnswers(u32),
    /// So many more operations are answered, and the next one is not.
    Skip(u32),
}

impl Faulty {
    fn new() -> Self {
        Self { inner: MemoryStore::new(), fault: Arc::new(std::sync::Mutex::new(Fault::None)) }
    }

    fn set(&self, fault: Fault) {
        *self.fault.lock().unwrap() = fault;
    }

    fn down() -> StoreError {
        StoreError::new(StoreErrorKind::Unavailable, "switched off")
    }
}

#[async_trait]
impl Store for Faulty {
    async fn swap(&self, id: &KeyId, expected: &Expected, change: &Change) -> Result<Swap, StoreError> {
        let fault = *self.fault.lock().unwrap();
        match fault {
            Fault::Down => return Err(Self::down()),
            Fault::Skip(0) => {
                self.set(Fault::None);
                return Err(Self::down());
            }
            Fault::Skip(n) => self.set(Fault::Skip(n - 1)),
            Fault::None | Fault::LoseAnswers(_) => {}
        }
        let swap = self.inner.swap(id, expected, change).await?;
        if let Fault::LoseAnswers(n) = fault {
            self.set(if n > 1 { Fault::LoseAnswers(n - 1) } else { Fault::None });
            return Err(Self::down());
        }
        Ok(swap)
    }
    async fn read(&self, id: &KeyId) -> Result<(Option<Dated>, Time), StoreError> {
        self.inner.read(id).await
    }
    async fn sweep(&self, limit: u32) -> Result<u64, StoreError> {
        self.inner.sweep(limit).await
    }
    async fn count(&self) -> Result<Counts, StoreError> {
        self.inner.count().await
    }
    async fn unfinished(&self, operation: &str, limit: u32) -> Result<Vec<KeyId>, StoreError> {
        self.inner.unfinished(operation, limit).await
    }
}

fn faulty(store: &Faulty) -> IdempotencyLayer {
    IdempotencyLayer::leased(store.clone(), secret()).global_keys()
}

#[tokio::test]
async fn a_store_that_is_down_means_503_and_the_handler_is_not_entered() {
    let (effects, store) = (Effects::default(), Faulty::new());
    let app = app(faulty(&store), &effects);
    store.set(Fault::Down);
    let got = send(&app, request("/charges", Some("k")), "5").await;
    assert_eq!((got.status, got.code().as_str(), got.word()), (503, "store-unavailable", "not-begun"));
    assert_eq!(got.header("retry-after"), Some("1"));
    assert_eq!(effects.count(), 0);
    store.set(Fault::None);
    assert_eq!(send(&app, request("/charges", Some("k")), "5").await.status, 201);
}

#[tokio::test]
async fn a_hook_that_cannot_be_asked_lets_nothing_run() {
    let (effects, store) = (Effects::default(), Faulty::new());
    let layer = faulty(&store).in_doubt(InDoubt::RunAgain);
    let app = app(layer.reconcile(|_| async { Reconciled::Applied(Answer::new(201, "found")) }), &effects);
    send(&app, request("/charges", Some("k")).header("x-answer", "500"), "5").await;
    // It answers the claim, and then not whether the question may be put.
    store.set(Fault::Skip(1));
    let got = send(&app, request("/charges", Some("k")), "5").await;
    assert_eq!((got.status, got.word(), effects.count()), (503, "not-begun", 1));
    let got = send(&app, request("/charges", Some("k")), "5").await;
    assert_eq!((got.body.as_str(), effects.count()), ("found", 1));
}

#[tokio::test]
async fn failing_open_is_asked_for_and_marked() {
    let (effects, store) = (Effects::default(), Faulty::new());
    let app = app(faulty(&store).fail_open(), &effects);
    store.set(Fault::Down);
    for count in 1..=2 {
        let got = send(&app, request("/charges", Some("k")), "5").await;
        assert_eq!((got.status, got.word(), effects.count()), (201, "unprotected", count));
    }
}

#[tokio::test]
async fn lost_answers_of_the_store_cost_neither_a_second_run_nor_a_stuck_key() {
    for lost in 1..=3 {
        let (effects, store) = (Effects::default(), Faulty::new());
        let app = app(faulty(&store), &effects);
        store.set(Fault::LoseAnswers(lost));
        let first = send(&app, request("/charges", Some("k")), "5").await;
        if lost < 3 {
            // The claim was asked again, and found to be ours.
            assert_eq!((first.status, first.word()), (201, "kept"), "{lost} lost");
        } else {
            // It was given up; in the background it is withdrawn, and the key is free again.
            assert_eq!(first.word(), "not-begun");
            while store.inner.count().await.unwrap() != Counts::default() {
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        }
        let again = send(&app, request("/charges", Some("k")), "5").await;
        assert_eq!((again.status, effects.count()), (201, 1), "{lost} lost");
    }
}

#[tokio::test]
async fn a_lost_answer_of_the_completion_is_asked_again() {
    let (effects, store) = (Effects::default(), Faulty::new());
    let (app, gate) = gated(faulty(&store), &effects);
    let first = tokio::spawn({
        let app = app.clone();
        async move { send(&app, request("/charges", Some("k")), "").await }
    });
    gate.entered.notified().await;
    store.set(Fault::LoseAnswers(2));
    gate.open.notify_one();
    let first = first.await.unwrap();
    assert_eq!((first.status, first.word()), (201, "kept"));
    let again = send(&app, request("/charges", Some("k")), "").await;
    assert_eq!(
        (again.body.clone(), again.header("idempotent-replayed"), effects.count()),
        (first.body, Some("true"), 1)
    );
}

#[tokio::test]
async fn who_was_taken_over_gives_the_winners_answer_and_not_its_own() {
    let (effects, store) = (Effects::default(), MemoryStore::new());
    let (app, gate) = gated(layer(&store), &effects);
    let first = tokio::spawn({
        let app = app.clone();
        async move { send(&app, request("/charges", Some("k")), "").await }
    });
    gate.entered.notified().await;
    // Another process believed it dead: its lease is over, and somebody resolved the key.
    let id = secret().key_id(&Scope::of(["nobody"]), &Key::new("k").unwrap());
    let dated = store.inspect(&id).await.unwrap().unwrap().dated;
    let put = Put { row: dated.row.clone(), lease: Some(Duration::ZERO), keep: None, fresh: false };
    assert!(matches!(
        store.swap(&id, &Expected::exactly(&dated), &Change::Put(put)).await.unwrap(),
        Swap::Done
    ));
    let ticket = store.resolve(&id, Duration::from_secs(9)).await.unwrap().unwrap();
    let answer = Answer::new(201, "the winner's").encode();
    let held = store.complete(&ticket, Verdict::Applied, answer, Duration::from_secs(9)).await.unwrap();
    assert_eq!(held, Held::Yes);
    gate.open.notify_one();
    let first = first.await.unwrap();
    assert_eq!((first.body.as_str(), first.header("idempotent-replayed")), ("the winner's", Some("true")));
}
