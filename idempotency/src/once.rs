//! Running any piece of work once: for message handlers, jobs and scripts.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use bytes::Bytes;
use futures::FutureExt;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::barrier::Call;
use crate::claim::{Claim, ClaimRequest, Direction, InDoubt, Kept, Ruling, Ticket, Verdict};
use crate::leased::{self, End, hold};
use crate::metrics::{self, Outcome};
use crate::seal::Place;
use crate::trace::traced;
use crate::{Answer, Content, Fingerprint, Held, Key, KeyId, Part, Scope, Seal, Secret, Store, StoreError};

/// Runs work once per key, under the [leased](crate::leased) guarantee.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// use idempotency::once::{Failed, Once, Ran};
/// use idempotency::{Key, MemoryStore, Scope, Secret};
///
/// let once = Once::new(MemoryStore::new(), Secret::new([7; 32]), Scope::of(["mailer"]));
/// let key = Key::new("welcome/alice")?;
/// for _ in 0..2 {
///     let ran = once
///         .run(&key, "send-welcome", &"alice@example.org", |_| async {
///             // … send the mail …
///             Ok::<_, Failed<std::io::Error>>("message-1".to_owned())
///         })
///         .await?;
///     assert_eq!(ran.into_inner(), "message-1");
/// }
/// # Ok(()) }
/// ```
#[derive(Clone, Debug)]
pub struct Once {
    store: Arc<dyn Store>,
    secret: Secret,
    scope: Scope,
    lease: Duration,
    keep: Duration,
    keep_barrier: Duration,
    in_doubt: InDoubt,
    undo_by_key: bool,
    seal: Seal,
}

/// The result of work, and whether this call was the one that did it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ran<T> {
    /// It ran now.
    First(T),
    /// It ran before; this is what it gave.
    Replayed(T),
}

impl<T> Ran<T> {
    /// The result.
    pub fn into_inner(self) -> T {
        match self {
            Self::First(value) | Self::Replayed(value) => value,
        }
    }
}

/// What became of a saga's call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stepped<T> {
    /// It ran, now or before.
    Ran(Ran<T>),
    /// The barrier has decided without running it.
    Ruled(Ruling),
}

/// How work failed. `?` on any error makes it [`Unknown`](Self::Unknown): what is definite takes a word.
#[derive(Debug)]
pub enum Failed<E> {
    /// Nothing took effect and nothing will: the key is free again.
    NotApplied(E),
    /// Something may have taken effect: the key is in doubt.
    Unknown(E),
}

impl<E> From<E> for Failed<E> {
    fn from(error: E) -> Self {
        Self::Unknown(error)
    }
}

/// Why work did not give a result.
#[derive(Debug, thiserror::Error)]
pub enum OnceError<E> {
    /// Somebody else is running it.
    #[error("it is running elsewhere; ask again in {} ms", retry_after.as_millis())]
    InFlight {
        /// When its lease ends, if it is not renewed.
        retry_after: Duration,
    },
    /// The key was used for something else: a mistake in the calling program.
    #[error("the key was used for something else: the {part} differs")]
    Mismatch {
        /// What differs.
        part: Part,
    },
    /// An attempt was begun and nobody knows how it ended.
    #[error("an attempt was begun and its outcome is not known")]
    Unknown,
    /// The work failed, and nothing took effect.
    #[error("the work failed without effect: {0}")]
    NotApplied(E),
    /// The work failed, and something may have taken effect.
    #[error("the work failed, and may have taken effect: {0}")]
    Failed(E),
    /// The work panicked: something may have taken effect.
    #[error("the work panicked, and may have taken effect")]
    Panicked,
    /// The store did not answer. Unless the work had run, nothing was begun.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The input or the result cannot be encoded, or the kept result not decoded.
    #[error("{what} is not readable: {source}")]
    Unreadable {
        /// What.
        what: &'static str,
        /// Why.
        source: serde_json::Error,
    },
}

