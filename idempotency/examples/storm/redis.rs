//! A Redis of the storm's own, to be killed and started again.

use std::process::Stdio;
use std::time::Duration;

use tokio::process::{Child, Command};

use super::report::Death;
use super::{Outcome, now};

/// Ends its server when its own standard input is closed, however that comes about.
const KEEPER: &str =
    r#""$@" >"$LOG" 2>&1 & server=$!; cat >/dev/null; kill -KILL $server; wait $server 2>/dev/null"#;

pub(crate) struct Redis {
    dir: tempfile::TempDir,
    port: u16,
    appendfsync: String,
    keeper: Option<Child>,
    pub(crate) deaths: Vec<Death>,
}

impl Redis {
    /// `redis:always`, `redis:everysec` or `redis:no`; anything else is somebody's own server.
    pub(crate) async fn of(store: &str) -> Outcome<Option<Self>> {
        let Some(appendfsync @ ("always" | "everysec" | "no")) = store.strip_prefix("redis:") else {
            return Ok(None);
        };
        let socket = std::net::TcpListener::bind("127.0.0.1:0")?;
        let port = socket.local_addr()?.port();
        drop(socket);
        let dir = tempfile::tempdir()?;
        let mut redis =
            Self { dir, port, appendfsync: appendfsync.to_owned(), keeper: None, deaths: Vec::new() };
        redis.start().await?;
        Ok(Some(redis))
    }

    pub(crate) fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    pub(crate) async fn kill_and_restart(&mut self) -> Outcome {
        let from = now();
        if let Some(mut keeper) = self.keeper.take() {
            drop(keeper.stdin.take());
            keeper.wait().await?;
        }
        self.deaths.push(Death { from, to: now() });
        self.start().await
    }

    async fn start(&mut self) -> Outcome {
        let program = std::env::var("TEST_REDIS_SERVER").unwrap_or_else(|_| "redis-server".to_owned());
        let (log, port) = (self.dir.path().join("log"), self.port.to_string());
        let keeps_a_log = if self.appendfsync == "no" { "no" } else { "yes" };
        let mut command = Command::new("sh");
        command.args([
            "-c",
            KEEPER,
            "keeper",
            &program,
            "--port",
            &port,
            "--bind",
            "127.0.0.1",
            "--save",
            "",
        ]);
        command
            .args(["--appendonly", keeps_a_log, "--maxmemory-policy", "noeviction", "--dir"])
            .arg(self.dir.path());
        if keeps_a_log == "yes" {
            command.args(["--appendfsync", &self.appendfsync]);
        }
        let keeper = command.env("LOG", &log).stdin(Stdio::piped()).kill_on_drop(false).spawn()?;
        self.keeper = Some(keeper);
        let client = redis::Client::open(self.url())?;
        for _ in 0..2_000 {
            if let Ok(mut link) = client.get_multiplexed_async_connection().await
                && redis::cmd("PING").query_async::<String>(&mut link).await.is_ok()
            {
                return Ok(());
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        let log = std::fs::read_to_string(&log).unwrap_or_default();
        Err(format!("redis does not start; its log ends: {}", log.lines().last().unwrap_or("")).into())
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        // The keeper ends with its standard input; its directory must not go before its server has.
        if let Some(mut keeper) = self.keeper.take() {
            drop(keeper.stdin.take());
            while matches!(keeper.try_wait(), Ok(None)) {
                std::thread::yield_now();
            }
        }
    }
}
