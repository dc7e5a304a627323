//! The lease's row.

use super::PostgresSource;
use crate::error::Result;
use crate::lease::LeaseRow;
use sqlx::Row;

pub(super) async fn make_row(source: &PostgresSource) -> Result<()> {
    let mut session = source.session().await?;
    sqlx::query("INSERT INTO outbox.relay (outbox) VALUES ($1) ON CONFLICT DO NOTHING")
        .persistent(source.named())
        .bind(&source.table.name)
        .execute(&mut *session)
        .await?;
    session.end().await
}

pub(super) async fn look(source: &PostgresSource) -> Result<LeaseRow> {
    let row = sqlx::query("SELECT epoch, renewals, holder FROM outbox.relay WHERE outbox = $1")
        .persistent(source.named())
        .bind(&source.table.name)
        .fetch_one(&mut *source.session().await?)
        .await?;
    Ok(LeaseRow {
        epoch: row.try_get("epoch")?,
        renewals: row.try_get("renewals")?,
        holder: row.try_get("holder")?,
        holder_is_dead: false,
    })
}

/// With a full commit: a crash of Postgres must not forget who holds the lease.
pub(super) async fn take(source: &PostgresSource, seen: &LeaseRow, holder: &str) -> Result<Option<i64>> {
    let mut tx = source.begin().await?;
    sqlx::query("SET LOCAL synchronous_commit = on").persistent(source.named()).execute(&mut *tx).await?;
    let epoch = sqlx::query_scalar(
        "UPDATE outbox.relay SET epoch = epoch + 1, renewals = 0, holder = $1 \
         WHERE outbox = $2 AND epoch = $3 AND renewals = $4 RETURNING epoch",
    )
    .persistent(source.named())
    .bind(holder)
    .bind(&source.table.name)
    .bind(seen.epoch)
    .bind(seen.renewals)
    .fetch_optional(&mut *tx)
    .await?;
    tx.commit().await?;
    Ok(epoch)
}

pub(super) async fn renew(source: &PostgresSource, epoch: i64) -> Result<()> {
    let mut session = source.session().await?;
    let renewed =
        sqlx::query("UPDATE outbox.relay SET renewals = renewals + 1 WHERE outbox = $1 AND epoch = $2")
            .persistent(source.named())
            .bind(&source.table.name)
            .bind(epoch)
            .execute(&mut *session)
            .await?;
    if renewed.rows_affected() == 1 { session.end().await } else { Err(source.fenced(epoch)) }
}

pub(super) async fn give_up(source: &PostgresSource, epoch: i64) -> Result<()> {
    let mut session = source.session().await?;
    sqlx::query("UPDATE outbox.relay SET holder = NULL WHERE outbox = $1 AND epoch = $2")
        .persistent(source.named())
        .bind(&source.table.name)
        .bind(epoch)
        .execute(&mut *session)
        .await?;
    session.end().await
}