/// What the work may know about its execution.
#[derive(Clone, Debug)]
pub struct Cx {
    id: KeyId,
    direction: Direction,
    fence: u64,
    in_doubt: bool,
    secret: Secret,
    lost: Arc<AtomicBool>,
    action_answer: Option<Bytes>,
}

impl Cx {
    pub(crate) fn new(ticket: &Ticket, secret: &Secret, action_answer: Option<Bytes>) -> Self {
        Self {
            id: *ticket.id(),
            direction: ticket.direction(),
            fence: ticket.fence(),
            in_doubt: ticket.in_doubt(),
            secret: secret.clone(),
            lost: Arc::default(),
            action_answer,
        }
    }

    pub(crate) fn lost_flag(&self) -> Arc<AtomicBool> {
        self.lost.clone()
    }

    /// What stores and logs know the key by.
    pub fn id(&self) -> &KeyId {
        &self.id
    }

    /// Which half of a saga's step this is.
    pub fn direction(&self) -> Direction {
        self.direction
    }

    /// Rises with every claim of this key: hand it to whoever can refuse an older one.
    pub fn fence(&self) -> u64 {
        self.fence
    }

    /// Whether an earlier attempt may have taken effect.
    pub fn in_doubt(&self) -> bool {
        self.in_doubt
    }

    /// Whether somebody else has taken the claim over: what is not yet begun had better not be.
    pub fn lost(&self) -> bool {
        self.lost.load(std::sync::atomic::Ordering::Acquire)
    }

    /// A key for a call to somebody else, the same for every attempt.
    pub fn downstream_key(&self, call: &str) -> Key {
        self.secret.downstream_key(&self.id, call)
    }

    /// In a compensation: what the action gave, if it is known.
    pub fn action_result<T: DeserializeOwned>(&self) -> Option<T> {
        serde_json::from_slice(self.action_answer.as_ref()?).ok()
    }
}

impl Once {
    /// On a store, in a scope.
    pub fn new(store: impl Store, secret: Secret, scope: Scope) -> Self {
        Self {
            store: Arc::new(store),
            secret,
            scope,
            lease: Duration::from_secs(30),
            keep: Duration::from_secs(24 * 3600),
            keep_barrier: Duration::from_secs(90 * 24 * 3600),
            in_doubt: InDoubt::Unknown,
            undo_by_key: false,
            seal: Seal::none(),
        }
    }

    /// How long a claim outlives its holder. Default: 30 s; it is renewed while the work runs.
    pub fn lease(mut self, lease: Duration) -> Self {
        self.lease = lease.max(Duration::from_millis(10));
        self
    }

    /// How long a result is kept. Default: 24 h, and 90 days for a saga's calls.
    pub fn keep_for(mut self, keep: Duration) -> Self {
        (self.keep, self.keep_barrier) = (keep, self.keep_barrier.max(keep));
        self
    }

    /// What becomes of work in doubt. Default: [`OnceError::Unknown`].
    pub fn in_doubt(mut self, in_doubt: InDoubt) -> Self {
        self.in_doubt = in_doubt;
        self
    }

    /// Says that compensations can undo, or refuse, their action by its key even if nobody knows how it ended.
    pub fn undo_by_key(mut self) -> Self {
        self.undo_by_key = true;
        self
    }

    /// Encrypts kept results.
    #[cfg(feature = "seal")]
    pub fn sealed(mut self, seal: Seal) -> Self {
        self.seal = seal;
        self
    }

    /// Runs `work` if it has not run under `key`. `operation` and `input` say what is asked; the same key for
    /// something else is a mismatch.
    ///
    /// # Cancellation
    /// Dropping the future stops waiting, not the work: it runs to its end in a task of its own.
    pub async fn run<I, T, E, F, O>(
        &self,
        key: &Key,
        operation: &str,
        input: &I,
        work: F,
    ) -> Result<Ran<T>, OnceError<E>>
    where
        I: Serialize + ?Sized,
        T: Serialize + DeserializeOwned + Send + 'static,
        E: Send + 'static,
        F: FnOnce(Cx) -> O + Send + 'static,
        O: Future<Output = Result<T, Failed<E>>> + Send + 'static,
    {
        let id = self.secret.key_id(&self.scope, key);
        let job = self.job(id, Direction::Action, Some(key.clone()), operation, input)?;
        match job.run(work).await? {
            Stepped::Ran(ran) => Ok(ran),
            // Only what shares its row with a saga's step could be ruled upon, and no key does.
            Stepped::Ruled(_) => Err(OnceError::Unknown),
        }
    }

