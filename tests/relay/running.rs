//! A relay in this process, into a broker in memory.

use std::sync::Arc;
use std::time::{Duration, Instant};

use outbox_relay::source::Source;
use outbox_relay::stats::Stats;
use outbox_relay::tokio_util::sync::CancellationToken;
use outbox_relay::{MemorySink, Relay, RelaySettings};
use tokio::task::JoinHandle;

pub(super) struct Running {
    pub(super) stats: Arc<Stats>,
    stop: CancellationToken,
    task: JoinHandle<outbox_relay::Result<()>>,
}

impl Running {
    /// Events go to topics `outbox.event.…` of this broker.
    pub(super) fn start(source: impl Source, broker: &MemorySink) -> Self {
        let settings = RelaySettings { lease: super::LEASE, ..RelaySettings::default() };
        let relay = Relay::new(source, broker.producer()).settings(settings);
        let (stats, stop) = (relay.stats(), CancellationToken::new());
        Self { stats, task: tokio::spawn(relay.run(stop.clone())), stop }
    }

    /// Waits until it is so, and fails if the relay ends meanwhile, or after two minutes.
    pub(super) async fn until(&self, mut holds: impl AsyncFnMut(&Stats) -> bool) {
        let begin = Instant::now();
        while !holds(&self.stats).await {
            assert!(begin.elapsed() < Duration::from_secs(120), "waited in vain: {:?}", self.stats);
            assert!(!self.task.is_finished(), "the relay has ended");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// An orderly end.
    pub(super) async fn stop(self) {
        self.stop.cancel();
        self.task.await.unwrap().unwrap();
    }

    /// As `kill -9`: nothing is given up, nothing is flushed.
    pub(super) async fn kill(self) {
        self.task.abort();
        let _ = self.task.await;
    }

    /// The error with which it ends by itself.
    pub(super) async fn error(self) -> outbox_relay::Error {
        self.task.await.unwrap().unwrap_err()
    }
}
