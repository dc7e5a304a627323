//! Transactions that are lent to a step's code, so that its business rows, the saga's journal row and
//! whatever else it writes there become true together.
//!
//! # States
//!
//! ```text
//!  recorded ──begin──▶ open ──the action succeeds──▶ written, fence last ──COMMIT──▶ committed
//!     │                 │ any error, a panic,             │ refused            │ no answer
//!     │ moved           │ the time is over                ▼                    ▼
//!     ▼                 └─────────────────────────▶ rolled back        begin again, which waits for it:
//!  not ours: nothing runs                           "not applied"      moved: the journal tells; open: no
//! ```
//!
//! # Who may do what
//!
//! The step's code may read and write through the guard it is lent, a [`Tx`](crate::step::Tx), and cannot end
//! the transaction with it. The store begins it and ends it. The driver of the saga does nothing else for that
//! saga meanwhile: a saga is in at most one batch of commits *or* one open transaction, and what happens
//! beside it (siblings that end, mail) waits.
//!
//! # What the database guarantees
//!
//! - *The saga's row comes first.* [`begin`](Transactional::begin) locks it, so there is one open transaction
//!   per saga in the whole world: a predecessor whose COMMIT was not heard of is waited for, and no claim can
//!   take the saga while one is open. So a saga that is read after a claim, with a start of a transactional
//!   step and no end of it, has certainly not seen that step's effect: such a start is no doubt.
//! - *Then its commit number is read again*, by a statement that begins after the lock was had. If it moved,
//!   nothing runs.
//! - *The fence comes last*, in the same transaction as the journal row. A worker that was fenced while its
//!   action ran writes nothing, and a takeover does not wait for an action, only for the moment between fence
//!   and COMMIT.
//! - *An error is never success.* Nothing that fails before COMMIT is written. A COMMIT that fails with the
//!   database's own error is not written either. One that is not answered is decided by the journal.
//! - *Who ends the transaction by hand*, with SQL through the guard, is found out before the journal row is
//!   written, and told as [`Error::Misused`]: his rows may be there without it.
//!
//! # What a clock is trusted for
//!
//! For liveness only. An action has a time limit well below the lease, and the database ends a transaction
//! that stands idle, so that a process that freezes inside one does not hold its saga up for ever. Whoever is
//! late by any clock is refused by the fence.

use std::any::{Any, TypeId};
use std::fmt;
use std::ops::DerefMut;
use std::sync::Arc;

use async_trait::async_trait;

use super::Store;
use super::commit::{Commit, CommitReply};
use super::error::{Error, Result};
use super::worker::Fence;
use crate::id::RunId;

/// A store that lends its transactions to steps.
#[async_trait]
pub trait Transactional: Store {
    /// An open transaction. What it derefs to is what a step's code gets to see of it. Dropping it ends it
    /// without its effects.
    type Tx: DerefMut<Target: Sized> + Send + 'static;

    /// Begins the transaction of one step: locks the saga's row, waiting for whoever holds it, and then reads
    /// whether `next` is still the number of the saga's next commit and the worker its owner.
    /// [`Error::Fenced`] for a zombie, as far as it can be seen by now.
    async fn begin(&self, fence: Fence, run: RunId, next: u32) -> Result<Begun<Self::Tx>>;

    /// Writes the commit in the transaction, the fence last, and ends it with COMMIT. Whatever it answers
    /// but [`CommitReply::Committed`], and whatever error it gives but [`Error::Unknown`], means that nothing
    /// of the transaction is there; [`Error::Misused`], that its user has ended it.
    async fn commit_in(&self, tx: Self::Tx, fence: Fence, commit: &Commit) -> Result<CommitReply>;

    /// Ends the transaction without its effects. [`Error::Misused`] where its user has committed it.
    async fn roll_back(&self, tx: Self::Tx) -> Result<()>;
}

/// What beginning a step's transaction came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Begun<Tx> {
    /// It is open, and the saga is where the worker thinks it is.
    Open(Tx),
    /// The saga has another next commit, or another owner: nothing was begun.
    Moved,
}

/// Lends the transactions of a store, whatever their type; see
/// [`Store::lender`](crate::store::Store::lender).
#[derive(Clone)]
pub struct Lender(Arc<dyn Lend>);

/// An open transaction with its type erased.
pub(crate) type Loan = Box<dyn Any + Send>;

/// Which transactions: those that a step needs, or those that a store lends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Kind {
    id: TypeId,
    name: &'static str,
}

impl Kind {
    pub(crate) fn of<T: 'static>() -> Self {
        let name = std::any::type_name::<T>();
        Self { id: TypeId::of::<T>(), name: name.rsplit("::").next().unwrap_or(name) }
    }
}

impl Kind {
    pub(crate) fn name(self) -> &'static str {
        self.name
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name)
    }
}

/// [`Transactional`] as the engine sees it.
#[async_trait]
pub(crate) trait Lend: Send + Sync + 'static {
    fn kind(&self) -> Kind;
    async fn begin(&self, fence: Fence, run: RunId, next: u32) -> Result<Begun<Loan>>;
    async fn commit_in(&self, loan: Loan, fence: Fence, commit: &Commit) -> Result<CommitReply>;
    async fn roll_back(&self, loan: Loan) -> Result<()>;
}

struct Erased<S>(Arc<S>);

#[async_trait]
impl<S: Transactional> Lend for Erased<S> {
    fn kind(&self) -> Kind {
        Kind::of::<S::Tx>()
    }

    async fn begin(&self, fence: Fence, run: RunId, next: u32) -> Result<Begun<Loan>> {
        Ok(match self.0.begin(fence, run, next).await? {
            Begun::Open(tx) => Begun::Open(Box::new(tx)),
            Begun::Moved => Begun::Moved,
        })
    }

    async fn commit_in(&self, loan: Loan, fence: Fence, commit: &Commit) -> Result<CommitReply> {
        self.0.commit_in(own::<S::Tx>(loan)?, fence, commit).await
    }

    async fn roll_back(&self, loan: Loan) -> Result<()> {
        self.0.roll_back(own::<S::Tx>(loan)?).await
    }
}

fn own<T: 'static>(loan: Loan) -> Result<T> {
    let foreign = |_| Error::Unusable("a transaction of another store was given back".into());
    loan.downcast().map(|tx| *tx).map_err(foreign)
}

impl Lender {
    /// Lends a store's transactions.
    pub fn new<S: Transactional>(store: Arc<S>) -> Self {
        Self(Arc::new(Erased(store)))
    }

    #[cfg(any(test, feature = "testing"))]
    pub(crate) fn over(lend: impl Lend) -> Self {
        Self(Arc::new(lend))
    }
}

/// The verbs of [`Transactional`], with the transaction's type erased.
impl Lender {
    pub(crate) fn kind(&self) -> Kind {
        self.0.kind()
    }

    pub(crate) async fn begin(&self, fence: Fence, run: RunId, next: u32) -> Result<Begun<Loan>> {
        self.0.begin(fence, run, next).await
    }

    pub(crate) async fn commit_in(&self, loan: Loan, fence: Fence, commit: &Commit) -> Result<CommitReply> {
        self.0.commit_in(loan, fence, commit).await
    }

    pub(crate) async fn roll_back(&self, loan: Loan) -> Result<()> {
        self.0.roll_back(loan).await
    }
}

impl fmt::Debug for Lender {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Lender({})", self.kind())
    }
}
