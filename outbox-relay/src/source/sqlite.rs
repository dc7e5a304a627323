//! An outbox in a SQLite file.
//!
//! SQLite has one writer at a time, so `seq` is the order of commits and `seq > cursor` misses
//! nothing. Acknowledging deletes, in the transaction that moves the cursor; what is parked stays. What was
//! dropped goes with its row.
//!
//! Beside the file lies a lock file that the relay's process holds: the system frees it when the
//! process dies, however it dies. A free lock therefore means a dead holder, and the lease is taken
//! at once; a held one, of a process that may be frozen, falls under the lease's rule.

use super::{Ack, Decision, Defects, PageSize, ParkedEvent, ParkedNow, Resumed, Source, pause, stored_tail};
use crate::error::{Error, Result};
use crate::event::{Event, Fields, Key, Page, Park};
use crate::lease::LeaseRow;
use async_trait::async_trait;
use sqlx::sqlite::{
    SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteRow, SqliteSynchronous,
};
use sqlx::{Row, SqlitePool};
use std::collections::HashSet;
use std::fs::{File, OpenOptions};
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::Duration;
use uuid::Uuid;

/// The only outbox a file can hold.
const OUTBOX: &str = "outbox_event";

macro_rules! events {
    ($from:literal) => {
        concat!(
            "SELECT e.seq, e.id, e.aggregatetype, e.aggregateid, e.type, e.payload, e.headers, ",
            "e.tracingspancontext, e.key_seq, e.created_at FROM outbox_event AS e ",
            $from
        )
    };
}

/// The outbox of a SQLite database file.
#[derive(Debug)]
pub struct SqliteSource {
    pool: SqlitePool,
    lock_path: PathBuf,
    poll_every: Duration,
    /// Held from the first look at the lease that finds it free.
    lock: Mutex<Option<File>>,
    reading: Mutex<Reading>,
}

#[derive(Debug, Default)]
struct Reading {
    after: i64,
    page: PageSize,
    caught_up: bool,
}

impl SqliteSource {
    /// Opens the outbox of an existing database file, in WAL mode with full synchronisation. The
    /// tables must be there ([`outbox::migrate`]).
    ///
    /// # Errors
    ///
    /// If the file does not exist or cannot be opened.
    pub async fn open(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        if !path.exists() {
            return Err(Error::Config(format!(
                "there is no outbox file {}: it is the database of the service that writes the events; start that first, \
                 or name the right file",
                path.display()
            )));
        }
        let options = SqliteConnectOptions::new()
            .filename(path)
            .journal_mode(SqliteJournalMode::Wal)
            .synchronous(SqliteSynchronous::Full)
            .busy_timeout(Duration::from_secs(10));
        let pool =
            SqlitePoolOptions::new().max_connections(3).connect_with(options).await.map_err(|error| {
                Error::Config(format!("the outbox file {} cannot be opened: {error}", path.display()))
            })?;
        let mut lock_path = path.as_os_str().to_owned();
        lock_path.push("-relay");
        Ok(Self {
            pool,
            lock_path: lock_path.into(),
            poll_every: Duration::from_millis(20),
            lock: Mutex::default(),
            reading: Mutex::default(),
        })
    }

    /// The longest wait between two looks for new events, after some time without any; 20 ms unless told.
    pub fn poll_every(mut self, interval: Duration) -> Self {
        self.poll_every = interval;
        self
    }

    /// Whether this process holds the lock file now, or has just got it.
    fn hold_lock(&self) -> bool {
        let mut lock = self.lock.lock().expect("never poisoned");
        if lock.is_none() {
            let file = OpenOptions::new().create(true).truncate(false).write(true).open(&self.lock_path);
            *lock = file.ok().filter(|file| file.try_lock().is_ok());
        }
        lock.is_some()
    }

    /// Another holds the lease. The lock is let go too, or it would pass for the death of that other.
    fn fenced(&self, epoch: i64) -> Error {
        self.lock.lock().expect("never poisoned").take();
        Error::Fenced { outbox: OUTBOX.into(), epoch }
    }
}

#[async_trait]
impl Source for SqliteSource {
    fn name(&self) -> &str {
        OUTBOX
    }

    fn acknowledge_every(&self) -> Duration {
        Duration::from_millis(25)
    }

