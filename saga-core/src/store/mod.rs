//! The seam to the database: nine verbs, one row per commit.
//!
//! # What a store guarantees
//!
//! - **A commit is one journal row**, keyed (run, number): writing it is a compare-and-set. Whoever
//!   writes number *n* of a run first has it; everyone else is refused, without an error and without
//!   a trace. What rides in a commit (its end, its wait, the mail it consumes) becomes true with its
//!   row or not at all.
//! - **Every commit is fenced**: it takes effect only while its worker's row still has the worker's
//!   epoch. A worker whose epoch was moved on is a zombie; nothing it sends is written.
//! - **Sending a commit again is safe**: a conflict with the worker's own row of the same text is success, so a
//!   lost answer is cured by repeating the identical batch. A row of another text is an earlier word of the worker's
//!   that arrived late: the commit is refused.
//! - **Ownership** changes hands in [`Store::claim`] only: from nobody, or from a worker that was
//!   fenced *and drained*, so that its last commit is visible to whoever reads the journal next.
//! - **A key is held by one saga at a time.** It is taken by an owned start or in a claim, by a
//!   compare-and-set on the key's row; it is held while the saga runs, waits or is blocked, whoever owns
//!   it; and it is given back in the commit that ends the saga. Sagas that need the same key have their
//!   turns in the order in which claims could see them. A saga without its key is given to a worker only
//!   for its mail or its deadline, and [told so](Loaded::queued).
//! - **Others only insert**: starters insert sagas, everyone else inserts mail. Nobody but the owner
//!   updates a saga's row, so no wake-up is lost between two writers.
//!
//! - **Mail is kept as text**, and no store looks inside, so that what does not read harms nobody. It has a
//!   format ([`Mail::format`]); a saga with unread mail in a format that a worker does not know
//!   ([`Claim::reads`]) is not given to that worker: it may have been told to stop.
//!
//! A feature adds a [`Record`](crate::journal::Record) variant or a field of [`Commit`], never a verb.
//!
//! # Cancellation
//!
//! A database operation is never cancelled half-way: implementations run each verb to its end, so that dropping
//! the future returned here gives up the answer, not the work. [`Store::start`] and [`Store::commit`] are polled
//! by tasks that do nothing else; whoever calls them must poll them to their end or drop them, since a future
//! that lies idle may hold what others wait for.

mod commit;
mod connect;
#[cfg(any(feature = "sqlite", feature = "postgres"))]
mod decode;
mod error;
pub mod memory;
#[cfg(feature = "postgres")]
pub mod postgres;
mod query;
mod retain;
#[cfg(feature = "sqlite")]
pub mod sqlite;
#[cfg(any(feature = "sqlite", feature = "postgres"))]
mod task;
mod transactional;
#[cfg(any(feature = "sqlite", feature = "postgres"))]
mod unheard;
mod worker;

use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;

pub use commit::{
    Commit, CommitReply, JournalRow, Keyed, LastError, Loaded, Mail, Posted, Start, StartReply, Then,
};
pub use connect::connect;
pub use error::{Error, Result};
pub use memory::MemoryStore;
#[cfg(feature = "postgres")]
pub use postgres::PostgresStore;
pub use query::{Counts, Filter, InFlight, Manifest, Query, State, Summary, UnreadMail, WorkerInfo};
pub use retain::{Kept, Pruned, Retain};
#[cfg(feature = "sqlite")]
pub use sqlite::SqliteStore;
#[cfg(any(test, feature = "testing"))]
pub(crate) use transactional::Lend;
pub use transactional::{Begun, Lender, Transactional};
pub(crate) use transactional::{Kind, Loan};
pub use worker::{Claim, Claimed, Fence, NewWorker, Peer, Renewal};

use crate::id::{RunId, WorkerId};

/// Where journals live.
///
/// Every verb may fail with [`Error::Unavailable`] (it had no effect) or [`Error::Unknown`] (nobody
/// knows). All verbs are safe to repeat.
#[async_trait]
pub trait Store: Send + Sync + 'static {
    /// Keeps the manifests of the definitions a worker knows, one for each fingerprint: the latest, because what
    /// sagas in flight do not rely on may have changed.
    async fn register(&self, manifests: &[Manifest]) -> Result<()>;

    /// Adds a worker's row, with epoch 1. Joining twice with one id is an error: an id stands for one
    /// incarnation.
    async fn join(&self, worker: &NewWorker) -> Result<Fence>;

    /// Moves the worker's renewal counter on, and tells of the others, so that each worker can observe
    /// whose counter stands still.
    async fn renew(&self, fence: Fence) -> Result<Renewal>;

    /// Takes the right to commit from a worker, for good: first its epoch is moved on and that is made
    /// durable (no new batch of it passes), then its batches in flight are awaited; only then is it
    /// marked as drained, and its sagas can be claimed. A worker that leaves fences itself.
    async fn fence(&self, worker: WorkerId) -> Result<()>;

    /// Takes ownership of sagas that nobody owns and that are due or have mail, or whose owner is
    /// drained; oldest due first, where a [`Priority`](crate::Priority) counts as time. Answers with their journals, read *after* ownership was taken, and
    /// with the mail of sagas that this worker owns already. [`Error::Fenced`] for a zombie.
    async fn claim(&self, claim: &Claim) -> Result<Claimed>;

    /// Reads one saga's journal and unconsumed mail.
    async fn load(&self, run: RunId) -> Result<Option<Loaded>>;

    /// Inserts sagas. One reply per start, in order. A start whose (definition, saga id) is taken
    /// changes nothing and is told by whom; a start that is repeated is answered as it was the first time,
    /// [`StartReply::Started`] or [`StartReply::Queued`].
    /// Starts with an owner are fenced: [`Error::Fenced`] when `fence` is no longer met, and then none
    /// of the batch is inserted.
    async fn start(&self, fence: Option<Fence>, starts: &[Start]) -> Result<Vec<StartReply>>;

    /// Writes a batch of commits, each of another run. One reply per commit, in order; see the module's
    /// guarantees. [`Error::Fenced`] when the fence is no longer met: none of the batch was written.
    async fn commit(&self, fence: Fence, commits: &[Commit]) -> Result<Vec<CommitReply>>;

    /// Inserts mail, deduplicated by its id. One answer per mail, in order.
    async fn post(&self, mail: &[Mail]) -> Result<Vec<Posted>>;

    /// How many batches are worth sending side by side. Where they would only wait for each other, fewer and
    /// larger ones are better. Asked once; a property, not a verb.
    fn lanes(&self) -> usize {
        4
    }

    /// What lends this store's transactions to steps; nothing, unless the store says otherwise. A store that is
    /// [`Transactional`] answers `Some(Lender::new(self))`.
    fn lender(self: Arc<Self>) -> Option<Lender>
    where
        Self: Sized,
    {
        None
    }
}

/// A database seen from both sides: the verbs of progress, and the questions of operators.
#[derive(Clone)]
pub struct Backend {
    /// Progress.
    pub store: Arc<dyn Store>,
    /// Questions.
    pub query: Arc<dyn Query>,
    /// Forgetting.
    pub retain: Arc<dyn Retain>,
    /// Transactions for steps, where the store lends them.
    pub lender: Option<Lender>,
}

impl<T: Store + Query + Retain> From<Arc<T>> for Backend {
    fn from(both: Arc<T>) -> Self {
        Self { store: both.clone(), query: both.clone(), retain: both.clone(), lender: both.lender() }
    }
}

impl fmt::Debug for Backend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Backend").finish_non_exhaustive()
    }
}
