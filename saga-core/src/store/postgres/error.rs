//! SQLSTATE, by what may be done about it.
//!
//! | SQLSTATE | | means | what the engine does |
//! |---|---|---|---|
//! | 40001, 40P01, 55P03, 57014 | serialization, deadlock, lock and statement timeouts | it had no effect | sends it again, with a pause |
//! | 53xxx, 58xxx, 57P03 | disk full, out of memory, too many connections, a server that starts | it had no effect | the same, for as long as the lease lasts; then the worker joins again |
//! | 25006 | read-only: a standby, or a server that was set so | it had no effect | the same, on a new connection |
//! | 0A000, 26000 | what was prepared is gone or stale | it had no effect | the same, on a new connection |
//! | 08xxx, 57P01, 57P02, 57P05, 25P03, 40003 | the connection or the server went away | nobody knows | sends the identical batch again: its own row is success |
//! | 21, 22, 23, 44, 54, P0 | the data, or a trigger that refuses it | one of the batch is at fault | cuts the batch in two until one is left, and blocks that saga |
//! | 28, 3D000, 3F000, 42501, 42P01, 42703, 42883, 42P10 | rights and schema | the store is not what it should be | tells whoever starts the worker; a running one goes on asking, and warns |
//! | anything else | | it had no effect | sends it again, with a pause, and warns |
//!
//! A statement that fails has no effect, because each is a transaction of its own or ends the one it is in.

use sqlx::error::DatabaseError;

use crate::store::Error;

/// What a failed statement means.
pub(super) fn failed(error: sqlx::Error) -> Error {
    match &error {
        sqlx::Error::Database(database) => refused(database.as_ref()),
        // No connection was had, so nothing was sent.
        sqlx::Error::PoolTimedOut => Error::Unavailable(
            "no connection could be made: the server is down or starting, refuses further ones, or cannot be reached"
                .into(),
        ),
        sqlx::Error::PoolClosed => Error::Unavailable(error.to_string()),
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
    meaning(&code)(format!("{} (SQLSTATE {code})", error.message()))
}

/// The table of the module's head, as one match.
fn meaning(code: &str) -> fn(String) -> Error {
    match code {
        "57P01" | "57P02" | "57P05" | "25P03" | "40003" => return Error::Unknown,
        "3D000" | "3F000" | "42P01" | "42703" | "42883" | "42P10" | "42501" => return Error::Unusable,
        _ => {}
    }
    match code.get(..2).unwrap_or_default() {
        "08" => Error::Unknown,
        "28" => Error::Unusable,
        "21" | "22" | "23" | "44" | "54" | "P0" => Error::Refused,
        _ => Error::Unavailable,
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

    #[test]
    fn every_sqlstate_means_what_the_table_says() {
        let unavailable = [
            "40001", "40P01", "55P03", "57014", "53000", "53100", "53200", "53300", "58000", "58030",
            "57P03", "25006", "0A000", "26000", "25P02", "XX000", "XX001", "F0000", "", "?",
        ];
        let unknown = ["08000", "08003", "08006", "57P01", "57P02", "57P05", "25P03", "40003"];
        let refused = [
            "21000", "22001", "22021", "22P02", "22P05", "23502", "23503", "23505", "23514", "44000",
            "54000", "P0001",
        ];
        let unusable = ["28000", "28P01", "3D000", "3F000", "42501", "42P01", "42703", "42883", "42P10"];
        type Meant<'a> = (&'a [&'a str], fn(String) -> Error);
        let all: [Meant<'_>; 4] = [
            (&unavailable, Error::Unavailable),
            (&unknown, Error::Unknown),
            (&refused, Error::Refused),
            (&unusable, Error::Unusable),
        ];
        for (codes, means) in all {
            for code in codes {
                assert_eq!(meaning(code)(String::new()), means(String::new()), "SQLSTATE {code}");
            }
        }
    }
}
