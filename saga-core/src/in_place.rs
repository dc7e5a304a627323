//! Work that runs in its caller's task, and to its end even if the caller goes away.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use futures::future::BoxFuture;

/// Runs work where it is awaited; it becomes a task only when it is dropped before its end. That spares the wake-ups
/// of a task for each batch.
///
/// A caller that neither polls nor drops it holds up whatever the work holds, so this is for tasks of the engine's own,
/// never for what users await.
pub(crate) fn in_place<T: Send + 'static>(work: impl Future<Output = T> + Send + 'static) -> InPlace<T> {
    InPlace { work: Some(Box::pin(work)) }
}

/// See [`in_place`].
pub(crate) struct InPlace<T: Send + 'static> {
    work: Option<BoxFuture<'static, T>>,
}

impl<T: Send + 'static> Future for InPlace<T> {
    type Output = T;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        // Taken out while it is polled, so that nothing is left to run of what has panicked.
        let mut work = self.work.take().expect("polled after its end");
        let answer = work.as_mut().poll(cx);
        if answer.is_pending() {
            self.work = Some(work);
        }
        answer
    }
}

impl<T: Send + 'static> Drop for InPlace<T> {
    fn drop(&mut self) {
        // Without a runtime the process is ending.
        if let Some(work) = self.work.take()
            && let Ok(runtime) = tokio::runtime::Handle::try_current()
        {
            runtime.spawn(work);
        }
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;
    use tokio::sync::oneshot;

    use super::*;

    #[tokio::test]
    async fn work_whose_caller_is_gone_runs_to_its_end() {
        let ((go, wait), (done, heard)) = (oneshot::channel::<()>(), oneshot::channel());
        let mut work = Box::pin(in_place(async move {
            wait.await.expect("the test says go");
            done.send(()).expect("the test listens");
        }));
        assert!(futures::poll!(&mut work).is_pending());
        drop(work);
        go.send(()).expect("the work waits");
        heard.await.expect("it went on although nobody waited");
    }

    #[tokio::test]
    async fn what_has_panicked_is_not_run_again() {
        let work = in_place::<()>(async { panic!("on purpose") });
        assert!(std::panic::AssertUnwindSafe(work).catch_unwind().await.is_err());
    }
}
