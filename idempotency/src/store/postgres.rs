//! Rows in Postgres, schema `idempotency`.
//!
//! Every operation is one autocommitted statement at READ COMMITTED. A conditional write and the read of what
//! stands in its way are one statement, whose read sees the snapshot of its beginning: the row it reports may
//! already be older than the one that refused the write, or (after an insert that met a row committed since)
//! not visible at all. Both are recognised, and the statement is sent again with a fresh snapshot.
//!
//! Replaying reads only: `ON CONFLICT DO NOTHING` writes nothing, where `DO UPDATE` would lock the row and
//! cost 1.5 kB of WAL for each replay.

use std::time::Duration;

use async_trait::async_trait;
use sqlx::postgres::{PgPool, PgPoolOptions, PgRow};
use sqlx::query::Query;
use sqlx::{Postgres, Row as _};

use super::{Change, Counts, Expected, Store, StoreError, Swap};
use crate::KeyId;
use crate::claim::Put;
use crate::row::{Dated, Point, Progress, Row, Stamp};
use crate::time::{Time, micros};

mod fused;
mod lines;
mod migrate;
mod sql;

use lines::Lines;

/// How many connections a store opens by itself, of either kind.
const MOST: u32 = 16;

/// A store in Postgres.
#[derive(Clone, Debug)]
pub struct PostgresStore {
    pool: PgPool,
    /// Lends the transactions of fused calls.
    transactions: PgPool,
    lines: Lines,
}

impl PostgresStore {
    /// Connects, brings the schema up to date and checks the server's settings.
    ///
    /// Opens up to 16 connections for single statements, up to 16 for the transactions of fused calls, and one in
    /// a [pool](Self::pool), of up to 16 where the program uses it.
    pub async fn connect(url: &str) -> Result<Self, StoreError> {
        let options = PgPoolOptions::new().max_connections(MOST).acquire_timeout(Duration::from_secs(5));
        let pool = options.clone().connect(url).await.map_err(unavailable)?;
        let server = (*pool.connect_options()).clone();
        // A transaction finds out by its BEGIN whether its connection lives, which spares the question.
        let transactions = options.test_before_acquire(false).connect_lazy_with(server.clone());
        Ok(Self { lines: Lines::own(server, MOST as usize), transactions, ..Self::new(pool).await? })
    }

    /// Takes a pool, brings the schema up to date and checks the server's settings. Nothing but the pool's
    /// connections is used, each of which sqlx tests before and after: that is two round trips more for each
    /// operation than a store needs that has [connected](Self::connect) by itself.
    ///
    /// A role without the right to create tables may be used if another has [migrated](Self::migrate).
    pub async fn new(pool: PgPool) -> Result<Self, StoreError> {
        Self::migrate(&pool).await?;
        Self::check(&pool).await?;
        Ok(Self { lines: Lines::Pool(pool.clone()), transactions: pool.clone(), pool })
    }

    /// Brings the schema `idempotency` up to date. Safe to call from many processes at once.
    pub async fn migrate(pool: &PgPool) -> Result<(), StoreError> {
        migrate::migrate(pool).await
    }

    /// The pool.
    pub fn pool(&self) -> &PgPool {
        &self.pool
    }

    async fn check(pool: &PgPool) -> Result<(), StoreError> {
        let row = sqlx::query(sql::SETTINGS).fetch_one(pool).await.map_err(unavailable)?;
        let refuse = |setting: &str, advice: &str| {
            Err(StoreError::new(
                super::StoreErrorKind::Settings,
                format!("the postgres store is unsafe: {setting}; {advice}"),
            ))
        };
        let text = |name: &str| row.try_get::<String, _>(name).map_err(unavailable);
        if text("fsync")? == "off" {
            return refuse("fsync = off", "a crash of the machine may corrupt the database: set fsync = on");
        }
        if text("full_page_writes")? == "off" {
            return refuse("full_page_writes = off", "a crash of the machine may tear pages: set it to on");
        }
        if text("synchronous_commit")? == "off" {
            return refuse(
                "synchronous_commit = off",
                "a crash forgets claims already given out: set it to on",
            );
        }
        if row.try_get::<bool, _>("in_recovery").map_err(unavailable)? {
            return refuse("pg_is_in_recovery() is true", "this is a standby: connect to the primary");
        }
        Ok(())
    }

