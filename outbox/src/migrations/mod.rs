//! The tables, as a numbered, append-only list of migrations.
//!
//! Apply them with [`migrate`], or print them ([`POSTGRES`], [`SQLITE`]) into the tool you already
//! use; then record their numbers in the migration table as [`migrate`] would, or never call it.

pub(crate) mod postgres;
pub(crate) mod sqlite;

use crate::connection::Connection;
use crate::error::{Error, Result};

/// One numbered change of the tables. A released one is never edited.
#[derive(Debug)]
#[non_exhaustive]
pub struct Migration {
    /// Its place in the list, from 1.
    pub number: i32,
    /// What it is about, for people.
    pub name: &'static str,
    /// The statements.
    pub sql: &'static str,
}

macro_rules! migration {
    ($number:literal, $database:literal, $name:literal) => {
        Migration {
            number: $number,
            name: $name,
            sql: include_str!(concat!("../../migrations/", $database, "/000", $number, "_", $name, ".sql")),
        }
    };
}

/// The Postgres migrations; they expect the schema `outbox` to exist.
pub const POSTGRES: &[Migration] = &[
    migration!(1, "postgres", "event"),
    migration!(2, "postgres", "inbox"),
    migration!(3, "postgres", "relay"),
    migration!(4, "postgres", "slot"),
    migration!(5, "postgres", "dropped"),
];

/// The SQLite migrations.
pub const SQLITE: &[Migration] = &[
    migration!(1, "sqlite", "event"),
    migration!(2, "sqlite", "inbox"),
    migration!(3, "sqlite", "relay"),
    migration!(4, "sqlite", "dropped"),
];

/// Creates or updates the tables; answers which migrations it applied. Safe to call from several
/// processes at once, and at every start: one takes the lock, the others find nothing to do.
///
/// Postgres tables live in the schema `outbox`, SQLite's have the prefixes `outbox_` and `inbox_`.
/// Pass a connection that is not in a transaction; everything happens in one of its own.
///
/// # Errors
///
/// The database's error; nothing is applied then.
pub async fn migrate<C: Connection>(connection: &mut C) -> Result<Vec<&'static Migration>> {
    connection.migrate().await
}

/// Checks that the tables are there and at least as new as this version needs.
///
/// # Errors
///
/// [`Error::Schema`] if they are not, or the database's error.
pub async fn check_schema<C: Connection>(connection: &mut C) -> Result<()> {
    let found = connection.migrated().await?;
    let needed = C::known().last().map_or(0, |migration| migration.number);
    if found < needed { Err(Error::Schema { found, needed }) } else { Ok(()) }
}
