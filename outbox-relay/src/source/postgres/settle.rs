//! Making durable what became of events: acknowledged, set aside, swept.

use super::PostgresSource;
use super::cursor::Reached;
use super::poll::event;
use crate::error::Result;
use crate::event::{Event, Key, Park};
use crate::source::{Ack, ParkedNow};
use sqlx::{AssertSqlSafe, PgConnection, Row};
use std::collections::{BTreeMap, HashSet};
use std::sync::atomic::Ordering;
use std::time::Instant;

/// Rows removed by one statement.
const SWEEP_ROWS: u64 = 5_000;

/// One statement, unless something is set aside or was released.
pub(super) async fn acknowledge(source: &PostgresSource, epoch: i64, ack: &Ack) -> Result<()> {
    if ack.parks.is_empty() && ack.parks_again.is_empty() && ack.released.is_empty() {
        let mut session = source.session().await?;
        let lsn = move_cursor(source, &mut session, epoch, ack).await?;
        session.end().await?;
        source.acknowledged_lsn.fetch_max(lsn, Ordering::Relaxed);
        return Ok(());
    }
    let mut tx = source.begin().await?;
    if !source.statements().await?.polls {
        // The slot may remember the acknowledgement over a crash of Postgres that forgets an event that was
        // set aside; nothing else has it.
        sqlx::query("SET LOCAL synchronous_commit = on").persistent(source.named()).execute(&mut *tx).await?;
    }
    let lsn = move_cursor(source, &mut tx, epoch, ack).await?;
    park(source, &mut tx, &ack.parks).await?;
    park_again(source, &mut tx, &ack.parks_again).await?;
    if !ack.released.is_empty() {
        sqlx::query("DELETE FROM outbox.parked WHERE outbox = $1 AND seq = ANY ($2)")
            .persistent(source.named())
            .bind(&source.table.name)
            .bind(&ack.released)
            .execute(&mut *tx)
            .await?;
    }
    tx.commit().await?;
    source.acknowledged_lsn.fetch_max(lsn, Ordering::Relaxed);
    Ok(())
}

fn column<'a, T>(parks: &'a [Park], of: impl Fn(&'a Park) -> T) -> Vec<T> {
    parks.iter().map(of).collect()
}

/// Takes the release back from rows that failed again, and from all of their keys.
async fn park_again(source: &PostgresSource, tx: &mut PgConnection, parks: &[Park]) -> Result<()> {
    if parks.is_empty() {
        return Ok(());
    }
    sqlx::query(
        "WITH again AS (SELECT * FROM unnest($2::bigint[], $3::text[], $4::text[], $5::text[]) \
             AS a (seq, aggregatetype, aggregateid, reason)) \
         UPDATE outbox.parked AS p SET released = false, \
             reason = coalesce((SELECT reason FROM again WHERE again.seq = p.seq), p.reason) \
         WHERE outbox = $1 AND dropped IS NULL \
             AND (aggregatetype, aggregateid) IN (SELECT aggregatetype, aggregateid FROM again)",
    )
    .persistent(source.named())
    .bind(&source.table.name)
    .bind(column(parks, |park| park.seq))
    .bind(column(parks, |park| park.key.aggregate_type.as_str()))
    .bind(column(parks, |park| park.key.aggregate_id.as_str()))
    .bind(column(parks, |park| park.reason.as_str()))
    .execute(tx)
    .await?;
    Ok(())
}

/// Sets events aside; whole ones, if their rows cannot be found again.
async fn park(source: &PostgresSource, tx: &mut PgConnection, parks: &[Park]) -> Result<()> {
    if parks.is_empty() {
        return Ok(());
    }
    let whole = !source.statements().await?.polls;
    sqlx::query(
        "INSERT INTO outbox.parked (outbox, seq, id, aggregatetype, aggregateid, reason, \
             type, payload, headers, tracingspancontext, key_seq, created_at) \
         SELECT $1, seq, id, aggregatetype, aggregateid, reason, type, payload, headers::jsonb, trace, key_seq, \
             to_timestamp(created_at / 1000.0) \
         FROM unnest($2::bigint[], $3::uuid[], $4::text[], $5::text[], $6::text[], $7::text[], $8::bytea[], \
                 $9::text[], $10::text[], $11::bigint[], $12::bigint[]) \
             AS p (seq, id, aggregatetype, aggregateid, reason, type, payload, headers, trace, key_seq, created_at) \
         ON CONFLICT (outbox, seq) DO NOTHING",
    )
    .persistent(source.named())
    .bind(&source.table.name)
    .bind(column(parks, |park| park.seq))
    .bind(column(parks, |park| park.id))
    .bind(column(parks, |park| park.key.aggregate_type.as_str()))
    .bind(column(parks, |park| park.key.aggregate_id.as_str()))
    .bind(column(parks, |park| park.reason.as_str()))
    .bind(column(parks, |park| whole_event(park, whole).map(|event| event.event_type())))
    .bind(column(parks, |park| whole_event(park, whole).and_then(|event| event.payload())))
    .bind(column(parks, |park| whole_event(park, whole).map(headers)))
    .bind(column(parks, |park| whole_event(park, whole).and_then(|event| event.trace())))
    .bind(column(parks, |park| whole_event(park, whole).and_then(|event| event.key_seq())))
    .bind(column(parks, |park| whole_event(park, whole).map(|event| event.created_at)))
    .execute(tx)
    .await?;
    Ok(())
}

