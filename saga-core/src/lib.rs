#![doc = include_str!("../README.md")]

pub mod admin;
pub mod attributes;
pub mod client;
pub mod clock;
pub mod codec;
pub mod engine;
mod error_id;
pub mod id;
mod in_place;
pub mod journal;
pub mod payload;
pub mod priority;
pub mod retry;
pub mod saga;
pub mod step;
pub mod store;
#[cfg(any(test, feature = "testing"))]
pub mod testing;

pub use attributes::Attributes;
pub use client::{Client, Ended, Saga};
pub use clock::Clock;
pub use codec::Codec;
pub use engine::{Settings, Worker};
pub use error_id::{BadErrorId, ErrorId};
pub use id::{Key, MailId, Name, Place, RunId, WorkerId};
pub use payload::Payload;
pub use priority::Priority;
pub use retry::Retry;
pub use saga::{Builder, Definition, Feeds, Output};
pub use step::{Cx, Definite, Probed, Provides, Step, StepError, Tx, step, transactional};

/// The transaction of Postgres that a transactional step is lent.
#[cfg(feature = "postgres")]
pub type PgTx = Tx<store::postgres::PgTransaction>;
/// The transaction of SQLite that a transactional step is lent.
#[cfg(feature = "sqlite")]
pub type SqliteTx = Tx<store::sqlite::SqliteTransaction>;
