//! A service that writes events into a file, and its relays.

use outbox::Message;
use outbox::sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions};
use outbox::sqlx::{self, SqlitePool};
use outbox::uuid::Uuid;
use outbox_relay::sink::memory::MemorySink;
use outbox_relay::source::{Decision, Source as _};
use outbox_relay::stats::Stats;
use outbox_relay::tokio_util::sync::CancellationToken;
use outbox_relay::{Relay, RelaySettings, SqliteSource};
use std::sync::Arc;
use std::time::Duration;
use tempfile::TempDir;

pub(crate) const TOPIC: &str = "outbox.event.order";

pub(crate) struct Shop {
    pub(crate) directory: TempDir,
    pub(crate) db: SqlitePool,
    pub(crate) broker: MemorySink,
}

impl Shop {
    pub(crate) async fn open() -> Self {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let options = SqliteConnectOptions::new()
            .filename(directory.path().join("shop.db"))
            .create_if_missing(true)
            .journal_mode(SqliteJournalMode::Wal)
            .busy_timeout(Duration::from_secs(10));
        let db = SqlitePoolOptions::new().max_connections(2).connect_with(options).await.expect("opens");
        outbox::migrate(&mut *db.acquire().await.expect("connects")).await.expect("migrates");
        Self { directory, db, broker: MemorySink::new() }
    }

    pub(crate) async fn place(&self, key: &str) -> Uuid {
        let message = Message::new("order", key, "OrderPlaced").payload(key);
        let id = message.event_id();
        outbox::enqueue(&mut *self.db.acquire().await.expect("connects"), message).await.expect("enqueues");
        id
    }

    pub(crate) async fn source(&self) -> SqliteSource {
        SqliteSource::open(self.directory.path().join("shop.db")).await.expect("opens")
    }

    /// An operator's word about all that is parked.
    pub(crate) async fn decide(&self, decision: Decision) -> u64 {
        self.source().await.decide(None, decision).await.expect("decides")
    }

    pub(crate) async fn relay(&self, settings: RelaySettings) -> Running {
        let relay = Relay::new(self.source().await, self.broker.producer()).settings(settings);
        let (stats, stop) = (relay.stats(), CancellationToken::new());
        let task = tokio::spawn(relay.run(stop.clone()));
        Running { stats, stop, task }
    }

    pub(crate) async fn rows(&self, table: &'static str) -> i64 {
        let sql = format!("SELECT count(*) FROM {table}");
        sqlx::query_scalar(sqlx::AssertSqlSafe(sql)).fetch_one(&self.db).await.expect("counts")
    }

    pub(crate) async fn until_rows(&self, table: &'static str, expected: i64) {
        eventually(&format!("{expected} rows in {table}"), async || self.rows(table).await == expected).await;
    }

    pub(crate) async fn until_published(&self, expected: usize) {
        eventually(&format!("{expected} published"), async || self.broker.ids(TOPIC).len() >= expected).await;
    }
}

pub(crate) struct Running {
    pub(crate) stats: Arc<Stats>,
    pub(crate) stop: CancellationToken,
    pub(crate) task: tokio::task::JoinHandle<outbox_relay::Result<()>>,
}

impl Running {
    pub(crate) async fn stop(self) {
        self.stop.cancel();
        self.task.await.expect("does not panic").expect("ends well");
    }

    /// As `kill -9`: nothing is given up, nothing is flushed.
    pub(crate) async fn kill(self) {
        self.task.abort();
        let _ = self.task.await;
    }
}

pub(crate) async fn eventually(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    for _ in 0..2_000 {
        if holds().await {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("waited in vain for {what}");
}

pub(crate) fn quick() -> RelaySettings {
    RelaySettings {
        lease: Duration::from_millis(400),
        refused_for: Duration::ZERO,
        ..RelaySettings::default()
    }
}
