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
        let mut redis = Self { server: Supervised::new("Redis", Home::new("redis")), port: 0, settings };
        loop {
            redis.port = free_port();
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

    /// The server's process id.
    pub fn pid(&self) -> u32 {
        self.server.pid()
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
async fn answers(url: &str) -> bool {
    let client = redis::Client::open(url).expect("a URL we wrote");
    match client.get_multiplexed_async_connection().await {
        Ok(mut connection) => redis::cmd("PING").query_async::<String>(&mut connection).await.is_ok(),
        Err(_) => false,
    }
}

fn program() -> String {
    let program = std::env::var("TEST_REDIS_SERVER").unwrap_or_else(|_| "redis-server".to_owned());
    let found = Command::new(&program).arg("--version").output().is_ok_and(|output| output.status.success());
    assert!(
        found,
        "`{program}` cannot be run. `./scripts/test --prepare` installs Redis on Debian and Ubuntu; elsewhere \
         install Redis 7.0 or newer, or name its server in TEST_REDIS_SERVER"
    );
    program
}