    async fn prepare(&self) -> Result<()> {
        outbox::check_schema(&mut *self.pool.acquire().await?).await?;
        sqlx::query("INSERT INTO outbox_relay (outbox) VALUES (?1) ON CONFLICT DO NOTHING")
            .bind(OUTBOX)
            .execute(&self.pool)
            .await?;
        Ok(())
    }

    async fn lease(&self) -> Result<LeaseRow> {
        // The lock first: a holder seen in the row afterwards, with the lock in our hands, is dead
        // or frozen out, and cannot have come later.
        let holder_is_dead = self.hold_lock();
        let row = sqlx::query("SELECT epoch, renewals, holder FROM outbox_relay WHERE outbox = ?1")
            .bind(OUTBOX)
            .fetch_one(&self.pool)
            .await?;
        Ok(LeaseRow {
            epoch: row.try_get("epoch")?,
            renewals: row.try_get("renewals")?,
            holder: row.try_get("holder")?,
            holder_is_dead,
        })
    }

    async fn take(&self, seen: &LeaseRow, holder: &str) -> Result<Option<i64>> {
        Ok(sqlx::query_scalar(
            "UPDATE outbox_relay SET epoch = epoch + 1, renewals = 0, holder = ?1 \
             WHERE outbox = ?2 AND epoch = ?3 AND renewals = ?4 RETURNING epoch",
        )
        .bind(holder)
        .bind(OUTBOX)
        .bind(seen.epoch)
        .bind(seen.renewals)
        .fetch_optional(&self.pool)
        .await?)
    }

    async fn renew(&self, epoch: i64) -> Result<()> {
        let renewed =
            sqlx::query("UPDATE outbox_relay SET renewals = renewals + 1 WHERE outbox = ?1 AND epoch = ?2")
                .bind(OUTBOX)
                .bind(epoch)
                .execute(&self.pool)
                .await?;
        if renewed.rows_affected() == 0 {
            return Err(self.fenced(epoch));
        }
        self.hold_lock();
        Ok(())
    }

    async fn give_up(&self, epoch: i64) -> Result<()> {
        sqlx::query("UPDATE outbox_relay SET holder = NULL WHERE outbox = ?1 AND epoch = ?2")
            .bind(OUTBOX)
            .bind(epoch)
            .execute(&self.pool)
            .await?;
        self.lock.lock().expect("never poisoned").take();
        Ok(())
    }

    async fn resume(&self, epoch: i64) -> Result<Resumed> {
        let row = sqlx::query("SELECT cursor, tail FROM outbox_relay WHERE outbox = ?1 AND epoch = ?2")
            .bind(OUTBOX)
            .bind(epoch)
            .fetch_optional(&self.pool)
            .await?
            .ok_or_else(|| self.fenced(epoch))?;
        let after = row.try_get("cursor")?;
        *self.reading.lock().expect("never poisoned") = Reading { after, ..Reading::default() };
        let tail = stored_tail(row.try_get("tail")?)?;
        Ok(Resumed { tail, parked: parked_keys(&self.pool).await?, dropped: dropped(&self.pool).await? })
    }

    async fn read(&self, limit: usize) -> Result<Page> {
        let (after, asked) = {
            let reading = self.reading.lock().expect("never poisoned");
            (reading.after, reading.page.rows(limit))
        };
        let rows = sqlx::query(events!("WHERE e.seq > ?1 ORDER BY e.seq LIMIT ?2"))
            .bind(after)
            .bind(i64::try_from(asked).unwrap_or(i64::MAX))
            .fetch_all(&self.pool)
            .await?;
        let events = rows.iter().map(event).collect::<Result<Vec<_>>>()?;
        let mut reading = self.reading.lock().expect("never poisoned");
        let caught_up = events.len() < asked && !std::mem::replace(&mut reading.caught_up, true);
        let Some(last) = events.last() else { return Ok(Page { caught_up, ..Page::default() }) };
        reading.after = last.seq;
        reading.page.learn(&events);
        Ok(Page { mark: Some(last.seq.unsigned_abs()), events, beyond: 0, caught_up })
    }

    async fn wait(&self, idle: u32) {
        tokio::time::sleep(pause(idle, self.poll_every)).await;
    }