    /// Runs `work` as a saga's call, behind the [barrier](crate::barrier): for calls that come as messages.
    /// A [`Direction::Settle`] runs nothing.
    ///
    /// # Cancellation
    /// As [`run`](Self::run).
    pub async fn run_step<I, T, E, F, O>(
        &self,
        call: &Call,
        input: &I,
        work: F,
    ) -> Result<Stepped<T>, OnceError<E>>
    where
        I: Serialize + ?Sized,
        T: Serialize + DeserializeOwned + Send + 'static,
        E: Send + 'static,
        F: FnOnce(Cx) -> O + Send + 'static,
        O: Future<Output = Result<T, Failed<E>>> + Send + 'static,
    {
        let id = call.key_id(&self.secret, &self.scope);
        let mut job = self.job(id, call.direction, None, &call.step, input)?;
        job.keep = self.keep_barrier;
        job.run(work).await
    }

    fn job<I, E>(
        &self,
        id: KeyId,
        direction: Direction,
        key: Option<Key>,
        operation: &str,
        input: &I,
    ) -> Result<Job, OnceError<E>>
    where
        I: Serialize + ?Sized,
    {
        // Encoded once, now: what the work does to its input later must not change what was asked.
        let input = serde_json::to_vec(input)
            .map_err(|source| OnceError::Unreadable { what: "the input", source })?;
        let fingerprint = Fingerprint::new(&self.secret, b"once", operation.as_bytes(), &input);
        let request = ClaimRequest {
            direction,
            lease: self.lease,
            keep: self.keep_barrier,
            in_doubt: self.in_doubt,
            undo_by_key: self.undo_by_key,
            ..ClaimRequest::new(id, fingerprint)
        };
        Ok(Job { once: self.clone(), request, key, keep: self.keep })
    }
}

/// One call of [`Once`].
struct Job {
    once: Once,
    request: ClaimRequest,
    key: Option<Key>,
    keep: Duration,
}

impl Job {
    async fn run<T, E, F, O>(self, work: F) -> Result<Stepped<T>, OnceError<E>>
    where
        T: Serialize + DeserializeOwned + Send + 'static,
        E: Send + 'static,
        F: FnOnce(Cx) -> O + Send + 'static,
        O: Future<Output = Result<T, Failed<E>>> + Send + 'static,
    {
        let (id, direction) = (self.request.id, self.request.direction);
        let task = tokio::spawn(traced(&id, direction, async move { Box::pin(self.claim(work)).await }));
        task.await.unwrap_or(Err(OnceError::Panicked))
    }

    async fn claim<T, E, F, O>(self, work: F) -> Result<Stepped<T>, OnceError<E>>
    where
        T: Serialize + DeserializeOwned,
        F: FnOnce(Cx) -> O,
        O: Future<Output = Result<T, Failed<E>>>,
    {
        let claim = leased::claim(&self.once.store, &self.request).await;
        match claim.inspect_err(|_| metrics::count(Outcome::StoreError))? {
            Claim::Acquired(ticket) => self.work(&ticket, work).await,
            claim => self.read(claim),
        }
    }

