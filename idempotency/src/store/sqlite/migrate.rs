//! Numbered, append-only migrations in a table of this crate's own.

use sqlx::Connection;
use sqlx::sqlite::SqlitePool;

use super::unavailable;
use crate::store::{StoreError, StoreErrorKind};

const MIGRATIONS: &[&str] = &[include_str!("../../../migrations/sqlite/0001_keys.sql")];

pub(super) async fn migrate(pool: &SqlitePool) -> Result<(), StoreError> {
    // In a task of its own: a transaction that is dropped half-way would poison its pooled connection.
    let pool = pool.clone();
    let task = tokio::spawn(async move { run(&pool).await });
    task.await.map_err(|error| StoreError::unavailable("sqlite", error))?
}

async fn run(pool: &SqlitePool) -> Result<(), StoreError> {
    let mut connection = pool.acquire().await.map_err(unavailable)?;
    // IMMEDIATE: a lock taken on the first write would fail at once beside another process that migrates.
    let mut tx = connection.begin_with("BEGIN IMMEDIATE").await.map_err(unavailable)?;
    sqlx::query(
        "CREATE TABLE IF NOT EXISTS idempotency_migrations \
         (version INTEGER PRIMARY KEY, applied_at TEXT NOT NULL DEFAULT CURRENT_TIMESTAMP)",
    )
    .execute(&mut *tx)
    .await
    .map_err(unavailable)?;
    let done: i64 = sqlx::query_scalar("SELECT coalesce(max(version), 0) FROM idempotency_migrations")
        .fetch_one(&mut *tx)
        .await
        .map_err(unavailable)?;
    let done = usize::try_from(done).unwrap_or(0);
    if done > MIGRATIONS.len() {
        return Err(StoreError::new(
            StoreErrorKind::Settings,
            format!(
                "the tables idempotency_* are at version {done}, this program knows {}: run the newer program",
                MIGRATIONS.len()
            ),
        ));
    }
    for (index, migration) in MIGRATIONS.iter().enumerate().skip(done) {
        sqlx::raw_sql(*migration).execute(&mut *tx).await.map_err(unavailable)?;
        sqlx::query("INSERT INTO idempotency_migrations (version) VALUES (?1)")
            .bind(i64::try_from(index + 1).expect("few migrations"))
            .execute(&mut *tx)
            .await
            .map_err(unavailable)?;
    }
    tx.commit().await.map_err(unavailable)
}
