//! Applying migrations to Postgres, under a lock that ends with the transaction. Nothing is left in the
//! session, not even a named statement, for a pooler may lend it to others.

use super::{Migration, POSTGRES};
use crate::error::Result;
use sqlx::{Connection as _, PgConnection};

/// Any number will do, as long as every version of this crate uses the same.
const LOCK: i64 = 0x6f75_7462_6f78;

pub(crate) async fn migrate(connection: &mut PgConnection) -> Result<Vec<&'static Migration>> {
    let mut tx = connection.begin().await?;
    sqlx::query("SELECT pg_advisory_xact_lock($1)").persistent(false).bind(LOCK).execute(&mut *tx).await?;
    let done = migrated(&mut tx).await?;
    if done == 0 {
        sqlx::raw_sql(
            "CREATE SCHEMA IF NOT EXISTS outbox; \
             CREATE TABLE IF NOT EXISTS outbox.migration (\
                 number integer PRIMARY KEY, name text NOT NULL, \
                 applied_at timestamptz NOT NULL DEFAULT clock_timestamp())",
        )
        .execute(&mut *tx)
        .await?;
    }
    let mut applied = Vec::new();
    for migration in POSTGRES.iter().filter(|migration| migration.number > done) {
        sqlx::raw_sql(migration.sql).execute(&mut *tx).await?;
        sqlx::query("INSERT INTO outbox.migration (number, name) VALUES ($1, $2)")
            .persistent(false)
            .bind(migration.number)
            .bind(migration.name)
            .execute(&mut *tx)
            .await?;
        applied.push(migration);
    }
    tx.commit().await?;
    Ok(applied)
}

pub(crate) async fn migrated(connection: &mut PgConnection) -> Result<i32> {
    let exists: bool = sqlx::query_scalar("SELECT to_regclass('outbox.migration') IS NOT NULL")
        .persistent(false)
        .fetch_one(&mut *connection)
        .await?;
    if !exists {
        return Ok(0);
    }
    let last = sqlx::query_scalar("SELECT coalesce(max(number), 0) FROM outbox.migration");
    Ok(last.persistent(false).fetch_one(connection).await?)
}
