//! The transaction of one step: see [`Transactional`](crate::store::Transactional) for what it promises.
//!
//! ```text
//! BEGIN                                    with time limits of its own
//! SELECT … FROM saga.live … FOR NO KEY UPDATE      its predecessor is waited for, claims pass it over
//! SELECT max(number) …; SAVEPOINT          a later statement: it sees what the predecessor wrote
//!     the step's code
//! RELEASE                                  fails where the code has ended the transaction
//! the commit, joined to the fence          no aborted transaction runs it, so COMMIT will not answer ROLLBACK
//! COMMIT
//! ```

use std::ops::{Deref, DerefMut};
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use sqlx::{AssertSqlSafe, PgConnection, Postgres, Row, Transaction};

use super::Db;
use super::commit::told;
use super::connections::PATIENCE;
use super::error::{failed, unreachable};
use super::read::mail_row;
use super::statement::{Conflicts, statement};
use crate::id::RunId;
use crate::store::commit::{Commit, CommitReply, Mail};
use crate::store::error::{Error, Result};
use crate::store::transactional::Begun;
use crate::store::worker::Fence;

/// The longest that a transaction may stand idle or a statement in it run, whatever the lease.
const LIMIT_MOST: Duration = Duration::from_secs(5);

/// An open transaction in Postgres that a step may be lent.
#[derive(Debug)]
pub struct PgTransaction {
    tx: Transaction<'static, Postgres>,
    /// Its id, by which the server knows for ever what became of it.
    xid: String,
}

impl Deref for PgTransaction {
    type Target = PgConnection;

    fn deref(&self) -> &PgConnection {
        &self.tx
    }
}

impl DerefMut for PgTransaction {
    fn deref_mut(&mut self) -> &mut PgConnection {
        &mut self.tx
    }
}

/// Awaits an answer, but not one that the network has lost.
async fn patient<T>(answer: impl Future<Output = sqlx::Result<T>>) -> Result<T> {
    match tokio::time::timeout(PATIENCE, answer).await {
        Ok(answer) => answer.map_err(failed),
        Err(_) => Err(Error::Unknown(format!("no answer within {PATIENCE:?}"))),
    }
}

/// Nothing of what failed before COMMIT is there.
fn had_no_effect(error: Error) -> Error {
    match error {
        Error::Unknown(why) => Error::Unavailable(why),
        other => other,
    }
}

pub(super) async fn begin(db: &Db, fence: Fence, run: RunId, next: u32) -> Result<Begun<PgTransaction>> {
    // Frozen, it must not hold its saga up for longer than a takeover takes.
    let limit =
        Duration::from_millis(db.lease_ms.load(Relaxed) / 3).clamp(Duration::from_millis(100), LIMIT_MOST);
    let limit = limit.as_millis();
    let text = format!(
        "BEGIN; SET LOCAL idle_in_transaction_session_timeout = {limit}; SET LOCAL statement_timeout = {limit}"
    );
    let mut tx = db.lent.begin_with(AssertSqlSafe(text)).await.map_err(unreachable)?;
    let lock =
        "SELECT pg_current_xact_id()::text FROM saga.live WHERE run = $1 AND owner = $2 FOR NO KEY UPDATE";
    let lock = sqlx::query_scalar(lock).bind(run.0).bind(fence.worker.0).fetch_optional(&mut *tx);
    let Some(xid) = patient(lock).await.map_err(had_no_effect)? else { return Ok(Begun::Moved) };
    // Ids and numbers are all that goes into the text: this way it is one round trip.
    let look = format!(
        "SELECT (SELECT max(number) FROM saga.journal WHERE run = '{}'),
            EXISTS (SELECT FROM saga.worker WHERE id = '{}' AND epoch = {} AND NOT drained);
         SAVEPOINT saga_step",
        run.0, fence.worker.0, fence.epoch
    );
    let rows =
        patient(sqlx::raw_sql(AssertSqlSafe(look)).fetch_all(&mut *tx)).await.map_err(had_no_effect)?;
    let row = rows.first().ok_or_else(|| Error::Unusable("no answer about a saga's journal".into()))?;
    if !row.try_get::<bool, _>(1).map_err(failed)? {
        return Err(Error::Fenced);
    }
    let last: Option<i32> = row.try_get(0).map_err(failed)?;
    if last.map(i32::cast_unsigned) != next.checked_sub(1) {
        return Ok(Begun::Moved);
    }
    Ok(Begun::Open(PgTransaction { tx, xid }))
}

pub(super) async fn commit_in(mut tx: PgTransaction, fence: Fence, commit: &Commit) -> Result<CommitReply> {
    release(&mut tx).await?;
    let batch = std::slice::from_ref(commit);
    let rows = patient(statement(fence, batch, Conflicts::Expected).fetch_all(&mut *tx)).await;
    let (won, mut mail) = told(batch, &rows.map_err(had_no_effect)?)?;
    if won.is_empty() {
        let unread =
            if commit.pivot { unread(&mut tx, commit).await.map_err(had_no_effect)? } else { Vec::new() };
        let missed = unread.iter().any(|mail| commit.misses(mail));
        return Ok(if missed { CommitReply::Unread { mail: unread } } else { CommitReply::Refused });
    }
    patient(tx.tx.commit()).await?;
    Ok(CommitReply::Committed { mail: mail.remove(&commit.run).unwrap_or_default() })
}

/// What follows is written in the transaction that was begun, or not at all.
async fn release(tx: &mut PgTransaction) -> Result<()> {
    let release = sqlx::raw_sql("RELEASE SAVEPOINT saga_step").execute(&mut **tx);
    let Ok(released) = tokio::time::timeout(PATIENCE, release).await else {
        return Err(Error::Unavailable(format!("no answer within {PATIENCE:?}")));
    };
    let Err(error) = released else { return Ok(()) };
    let code = error.as_database_error().and_then(|error| error.code()).unwrap_or_default().into_owned();
    Err(match code.as_str() {
        // There is no such savepoint, or no transaction at all.
        "3B001" | "25P01" => Error::Misused(error.to_string()),
        "25P02" => Error::Unavailable(format!(
            "a statement failed and the step's code went on as if it had not: {error}"
        )),
        _ => had_no_effect(failed(error)),
    })
}

async fn unread(tx: &mut PgTransaction, commit: &Commit) -> Result<Vec<Mail>> {
    let text = "SELECT run, id, body, format FROM saga.mail WHERE run = $1 AND consumed IS NULL ORDER BY id";
    let rows = patient(sqlx::query(text).bind(commit.run.0).fetch_all(&mut **tx)).await?;
    rows.iter().map(|row| mail_row(row, 0)).collect()
}

pub(super) async fn roll_back(db: &Db, tx: PgTransaction) -> Result<()> {
    let PgTransaction { tx, xid } = tx;
    // Where the connection is gone, the transaction is as well, or will be.
    let _ = patient(tx.rollback()).await;
    let status = "SELECT coalesce(pg_xact_status($1::text::xid8), 'unknown')";
    let status: String = patient(sqlx::query_scalar(status).bind(&xid).fetch_one(&db.lent)).await?;
    match status.as_str() {
        "committed" => Err(Error::Misused(format!("transaction {xid} was committed"))),
        _ => Ok(()),
    }
}