fn whole_event(park: &Park, whole: bool) -> Option<&Event> {
    park.event.as_ref().filter(|_| whole)
}

/// As JSON, in which a later header of a name replaces an earlier one.
fn headers(event: &Event) -> String {
    let object: BTreeMap<&str, &str> = event.headers().collect();
    serde_json::to_string(&object).expect("a map of text is always JSON")
}

/// Answers up to where the log is not needed any more, once this is committed.
async fn move_cursor(
    source: &PostgresSource,
    connection: &mut PgConnection,
    epoch: i64,
    ack: &Ack,
) -> Result<u64> {
    let reached = ack.mark.and_then(|mark| source.marks.lock().expect("never poisoned").reached(mark));
    let tail = serde_json::to_string(&ack.tail).expect("a map of numbers is always JSON");
    let moved = match &reached {
        Some(Reached { lsn: Some(lsn), cursor }) if !source.statements().await?.polls => sqlx::query(
            "UPDATE outbox.relay SET tail = $3::jsonb, acknowledged_at = clock_timestamp(), \
                 lsn = greatest(lsn, '0/0'::pg_lsn + $4::bigint), \
                 base = CASE WHEN base IS NOT NULL THEN $5::pg_snapshot END \
             WHERE outbox = $1 AND epoch = $2",
        )
        .persistent(source.named())
        .bind(&source.table.name)
        .bind(epoch)
        .bind(tail)
        .bind(i64::try_from(*lsn).unwrap_or(i64::MAX))
        .bind(cursor.base.to_string()),
        Some(Reached { cursor, .. }) => sqlx::query(
            "UPDATE outbox.relay SET tail = $3::jsonb, acknowledged_at = clock_timestamp(), \
                 base = $4::pg_snapshot, tick = $5::pg_snapshot, tick_seq = $6 \
             WHERE outbox = $1 AND epoch = $2",
        )
        .persistent(source.named())
        .bind(&source.table.name)
        .bind(epoch)
        .bind(tail)
        .bind(cursor.base.to_string())
        .bind(cursor.tick.as_ref().map(|(tick, _)| tick.to_string()))
        .bind(cursor.tick.as_ref().map_or(0, |(_, seq)| *seq)),
        None => sqlx::query("UPDATE outbox.relay SET tail = $3::jsonb WHERE outbox = $1 AND epoch = $2")
            .persistent(source.named())
            .bind(&source.table.name)
            .bind(epoch)
            .bind(tail),
    };
    let moved = moved.execute(connection).await?;
    if moved.rows_affected() == 0 {
        return Err(source.fenced(epoch));
    }
    Ok(reached.and_then(|reached| reached.lsn).unwrap_or_default())
}

/// What was done so long ago as rows are kept, where rows do not say when they were written: as far as this
/// relay has seen it. A restart keeps rows for longer, never shorter.
fn old_base(source: &PostgresSource, base: String) -> Option<String> {
    const SAMPLES: u32 = 20;
    let now = Instant::now();
    let mut passed = source.passed.lock().expect("never poisoned");
    if passed.back().is_none_or(|(at, _)| now - *at >= source.keep / SAMPLES) {
        passed.push_back((now, base));
    }
    while passed.get(1).is_some_and(|(at, _)| now - *at >= source.keep) {
        passed.pop_front();
    }
    passed.front().filter(|(at, _)| now - *at >= source.keep).map(|(_, base)| base.clone())
}

