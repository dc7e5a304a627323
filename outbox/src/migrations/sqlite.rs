//! Applying migrations to SQLite, under its write lock.

use super::{Migration, SQLITE};
use crate::error::Result;
use sqlx::{Connection as _, SqliteConnection};

pub(crate) async fn migrate(connection: &mut SqliteConnection) -> Result<Vec<&'static Migration>> {
    let mut tx = connection.begin_with("BEGIN IMMEDIATE").await?;
    sqlx::query(
        "CREATE TABLE IF NOT EXISTS outbox_migration (\
             number INTEGER PRIMARY KEY, name TEXT NOT NULL, \
             applied_at TEXT NOT NULL DEFAULT (datetime('now')))",
    )
    .execute(&mut *tx)
    .await?;
    let done = migrated(&mut tx).await?;
    let mut applied = Vec::new();
    for migration in SQLITE.iter().filter(|migration| migration.number > done) {
        sqlx::raw_sql(migration.sql).execute(&mut *tx).await?;
        sqlx::query("INSERT INTO outbox_migration (number, name) VALUES (?1, ?2)")
            .bind(migration.number)
            .bind(migration.name)
            .execute(&mut *tx)
            .await?;
        applied.push(migration);
    }
    tx.commit().await?;
    Ok(applied)
}

pub(crate) async fn migrated(connection: &mut SqliteConnection) -> Result<i32> {
    let exists: i64 = sqlx::query_scalar(
        "SELECT count(*) FROM sqlite_master WHERE type = 'table' AND name = 'outbox_migration'",
    )
    .fetch_one(&mut *connection)
    .await?;
    if exists == 0 {
        return Ok(0);
    }
    let last = sqlx::query_scalar("SELECT coalesce(max(number), 0) FROM outbox_migration");
    Ok(last.fetch_one(connection).await?)
}
