//! Numbered, append-only migrations in a table of this crate's own, so that they never meet the user's.

use sqlx::postgres::PgPool;
use sqlx::{Connection, Executor};

use super::unavailable;
use crate::store::{StoreError, StoreErrorKind};

const MIGRATIONS: &[&str] = &[
    include_str!("../../../migrations/postgres/0001_keys.sql"),
    include_str!("../../../migrations/postgres/0002_checks.sql"),
    include_str!("../../../migrations/postgres/0003_claim.sql"),
];

pub(super) async fn migrate(pool: &PgPool) -> Result<(), StoreError> {
    // In a task of its own: a transaction that is dropped half-way would poison its pooled connection.
    let pool = pool.clone();
    let task = tokio::spawn(async move { run(&pool).await });
    task.await.map_err(|error| StoreError::unavailable("postgres", error))?
}

async fn run(pool: &PgPool) -> Result<(), StoreError> {
    let mut connection = pool.acquire().await.map_err(unavailable)?;
    if version(&mut connection).await? == Some(MIGRATIONS.len()) {
        return Ok(());
    }
    let mut tx = connection.begin().await.map_err(unavailable)?;
    // Held to the end of the transaction, and so also behind a transaction pooler.
    tx.execute("SELECT pg_advisory_xact_lock(7305834123458716)").await.map_err(unavailable)?;
    tx.execute("CREATE SCHEMA IF NOT EXISTS idempotency").await.map_err(unavailable)?;
    tx.execute(
        "CREATE TABLE IF NOT EXISTS idempotency.migrations \
         (version integer PRIMARY KEY, applied_at timestamptz NOT NULL DEFAULT now())",
    )
    .await
    .map_err(unavailable)?;
    let done = version(&mut tx).await?.unwrap_or(0);
    if done > MIGRATIONS.len() {
        return Err(StoreError::new(
            StoreErrorKind::Settings,
            format!(
                "the schema idempotency is at version {done}, this program knows {}: run the newer program",
                MIGRATIONS.len()
            ),
        ));
    }
    for (index, migration) in MIGRATIONS.iter().enumerate().skip(done) {
        sqlx::raw_sql(*migration).execute(&mut *tx).await.map_err(unavailable)?;
        let version = i32::try_from(index + 1).expect("few migrations");
        sqlx::query("INSERT INTO idempotency.migrations (version) VALUES ($1)")
            .bind(version)
            .execute(&mut *tx)
            .await
            .map_err(unavailable)?;
    }
    tx.commit().await.map_err(unavailable)
}

/// The schema's version; `None` if it was never created. Needs no right but to read.
async fn version(connection: &mut sqlx::PgConnection) -> Result<Option<usize>, StoreError> {
    let there: bool = sqlx::query_scalar("SELECT to_regclass('idempotency.migrations') IS NOT NULL")
        .fetch_one(&mut *connection)
        .await
        .map_err(unavailable)?;
    if !there {
        return Ok(None);
    }
    let version: i32 = sqlx::query_scalar("SELECT coalesce(max(version), 0) FROM idempotency.migrations")
        .fetch_one(&mut *connection)
        .await
        .map_err(unavailable)?;
    Ok(usize::try_from(version).ok())
}
