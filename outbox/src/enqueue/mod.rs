//! Writing events in the caller's transaction.

mod outbox;
mod postgres;
mod sql;
mod sqlite;

pub use outbox::{Builder, Outbox};

use crate::connection::Connection;
use crate::error::Result;
use crate::message::Message;

/// Writes one event on the caller's connection: it will be published if, and only if, the caller's
/// transaction commits. Outside a transaction it is committed at once.
///
/// One statement, one round trip (two on SQLite for a [sequenced](Message::sequenced) event). Nothing
/// is notified and nothing is sent from here: the relay finds the row.
///
/// ```no_run
/// # async fn place(pool: sqlx::PgPool) -> Result<(), Box<dyn std::error::Error>> {
/// let mut tx = pool.begin().await?;
/// sqlx::query("UPDATE orders SET placed = true WHERE id = $1").bind(7_i64).execute(&mut *tx).await?;
/// outbox::enqueue(&mut *tx, outbox::Message::new("order", 7, "OrderPlaced").json("…")?).await?;
/// tx.commit().await?;
/// # Ok(()) }
/// ```
///
/// # Errors
///
/// [`Error::Invalid`](crate::Error::Invalid) before anything is written, or the database's error;
/// after the latter the transaction must be rolled back.
///
/// # Cancellation
///
/// Dropping the future leaves the statement's fate open; drop the transaction with it.
pub async fn enqueue<C: Connection>(connection: &mut C, message: Message) -> Result<()> {
    Outbox::standard().enqueue(connection, message).await
}

/// Writes several events in the order given, as [`enqueue`] does, in one statement unless one of
/// them is [serialised](Message::serialized) or [sequenced](Message::sequenced).
///
/// # Errors
///
/// As [`enqueue`]; an invalid message is refused before any is written.
pub async fn enqueue_all<C: Connection>(connection: &mut C, messages: &[Message]) -> Result<()> {
    Outbox::standard().enqueue_all(connection, messages).await
}
