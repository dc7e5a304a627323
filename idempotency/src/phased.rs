//! The phased guarantee: an operation with several outside calls, cut into atomic phases.
//!
//! # States
//!
//! An operation is a row of the [leased](crate::leased) guarantee with a *recovery point*: the phase that comes
//! next, and what that phase needs to know. A phase ends by moving the point, or with the operation's result.
//!
//! ```text
//!   claim ──► create ──point──► charge ──point──► confirm ──► done
//!               │                 │                  │
//!               └── dies here: the lease runs out; whoever comes next, a duplicate request or the completer,
//!                   goes on at the last point
//! ```
//!
//! There are two kinds of phase:
//!
//! - A **transaction** ([`Phased::transaction`], SQL stores): its rows and the new point become true in one
//!   commit, or not at all. The point's write is fenced and is its last statement, so a holder that was taken
//!   over commits nothing. It makes no outside calls.
//! - An **outside** phase ([`Phased::phase`]): calls others. It may be cut off anywhere and is then run again from
//!   its beginning, so its calls must be idempotent under [`Cx::downstream_key`], which is the same each time
//!   and is never the caller's own key. One call per phase is a good habit.
//!
//! # Failure
//!
//! A phase that fails leaves the operation at its point; the caller gets the error, and the completer tries
//! again. After [`attempts_max`](Phased::attempts_max) claims it is left alone, in doubt, for a person: it is
//! counted by [`Store::count`](crate::Store::count), and each pass of the completer that meets it warns. Whoever
//! goes on with an operation is told by [`Cx::in_doubt`] that its phase may have been begun before.
//!
//! # Clocks
//!
//! As in the leased guarantee: only the store's.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::FutureExt;
use futures::future::BoxFuture;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::claim::{Claim, ClaimRequest, Direction, InDoubt, Put, Ticket, Verdict};
use crate::leased::{self, End, hold};
use crate::metrics::{self, Outcome};
use crate::once::{Cx, OnceError, Ran};
use crate::row::Point;
use crate::seal::Place;
use crate::store::{Change, Expected, Swap};
use crate::trace::traced;
use crate::{Answer, Content, Fingerprint, Held, Key, KeyId, Scope, Seal, Secret, Store, StoreError};

mod completer;

pub use completer::Completed;

/// Any error of a phase.
pub type PhaseError = Box<dyn std::error::Error + Send + Sync>;

