//! Rows, read.

use std::collections::HashMap;

use sqlx::Row;
use sqlx::postgres::PgRow;
use uuid::Uuid;

use super::Db;
use super::connections::Lent;
use super::error::failed;
use crate::id::{Fingerprint, MailId, RunId, WorkerId};
use crate::journal::Timestamp;
use crate::priority::Priority;
use crate::store::commit::{JournalRow, Loaded, Mail};
use crate::store::decode;
use crate::store::error::Result;

/// One saga as it is read.
pub(super) async fn load(db: &Db, run: RunId) -> Result<Option<Loaded>> {
    let mut connection = db.readers.lend().await?;
    Ok(sagas(&mut connection, &[run]).await?.pop())
}

/// Several sagas, in the order of the runs given; those that do not exist are left out.
pub(super) async fn sagas(connection: &mut Lent, runs: &[RunId]) -> Result<Vec<Loaded>> {
    let wanted: Vec<Uuid> = runs.iter().map(|run| run.0).collect();
    // Mail first, the journal after it: mail that a commit consumes in between is seen as consumed or,
    // at worst, as both unread and received, and then a driver that replays the journal knows it.
    let mut mail = unread(connection, &wanted).await?;
    let mut journals: HashMap<Uuid, Vec<JournalRow>> = HashMap::new();
    // (Sorted by its primary key, the whole of a journal may be read that the server believes to be small.)
    let text = "SELECT run, number, worker, at, body FROM saga.journal WHERE run = ANY($1) ORDER BY number";
    for row in connection.rows(sqlx::query(text).bind(wanted.clone())).await? {
        journals.entry(row.try_get(0).map_err(failed)?).or_default().push(journal_row(&row)?);
    }
    let text =
        "SELECT s.run, s.definition, s.version, s.fingerprint, s.saga, l.owner, l.key, l.turn IS NOT NULL,
            coalesce(l.priority, 0::smallint)
        FROM saga.start s LEFT JOIN LATERAL (SELECT * FROM saga.live l WHERE l.run = s.run LIMIT 1) l ON true
        WHERE s.run = ANY($1)";
    let mut found = HashMap::new();
    for row in connection.rows(sqlx::query(text).bind(wanted)).await? {
        let run: Uuid = row.try_get(0).map_err(failed)?;
        let loaded = Loaded {
            run: RunId(run),
            definition: decode::name(row.try_get(1).map_err(failed)?)?,
            version: decode::number(row.try_get::<i32, _>(2).map_err(failed)?)?,
            fingerprint: Fingerprint(row.try_get(3).map_err(failed)?),
            saga: row.try_get::<&str, _>(4).map_err(failed)?.into(),
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

/// The mail of some runs that no commit has consumed, oldest first.
pub(super) async fn unread(connection: &mut Lent, runs: &[Uuid]) -> Result<HashMap<RunId, Vec<Mail>>> {
    let text =
        "SELECT run, id, body, format FROM saga.mail WHERE run = ANY($1) AND consumed IS NULL ORDER BY id";
    let mut mail: HashMap<RunId, Vec<Mail>> = HashMap::new();
    for row in connection.rows(sqlx::query(text).bind(runs.to_vec())).await? {
        let one = mail_row(&row, 0)?;
        mail.entry(one.run).or_default().push(one);
    }
    Ok(mail)
}

/// Columns run, id, body, format, from the one given.
pub(super) fn mail_row(row: &PgRow, first: usize) -> Result<Mail> {
    Ok(Mail {
        run: RunId(row.try_get(first).map_err(failed)?),
        id: MailId(row.try_get(first + 1).map_err(failed)?),
        body: row.try_get::<&str, _>(first + 2).map_err(failed)?.into(),
        format: row.try_get(first + 3).map_err(failed)?,
    })
}

/// Columns run, number, worker, at, body.
pub(super) fn journal_row(row: &PgRow) -> Result<JournalRow> {
    Ok(JournalRow {
        number: decode::number(row.try_get::<i32, _>(1).map_err(failed)?)?,
        worker: row.try_get::<Option<Uuid>, _>(2).map_err(failed)?.map(WorkerId),
        at: row.try_get(3).map_err(failed)?,
        body: row.try_get::<&str, _>(4).map_err(failed)?.into(),
    })
}

/// Rounded up to the microseconds that Postgres keeps: nothing is due early.
pub(super) fn rounded(time: Timestamp) -> Timestamp {
    use chrono::{SubsecRound, TimeDelta};
    let down = time.trunc_subsecs(6);
    let up = || down.checked_add_signed(TimeDelta::microseconds(1)).unwrap_or(down);
    if down == time { time } else { up() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_is_rounded_up_and_the_last_one_is_not_passed() {
        let time = |nanos| Timestamp::from_timestamp(1, nanos).unwrap();
        assert_eq!(rounded(time(1_000)), time(1_000));
        assert_eq!(rounded(time(1_001)), time(2_000));
        assert!(rounded(Timestamp::MAX_UTC) <= Timestamp::MAX_UTC);
    }
}
