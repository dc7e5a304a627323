//! How a table that is there, Debezium's for example, becomes one that can be polled.
//!
//! It gets two columns, `seq` and `xid`. In which transactions its rows were written nobody knows any more: they are
//! stamped with one that is older than all, which every snapshot sees. Nor does the table say whether they are
//! published; so who adopts it says it, as [`Existing`].
//!
//! All of it is one transaction, whose lock waits for everybody who has written and not committed. So the rows that
//! are there then are those that somebody may have published, and a snapshot taken under the lock is a cursor that
//! has passed just them: what is written afterwards it does not see, however early its transaction began.

use super::table::{POLLING, Table};
use crate::error::{Error, Result};
use sqlx::{AssertSqlSafe, Connection as _, PgConnection};

/// What is to become of the rows that are in a table when it is adopted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Existing {
    /// Somebody has published them, or will: they are not published, and are removed as others that are done.
    Published,
    /// They are published, in the order in which they lie in the table.
    Unpublished,
}

/// What came of adopting a table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Adopted {
    /// It had what polling needs; its rows are what they were.
    Before,
    /// It has it now. The log up to here has all that was in the table.
    Now {
        /// Where the log ended, as Postgres writes it.
        log_end: String,
    },
}

/// Rows that are counted to say how many there are.
const COUNTED: i64 = 1_000;

impl Table {
    /// The SQL that gives an existing table what polling needs. Running it twice changes nothing; the first time
    /// rewrites the table. The rows that are there are to be published, unless the same transaction also runs
    /// [`Self::existing_are_published`].
    ///
    /// # Errors
    ///
    /// If a name is not one.
    pub fn additions(&self) -> Result<String> {
        self.check()?;
        let Self { name, .. } = self;
        let (seq, xid) = (self.here("seq"), self.here("xid"));
        let index = name.split('.').next_back().unwrap_or_default();
        Ok(format!(
            "ALTER TABLE {name} ADD COLUMN IF NOT EXISTS {seq} bigint GENERATED ALWAYS AS IDENTITY;\n\
             ALTER TABLE {name} ADD COLUMN IF NOT EXISTS {xid} xid8 NOT NULL DEFAULT '3';\n\
             ALTER TABLE {name} ALTER COLUMN {xid} SET DEFAULT pg_current_xact_id();\n\
             CREATE INDEX IF NOT EXISTS {index}_{seq} ON {name} ({seq});\n\
             CREATE INDEX IF NOT EXISTS {index}_{xid} ON {name} ({xid});\n"
        ))
    }

    /// The SQL that, after [`Self::additions`] and in its transaction, has a relay begin behind the rows that are
    /// there.
    ///
    /// # Errors
    ///
    /// If a name is not one.
    pub fn existing_are_published(&self) -> Result<String> {
        self.check()?;
        Ok(format!(
            "INSERT INTO outbox.relay (outbox, base, system_identifier)\n    \
                 SELECT '{}', pg_current_snapshot(), system_identifier::text FROM pg_control_system()\n    \
                 ON CONFLICT (outbox) DO UPDATE SET base = excluded.base, tick = NULL, tick_seq = 0,\n        \
                     system_identifier = excluded.system_identifier;\n",
            self.name
        ))
    }

    /// Gives an existing table what polling needs, unless it has it. The tables of [`outbox::migrate`] must be there.
    ///
    /// # Errors
    ///
    /// [`Error::Config`], and nothing is changed, if there is no such table, if it is none that can be an outbox, or
    /// if it has rows and nobody says what is to become of them; the database's error.
    pub async fn adopt(&self, connection: &mut PgConnection, existing: Option<Existing>) -> Result<Adopted> {
        let (name, additions) = (&self.name, self.additions()?);
        let mut tx = connection.begin().await?;
        // Without names for statements, as there may be a pooler before the database.
        self.check_kind(&mut tx, false).await?;
        sqlx::raw_sql(AssertSqlSafe(format!("LOCK TABLE {name}"))).execute(&mut *tx).await?;
        let there: i64 = sqlx::query_scalar(
            "SELECT count(*) FROM pg_attribute \
             WHERE attrelid = to_regclass($1) AND attname = ANY ($2::text[]) AND NOT attisdropped",
        )
        .persistent(false)
        .bind(name)
        .bind(POLLING.map(|standard| self.here(standard)).to_vec())
        .fetch_one(&mut *tx)
        .await?;
        let before = there == POLLING.len() as i64;
        if !before && existing.is_none() {
            let count = format!("SELECT count(*) FROM (SELECT FROM {name} LIMIT {COUNTED}) AS t");
            match sqlx::query_scalar(AssertSqlSafe(count)).persistent(false).fetch_one(&mut *tx).await? {
                0 => {}
                rows => return Err(undecided(name, rows)),
            }
        }
        sqlx::raw_sql(AssertSqlSafe(additions)).execute(&mut *tx).await?;
        if !before && existing == Some(Existing::Published) {
            sqlx::raw_sql(AssertSqlSafe(self.existing_are_published()?)).execute(&mut *tx).await?;
        }
        let log_end: String = sqlx::query_scalar("SELECT pg_current_wal_insert_lsn()::text")
            .persistent(false)
            .fetch_one(&mut *tx)
            .await?;
        tx.commit().await?;
        Ok(if before { Adopted::Before } else { Adopted::Now { log_end } })
    }
}

fn undecided(name: &str, rows: i64) -> Error {
    let more = if rows == COUNTED { " or more" } else { "" };
    Error::Config(format!(
        "{name} has {rows}{more} rows, and does not say which of them are published. If another has published them, or \
         will: `outbox-relay migrate --existing-are-published`. To publish them all: `outbox-relay migrate \
         --publish-existing`. Either way the relay removes them when `source.keep` has passed. The table was not changed"
    ))
}
