//! Database work runs to its end, whoever stops waiting for it.
//!
//! A future that is dropped between `BEGIN` and `COMMIT` leaves a connection in a state that its next
//! borrower does not expect. So the caller holds only the right to the answer; dropping that loses the answer
//! and nothing else.

use std::future::Future;

use super::error::{Error, Result};

/// Runs database work in a task of its own and awaits it. (What only the engine's tasks call does so
/// [in place](crate::in_place).)
pub(super) async fn to_its_end<T: Send + 'static>(
    work: impl Future<Output = Result<T>> + Send + 'static,
) -> Result<T> {
    match tokio::spawn(work).await {
        Ok(answer) => answer,
        Err(failed) => match failed.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            Err(_) => Err(Error::Unknown("the runtime is shutting down".into())),
        },
    }
}
