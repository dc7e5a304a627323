//! Making durable what became of events: acknowledged, set aside, swept.

use super::PostgresSource;
use super::cursor::Reached;
use super::poll::event;
use crate::error::Result;
use crate::event::Key;
use crate::source::{Ack, ParkedNow};
use sqlx::{AssertSqlSafe, PgConnection, Row};
use std::collections::HashSet;
use std::sync::atomic::Ordering;

/// Rows removed by one statement.
const SWEEP_ROWS: i64 = 5_000;

/// One statement, unless something is set aside or was released.
pub(super) async fn acknowledge(source: &PostgresSource, epoch: i64, ack: &Ack) -> Result<()> {
    if ack.parks.is_empty() && ack.released.is_empty() {
        let mut connection = source.pool.acquire().await?;
        return move_cursor(source, &mut connection, epoch, ack).await;
    }
    let mut tx = source.pool.begin().await?;
    move_cursor(source, &mut tx, epoch, ack).await?;
    let parks = &ack.parks;
    sqlx::query(
        "INSERT INTO outbox.parked (outbox, seq, id, aggregatetype, aggregateid, reason) \
         SELECT $1, p.* FROM unnest($2::bigint[], $3::uuid[], $4::text[], $5::text[], $6::text[]) AS p \
         ON CONFLICT (outbox, seq) DO UPDATE SET released = false, reason = excluded.reason",
    )
    .bind(&source.table.name)
    .bind(parks.iter().map(|park| park.seq).collect::<Vec<_>>())
    .bind(parks.iter().map(|park| park.id).collect::<Vec<_>>())
    .bind(parks.iter().map(|park| park.key.aggregate_type.as_str()).collect::<Vec<_>>())
    .bind(parks.iter().map(|park| park.key.aggregate_id.as_str()).collect::<Vec<_>>())
    .bind(parks.iter().map(|park| park.reason.as_str()).collect::<Vec<_>>())
    .execute(&mut *tx)
    .await?;
    sqlx::query("DELETE FROM outbox.parked WHERE outbox = $1 AND seq = ANY ($2)")
        .bind(&source.table.name)
        .bind(&ack.released)
        .execute(&mut *tx)
        .await?;
    tx.commit().await?;
    Ok(())
}

async fn move_cursor(
    source: &PostgresSource,
    connection: &mut PgConnection,
    epoch: i64,
    ack: &Ack,
) -> Result<()> {
    let reached = ack.mark.and_then(|mark| source.marks.lock().expect("never poisoned").reached(mark));
    let tail = serde_json::to_string(&ack.tail).expect("a map of numbers is always JSON");
    let moved = match &reached {
        Some(Reached { cursor, .. }) => sqlx::query(
            "UPDATE outbox.relay SET tail = $3::jsonb, acknowledged_at = clock_timestamp(), \
                 base = $4::pg_snapshot, tick = $5::pg_snapshot, tick_seq = $6 \
             WHERE outbox = $1 AND epoch = $2",
        )
        .bind(&source.table.name)
        .bind(epoch)
        .bind(tail)
        .bind(cursor.base.to_string())
        .bind(cursor.tick.as_ref().map(|(tick, _)| tick.to_string()))
        .bind(cursor.tick.as_ref().map_or(0, |(_, seq)| *seq)),
        None => sqlx::query("UPDATE outbox.relay SET tail = $3::jsonb WHERE outbox = $1 AND epoch = $2")
            .bind(&source.table.name)
            .bind(epoch)
            .bind(tail),
    };
    let moved = moved.execute(connection).await?;
    if moved.rows_affected() == 0 {
        return Err(source.fenced(epoch));
    }
    if let Some(lsn) = reached.and_then(|reached| reached.lsn) {
        // Before the transaction commits; if it does not, the table still has what the log loses.
        source.acknowledged_lsn.fetch_max(lsn, Ordering::Relaxed);
    }
    Ok(())
}

/// Removes done rows, unless that would only leave dead ones behind. See [`super::horizon`].
pub(super) async fn sweep(source: &PostgresSource, epoch: i64) -> Result<u64> {
    if !super::horizon::may_remove(source).await? {
        return Ok(0);
    }
    let base: Option<Option<String>> =
        sqlx::query_scalar("SELECT base::text FROM outbox.relay WHERE outbox = $1 AND epoch = $2")
            .bind(&source.table.name)
            .bind(epoch)
            .fetch_optional(&source.pool)
            .await?;
    let Some(base) = base.ok_or_else(|| source.fenced(epoch))? else { return Ok(0) };
    let swept = sqlx::query(AssertSqlSafe(source.statements().await?.sweep.clone()))
        .bind(base)
        .bind(&source.table.name)
        .bind(SWEEP_ROWS)
        .bind(source.keep.as_secs_f64())
        .execute(&source.pool)
        .await?;
    Ok(swept.rows_affected())
}

pub(super) async fn parked_keys(source: &PostgresSource) -> Result<HashSet<Key>> {
    let keys: Vec<(String, String)> =
        sqlx::query_as("SELECT DISTINCT aggregatetype, aggregateid FROM outbox.parked WHERE outbox = $1")
            .bind(&source.table.name)
            .fetch_all(&source.pool)
            .await?;
    Ok(keys.into_iter().map(|(aggregate_type, aggregate_id)| Key { aggregate_type, aggregate_id }).collect())
}

pub(super) async fn parked(source: &PostgresSource, limit: usize) -> Result<ParkedNow> {
    let keys = parked_keys(source).await?;
    if keys.is_empty() {
        return Ok(ParkedNow::default());
    }
    // All of the key, also what was set aside after the operator's decision.
    let key = sqlx::query(
        "UPDATE outbox.parked AS p SET released = true FROM (\
             SELECT aggregatetype, aggregateid FROM outbox.parked \
             WHERE outbox = $1 AND released ORDER BY seq LIMIT 1) AS r \
         WHERE p.outbox = $1 AND p.aggregatetype = r.aggregatetype AND p.aggregateid = r.aggregateid \
         RETURNING p.aggregatetype, p.aggregateid",
    )
    .bind(&source.table.name)
    .fetch_all(&source.pool)
    .await?;
    let Some(key) = key.first() else { return Ok(ParkedNow { keys, ..ParkedNow::default() }) };
    let rows = sqlx::query(AssertSqlSafe(source.statements().await?.parked.clone()))
        .bind(&source.table.name)
        .bind(key.try_get::<String, _>(0)?)
        .bind(key.try_get::<String, _>(1)?)
        .bind(i64::try_from(limit).unwrap_or(i64::MAX))
        .fetch_all(&source.pool)
        .await?;
    let released = rows.iter().map(event).collect::<Result<Vec<_>>>()?;
    Ok(ParkedNow { complete: released.len() < limit, keys, released })
}
