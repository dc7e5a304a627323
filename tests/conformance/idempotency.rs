//! Every store keeps the promises of [`idempotency::Store`].

use std::sync::Arc;

use idempotency::{PostgresStore, RedisStore, Store, testing};
use tests::servers::{RedisCluster, RedisSentinel, postgres, redis};

/// Each handle has a pool of its own, as a second process would.
#[tokio::test(flavor = "multi_thread")]
async fn postgres_conforms() {
    let database = postgres::fresh_database().await;
    testing::conformance(|| async {
        Arc::new(PostgresStore::connect(database.url()).await.unwrap()) as Arc<dyn Store>
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn redis_conforms() {
    let keys = redis::fresh_keyspace().await;
    testing::conformance(|| async {
        Arc::new(RedisStore::connect(&keys.url).await.unwrap().prefix(keys.prefix.as_str())) as Arc<dyn Store>
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn redis_cluster_conforms() {
    let cluster = RedisCluster::start().await;
    conforms_behind(&cluster.url()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn redis_behind_sentinels_conforms() {
    let group = RedisSentinel::start().await;
    conforms_behind(&group.url()).await;
}

async fn conforms_behind(url: &str) {
    testing::conformance(|| async { Arc::new(RedisStore::connect(url).await.unwrap()) as Arc<dyn Store> })
        .await;
}
