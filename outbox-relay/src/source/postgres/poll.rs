//! Reading ticks.

use super::cursor::{Cursor, Marks, Snapshot};
use super::input::millis;
use super::session::{answered, without_limit};
use super::stream::Stream;
use super::{PostgresSource, copy};
use crate::error::{Error, Result};
use crate::event::{Event, Fields, Page};
use crate::source::{Defects, PageSize, Resumed, stored_tail};
use sqlx::postgres::PgRow;
use sqlx::{AssertSqlSafe, PgConnection, Postgres, Row, Transaction};
use std::collections::HashSet;
use std::sync::atomic::Ordering;
use uuid::Uuid;

/// Where reading stands, ahead of what is acknowledged.
#[derive(Debug)]
pub(super) struct Poll {
    pub(super) cursor: Cursor,
    size: PageSize,
    reader: copy::Reader,
    pub(super) stream: Stream,
    /// Events that were streamed, but lie beyond the cursor: polling meets them again.
    pub(super) skip: HashSet<Uuid>,
    /// Whether the open tick's snapshot was taken by this reading; the stored one's was not.
    fresh: bool,
    /// Whether a tick with such a snapshot has been read to its end.
    caught_up: bool,
}

/// A page of fewer events says that polling has caught up.
pub(super) const SMALL: usize = 64;

impl Default for Poll {
    fn default() -> Self {
        Self {
            cursor: Cursor::start(),
            size: PageSize::default(),
            reader: copy::Reader::default(),
            stream: Stream::off(),
            skip: HashSet::new(),
            fresh: false,
            caught_up: false,
        }
    }
}

/// Goes back to the stored cursor, or to the beginning if it is another cluster's.
pub(super) async fn resume(source: &PostgresSource, epoch: i64) -> Result<Resumed> {
    let mut poll = source.poll.lock().await;
    // It has read ahead of what is acknowledged.
    *source.slot_session.lock().await = None;
    let (mut tx, row) = answered(stored(source, epoch)).await?;
    let tail = stored_tail(row.try_get("tail")?)?;
    let (stored, here): (Option<String>, String) = (row.try_get("system_identifier")?, row.try_get("here")?);
    let is_here = stored.as_ref() == Some(&here);
    if stored.is_some() && !is_here && source.statements().await?.polls {
        tracing::warn!(
            outbox = source.table.name,
            "this database was restored into another cluster: reading the whole outbox again"
        );
        restamp(source, &mut tx).await?;
    }
    let (parked, dropped) = answered(async {
        if !is_here {
            begin_anew(source, &mut tx, &here).await?;
        }
        tx.commit().await?;
        Ok((super::settle::parked_keys(source).await?, super::settle::dropped(source).await?))
    })
    .await?;
    let cursor = if is_here { stored_cursor(&row)? } else { Cursor::start() };
    *poll = Poll { cursor, ..Poll::default() };
    source.streams.store(false, Ordering::Relaxed);
    source.acknowledged_lsn.store(0, Ordering::Relaxed);
    *source.marks.lock().expect("never poisoned") = Marks::default();
    source.passed.lock().expect("never poisoned").clear();
    Ok(Resumed { tail, parked, dropped })
}

/// What was acknowledged last, and the transaction in which nobody else changes it.
async fn stored(source: &PostgresSource, epoch: i64) -> Result<(Transaction<'static, Postgres>, PgRow)> {
    let mut tx = source.begin().await?;
    let row = sqlx::query(
        "SELECT base::text, tick::text, tick_seq, tail::text AS tail, system_identifier, \
             (SELECT system_identifier::text FROM pg_control_system()) AS here \
         FROM outbox.relay WHERE outbox = $1 AND epoch = $2 FOR UPDATE",
    )
    .persistent(source.named())
    .bind(&source.table.name)
    .bind(epoch)
    .fetch_optional(&mut *tx)
    .await?
    .ok_or_else(|| source.fenced(epoch))?;
    Ok((tx, row))
}

/// Takes as long as it does.
async fn restamp(source: &PostgresSource, tx: &mut PgConnection) -> Result<()> {
    without_limit(tx).await?;
    let restamp = source.statements().await?.restamp.clone();
    sqlx::query(AssertSqlSafe(restamp)).persistent(source.named()).execute(tx).await?;
    Ok(())
}

async fn begin_anew(source: &PostgresSource, tx: &mut PgConnection, here: &str) -> Result<()> {
    sqlx::query(
        "UPDATE outbox.relay SET system_identifier = $2, base = NULL, tick = NULL, tick_seq = 0 WHERE outbox = $1",
    )
    .persistent(source.named())
    .bind(&source.table.name)
    .bind(here)
    .execute(tx)
    .await?;
    Ok(())
}

