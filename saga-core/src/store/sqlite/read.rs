//! Rows, read.

use std::collections::HashMap;

use chrono::DateTime;
use sqlx::sqlite::SqliteRow;
use sqlx::{Row, SqliteConnection};
use uuid::Uuid;

use super::Db;
use super::error::failed;
use super::insert::ids;
use crate::id::{Fingerprint, MailId, RunId, WorkerId};
use crate::journal::Timestamp;
use crate::priority::Priority;
use crate::store::commit::{JournalRow, Loaded, Mail};
use crate::store::decode;
use crate::store::error::{Error, Result};

/// One saga as it is read.
pub(super) async fn load(db: &Db, run: RunId) -> Result<Option<Loaded>> {
    // A read transaction: journal and mail belong to one moment.
    let mut tx = db.readers.begin().await.map_err(failed)?;
    Ok(sagas(&mut tx, &[run]).await?.pop())
}

/// Several sagas, in the order of the runs given; those that do not exist are left out.
pub(super) async fn sagas(conn: &mut SqliteConnection, runs: &[RunId]) -> Result<Vec<Loaded>> {
    let wanted = ids(runs.iter().map(|run| run.0));
    let mut journals: HashMap<Uuid, Vec<JournalRow>> = HashMap::new();
    for row in sqlx::query(
        "SELECT run, number, worker, at, body FROM saga_journal
         WHERE run IN (SELECT unhex(value) FROM json_each(?)) ORDER BY run, number",
    )
    .bind(wanted.clone())
    .fetch_all(&mut *conn)
    .await
    .map_err(failed)?
    {
        journals.entry(row.try_get(0).map_err(failed)?).or_default().push(journal_row(&row)?);
    }
    let mut mail = unread(conn, wanted.clone()).await?;
    let mut found = HashMap::new();
    for row in sqlx::query(
        "SELECT s.run, s.definition, s.version, s.fingerprint, s.saga, l.owner, l.key, l.turn IS NOT NULL,
             coalesce(l.priority, 0)
         FROM saga_start s LEFT JOIN saga_live l ON l.run = s.run
         WHERE s.run IN (SELECT unhex(value) FROM json_each(?))",
    )
    .bind(wanted)
    .fetch_all(conn)
    .await
    .map_err(failed)?
    {
        let run: Uuid = row.try_get(0).map_err(failed)?;
        let loaded = Loaded {
            run: RunId(run),
            definition: decode::name(row.try_get(1).map_err(failed)?)?,
            version: decode::number(row.try_get::<i64, _>(2).map_err(failed)?)?,
            fingerprint: Fingerprint(row.try_get(3).map_err(failed)?),
            saga: row.try_get::<String, _>(4).map_err(failed)?.into(),
            owner: row.try_get::<Option<Uuid>, _>(5).map_err(failed)?.map(WorkerId),
            key: decode::key(row.try_get(6).map_err(failed)?)?,
            queued: row.try_get(7).map_err(failed)?,
            priority: Priority::of_level(row.try_get(8).map_err(failed)?),
            journal: journals.remove(&run).unwrap_or_default(),
            mail: mail.remove(&RunId(run)).unwrap_or_default(),
        };
        found.insert(run, loaded);
    }
    Ok(runs.iter().filter_map(|run| found.remove(&run.0)).collect())
}

/// The mail that no commit has consumed, of the runs in a list of [`ids`], in the order of its ids.
pub(super) async fn unread(conn: &mut SqliteConnection, runs: String) -> Result<HashMap<RunId, Vec<Mail>>> {
    let rows = sqlx::query(
        "SELECT run, id, body, format FROM saga_mail WHERE consumed IS NULL
         AND run IN (SELECT unhex(value) FROM json_each(?)) ORDER BY id",
    )
    .bind(runs)
    .fetch_all(conn)
    .await
    .map_err(failed)?;
    mail_rows(&rows)
}

/// Mail by its run, in the order of the rows.
pub(super) fn mail_rows(rows: &[SqliteRow]) -> Result<HashMap<RunId, Vec<Mail>>> {
    let mut mail: HashMap<RunId, Vec<Mail>> = HashMap::new();
    for row in rows {
        let one = mail_row(row)?;
        mail.entry(one.run).or_default().push(one);
    }
    Ok(mail)
}

/// Columns run, id, body, format.
pub(super) fn mail_row(row: &SqliteRow) -> Result<Mail> {
    Ok(Mail {
        run: RunId(row.try_get(0).map_err(failed)?),
        id: MailId(row.try_get(1).map_err(failed)?),
        body: row.try_get::<&str, _>(2).map_err(failed)?.into(),
        format: row.try_get(3).map_err(failed)?,
    })
}

/// Columns run, number, worker, at, body.
pub(super) fn journal_row(row: &SqliteRow) -> Result<JournalRow> {
    Ok(JournalRow {
        number: decode::number(row.try_get::<i64, _>(1).map_err(failed)?)?,
        worker: row.try_get::<Option<Uuid>, _>(2).map_err(failed)?.map(WorkerId),
        at: time(row.try_get(3).map_err(failed)?)?,
        body: row.try_get::<&str, _>(4).map_err(failed)?.into(),
    })
}

pub(super) fn time(micros: i64) -> Result<Timestamp> {
    DateTime::from_timestamp_micros(micros)
        .ok_or_else(|| Error::Unusable(format!("a stored time is out of range: {micros}")))
}

/// Microseconds since 1970, rounded up: nothing is due early.
pub(super) fn micros(time: Timestamp) -> i64 {
    time.timestamp_micros() + i64::from(!time.timestamp_subsec_nanos().is_multiple_of(1000))
}
