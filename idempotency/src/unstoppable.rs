//! Work that goes on when nobody waits for it any more.

use std::pin::Pin;
use std::task::{Context, Poll};

use futures::future::BoxFuture;
use tokio::runtime::Handle;

/// A future that cannot be cancelled: dropped before its end, it goes on in a task of its own. As long as somebody
/// waits for it, it costs no task.
pub(crate) struct Unstoppable<T: Send + 'static> {
    /// `None` at the end, and while it is polled: work that panics is not polled again.
    work: Option<BoxFuture<'static, T>>,
    runtime: Handle,
}

impl<T: Send + 'static> Unstoppable<T> {
    /// Begins when it is polled first; until then dropping it means that nothing happens.
    ///
    /// # Panics
    /// Outside a tokio runtime.
    pub(crate) async fn run(work: impl Future<Output = T> + Send + 'static) -> T {
        Self { work: Some(Box::pin(work)), runtime: Handle::current() }.await
    }
}

impl<T: Send + 'static> Future for Unstoppable<T> {
    type Output = T;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<T> {
        let mut work = self.work.take().expect("a future is not polled after its end");
        let polled = work.as_mut().poll(cx);
        if polled.is_pending() {
            self.work = Some(work);
        }
        polled
    }
}

impl<T: Send + 'static> Drop for Unstoppable<T> {
    fn drop(&mut self) {
        if let Some(work) = self.work.take() {
            self.runtime.spawn(work);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use tokio::sync::Notify;

    use super::*;

    #[tokio::test]
    async fn who_waits_gets_the_result() {
        assert_eq!(Unstoppable::run(async { 7 }).await, 7);
    }

    #[tokio::test]
    async fn what_nobody_waits_for_goes_on() {
        let (entered, open, done) =
            (Arc::new(Notify::new()), Arc::new(Notify::new()), Arc::new(Notify::new()));
        let caller = tokio::spawn({
            let (entered, open, done) = (entered.clone(), open.clone(), done.clone());
            Unstoppable::run(async move {
                entered.notify_one();
                open.notified().await;
                done.notify_one();
            })
        });
        entered.notified().await;
        caller.abort();
        assert!(caller.await.unwrap_err().is_cancelled());
        open.notify_one();
        done.notified().await;
    }

    #[tokio::test]
    async fn a_panic_is_the_callers_and_is_not_repeated() {
        let caller = tokio::spawn(Unstoppable::run(async { panic!("once") }));
        assert!(caller.await.unwrap_err().is_panic());
    }
}
