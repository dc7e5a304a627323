//! What a connection that is lost, held or scarce must not change. Only Postgres has them.

use axum::Router;
use axum::http::StatusCode;
use axum::routing::post;
use idempotency::fused::PgTx;
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
