//! Rows in a SQLite file: the embedded default.
//!
//! Several processes of one host may share the file; SQLite lets one write at a time. Every operation is a
//! single statement, and those that wait for each other are committed together (`writer.rs`). Times are read by
//! the statement itself, which SQLite evaluates once it holds its lock; the clock is the host's, the same for
//! every process that can open the file.

use std::str::FromStr;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use sqlx::query::Query;
use sqlx::sqlite::{
    SqliteArguments, SqliteConnectOptions, SqliteJournalMode, SqlitePool, SqlitePoolOptions, SqliteRow,
    SqliteSynchronous,
};
use sqlx::{Row as _, Sqlite};

use super::{Change, Counts, Expected, Store, StoreError, StoreErrorKind, Swap};
use crate::KeyId;
use crate::claim::Put;
use crate::row::{Dated, Point, Progress, Row, Stamp};
use crate::time::{Time, micros};

mod fused;
mod migrate;
mod sql;
mod writer;

use writer::{Write, Writer};

/// How long somebody else's write is waited for.
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);

/// A store in a SQLite file.
#[derive(Clone, Debug)]
pub struct SqliteStore {
    writer: Writer,
    reader: SqlitePool,
}

impl SqliteStore {
    /// Opens (and creates) the file of a URL such as `sqlite:keys.db`, in WAL mode and fully synchronous.
    pub async fn connect(url: &str) -> Result<Self, StoreError> {
        let options = SqliteConnectOptions::from_str(url).map_err(unavailable)?;
        let in_memory = url.contains(":memory:") || url.contains("mode=memory");
        let options = options
            .create_if_missing(true)
            .journal_mode(SqliteJournalMode::Wal)
            .synchronous(SqliteSynchronous::Full)
            .busy_timeout(BUSY_TIMEOUT);
        // One connection writes: what waits, waits in a queue and not in SQLite's busy handler. No network is
        // between: what was there a moment ago still is.
        let one = SqlitePoolOptions::new().max_connections(1).min_connections(1).test_before_acquire(false);
        let one = one.idle_timeout(None).max_lifetime(None);
        let writer = open(&one, &options).await?;
        // A database in memory belongs to its connection.
        let reader = match in_memory {
            true => writer.clone(),
            false => {
                let several = SqlitePoolOptions::new().max_connections(4).test_before_acquire(false);
                several.connect_lazy_with(options)
            }
        };
        migrate::migrate(&writer).await?;
        Self::check(&writer).await?;
        Ok(Self { writer: Writer::new(writer), reader })
    }

    /// Takes a pool, brings its tables up to date and checks its settings.
    pub async fn new(pool: SqlitePool) -> Result<Self, StoreError> {
        migrate::migrate(&pool).await?;
        Self::check(&pool).await?;
        Ok(Self { writer: Writer::new(pool.clone()), reader: pool })
    }

    /// Brings the tables `idempotency_*` up to date.
    pub async fn migrate(pool: &SqlitePool) -> Result<(), StoreError> {
        migrate::migrate(pool).await
    }

    /// The pool that writes.
    pub fn pool(&self) -> &SqlitePool {
        self.writer.pool()
    }

    async fn check(pool: &SqlitePool) -> Result<(), StoreError> {
        let refuse = |what: &str| {
            Err(StoreError::new(StoreErrorKind::Settings, format!("the sqlite store is unsafe: {what}")))
        };
        let synchronous: i64 =
            sqlx::query_scalar("PRAGMA synchronous").fetch_one(pool).await.map_err(unavailable)?;
        if synchronous < 2 {
            return refuse(
                "PRAGMA synchronous is below FULL; a power loss forgets claims already given out: set \
                 synchronous = FULL",
            );
        }
        let journal: String =
            sqlx::query_scalar("PRAGMA journal_mode").fetch_one(pool).await.map_err(unavailable)?;
        let file: String = sqlx::query_scalar("SELECT file FROM pragma_database_list WHERE name = 'main'")
            .fetch_one(pool)
            .await
            .map_err(unavailable)?;
        // A database that has no file is gone with its process, whatever its journal is.
        if !file.is_empty() && ["off", "memory"].contains(&journal.as_str()) {
            return refuse(&format!(
                "PRAGMA journal_mode is {journal}; a process that is killed while it writes damages the file: \
                 set journal_mode = WAL"
            ));
        }
        Ok(())
    }
}

