//! The fused guarantee on Postgres.
//!
//! A first call behind the layer costs two round trips beyond the handler's own: the claim, and the answer. `BEGIN` and
//! `COMMIT` are the handler's anyway. A transaction of the caller's own also pays for a savepoint; the layer does
//! without, and writes a refusal that is kept in a transaction of its own.
//!
//! A claim of a new key writes nothing: it is an advisory lock, which the transaction holds to its end, and the number
//! of that transaction. The row is written once, with the answer, so that a call leaves no dead row behind. Two things
//! make up for what an uncommitted row would do by itself. The unique index has the last word, when the answer is
//! written. And a transaction that a handler ends by hand is found out by its number; then the key is put in doubt.
//! Only a claim over a row that is there (expired, or of an undone action) writes that row first.

use std::time::Duration;

use bytes::Bytes;
use sqlx::{PgConnection, Postgres, Row as _, Transaction};

use super::lines::{PATIENCE, hung_up, silent};
use super::{MOST, PostgresStore, bind_expected, bind_put, dated, now, sql, unavailable};
use crate::KeyId;
use crate::claim::{Claim, ClaimRequest, Decision, Put, Ticket, Verdict, decide};
use crate::fused::{CompleteError, FusedStore, placeholder};
use crate::row::Row;
use crate::store::{Expected, Held, Store, StoreError};
use crate::time::{Time, micros};
use crate::unstoppable::Unstoppable;

/// At a stricter level a duplicate that has waited could not see what it waited for.
const BEGIN: &str = "BEGIN ISOLATION LEVEL READ COMMITTED";

impl FusedStore for PostgresStore {
    type Db = Postgres;

