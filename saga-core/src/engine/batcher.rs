//! Group commit without a timer: what waits is sent, what arrives meanwhile forms the next batch.

use std::sync::Arc;

use futures::future::BoxFuture;
use tokio::sync::{Semaphore, mpsc, oneshot};

/// Gathers requests into batches and hands each batch to one call.
///
/// Bounded everywhere: `queue` requests may wait (further callers wait for room), `in_flight` batches of
/// at most `batch` requests are under way.
pub(crate) struct Batcher<T, R> {
    requests: mpsc::Sender<(T, oneshot::Sender<R>)>,
}

impl<T, R> Clone for Batcher<T, R> {
    fn clone(&self) -> Self {
        Self { requests: self.requests.clone() }
    }
}

/// How large and how many.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bounds {
    pub(crate) queue: usize,
    pub(crate) batch: usize,
    pub(crate) in_flight: usize,
}

impl<T: Send + 'static, R: Send + 'static> Batcher<T, R> {
    /// Starts the gathering task. It ends when every handle is gone; batches in flight run to their end.
    ///
    /// `send` must answer every request of its batch, in order; a shorter answer, or a panic, leaves the
    /// rest without an answer, which their callers see as `None`.
    pub(crate) fn spawn<F>(bounds: Bounds, send: F) -> Self
    where
        F: Fn(Vec<T>) -> BoxFuture<'static, Vec<R>> + Send + Sync + 'static,
    {
        let (requests, mut waiting) = mpsc::channel::<(T, oneshot::Sender<R>)>(bounds.queue);
        let slots = Arc::new(Semaphore::new(bounds.in_flight));
        let send = Arc::new(send);
        tokio::spawn(async move {
            loop {
                // The slot first: while none is free, the next batch grows.
                let slot = slots.clone().acquire_owned().await.expect("never closed");
                let mut batch = Vec::new();
                if waiting.recv_many(&mut batch, bounds.batch).await == 0 {
                    return;
                }
                let send = send.clone();
                tokio::spawn(async move {
                    let (requests, callers): (Vec<T>, Vec<_>) = batch.into_iter().unzip();
                    let replies = send(requests).await;
                    drop(slot);
                    for (caller, reply) in callers.into_iter().zip(replies) {
                        // A caller that is gone has lost interest in the answer, not in the work.
                        let _ = caller.send(reply);
                    }
                });
            }
        });
        Self { requests }
    }

    /// Sends one request and waits for its answer; `None` when the batcher is gone.
    ///
    /// Dropping the future gives up the answer; the request goes on once it is queued.
    pub(crate) async fn send(&self, request: T) -> Option<R> {
        let (caller, answer) = oneshot::channel();
        self.requests.send((request, caller)).await.ok()?;
        answer.await.ok()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;

    #[tokio::test]
    async fn what_arrives_while_a_batch_is_under_way_forms_the_next_one() {
        let sizes = Arc::new(Mutex::new(Vec::new()));
        let gate = Arc::new(Semaphore::new(0));
        let (seen, opened) = (sizes.clone(), gate.clone());
        let bounds = Bounds { queue: 100, batch: 10, in_flight: 1 };
        let batcher = Batcher::spawn(bounds, move |batch: Vec<u32>| {
            let (seen, opened) = (seen.clone(), opened.clone());
            Box::pin(async move {
                seen.lock().unwrap().push(batch.len());
                opened.acquire().await.unwrap().forget();
                batch.iter().map(|n| n * 2).collect()
            })
        });
        let first = tokio::spawn({
            let batcher = batcher.clone();
            async move { batcher.send(0).await }
        });
        while sizes.lock().unwrap().is_empty() {
            tokio::task::yield_now().await;
        }
        let rest = futures::future::join_all((1..=12).map(|n| batcher.send(n)));
        let opener = async {
            tokio::task::yield_now().await;
            gate.add_permits(3);
        };
        let (answers, ()) = futures::join!(rest, opener);
        assert_eq!(first.await.unwrap(), Some(0));
        assert_eq!(answers, (1..=12).map(|n| Some(n * 2)).collect::<Vec<_>>());
        assert_eq!(*sizes.lock().unwrap(), [1, 10, 2]);
    }
}
