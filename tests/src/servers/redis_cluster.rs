//! A Redis Cluster: three masters with a replica each.

use futures::future::join_all;

use super::redis::Redis;

/// How long a node is silent before the others call it dead.
const NODE_TIMEOUT_MS: u32 = 1000;
const SLOTS: u32 = 16_384;
const SHARDS: u32 = 3;

/// A cluster that this test owns.
#[derive(Debug)]
pub struct RedisCluster {
    masters: Vec<Redis>,
    replicas: Vec<Redis>,
}

impl RedisCluster {
    /// A new, empty cluster, ready: every slot is served, every replica has caught up.
    pub async fn start() -> Self {
        let mut nodes = join_all((0..2 * SHARDS).map(|_| Redis::start_node(NODE_TIMEOUT_MS))).await;
        let replicas = nodes.split_off(SHARDS as usize);
        let cluster = Self { masters: nodes, replicas };
        for (master, shard) in cluster.masters.iter().zip(0..) {
            let (from, to) = (SLOTS * shard / SHARDS, SLOTS * (shard + 1) / SHARDS - 1);
            cluster.tell(master, &["ADDSLOTSRANGE", &from.to_string(), &to.to_string()]).await;
        }
        for node in cluster.nodes().skip(1) {
            let (port, bus) = (node.port().to_string(), node.bus().to_string());
            cluster.tell(&cluster.masters[0], &["MEET", "127.0.0.1", &port, &bus]).await;
        }
        for node in cluster.nodes() {
            until_cluster(node, |info| info.contains("cluster_known_nodes:6")).await;
        }
        for (replica, master) in cluster.replicas.iter().zip(&cluster.masters) {
            let id: String = ask(master, &["MYID"]).await.expect("a node has an id");
            // Until it has heard of its master it refuses.
            while ask::<String>(replica, &["REPLICATE", &id]).await.is_err() {
                tokio::time::sleep(std::time::Duration::from_millis(10)).await;
            }
        }
        for master in &cluster.masters {
            master.until_info("replication", |info| info.contains("state=online")).await;
        }
        cluster.until_served().await;
        cluster
    }

    /// Its URL for a client of idempotency: two of its nodes, from which a client learns of the others.
    pub fn url(&self) -> String {
        format!("redis-cluster://127.0.0.1:{},127.0.0.1:{}", self.masters[1].port(), self.masters[2].port())
    }

    /// Whether `key` lies on the shard that the other methods harm.
    pub async fn is_on_the_harmed_shard(&self, key: &str) -> bool {
        let slot: u32 = ask(&self.masters[1], &["KEYSLOT", key]).await.expect("every key has a slot");
        slot < SLOTS / SHARDS
    }

    /// The first shard's replica has everything by now, and receives nothing from now on.
    pub async fn cut_the_replica_off(&self) {
        self.masters[0].until_replicated().await;
        self.replicas[0].hang_cut_off_from(&self.masters[0]).await;
    }

    /// Kills the first shard's master, lets its replica go on, and waits until that is the master.
    pub async fn fail_over(&mut self) {
        self.masters[0].kill();
        self.replicas[0].thaw();
        self.replicas[0].until_info("replication", |info| info.contains("role:master")).await;
        self.until_served().await;
    }

    async fn until_served(&self) {
        for node in self.nodes().filter(|node| node.is_running()) {
            until_cluster(node, |info| info.contains("cluster_state:ok")).await;
        }
    }

    fn nodes(&self) -> impl Iterator<Item = &Redis> {
        self.masters.iter().chain(&self.replicas)
    }

    async fn tell(&self, node: &Redis, command: &[&str]) {
        let done: Result<String, _> = ask(node, command).await;
        done.unwrap_or_else(|error| panic!("CLUSTER {command:?}: {error}"));
    }
}

async fn ask<T: redis::FromRedisValue>(node: &Redis, command: &[&str]) -> redis::RedisResult<T> {
    let mut cluster = redis::cmd("CLUSTER");
    cluster.arg(command).query_async(&mut node.connection().await).await
}

async fn until_cluster(node: &Redis, condition: impl Fn(&str) -> bool) {
    while !ask::<String>(node, &["INFO"]).await.is_ok_and(|info| condition(&info)) {
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
}
