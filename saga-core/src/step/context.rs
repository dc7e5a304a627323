//! What an attempt is told: its state, its key, its deadline.

use std::fmt;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use tokio_util::sync::CancellationToken;

use super::lent::Desk;
use crate::clock::Clock;
use crate::id::{Key, Place, RunId};
use crate::journal::Effect;
use crate::priority::Priority;

/// An application that has what a step needs. Every `Clone` type provides itself.
///
/// So a step can come from a crate that knows nothing of the application that uses it: it asks for its own part.
///
/// ```
/// // A crate of payments, with a step for everybody's sagas.
/// mod payments {
///     use saga_core::{Cx, Step, StepError, step};
///
///     #[derive(Clone)]
///     pub struct Bank;
///
///     async fn charge(cx: Cx<Bank>, cents: u64) -> Result<String, StepError> {
///         Ok(format!("charged {cents} under {}", cx.key()))
///     }
///     async fn refund(_: Cx<Bank>, _: u64, _: String) -> Result<(), StepError> { Ok(()) }
///
///     pub fn charging() -> Step<Bank, u64, String, saga_core::step::Compensated> {
///         step("charge", charge).compensate(refund)
///     }
/// }
///
/// // The application that uses it, and has more than a bank.
/// # use saga_core::{Definition, Provides};
/// #[derive(Clone)]
/// struct App { bank: payments::Bank, /* and more */ }
///
/// impl Provides<payments::Bank> for App {
///     fn provide(&self) -> payments::Bank { self.bank.clone() }
/// }
///
/// let (mut b, cents) = Definition::build::<App, u64>("pay", 1);
/// let charged = b.add(payments::charging(), cents);
/// let pay = b.finish(charged)?;
/// # Ok::<_, saga_core::saga::builder::BadDefinition>(())
/// ```
pub trait Provides<S> {
    /// The part the step needs; called once per attempt, so it should be cheap to clone.
    fn provide(&self) -> S;
}

impl<A: Clone> Provides<A> for A {
    fn provide(&self) -> A {
        self.clone()
    }
}

/// The context of one attempt.
pub struct Cx<S> {
    state: S,
    attempt: Attempt,
}

/// Which attempt this is: the same data for whatever state a step needs.
#[derive(Clone, Debug)]
pub struct Attempt {
    /// The run.
    pub run: RunId,
    /// The id that the saga's user gave it.
    pub saga: Arc<str>,
    /// The step and, in an `each`, the item.
    pub place: Place,
    /// Action, compensation or probe.
    pub effect: Effect,
    /// The attempt's number, from 1.
    pub number: u32,
    /// The keys that its saga and the sagas above it hold.
    pub keys: Arc<[Key]>,
    /// Its saga's priority.
    pub priority: Priority,
    /// When the attempt counts as unknown.
    pub deadline: Deadline,
    /// Cancelled when the saga has begun to undo itself.
    pub turned_back: CancellationToken,
    /// Cancelled when the worker wants its attempts to come to an end.
    pub cancelled: CancellationToken,
    /// Where its transaction lies, if it is lent one.
    pub(crate) desk: Desk,
}

/// The moment at which an attempt counts as unknown; a heartbeat moves it on.
#[derive(Clone, Debug)]
pub struct Deadline {
    timeout: Duration,
    at: Arc<Mutex<Instant>>,
    /// No heartbeat moves it beyond this.
    limit: Option<Instant>,
}

impl Deadline {
    pub(crate) fn after(timeout: Duration) -> Self {
        Self { timeout, at: Arc::new(Mutex::new(Clock::instant() + timeout)), limit: None }
    }

    /// One that no heartbeat moves.
    pub(crate) fn fixed(timeout: Duration) -> Self {
        let at = Clock::instant() + timeout;
        Self { timeout, at: Arc::new(Mutex::new(at)), limit: Some(at) }
    }

