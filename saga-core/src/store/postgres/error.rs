//! SQLSTATE, by what may be done about it.

use sqlx::error::DatabaseError;

use crate::store::Error;

/// What a failed statement means.
pub(super) fn failed(error: sqlx::Error) -> Error {
    match &error {
        sqlx::Error::Database(database) => refused(database.as_ref()),
        // No connection was had, so nothing was sent.
        sqlx::Error::PoolTimedOut | sqlx::Error::PoolClosed => Error::Unavailable(error.to_string()),
        sqlx::Error::Decode(_)
        | sqlx::Error::ColumnDecode { .. }
        | sqlx::Error::ColumnNotFound(_)
        | sqlx::Error::Configuration(_) => Error::Unusable(error.to_string()),
        sqlx::Error::Encode(_) | sqlx::Error::InvalidArgument(_) => Error::Refused(error.to_string()),
        _ => Error::Unknown(error.to_string()),
    }
}

/// Whether the connection is of no further use, although it may still answer: the server went away, it
/// is no longer the primary, or it does not know (any more) what was prepared.
pub(super) fn is_over(error: &sqlx::Error) -> bool {
    match error.as_database_error() {
        Some(database) => {
            let code = database.code().unwrap_or_default();
            code.starts_with("08")
                || code.starts_with("57P")
                || matches!(&*code, "25006" | "25P03" | "0A000" | "26000")
        }
        None => !matches!(
            error,
            sqlx::Error::Decode(_) | sqlx::Error::ColumnDecode { .. } | sqlx::Error::Encode(_)
        ),
    }
}

/// What it means that there is no connection: nothing was sent yet.
pub(super) fn unreachable(error: sqlx::Error) -> Error {
    match failed(error) {
        Error::Unknown(why) => Error::Unavailable(why),
        other => other,
    }
}

fn refused(error: &dyn DatabaseError) -> Error {
    let code = error.code().unwrap_or_default();
    let what = format!("{} (SQLSTATE {code})", error.message());
    match &*code {
        // The connection, or the server, went away while it was at work.
        "57P01" | "57P02" | "57P05" | "25P03" => return Error::Unknown(what),
        // The schema or the rights are not what this version needs.
        "3D000" | "3F000" | "42P01" | "42703" | "42883" | "42P10" | "42501" => return Error::Unusable(what),
        _ => {}
    }
    match code.get(..2).unwrap_or_default() {
        "08" => Error::Unknown(what),
        "28" => Error::Unusable(what),
        // Data, cardinality, integrity, too large.
        "21" | "22" | "23" | "54" => Error::Refused(what),
        // 40 rollback, 53 resources, 55 locks, 57 intervention, 58 system, 25 read-only, and what we do
        // not know: the statement had no effect.
        _ => Error::Unavailable(what),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_connection_that_breaks_tells_nothing() {
        let broken = || sqlx::Error::Io(std::io::ErrorKind::ConnectionReset.into());
        assert!(matches!(failed(broken()), Error::Unknown(_)));
        assert!(matches!(unreachable(broken()), Error::Unavailable(_)));
        assert!(matches!(failed(sqlx::Error::PoolTimedOut), Error::Unavailable(_)));
    }
}
