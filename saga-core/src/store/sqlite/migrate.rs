//! Brings the tables up to date: numbered, append-only migrations, recorded in a table of our own, so
//! that a file shared with the user's tables keeps its `user_version` to itself.

use super::error::failed;
use super::writer::Writer;
use crate::store::error::{Error, Result};

/// Migration *n* stands at index *n* − 1.
pub(super) const MIGRATIONS: &[&str] = &[
    include_str!("../../../migrations/sqlite/0001_init.sql"),
    include_str!("../../../migrations/sqlite/0002_keys.sql"),
    include_str!("../../../migrations/sqlite/0003_attributes_and_priorities.sql"),
    include_str!("../../../migrations/sqlite/0004_mail_formats.sql"),
    include_str!("../../../migrations/sqlite/0005_errors.sql"),
];

pub(super) async fn migrate(writer: &Writer) -> Result<()> {
    let mut tx = writer.begin().await?;
    let table = "CREATE TABLE IF NOT EXISTS saga_migration (version INTEGER PRIMARY KEY, applied_at TEXT \
                 NOT NULL DEFAULT CURRENT_TIMESTAMP)";
    sqlx::query(table).execute(&mut *tx).await.map_err(failed)?;
    let done: i64 = sqlx::query_scalar("SELECT coalesce(max(version), 0) FROM saga_migration")
        .fetch_one(&mut *tx)
        .await
        .map_err(failed)?;
    let done = usize::try_from(done).unwrap_or(usize::MAX);
    if done > MIGRATIONS.len() {
        return Err(Error::Unusable(format!(
            "its tables are at version {done}, this program knows {}: run a newer program",
            MIGRATIONS.len()
        )));
    }
    for (index, migration) in MIGRATIONS.iter().enumerate().skip(done) {
        sqlx::raw_sql(*migration).execute(&mut *tx).await.map_err(failed)?;
        sqlx::query("INSERT INTO saga_migration (version) VALUES (?)")
            .bind(i64::try_from(index + 1).expect("few migrations"))
            .execute(&mut *tx)
            .await
            .map_err(failed)?;
    }
    tx.commit().await
}
