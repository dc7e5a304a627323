//! Operators' verbs.
//!
//! # A drop must hold
//!
//! A relay may read an event again that it had set aside: after a crash, if no mark behind it was durable. So
//! the row in `outbox.parked` is not deleted by a drop, but says so: by that the event is passed over when it is read
//! again, and it cannot be set aside anew. It goes when nothing can read the event any more: with the event's row,
//! which also lets `verify` know until then that it was not to be published; where rows are not removed, when
//! an acknowledgement has passed the place in the log at which the drop was decided, before which it was committed.
//! Only a replay, which is a later word of the operator's, takes a drop back.

use super::PostgresSource;
use super::cursor::Snapshot;
use super::session::without_limit;
use super::stream::{READ_TABLE, message_prefix};
use super::table::Statements;
use crate::error::{Error, Result};
use crate::event::{Key, Park};
use crate::history::Written;
use crate::route::Routes;
use crate::source::{Decision, ParkedEvent};
use sqlx::{AssertSqlSafe, Row};
use std::collections::BTreeSet;

pub(super) async fn list_parked(source: &PostgresSource, limit: usize) -> Result<Vec<ParkedEvent>> {
    let rows = sqlx::query(
        "SELECT seq, id, aggregatetype, aggregateid, reason, released FROM outbox.parked \
         WHERE outbox = $1 AND dropped IS NULL ORDER BY seq LIMIT $2",
    )
    .persistent(source.named())
    .bind(&source.table.name)
    .bind(i64::try_from(limit).unwrap_or(i64::MAX))
    .fetch_all(&mut *source.session().await?)
    .await?;
    rows.iter()
        .map(|row| {
            let key = Key {
                aggregate_type: row.try_get("aggregatetype")?,
                aggregate_id: row.try_get("aggregateid")?,
            };
            let park = Park {
                seq: row.try_get("seq")?,
                id: row.try_get("id")?,
                key,
                reason: row.try_get("reason")?,
                event: None,
            };
            Ok(ParkedEvent { park, released: row.try_get("released")? })
        })
        .collect()
}

/// With a full commit: a crash of Postgres must not forget what the operator was told.
pub(super) async fn decide(source: &PostgresSource, key: Option<&Key>, decision: Decision) -> Result<u64> {
    let sql = match decision {
        Decision::Release => {
            "UPDATE outbox.parked SET released = true WHERE outbox = $1 AND dropped IS NULL \
                 AND ($2 IS NULL OR (aggregatetype = $2 AND aggregateid = $3))"
        }
        Decision::Drop => {
            "UPDATE outbox.parked SET released = false, dropped = pg_current_wal_insert_lsn() \
             WHERE outbox = $1 AND dropped IS NULL \
                 AND ($2 IS NULL OR (aggregatetype = $2 AND aggregateid = $3))"
        }
    };
    let mut tx = source.begin().await?;
    sqlx::query("SET LOCAL synchronous_commit = on").persistent(source.named()).execute(&mut *tx).await?;
    let decided = sqlx::query(sql)
        .persistent(source.named())
        .bind(&source.table.name)
        .bind(key.map(|key| key.aggregate_type.as_str()))
        .bind(key.map(|key| key.aggregate_id.as_str()))
        .execute(&mut *tx)
        .await?;
    tx.commit().await?;
    Ok(decided.rows_affected())
}

/// The statements of a table that says what was published of it.
async fn polled<'a>(source: &'a PostgresSource, what: &str) -> Result<&'a Statements> {
    let statements = source.statements().await?;
    if statements.polls {
        return Ok(statements);
    }
    Err(Error::Config(format!(
        "{} cannot be {what}: it has no columns seq and xid, which say what was published; `outbox-relay migrate` \
         adds them",
        source.table.name
    )))
}

/// The rows that are there, and the topics they go to.
pub(super) async fn written(source: &PostgresSource, routes: &Routes) -> Result<(Vec<Written>, Vec<String>)> {
    let sql = polled(source, "verified").await?.written.clone();
    let nothing = Snapshot::nothing().to_string();
    let cursor = sqlx::query("SELECT base::text, tick::text, tick_seq FROM outbox.relay WHERE outbox = $1")
        .persistent(source.named())
        .bind(&source.table.name)
        .fetch_optional(&mut *source.session().await?)
        .await?;
    let (mut base, mut tick, mut seq) = (None, None, 0_i64);
    if let Some(row) = cursor {
        base = row.try_get::<Option<String>, _>("base")?;
        tick = row.try_get::<Option<String>, _>("tick")?;
        seq = row.try_get("tick_seq")?;
    }
    let mut tx = source.begin().await?;
    without_limit(&mut tx).await?;
    let rows = sqlx::query(AssertSqlSafe(sql))
        .persistent(source.named())
        .bind(base.unwrap_or_else(|| nothing.clone()))
        .bind(tick.unwrap_or(nothing))
        .bind(seq)
        .bind(&source.table.name)
        .fetch_all(&mut *tx)
        .await?;
    tx.commit().await?;
    let mut written = Vec::with_capacity(rows.len());
    let mut topics = BTreeSet::new();
    for row in rows {
        let aggregate_type: String = row.try_get("aggregatetype")?;
        topics.extend(routes.topic_of(&aggregate_type).ok());
        written.push(Written {
            id: row.try_get("id")?,
            key: row.try_get("aggregateid")?,
            place: row.try_get("seq")?,
            due: row.try_get("due")?,
        });
    }
    Ok((written, topics.into_iter().collect()))
}

pub(super) async fn topics(source: &PostgresSource, routes: &Routes) -> Result<BTreeSet<String>> {
    let kinds: Vec<Option<String>> =
        sqlx::query_scalar(AssertSqlSafe(source.statements().await?.kinds.clone()))
            .persistent(source.named())
            .fetch_all(&mut *source.session().await?)
            .await?;
    let mut topics: BTreeSet<String> =
        kinds.into_iter().flatten().filter_map(|kind| routes.topic_of(&kind).ok()).collect();
    let published: Vec<String> =
        sqlx::query_scalar("SELECT jsonb_object_keys(tail) FROM outbox.relay WHERE outbox = $1")
            .persistent(source.named())
            .bind(&source.table.name)
            .fetch_all(&mut *source.session().await?)
            .await?;
    topics.extend(published);
    Ok(topics)
}

/// Rows stamped with a new transaction are in no snapshot that the cursor knows: a later tick has them.
pub(super) async fn replay(source: &PostgresSource, first: i64, last: i64) -> Result<u64> {
    let sql = polled(source, "replayed").await?.replay.clone();
    let mut tx = source.begin().await?;
    without_limit(&mut tx).await?;
    let stamped = sqlx::query(AssertSqlSafe(sql))
        .persistent(source.named())
        .bind(first)
        .bind(last)
        .execute(&mut *tx)
        .await?;
    sqlx::query(
        "DELETE FROM outbox.parked WHERE outbox = $1 AND seq BETWEEN $2 AND $3 AND dropped IS NOT NULL",
    )
    .persistent(source.named())
    .bind(&source.table.name)
    .bind(first)
    .bind(last)
    .execute(&mut *tx)
    .await?;
    // A stream does not carry updates: a relay that streams is sent back to its table.
    sqlx::query("SELECT pg_logical_emit_message(true, $1, $2)::text")
        .persistent(source.named())
        .bind(message_prefix(&source.table.name))
        .bind(READ_TABLE)
        .execute(&mut *tx)
        .await?;
    tx.commit().await?;
    Ok(stamped.rows_affected())
}