fn stored_cursor(row: &PgRow) -> Result<Cursor> {
    let snapshot = |text: String| text.parse::<Snapshot>().map_err(corrupt);
    let base = row.try_get::<Option<String>, _>("base")?.map(snapshot).transpose()?;
    let tick = row.try_get::<Option<String>, _>("tick")?.map(snapshot).transpose()?;
    let seq = row.try_get("tick_seq")?;
    Ok(Cursor { base: base.unwrap_or(Snapshot::nothing()), tick: tick.map(|tick| (tick, seq)) })
}

/// The next page: of the open tick, or the whole of a new one if it is small.
pub(super) async fn read_locked(source: &PostgresSource, poll: &mut Poll, limit: usize) -> Result<Page> {
    let statements = source.statements().await?;
    let limit = poll.size.rows(limit);
    let mut whole = false;
    loop {
        let base = poll.cursor.base.clone();
        let mut events = if let Some((end, after)) = poll.cursor.tick.clone() {
            let copy = statements.page(&base, &end, after, limit);
            let events = poll.reader.read(source, &copy, limit).await?;
            match events.last() {
                Some(last) if events.len() == limit => poll.cursor.end_page(last.seq),
                _ => {
                    poll.cursor.end_tick(end);
                    whole |= poll.fresh;
                }
            }
            events
        } else {
            let (end, events) = read_tick(source, &statements.tick, &base, limit + 1).await?;
            if events.len() > limit {
                poll.cursor.tick = Some((end, 0));
                poll.fresh = true;
                continue;
            }
            poll.cursor.end_tick(end);
            whole = true;
            if events.is_empty() {
                let caught_up = !std::mem::replace(&mut poll.caught_up, true);
                return Ok(Page { caught_up, ..Page::default() });
            }
            events
        };
        if !events.is_empty() {
            poll.size.learn(&events);
            if !poll.skip.is_empty() {
                events.retain(|event| !poll.skip.remove(&event.id));
            }
            let mark = source.marks.lock().expect("never poisoned").set(poll.cursor.clone(), None);
            let caught_up = whole && !std::mem::replace(&mut poll.caught_up, true);
            return Ok(Page { events, mark: Some(mark), beyond: 0, caught_up });
        }
    }
}

/// What became visible between `base` and now, and the snapshot that is now. At most `limit` events,
/// in order only if they are fewer.
///
/// The statement reads by the very snapshot that it answers: nothing can become visible in between.
async fn read_tick(
    source: &PostgresSource,
    sql: &str,
    base: &Snapshot,
    limit: usize,
) -> Result<(Snapshot, Vec<Event>)> {
    let in_progress: Vec<String> = base.in_progress.iter().map(u64::to_string).collect();
    let rows = sqlx::query(AssertSqlSafe(sql.to_owned()))
        .persistent(source.named())
        .bind(base.to_string())
        .bind(in_progress)
        .bind(i64::try_from(limit).unwrap_or(i64::MAX))
        .fetch_all(&mut *source.session().await?)
        .await?;
    let mut end = None;
    let mut events = Vec::with_capacity(rows.len());
    for row in &rows {
        if let Some(text) = row.try_get::<Option<String>, _>("snapshot")? {
            end = Some(text.parse::<Snapshot>().map_err(corrupt)?);
        }
        if row.try_get::<Option<i64>, _>("seq")?.is_some() {
            events.push(event(row)?);
        }
    }
    Ok((end.ok_or_else(|| corrupt("no snapshot was answered".into()))?, events))
}

/// One row of a [select list](super::table::Statements).
pub(super) fn event(row: &PgRow) -> Result<Event> {
    let mut defects = Defects::default();
    let fields = Fields {
        id: match row.try_get::<Option<Uuid>, _>("id") {
            Ok(Some(id)) => id,
            Ok(None) => defects.id(None),
            Err(_) => defects.id(row.try_get::<Option<&str>, _>("id")?.map(str::as_bytes)),
        },
        seq: row.try_get("seq")?,
        aggregate_type: defects.name("aggregatetype", row.try_get("aggregatetype")?),
        aggregate_id: defects.name("aggregateid", row.try_get("aggregateid")?),
        event_type: defects.name("type", row.try_get("type")?),
        payload: row.try_get("payload")?,
        trace: row.try_get("trace")?,
        key_seq: row.try_get("key_seq")?,
        // As it comes: no other type holds all of Postgres' times.
        created_at: row.try_get_unchecked::<Option<i64>, _>("created_at")?.map_or(0, millis),
        ..Fields::default()
    };
    let headers = defects.headers(row.try_get("headers")?);
    Ok(Event::from(Fields { headers: &headers, defect: defects.first().as_deref(), ..fields }))
}

fn corrupt(problem: String) -> Error {
    Error::Corrupt { what: "the relay's cursor".into(), problem }
}
