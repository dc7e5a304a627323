//! Group commit without a timer: what waits is sent, what arrives meanwhile forms the next batch.
//!
//! Who has a request and finds a lane free sends it himself, alone; while all lanes are busy requests wait in the
//! queue. A lane that has its answer takes what waits, sends it as one batch, hands the answers out and looks again; it
//! is free when nothing waits. Queue and number of busy lanes stand behind one lock, so a lane becomes free either
//! before a request is put into the queue, and then its sender has it, or after it has seen it.
//!
//! So a saga that goes alone sends its commits in its own task: nothing has to be woken between an answer and the next
//! commit.

use std::collections::VecDeque;
use std::fmt;
use std::panic::AssertUnwindSafe;
use std::sync::{Arc, Mutex};

use futures::FutureExt;
use futures::future::BoxFuture;
use tokio::sync::{Semaphore, oneshot};

use super::shared::LOCK;
use crate::in_place::{InPlace, in_place};

/// Gathers requests into batches and hands each batch to one call.
///
/// Bounded everywhere: `queue` requests may wait (further callers wait for room), `lanes` batches of at most
/// `batch` requests are under way.
pub(crate) struct Batcher<T, R> {
    inner: Arc<Inner<T, R>>,
}

impl<T, R> Clone for Batcher<T, R> {
    fn clone(&self) -> Self {
        Self { inner: self.inner.clone() }
    }
}

impl<T, R> fmt::Debug for Batcher<T, R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Batcher").field("bounds", &self.inner.bounds).finish_non_exhaustive()
    }
}

/// How large and how many.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bounds {
    pub(crate) queue: usize,
    pub(crate) batch: usize,
    pub(crate) lanes: usize,
}

/// Requests, each with whoever waits for its answer.
type Batch<T, R> = Vec<(T, oneshot::Sender<R>)>;

type Call<T, R> = dyn Fn(Vec<T>) -> BoxFuture<'static, Vec<R>> + Send + Sync;

struct Inner<T, R> {
    bounds: Bounds,
    /// Places in the queue that are free.
    room: Semaphore,
    state: Mutex<State<T, R>>,
    send: Box<Call<T, R>>,
}

struct State<T, R> {
    waiting: VecDeque<(T, oneshot::Sender<R>)>,
    /// How many lanes are busy.
    busy: usize,
}

impl<T: Send + 'static, R: Send + 'static> Batcher<T, R> {
    /// A batcher whose lanes run as tasks of whichever runtime sends a request.
    ///
    /// `send` must answer every request of its batch, in order; a shorter answer, or a panic, leaves the
    /// rest without an answer, which their callers see as `None`.
    pub(crate) fn new<F>(bounds: Bounds, send: F) -> Self
    where
        F: Fn(Vec<T>) -> BoxFuture<'static, Vec<R>> + Send + Sync + 'static,
    {
        let state = Mutex::new(State { waiting: VecDeque::new(), busy: 0 });
        let room = Semaphore::new(bounds.queue);
        Self { inner: Arc::new(Inner { bounds, room, state, send: Box::new(send) }) }
    }

    /// Sends one request and waits for its answer; `None` when the runtime is shutting down.
    ///
    /// Dropping the future gives up the answer; the request goes on once it is queued.
    pub(crate) async fn send(&self, request: T) -> Option<R> {
        self.inner.room.acquire().await.ok()?.forget();
        match self.inner.enter(request) {
            Entered::Waits(answer) => answer.await.ok(),
            Entered::Sends(alone) => alone.await,
        }
    }
}

/// What became of a request that was brought.
enum Entered<R: Send + 'static> {
    Waits(oneshot::Receiver<R>),
    Sends(InPlace<Option<R>>),
}

impl<T: Send + 'static, R: Send + 'static> Inner<T, R> {
    /// Takes a free lane, or puts the request into the queue.
    fn enter(self: &Arc<Self>, request: T) -> Entered<R> {
        let mut state = self.state.lock().expect(LOCK);
        if state.busy < self.bounds.lanes {
            state.busy += 1;
            Entered::Sends(in_place(self.clone().alone(request)))
        } else {
            let (caller, answer) = oneshot::channel();
            state.waiting.push_back((request, caller));
            Entered::Waits(answer)
        }
    }

