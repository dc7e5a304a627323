//! The publication that is streamed, and whether it is still the one it was.
//!
//! What a publication leaves out (the table, its inserts, some of its rows) is missing in the stream without
//! a word, and a mark would acknowledge it as published. So a publication is streamed only if it has all of
//! the table's inserts, and every mark says which publication it was written under: one that was changed,
//! even if it was changed back, ends the stream, and what it left out is found by polling. Nor may a row that
//! is sent after such a change overtake one that was left out: after a change the server describes the table
//! anew, and then the publication is looked at before the next row is taken.

use crate::error::{Error, Result};
use crate::source::postgres::table::Table;
use sqlx::{AssertSqlSafe, PgPool, Row as _};

/// A publication, and the state it was found in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Publication {
    pub(super) name: String,
    pub(super) table: String,
    /// Changes with every change of the publication, or of the table's part in it.
    pub(super) state: String,
}

/// Changes with every change: the catalog's rows are written anew by one, and a table may get children.
macro_rules! state {
    () => {
        "concat_ws(' ', p.oid, p.xmin, r.oid, r.xmin, \
             (SELECT count(*) FROM pg_inherits WHERE inhparent = to_regclass($2)))"
    };
}

/// `$1` publication, `$2` table: what is to be known of it.
macro_rules! select {
    ($($what:expr),+) => {
        concat!(
            "SELECT ", $($what,)+
            " FROM pg_publication AS p \
              LEFT JOIN pg_publication_rel AS r ON r.prpubid = p.oid AND r.prrelid = to_regclass($2) \
              WHERE p.pubname = $1"
        )
    };
}

const LOOK: &str = select!(
    state!(),
    " AS state, ",
    "p.puballtables OR r.oid IS NOT NULL AS has_table, ",
    // Filters and lists of columns came with Postgres 15: earlier rows have no such field.
    "p.pubinsert AND to_jsonb(r) ->> 'prqual' IS NULL AND to_jsonb(r) ->> 'prattrs' IS NULL ",
    // Of rows that lie in other tables the log says those' names.
    "AND NOT EXISTS (SELECT FROM pg_inherits WHERE inhparent = to_regclass($2)) AS whole"
);

/// `$1` publication, `$2` table, `$3` prefix: writes a mark.
pub(super) const MARK: &str = concat!(
    "SELECT pg_logical_emit_message(false, $3, pg_current_snapshot()::text || '|' || coalesce((",
    select!(state!()),
    "), ''))::text"
);

/// The publication of this name, or our own, which is made if it is missing.
pub(super) async fn find(pool: &PgPool, table: &Table, given: Option<String>) -> Result<Publication> {
    let own = table.own("outbox_relay");
    if given.is_none() {
        let change = match look(pool, &table.name, &own).await? {
            Found::Whole(_) | Found::Partial => None,
            // The table was dropped and made anew.
            Found::WithoutTable => Some(format!("ALTER PUBLICATION {own} ADD TABLE {}", table.name)),
            Found::Nothing => {
                Some(format!("CREATE PUBLICATION {own} FOR TABLE {} WITH (publish = 'insert')", table.name))
            }
        };
        if let Some(change) = change {
            sqlx::query(AssertSqlSafe(change)).execute(pool).await?;
        }
    }
    whole(pool, &table.name, &given.unwrap_or(own)).await
}

/// A publication as it is now, if it has all of the table's inserts.
pub(super) async fn whole(pool: &PgPool, table: &str, name: &str) -> Result<Publication> {
    match look(pool, table, name).await? {
        Found::Whole(state) => Ok(Publication { name: name.to_owned(), table: table.to_owned(), state }),
        Found::Nothing => Err(Error::Replication(format!("there is no publication {name}"))),
        Found::Partial | Found::WithoutTable => Err(Error::Replication(format!(
            "the publication {name} does not publish all inserts of {table}: ALTER PUBLICATION {name} SET TABLE \
             {table} and SET (publish = 'insert')"
        ))),
    }
}

/// Whether nobody has changed it since.
pub(super) async fn is_as_found(pool: &PgPool, publication: &Publication) -> Result<bool> {
    let row = sqlx::query(LOOK).bind(&publication.name).bind(&publication.table).fetch_optional(pool).await?;
    let state = row.map(|row| row.try_get::<String, _>("state")).transpose()?;
    Ok(state.as_deref() == Some(&publication.state))
}

enum Found {
    Nothing,
    /// It does not publish the table at all.
    WithoutTable,
    /// Not its inserts, or not all rows or columns.
    Partial,
    /// All of the table's inserts, as long as the state is this.
    Whole(String),
}

async fn look(pool: &PgPool, table: &str, name: &str) -> Result<Found> {
    let row = sqlx::query(LOOK).bind(name).bind(table).fetch_optional(pool).await?;
    let Some(row) = row else { return Ok(Found::Nothing) };
    Ok(match (row.try_get("has_table")?, row.try_get("whole")?) {
        (false, _) => Found::WithoutTable,
        (true, false) => Found::Partial,
        (true, true) => Found::Whole(row.try_get("state")?),
    })
}