    async fn put(&self, id: &KeyId, expected: &Expected, put: &Put) -> Result<PgRow, StoreError> {
        let statement = match expected {
            Expected::Absent => sql::PUT_IF_ABSENT,
            Expected::Exactly { .. } => sql::PUT_IF_EXACTLY,
            Expected::Held(_) => sql::PUT_IF_HELD,
        };
        let query = bind_put(sqlx::query(statement), id, put);
        let query = match expected {
            Expected::Absent => query,
            _ => bind_expected(query.bind(put.fresh), expected),
        };
        self.lines.ask(query).await
    }

    async fn delete(&self, id: &KeyId, expected: &Expected) -> Result<PgRow, StoreError> {
        let statement = match expected {
            // Nothing is to be nothing: the read alone tells whether it is.
            Expected::Absent => sql::READ_AS_SWAP,
            Expected::Exactly { .. } => sql::DELETE_IF_EXACTLY,
            Expected::Held(_) => sql::DELETE_IF_HELD,
        };
        self.lines.ask(bind_expected(sqlx::query(statement).bind(id.0.to_vec()), expected)).await
    }
}

#[async_trait]
impl Store for PostgresStore {
    async fn swap(&self, id: &KeyId, expected: &Expected, change: &Change) -> Result<Swap, StoreError> {
        loop {
            let row = match change {
                Change::Put(put) => self.put(id, expected, put).await?,
                Change::Delete => self.delete(id, expected).await?,
            };
            if row.try_get("done").map_err(unavailable)? {
                return Ok(Swap::Done);
            }
            let (dated, now) = (dated(&row)?, now(&row)?);
            // What refused the write was committed after our snapshot: look again.
            if !expected.is_met(dated.as_ref()) {
                return Ok(Swap::Other { dated, now });
            }
        }
    }

    async fn read(&self, id: &KeyId) -> Result<(Option<Dated>, Time), StoreError> {
        let row = self.lines.read(|| sqlx::query(sql::READ).bind(id.0.to_vec())).await?;
        Ok((dated(&row)?, now(&row)?))
    }

    async fn sweep(&self, limit: u32) -> Result<u64, StoreError> {
        let query = sqlx::query(sql::SWEEP).bind(i64::from(limit));
        Ok(query.execute(&self.pool).await.map_err(unavailable)?.rows_affected())
    }

    async fn count(&self) -> Result<Counts, StoreError> {
        let row = sqlx::query(sql::COUNT).fetch_one(&self.pool).await.map_err(unavailable)?;
        let count = |name: &str| {
            let count: i64 = row.try_get(name).map_err(unavailable)?;
            Ok::<_, StoreError>(u64::try_from(count).unwrap_or(0))
        };
        Ok(Counts {
            running: count("running")?,
            in_doubt: count("in_doubt")?,
            applied: count("applied")?,
            rejected: count("rejected")?,
            undone: count("undone")?,
            refused: count("refused")?,
        })
    }

    async fn unfinished(&self, operation: &str, limit: u32) -> Result<Vec<KeyId>, StoreError> {
        let query = sqlx::query(sql::UNFINISHED).bind(operation).bind(i64::from(limit));
        let rows = query.fetch_all(&self.pool).await.map_err(unavailable)?;
        rows.iter().map(|row| id_of(row.try_get("id").map_err(unavailable)?)).collect()
    }
}

type PgQuery = Query<'static, Postgres, sqlx::postgres::PgArguments>;

