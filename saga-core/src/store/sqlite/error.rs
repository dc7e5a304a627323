//! SQLite's result codes, by what may be done about them.

use sqlx::error::DatabaseError;

use crate::store::Error;

/// What a failed statement means. Its transaction is rolled back, so it had no effect.
pub(super) fn failed(error: sqlx::Error) -> Error {
    match &error {
        sqlx::Error::Database(database) => refused(database.as_ref()),
        sqlx::Error::Decode(_)
        | sqlx::Error::ColumnDecode { .. }
        | sqlx::Error::ColumnNotFound(_)
        | sqlx::Error::Configuration(_) => Error::Unusable(error.to_string()),
        _ => Error::Unavailable(error.to_string()),
    }
}

/// What a failed COMMIT means.
pub(super) fn at_commit(error: sqlx::Error) -> Error {
    match failed(error) {
        // A disk error may come after the commit was written.
        Error::Unavailable(what) => Error::Unknown(what),
        other => other,
    }
}

fn refused(error: &dyn DatabaseError) -> Error {
    let code: i32 = error.code().and_then(|code| code.parse().ok()).unwrap_or(0);
    // The low byte is the primary result code.
    let what = format!("{} (SQLite {code})", error.message());
    match code & 0xff {
        // Generic errors of a schema that is not ours, corruption, cannot open, not a database.
        1 | 11 | 14 | 26 => Error::Unusable(what),
        // Too big, constraint, mismatch, misuse, parameter out of range.
        18 | 19 | 20 | 21 | 25 => Error::Refused(what),
        // Busy, locked, out of memory, read-only, interrupted, disk error, full, protocol, schema.
        _ => Error::Unavailable(what),
    }
}
