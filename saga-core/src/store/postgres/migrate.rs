//! Brings the schema up to date: numbered, append-only migrations, recorded in a table of our own.

use sqlx::postgres::{PgConnectOptions, PgConnection};
use sqlx::{ConnectOptions, Connection, Executor};

use super::error::{failed, unreachable};
use crate::store::error::{Error, Result};

/// Migration *n* stands at index *n* − 1.
pub(super) const MIGRATIONS: &[&str] = &[
    include_str!("../../../migrations/postgres/0001_init.sql"),
    include_str!("../../../migrations/postgres/0002_keys.sql"),
    include_str!("../../../migrations/postgres/0003_attributes_and_priorities.sql"),
    include_str!("../../../migrations/postgres/0004_mail_formats.sql"),
    include_str!("../../../migrations/postgres/0005_errors.sql"),
];

/// Any number will do, as long as it stays the same: whoever migrates holds it to the end of its
/// transaction, also behind a transaction pooler.
const LOCK: &str = "SELECT pg_advisory_xact_lock(5062715403918226471)";

const TABLE: &str = "CREATE TABLE IF NOT EXISTS saga.migration (version integer PRIMARY KEY, \
                     applied_at timestamptz NOT NULL DEFAULT now())";

/// Creates the schema, or brings it up to date.
pub(super) async fn migrate(options: &PgConnectOptions) -> Result<()> {
    let mut connection = options.connect().await.map_err(unreachable)?;
    if matches!(version(&mut connection).await?, Some(version) if version >= MIGRATIONS.len()) {
        return check(&mut connection).await;
    }
    let mut tx = connection.begin().await.map_err(failed)?;
    // Better to fail than to queue every reader behind a lock that is waited for.
    tx.execute("SET LOCAL lock_timeout = '10s'").await.map_err(failed)?;
    tx.execute(LOCK).await.map_err(failed)?;
    // Only if it is missing: `IF NOT EXISTS` wants the right to create schemas even then.
    let schema: bool = sqlx::query_scalar("SELECT to_regnamespace('saga') IS NOT NULL")
        .fetch_one(&mut *tx)
        .await
        .map_err(failed)?;
    if !schema {
        tx.execute("CREATE SCHEMA saga").await.map_err(failed)?;
    }
    tx.execute(TABLE).await.map_err(failed)?;
    let done = version(&mut tx).await?.unwrap_or(0);
    for (index, migration) in MIGRATIONS.iter().enumerate().skip(done) {
        sqlx::raw_sql(*migration).execute(&mut *tx).await.map_err(failed)?;
        sqlx::query("INSERT INTO saga.migration (version) VALUES ($1)")
            .bind(i32::try_from(index + 1).expect("few migrations"))
            .execute(&mut *tx)
            .await
            .map_err(failed)?;
    }
    tx.commit().await.map_err(failed)
}

/// Whether the schema is the one that this version works with.
pub(super) async fn check(connection: &mut PgConnection) -> Result<()> {
    let known = MIGRATIONS.len();
    match version(connection).await? {
        Some(version) if version == known => Ok(()),
        Some(version) if version > known => Err(Error::Unusable(format!(
            "the schema `saga` is at version {version}, this program knows {known}: run a newer program"
        ))),
        found => Err(Error::Unusable(format!(
            "the schema `saga` {}, this program needs version {known}: run `saga migrate`, or call \
             `PostgresStore::migrate`",
            found.map_or_else(|| "does not exist".to_owned(), |version| format!("is at version {version}")),
        ))),
    }
}

/// The schema's version; `None` where there is none. Needs no right but to read.
async fn version(connection: &mut PgConnection) -> Result<Option<usize>> {
    let there: bool = sqlx::query_scalar("SELECT to_regclass('saga.migration') IS NOT NULL")
        .fetch_one(&mut *connection)
        .await
        .map_err(failed)?;
    if !there {
        return Ok(None);
    }
    let version: i32 = sqlx::query_scalar("SELECT coalesce(max(version), 0) FROM saga.migration")
        .fetch_one(connection)
        .await
        .map_err(failed)?;
    Ok(usize::try_from(version).ok())
}