/// Removes done rows, unless that would only leave dead ones behind. See [`super::horizon`].
pub(super) async fn sweep(source: &PostgresSource, epoch: i64) -> Result<u64> {
    let statements = source.statements().await?;
    if !statements.polls {
        forget_dropped(source, DROPPED_AND_PASSED).await?;
        return Ok(0);
    }
    let room = super::horizon::room(source).await?.min(SWEEP_ROWS);
    let (base, any_dropped): (Option<String>, bool) = sqlx::query_as(
        "SELECT base::text, EXISTS (SELECT FROM outbox.parked WHERE outbox = $1 AND dropped IS NOT NULL) \
         FROM outbox.relay WHERE outbox = $1 AND epoch = $2",
    )
    .persistent(source.named())
    .bind(&source.table.name)
    .bind(epoch)
    .fetch_optional(&mut *source.session().await?)
    .await?
    .ok_or_else(|| source.fenced(epoch))?;
    let Some(base) = base else { return Ok(0) };
    let base = if statements.ages || source.keep.is_zero() { Some(base) } else { old_base(source, base) };
    let (Some(base), 1..) = (base, room) else { return Ok(0) };
    let mut session = source.session().await?;
    let swept = sqlx::query(AssertSqlSafe(statements.sweep.clone()))
        .persistent(source.named())
        .bind(base)
        .bind(&source.table.name)
        .bind(i64::try_from(room).unwrap_or(i64::MAX))
        .bind(source.keep.as_secs_f64())
        .execute(&mut *session)
        .await?
        .rows_affected();
    session.end().await?;
    source.horizon.lock().expect("never poisoned").removed(swept);
    if any_dropped {
        forget_dropped(source, &statements.dropped_and_gone).await?;
    }
    Ok(swept)
}

/// `$1` outbox: dropped events that no slot sends again, because the acknowledgements have passed them.
const DROPPED_AND_PASSED: &str = "DELETE FROM outbox.parked AS p USING outbox.relay AS r \
    WHERE p.outbox = $1 AND r.outbox = $1 AND p.dropped <= r.lsn";

/// Forgets dropped events that cannot be read again.
async fn forget_dropped(source: &PostgresSource, sql: &str) -> Result<()> {
    let mut session = source.session().await?;
    let forget =
        sqlx::query(AssertSqlSafe(sql.to_owned())).persistent(source.named()).bind(&source.table.name);
    forget.execute(&mut *session).await?;
    session.end().await
}

pub(super) async fn dropped(source: &PostgresSource) -> Result<HashSet<i64>> {
    let dropped =
        sqlx::query_scalar("SELECT seq FROM outbox.parked WHERE outbox = $1 AND dropped IS NOT NULL")
            .persistent(source.named());
    let mut session = source.session().await?;
    Ok(dropped.bind(&source.table.name).fetch_all(&mut *session).await?.into_iter().collect())
}

pub(super) async fn parked_keys(source: &PostgresSource) -> Result<HashSet<Key>> {
    let keys: Vec<(String, String)> = sqlx::query_as(
        "SELECT DISTINCT aggregatetype, aggregateid FROM outbox.parked WHERE outbox = $1 AND dropped IS NULL",
    )
    .persistent(source.named())
    .bind(&source.table.name)
    .fetch_all(&mut *source.session().await?)
    .await?;
    Ok(keys.into_iter().map(|(aggregate_type, aggregate_id)| Key { aggregate_type, aggregate_id }).collect())
}

pub(super) async fn parked(source: &PostgresSource, limit: usize) -> Result<ParkedNow> {
    let keys = parked_keys(source).await?;
    // After the keys: a key that is not among them because it was dropped just now is found here.
    let dropped = dropped(source).await?;
    if keys.is_empty() {
        return Ok(ParkedNow { dropped, ..ParkedNow::default() });
    }
    // All of the key, also what was set aside after the operator's decision.
    let mut session = source.session().await?;
    let key = sqlx::query(
        "UPDATE outbox.parked AS p SET released = true FROM (\
             SELECT aggregatetype, aggregateid FROM outbox.parked \
             WHERE outbox = $1 AND released ORDER BY seq LIMIT 1) AS r \
         WHERE p.outbox = $1 AND p.aggregatetype = r.aggregatetype AND p.aggregateid = r.aggregateid \
             AND p.dropped IS NULL \
         RETURNING p.aggregatetype, p.aggregateid",
    )
    .persistent(source.named())
    .bind(&source.table.name)
    .fetch_all(&mut *session)
    .await?;
    let Some(key) = key.first() else { return Ok(ParkedNow { keys, dropped, ..ParkedNow::default() }) };
    let rows = sqlx::query(AssertSqlSafe(source.statements().await?.parked.clone()))
        .persistent(source.named())
        .bind(&source.table.name)
        .bind(key.try_get::<String, _>(0)?)
        .bind(key.try_get::<String, _>(1)?)
        .bind(i64::try_from(limit).unwrap_or(i64::MAX))
        .fetch_all(&mut *session)
        .await?;
    session.end().await?;
    let released = rows.iter().map(event).collect::<Result<Vec<_>>>()?;
    Ok(ParkedNow { complete: released.len() < limit, keys, released, dropped })
}
