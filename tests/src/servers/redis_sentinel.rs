//! A Redis master with a replica, watched by three Sentinels.

use std::process::Command;
use std::time::Duration;

use super::home::Home;
use super::port::free_port;
use super::redis::{Redis, answers, program};
use super::supervised::{Exited, Supervised};

/// What the Sentinels call the master.
const NAME: &str = "keys";

/// A group that this test owns.
#[derive(Debug)]
pub struct RedisSentinel {
    master: Redis,
    replica: Redis,
    sentinels: Vec<Sentinel>,
}

impl RedisSentinel {
    /// A new, empty group, ready: the replica has caught up, the Sentinels know it and each other.
    pub async fn start() -> Self {
        let master = Redis::start().await;
        let replica = Redis::start_with(&[("replicaof", &format!("127.0.0.1 {}", master.port()))]).await;
        master.until_info("replication", |info| info.contains("state=online")).await;
        let mut sentinels = Vec::new();
        for _ in 0..3 {
            sentinels.push(Sentinel::start(master.port()).await);
        }
        for sentinel in &sentinels {
            sentinel
                .until(|fields| {
                    field(fields, "num-slaves") == "1" && field(fields, "num-other-sentinels") == "2"
                })
                .await;
        }
        Self { master, replica, sentinels }
    }

    /// Its URL for a client of idempotency.
    pub fn url(&self) -> String {
        let hosts: Vec<_> = self.sentinels.iter().map(|own| format!("127.0.0.1:{}", own.port)).collect();
        format!("redis-sentinel://{}/{NAME}", hosts.join(","))
    }

    /// The replica has everything by now, and receives nothing from now on.
    pub async fn cut_the_replica_off(&self) {
        self.master.until_replicated().await;
        self.replica.hang_cut_off_from(&self.master).await;
    }

    /// Kills the master, lets the replica go on, and waits until every Sentinel calls that the master.
    pub async fn fail_over(&mut self) {
        self.master.kill();
        self.replica.thaw();
        let port = self.replica.port().to_string();
        for sentinel in &self.sentinels {
            sentinel.until(|fields| field(fields, "port") == port).await;
        }
        self.replica.until_info("replication", |info| info.contains("role:master")).await;
    }
}

#[derive(Debug)]
struct Sentinel {
    server: Supervised,
    port: u16,
}

impl Sentinel {
    async fn start(master: u16) -> Self {
        let mut sentinel = Self { server: Supervised::new("Sentinel", Home::new("sentinel")), port: 0 };
        loop {
            sentinel.port = free_port();
            match sentinel.launch(master).await {
                Ok(()) => return sentinel,
                Err(_) if sentinel.server.home().log_tail().contains("Address already in use") => {}
                Err(exited) => sentinel.server.fail(&exited),
            }
        }
    }

    async fn launch(&mut self, master: u16) -> Result<(), Exited> {
        // Sentinels write what they learn into their own configuration.
        let file = self.server.home().dir().join("sentinel.conf");
        let configuration = format!(
            "port {}\nbind 127.0.0.1\nsentinel monitor {NAME} 127.0.0.1 {master} 2\n\
             sentinel down-after-milliseconds {NAME} 1000\nsentinel failover-timeout {NAME} 10000\n",
            self.port
        );
        std::fs::write(&file, configuration).expect("the server's home is writable");
        self.server.spawn(Command::new(program()).arg(&file).arg("--sentinel"));
        let url = format!("redis://127.0.0.1:{}", self.port);
        self.server.answers(async || answers(&url).await).await
    }

    /// Waits until `condition` holds of what it knows of the master.
    async fn until(&self, condition: impl Fn(&[String]) -> bool) {
        let client = redis::Client::open(format!("redis://127.0.0.1:{}", self.port)).expect("a URL we wrote");
        loop {
            if let Ok(mut connection) = client.get_multiplexed_async_connection().await {
                let mut ask = redis::cmd("SENTINEL");
                let fields = ask.arg("MASTER").arg(NAME).query_async::<Vec<String>>(&mut connection).await;
                if fields.is_ok_and(|fields| condition(&fields)) {
                    return;
                }
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}

/// Names and values come in turn.
fn field<'a>(fields: &'a [String], name: &str) -> &'a str {
    fields.chunks_exact(2).find(|pair| pair[0] == name).map_or("", |pair| &pair[1])
}
