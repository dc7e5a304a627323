//! The fused guarantee on SQLite.
//!
//! The transaction takes the file's write lock when it begins (`BEGIN IMMEDIATE`), so that it cannot fail half-way
//! for want of it. While it is open nobody else writes: keep such handlers short.

use std::time::Duration;

use bytes::Bytes;
use sqlx::{Row as _, Sqlite, SqliteConnection, Transaction};

use super::{SqliteStore, bind_expected, bind_put, dated, sql, unavailable};
use crate::claim::{Claim, ClaimRequest, Decision, Put, Ticket, Verdict, decide};
use crate::fused::{CompleteError, FusedStore, placeholder};
use crate::store::{Expected, Held, Store, StoreError};
use crate::time::Time;

impl FusedStore for SqliteStore {
    type Db = Sqlite;

    async fn begin(&self) -> Result<Transaction<'static, Sqlite>, StoreError> {
        self.writer.pool().begin_with("BEGIN IMMEDIATE").await.map_err(unavailable)
    }

    /// Looking takes no lock, and a transaction is the only one that may write: so every request looks first.
    async fn look(&self, request: &ClaimRequest, _again: bool) -> Result<Option<Claim>, StoreError> {
        let (stored, now) = self.read(&request.id).await?;
        Ok(match decide(stored.as_ref(), request, now) {
            Decision::Answer(claim) => Some(claim),
            Decision::Write { .. } => None,
        })
    }

    /// `wait` is not used: who has begun a transaction has the only write lock already.
    async fn claim_in(
        &self,
        connection: &mut SqliteConnection,
        request: &ClaimRequest,
        _wait: Duration,
    ) -> Result<Claim, StoreError> {
        let row = sqlx::query(sql::READ).bind(request.id.0.to_vec()).fetch_one(&mut *connection).await;
        let row = row.map_err(unavailable)?;
        let (stored, now) = (dated(&row)?, Time(row.try_get("now").map_err(unavailable)?));
        let (put, then) = match decide(stored.as_ref(), request, now) {
            Decision::Answer(claim) => return Ok(claim),
            Decision::Write { put, then } => (placeholder(*put), then),
        };
        let query = match &stored {
            None => bind_put(sqlx::query(sql::PUT_IF_ABSENT), &request.id, &put),
            Some(stored) => {
                let query = bind_put(sqlx::query(sql::PUT_IF_EXACTLY), &request.id, &put).bind(put.fresh);
                bind_expected(query, &Expected::exactly(stored))
            }
        };
        query.execute(&mut *connection).await.map_err(unavailable)?;
        sqlx::raw_sql("SAVEPOINT idempotency").execute(&mut *connection).await.map_err(unavailable)?;
        Ok(*then)
    }

    async fn complete_in(
        &self,
        connection: &mut SqliteConnection,
        ticket: &Ticket,
        verdict: Verdict,
        answer: Bytes,
        keep: Duration,
    ) -> Result<(), CompleteError> {
        let refused = |error| CompleteError::Refused(unavailable(error));
        // The savepoint is gone only if the transaction was ended: releasing it proves that it was not.
        let savepoint = match verdict {
            Verdict::Applied => "RELEASE idempotency",
            Verdict::Rejected => "ROLLBACK TO idempotency; RELEASE idempotency",
        };
        if let Err(error) = sqlx::raw_sql(savepoint).execute(&mut *connection).await {
            let gone =
                error.as_database_error().is_some_and(|error| error.message().contains("no such savepoint"));
            if !gone {
                return Err(refused(error));
            }
            // sqlx still counts a transaction: give it one to roll back, unless there is one.
            let _ = sqlx::raw_sql("BEGIN").execute(&mut *connection).await;
            return Err(CompleteError::Ended);
        }
        let row = ticket.completed(verdict, answer);
        let put = Put { row, lease: None, keep: Some(keep), fresh: false };
        let query = bind_put(sqlx::query(sql::PUT_IF_HELD), &ticket.id, &put).bind(put.fresh);
        let query = bind_expected(query, &Expected::Held(ticket.row.stamp));
        match query.execute(&mut *connection).await.map_err(refused)?.rows_affected() {
            1 => Ok(()),
            _ => Err(CompleteError::Ended),
        }
    }

    async fn put_in(
        &self,
        connection: &mut SqliteConnection,
        ticket: &Ticket,
        put: Put,
    ) -> Result<Held, StoreError> {
        let query = bind_put(sqlx::query(sql::PUT_IF_HELD), &ticket.id, &put).bind(put.fresh);
        let query = bind_expected(query, &Expected::Held(ticket.row.stamp));
        let written = query.execute(&mut *connection).await.map_err(unavailable)?.rows_affected();
        Ok(if written == 1 { Held::Yes } else { Held::Lost })
    }
}
