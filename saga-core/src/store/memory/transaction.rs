//! Transactions in memory: what a database does with locks and timeouts, for the test kit.
//!
//! The saga's row is locked from begin to end, so claims pass it over and a second begin waits. A transaction
//! that stands idle is ended by the store, as Postgres ends it: its owner finds out at the end.

use std::ops::{Deref, DerefMut};
use std::time::Duration;

use async_trait::async_trait;

use super::{MemoryStore, Tables};
use crate::id::RunId;
use crate::journal::Timestamp;
use crate::store::commit::{Commit, CommitReply};
use crate::store::error::{Error, Result};
use crate::store::transactional::{Begun, Transactional};
use crate::store::worker::Fence;

/// How long a transaction may stay open.
const OPEN_AT_MOST: Duration = Duration::from_secs(5);

/// A row's lock.
#[derive(Debug)]
pub(super) struct Lock {
    by: u64,
    until: Timestamp,
}

/// An open transaction in memory. It derefs to what is to happen when it commits.
#[derive(Debug)]
pub struct MemoryTransaction {
    id: u64,
    run: RunId,
    store: MemoryStore,
    writes: Writes,
}

/// What a transaction in memory has written: nobody sees it before it commits.
#[derive(Default)]
pub struct Writes {
    writes: Vec<Box<dyn FnOnce() + Send>>,
    ended: bool,
}

impl Writes {
    /// Something that becomes true with the transaction.
    pub fn push(&mut self, write: impl FnOnce() + Send + 'static) {
        self.writes.push(Box::new(write));
    }

    /// Ends the transaction behind the store's back, as `COMMIT` sent through a connection does.
    pub fn commit_by_hand(&mut self) {
        self.happen();
        self.ended = true;
    }

    fn happen(&mut self) {
        self.writes.drain(..).for_each(|write| write());
    }
}

/// What a twin's transactions do wrong.
#[cfg(test)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Bug {
    /// The fence is read when the transaction begins, and not again.
    ReadsTheFenceFirst,
    /// The commit number is not read once the saga's row is had.
    ReadsNoNumber,
    /// The saga's row is not locked.
    LocksNothing,
    /// Nobody looks whether the transaction was ended by hand.
    TrustsItsUser,
    /// What was written stays, whatever becomes of the transaction.
    KeepsWhatItRollsBack,
    /// What was written stays where the commit is refused.
    CommitsWithoutTheJournal,
    /// The journal is written and the rows are forgotten.
    ForgetsTheRows,
}

#[cfg(test)]
impl MemoryStore {
    /// The same store with a bug in its transactions.
    pub(crate) fn with_bug(&self, bug: Bug) -> Self {
        Self { twin: Some(bug), ..self.clone() }
    }

    fn has(&self, bug: Bug) -> bool {
        self.twin == Some(bug)
    }
}

/// Whether a twin has this bug; nothing in earnest has.
macro_rules! has {
    ($store:expr, $bug:ident) => {{
        #[cfg(test)]
        let has = $store.has(Bug::$bug);
        #[cfg(not(test))]
        let has = false;
        has
    }};
}

impl Tables {
    /// Whether somebody's transaction holds the saga's row.
    pub(super) fn is_locked(&self, run: RunId) -> bool {
        self.locks.get(&run).is_some_and(|lock| lock.until > self.clock.now())
    }

    fn lock(&mut self, run: RunId) -> Result<u64, Duration> {
        let now = self.clock.now();
        if let Some(lock) = self.locks.get(&run).filter(|lock| lock.until > now) {
            return Err((lock.until - now).to_std().unwrap_or_default());
        }
        self.transactions += 1;
        self.locks.insert(run, Lock { by: self.transactions, until: now + OPEN_AT_MOST });
        Ok(self.transactions)
    }

    fn holds(&self, tx: &MemoryTransaction) -> bool {
        self.is_locked(tx.run) && self.locks[&tx.run].by == tx.id
    }

    fn is_next(&self, fence: Fence, run: RunId, next: u32) -> bool {
        let saga = self.sagas.get(&run).filter(|saga| saga.owner == Some(fence.worker));
        saga.is_some_and(|saga| saga.journal.len() == next as usize)
    }
}

#[cfg_attr(not(test), allow(clippy::nonminimal_bool, reason = "in earnest there are no twins"))]
#[async_trait]
impl Transactional for MemoryStore {
    type Tx = MemoryTransaction;

    async fn begin(&self, fence: Fence, run: RunId, next: u32) -> Result<Begun<MemoryTransaction>> {
        loop {
            let unlocked = self.unlocked.clone();
            let unlocked = unlocked.notified();
            let locked = match has!(self, LocksNothing) {
                true => Ok(0),
                false => self.tables().lock(run),
            };
            match locked {
                Ok(id) => {
                    let tx = MemoryTransaction { id, run, store: self.clone(), writes: Writes::default() };
                    let tables = self.tables();
                    tables.check(fence)?;
                    let is_next = tables.is_next(fence, run, next) || has!(self, ReadsNoNumber);
                    drop(tables);
                    return Ok(if is_next { Begun::Open(tx) } else { Begun::Moved });
                }
                Err(left) => drop(tokio::time::timeout(left, unlocked).await),
            }
        }
    }

    async fn commit_in(
        &self,
        mut tx: MemoryTransaction,
        fence: Fence,
        commit: &Commit,
    ) -> Result<CommitReply> {
        if tx.writes.ended && !has!(self, TrustsItsUser) {
            return Err(Error::Misused("it was committed by hand".into()));
        }
        if has!(self, ReadsTheFenceFirst) {
            tx.writes.happen();
            return Ok(self.tables().commit(fence.worker, commit));
        }
        let mut tables = self.tables();
        if !tables.holds(&tx) && !has!(self, LocksNothing) {
            return Err(Error::Unavailable("the transaction stood open for too long and was ended".into()));
        }
        tables.check(fence)?;
        let reply = tables.commit(fence.worker, commit);
        let committed = matches!(reply, CommitReply::Committed { .. });
        let twin_forgets = has!(self, ForgetsTheRows);
        let twin_writes = has!(self, CommitsWithoutTheJournal);
        let happens = if committed { !twin_forgets } else { twin_writes };
        if happens {
            tx.writes.happen();
        }
        drop(tables);
        Ok(reply)
    }

    async fn roll_back(&self, tx: MemoryTransaction) -> Result<()> {
        match tx.writes.ended && !has!(self, TrustsItsUser) {
            true => Err(Error::Misused("it was committed by hand".into())),
            false => Ok(()),
        }
    }
}

impl Drop for MemoryTransaction {
    fn drop(&mut self) {
        if has!(self.store, KeepsWhatItRollsBack) {
            self.writes.happen();
        }
        let mut tables = self.store.tables();
        if tables.holds(self) {
            tables.locks.remove(&self.run);
        }
        drop(tables);
        self.store.unlocked.notify_waiters();
    }
}

impl Deref for MemoryTransaction {
    type Target = Writes;

    fn deref(&self) -> &Writes {
        &self.writes
    }
}

impl DerefMut for MemoryTransaction {
    fn deref_mut(&mut self) -> &mut Writes {
        &mut self.writes
    }
}

impl std::fmt::Debug for Writes {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} writes", self.writes.len())
    }
}
