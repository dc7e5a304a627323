//! What idempotency costs in round trips: counted on the wire, by a proxy before the server.

use std::sync::Arc;
use std::time::Duration;

use idempotency::fused::FusedStore;
use idempotency::sqlx::postgres::PgPoolOptions;
use idempotency::{Claim, KeyId, PostgresStore, Store, Verdict, sqlx};
use tests::proxy::Proxy;
use tests::servers::{Postgres, Redis};

use super::{KEEP, Server, acquire, answer, request};

#[tokio::test(flavor = "multi_thread")]
async fn a_leased_call_on_postgres_is_two_round_trips_and_a_replay_one() {
    let trips = leased(Postgres::start().await).await;
    assert_eq!(trips, Trips { first: 2, replay: 1, in_flight: 1, renewal: 1 });
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leased_call_on_redis_is_two_round_trips_and_a_replay_one() {
    let trips = leased(Redis::start().await).await;
    // Whether a claim that is met still lasts is asked for by itself.
    assert_eq!(trips, Trips { first: 2, replay: 1, in_flight: 2, renewal: 1 });
}

#[derive(Debug, PartialEq, Eq)]
struct Trips {
    first: u64,
    replay: u64,
    in_flight: u64,
    renewal: u64,
}

async fn leased<S: Server>(server: S) -> Trips {
    let proxy = Proxy::start(server.port()).await;
    let store = S::store(&proxy.url(&server.url())).await;
    // The first of each kind also connects, prepares its statement, loads its script.
    life(&store, &proxy).await;
    life(&store, &proxy).await
}

async fn life(store: &Arc<dyn Store>, proxy: &Proxy) -> Trips {
    let id = KeyId(rand::random());
    let begin = proxy.seen().round_trips;
    let since = |before: &mut u64| {
        let now = proxy.seen().round_trips;
        now - std::mem::replace(before, now)
    };
    let mut before = begin;
    let ticket = acquire(store, &request(id)).await;
    let claimed = since(&mut before);
    let met = store.claim(&request(id)).await.unwrap();
    assert!(matches!(met, Claim::InFlight { .. }), "{met:?}");
    let in_flight = since(&mut before);
    let _ = store.renew(&ticket).await.unwrap();
    let renewal = since(&mut before);
    let _ = store.complete(&ticket, Verdict::Applied, answer("charged"), KEEP).await.unwrap();
    let first = claimed + since(&mut before);
    assert!(matches!(store.claim(&request(id)).await.unwrap(), Claim::Replay(_)));
    Trips { first, replay: since(&mut before), in_flight, renewal }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fused_call_is_three_round_trips_more_than_its_business() {
    let server = Postgres::start().await;
    let proxy = Proxy::start(server.port()).await;
    // Its one pool tells when a connection is back, and has been asked whether it lives.
    let pool =
        PgPoolOptions::new().test_before_acquire(false).connect(&proxy.url(&server.url())).await.unwrap();
    let store = PostgresStore::new(pool).await.unwrap();
    let table = "CREATE TABLE business (id bigint GENERATED ALWAYS AS IDENTITY, note text)";
    sqlx::query(table).execute(store.pool()).await.unwrap();
    for statements in [1, 10] {
        // The first of each kind prepares its statements.
        for counted in [false, true] {
            let alone = business(&store, &proxy, statements, false).await;
            let fused = business(&store, &proxy, statements, true).await;
            assert!(!counted || fused == alone + 3, "{statements} statements: {alone} alone, {fused} fused");
        }
    }
}

/// The round trips of a transaction, until its connection is idle again.
async fn business(store: &PostgresStore, proxy: &Proxy, statements: u32, fused: bool) -> u64 {
    let before = proxy.seen().round_trips;
    let mut tx = store.begin().await.unwrap();
    let ticket = match fused {
        true => {
            match store.claim_in(&mut tx, &request(KeyId(rand::random())), Duration::from_secs(1)).await {
                Ok(Claim::Acquired(ticket)) => Some(ticket),
                other => panic!("a fresh key is acquired, not {other:?}"),
            }
        }
        false => None,
    };
    for _ in 0..statements {
        sqlx::query("INSERT INTO business (note) VALUES ('a row')").execute(&mut *tx).await.unwrap();
    }
    if let Some(ticket) = ticket {
        store.complete_in(&mut tx, &ticket, Verdict::Applied, answer("charged"), KEEP).await.unwrap();
    }
    tx.commit().await.unwrap();
    while store.pool().num_idle() < store.pool().size() as usize {
        tokio::task::yield_now().await;
    }
    proxy.seen().round_trips - before
}
