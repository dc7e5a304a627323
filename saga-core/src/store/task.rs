//! Database work runs to its end, whoever stops waiting for it.
//!
//! A future that is dropped between `BEGIN` and `COMMIT` leaves a connection in a state that its next
//! borrower does not expect. So the caller holds only the right to the answer; dropping that loses the answer
//! and nothing else.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use futures::future::BoxFuture;

use super::error::{Error, Result};

/// Runs database work in a task of its own and awaits it.
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

/// The same for a caller that is a task of its own already: the work runs there, and becomes a task only
/// when the caller drops it. That spares two wake-ups per batch.
///
/// A caller that neither polls nor drops it holds up whatever the work holds, so this is for the verbs that
/// only the committer and the starter call.
pub(super) fn in_place<T: Send + 'static>(
    work: impl Future<Output = Result<T>> + Send + 'static,
) -> InPlace<T> {
    InPlace { work: Some(Box::pin(work)) }
}

/// See [`in_place`].
pub(super) struct InPlace<T: Send + 'static> {
    work: Option<BoxFuture<'static, Result<T>>>,
}

impl<T: Send + 'static> Future for InPlace<T> {
    type Output = Result<T>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let work = self.work.as_mut().expect("polled after its end");
        let answer = std::task::ready!(work.as_mut().poll(cx));
        self.work = None;
        Poll::Ready(answer)
    }
}

impl<T: Send + 'static> Drop for InPlace<T> {
    fn drop(&mut self) {
        // After a panic there is nothing left to run; without a runtime the process is ending.
        if let Some(work) = self.work.take()
            && !std::thread::panicking()
            && let Ok(runtime) = tokio::runtime::Handle::try_current()
        {
            runtime.spawn(work);
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::sync::oneshot;

    use super::*;

    #[tokio::test]
    async fn work_whose_caller_is_gone_runs_to_its_end() {
        let ((go, wait), (done, heard)) = (oneshot::channel::<()>(), oneshot::channel());
        let mut work = Box::pin(in_place(async move {
            wait.await.expect("the test says go");
            done.send(()).expect("the test listens");
            Ok(())
        }));
        assert!(futures::poll!(&mut work).is_pending());
        drop(work);
        go.send(()).expect("the work waits");
        heard.await.expect("it went on although nobody waited");
    }
}
