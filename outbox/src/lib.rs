//! Events that are published if, and only if, the business transaction commits, and an inbox that
//! applies each of them once.
//!
//! A service that changes its database and tells others by Kafka writes to two systems, and a crash
//! between the two loses the event or invents it. Here the event is a row in the service's own
//! database, written by [`enqueue`] in the transaction that makes it true; a relay (the crate
//! `outbox-relay`, as a library or a sidecar) moves committed rows to Kafka, in order, none lost. On
//! the other side [`Inbox`] makes "applied once" part of the consumer's transaction.
//!
//! Postgres and SQLite; nothing here talks to Kafka. [`sqlx`] is part of the interface and is
//! re-exported.
//!
//! ```
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! use outbox::sqlx::{self, Connection as _};
//!
//! let mut db = sqlx::SqliteConnection::connect("sqlite::memory:").await?;
//! outbox::migrate(&mut db).await?;
//! sqlx::query("CREATE TABLE orders (id INTEGER PRIMARY KEY, cents INTEGER)").execute(&mut db).await?;
//!
//! let mut tx = db.begin().await?;
//! sqlx::query("INSERT INTO orders VALUES (536365, 13912)").execute(&mut *tx).await?;
//! let placed = outbox::Message::new("order", 536365, "OrderPlaced").json(&13912)?;
//! outbox::enqueue(&mut *tx, placed).await?;
//! tx.commit().await?; // both became true, or neither
//! # Ok(()) }
//! ```
//!
//! # The table
//!
//! `outbox.event` is Debezium's outbox table (`id`, `aggregatetype`, `aggregateid`, `type`,
//! `payload`, `tracingspancontext`) with headers, and `seq` and `xid` for a relay that polls: writers
//! in any language may insert the first six columns themselves. What the columns promise is written
//! in the [`migrations`].

mod connection;
mod enqueue;
mod error;
pub mod inbox;
mod message;
pub mod migrations;
mod notifier;

pub use connection::Connection;
pub use enqueue::{Builder, Outbox, enqueue, enqueue_all};
pub use error::{Error, Result};
pub use inbox::{Assignment, Inbox, ParkedRecord, Place, Release};
pub use message::{Message, NAME_BYTES_MAX};
pub use migrations::{check_schema, migrate};
pub use notifier::{CHANNEL, Notifier};
pub use {sqlx, uuid};