    async fn acknowledge(&self, epoch: i64, ack: &Ack) -> Result<()> {
        let mut tx = self.pool.begin_with("BEGIN IMMEDIATE").await?;
        let cursor: Option<i64> = sqlx::query_scalar(
            "UPDATE outbox_relay SET cursor = max(cursor, coalesce(?3, cursor)), tail = ?4, \
                 acknowledged_at = CAST((julianday('now') - 2440587.5) * 86400000 AS INTEGER) \
             WHERE outbox = ?1 AND epoch = ?2 RETURNING cursor",
        )
        .bind(OUTBOX)
        .bind(epoch)
        .bind(ack.mark.map(|seq| i64::try_from(seq).unwrap_or(i64::MAX)))
        .bind(serde_json::to_string(&ack.tail).expect("a map of numbers is always JSON"))
        .fetch_optional(&mut *tx)
        .await?;
        let cursor = cursor.ok_or_else(|| self.fenced(epoch))?;
        for park in &ack.parks {
            sqlx::query(
                "INSERT INTO outbox_parked (outbox, seq, id, aggregatetype, aggregateid, reason) \
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6) \
                 ON CONFLICT (outbox, seq) DO NOTHING",
            )
            .bind(OUTBOX)
            .bind(park.seq)
            .bind(park.id.hyphenated())
            .bind(&park.key.aggregate_type)
            .bind(&park.key.aggregate_id)
            .bind(&park.reason)
            .execute(&mut *tx)
            .await?;
        }
        for park in &ack.parks_again {
            sqlx::query(
                "UPDATE outbox_parked SET released = 0, reason = iif(seq = ?2, ?3, reason) \
                 WHERE outbox = ?1 AND aggregatetype = ?4 AND aggregateid = ?5 AND NOT dropped",
            )
            .bind(OUTBOX)
            .bind(park.seq)
            .bind(&park.reason)
            .bind(&park.key.aggregate_type)
            .bind(&park.key.aggregate_id)
            .execute(&mut *tx)
            .await?;
        }
        for seq in &ack.released {
            sqlx::query("DELETE FROM outbox_parked WHERE outbox = ?1 AND seq = ?2")
                .bind(OUTBOX)
                .bind(seq)
                .execute(&mut *tx)
                .await?;
        }
        sqlx::query(
            "DELETE FROM outbox_event WHERE seq <= ?1 \
                 AND seq NOT IN (SELECT seq FROM outbox_parked WHERE outbox = ?2 AND NOT dropped)",
        )
        .bind(cursor)
        .bind(OUTBOX)
        .execute(&mut *tx)
        .await?;
        sqlx::query("DELETE FROM outbox_parked WHERE outbox = ?1 AND dropped AND seq <= ?2")
            .bind(OUTBOX)
            .bind(cursor)
            .execute(&mut *tx)
            .await?;
        tx.commit().await?;
        Ok(())
    }

    async fn sweep(&self, _epoch: i64) -> Result<u64> {
        Ok(0)
    }

    async fn list_parked(&self, limit: usize) -> Result<Vec<ParkedEvent>> {
        let rows = sqlx::query(
            "SELECT seq, id, aggregatetype, aggregateid, reason, released FROM outbox_parked \
             WHERE outbox = ?1 AND NOT dropped ORDER BY seq LIMIT ?2",
        )
        .bind(OUTBOX)
        .bind(i64::try_from(limit).unwrap_or(i64::MAX))
        .fetch_all(&self.pool)
        .await?;
        let parked = |row: &SqliteRow| {
            let key = Key {
                aggregate_type: row.try_get("aggregatetype")?,
                aggregate_id: row.try_get("aggregateid")?,
            };
            let id = Uuid::parse_str(row.try_get("id")?).unwrap_or_default();
            let park =
                Park { seq: row.try_get("seq")?, id, key, reason: row.try_get("reason")?, event: None };
            Ok(ParkedEvent { park, released: row.try_get("released")? })
        };
        rows.iter().map(parked).collect()
    }

    async fn decide(&self, key: Option<&Key>, decision: Decision) -> Result<u64> {
        let sql = match decision {
            Decision::Release => {
                "UPDATE outbox_parked SET released = 1 WHERE outbox = ?1 AND NOT dropped \
                     AND (?2 IS NULL OR (aggregatetype = ?2 AND aggregateid = ?3))"
            }
            Decision::Drop => {
                "UPDATE outbox_parked SET released = 0, dropped = 1 WHERE outbox = ?1 AND NOT dropped \
                     AND (?2 IS NULL OR (aggregatetype = ?2 AND aggregateid = ?3))"
            }
        };
        let decided = sqlx::query(sql)
            .bind(OUTBOX)
            .bind(key.map(|key| key.aggregate_type.as_str()))
            .bind(key.map(|key| key.aggregate_id.as_str()))
            .execute(&self.pool)
            .await?;
        Ok(decided.rows_affected())
    }

