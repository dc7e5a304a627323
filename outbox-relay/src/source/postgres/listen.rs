//! Being woken by [`outbox::Notifier`].
//!
//! A hint and nothing else: it may be lost, late, or of another outbox. Whoever waits looks by itself
//! before long.

use sqlx::PgPool;
use sqlx::postgres::PgListener;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Notify;
use tokio::task::JoinHandle;

const AGAIN: Duration = Duration::from_secs(5);

/// Listens on a connection of its own until it is dropped.
#[derive(Debug)]
pub(super) struct Listener {
    woken: Arc<Notify>,
    task: JoinHandle<()>,
}

impl Drop for Listener {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Listener {
    pub(super) fn start(pool: PgPool) -> Self {
        let woken = Arc::new(Notify::new());
        Self { task: tokio::spawn(listen(pool, woken.clone())), woken }
    }

    /// Returns when there was a notification since it returned last.
    pub(super) async fn woken(&self) {
        self.woken.notified().await;
    }
}

async fn listen(pool: PgPool, woken: Arc<Notify>) {
    loop {
        if let Err(error) = hear(&pool, &woken).await {
            tracing::debug!(%error, "cannot listen for notifications; polls meanwhile");
        }
        tokio::time::sleep(AGAIN).await;
    }
}

async fn hear(pool: &PgPool, woken: &Notify) -> sqlx::Result<()> {
    let mut listener = PgListener::connect_with(pool).await?;
    listener.listen(outbox::CHANNEL).await?;
    loop {
        // `None`: the connection broke, and what was notified meanwhile is lost. So look.
        listener.try_recv().await?;
        woken.notify_one();
    }
}
