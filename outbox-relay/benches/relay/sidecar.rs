//! The sidecar as a user starts it: a process, asked by its metrics.

use crate::broker::Broker;
use crate::database::Database;
use rustix::process::{Pid, Signal, kill_process};
use std::process::{Child, Command, Stdio};
use std::time::Duration;
use tests::servers::free_port;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

pub(crate) struct Sidecar {
    process: Child,
    port: u16,
}

impl Sidecar {
    /// Publishes the database's events to one topic.
    pub(crate) fn start(database: &Database, broker: &Broker, topic: &str) -> Self {
        let port = free_port();
        let process = Command::new(env!("CARGO_BIN_EXE_outbox-relay"))
            .arg("run")
            .env("OUTBOX_RELAY_SOURCE__URL", database.url())
            .env("OUTBOX_RELAY_KAFKA__BROKERS", broker.address())
            .env("OUTBOX_RELAY_ROUTES__TOPIC", topic)
            // Longer than it is frozen for.
            .env("OUTBOX_RELAY_RELAY__LEASE", "300s")
            .env("OUTBOX_RELAY_HTTP__LISTEN", format!("127.0.0.1:{port}"))
            .env("OUTBOX_RELAY_LOG__LEVEL", std::env::var("BENCH_LOG").unwrap_or_else(|_| "warn".into()))
            .stdin(Stdio::null())
            .spawn()
            .expect("the sidecar can be started");
        Self { process, port }
    }

    /// Waits until one of its metrics is at least so much.
    pub(crate) async fn until(&mut self, metric: &str, least: f64) {
        while self.metric(metric).await.is_none_or(|value| value < least) {
            if let Some(status) = self.process.try_wait().expect("a child can be asked") {
                panic!("the sidecar ended: {status}");
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// One of its metrics; none while it does not answer.
    pub(crate) async fn metric(&self, name: &str) -> Option<f64> {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port)).await.ok()?;
        stream.write_all(b"GET /metrics HTTP/1.1\r\nhost: bench\r\n\r\n").await.ok()?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.ok()?;
        let line = answer.lines().find(|line| line.split(' ').next() == Some(name))?;
        line.split(' ').nth(1)?.parse().ok()
    }

    /// The most memory it ever had, in MiB.
    pub(crate) fn peak_memory(&self) -> f64 {
        let path = format!("/proc/{}/status", self.process.id());
        let status = std::fs::read_to_string(path).expect("the sidecar runs");
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("Linux says it");
        line.trim().trim_end_matches(" kB").parse::<f64>().expect("a number") / 1024.0
    }

    /// Processor seconds it has used.
    pub(crate) fn processor(&self) -> f64 {
        let path = format!("/proc/{}/stat", self.process.id());
        let stat = std::fs::read_to_string(path).expect("the sidecar runs");
        let after_name = stat.rsplit_once(')').expect("a name in parentheses").1;
        let ticks = after_name.split_whitespace().skip(11).take(2);
        ticks.map(|ticks| ticks.parse::<f64>().expect("a number")).sum::<f64>() / 100.0
    }

    pub(crate) fn freeze(&self) {
        self.signal(Signal::STOP);
    }

    pub(crate) fn thaw(&self) {
        self.signal(Signal::CONT);
    }

    /// SIGKILL.
    pub(crate) fn kill(self) {
        drop(self);
    }

    fn signal(&self, signal: Signal) {
        let pid = i32::try_from(self.process.id()).ok().and_then(Pid::from_raw).expect("a process id");
        kill_process(pid, signal).expect("the sidecar runs");
    }
}

impl Drop for Sidecar {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
