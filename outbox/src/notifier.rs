//! Waking a relay that polls, outside of the business transaction.
//!
//! `NOTIFY` in a transaction makes all that notify commit one after the other: measured, it costs a
//! quarter of the throughput at 16 clients and half at 64. So the process that has *committed* says so
//! here, as often as it likes, and a task with a connection of its own notifies for all of them, at most
//! once per interval. A notification that is lost delays nothing for longer than the relay's next look:
//! polling is the truth.

use sqlx::PgPool;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Notify;
use tokio::task::JoinHandle;

/// The channel on which relays of this database listen.
pub const CHANNEL: &str = "outbox";

/// Tells this database's relays that there are new events.
///
/// ```no_run
/// # async fn place(pool: sqlx::PgPool) -> Result<(), Box<dyn std::error::Error>> {
/// let notifier = outbox::Notifier::start(pool.clone());
/// let mut tx = pool.begin().await?;
/// outbox::enqueue(&mut *tx, outbox::Message::new("order", 7, "OrderPlaced").json("…")?).await?;
/// tx.commit().await?;
/// notifier.committed(); // at once, and costs nothing
/// # Ok(()) }
/// ```
///
/// A relay that streams needs none of this, and behind a pooler that shares sessions (PgBouncer) nobody
/// can listen: there the relay only polls. Dropping the last clone ends the task.
#[derive(Clone, Debug)]
pub struct Notifier {
    committed: Arc<Notify>,
    _task: Arc<Task>,
}

#[derive(Debug)]
struct Task(JoinHandle<()>);

impl Drop for Task {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Notifier {
    /// Notifies at most every two milliseconds, on connections of this pool.
    ///
    /// # Panics
    ///
    /// Outside of a Tokio runtime.
    pub fn start(pool: PgPool) -> Self {
        Self::start_every(pool, Duration::from_millis(2))
    }

    /// Notifies at most once per interval. The first event after a quiet time is notified at once.
    ///
    /// # Panics
    ///
    /// Outside of a Tokio runtime.
    pub fn start_every(pool: PgPool, interval: Duration) -> Self {
        let committed = Arc::new(Notify::new());
        let task = tokio::spawn(notify(pool, committed.clone(), interval));
        Self { committed, _task: Arc::new(Task(task)) }
    }

    /// Call it after a commit that enqueued events. Never blocks and never fails.
    pub fn committed(&self) {
        self.committed.notify_one();
    }
}

async fn notify(pool: PgPool, committed: Arc<Notify>, interval: Duration) {
    loop {
        committed.notified().await;
        if let Err(error) = sqlx::query("SELECT pg_notify($1, '')").bind(CHANNEL).execute(&pool).await {
            tracing::debug!(%error, "relays were not notified; they look by themselves");
        }
        tokio::time::sleep(interval).await;
    }
}
