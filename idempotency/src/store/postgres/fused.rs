//! The fused guarantee on Postgres.
//!
//! A first call costs two round trips beyond the handler's own: the claim, which travels with its lock timeout
//! and its savepoint in one simple query, and the answer. `BEGIN` and `COMMIT` are the handler's anyway.

use std::fmt::Write;
use std::time::Duration;

use bytes::Bytes;
use sqlx::{AssertSqlSafe, PgConnection, Postgres, Row as _, Transaction};

use super::{PostgresStore, bind_expected, bind_put, dated, now, sql, unavailable};
use crate::KeyId;
use crate::claim::{Claim, ClaimRequest, Decision, Put, Ticket, Verdict, decide};
use crate::fused::{CompleteError, FusedStore, placeholder};
use crate::secret::hex;
use crate::store::{Expected, Held, Store, StoreError};
use crate::time::{Time, micros};

impl FusedStore for PostgresStore {
    type Db = Postgres;

    async fn begin(&self) -> Result<Transaction<'static, Postgres>, StoreError> {
        self.pool.begin_with("BEGIN ISOLATION LEVEL READ COMMITTED").await.map_err(unavailable)
    }

    /// One round trip in place of the four of a transaction that finds the answer; a first request would pay it
    /// in vain.
    async fn look(&self, request: &ClaimRequest, again: bool) -> Result<Option<Claim>, StoreError> {
        if !again {
            return Ok(None);
        }
        let (stored, now) = self.read(&request.id).await?;
        Ok(match decide(stored.as_ref(), request, now) {
            Decision::Answer(claim) => Some(claim),
            Decision::Write { .. } => None,
        })
    }

    async fn claim_in(
        &self,
        connection: &mut PgConnection,
        request: &ClaimRequest,
        wait: Duration,
    ) -> Result<Claim, StoreError> {
        let Decision::Write { put, then } = decide(None, request, Time(0)) else {
            unreachable!("the first claim of a key always writes")
        };
        let claim = first(&request.id, &placeholder(*put), wait);
        match sqlx::raw_sql(AssertSqlSafe(claim)).execute(&mut *connection).await {
            Ok(done) if done.rows_affected() == 1 => return Ok(*then),
            Ok(_) => {}
            Err(error) => return waited(error, request, wait),
        }
        // Somebody has committed a row. It is visible to this new statement, unless it is gone again.
        let row = sqlx::query(sql::READ).bind(request.id.0.to_vec()).fetch_one(&mut *connection).await;
        let row = row.map_err(unavailable)?;
        match decide(dated(&row)?.as_ref(), request, now(&row)?) {
            Decision::Answer(claim) => Ok(claim),
            Decision::Write { .. } => next(connection, request, wait).await,
        }
    }

    async fn complete_in(
        &self,
        connection: &mut PgConnection,
        ticket: &Ticket,
        verdict: Verdict,
        answer: Bytes,
        keep: Duration,
    ) -> Result<(), CompleteError> {
        let refused = |error| CompleteError::Refused(unavailable(error));
        if verdict == Verdict::Rejected {
            sqlx::raw_sql("ROLLBACK TO SAVEPOINT idempotency").execute(&mut *connection).await.map_err(
                // The savepoint is gone only if the transaction is.
                |error| {
                    if code(&error) == "3B001" || code(&error) == "25P01" {
                        CompleteError::Ended
                    } else {
                        refused(error)
                    }
                },
            )?;
        }
        let row = ticket.completed(verdict, answer);
        let query = sqlx::query(sql::SETTLE)
            .bind(&ticket.id.0[..])
            .bind(row.action.code())
            .bind(row.undo.code())
            .bind(row.refused)
            .bind(row.action_answer.as_deref())
            .bind(row.undo_answer.as_deref())
            .bind(micros(keep))
            .bind(&ticket.row.stamp.0[..]);
        match query.execute(&mut *connection).await.map_err(refused)?.rows_affected() {
            1 => Ok(()),
            _ => Err(CompleteError::Ended),
        }
    }

    async fn put_in(
        &self,
        connection: &mut PgConnection,
        ticket: &Ticket,
        put: Put,
    ) -> Result<Held, StoreError> {
        let query = bind_put(sqlx::query(sql::PUT_IF_HELD), &ticket.id, &put).bind(put.fresh);
        let query = bind_expected(query, &Expected::Held(ticket.row.stamp));
        let row = query.fetch_one(&mut *connection).await.map_err(unavailable)?;
        let done: bool = row.try_get("done").map_err(unavailable)?;
        Ok(if done { Held::Yes } else { Held::Lost })
    }
}