    async fn begin(&self) -> Result<Transaction<'static, Postgres>, StoreError> {
        let mut others = MOST;
        loop {
            let pool = self.transactions.clone();
            // Dropped in the middle, its connection would go back into the pool with a transaction that sqlx does not
            // know of. So it ends without us, and is rolled back then.
            let begins = Unstoppable::run(async move { pool.begin_with(BEGIN).await });
            match tokio::time::timeout(2 * PATIENCE, begins).await.unwrap_or_else(|_| Err(silent())) {
                // Its server has hung up since it was used last; nothing was begun.
                Err(error) if others > 0 && hung_up(&error) => others -= 1,
                begun => return begun.map_err(unavailable),
            }
        }
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
        let claim = self.claim_alone(connection, request, wait).await?;
        if let Claim::Acquired(_) = claim {
            sqlx::raw_sql("SAVEPOINT idempotency").execute(connection).await.map_err(unavailable)?;
        }
        Ok(claim)
    }

    const SAVEPOINT: bool = false;

    async fn claim_alone(
        &self,
        connection: &mut PgConnection,
        request: &ClaimRequest,
        wait: Duration,
    ) -> Result<Claim, StoreError> {
        loop {
            if let Some(claim) = first(connection, request).await? {
                return Ok(claim);
            }
            // Somebody has committed a row, which is visible to this new statement unless it is gone again; or
            // somebody's claim is not committed yet.
            let row = sqlx::query(sql::READ).bind(request.id.0.to_vec()).fetch_one(&mut *connection).await;
            let row = row.map_err(unavailable)?;
            let stored = dated(&row)?;
            let decision = match &stored {
                Some(stored) => decide(Some(stored), request, now(&row)?),
                None => match waits_for(connection, request, wait).await? {
                    Some(claim) => return Ok(claim),
                    None => continue,
                },
            };
            let claim = match decision {
                Decision::Answer(claim) => Some(claim),
                Decision::Write { .. } => over(connection, request, wait).await?,
            };
            if let Some(claim) = claim {
                return Ok(claim);
            }
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
            let back = sqlx::raw_sql("ROLLBACK TO SAVEPOINT idempotency").execute(&mut *connection).await;
            if let Err(error) = back {
                // The savepoint is gone only if the transaction is.
                let gone = matches!(&*code(&error), "3B001" | "25P01");
                return Err(if gone { ended(connection, ticket).await } else { refused(error) });
            }
        }
        if settle(connection, ticket, &ticket.completed(verdict, answer), keep).await.map_err(refused)? {
            return Ok(());
        }
        if ticket.transaction.is_none() {
            return Err(CompleteError::Ended);
        }
        self.still_holds(connection, ticket).await?;
        let met = "another outcome was written under its key meanwhile, by a claim of another kind";
        Err(CompleteError::Refused(StoreError::unavailable("postgres", met)))
    }

    async fn still_holds(&self, connection: &mut PgConnection, ticket: &Ticket) -> Result<(), CompleteError> {
        let Some(transaction) = ticket.transaction.as_deref() else { return Ok(()) };
        let holds = match sqlx::query_scalar(sql::TRANSACTION).fetch_one(&mut *connection).await {
            Ok(now) => Ok(Option::<String>::as_deref(&now) == Some(transaction)),
            // It has failed and tells nothing any more.
            Err(error) if code(&error) == "25P02" => was_rolled_back(connection, transaction).await,
            Err(error) => Err(error),
        };
        match holds {
            Ok(true) => Ok(()),
            Ok(false) => Err(ended(connection, ticket).await),
            Err(error) => Err(CompleteError::Refused(unavailable(error))),
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

/// Gives up the transaction under way, which has failed, and asks in the next one on this connection whether the one
/// of this number ended without being committed.
///
/// Never on another connection: whoever waits for a second one while holding the first waits for ever, once as many do
/// as the pool has.
async fn was_rolled_back(connection: &mut PgConnection, transaction: &str) -> Result<bool, sqlx::Error> {
    sqlx::raw_sql("ROLLBACK AND CHAIN").execute(&mut *connection).await?;
    let committed: bool = sqlx::query_scalar(sql::COMMITTED).bind(transaction).fetch_one(connection).await?;
    Ok(!committed)
}

/// The transaction of a claim was ended by hand. What it wrote may be committed, without the key: from now on the key
/// is in doubt. Whatever was begun on the connection since is given up.
async fn ended(connection: &mut PgConnection, ticket: &Ticket) -> CompleteError {
    let put = Put { row: ticket.row.clone(), lease: Some(Duration::ZERO), keep: None, fresh: true };
    let doubt = async {
        sqlx::raw_sql("ROLLBACK").execute(&mut *connection).await?;
        bind_put(sqlx::query(sql::PUT_IF_ABSENT), &ticket.id, &put).execute(connection).await
    };
    if let Err(error) = doubt.await {
        tracing::error!(key = ?ticket.id, %error, "a key could not be put in doubt, and is free");
    }
    CompleteError::Ended
}

/// Writes the outcome, if this is the transaction that claimed and nobody else has written one.
async fn settle(
    connection: &mut PgConnection,
    ticket: &Ticket,
    row: &Row,
    keep: Duration,
) -> Result<bool, sqlx::Error> {
    let text = if ticket.transaction.is_some() { sql::SETTLE_CLAIM } else { sql::SETTLE };
    let outcome = sqlx::query(text)
        .bind(&ticket.id.0[..])
        .bind(row.action.code())
        .bind(row.undo.code())
        .bind(row.refused)
        .bind(row.action_answer.as_deref())
        .bind(row.undo_answer.as_deref())
        .bind(micros(keep))
        .bind(&ticket.row.stamp.0[..]);
    let outcome = match ticket.transaction.as_deref() {
        None => outcome,
        Some(transaction) => outcome
            .bind(i64::try_from(row.fence).unwrap_or(i64::MAX))
            .bind(row.action_print.as_ref().map(|print| &print.as_bytes()[..]))
            .bind(row.undo_print.as_ref().map(|print| &print.as_bytes()[..]))
            .bind(transaction),
    };
    Ok(outcome.execute(connection).await?.rows_affected() == 1)
}

/// Claims a key that is new, unless another transaction is claiming it: this waits for nobody. `None`: the key is
/// not new, or claimed by a transaction that is open.
async fn first(connection: &mut PgConnection, request: &ClaimRequest) -> Result<Option<Claim>, StoreError> {
    let claim = sqlx::query_scalar(sql::CLAIM).bind(&request.id.0[..]).bind(lock(&request.id));
    let Some(transaction): Option<String> = claim.fetch_one(&mut *connection).await.map_err(unavailable)?
    else {
        return Ok(None);
    };
    let Decision::Write { put, then } = decide(None, request, Time(0)) else {
        unreachable!("the first claim of a key always writes")
    };
    match *then {
        Claim::Acquired(ticket) => {
            Ok(Some(Claim::Acquired(Ticket { transaction: Some(transaction.into()), ..ticket })))
        }
        ruled => {
            let query = bind_put(sqlx::query(sql::PUT_IF_ABSENT), &request.id, &put);
            let row = query.fetch_one(connection).await.map_err(unavailable)?;
            let done: bool = row.try_get("done").map_err(unavailable)?;
            Ok(done.then_some(ruled))
        }
    }
}

/// Waits for the transaction that is claiming the key; answers if it takes too long.
async fn waits_for(
    connection: &mut PgConnection,
    request: &ClaimRequest,
    wait: Duration,
) -> Result<Option<Claim>, StoreError> {
    let callers = set_lock_timeout(connection, wait).await?;
    let waits = sqlx::query(sql::WAIT).bind(lock(&request.id)).bind(callers);
    match waits.execute(&mut *connection).await {
        Ok(_) => Ok(None),
        Err(error) => waited(error, request, wait).map(Some),
    }
}

/// Claims over a row that is there: locks it, and looks again. `None`: it was swept meanwhile, the key is new again.
async fn over(
    connection: &mut PgConnection,
    request: &ClaimRequest,
    wait: Duration,
) -> Result<Option<Claim>, StoreError> {
    let callers = set_lock_timeout(connection, wait).await?;
    let locked = sqlx::query(sql::LOCK).bind(request.id.0.to_vec()).bind(callers);
    let row = match locked.fetch_one(&mut *connection).await {
        Ok(row) => row,
        Err(error) => return waited(error, request, wait).map(Some),
    };
    let Some(stored) = dated(&row)? else { return Ok(None) };
    let (put, then) = match decide(Some(&stored), request, now(&row)?) {
        Decision::Answer(claim) => return Ok(Some(claim)),
        Decision::Write { put, then } => (placeholder(*put), then),
    };
    let query = bind_put(sqlx::query(sql::PUT_IF_EXACTLY), &request.id, &put).bind(put.fresh);
    let query = bind_expected(query, &Expected::exactly(&stored));
    query.fetch_one(&mut *connection).await.map_err(unavailable)?;
    let own = sqlx::query(sql::OWN).bind(request.id.0.to_vec());
    own.execute(&mut *connection).await.map_err(unavailable)?;
    Ok(Some(*then))
}

/// Sets the transaction's lock timeout; answers what it was.
async fn set_lock_timeout(connection: &mut PgConnection, wait: Duration) -> Result<String, StoreError> {
    // 0 would mean: wait for ever.
    let millis = i32::try_from(wait.as_millis()).unwrap_or(i32::MAX).max(1);
    let set = sqlx::query_scalar(sql::LOCK_TIMEOUT).bind(millis.to_string());
    set.fetch_one(connection).await.map_err(unavailable)
}

/// The advisory lock of a key, which a transaction that claims it holds to its end. A key that shares it, one of
/// 2⁶⁴, waits for it in vain and is claimed then.
fn lock(id: &KeyId) -> i64 {
    i64::from_be_bytes(*id.0.first_chunk().expect("an id has 32 bytes"))
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
