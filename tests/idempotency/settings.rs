//! A server whose settings would break the promise is refused, and told why.

use idempotency::{PostgresStore, RedisStore, StoreError, StoreErrorKind};
use tests::servers::{Postgres, Redis};

fn refused<T: std::fmt::Debug>(connected: Result<T, StoreError>, because: &str) {
    let error = connected.expect_err("unsafe settings are refused");
    assert_eq!(error.kind(), StoreErrorKind::Settings, "{error}");
    assert!(error.to_string().contains(because), "it names the setting: {error}");
}

#[tokio::test]
async fn postgres_that_forgets_is_refused() {
    for setting in ["fsync", "synchronous_commit", "full_page_writes"] {
        let postgres = Postgres::start_with(&[(setting, "off")]).await;
        refused(PostgresStore::connect(&postgres.url()).await, setting);
    }
}

#[tokio::test]
async fn redis_that_evicts_is_refused() {
    let redis = Redis::start_with(&[("maxmemory-policy", "allkeys-lru")]).await;
    refused(RedisStore::connect(&redis.url()).await.map(|_| ()), "maxmemory-policy");
}

#[tokio::test]
async fn a_replica_of_redis_is_refused() {
    let master = Redis::start().await;
    let replica = Redis::start_with(&[("replicaof", &format!("127.0.0.1 {}", master.port()))]).await;
    refused(RedisStore::connect(&replica.url()).await.map(|_| ()), "replica");
}

#[tokio::test]
async fn a_wrong_url_says_so() {
    let unreachable = PostgresStore::connect("postgres://127.0.0.1:1/orders").await.unwrap_err();
    assert_eq!(unreachable.kind(), StoreErrorKind::Unavailable, "{unreachable}");
    let unreachable = RedisStore::connect("redis://127.0.0.1:1").await.map(|_| ()).unwrap_err();
    assert_eq!(unreachable.kind(), StoreErrorKind::Unavailable, "{unreachable}");
}

/// Two providers of cryptography are linked into this program, as into any that also has the relay.
#[tokio::test]
async fn tls_to_redis_fails_in_words_where_nobody_listens() {
    let refused = ::idempotency::store::connect("rediss://127.0.0.1:1").await;
    assert!(refused.is_err(), "nobody listens there");
}
