//! What can go wrong, and whose fault it is.

/// The result of everything here.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why an outbox or inbox operation did not happen.
///
/// The caller's transaction is still the caller's: after any error roll it back. Committing a
/// Postgres transaction in which a statement failed reports success and keeps nothing.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The message itself cannot be stored or published; the caller's code is at fault.
    #[error("event {event_type:?}: {problem}")]
    Invalid {
        /// The event's type, as far as it was given.
        event_type: String,
        /// What is wrong with it.
        problem: String,
    },

    /// The description of an [`Outbox`](crate::Outbox) makes no sense; the caller's code is at fault.
    #[error("{0}")]
    Table(String),

    /// Another owner has been assigned this partition since; drop the batch and its transaction.
    #[error("partition {partition} of {topic:?} has another owner now: epoch {epoch} is fenced")]
    Fenced {
        /// The topic.
        topic: String,
        /// The partition within it.
        partition: i32,
        /// The epoch that is no longer the current one.
        epoch: i64,
    },

    /// The tables are missing or older than this version of the crate needs.
    #[error(
        "the outbox tables are at migration {found}, this version needs {needed}: run outbox::migrate or `outbox-relay migrate`"
    )]
    Schema {
        /// The last migration found, 0 without any.
        found: i32,
        /// The last migration this version knows.
        needed: i32,
    },

    /// A stored value does not read back; somebody else wrote to these tables.
    #[error("{what} does not read back: {problem}")]
    Corrupt {
        /// Which stored thing.
        what: String,
        /// What is wrong with it.
        problem: String,
    },

    /// The database refused or did not answer.
    #[error("database: {0}")]
    Database(#[from] sqlx::Error),
}
