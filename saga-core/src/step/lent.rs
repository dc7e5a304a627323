//! The guard through which a transactional step sees its transaction.

use std::fmt;
use std::ops::{Deref, DerefMut};
use std::sync::{Arc, Mutex};

use crate::store::Loan;

/// The open transaction that a [`transactional`](super::transactional) step is lent.
///
/// It derefs to the database's connection, so `sqlx::query(…).execute(&mut *tx)` and
/// `outbox::enqueue(&mut *tx, …)` work on it, and so does `tx.begin()` for a savepoint. It cannot commit:
/// what was written through it becomes true together with the saga's journal, when the action has returned
/// `Ok`, and not at all otherwise.
///
/// Drop it, or let it be dropped, before the action returns: a transaction that is kept is not committed, and until it
/// is dropped it keeps what it has locked. Do not leak it (`std::mem::forget`, a task without an end): Postgres ends a
/// transaction that idles for a third of the lease, so that it holds up its own saga only; in SQLite nothing can end it,
/// and nobody writes to the file any more before the process ends. The worker's errors say so, once that has lasted for
/// half a minute.
pub struct Tx<T: Send + 'static> {
    /// There until it is dropped.
    lent: Option<T>,
    home: Desk,
}

/// Where a transaction lies before the step's code takes it, and after the guard was dropped.
#[derive(Clone, Default)]
pub(crate) struct Desk(Arc<Mutex<Option<Loan>>>);

impl Desk {
    pub(crate) fn put(&self, loan: Loan) {
        *self.0.lock().expect(LOCK) = Some(loan);
    }

    pub(crate) fn take(&self) -> Option<Loan> {
        self.0.lock().expect(LOCK).take()
    }

    /// The guard of the transaction that lies here, if it is of this type.
    pub(super) fn lend<T: Send + 'static>(&self) -> Option<Tx<T>> {
        match self.take()?.downcast::<T>() {
            Ok(tx) => Some(Tx { lent: Some(*tx), home: self.clone() }),
            Err(other) => {
                self.put(other);
                None
            }
        }
    }
}

const LOCK: &str = "nothing panics while it holds the desk";

impl<T: DerefMut + Send + 'static> Deref for Tx<T> {
    type Target = T::Target;

    fn deref(&self) -> &T::Target {
        self.lent.as_ref().expect("it is there until the guard is dropped")
    }
}

impl<T: DerefMut + Send + 'static> DerefMut for Tx<T> {
    fn deref_mut(&mut self) -> &mut T::Target {
        self.lent.as_mut().expect("it is there until the guard is dropped")
    }
}

impl<T: Send + 'static> Drop for Tx<T> {
    fn drop(&mut self) {
        if let Some(lent) = self.lent.take() {
            self.home.put(Box::new(lent));
        }
    }
}

impl<T: Send + 'static> fmt::Debug for Tx<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tx").finish_non_exhaustive()
    }
}

impl fmt::Debug for Desk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let empty = self.0.lock().expect(LOCK).is_none();
        f.write_str(if empty { "Desk(empty)" } else { "Desk(a transaction)" })
    }
}