    async fn parked(&self, limit: usize) -> Result<ParkedNow> {
        let keys = parked_keys(&self.pool).await?;
        // After the keys: a key that is not among them because it was dropped just now is found here.
        let dropped = dropped(&self.pool).await?;
        if keys.is_empty() {
            return Ok(ParkedNow { dropped, ..ParkedNow::default() });
        }
        // All of the key, also what was set aside after the operator's decision.
        let key = sqlx::query(
            "UPDATE outbox_parked SET released = 1 WHERE outbox = ?1 AND NOT dropped \
                 AND (aggregatetype, aggregateid) IN (\
                     SELECT aggregatetype, aggregateid FROM outbox_parked \
                     WHERE outbox = ?1 AND released ORDER BY seq LIMIT 1) \
             RETURNING aggregatetype, aggregateid",
        )
        .bind(OUTBOX)
        .fetch_optional(&self.pool)
        .await?;
        let Some(key) = key else { return Ok(ParkedNow { keys, dropped, ..ParkedNow::default() }) };
        let rows = sqlx::query(events!(
            "JOIN outbox_parked AS p USING (seq) \
             WHERE p.outbox = ?1 AND p.aggregatetype = ?2 AND p.aggregateid = ?3 AND NOT p.dropped \
             ORDER BY e.seq LIMIT ?4"
        ))
        .bind(OUTBOX)
        .bind(key.try_get::<String, _>(0)?)
        .bind(key.try_get::<String, _>(1)?)
        .bind(i64::try_from(limit).unwrap_or(i64::MAX))
        .fetch_all(&self.pool)
        .await?;
        let released = rows.iter().map(event).collect::<Result<Vec<_>>>()?;
        Ok(ParkedNow { complete: released.len() < limit, keys, released, dropped })
    }
}

async fn parked_keys(pool: &SqlitePool) -> Result<HashSet<Key>> {
    let keys: Vec<(String, String)> = sqlx::query_as(
        "SELECT DISTINCT aggregatetype, aggregateid FROM outbox_parked WHERE outbox = ?1 AND NOT dropped",
    )
    .bind(OUTBOX)
    .fetch_all(pool)
    .await?;
    Ok(keys.into_iter().map(|(aggregate_type, aggregate_id)| Key { aggregate_type, aggregate_id }).collect())
}

async fn dropped(pool: &SqlitePool) -> Result<HashSet<i64>> {
    let dropped = sqlx::query_scalar("SELECT seq FROM outbox_parked WHERE outbox = ?1 AND dropped");
    Ok(dropped.bind(OUTBOX).fetch_all(pool).await?.into_iter().collect())
}

/// A value may be of any type, whatever its column was declared as.
fn event(row: &SqliteRow) -> Result<Event> {
    let mut defects = Defects::default();
    let id = text(row, "id", &mut defects)?;
    let fields = Fields {
        id: defects.id(id.map(str::as_bytes)),
        seq: row.try_get("seq")?,
        aggregate_type: name(row, "aggregatetype", &mut defects)?,
        aggregate_id: name(row, "aggregateid", &mut defects)?,
        event_type: name(row, "type", &mut defects)?,
        payload: defects.value("payload", row.try_get("payload"))?,
        trace: text(row, "tracingspancontext", &mut defects)?,
        key_seq: defects.value("key_seq", row.try_get("key_seq"))?,
        // 0, which is "unknown", for what is no time.
        created_at: row.try_get("created_at").unwrap_or_default(),
        ..Fields::default()
    };
    let headers = text(row, "headers", &mut defects)?;
    let headers = defects.headers(headers);
    Ok(Event::from(Fields { headers: &headers, defect: defects.first().as_deref(), ..fields }))
}

fn text<'r>(row: &'r SqliteRow, column: &str, defects: &mut Defects) -> Result<Option<&'r str>> {
    Ok(defects.value(column, row.try_get(column))?)
}

fn name<'r>(row: &'r SqliteRow, column: &str, defects: &mut Defects) -> Result<&'r str> {
    let text = text(row, column, defects)?;
    Ok(defects.name(column, text))
}
