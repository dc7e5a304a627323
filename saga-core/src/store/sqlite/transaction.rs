//! The transaction of one step: see [`Transactional`](crate::store::Transactional) for what it promises.
//!
//! It is alone, as every transaction that writes is, so the saga's row needs no lock and a predecessor is waited
//! for by its nature. It has a connection of its own, because the step's code may set anything there; while it
//! is open it also holds the turn of this process's writer, so that other writes of the process wait in their
//! queue and not on the file. Nothing that it needs from then on waits for that turn.
//!
//! Whether the step's code has ended it by hand is told by two marks: a savepoint, which is gone with the
//! transaction, and a row in a temporary table, which stays only if the transaction was committed.

use std::ops::{Deref, DerefMut};

use sqlx::sqlite::{SqliteConnectOptions, SqlitePool, SqlitePoolOptions};
use sqlx::{AssertSqlSafe, Executor, Row, Sqlite, SqliteConnection, Transaction};
use tokio::sync::OwnedMutexGuard;

use super::Db;
use super::commit::write;
use super::error::{at_commit, failed};
use super::workers::check;
use super::writer::{Turn, patient};
use crate::id::RunId;
use crate::store::commit::{Commit, CommitReply};
use crate::store::error::{Error, Result};
use crate::store::transactional::Begun;
use crate::store::worker::Fence;

/// An open transaction in SQLite that a step may be lent.
#[derive(Debug)]
pub struct SqliteTransaction {
    tx: Transaction<'static, Sqlite>,
    /// These go after the transaction, in this order.
    _turn: Turn,
    _alone: OwnedMutexGuard<()>,
}

impl Deref for SqliteTransaction {
    type Target = SqliteConnection;

    fn deref(&self) -> &SqliteConnection {
        &self.tx
    }
}

impl DerefMut for SqliteTransaction {
    fn deref_mut(&mut self) -> &mut SqliteConnection {
        &mut self.tx
    }
}

/// One connection, made when the first step needs it.
pub(super) fn pool(options: SqliteConnectOptions) -> SqlitePool {
    SqlitePoolOptions::new()
        .max_connections(1)
        .test_before_acquire(false)
        .idle_timeout(None)
        .max_lifetime(None)
        .after_connect(|connection, _| {
            Box::pin(async move { connection.execute("CREATE TEMP TABLE saga_lent (mark)").await.map(drop) })
        })
        .connect_lazy_with(options)
}

pub(super) async fn begin(db: &Db, fence: Fence, run: RunId, next: u32) -> Result<Begun<SqliteTransaction>> {
    // One at a time stands in the writer's queue, or a renewal of the lease would wait for all of them.
    let alone = patient(db.lending.clone().lock_owned()).await?;
    let turn = db.turn().await?;
    let mut tx = db.lent.begin_with("BEGIN IMMEDIATE").await.map_err(failed)?;
    check(&mut tx, fence).await?;
    let look = "SELECT max(number) FROM saga_journal WHERE run = ?1
        AND EXISTS (SELECT 1 FROM saga_live WHERE run = ?1 AND owner = ?2)";
    let row = sqlx::query(look).bind(run.0).bind(fence.worker.0).fetch_one(&mut *tx).await.map_err(failed)?;
    let last: Option<u32> = row.try_get(0).map_err(failed)?;
    if last.is_none() || last != next.checked_sub(1) {
        return Ok(Begun::Moved);
    }
    text(&mut tx, "INSERT INTO temp.saga_lent VALUES (1); SAVEPOINT saga_step").await.map_err(failed)?;
    Ok(Begun::Open(SqliteTransaction { tx, _turn: turn, _alone: alone }))
}

pub(super) async fn commit_in(
    mut tx: SqliteTransaction,
    fence: Fence,
    commit: &Commit,
) -> Result<CommitReply> {
    if let Err(error) = text(&mut tx, "RELEASE saga_step; DELETE FROM temp.saga_lent").await {
        let error = failed(error).to_string();
        return Err(end(tx)
            .await
            .err()
            .unwrap_or_else(|| Error::Unavailable(format!("SQLite had rolled it back: {error}"))));
    }
    let written = write(&mut tx, fence, std::slice::from_ref(commit)).await;
    let reply = match written {
        Ok(mut replies) => replies.remove(0),
        Err(error) => return Err(end(tx).await.err().unwrap_or(error)),
    };
    if !matches!(reply, CommitReply::Committed { .. }) {
        return end(tx).await.map(|()| reply);
    }
    // Not by sqlx, which would release a savepoint instead where the code has left one open.
    let committed = text(&mut tx, "COMMIT").await.map_err(at_commit);
    let ended = end(tx).await;
    committed.and(ended).map(|()| reply)
}

/// Ends what is still open of it; [`Error::Misused`] where its user has committed it.
pub(super) async fn end(mut tx: SqliteTransaction) -> Result<()> {
    // It fails where nothing is open any more.
    let _ = text(&mut tx, "ROLLBACK").await;
    let marked = sqlx::query("DELETE FROM temp.saga_lent").execute(&mut *tx).await;
    // sqlx counts on a transaction that it can end.
    let _ = text(&mut tx, "BEGIN").await;
    let _ = tx.tx.rollback().await;
    match marked.map_err(failed)?.rows_affected() {
        0 => Ok(()),
        _ => Err(Error::Misused("it was committed by SQL".into())),
    }
}

async fn text(connection: &mut SqliteConnection, text: &'static str) -> sqlx::Result<()> {
    sqlx::raw_sql(AssertSqlSafe(text)).execute(connection).await.map(drop)
}
