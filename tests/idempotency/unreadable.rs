//! A row that cannot be read is in nobody's way.

use idempotency::{Held, KeyId, RedisStore, Store};
use redis::AsyncCommands;
use tests::servers::Redis;

use super::{acquire, request};

/// Redis has no index: who is looked for is found by walking over all of them.
#[tokio::test(flavor = "multi_thread")]
async fn redis_passes_over_what_it_cannot_read() {
    let redis = Redis::start().await;
    let store = RedisStore::connect(&redis.url()).await.unwrap();
    let mut raw = redis.connection().await;
    let _: () = raw.set(format!("idempotency:{}", KeyId([7; 32]).to_hex()), "damaged").await.unwrap();
    let point = idempotency::Point { operation: "place".into(), phase: "charge".into(), memo: "{}".into() };
    let id = KeyId(rand::random());
    let claim = idempotency::ClaimRequest { point: Some(point), ..request(id) };
    let store: std::sync::Arc<dyn Store> = std::sync::Arc::new(store);
    let ticket = acquire(&store, &claim).await;
    assert_eq!(store.abandon(&ticket).await.unwrap(), Held::Yes);
    assert_eq!(store.unfinished("place", 10).await.unwrap(), [id]);
    assert_eq!(store.count().await.unwrap().in_doubt, 1);
}
