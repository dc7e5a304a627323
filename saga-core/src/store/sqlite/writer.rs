//! The one connection that writes, and the transactions on it that are alone.
//!
//! It is kept outside a pool: sqlx's pool asks a connection whether it still works each time it is given
//! back, which wakes the connection's thread once more for every batch. The lock around it is the queue of
//! this process's writers; writers of other processes are waited for by SQLite itself.

use std::ops::{Deref, DerefMut};
use std::sync::Arc;
use std::time::Duration;

use sqlx::sqlite::SqliteRow;
use sqlx::{Connection, SqliteConnection};
use tokio::sync::{Mutex, OwnedMappedMutexGuard, OwnedMutexGuard};

use super::error::{at_commit, failed};
use super::insert::Binding;
use crate::store::error::{Error, Result};

/// The connection, until it is closed.
#[derive(Clone, Debug)]
pub(super) struct Writer {
    connection: Arc<Mutex<Option<SqliteConnection>>>,
}

/// How long the turn to write is waited for: at any sensible lease longer than a step may have its transaction.
pub(super) const PATIENCE: Duration = Duration::from_secs(30);

/// The right to be the next of this process that writes.
pub(super) type Turn = OwnedMappedMutexGuard<Option<SqliteConnection>, SqliteConnection>;

/// A transaction that is alone. Dropped without [`commit`](Tx::commit) it is rolled back.
#[derive(Debug)]
pub(super) struct Tx {
    connection: Option<Turn>,
}

impl Writer {
    pub(super) fn new(connection: SqliteConnection) -> Self {
        Self { connection: Arc::new(Mutex::new(Some(connection))) }
    }

    /// Waits for the turn to write.
    pub(super) async fn lend(&self) -> Result<Turn> {
        let guard = match self.connection.clone().try_lock_owned() {
            Ok(guard) => guard,
            Err(_) => patient(self.connection.clone().lock_owned()).await?,
        };
        let closed = |_| Error::Unavailable("the store was closed".into());
        OwnedMutexGuard::try_map(guard, Option::as_mut).map_err(closed)
    }

    /// Waits until a transaction is alone.
    pub(super) async fn begin(&self) -> Result<Tx> {
        let mut connection = self.lend().await?;
        sqlx::query("BEGIN IMMEDIATE").execute(&mut *connection).await.map_err(failed)?;
        Ok(Tx { connection: Some(connection) })
    }

    /// Sends a whole transaction as one text, from `BEGIN IMMEDIATE` to `COMMIT`, and answers with the rows
    /// that its statements gave: one round trip to the connection's thread.
    ///
    /// Where a statement fails nothing of it is written. Only a disk error may come after the commit.
    pub(super) async fn at_once(&self, text: Binding) -> Result<Vec<SqliteRow>> {
        let mut connection = self.lend().await?;
        let answer = text.fetch_all(&mut *connection).await;
        if answer.is_err() {
            roll_back(&mut connection).await;
        }
        answer.map_err(at_commit)
    }

    /// Closes the connection once nobody uses it; every later transaction fails.
    pub(super) async fn close(&self) {
        if let Some(connection) = self.connection.lock().await.take()
            && let Err(error) = connection.close().await
        {
            tracing::warn!(%error, "the connection that writes did not close well");
        }
    }
}

impl Tx {
    /// Makes it durable.
    pub(super) async fn commit(mut self) -> Result<()> {
        let connection = self.connection.as_mut().expect("it is taken out at the very end only");
        sqlx::query("COMMIT").execute(&mut **connection).await.map_err(at_commit)?;
        self.connection = None;
        Ok(())
    }
}

impl Deref for Tx {
    type Target = SqliteConnection;

    fn deref(&self) -> &SqliteConnection {
        self.connection.as_ref().expect("it is taken out at the very end only")
    }
}

impl DerefMut for Tx {
    fn deref_mut(&mut self) -> &mut SqliteConnection {
        self.connection.as_mut().expect("it is taken out at the very end only")
    }
}

impl Drop for Tx {
    fn drop(&mut self) {
        // Without a runtime the process is ending, and the connection with it.
        if let Some(mut connection) = self.connection.take()
            && let Ok(runtime) = tokio::runtime::Handle::try_current()
        {
            runtime.spawn(async move { roll_back(&mut connection).await });
        }
    }
}

/// Waits for what a step's transaction may hold.
pub(super) async fn patient<T>(turn: impl Future<Output = T>) -> Result<T> {
    tokio::time::timeout(PATIENCE, turn).await.map_err(|_| {
        Error::Unavailable(format!(
            "no turn to write within {PATIENCE:?}: does a transactional step keep the transaction that it was lent? Nobody \
             can write to the file before it is given back, or this process ends"
        ))
    })
}

/// Ends a transaction without its effects. SQLite has ended it already after some errors, and then there is
/// none to end.
async fn roll_back(connection: &mut SqliteConnection) {
    if let Err(error) = sqlx::query("ROLLBACK").execute(connection).await {
        tracing::debug!(%error, "nothing was rolled back");
    }
}
