//! The leased guarantee: for effects outside the database.
//!
//! # States
//!
//! ```text
//!             claim                complete
//!   (no row) ───────► running ─────────────────► kept, until it expires
//!       ▲               │  │ renew, while the handler runs
//!       └── release ────┘  │
//!     (nothing was begun)  │ the lease ends, or the handler ended without saying what took effect
//!                          ▼
//!                       in doubt ──► Unknown | resolved by a hook | run again
//! ```
//!
//! # Who may do what
//!
//! Only the holder of the ticket may renew, complete, release or abandon, and the store checks it by the
//! claim's stamp in the same atomic operation that writes. A holder whose lease has run out still holds, until
//! somebody takes over; from then on all its operations answer *lost*.
//!
//! # Clocks
//!
//! A lease's end is written and compared by the store's clock alone. This process uses its own (monotonic)
//! clock only to decide when to renew: three times per lease. If it is wrong about that, renewals are early or
//! late, and nothing else.
//!
//! # Failure
//!
//! - *The process dies*: the lease runs out, and the key is in doubt. A lease that ran out is not proof of
//!   death, and death is not proof that nothing happened: so nothing is ever run again silently.
//! - *The claim's answer is lost*: it is asked again with the same stamp. If the store stays silent, the claim
//!   is withdrawn in the background, since nothing was begun under it.
//! - *The completion's answer is lost*: it is repeated; repeating it changes nothing.
//! - *The client goes away*: nothing changes. All this goes on without it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;

use crate::claim::{Claim, ClaimRequest, Ticket, Verdict};
use crate::store::{Held, Store, StoreError, StoreErrorKind};

/// How a ticket ends.
#[derive(Clone, Debug)]
pub(crate) enum End {
    /// This is the outcome.
    Keep { verdict: Verdict, answer: Bytes, keep: Duration },
    /// Nothing took effect.
    Release,
    /// Nobody knows.
    Doubt,
}

/// Pauses between the attempts of one operation: a store that fails over needs seconds, a lost packet none.
const PAUSES: [Duration; 4] = [
    Duration::from_millis(10),
    Duration::from_millis(100),
    Duration::from_millis(400),
    Duration::from_millis(1500),
];

/// Claims; asks again, with the same stamp, when the answer was lost.
pub(crate) async fn claim(store: &Arc<dyn Store>, request: &ClaimRequest) -> Result<Claim, StoreError> {
    // Only the short pauses: the caller is waiting, and 503 is an honest answer.
    let error = match repeat(&PAUSES[..2], || store.claim(request)).await {
        Ok(claim) => return Ok(claim),
        Err(error) => error,
    };
    tracing::warn!(key = ?request.id, %error, "the idempotency store did not answer a claim");
    if error.kind() == StoreErrorKind::Unavailable {
        tokio::spawn(withdraw(store.clone(), request.clone()));
    }
    Err(error)
}

/// Frees a claim that may have been given out although its answer never came. Without this the key would be
/// in doubt once the lease is over, although nothing was begun.
async fn withdraw(store: Arc<dyn Store>, request: ClaimRequest) {
    let result = repeat(&PAUSES, || async {
        match store.claim(&request).await? {
            Claim::Acquired(ticket) => store.release(&ticket).await.map(drop),
            _ => Ok(()),
        }
    });
    if let Err(error) = result.await {
        tracing::warn!(key = ?request.id, %error, "a claim could not be withdrawn; the key may be in doubt");
    }
}

/// Ends a ticket; repeats it when the answer was lost.
pub(crate) async fn end(store: &Arc<dyn Store>, ticket: &Ticket, end: &End) -> Result<Held, StoreError> {
    let result = repeat(&PAUSES, || async {
        match end {
            End::Keep { verdict, answer, keep } => {
                store.complete(ticket, *verdict, answer.clone(), *keep).await
            }
            End::Release => store.release(ticket).await,
            End::Doubt => store.abandon(ticket).await,
        }
    });
    result.await.inspect_err(|error| {
        tracing::error!(key = ?ticket.id(), %error, "an outcome could not be kept; the key will be in doubt");
    })
}

async fn repeat<T, F, O>(pauses: &[Duration], operation: F) -> Result<T, StoreError>
where
    F: Fn() -> O,
    O: Future<Output = Result<T, StoreError>>,
{
    let mut pauses = pauses.iter();
    loop {
        match (operation().await, pauses.next()) {
            (Err(error), Some(pause)) if error.kind() == StoreErrorKind::Unavailable => {
                tokio::time::sleep(*pause).await;
            }
            (result, _) => return result,
        }
    }
}

/// Runs `work` while the claim is renewed. Sets `lost` when somebody else has taken it over; the work goes on,
/// because what it has begun outside is begun.
pub(crate) async fn hold<W: Future>(
    store: &Arc<dyn Store>,
    ticket: &Ticket,
    lost: &AtomicBool,
    work: W,
) -> W::Output {
    let renewals = async {
        let mut pause = ticket.lease / 3;
        loop {
            tokio::time::sleep(pause).await;
            // In a task of its own: it ends whole, even if the work is done meanwhile.
            let (store, ticket) = (store.clone(), ticket.clone());
            let key = *ticket.id();
            let lease = ticket.lease;
            let renewal = tokio::spawn(async move { store.renew(&ticket).await });
            pause = match renewal.await {
                Ok(Ok(Held::Yes)) => lease / 3,
                Ok(Ok(Held::Lost)) => {
                    lost.store(true, Ordering::Release);
                    tracing::warn!(?key, "a claim was taken over while its handler runs");
                    return std::future::pending().await;
                }
                Ok(Err(error)) => {
                    tracing::warn!(?key, %error, "a claim could not be renewed");
                    (lease / 12).max(Duration::from_millis(1))
                }
                Err(_) => return std::future::pending::<std::convert::Infallible>().await,
            };
        }
    };
    tokio::select! {
        biased;
        output = work => output,
        never = renewals => match never {},
    }
}