/// Claims over a row that is there: locks it, and looks again.
async fn next(
    connection: &mut PgConnection,
    request: &ClaimRequest,
    wait: Duration,
) -> Result<Claim, StoreError> {
    loop {
        let lock = format!("SET LOCAL lock_timeout = {}", wait.as_millis().max(1));
        sqlx::raw_sql(AssertSqlSafe(lock)).execute(&mut *connection).await.map_err(unavailable)?;
        let locked =
            sqlx::query(sql::LOCK).bind(request.id.0.to_vec()).fetch_optional(&mut *connection).await;
        let row = match locked {
            Ok(Some(row)) => row,
            Ok(None) => {
                // Swept between the two reads: the key is new again.
                let Decision::Write { put, then } = decide(None, request, Time(0)) else {
                    unreachable!("the first claim of a key always writes")
                };
                let claim = first(&request.id, &placeholder(*put), wait);
                match sqlx::raw_sql(AssertSqlSafe(claim)).execute(&mut *connection).await {
                    Ok(done) if done.rows_affected() == 1 => return Ok(*then),
                    Ok(_) => continue,
                    Err(error) => return waited(error, request, wait),
                }
            }
            Err(error) => return waited(error, request, wait),
        };
        let stored = dated(&row)?;
        let (put, then) = match decide(stored.as_ref(), request, now(&row)?) {
            Decision::Answer(claim) => return Ok(claim),
            Decision::Write { put, then } => (placeholder(*put), then),
        };
        let expected = stored.as_ref().map_or(Expected::Absent, Expected::exactly);
        let query = bind_put(sqlx::query(sql::PUT_IF_EXACTLY), &request.id, &put).bind(put.fresh);
        bind_expected(query, &expected).fetch_one(&mut *connection).await.map_err(unavailable)?;
        sqlx::query(sql::OWN)
            .bind(request.id.0.to_vec())
            .execute(&mut *connection)
            .await
            .map_err(unavailable)?;
        let savepoint = "SET LOCAL lock_timeout TO DEFAULT; SAVEPOINT idempotency";
        sqlx::raw_sql(savepoint).execute(&mut *connection).await.map_err(unavailable)?;
        return Ok(*then);
    }
}

/// The claim of a key that is probably new, with its lock timeout and its savepoint: one round trip. Every
/// value in it is a number or hexadecimal.
fn first(id: &KeyId, put: &Put, wait: Duration) -> String {
    let row = &put.row;
    let bytes = |bytes: Option<&[u8]>| match bytes {
        Some(bytes) => format!("'\\x{}'", hex(bytes)),
        None => "NULL".to_owned(),
    };
    let time = |after: Option<Duration>| match after {
        Some(after) => format!("clock_timestamp() + {} * interval '1 microsecond'", micros(after)),
        None => "NULL".to_owned(),
    };
    let mut text = String::with_capacity(900);
    write!(
        text,
        "SET LOCAL lock_timeout = {}; INSERT INTO idempotency.keys (id, action, undo, refused, doubt, running, \
         stamp, fence, action_print, undo_print, lease_until, expires_at, created_at, xid) \
         VALUES ('\\x{}', {}, {}, {}, {}, {}, '\\x{}', {}, {}, {}, {}, {}, clock_timestamp(), pg_current_xact_id()) \
         ON CONFLICT (id) DO NOTHING; SET LOCAL lock_timeout TO DEFAULT; SAVEPOINT idempotency",
        // 0 would mean: wait for ever.
        wait.as_millis().max(1),
        hex(&id.0),
        row.action.code(),
        row.undo.code(),
        row.refused,
        row.doubt,
        row.running(),
        hex(&row.stamp.0),
        row.fence,
        bytes(row.action_print.as_ref().map(|print| print.as_bytes().as_slice())),
        bytes(row.undo_print.as_ref().map(|print| print.as_bytes().as_slice())),
        time(put.lease),
        time(put.keep),
    )
    .expect("a String takes what is written");
    text
}

/// Only the claim's own lock timeout means that somebody else is running.
fn waited(error: sqlx::Error, request: &ClaimRequest, wait: Duration) -> Result<Claim, StoreError> {
    if code(&error) == "55P03" {
        tracing::debug!(key = ?request.id, "a key was locked for longer than the claim may wait");
        return Ok(Claim::InFlight { retry_after: wait.max(Duration::from_secs(1)) });
    }
    Err(unavailable(error))
}

fn code(error: &sqlx::Error) -> String {
    error.as_database_error().and_then(|error| error.code()).map(Into::into).unwrap_or_default()
}
