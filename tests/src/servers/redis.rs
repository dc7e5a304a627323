//! Redis.

use std::process::Command;

use rustix::process::Signal;
use tokio::sync::OnceCell;
use uuid::Uuid;

use super::home::Home;
use super::port::free_port;
use super::supervised::{Exited, Supervised};

/// Every acknowledged write is on disk, and nothing is ever evicted: what the idempotency store asks for.
const SETTINGS: &[(&str, &str)] = &[
    ("bind", "127.0.0.1"),
    ("appendonly", "yes"),
    ("appendfsync", "always"),
    ("save", ""),
    ("maxmemory-policy", "noeviction"),
];

/// A Redis server that this test owns.
#[derive(Debug)]
pub struct Redis {
    server: Supervised,
    port: u16,
    /// Where the nodes of a cluster talk to each other.
    bus: Option<u16>,
    settings: Vec<(String, String)>,
}

impl Redis {
    /// A new, empty server, ready.
    pub async fn start() -> Self {
        Self::start_with(&[]).await
    }

    /// The same with further settings, as `maxmemory-policy = allkeys-lru`; they win over ours and outlive
    /// restarts.
    pub async fn start_with(settings: &[(&str, &str)]) -> Self {
        let settings =
            settings.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        Self::launched(settings, false).await
    }

    /// A node that no cluster knows yet.
    pub(super) async fn start_node(node_timeout_ms: u32) -> Self {
        let settings =
            [("cluster-enabled", "yes".to_owned()), ("cluster-node-timeout", node_timeout_ms.to_string())];
        let settings = settings.map(|(name, value)| (name.to_owned(), value)).to_vec();
        Self::launched(settings, true).await
    }

    async fn launched(settings: Vec<(String, String)>, in_cluster: bool) -> Self {
        let server = Supervised::new("Redis", Home::new("redis"));
        let mut redis = Self { server, port: 0, bus: None, settings };
        loop {
            redis.port = free_port();
            redis.bus = in_cluster.then(free_port);
            match redis.launch().await {
                Ok(()) => return redis,
                Err(_) if redis.server.home().log_tail().contains("Address already in use") => {}
                Err(exited) => redis.server.fail(&exited),
            }
        }
    }

    /// Its URL. It stays the same over restarts.
    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    /// The port it listens on, for a proxy in front of it.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The port of the cluster's own talk.
    pub(super) fn bus(&self) -> u16 {
        self.bus.expect("started as a node of a cluster")
    }

    /// A connection for the test's own commands.
    pub async fn connection(&self) -> redis::aio::MultiplexedConnection {
        let client = redis::Client::open(self.url()).expect("a URL we wrote");
        client.get_multiplexed_async_connection().await.expect("the server answers")
    }

    /// Waits until `condition` holds of the section of `INFO`; a server that is busy or hangs is asked again.
    pub(super) async fn until_info(&self, section: &str, condition: impl Fn(&str) -> bool) {
        let client = redis::Client::open(self.url()).expect("a URL we wrote");
        loop {
            if let Ok(mut connection) = client.get_multiplexed_async_connection().await {
                let mut info = redis::cmd("INFO");
                let info: Result<String, _> = info.arg(section).query_async(&mut connection).await;
                if info.is_ok_and(|info| condition(&info)) {
                    return;
                }
            }
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
    }

    /// From now on this server, as a replica, receives nothing more from `master`: neither what is under way
    /// nor what follows. It hangs until it is thawed.
    pub(super) async fn hang_cut_off_from(&self, master: &Self) {
        self.freeze();
        // What the kernel has taken for a frozen process would still be read by it; what comes after the
        // connection has ended is not.
        let mut kill = redis::cmd("CLIENT");
        kill.arg("KILL").arg("TYPE").arg("replica");
        let killed: u32 = kill.query_async(&mut master.connection().await).await.expect("the master answers");
        assert_eq!(killed, 1, "the replica was connected");
    }

    /// Waits until the replica has everything that its master has now.
    pub(super) async fn until_replicated(&self) {
        let mut wait = redis::cmd("WAIT");
        let received: u32 =
            wait.arg(1).arg(0).query_async(&mut self.connection().await).await.expect("the master answers");
        assert_eq!(received, 1);
    }

    /// The server's process id.
    pub fn pid(&self) -> u32 {
        self.server.pid()
    }

    pub(super) fn is_running(&self) -> bool {
        self.server.is_running()
    }

    /// SIGKILL.
    pub fn kill(&mut self) {
        self.server.kill();
    }

    /// An orderly shutdown.
    pub async fn stop(&mut self) {
        self.server.stop(Signal::TERM).await;
    }

    /// Starts it again with its data, on its port, and waits until it answers. A running one is stopped first.
    pub async fn restart(&mut self) {
        if self.server.is_running() {
            self.stop().await;
        }
        if let Err(exited) = self.launch().await {
            self.server.fail(&exited);
        }
    }

    /// Stops the process: connections stay open, nothing answers.
    pub fn freeze(&self) {
        self.server.freeze();
    }

    /// Lets a frozen server go on.
    pub fn thaw(&self) {
        self.server.thaw();
    }

    async fn launch(&mut self) -> Result<(), Exited> {
        let mut command = Command::new(program());
        command.arg("--port").arg(self.port.to_string());
        for (name, value) in SETTINGS {
            command.arg(format!("--{name}")).arg(value);
        }
        for (name, value) in &self.settings {
            command.arg(format!("--{name}")).arg(value);
        }
        if let Some(bus) = self.bus {
            command.arg("--cluster-port").arg(bus.to_string());
        }
        self.server.spawn(&mut command);
        let url = self.url();
        self.server.answers(async || answers(&url).await).await
    }
}

/// A corner of a Redis server that no other test writes to.
#[derive(Debug)]
pub struct Keyspace {
    /// The server's URL.
    pub url: String,
    /// What every key of this test begins with.
    pub prefix: String,
}

/// A fresh prefix on the server that `TEST_REDIS_URL` names, else on one that all tests of this process share.
pub async fn fresh_keyspace() -> Keyspace {
    let prefix = format!("t_{}:", Uuid::new_v4().simple());
    if let Ok(url) = std::env::var("TEST_REDIS_URL") {
        return Keyspace { url, prefix };
    }
    static SHARED: OnceCell<Redis> = OnceCell::const_new();
    Keyspace { url: SHARED.get_or_init(Redis::start).await.url(), prefix }
}

/// A server that is still loading its data accepts connections and answers with an error.
pub(super) async fn answers(url: &str) -> bool {
    let client = redis::Client::open(url).expect("a URL we wrote");
    match client.get_multiplexed_async_connection().await {
        Ok(mut connection) => redis::cmd("PING").query_async::<String>(&mut connection).await.is_ok(),
        Err(_) => false,
    }
}

pub(super) fn program() -> String {
    let program = std::env::var("TEST_REDIS_SERVER").unwrap_or_else(|_| "redis-server".to_owned());
    let found = Command::new(&program).arg("--version").output().is_ok_and(|output| output.status.success());
    assert!(
        found,
        "`{program}` cannot be run. `./scripts/test --prepare` installs Redis on Debian and Ubuntu; elsewhere \
         install Redis 7.0 or newer, or name its server in TEST_REDIS_SERVER"
    );
    program
}
