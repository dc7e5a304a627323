//! The consumer's record of what it has applied, in its own database.
//!
//! # What it promises
//!
//! A record's effect on the consumer's database happens exactly once, whatever the broker, the relay
//! and this process do, because the effect, the record of it and the position in the topic become
//! true in one transaction.
//!
//! # Two sources of duplicates, two guards
//!
//! A consumer that crashed, or lost its partition, reads the *same offsets* again: the **watermark**
//! per partition, changed only in the business transaction, answers that with one row per partition.
//! A relay that crashed publishes the *same event at another offset*: the **set of event ids** answers
//! that, or, for events numbered within their key, one row per key.
//!
//! # The zombie
//!
//! A consumer that was frozen does not know that its partition has another owner. So each assignment
//! raises the partition's **epoch**, and each transaction begins by locking the partition's row under
//! the epoch it was assigned ([`Inbox::enter`]): after the new owner's bump it finds no row, gets
//! [`Error::Fenced`](crate::Error::Fenced) and must roll back. A transaction of the old owner that is
//! under way holds that row lock, so the bump waits for its end, and the watermark the new owner is
//! given includes it. No clock takes part. Kafka's offset commit is a hint for lag monitors.
//!
//! # One transaction
//!
//! ```no_run
//! # async fn apply(_: &mut sqlx::PgConnection) -> outbox::Result<()> { Ok(()) }
//! # async fn one(pool: sqlx::PgPool, event_id: uuid::Uuid) -> outbox::Result<()> {
//! let inbox = outbox::Inbox::new("shipping");
//! let assignment = inbox.assign(&mut *pool.acquire().await?, "outbox.event.order", 0, "host-1").await?;
//! // … read the record at assignment.next_offset …
//! let mut tx = pool.begin().await?;
//! let next = inbox.enter(&mut *tx, &assignment).await?.unwrap_or(0);
//! if !inbox.first_time(&mut *tx, &[event_id]).await?.is_empty() {
//!     apply(&mut *tx).await?;
//! }
//! inbox.advance(&mut *tx, &assignment, next + 1, Some(event_id)).await?;
//! tx.commit().await?;
//! # Ok(()) }
//! ```

mod parked;
mod postgres;
mod sqlite;
pub(crate) mod store;

pub use parked::{ParkedRecord, Release};

use crate::connection::Connection;
use crate::error::Result;
use std::time::Duration;
use uuid::Uuid;

/// One consumer group's inbox. Cheap to clone; holds no connection.
#[derive(Clone, Debug)]
pub struct Inbox {
    group: String,
}

/// The right to apply one partition's records, until somebody else is assigned it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Assignment {
    /// The topic.
    pub topic: String,
    /// The partition within it.
    pub partition: i32,
    /// The fencing token.
    pub epoch: i64,
    /// The first offset not applied yet; `None` if this group never applied any of the partition.
    pub next_offset: Option<i64>,
    /// The event at `next_offset - 1`. If the topic holds another one there, it is another topic.
    pub last_id: Option<Uuid>,
}

/// What an event's number within its key says about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// It is the one that follows.
    Next,
    /// It, or a later one, was applied before: skip it.
    Again,
    /// Numbers are missing between the last one applied and it. It was recorded as applied; roll
    /// back to wait for the missing ones instead.
    Gap {
        /// The first number missing.
        expected: i64,
    },
}

impl Inbox {
    /// The inbox of a consumer group; use the Kafka group's name.
    pub fn new(group: impl Into<String>) -> Self {
        Self { group: group.into() }
    }

    /// The group's name.
    pub fn group(&self) -> &str {
        &self.group
    }

    /// Takes over a partition: raises its epoch, which fences every earlier owner, and answers where
    /// to read on. Waits for a transaction of the earlier owner that is under way.
    ///
    /// `owner` names this process for people.
    ///
    /// # Errors
    ///
    /// The database's error.
    pub async fn assign<C: Connection>(
        &self,
        connection: &mut C,
        topic: &str,
        partition: i32,
        owner: &str,
    ) -> Result<Assignment> {
        connection.assign(&self.group, topic, partition, owner).await
    }

    /// Begins a business transaction for an assigned partition: locks its row and answers the first
    /// offset not applied yet. Skip records below it. Call it first in the transaction.
    ///
    /// # Errors
    ///
    /// [`Error::Fenced`](crate::Error::Fenced) if the partition has another owner: roll back and drop
    /// the batch.
    pub async fn enter<C: Connection>(&self, tx: &mut C, assignment: &Assignment) -> Result<Option<i64>> {
        tx.enter(&self.group, assignment).await
    }

    /// Records these event ids as applied, and answers those that were not recorded before: apply
    /// only them. An id that another open transaction is recording is waited for.
    ///
    /// # Errors
    ///
    /// The database's error. A duplicate is no error.
    pub async fn first_time<C: Connection>(&self, tx: &mut C, ids: &[Uuid]) -> Result<Vec<Uuid>> {
        if ids.is_empty() { Ok(Vec::new()) } else { tx.first_time(&self.group, ids).await }
    }

    /// Records an event's number within its key as applied. One row per key instead of one per
    /// event, for events whose number was drawn under the key's lock
    /// ([`Message::sequenced`](crate::Message::sequenced)).
    ///
    /// `source` tells apart outboxes whose keys may be equal.
    ///
    /// # Errors
    ///
    /// The database's error.
    pub async fn in_sequence<C: Connection>(
        &self,
        tx: &mut C,
        source: &str,
        key: &str,
        number: i64,
    ) -> Result<Place> {
        let before = tx.draw_sequence(&self.group, source, key, number).await?;
        Ok(match before {
            last if last >= number => Place::Again,
            last if last + 1 == number => Place::Next,
            last => Place::Gap { expected: last + 1 },
        })
    }

    /// Ends a business transaction: moves the partition's watermark, never backwards. `last_id` is the
    /// event at `next_offset - 1`.
    ///
    /// It is a statement, so if an earlier statement of the transaction failed unnoticed, this one
    /// fails too: what remains is to roll back.
    ///
    /// # Errors
    ///
    /// [`Error::Fenced`](crate::Error::Fenced), or the database's error.
    pub async fn advance<C: Connection>(
        &self,
        tx: &mut C,
        assignment: &Assignment,
        next_offset: i64,
        last_id: Option<Uuid>,
    ) -> Result<()> {
        tx.advance(&self.group, assignment, next_offset, last_id).await
    }

    /// Forgets event ids recorded longer ago than `age` by the database's clock, at most `limit` of
    /// them; answers how many.
    ///
    /// A forgotten id that arrives again is applied again. `age` must exceed the time for which a
    /// record can come back: the topic's retention, and the longest time that a relay may stand still
    /// between sending and acknowledging.
    ///
    /// # Errors
    ///
    /// The database's error.
    pub async fn forget<C: Connection>(&self, connection: &mut C, age: Duration, limit: u32) -> Result<u64> {
        connection.forget(&self.group, age, limit).await
    }
}