    /// Sends the first request of a lane. What has come meanwhile is for a task: the sender goes on with his answer.
    async fn alone(self: Arc<Self>, request: T) -> Option<R> {
        self.room.add_permits(1);
        let reply = self.replies(vec![request]).await.pop();
        if let Some(batch) = self.take() {
            tokio::spawn(self.lane(batch));
        }
        reply
    }

    /// Sends batches until nothing waits.
    async fn lane(self: Arc<Self>, first: Batch<T, R>) {
        let mut next = Some(first);
        while let Some(batch) = next {
            self.room.add_permits(batch.len());
            let (requests, callers): (Vec<T>, Vec<_>) = batch.into_iter().unzip();
            for (caller, reply) in callers.into_iter().zip(self.replies(requests).await) {
                // A caller that is gone has lost interest in the answer, not in the work.
                let _ = caller.send(reply);
            }
            next = self.take();
        }
    }

    /// A panic leaves its batch without answers, and the lane to the others.
    async fn replies(&self, requests: Vec<T>) -> Vec<R> {
        AssertUnwindSafe((self.send)(requests)).catch_unwind().await.unwrap_or_default()
    }

    /// The next batch; without one the lane is free.
    fn take(&self) -> Option<Batch<T, R>> {
        let mut state = self.state.lock().expect(LOCK);
        let count = state.waiting.len().min(self.bounds.batch);
        if count == 0 {
            state.busy -= 1;
            return None;
        }
        Some(state.waiting.drain(..count).collect())
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
        let bounds = Bounds { queue: 100, batch: 10, lanes: 1 };
        let batcher = Batcher::new(bounds, move |batch: Vec<u32>| {
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

    #[tokio::test]
    async fn whoever_goes_away_leaves_his_request_to_be_sent_and_the_lane_to_others() {
        let sent = Arc::new(Mutex::new(Vec::<u32>::new()));
        let gate = Arc::new(Semaphore::new(0));
        let (seen, opened) = (sent.clone(), gate.clone());
        let bounds = Bounds { queue: 2, batch: 10, lanes: 1 };
        let batcher = Batcher::new(bounds, move |batch: Vec<u32>| {
            let (seen, opened) = (seen.clone(), opened.clone());
            Box::pin(async move {
                opened.acquire().await.unwrap().forget();
                seen.lock().unwrap().extend(&batch);
                batch
            })
        });
        for n in 1..=3 {
            let mut send = Box::pin(batcher.send(n));
            assert!(futures::poll!(&mut send).is_pending());
        }
        gate.add_permits(3);
        assert_eq!(batcher.send(4).await, Some(4));
        assert_eq!(*sent.lock().unwrap(), [1, 2, 3, 4], "the first alone, and what was queued behind it");
        assert_eq!(batcher.inner.room.available_permits(), 2, "every place is free again");
    }

    #[tokio::test]
    async fn a_panic_costs_its_batch_the_answer_and_nobody_else() {
        let bounds = Bounds { queue: 100, batch: 1, lanes: 1 };
        let batcher = Batcher::new(bounds, |batch: Vec<u32>| {
            Box::pin(async move {
                assert!(batch[0] != 2, "this batch panics on purpose");
                batch
            })
        });
        let answers = futures::future::join_all((1..=3).map(|n| batcher.send(n))).await;
        assert_eq!(answers, [Some(1), None, Some(3)]);
    }

    #[tokio::test]
    async fn a_full_queue_makes_its_callers_wait_and_loses_none() {
        let bounds = Bounds { queue: 2, batch: 2, lanes: 1 };
        let batcher = Batcher::new(bounds, |batch: Vec<u32>| {
            Box::pin(async move {
                tokio::task::yield_now().await;
                batch
            })
        });
        let answers = futures::future::join_all((0..50).map(|n| batcher.send(n))).await;
        assert_eq!(answers, (0..50).map(Some).collect::<Vec<_>>());
        assert_eq!(batcher.inner.room.available_permits(), 2, "every place is free again");
    }
}
