//! What a connection that is lost, held or scarce must not change. Only Postgres has them.

use std::time::Duration;

use axum::Router;
use axum::http::StatusCode;
use axum::routing::post;
use idempotency::fused::{FusedStore, PgTx};
use idempotency::sqlx::postgres::PgPoolOptions;
use idempotency::{
    Claim, ClaimRequest, Fingerprint, IdempotencyLayer, PostgresStore, Secret, Store, sqlx, testing,
};

use crate::client::{charge, send};
use crate::proxy::{Proxy, Strike};
use crate::server::Postgres;

async fn count(pool: &sqlx::PgPool) -> i64 {
    sqlx::query_scalar("SELECT count(*) FROM charges").fetch_one(pool).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_commit_whose_answer_is_lost_is_looked_up() {
    for strike in [Strike::Before, Strike::After, Strike::Pooler] {
        let server = Postgres::start();
        let proxy = Proxy::start(&server, "COMMIT\0", strike).await;
        let store = PostgresStore::connect(proxy.url()).await.unwrap();
        sqlx::query("CREATE TABLE charges (note text)").execute(store.pool()).await.unwrap();
        let handler = |mut tx: PgTx| async move {
            sqlx::query("INSERT INTO charges VALUES ('5')").execute(&mut *tx).await.unwrap();
            (StatusCode::CREATED, "charged")
        };
        let layer = IdempotencyLayer::fused(store.clone(), Secret::new([4; 32])).global_keys();
        let app = Router::new().route("/charges", post(handler)).layer(layer);
        proxy.arm();
        let first = send(&app, charge("k", ""), "").await;
        assert!(proxy.has_struck());
        let rows = count(store.pool()).await;
        if strike == Strike::Before {
            assert_eq!((first.status, first.word.as_str(), rows), (500, "not-applied", 0));
        } else {
            assert_eq!((first.status, first.body.as_str(), rows), (201, "charged", 1), "{strike:?}");
        }
        let again = send(&app, charge("k", ""), "").await;
        let rows = count(store.pool()).await;
        assert_eq!((again.status, again.body.as_str(), rows), (201, "charged", 1), "{strike:?}");
        assert_eq!(again.replayed, strike != Strike::Before, "{strike:?}");
    }
}

/// A pooler's good-bye is the end of the connection: the next statement takes another one.
#[tokio::test(flavor = "multi_thread")]
async fn a_connection_that_a_pooler_gave_up_is_not_used_again() {
    let server = Postgres::start();
    let proxy = Proxy::start(&server, "INSERT INTO idempotency.keys", Strike::Pooler).await;
    let store = PostgresStore::connect(proxy.url()).await.unwrap();
    let print = Fingerprint::new(&Secret::new([4; 32]), b"POST", b"/charges", b"");
    let request = ClaimRequest::new(testing::key_id("k"), print);
    proxy.arm();
    store.claim(&request).await.expect_err("the pooler has lost its server");
    assert!(proxy.has_struck());
    let claim = store.claim(&request).await.unwrap();
    assert!(matches!(claim, Claim::Acquired(_)), "its own, which had been written: {claim:?}");
}

/// A store on a pool of one, as a stand-in for any pool with as many requests as connections.
async fn on_a_pool_of_one(server: &Postgres) -> PostgresStore {
    let one = PgPoolOptions::new().max_connections(1).acquire_timeout(Duration::from_secs(3));
    PostgresStore::new(one.connect(server.url()).await.unwrap()).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_needs_no_second_connection_while_it_has_one() {
    let server = Postgres::start();
    let store = on_a_pool_of_one(&server).await;
    let handler = |mut tx: PgTx, body: String| async move {
        if body == "by hand" {
            sqlx::raw_sql("COMMIT").execute(&mut *tx).await.unwrap();
            return (StatusCode::CREATED, "charged");
        }
        sqlx::query("SELECT 1/0").execute(&mut *tx).await.unwrap_err();
        (StatusCode::CONFLICT, "there is one already")
    };
    let layer = IdempotencyLayer::fused(store, Secret::new([4; 32])).global_keys();
    let app = Router::new().route("/charges", post(handler)).layer(layer);
    for replayed in [false, true] {
        let got = send(&app, charge("refused", ""), "").await;
        assert_eq!((got.status, got.word.as_str(), got.replayed), (409, "kept", replayed), "{}", got.body);
    }
    for status in [500, 409] {
        let got = send(&app, charge("ended", ""), "by hand").await;
        assert_eq!((got.status, got.word.as_str()), (status, "unknown"), "{}", got.body);
    }
}

/// A `BEGIN` whose answer comes too late, as the timeout has it, must not leave its transaction to the next user.
#[tokio::test(flavor = "multi_thread")]
async fn a_begin_that_nobody_waits_for_leaves_no_transaction_open() {
    let server = Postgres::start();
    let proxy = Proxy::start(&server, "BEGIN ISOLATION LEVEL", Strike::Hold).await;
    let pool = PgPoolOptions::new().max_connections(1).connect(proxy.url()).await.unwrap();
    let store = PostgresStore::new(pool.clone()).await.unwrap();
    sqlx::query("CREATE TABLE charges (note text)").execute(&pool).await.unwrap();
    proxy.arm();
    let begins = tokio::spawn(async move { store.begin().await.map(drop) });
    proxy.struck().await;
    begins.abort();
    assert!(begins.await.unwrap_err().is_cancelled());
    proxy.release();
    sqlx::query("INSERT INTO charges VALUES ('5')").execute(&pool).await.unwrap();
    let other = sqlx::PgPool::connect(server.url()).await.unwrap();
    assert_eq!(count(&other).await, 1, "committed by itself");
}