/// How a phase ends.
#[derive(Clone, Debug)]
pub enum Next<S, O> {
    /// On to the phase of this name, with what it needs to know.
    Go(&'static str, S),
    /// The operation is done, with this result.
    Done(O),
}

/// A phased operation on a store: see [the module](self).
///
/// `S` is what a phase needs to know, usually an enum or a struct that fills up; `O` is the result. Both are
/// stored as JSON, so a later release must still read what an earlier one wrote.
pub struct Phased<P, S, O> {
    name: String,
    store: P,
    erased: Arc<dyn Store>,
    secret: Secret,
    scope: Scope,
    lease: Duration,
    keep: Duration,
    attempts_max: u64,
    seal: Seal,
    phases: Vec<(&'static str, Phase<P, S, O>)>,
}

/// Runs one phase. `Some` row: the phase's own transaction has written it.
type Phase<P, S, O> =
    Arc<dyn Fn(P, Cx, Ticket, S, Settle<S, O>) -> BoxFuture<'static, Result<Step<O>, Failure>> + Send + Sync>;

/// Makes the row that a phase's end asks for.
type Settle<S, O> = Arc<dyn Fn(&Ticket, &Next<S, O>) -> Result<Put, serde_json::Error> + Send + Sync>;

#[allow(clippy::large_enum_variant, reason = "returned and matched at once")]
enum Step<O> {
    /// The claim goes on under this ticket.
    On(Ticket),
    Done(O),
    Lost,
}

#[derive(Debug)]
enum Failure {
    Phase(PhaseError),
    Store(StoreError),
    Unreadable(serde_json::Error),
}

impl<P, S, O> Phased<P, S, O>
where
    P: Store + Clone,
    S: Serialize + DeserializeOwned + Send + 'static,
    O: Serialize + DeserializeOwned + Send + 'static,
{
    /// An operation of this name. The first phase that is added is the one that it begins with.
    pub fn new(name: impl Into<String>, store: P, secret: Secret, scope: Scope) -> Self {
        Self {
            name: name.into(),
            erased: Arc::new(store.clone()),
            store,
            secret,
            scope,
            lease: Duration::from_secs(30),
            keep: Duration::from_secs(24 * 3600),
            attempts_max: 25,
            seal: Seal::none(),
            phases: Vec::new(),
        }
    }

    /// How long a claim outlives its holder. Default: 30 s; it is renewed while a phase runs.
    pub fn lease(mut self, lease: Duration) -> Self {
        self.lease = lease.max(Duration::from_millis(10));
        self
    }

    /// How long a result is kept. Default: 24 h.
    pub fn keep_for(mut self, keep: Duration) -> Self {
        self.keep = keep;
        self
    }

    /// How often an operation is claimed before the completer leaves it to a person. Default: 25.
    pub fn attempts_max(mut self, attempts_max: u64) -> Self {
        self.attempts_max = attempts_max;
        self
    }

    /// Encrypts recovery points and results.
    #[cfg(feature = "seal")]
    pub fn sealed(mut self, seal: Seal) -> Self {
        self.seal = seal;
        self
    }

    /// Adds a phase that calls others. It is run again from its beginning when it is cut off.
    pub fn phase<F, W>(mut self, name: &'static str, work: F) -> Self
    where
        F: Fn(Cx, S) -> W + Send + Sync + 'static,
        W: Future<Output = Result<Next<S, O>, PhaseError>> + Send + 'static,
    {
        let work = Arc::new(work);
        let phase: Phase<P, S, O> = Arc::new(move |store, cx, ticket, state, settle| {
            let work = work.clone();
            Box::pin(async move {
                let next = work(cx, state).await.map_err(Failure::Phase)?;
                let put = settle(&ticket, &next).map_err(Failure::Unreadable)?;
                let row = put.row.clone();
                let expected = Expected::Held(ticket.row.stamp);
                let held = match store
                    .swap(&ticket.id, &expected, &Change::Put(put))
                    .await
                    .map_err(Failure::Store)?
                {
                    Swap::Done => Held::Yes,
                    // Its own answer may have been lost before.
                    Swap::Other { dated, .. } if dated.as_ref().is_some_and(|dated| dated.row == row) => {
                        Held::Yes
                    }
                    Swap::Other { .. } => Held::Lost,
                };
                Ok(step(held, Ticket { row, ..ticket }, next))
            })
        });
        self.phases.push((name, phase));
        self
    }

    /// Runs the operation under `key` from its first phase, or goes on with it where an earlier attempt stopped.
    /// The same key with another `input` is a mismatch.
    ///
    /// # Cancellation
    /// Dropping the future stops waiting, not the operation: it goes on in a task of its own.
    pub async fn run(&self, key: &Key, input: S) -> Result<Ran<O>, OnceError<PhaseError>> {
        let unreadable = |what| move |source| OnceError::Unreadable { what, source };
        let id = self.secret.key_id(&self.scope, key);
        let input = serde_json::to_vec(&input).map_err(unreadable("the input"))?;
        let fingerprint = Fingerprint::new(&self.secret, b"phased", self.name.as_bytes(), &input);
        let first = self.phases.first().expect("an operation has at least one phase").0;
        let request = ClaimRequest {
            lease: self.lease,
            // It goes on where it stopped: that is what phases are for.
            in_doubt: InDoubt::RunAgain,
            point: Some(self.point(&id, first, input)),
            ..ClaimRequest::new(id, fingerprint)
        };
        let own = self.clone();
        let task = tokio::spawn(traced(&id, Direction::Action, async move {
            let claim = leased::claim(&own.erased, &request).await;
            match claim.inspect_err(|_| metrics::count(Outcome::StoreError))? {
                Claim::Acquired(ticket) => Box::pin(own.go_on(ticket)).await,
                claim => own.read(&id, claim),
            }
        }));
        task.await.unwrap_or(Err(OnceError::Panicked))
    }

    /// Runs phase after phase from the ticket's recovery point.
    async fn go_on(self, mut ticket: Ticket) -> Result<Ran<O>, OnceError<PhaseError>> {
        let taken_over = ticket.fence() > 1;
        loop {
            let failure = match self.next(&ticket).await {
                Ok(Step::Done(result)) => {
                    metrics::count(if taken_over { Outcome::TakenOver } else { Outcome::Executed });
                    return Ok(Ran::First(result));
                }
                Ok(Step::On(next)) => {
                    ticket = next;
                    continue;
                }
                Ok(Step::Lost) => return Err(OnceError::InFlight { retry_after: self.lease }),
                Err(failure) => failure,
            };
            // If the phase's own write has landed after all, this ticket is no longer the one that counts, and
            // giving it up changes nothing.
            let _ = leased::end(&self.erased, &ticket, &End::Doubt).await;
            metrics::count(Outcome::Unknown);
            return Err(failure);
        }
    }

    async fn next(&self, ticket: &Ticket) -> Result<Step<O>, OnceError<PhaseError>> {
        let unreadable = |source| OnceError::Unreadable { what: "the recovery point", source };
        let lost =
            |what: &str| OnceError::Failed(PhaseError::from(format!("{what} of operation {:?}", self.name)));
        let point = ticket.row.point.as_ref().filter(|point| point.operation == self.name);
        let point = point.ok_or_else(|| lost("no recovery point"))?;
        let phase = self.find(&point.phase);
        let phase =
            phase.ok_or_else(|| lost(&format!("no phase {:?} (of another release?)", point.phase)))?;
        let memo =
            self.seal.open(&point.memo, place(&ticket.id)).ok_or_else(|| lost("an unreadable seal"))?;
        let state: S = serde_json::from_slice(&memo).map_err(unreadable)?;
        let cx = Cx::new(ticket, &self.secret, None);
        let lost = cx.lost_flag();
        let own = self.clone();
        let settle: Settle<S, O> = Arc::new(move |ticket, next| own.settle(ticket, next));
        let work =
            AssertUnwindSafe(phase(self.store.clone(), cx, ticket.clone(), state, settle)).catch_unwind();
        match hold(&self.erased, ticket, &lost, work).await {
            Ok(Ok(step)) => Ok(step),
            Ok(Err(Failure::Phase(error))) => Err(OnceError::Failed(error)),
            Ok(Err(Failure::Store(error))) => Err(OnceError::Store(error)),
            Ok(Err(Failure::Unreadable(source))) => {
                Err(OnceError::Unreadable { what: "the phase's result", source })
            }
            Err(_panic) => Err(OnceError::Panicked),
        }
    }

    fn find(&self, phase: &str) -> Option<&Phase<P, S, O>> {
        self.phases.iter().find(|(name, _)| *name == phase).map(|(_, phase)| phase)
    }

    fn settle(&self, ticket: &Ticket, next: &Next<S, O>) -> Result<Put, serde_json::Error> {
        Ok(match next {
            Next::Go(phase, state) => {
                let point = self.point(&ticket.id, phase, serde_json::to_vec(state)?);
                Put { row: ticket.advanced(point).row, lease: Some(ticket.lease), keep: None, fresh: false }
            }
            Next::Done(result) => {
                let answer = Answer::new(200, serde_json::to_vec(result)?).encode();
                let answer = self.seal.close(answer, place(&ticket.id));
                let row = ticket.completed(Verdict::Applied, answer);
                Put { row, lease: None, keep: Some(self.keep), fresh: false }
            }
        })
    }

    fn point(&self, id: &KeyId, phase: &str, memo: Vec<u8>) -> Point {
        let memo = self.seal.close(Bytes::from(memo), place(id));
        Point { operation: self.name.clone(), phase: phase.to_owned(), memo }
    }

    fn read(&self, id: &KeyId, claim: Claim) -> Result<Ran<O>, OnceError<PhaseError>> {
        metrics::count(match &claim {
            Claim::Replay(_) => Outcome::Replayed,
            Claim::InFlight { .. } => Outcome::InFlight,
            Claim::Mismatch { .. } => Outcome::Mismatch,
            Claim::Ruled(_) => Outcome::Ruled,
            Claim::Unknown { .. } | Claim::Acquired(_) => Outcome::Unknown,
        });
        match claim {
            Claim::Replay(kept) => {
                let answer = self.seal.open(&kept.answer, place(id)).and_then(|plain| Answer::decode(&plain));
                let body = match answer.map(|answer| answer.body) {
                    Some(Content::Kept(body)) => body,
                    _ => Bytes::new(),
                };
                let result = serde_json::from_slice(&body);
                result
                    .map(Ran::Replayed)
                    .map_err(|source| OnceError::Unreadable { what: "the kept result", source })
            }
            Claim::InFlight { retry_after } => Err(OnceError::InFlight { retry_after }),
            Claim::Mismatch { part } => Err(OnceError::Mismatch { part }),
            Claim::Unknown { .. } | Claim::Ruled(_) | Claim::Acquired(_) => Err(OnceError::Unknown),
        }
    }
}

#[cfg(any(feature = "postgres", feature = "sqlite"))]
impl<P, S, O> Phased<P, S, O>
where
    P: crate::fused::FusedStore,
    S: Serialize + DeserializeOwned + Send + 'static,
    O: Serialize + DeserializeOwned + Send + 'static,
{
    /// Adds a phase that is one transaction of the store's database: what it writes, and the recovery point
    /// behind it, become true together. It is lent the transaction and must have given it back when it returns.
    pub fn transaction<F, W>(mut self, name: &'static str, work: F) -> Self
    where
        F: Fn(Cx, crate::fused::Tx<P::Db>, S) -> W + Send + Sync + 'static,
        W: Future<Output = Result<Next<S, O>, PhaseError>> + Send + 'static,
    {
        let work = Arc::new(work);
        let phase: Phase<P, S, O> = Arc::new(move |store: P, cx, ticket, state, settle| {
            let work = work.clone();
            Box::pin(async move {
                let slot = crate::fused::Slot::new(store.begin().await.map_err(Failure::Store)?);
                let tx = slot.lend().expect("a new slot has its transaction");
                let next = work(cx, tx, state).await;
                let kept = || Failure::Phase("the phase kept its Tx beyond its end".into());
                let mut transaction = slot.close().ok_or_else(kept)?;
                // Dropping the transaction rolls it back.
                let next = next.map_err(Failure::Phase)?;
                let put = settle(&ticket, &next).map_err(Failure::Unreadable)?;
                let row = put.row.clone();
                let held = store.put_in(&mut transaction, &ticket, put).await.map_err(Failure::Store)?;
                let unavailable = |error| Failure::Store(StoreError::unavailable("phased", error));
                match held {
                    Held::Yes => transaction.commit().await.map_err(unavailable)?,
                    Held::Lost => transaction.rollback().await.map_err(unavailable)?,
                }
                Ok(step(held, Ticket { row, ..ticket }, next))
            })
        });
        self.phases.push((name, phase));
        self
    }
}

fn step<S, O>(held: Held, ticket: Ticket, next: Next<S, O>) -> Step<O> {
    match (held, next) {
        (Held::Lost, _) => Step::Lost,
        (Held::Yes, Next::Go(..)) => Step::On(ticket),
        (Held::Yes, Next::Done(result)) => Step::Done(result),
    }
}

/// A completer has no caller's key.
fn place(id: &KeyId) -> Place<'_> {
    Place { id, direction: Direction::Action, caller_key: b"" }
}

impl<P: Clone, S, O> Clone for Phased<P, S, O> {
    fn clone(&self) -> Self {
        Self {
            name: self.name.clone(),
            store: self.store.clone(),
            erased: self.erased.clone(),
            secret: self.secret.clone(),
            scope: self.scope.clone(),
            lease: self.lease,
            keep: self.keep,
            attempts_max: self.attempts_max,
            seal: self.seal.clone(),
            phases: self.phases.clone(),
        }
    }
}

impl<P, S, O> std::fmt::Debug for Phased<P, S, O> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let phases: Vec<_> = self.phases.iter().map(|(name, _)| name).collect();
        f.debug_struct("Phased").field("name", &self.name).field("phases", &phases).finish_non_exhaustive()
    }
}
