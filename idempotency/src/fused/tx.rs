//! The guard that lends a transaction to a handler.

use std::ops::{Deref, DerefMut};
use std::sync::{Arc, Mutex, PoisonError};

use sqlx::{Database, Transaction};

/// The transaction of the key that this handler runs under.
///
/// It derefs to the connection, takes nested transactions (savepoints) as usual, and has no `commit`: the layer
/// commits once the handler's answer is known. It goes back to the layer when it is dropped, and must not
/// outlive the handler. It can be extracted once at a time.
///
/// ```
/// # #[cfg(all(feature = "axum", feature = "postgres"))] {
/// use idempotency::fused::PgTx;
/// use idempotency::sqlx;
///
/// async fn charge(mut tx: PgTx, body: String) -> Result<String, axum::http::StatusCode> {
///     sqlx::query("INSERT INTO charges (note) VALUES ($1)")
///         .bind(&body)
///         .execute(&mut *tx)
///         .await
///         .map_err(|_| axum::http::StatusCode::INTERNAL_SERVER_ERROR)?;
///     Ok("charged".into())
/// }
/// # }
/// ```
pub struct Tx<D: Database> {
    transaction: Option<Transaction<'static, D>>,
    slot: Slot<D>,
}

/// A [`Tx`] of Postgres.
#[cfg(feature = "postgres")]
pub type PgTx = Tx<sqlx::Postgres>;

/// A [`Tx`] of SQLite.
#[cfg(feature = "sqlite")]
pub type SqliteTx = Tx<sqlx::Sqlite>;

/// Where the transaction lies while the handler does not hold it.
pub(crate) struct Slot<D: Database>(Arc<Mutex<State<D>>>);

enum State<D: Database> {
    Here(Box<Transaction<'static, D>>),
    Lent,
    /// The layer has settled, or given up: what comes back now is rolled back.
    Closed,
}

impl<D: Database> Slot<D> {
    pub(crate) fn new(transaction: Transaction<'static, D>) -> Self {
        Self(Arc::new(Mutex::new(State::Here(Box::new(transaction)))))
    }

    /// Lends the transaction, if it is here.
    pub(crate) fn lend(&self) -> Option<Tx<D>> {
        let transaction = self.swap(State::Lent)?;
        Some(Tx { transaction: Some(transaction), slot: self.clone() })
    }

    /// Takes the transaction back for good. `None` if it is still lent: it is rolled back when it comes back.
    pub(crate) fn close(&self) -> Option<Transaction<'static, D>> {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match std::mem::replace(&mut *state, State::Closed) {
            State::Here(transaction) => Some(*transaction),
            State::Lent | State::Closed => None,
        }
    }

    fn swap(&self, next: State<D>) -> Option<Transaction<'static, D>> {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match std::mem::replace(&mut *state, next) {
            State::Here(transaction) => Some(*transaction),
            other => {
                *state = other;
                None
            }
        }
    }
}

impl<D: Database> Clone for Slot<D> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<D: Database> Deref for Tx<D> {
    type Target = D::Connection;

    fn deref(&self) -> &D::Connection {
        self.transaction.as_ref().expect("present until dropped")
    }
}

impl<D: Database> DerefMut for Tx<D> {
    fn deref_mut(&mut self) -> &mut D::Connection {
        self.transaction.as_mut().expect("present until dropped")
    }
}

impl<D: Database> Drop for Tx<D> {
    fn drop(&mut self) {
        let mut state = self.slot.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let (State::Lent, Some(transaction)) = (&*state, self.transaction.take()) {
            *state = State::Here(Box::new(transaction));
        }
    }
}

impl<D: Database> std::fmt::Debug for Tx<D> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Tx")
    }
}

#[cfg(feature = "http")]
impl<D: Database> Tx<D> {
    /// Takes the transaction out of a request, for handlers that are not axum's. `None` if the request is not
    /// behind the layer, or the transaction is already lent.
    pub fn take<B>(request: &mut http::Request<B>) -> Option<Self> {
        request.extensions().get::<Slot<D>>()?.lend()
    }
}

#[cfg(feature = "axum")]
impl<D: Database, S: Sync> axum::extract::FromRequestParts<S> for Tx<D> {
    type Rejection = (http::StatusCode, &'static str);

    async fn from_request_parts(parts: &mut http::request::Parts, _: &S) -> Result<Self, Self::Rejection> {
        let refuse = |why| (http::StatusCode::INTERNAL_SERVER_ERROR, why);
        let slot = parts.extensions.get::<Slot<D>>().ok_or_else(|| {
            refuse(
                "no transaction to lend: put the route behind IdempotencyLayer::fused(…) that is required()",
            )
        })?;
        slot.lend().ok_or_else(|| refuse("the transaction is already lent: extract it once"))
    }
}