    /// The moment.
    pub fn at(&self) -> Instant {
        *self.at.lock().expect("nothing panics while it holds this lock")
    }

    /// How long an attempt may go without a heartbeat.
    pub fn timeout(&self) -> Duration {
        self.timeout
    }

    fn beat(&self) {
        let moved = Clock::instant() + self.timeout;
        *self.at.lock().expect("nothing panics while it holds this lock") =
            self.limit.map_or(moved, |limit| limit.min(moved));
    }
}

impl<S> Cx<S> {
    pub(crate) fn into_parts(self) -> (S, Attempt) {
        (self.state, self.attempt)
    }

    pub(crate) fn new(state: S, attempt: Attempt) -> Self {
        Self { state, attempt }
    }

    pub(super) fn desk(&self) -> &Desk {
        &self.attempt.desk
    }

    /// The part of the application that the step asked for.
    pub fn state(&self) -> &S {
        &self.state
    }

    /// The idempotency key of this effect: derived from the run, the step, the item and the direction;
    /// the same for every attempt, and never the same for another run, even under the same saga id.
    /// Send it to the participant.
    pub fn key(&self) -> String {
        let direction = match self.attempt.effect {
            Effect::Action | Effect::Probe => Effect::Action,
            Effect::Compensation => Effect::Compensation,
        };
        format!("{}/{}/{direction}", self.attempt.run, self.attempt.place)
    }

    /// The key of the action that this compensation or probe is about.
    pub fn action_key(&self) -> String {
        format!("{}/{}/{}", self.attempt.run, self.attempt.place, Effect::Action)
    }

    /// The headers that a participant's barrier reads: run, step, occurrence, direction, attempt. They
    /// are a wire contract; `attempt` is for people and takes no part in matching.
    pub fn headers(&self) -> [(&'static str, String); 5] {
        let (step, item) = self.attempt.place.parts();
        let direction = match self.attempt.effect {
            Effect::Action => "action",
            Effect::Compensation => "compensation",
            Effect::Probe => "settle",
        };
        [
            ("saga-run", self.attempt.run.to_string()),
            ("saga-step", step.to_owned()),
            ("saga-occurrence", item.unwrap_or(0).to_string()),
            ("saga-direction", direction.to_owned()),
            ("saga-attempt", self.attempt.number.to_string()),
        ]
    }

    /// The run.
    pub fn run(&self) -> RunId {
        self.attempt.run
    }

    /// The id that the saga's user gave it.
    pub fn saga(&self) -> &str {
        &self.attempt.saga
    }

    /// The keys that its saga and the sagas above it hold.
    pub(crate) fn keys(&self) -> &Arc<[Key]> {
        &self.attempt.keys
    }

    /// Its saga's priority.
    pub fn priority(&self) -> Priority {
        self.attempt.priority
    }

    /// The attempt's number, from 1. Attempts of crashed workers count.
    pub fn attempt(&self) -> u32 {
        self.attempt.number
    }

    /// When this attempt's outcome counts as unknown.
    pub fn deadline(&self) -> Instant {
        self.attempt.deadline.at()
    }

    /// Says that the attempt is alive: its timeout counts from now. A long action calls this as it makes
    /// progress, so that its timeout can be short enough to notice when it hangs.
    pub fn heartbeat(&self) {
        self.attempt.deadline.beat();
    }

    /// Cancelled when the saga has begun to undo itself: an action that is still under way will be undone
    /// if it succeeds.
    pub fn turned_back(&self) -> &CancellationToken {
        &self.attempt.turned_back
    }

    /// Cancelled when the worker drains or, for an action, when the saga has begun to undo itself: an
    /// attempt that can end early and tell its outcome should. Ignoring it is safe.
    pub fn cancelled(&self) -> &CancellationToken {
        &self.attempt.cancelled
    }
}

impl<S> fmt::Debug for Cx<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Cx").field("attempt", &self.attempt).finish_non_exhaustive()
    }
}
