//! The two kinds of database connection an outbox or inbox can live on.

use crate::error::Result;
use crate::inbox::store::InboxStore;
use crate::{Message, Outbox};
use sqlx::{PgConnection, SqliteConnection};

/// A connection that events can be enqueued on: [`PgConnection`] or [`SqliteConnection`].
///
/// A transaction derefs to its connection: pass `&mut *tx`. Sealed, because the tables' guarantees
/// rest on what each database promises.
#[diagnostic::on_unimplemented(
    message = "events are enqueued on a `PgConnection` or a `SqliteConnection`",
    label = "not one of the two connections",
    note = "a transaction or a pooled connection derefs to one: write `&mut *tx`"
)]
pub trait Connection: sealed::Store {}

impl Connection for PgConnection {}
impl Connection for SqliteConnection {}

pub(crate) mod sealed {
    use super::*;
    use crate::migrations::Migration;

    /// What each database does in its own SQL.
    pub trait Store: InboxStore + Send {
        /// Inserts the messages in the order given.
        fn insert(
            &mut self,
            outbox: &Outbox,
            messages: &[Message],
        ) -> impl Future<Output = Result<()>> + Send;
        /// Applies what is missing of its own list of migrations, under a lock.
        fn migrate(&mut self) -> impl Future<Output = Result<Vec<&'static Migration>>> + Send;
        /// The number of the last migration applied, 0 without any.
        fn migrated(&mut self) -> impl Future<Output = Result<i32>> + Send;
        /// Its own list of migrations.
        fn known() -> &'static [Migration];
    }
}