    async fn work<T, E, F, O>(&self, ticket: &Ticket, work: F) -> Result<Stepped<T>, OnceError<E>>
    where
        T: Serialize + DeserializeOwned,
        F: FnOnce(Cx) -> O,
        O: Future<Output = Result<T, Failed<E>>>,
    {
        let action_answer = ticket.action_answer().and_then(|stored| self.body(stored, Direction::Action));
        let cx = Cx::new(ticket, &self.once.secret, action_answer);
        let lost = cx.lost_flag();
        let store = &self.once.store;
        let result =
            hold(store, ticket, &lost, AssertUnwindSafe(async { work(cx).await }).catch_unwind()).await;
        let (end, result) = match result {
            Ok(Ok(value)) => match serde_json::to_vec(&value) {
                Ok(body) => (self.kept(ticket, body), Ok(value)),
                Err(source) => (End::Doubt, Err(OnceError::Unreadable { what: "the result", source })),
            },
            Ok(Err(Failed::NotApplied(error))) => (End::Release, Err(OnceError::NotApplied(error))),
            Ok(Err(Failed::Unknown(error))) => (End::Doubt, Err(OnceError::Failed(error))),
            Err(_panic) => (End::Doubt, Err(OnceError::Panicked)),
        };
        let held = leased::end(store, ticket, &end).await;
        metrics::count(match (&result, ticket.in_doubt()) {
            (Ok(_), false) => Outcome::Executed,
            (Ok(_), true) => Outcome::TakenOver,
            (Err(OnceError::NotApplied(_)), _) => Outcome::Released,
            (Err(_), _) => Outcome::Unknown,
        });
        match held {
            // Somebody took over: there is one result to a key, and it is not this one.
            Ok(Held::Lost) => {
                let request = ClaimRequest {
                    stamp: crate::Stamp::random(),
                    in_doubt: InDoubt::Unknown,
                    ..self.request.clone()
                };
                match leased::claim(store, &request).await? {
                    Claim::Acquired(ticket) => {
                        let _ = leased::end(store, &ticket, &End::Doubt).await;
                        Err(OnceError::Unknown)
                    }
                    claim => self.read(claim),
                }
            }
            // A result that could not be kept is true all the same.
            Ok(Held::Yes) | Err(_) => result.map(|value| Stepped::Ran(Ran::First(value))),
        }
    }

    fn read<T: DeserializeOwned, E>(&self, claim: Claim) -> Result<Stepped<T>, OnceError<E>> {
        let (outcome, result) = match claim {
            Claim::Replay(kept) => (Outcome::Replayed, self.replayed(&kept)),
            Claim::InFlight { retry_after } => (Outcome::InFlight, Err(OnceError::InFlight { retry_after })),
            Claim::Mismatch { part } => (Outcome::Mismatch, Err(OnceError::Mismatch { part })),
            Claim::Ruled(ruling) => (Outcome::Ruled, Ok(Stepped::Ruled(ruling))),
            Claim::Unknown { .. } | Claim::Acquired(_) => (Outcome::Unknown, Err(OnceError::Unknown)),
        };
        metrics::count(outcome);
        result
    }

    fn replayed<T: DeserializeOwned, E>(&self, kept: &Kept) -> Result<Stepped<T>, OnceError<E>> {
        let body = self.body(&kept.answer, kept.direction).unwrap_or_default();
        let value = serde_json::from_slice(&body);
        let value = value.map_err(|source| OnceError::Unreadable { what: "the kept result", source })?;
        Ok(Stepped::Ran(Ran::Replayed(value)))
    }

    fn kept(&self, ticket: &Ticket, body: Vec<u8>) -> End {
        let answer = Answer::new(200, body).encode();
        let answer = self.once.seal.close(answer, self.place(ticket.direction()));
        End::Keep { verdict: Verdict::Applied, answer, keep: self.keep }
    }

    fn body(&self, stored: &Bytes, direction: Direction) -> Option<Bytes> {
        match Answer::decode(&self.once.seal.open(stored, self.place(direction))?)?.body {
            Content::Kept(body) => Some(body),
            _ => None,
        }
    }

    fn place(&self, direction: Direction) -> Place<'_> {
        let caller_key = self.key.as_ref().map_or(&b""[..], |key| key.expose().as_bytes());
        Place { id: &self.request.id, direction, caller_key }
    }
}
