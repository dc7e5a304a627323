//! The one who writes: what waits is gathered into one transaction.
//!
//! SQLite lets one connection write at a time, and a commit costs one sync of the disk, whatever is in it. So
//! writes that would wait for each other go together. There is no timer: a write that finds nobody writing goes
//! at once, alone, as one autocommitted statement; what arrives meanwhile forms the next batch.
//!
//! # Who writes
//!
//! Whoever finds nobody writing starts a *shift*: a task that writes until nothing waits, and then ends. So no
//! task outlives its work, and a store may be used from several runtimes. The connection goes back to its pool
//! after each batch: a fused transaction that waits for it is never starved.
//!
//! # Failure
//!
//! - *A statement fails*: the whole batch is rolled back, and each of its writes is carried out alone. Only the
//!   bad one fails.
//! - *The transaction cannot be begun or committed*: every caller hears it. Nothing, or all of it, was written,
//!   and callers know how to ask again: see [`Store`](crate::Store).
//! - *The shift dies* (its runtime goes down): those who wait hear that nobody answered, and the next write
//!   starts a new shift.
//! - *A caller goes away*: its write goes on.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use sqlx::sqlite::{SqliteConnection, SqlitePool};
use sqlx::{Connection, Sqlite, Transaction};
use tokio::sync::oneshot;

use super::{bind_expected, bind_put, sql, unavailable};
use crate::KeyId;
use crate::store::{Change, Expected, StoreError};

/// How many writes go together: the last of them waits for the first, about 10 µs each.
const BATCH: usize = 256;

#[derive(Clone, Debug)]
pub(super) struct Writer {
    pool: SqlitePool,
    queue: Arc<Mutex<Queue>>,
}

#[derive(Debug, Default)]
struct Queue {
    waiting: VecDeque<Waiting>,
    /// Whether a shift is at work.
    writing: bool,
}

#[derive(Debug)]
struct Waiting {
    write: Write,
    caller: oneshot::Sender<Result<bool, StoreError>>,
}

/// One conditional write.
#[derive(Clone, Debug)]
pub(super) struct Write {
    pub(super) id: KeyId,
    pub(super) expected: Expected,
    pub(super) change: Change,
}

impl Writer {
    pub(super) fn new(pool: SqlitePool) -> Self {
        Self { pool, queue: Arc::default() }
    }

    pub(super) fn pool(&self) -> &SqlitePool {
        &self.pool
    }

    /// Writes, and says whether the condition was met. It is committed when this answers.
    pub(super) async fn write(&self, write: Write) -> Result<bool, StoreError> {
        let (caller, answer) = oneshot::channel();
        let begins = {
            let mut queue = self.lock();
            queue.waiting.push_back(Waiting { write, caller });
            !std::mem::replace(&mut queue.writing, true)
        };
        if begins {
            let shift = Shift { writer: self.clone(), over: false };
            tokio::spawn(shift.work());
        }
        answer.await.unwrap_or_else(|_| Err(StoreError::unavailable("sqlite", "its writer has gone")))
    }

    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A task that writes until nothing waits.
struct Shift {
    writer: Writer,
    over: bool,
}

impl Shift {
    async fn work(mut self) {
        while let Some(batch) = self.next() {
            self.carry_out(batch).await;
        }
    }

    fn next(&mut self) -> Option<Vec<Waiting>> {
        let mut queue = self.writer.lock();
        if queue.waiting.is_empty() {
            (queue.writing, self.over) = (false, true);
            return None;
        }
        let size = queue.waiting.len().min(BATCH);
        Some(queue.waiting.drain(..size).collect())
    }

    async fn carry_out(&self, batch: Vec<Waiting>) {
        let mut connection = match self.writer.pool.acquire().await {
            Ok(connection) => connection,
            Err(error) => return fail(batch, &error),
        };
        if batch.len() > 1 {
            match together(&mut connection, &batch).await {
                Ok(written) => return answer(batch, written),
                Err(Broken::Transaction(error)) => return fail(batch, &error),
                Err(Broken::Statement(error)) => {
                    tracing::debug!(writes = batch.len(), %error, "a batch is written one by one");
                }
            }
        }
        for waiting in batch {
            let written = waiting.write.execute(&mut connection).await;
            let _ = waiting.caller.send(written.map_err(unavailable));
        }
    }
}

impl Drop for Shift {
    fn drop(&mut self) {
        if !self.over {
            let mut queue = self.writer.lock();
            queue.writing = false;
            queue.waiting.clear();
        }
    }
}

/// What stood in a batch's way.
enum Broken {
    Statement(sqlx::Error),
    Transaction(sqlx::Error),
}

/// Writes a whole batch, or nothing of it.
async fn together(connection: &mut SqliteConnection, batch: &[Waiting]) -> Result<Vec<bool>, Broken> {
    let mut tx = connection.begin_with("BEGIN IMMEDIATE").await.map_err(Broken::Transaction)?;
    let mut written = Vec::with_capacity(batch.len());
    for waiting in batch {
        match waiting.write.execute(&mut tx).await {
            Ok(done) => written.push(done),
            Err(error) => {
                roll_back(tx).await;
                return Err(Broken::Statement(error));
            }
        }
    }
    tx.commit().await.map_err(Broken::Transaction)?;
    Ok(written)
}

/// Some errors have rolled the transaction back already, which sqlx does not know: so there must be one to roll
/// back. Where there still is, SQLite refuses the second `BEGIN`.
async fn roll_back(mut tx: Transaction<'_, Sqlite>) {
    let _ = sqlx::raw_sql("BEGIN").execute(&mut *tx).await;
    if let Err(error) = tx.rollback().await {
        tracing::warn!(%error, "a batch could not be rolled back");
    }
}

fn answer(batch: Vec<Waiting>, written: Vec<bool>) {
    for (waiting, written) in batch.into_iter().zip(written) {
        let _ = waiting.caller.send(Ok(written));
    }
}

fn fail(batch: Vec<Waiting>, error: &sqlx::Error) {
    for waiting in batch {
        let _ = waiting.caller.send(Err(StoreError::unavailable("sqlite", error.to_string())));
    }
}

impl Write {
    async fn execute(&self, connection: &mut SqliteConnection) -> Result<bool, sqlx::Error> {
        let (id, expected) = (&self.id, &self.expected);
        let query = match (&self.change, expected) {
            (Change::Put(put), Expected::Absent) => bind_put(sqlx::query(sql::PUT_IF_ABSENT), id, put),
            (Change::Put(put), _) => {
                let statement = match expected {
                    Expected::Held(_) => sql::PUT_IF_HELD,
                    _ => sql::PUT_IF_EXACTLY,
                };
                bind_expected(bind_put(sqlx::query(statement), id, put).bind(put.fresh), expected)
            }
            (Change::Delete, _) => {
                let statement = match expected {
                    Expected::Held(_) => sql::DELETE_IF_HELD,
                    Expected::Exactly { .. } => sql::DELETE_IF_EXACTLY,
                    // Nothing is there to delete: that is no write.
                    Expected::Absent => return Ok(false),
                };
                bind_expected(sqlx::query(statement).bind(id.0.to_vec()), expected)
            }
        };
        Ok(query.execute(connection).await?.rows_affected() == 1)
    }
}

#[cfg(test)]
#[path = "writer_tests.rs"]
mod tests;
