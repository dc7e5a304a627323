//! Starts sagas: in batches of their own, because a start may have to wait for somebody's open
//! transaction over the same id, and progress must not wait with it.

use std::sync::Arc;
use std::time::Duration;

use super::batcher::{Batcher, Bounds};
use crate::clock::Clock;
use crate::store::{Error, Fence, Start, StartReply, Store};

/// Sends batches of starts.
pub(crate) type Starter = Batcher<Start, Result<StartReply, Error>>;

const QUEUE: usize = 4096;
const BATCH: usize = 512;

/// How often an unavailable store is asked again before the caller hears of it: about two seconds, where it says so
/// at once.
const TRIES: u32 = 6;
/// It is not asked again after this long, where it does not.
const PATIENCE: Duration = Duration::from_secs(5);

/// Starts a starter. With a fence, starts may be owned by that worker.
pub(crate) fn spawn(store: Arc<dyn Store>, fence: Option<Fence>, clock: Clock) -> Starter {
    let bounds = Bounds { queue: QUEUE, batch: BATCH, lanes: store.lanes() };
    Batcher::new(bounds, move |starts: Vec<Start>| {
        let (store, clock) = (store.clone(), clock.clone());
        Box::pin(async move { send(&*store, fence, &starts, &clock).await })
    })
}

async fn send(
    store: &dyn Store,
    fence: Option<Fence>,
    starts: &[Start],
    clock: &Clock,
) -> Vec<Result<StartReply, Error>> {
    let mut pause = Duration::from_millis(30);
    let began = tokio::time::Instant::now();
    for attempt in 1.. {
        match store.start(fence, starts).await {
            Ok(replies) => return replies.into_iter().map(Ok).collect(),
            Err(error) if error.is_transient() && attempt < TRIES && began.elapsed() < PATIENCE => {
                tokio::time::sleep(pause.mul_f64(0.5 + clock.jitter() / 2.0)).await;
                pause *= 2;
            }
            // One start whose data is refused must not fail its neighbours.
            Err(Error::Refused(_)) if starts.len() > 1 => {
                let (left, right) = starts.split_at(starts.len() / 2);
                let mut all = Box::pin(send(store, fence, left, clock)).await;
                all.extend(Box::pin(send(store, fence, right, clock)).await);
                return all;
            }
            Err(error) => return vec![Err(error); starts.len()],
        }
    }
    unreachable!("the loop returns")
}
