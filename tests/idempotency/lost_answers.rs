//! The store has acted and its answer is lost. Asking again with the same request tells what happened.

use idempotency::{Claim, Held, KeyId, Store, StoreErrorKind, Verdict};
use std::sync::Arc;
use std::time::Duration;
use tests::proxy::Proxy;
use tests::servers::{Postgres, Redis};

use super::{KEEP, Server, acquire, answer, is_replay_of, request};

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_answer_of_postgres_is_asked_for_again() {
    // The id travels as it is.
    lost_answers_are_asked_for_again(Postgres::start().await, |id| id.0.to_vec()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_answer_of_redis_is_asked_for_again() {
    // The id travels within the name of its key.
    lost_answers_are_asked_for_again(Redis::start().await, |id| id.to_hex().into_bytes()).await;
}

async fn lost_answers_are_asked_for_again<S: Server>(server: S, on_the_wire: impl Fn(&KeyId) -> Vec<u8>) {
    let proxy = Proxy::start(server.port()).await;
    let store = S::store(&proxy.url(&server.url())).await;
    let direct = S::store(&server.url()).await;
    // Statements and scripts are prepared by their first use, which is none of this test's business.
    acquire(&store, &request(KeyId(rand::random()))).await;

    let id = KeyId(rand::random());
    let first = request(id);
    let mut lost = proxy.lose_answer(on_the_wire(&id));
    let unheard = store.claim(&first).await.unwrap_err();
    assert_eq!(unheard.kind(), StoreErrorKind::Unavailable, "{unheard}");
    lost.sprung().await;
    let other = direct.claim(&request(id)).await.unwrap();
    assert!(matches!(other, Claim::InFlight { .. }), "the claim was made: {other:?}");
    let ticket = until_acquired(&store, &first).await;

    let mut lost = proxy.lose_answer(on_the_wire(&id));
    store.complete(&ticket, Verdict::Applied, answer("charged"), KEEP).await.unwrap_err();
    lost.sprung().await;
    let replay = direct.claim(&request(id)).await.unwrap();
    assert!(is_replay_of(&replay, &answer("charged")), "the answer was kept: {replay:?}");
    let again = loop {
        match store.complete(&ticket, Verdict::Applied, answer("charged"), KEEP).await {
            Ok(held) => break held,
            Err(reconnecting) => assert_eq!(reconnecting.kind(), StoreErrorKind::Unavailable),
        }
    };
    assert_eq!(again, Held::Yes, "its holder is not told that somebody took over");
}

async fn until_acquired(store: &Arc<dyn Store>, request: &idempotency::ClaimRequest) -> idempotency::Ticket {
    loop {
        match store.claim(request).await {
            Ok(Claim::Acquired(ticket)) => return ticket,
            Ok(other) => panic!("the same request does not meet itself: {other:?}"),
            Err(reconnecting) => assert_eq!(reconnecting.kind(), StoreErrorKind::Unavailable),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_that_vanishes_to_postgres_is_an_answer_in_time() {
    a_request_that_vanishes_is_an_answer_in_time(Postgres::start().await, |id| id.0.to_vec()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_that_vanishes_to_redis_is_an_answer_in_time() {
    a_request_that_vanishes_is_an_answer_in_time(Redis::start().await, |id| id.to_hex().into_bytes()).await;
}

/// A machine is gone without a word: no reset comes, and nothing else will. The handler must be refused in time,
/// not hung; the limit here is far above what any caller would wait for.
async fn a_request_that_vanishes_is_an_answer_in_time<S: Server>(
    server: S,
    on_the_wire: impl Fn(&KeyId) -> Vec<u8>,
) {
    let proxy = Proxy::start(server.port()).await;
    let store = S::store(&proxy.url(&server.url())).await;
    acquire(&store, &request(KeyId(rand::random()))).await;
    let id = KeyId(rand::random());
    let _held = proxy.hold_request(on_the_wire(&id));
    let claim = tokio::time::timeout(Duration::from_secs(60), store.claim(&request(id))).await;
    let error = claim.expect("the store gives up by itself").unwrap_err();
    assert_eq!(error.kind(), StoreErrorKind::Unavailable, "{error}");
}
