//! A master of Redis dies and its replica takes over: the store finds the new master by itself, and what is lost
//! is exactly what the replica had not received.
//!
//! That much is lost, and each key of it runs again, is what Redis' asynchronous replication means. The store's
//! documentation says so; here it is counted.

use std::sync::Arc;

use idempotency::{Claim, KeyId, RedisStore, Store, Verdict};
use tests::servers::{RedisCluster, RedisSentinel};

use super::harm::until_answered;
use super::{KEEP, acquire, answer, is_replay_of, request};

/// A group of servers, one of whose masters can be lost.
trait Group {
    fn url(&self) -> String;
    /// Whether the master that is lost holds this key.
    async fn holds(&self, key: &str) -> bool;
    async fn cut_the_replica_off(&self);
    async fn fail_over(&mut self);
}

impl Group for RedisSentinel {
    fn url(&self) -> String {
        self.url()
    }

    async fn holds(&self, _: &str) -> bool {
        true
    }

    async fn cut_the_replica_off(&self) {
        self.cut_the_replica_off().await;
    }

    async fn fail_over(&mut self) {
        self.fail_over().await;
    }
}

impl Group for RedisCluster {
    fn url(&self) -> String {
        self.url()
    }

    async fn holds(&self, key: &str) -> bool {
        self.is_on_the_harmed_shard(key).await
    }

    async fn cut_the_replica_off(&self) {
        self.cut_the_replica_off().await;
    }

    async fn fail_over(&mut self) {
        self.fail_over().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failover_by_sentinels_loses_what_the_replica_had_not_received() {
    a_failover_loses_what_the_replica_had_not_received(RedisSentinel::start().await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failover_in_a_cluster_loses_what_the_replica_had_not_received() {
    a_failover_loses_what_the_replica_had_not_received(RedisCluster::start().await).await;
}

const KEYS: usize = 30;

async fn a_failover_loses_what_the_replica_had_not_received<G: Group>(mut group: G) {
    let store: Arc<dyn Store> = Arc::new(RedisStore::connect(&group.url()).await.unwrap());
    let received = charge_all(&store).await;
    group.cut_the_replica_off().await;
    let late = charge_all(&store).await;
    group.fail_over().await;

    for id in &received {
        let claim = until_answered(&store, *id).await;
        assert!(is_replay_of(&claim, &answer(&id.to_hex())), "the replica had it: {claim:?}");
    }
    let mut again = 0;
    for id in &late {
        let lost = group.holds(&format!("idempotency:{}", id.to_hex())).await;
        match until_answered(&store, *id).await {
            Claim::Acquired(_) if lost => again += 1,
            claim => assert!(!lost && is_replay_of(&claim, &answer(&id.to_hex())), "lost: {lost}; {claim:?}"),
        }
    }
    eprintln!("a failover lost {again} of {KEYS} acknowledged outcomes: those would take effect again");
    assert!(again > 0, "some keys lay on the master that died");
    charge_all(&store).await;
}

/// Fresh keys, each claimed and its outcome acknowledged.
async fn charge_all(store: &Arc<dyn Store>) -> Vec<KeyId> {
    let mut ids = Vec::with_capacity(KEYS);
    for _ in 0..KEYS {
        let id = KeyId(rand::random());
        let ticket = acquire(store, &request(id)).await;
        let held = store.complete(&ticket, Verdict::Applied, answer(&id.to_hex()), KEEP).await.unwrap();
        assert_eq!(held, idempotency::Held::Yes);
        ids.push(id);
    }
    ids
}
