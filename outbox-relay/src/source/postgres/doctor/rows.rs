//! The rows: how many wait, and how many are dead.

use crate::doctor::Finding;
use crate::error::Result;
use crate::source::postgres::PostgresSource;
use crate::source::postgres::cursor::Snapshot;
use sqlx::{AssertSqlSafe, Row};

/// Waiting rows that are counted; beyond that it says "more".
const COUNTED: i64 = 100_000;

pub(super) async fn dead(source: &PostgresSource) -> Result<Vec<Finding>> {
    let row = sqlx::query(
        "SELECT coalesce(pg_stat_get_dead_tuples(to_regclass($1)), 0) AS dead, current_setting('autovacuum') AS auto",
    )
    .persistent(source.named())
    .bind(&source.table.name)
    .fetch_one(&mut *source.session().await?)
    .await?;
    let (dead, auto): (i64, String) = (row.try_get("dead")?, row.try_get("auto")?);
    Ok(vec![if auto == "off" {
        Finding::problem("autovacuum is off", "turn it on: nothing else removes the dead rows of a queue")
    } else if dead > 500_000 {
        Finding::warning(
            format!("{dead} dead rows in {}", source.table.name),
            "vacuum it, and look for old transactions",
        )
    } else {
        Finding::fine(format!("{dead} dead rows in {}", source.table.name))
    }])
}

/// Committed events that no acknowledgement has passed, and how old the oldest is.
pub(super) async fn backlog(source: &PostgresSource, polls: bool) -> Result<Vec<Finding>> {
    if !polls {
        return Ok(Vec::new()); // What waits then is in the log; see the slot.
    }
    let cursor = sqlx::query("SELECT base::text, tick::text, tick_seq FROM outbox.relay WHERE outbox = $1")
        .persistent(source.named())
        .bind(&source.table.name)
        .fetch_optional(&mut *source.session().await?)
        .await?;
    let nothing = Snapshot::nothing().to_string();
    let (mut base, mut tick, mut seq) = (None, None, 0_i64);
    if let Some(row) = cursor {
        base = row.try_get::<Option<String>, _>("base")?;
        tick = row.try_get::<Option<String>, _>("tick")?;
        seq = row.try_get("tick_seq")?;
    }
    let waiting = source.statements().await?.waiting.clone();
    let row = sqlx::query(AssertSqlSafe(waiting))
        .persistent(source.named())
        .bind(base.unwrap_or_else(|| nothing.clone()))
        .bind(tick.unwrap_or(nothing))
        .bind(seq)
        .bind(COUNTED)
        .fetch_one(&mut *source.session().await?)
        .await?;
    let (waiting, oldest): (i64, Option<f64>) = (row.try_get("waiting")?, row.try_get("oldest")?);
    let age = oldest.map_or(String::new(), |seconds| format!(", the oldest written {seconds:.0} s ago"));
    let more = if waiting >= COUNTED { "more than " } else { "" };
    let found = format!("{more}{waiting} events wait to be published{age}");
    Ok(vec![if oldest.unwrap_or(0.0) > 60.0 {
        Finding::warning(
            found,
            "is a relay running, and does Kafka take what it sends? See /metrics: outbox_retried_total",
        )
    } else {
        Finding::fine(found)
    }])
}

/// Rows that their writers delete at once are gone before a relay that polls can see them.
pub(super) async fn vanish(source: &PostgresSource, polls: bool) -> Result<Vec<Finding>> {
    let row = sqlx::query(
        "SELECT n_tup_ins > 0 AND n_live_tup = 0 AND n_tup_del >= n_tup_ins \
             AND NOT EXISTS (SELECT FROM outbox.relay WHERE outbox = $1 AND acknowledged_at IS NOT NULL) AS vanish \
         FROM pg_stat_all_tables WHERE relid = to_regclass($1)",
    )
    .persistent(source.named())
    .bind(&source.table.name)
    .fetch_optional(&mut *source.session().await?)
    .await?;
    let vanish = row.map(|row| row.try_get::<bool, _>("vanish")).transpose()?.unwrap_or(false);
    if !vanish || !polls {
        return Ok(Vec::new());
    }
    Ok(vec![Finding::problem(
        format!("every row ever written to {} was deleted, and no relay has done it", source.table.name),
        "a service that deletes its rows in the inserting transaction, as is usual with Debezium, leaves nothing to \
         poll: let it keep them, the relay removes them",
    )])
}

pub(super) async fn parked(source: &PostgresSource) -> Result<Vec<Finding>> {
    let parked: i64 =
        sqlx::query_scalar("SELECT count(*) FROM outbox.parked WHERE outbox = $1 AND dropped IS NULL")
            .persistent(source.named())
            .bind(&source.table.name)
            .fetch_one(&mut *source.session().await?)
            .await?;
    if parked == 0 {
        return Ok(Vec::new());
    }
    Ok(vec![Finding::warning(
        format!("{parked} events are parked"),
        "`outbox-relay parked list` says why; then `parked release` or `parked drop`",
    )])
}