/// Binds `$1` to `$17`.
pub(crate) fn bind_put(query: PgQuery, id: &KeyId, put: &Put) -> PgQuery {
    let row = &put.row;
    let point = row.point.as_ref();
    query
        .bind(id.0.to_vec())
        .bind(row.action.code())
        .bind(row.undo.code())
        .bind(row.refused)
        .bind(row.doubt)
        .bind(row.running())
        .bind(row.stamp.0.to_vec())
        .bind(i64::try_from(row.fence).unwrap_or(i64::MAX))
        .bind(row.action_print.map(|print| print.as_bytes().to_vec()))
        .bind(row.undo_print.map(|print| print.as_bytes().to_vec()))
        .bind(row.action_answer.as_ref().map(|answer| answer.to_vec()))
        .bind(row.undo_answer.as_ref().map(|answer| answer.to_vec()))
        .bind(point.map(|point| point.operation.clone()))
        .bind(point.map(|point| point.phase.clone()))
        .bind(point.map(|point| point.memo.to_vec()))
        .bind(put.lease.map(micros))
        .bind(put.keep.map(micros))
}

/// Binds what follows: the stamp, then the lease and whether it was running.
pub(crate) fn bind_expected(query: PgQuery, expected: &Expected) -> PgQuery {
    match expected {
        Expected::Absent => query,
        Expected::Held(stamp) => query.bind(stamp.0.to_vec()),
        Expected::Exactly { stamp, lease_until, running } => query
            .bind(stamp.0.to_vec())
            .bind(lease_until.and_then(|at| chrono::DateTime::from_timestamp_micros(at.0)))
            .bind(*running),
    }
}

/// The row of a statement that answers `done, now` and the columns of a row, or nulls for them.
pub(crate) fn dated(row: &PgRow) -> Result<Option<Dated>, StoreError> {
    let Some(action) = row.try_get::<Option<i16>, _>("action").map_err(unavailable)? else { return Ok(None) };
    let bytes = |name: &str| row.try_get::<Option<Vec<u8>>, _>(name).map_err(unavailable);
    let time = |name: &str| {
        let time: Option<chrono::DateTime<chrono::Utc>> = row.try_get(name).map_err(unavailable)?;
        Ok::<_, StoreError>(time.map(|time| Time(time.timestamp_micros())))
    };
    let print = |name: &str| match bytes(name)? {
        None => Ok(None),
        Some(bytes) => crate::Fingerprint::from_bytes(&bytes).map(Some).ok_or_else(|| corrupt("fingerprint")),
    };
    let progress = |code| Progress::from_code(code).ok_or_else(|| corrupt("state"));
    let operation: Option<String> = row.try_get("operation").map_err(unavailable)?;
    let phase: Option<String> = row.try_get("phase").map_err(unavailable)?;
    let memo = bytes("memo")?;
    let point = operation.zip(phase).zip(memo);
    let stamp = bytes("stamp")?.and_then(|bytes| bytes.try_into().ok()).ok_or_else(|| corrupt("stamp"))?;
    let fence: i64 = row.try_get("fence").map_err(unavailable)?;
    Ok(Some(Dated {
        row: Row {
            action: progress(action)?,
            undo: progress(row.try_get("undo").map_err(unavailable)?)?,
            refused: row.try_get("refused").map_err(unavailable)?,
            doubt: row.try_get("doubt").map_err(unavailable)?,
            stamp: Stamp(stamp),
            fence: u64::try_from(fence).map_err(|_| corrupt("fence"))?,
            action_print: print("action_print")?,
            undo_print: print("undo_print")?,
            action_answer: bytes("action_answer")?.map(Into::into),
            undo_answer: bytes("undo_answer")?.map(Into::into),
            point: point.map(|((operation, phase), memo)| Point { operation, phase, memo: memo.into() }),
        },
        created_at: time("created_at")?.ok_or_else(|| corrupt("time"))?,
        lease_until: time("lease_until")?,
        expires_at: time("expires_at")?,
    }))
}

pub(crate) fn now(row: &PgRow) -> Result<Time, StoreError> {
    let now: chrono::DateTime<chrono::Utc> = row.try_get("now").map_err(unavailable)?;
    Ok(Time(now.timestamp_micros()))
}

fn id_of(bytes: Vec<u8>) -> Result<KeyId, StoreError> {
    bytes.try_into().map(KeyId).map_err(|_| corrupt("id"))
}

pub(crate) fn unavailable(error: sqlx::Error) -> StoreError {
    StoreError::unavailable("postgres", error)
}

fn corrupt(what: &str) -> StoreError {
    StoreError::corrupt("postgres", what)
}
