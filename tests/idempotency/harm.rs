//! The server dies, hangs and comes back; what it has acknowledged holds.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures::future::join_all;
use idempotency::{Claim, Held, KeyId, Store, StoreErrorKind, Verdict};
use rand::Rng;
use tests::servers::{Postgres, Redis};
use tokio::sync::mpsc;

use super::{KEEP, Server, acquire, answer, is_replay_of, request};

const AGAIN: Duration = Duration::from_millis(5);

#[tokio::test(flavor = "multi_thread")]
async fn acknowledged_claims_survive_a_kill_of_postgres() {
    acknowledged_claims_survive_a_kill(Postgres::start().await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn acknowledged_claims_survive_a_kill_of_redis() {
    acknowledged_claims_survive_a_kill(Redis::start().await).await;
}

async fn acknowledged_claims_survive_a_kill<S: Server>(mut server: S) {
    let store = S::store(&server.url()).await;
    let (done, running) = (KeyId(rand::random()), KeyId(rand::random()));
    let ticket = acquire(&store, &request(done)).await;
    assert_eq!(store.complete(&ticket, Verdict::Applied, answer("charged"), KEEP).await.unwrap(), Held::Yes);
    let held = acquire(&store, &request(running)).await;

    server.kill();
    let down = store.claim(&request(done)).await.unwrap_err();
    assert_eq!(down.kind(), StoreErrorKind::Unavailable, "nothing is run while nobody knows: {down}");

    server.restart().await;
    let replay = until_answered(&store, done).await;
    assert!(is_replay_of(&replay, &answer("charged")), "{replay:?}");
    let in_flight = store.claim(&request(running)).await.unwrap();
    assert!(matches!(in_flight, Claim::InFlight { .. }), "the claim outlived the server: {in_flight:?}");
    assert_eq!(store.complete(&held, Verdict::Applied, answer("shipped"), KEEP).await.unwrap(), Held::Yes);
}

/// A handle reconnects by itself; until it has, it answers with errors.
pub(super) async fn until_answered(store: &Arc<dyn Store>, id: KeyId) -> Claim {
    let request = request(id);
    loop {
        match store.claim(&request).await {
            Ok(claim) => return claim,
            Err(error) => assert_eq!(error.kind(), StoreErrorKind::Unavailable, "{error}"),
        }
        tokio::time::sleep(AGAIN).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_frozen_postgres_is_an_answer_in_time() {
    a_frozen_server_is_an_answer_in_time(Postgres::start().await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_frozen_redis_is_an_answer_in_time() {
    a_frozen_server_is_an_answer_in_time(Redis::start().await).await;
}

/// The handler behind the layer must be refused, not hung: 503 while the store does not answer.
async fn a_frozen_server_is_an_answer_in_time<S: Server>(server: S) {
    let store = S::store(&server.url()).await;
    let id = KeyId(rand::random());
    acquire(&store, &request(KeyId(rand::random()))).await;
    server.freeze();
    let frozen = store.claim(&request(id)).await.unwrap_err();
    assert_eq!(frozen.kind(), StoreErrorKind::Unavailable, "{frozen}");
    server.thaw();
    until_answered(&store, id).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn duplicates_run_once_while_postgres_is_killed() {
    let effects = storm(Postgres::start().await, 3).await;
    assert!(effects.values().all(|count| *count == 1), "{effects:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn duplicates_run_once_while_redis_is_killed() {
    let effects = storm(Redis::start().await, 3).await;
    assert!(effects.values().all(|count| *count == 1), "{effects:?}");
}

/// What the store's documentation warns of, and what shows that the storm can find it.
#[tokio::test(flavor = "multi_thread")]
async fn a_redis_without_its_log_lets_effects_happen_twice() {
    let effects = storm(Redis::start_with(&[("appendonly", "no")]).await, 3).await;
    assert!(effects.values().any(|count| *count > 1), "{effects:?}");
}

const KEYS: usize = 24;
const DUPLICATES: usize = 2;

/// In every round clients send every key twice at once, and the store is killed and restarted at a random moment
/// of it. Each client repeats its request until it is answered. Answers how often each key took effect.
async fn storm<S: Server>(mut server: S, rounds: usize) -> HashMap<KeyId, u32> {
    let mut rng = tests::seeded();
    let store = S::store(&server.url()).await;
    let effects: Arc<Mutex<HashMap<KeyId, u32>>> = Arc::default();
    let keys: Vec<KeyId> = (0..KEYS).map(|_| KeyId(rng.random())).collect();
    for _ in 0..rounds {
        let (sender, mut answered) = mpsc::unbounded_channel();
        let clients: Vec<_> = (0..KEYS * DUPLICATES)
            .map(|client| {
                let (id, store, effects, sender) =
                    (keys[client % KEYS], Arc::clone(&store), Arc::clone(&effects), sender.clone());
                tokio::spawn(async move {
                    charge_once(&store, id, &effects).await;
                    let _ = sender.send(());
                })
            })
            .collect();
        for _ in 0..rng.random_range(1..KEYS) {
            answered.recv().await;
        }
        server.kill();
        server.restart().await;
        for client in join_all(clients).await {
            client.unwrap();
        }
    }
    Arc::into_inner(effects).expect("all clients are done").into_inner().unwrap()
}

/// One request of one client: claims, charges, keeps the answer, and repeats whatever was not answered.
async fn charge_once(store: &Arc<dyn Store>, id: KeyId, effects: &Mutex<HashMap<KeyId, u32>>) {
    let request = request(id);
    let body = answer(&id.to_hex());
    loop {
        match store.claim(&request).await {
            Ok(Claim::Acquired(ticket)) => {
                *effects.lock().unwrap().entry(id).or_default() += 1;
                while store.complete(&ticket, Verdict::Applied, body.clone(), KEEP).await.is_err() {
                    tokio::time::sleep(AGAIN).await;
                }
                return;
            }
            Ok(Claim::Replay(kept)) => return assert_eq!(kept.answer, body),
            Ok(Claim::InFlight { .. }) => {}
            Ok(other) => panic!("unexpected {other:?}"),
            Err(error) => assert_eq!(error.kind(), StoreErrorKind::Unavailable, "{error}"),
        }
        tokio::time::sleep(AGAIN).await;
    }
}