/// Waits for others that open the file as well: giving a new one its journal mode fails at once beside them, whatever
/// the timeout of the connection is.
async fn open(pool: &SqlitePoolOptions, options: &SqliteConnectOptions) -> Result<SqlitePool, StoreError> {
    let deadline = Instant::now() + BUSY_TIMEOUT;
    loop {
        match pool.clone().connect_with(options.clone()).await {
            Err(sqlx::Error::Database(error)) if is_busy(&*error) && Instant::now() < deadline => {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            opened => return opened.map_err(unavailable),
        }
    }
}

/// `SQLITE_BUSY`, of whichever kind: the lowest byte tells.
fn is_busy(error: &dyn sqlx::error::DatabaseError) -> bool {
    error.code().and_then(|code| code.parse::<u32>().ok()).is_some_and(|code| code & 0xff == 5)
}

#[async_trait]
impl Store for SqliteStore {
    async fn swap(&self, id: &KeyId, expected: &Expected, change: &Change) -> Result<Swap, StoreError> {
        let write = || Write { id: *id, expected: expected.clone(), change: change.clone() };
        loop {
            // A replay must not wait for somebody's write lock: look before trying to insert.
            if *expected != Expected::Absent && self.writer.write(write()).await? {
                return Ok(Swap::Done);
            }
            let (dated, now) = self.read(id).await?;
            if !expected.is_met(dated.as_ref()) {
                return Ok(Swap::Other { dated, now });
            }
            if *expected == Expected::Absent {
                // Replacing nothing by nothing is done by looking.
                if matches!(change, Change::Delete) || self.writer.write(write()).await? {
                    return Ok(Swap::Done);
                }
            }
        }
    }

    async fn read(&self, id: &KeyId) -> Result<(Option<Dated>, Time), StoreError> {
        let query = sqlx::query(sql::READ).bind(id.0.to_vec());
        let row = query.fetch_one(&self.reader).await.map_err(unavailable)?;
        Ok((dated(&row)?, Time(row.try_get("now").map_err(unavailable)?)))
    }

    async fn sweep(&self, limit: u32) -> Result<u64, StoreError> {
        let query = sqlx::query(sql::SWEEP).bind(i64::from(limit));
        Ok(query.execute(self.writer.pool()).await.map_err(unavailable)?.rows_affected())
    }

    async fn count(&self) -> Result<Counts, StoreError> {
        let row = sqlx::query(sql::COUNT).fetch_one(&self.reader).await.map_err(unavailable)?;
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
        let query = sqlx::query(sql::UNFINISHED).bind(operation.to_owned()).bind(i64::from(limit));
        let rows = query.fetch_all(&self.reader).await.map_err(unavailable)?;
        let id = |row: &SqliteRow| {
            let bytes: Vec<u8> = row.try_get("id").map_err(unavailable)?;
            bytes.try_into().map(KeyId).map_err(|_| corrupt("id"))
        };
        rows.iter().map(id).collect()
    }
}

type SqliteQuery = Query<'static, Sqlite, SqliteArguments>;

/// Binds `?1` to `?17`.
pub(crate) fn bind_put(query: SqliteQuery, id: &KeyId, put: &Put) -> SqliteQuery {
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
pub(crate) fn bind_expected(query: SqliteQuery, expected: &Expected) -> SqliteQuery {
    match expected {
        Expected::Absent => query,
        Expected::Held(stamp) => query.bind(stamp.0.to_vec()),
        Expected::Exactly { stamp, lease_until, running } => {
            query.bind(stamp.0.to_vec()).bind(lease_until.map(|at| at.0)).bind(*running)
        }
    }
}

/// The row of a statement that answers the columns of a row, or nulls for them.
pub(crate) fn dated(row: &SqliteRow) -> Result<Option<Dated>, StoreError> {
    let Some(action) = row.try_get::<Option<i16>, _>("action").map_err(unavailable)? else { return Ok(None) };
    let bytes = |name: &str| row.try_get::<Option<Vec<u8>>, _>(name).map_err(unavailable);
    let time = |name: &str| {
        let time: Option<i64> = row.try_get(name).map_err(unavailable)?;
        Ok::<_, StoreError>(time.map(Time))
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

pub(crate) fn unavailable(error: sqlx::Error) -> StoreError {
    StoreError::unavailable("sqlite", error)
}

fn corrupt(what: &str) -> StoreError {
    StoreError::corrupt("sqlite", what)
}
