//! The fused guarantee: key, business rows, outbox rows and stored answer in one transaction.
//!
//! # States
//!
//! There are two: nothing, and done. The claim belongs to the transaction that also holds the handler's writes, and
//! ends with it (on Postgres a lock, on SQLite a row). If the process dies, the database rolls all of it back and
//! the key is free again, at once. So there is no lease, no clock, no fencing and no doubt, and no commit beyond the
//! one that the business rows need.
//!
//! # What a duplicate meets
//!
//! In the same process it waits in memory, so that duplicates do not drain the pool. In another one it waits
//! for the key's lock, at most as long as [`wait`](crate::IdempotencyLayer::wait) says, and then sees the first
//! one's answer, or gets 409.
//!
//! # What a handler may do
//!
//! It is lent the transaction as a guard, [`Tx`], that derefs to the connection and cannot commit. When the
//! handler has returned and its answer is read, the layer settles:
//!
//! | the answer | the handler's rows | the key |
//! |---|---|---|
//! | took effect (2xx, 3xx) | committed | keeps the answer |
//! | refused for good (402, 409, …) | rolled back | keeps the answer |
//! | turned away, failed, panicked | rolled back | free |
//!
//! Only then is the answer sent. A guard that outlives its handler is a mistake in the program: all is rolled
//! back, and the answer is a 500.
//!
//! The guarantee covers the database. A call to somebody else from such a handler is not part of it; write an
//! outbox row instead, or use the [leased](crate::leased) guarantee.
//!
//! # What the database guarantees
//!
//! The transaction runs at READ COMMITTED: at a stricter level a duplicate that has waited could not see what
//! it waited for. The claim's lock timeout holds for the claim only. A handler that ends the transaction by
//! hand (a raw `COMMIT`) is found out: the answer is a 500 and the key is in doubt.
//!
//! # Without HTTP
//!
//! [`FusedStore::claim_in`] and [`FusedStore::complete_in`] do the same in a transaction of the caller's own: for
//! message handlers and jobs.

use std::time::Duration;

use bytes::Bytes;
use sqlx::{Database, Transaction};

use crate::claim::{Claim, ClaimRequest, Put, Ticket, Verdict};
use crate::store::{Held, Store, StoreError};

mod tx;

#[cfg(feature = "postgres")]
pub use tx::PgTx;
pub(crate) use tx::Slot;
#[cfg(feature = "sqlite")]
pub use tx::SqliteTx;
pub use tx::Tx;

/// The fused guarantee on a store: see [the module](self).
#[derive(Clone, Debug)]
pub struct Fused<F> {
    #[cfg_attr(not(feature = "http"), allow(dead_code, reason = "read by the layer"))]
    pub(crate) store: F,
}

/// A store that shares a database with the business rows.
pub trait FusedStore: Store + Clone {
    /// The database.
    type Db: Database;

    /// Begins a transaction, at the isolation that claims need.
    fn begin(&self) -> impl Future<Output = Result<Transaction<'static, Self::Db>, StoreError>> + Send;

    /// Answers a request whose key has an outcome already, without a transaction; `None`: begin one, and claim.
    ///
    /// `again` says that the request is known to be a repetition. Where looking costs a round trip and a
    /// transaction costs little, only those are looked up.
    fn look(
        &self,
        request: &ClaimRequest,
        again: bool,
    ) -> impl Future<Output = Result<Option<Claim>, StoreError>> + Send;

    /// Claims within the caller's transaction, before its first write, and sets a savepoint behind the claim.
    ///
    /// Waits at most `wait` for whoever holds the key, then answers [`Claim::InFlight`], after which the
    /// transaction can only be rolled back. [`Claim::Ruled`] has written, and wants a commit. With
    /// [`Claim::Acquired`], do the work and then [`complete_in`](Self::complete_in); to give up, roll back.
    fn claim_in(
        &self,
        connection: &mut <Self::Db as Database>::Connection,
        request: &ClaimRequest,
        wait: Duration,
    ) -> impl Future<Output = Result<Claim, StoreError>> + Send;

    /// Whether [`Self::claim_alone`] sets a savepoint.
    #[doc(hidden)]
    const SAVEPOINT: bool = true;

    /// As [`Self::claim_in`], for a transaction that holds nothing else and can be begun anew: where a savepoint costs
    /// a round trip, without one.
    #[doc(hidden)]
    fn claim_alone(
        &self,
        connection: &mut <Self::Db as Database>::Connection,
        request: &ClaimRequest,
        wait: Duration,
    ) -> impl Future<Output = Result<Claim, StoreError>> + Send {
        self.claim_in(connection, request, wait)
    }

    /// Whether the transaction is the one that claimed; if it is not, the key is in doubt from now on. One that has
    /// failed, or is another, is given up.
    #[doc(hidden)]
    fn still_holds(
        &self,
        _connection: &mut <Self::Db as Database>::Connection,
        _ticket: &Ticket,
    ) -> impl Future<Output = Result<(), CompleteError>> + Send {
        std::future::ready(Ok(()))
    }

    /// Writes the outcome within the caller's transaction. The caller commits.
    ///
    /// A [`Verdict::Rejected`] first rolls back to the savepoint behind the claim: what the handler wrote goes,
    /// the answer stays.
    fn complete_in(
        &self,
        connection: &mut <Self::Db as Database>::Connection,
        ticket: &Ticket,
        verdict: Verdict,
        answer: Bytes,
        keep: Duration,
    ) -> impl Future<Output = Result<(), CompleteError>> + Send;

    /// Writes a *leased* claim's row within the caller's transaction, if the claim still holds: the fence of a
    /// [phased](crate::phased) operation's transaction, and its last statement.
    #[doc(hidden)]
    fn put_in(
        &self,
        connection: &mut <Self::Db as Database>::Connection,
        ticket: &Ticket,
        put: Put,
    ) -> impl Future<Output = Result<Held, StoreError>> + Send;
}

/// Why a fused outcome could not be written.
#[derive(Debug, thiserror::Error)]
pub enum CompleteError {
    /// The database refused: roll back. Nothing took effect. Also what a handler meets that has ignored an error
    /// of a statement of its own.
    #[error("the transaction cannot be completed: {0}")]
    Refused(#[source] StoreError),
    /// The transaction that held the claim was ended by hand: what it wrote is committed, or lost, without an
    /// answer.
    #[error("the transaction was ended by its handler, which only the layer may do")]
    Ended,
}

/// The row as it lies in the open transaction. Should it ever be committed unsettled, by a handler that commits
/// by hand, it is in doubt at once.
pub(crate) fn placeholder(mut put: Put) -> Put {
    if put.row.running() {
        put.lease = Some(Duration::ZERO);
    }
    put
}
