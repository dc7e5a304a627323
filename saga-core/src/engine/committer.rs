//! Sends batches of commits until it is known what became of each.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::batcher::{Batcher, Bounds};
use crate::clock::Clock;
use crate::store::{Commit, CommitReply, Error, Fence, Mail, Store};

/// What became of one commit.
#[derive(Debug, Clone)]
pub(crate) enum Settled {
    /// It is durable; with it comes the run's unconsumed mail.
    Committed(Vec<Mail>),
    /// It starts the pivot, and this unread mail comes first; nothing was written.
    Unread(Vec<Mail>),
    /// Another worker wrote that number: the saga is not ours.
    Refused,
    /// The database refuses this saga's data, for the reason given; nothing was written.
    Faulty(String),
    /// The worker lost its right to commit, or its lease ran out before an answer came.
    Lost,
}

pub(crate) type Committer = Batcher<Commit, Settled>;

const QUEUE: usize = 4096;
const BATCH: usize = 512;
/// A batch that fails after so long was too much at once, or the store hangs, and then halves cost nothing.
const LONG: Duration = Duration::from_secs(2);

/// Starts a committer for one incarnation. `lost` is cancelled when the store says that the worker was
/// fenced; once it is cancelled, by whomever, nothing is sent again.
pub(crate) fn spawn(store: Arc<dyn Store>, fence: Fence, lost: CancellationToken, clock: Clock) -> Committer {
    let bounds = Bounds { queue: QUEUE, batch: BATCH, lanes: store.lanes() };
    Batcher::new(bounds, move |commits| {
        let (store, lost, clock) = (store.clone(), lost.clone(), clock.clone());
        Box::pin(async move {
            let settled =
                AssertUnwindSafe(settle(&*store, fence, &commits, &lost, &clock)).catch_unwind().await;
            settled.unwrap_or_else(|_| {
                // Nobody knows what was written, and who waits for it would drive nothing any more.
                tracing::error!("the store panicked in a commit; the worker joins again as another");
                lost.cancel();
                vec![Settled::Lost; commits.len()]
            })
        })
    })
}

/// Repeats the identical batch until the store gives a definite answer: a commit that became durable
/// although its answer was lost is recognised as our own. When the data is refused the batch is cut in
/// two, so that one bad saga never harms its neighbours; and when it was long in vain, because what is too much
/// for one statement would be so for ever.
fn settle<'a>(
    store: &'a dyn Store,
    fence: Fence,
    commits: &'a [Commit],
    lost: &'a CancellationToken,
    clock: &'a Clock,
) -> BoxFuture<'a, Vec<Settled>> {
    Box::pin(async move {
        let mut pause = Duration::from_millis(5);
        loop {
            if lost.is_cancelled() {
                return vec![Settled::Lost; commits.len()];
            }
            let began = Instant::now();
            match store.commit(fence, commits).await {
                Ok(replies) => return replies.into_iter().map(settled).collect(),
                Err(Error::Fenced) => {
                    lost.cancel();
                    return vec![Settled::Lost; commits.len()];
                }
                Err(Error::Refused(why)) if commits.len() == 1 => return vec![Settled::Faulty(why)],
                Err(Error::Refused(_)) => return halved(store, fence, commits, lost, clock).await,
                Err(error) => {
                    tracing::warn!(%error, commits = commits.len(), "the batch is sent again");
                    if commits.len() > 1 && began.elapsed() >= LONG {
                        return halved(store, fence, commits, lost, clock).await;
                    }
                    let jittered = pause.mul_f64(0.5 + clock.jitter() / 2.0);
                    let _ = tokio::time::timeout(jittered, lost.cancelled()).await;
                    pause = (pause * 2).min(Duration::from_secs(1));
                }
            }
        }
    })
}

async fn halved(
    store: &dyn Store,
    fence: Fence,
    commits: &[Commit],
    lost: &CancellationToken,
    clock: &Clock,
) -> Vec<Settled> {
    let (left, right) = commits.split_at(commits.len() / 2);
    let mut all = settle(store, fence, left, lost, clock).await;
    all.extend(settle(store, fence, right, lost, clock).await);
    all
}

fn settled(reply: CommitReply) -> Settled {
    match reply {
        CommitReply::Committed { mail } => Settled::Committed(mail),
        CommitReply::Unread { mail } => Settled::Unread(mail),
        CommitReply::Refused => Settled::Refused,
    }
}
