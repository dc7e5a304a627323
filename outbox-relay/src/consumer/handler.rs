//! What applies a record.

use super::Received;
use futures::FutureExt as _;
use futures::future::BoxFuture;
use std::any::Any;
use std::panic::AssertUnwindSafe;

/// Applies records to a database, in a transaction that it does not end itself.
///
/// Everything it writes on the connection it is lent becomes true together with the fact that the
/// record was applied, or not at all. What it does elsewhere is not undone, and may be done again.
pub trait Handler<C>: Send + Sync + 'static {
    /// Applies one record. A panic is a failure like any other: the record is tried again, then parked.
    ///
    /// A database error that is swallowed makes the whole batch fail afterwards: hand it on with `?`.
    fn handle<'a>(
        &'a self,
        connection: &'a mut C,
        received: &'a Received,
    ) -> BoxFuture<'a, Result<(), HandlerError>>;
}

/// Why a handler did not apply a record. `?` on any error means "try again"; say
/// [`HandlerError::park`] where trying again cannot help.
#[derive(Debug)]
pub enum HandlerError {
    /// It may work later.
    Retry(Box<dyn std::error::Error + Send + Sync>),
    /// It never will: a person must look at it.
    Park(String),
}

impl HandlerError {
    /// The record can never be applied; the reason is for people.
    pub fn park(reason: impl ToString) -> Self {
        Self::Park(reason.to_string())
    }
}

impl<E: std::error::Error + Send + Sync + 'static> From<E> for HandlerError {
    fn from(error: E) -> Self {
        Self::Retry(Box::new(error))
    }
}

/// Hands a record to a handler that may panic. Nothing it has left half done outlives that: the transaction is
/// rolled back.
pub(super) async fn handle<C: Send>(
    handler: &impl Handler<C>,
    connection: &mut C,
    received: &Received,
) -> Result<(), HandlerError> {
    let handled = AssertUnwindSafe(async { handler.handle(connection, received).await }).catch_unwind().await;
    handled.unwrap_or_else(|panic| {
        let problem = format!("the handler panicked: {}", message(&*panic));
        Err(HandlerError::Retry(problem.into()))
    })
}

fn message(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<&str>().copied();
    text.or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("it does not say why")
}

/// A function as a handler; see [`handler`].
#[derive(Clone, Copy, Debug)]
pub struct HandlerFn<F>(F);

/// Makes a handler of `|connection, received| Box::pin(async move { … })`. Name the connection's type
/// in the closure: `|tx: &mut PgConnection, received|`.
pub fn handler<C, F>(function: F) -> HandlerFn<F>
where
    F: for<'a> Fn(&'a mut C, &'a Received) -> BoxFuture<'a, Result<(), HandlerError>> + Send + Sync + 'static,
{
    HandlerFn(function)
}

impl<C, F> Handler<C> for HandlerFn<F>
where
    F: for<'a> Fn(&'a mut C, &'a Received) -> BoxFuture<'a, Result<(), HandlerError>> + Send + Sync + 'static,
{
    fn handle<'a>(
        &'a self,
        connection: &'a mut C,
        received: &'a Received,
    ) -> BoxFuture<'a, Result<(), HandlerError>> {
        (self.0)(connection, received)
    }
}
