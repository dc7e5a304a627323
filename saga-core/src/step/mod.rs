//! A step is a step: one value (a stable name, an action, a compensation decision, a policy) that a
//! declared saga adds to its plan.

mod child;
pub mod code;
pub mod context;
pub mod error;
mod lent;

use std::fmt;
use std::future::Future;
use std::marker::PhantomData;
use std::time::Duration;

pub use child::child;
pub use code::Code;
pub use context::{Cx, Provides};
pub use error::{Definite, Probed, StepError};
pub(crate) use lent::Desk;
pub use lent::Tx;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::retry::Retry;
use crate::saga::plan::Undo;

/// A compensation decision is still missing.
#[derive(Debug)]
pub enum Undecided {}
/// The step is undone by its compensation.
#[derive(Debug)]
pub enum Compensated {}
/// It was said why the step needs no compensation.
#[derive(Debug)]
pub enum NotCompensated {}

/// A step for which it is decided what undoes it. Only such steps can stand before the pivot.
#[diagnostic::on_unimplemented(
    message = "this step does not say how it is undone",
    label = "a step before the pivot needs a compensation decision",
    note = "say `.compensate(f)`, `.compensate_by_key(f)`, or `.no_compensation(\"why\")`; a step that cannot be undone belongs after the pivot"
)]
pub trait Undoable: sealed::Sealed {}
impl Undoable for Compensated {}
impl Undoable for NotCompensated {}

/// A step for which no compensation was given. Only such steps can be the pivot or stand after it.
#[diagnostic::on_unimplemented(
    message = "this step has a compensation, but nothing is undone from the pivot on",
    label = "the pivot and the steps after it are never compensated",
    note = "leave the compensation out, or add the step before the pivot"
)]
pub trait NeverUndone: sealed::Sealed {}
impl NeverUndone for Undecided {}
impl NeverUndone for NotCompensated {}

mod sealed {
    pub trait Sealed {}
    impl Sealed for super::Undecided {}
    impl Sealed for super::Compensated {}
    impl Sealed for super::NotCompensated {}
}

/// A unit of work: a stable name, an action, how it is undone, and when it is tried again.
///
/// `S` is the part of the application that the step needs ([`Provides`]), so that a step can live in a
/// crate that does not know your application. `K` is the compensation decision.
pub struct Step<S, In, Out, K = Undecided> {
    pub(crate) name: String,
    pub(crate) code: Code<S>,
    pub(crate) undo: Undo,
    pub(crate) idempotent: bool,
    pub(crate) retry: Option<Retry>,
    pub(crate) undo_retry: Option<Retry>,
    pub(crate) attempt_timeout: Duration,
    pub(crate) timeout: Option<Duration>,
    pub(crate) settle_within: Option<Duration>,
    pub(crate) limits: Limits,
    types: PhantomData<fn(In) -> (Out, K)>,
}

/// How many attempts run at once, and how many start per time, in one worker process.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limits {
    /// At most so many attempts at once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub concurrency: Option<usize>,
    /// At most so many starts per period, spread evenly.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rate: Option<(u32, Duration)>,
}

/// How long one attempt may take unless the step says otherwise: longer than any sane request
/// timeout, so that the client's own, better informed error usually comes first.
pub const ATTEMPT_TIMEOUT: Duration = Duration::from_secs(60);

/// Declares a step: a name that is unique in its definition and never changes, and its action.
///
/// The action may be a function, or a closure. A closure that captures clones what it needs on every
/// call: `move |cx, x| { let api = api.clone(); async move { … } }` (an `async move |cx, x|` that
/// captures is not `Fn`).
///
/// Unless said otherwise the action is *idempotent by key*: it may be run again under the same
/// [`Cx::key`], and a rejection speaks for every attempt. See [`Step::not_idempotent`].
pub fn step<S, In, Out, F, Fut>(name: impl Into<String>, action: F) -> Step<S, In, Out>
where
    S: 'static,
    In: DeserializeOwned + Send + 'static,
    Out: Serialize + 'static,
    F: Fn(Cx<S>, In) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = Result<Out, StepError>> + Send + 'static,
{
    Step {
        name: name.into(),
        code: Code::action(action),
        undo: Undo::Never,
        idempotent: true,
        retry: None,
        undo_retry: None,
        attempt_timeout: ATTEMPT_TIMEOUT,
        timeout: None,
        settle_within: None,
        limits: Limits::default(),
        types: PhantomData,
    }
}

/// How long a transactional action may take unless the step says otherwise. In any case it may take no longer
/// than a third of its worker's lease, and heartbeats do not prolong it.
pub const TRANSACTION_TIMEOUT: Duration = Duration::from_secs(5);

/// Declares a step whose action is lent an open transaction of the store that holds the journal: what it
/// writes there (business rows, `outbox::enqueue(&mut *tx, …)`) and the journal's record of its success become
/// true together, or neither does. There is never any doubt about it, so it needs no idempotency key, and a
/// repeated attempt starts from nothing.
///
/// The transaction is [`PgTx`](crate::PgTx) or [`SqliteTx`](crate::SqliteTx), by the store that the worker runs
/// on; a worker on another store refuses the definition. See [`Tx`] for what can be done with it.
///
/// ```
/// use saga_core::{Cx, Definition, SqliteTx, StepError, transactional};
///
/// async fn book(_: Cx<()>, mut tx: SqliteTx, order: i64) -> Result<i64, StepError> {
///     let booked = sqlx::query("INSERT INTO booking (order_id) VALUES (?)").bind(order);
///     Ok(booked.execute(&mut *tx).await?.last_insert_rowid())
/// }
/// async fn unbook(_: Cx<()>, mut tx: SqliteTx, _order: i64, booking: i64) -> Result<(), StepError> {
///     sqlx::query("DELETE FROM booking WHERE id = ?").bind(booking).execute(&mut *tx).await?;
///     Ok(())
/// }
///
/// let (mut b, order) = Definition::build::<(), i64>("book", 1);
/// let booking = b.add(transactional("book", book).compensate_transactional(unbook), order);
/// let definition = b.finish(booking)?;
/// # Ok::<_, saga_core::saga::builder::BadDefinition>(())
/// ```
///
/// # What may go wrong
///
/// Whatever fails before COMMIT had no effect: any error by `?`, a panic and a missed time limit are *not
/// applied*, and tried again by policy. [`StepError::rejected`] undoes what came before, as in any step.
///
/// # What it must not do
///
/// Nothing outside the transaction: a request that it sent could not be rolled back. It should be short: it
/// holds a connection and row locks, on SQLite the file's only writer, so that nothing else of the file is
/// written meanwhile; and it waits for ever, or until its time limit, if it asks the store for something that
/// the transaction itself holds up, such as starting a saga through a client. Session settings are `SET LOCAL`:
/// the connection is used again.
pub fn transactional<S, T, In, Out, F, Fut>(name: impl Into<String>, action: F) -> Step<S, In, Out>
where
    S: 'static,
    T: Send + 'static,
    In: DeserializeOwned + Send + 'static,
    Out: Serialize + 'static,
    F: Fn(Cx<S>, Tx<T>, In) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = Result<Out, StepError>> + Send + 'static,
{
    Step {
        name: name.into(),
        code: Code::transactional(action),
        undo: Undo::Never,
        idempotent: true,
        retry: None,
        undo_retry: None,
        attempt_timeout: TRANSACTION_TIMEOUT,
        timeout: None,
        settle_within: None,
        limits: Limits::default(),
        types: PhantomData,
    }
}

impl<S, In, Out> Step<S, In, Out, Undecided>
where
    S: 'static,
    In: DeserializeOwned + Send + 'static,
    Out: DeserializeOwned + Send + 'static,
{
    /// The effect is undone by `f`, which is given the action's input and output. It is called until
    /// it succeeds, under a key of its own that is the same for every attempt.
    pub fn compensate<F, Fut>(mut self, f: F) -> Step<S, In, Out, Compensated>
    where
        F: Fn(Cx<S>, In, Out) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<(), StepError>> + Send + 'static,
    {
        self.code.compensate_with(f);
        self.decided(Undo::WithOutput)
    }

    /// The same, with `f` lent a transaction as a [`transactional`] action is: its rows and the journal's record
    /// of the undoing become true together.
    pub fn compensate_transactional<T, F, Fut>(mut self, f: F) -> Step<S, In, Out, Compensated>
    where
        T: Send + 'static,
        F: Fn(Cx<S>, Tx<T>, In, Out) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<(), StepError>> + Send + 'static,
    {
        self.code.compensate_transactional_with(f);
        self.decided(Undo::WithOutput)
    }

    /// The effect is undone by `f` from the input alone, whether or not the action arrived: the
    /// participant undoes by key and refuses the action afterwards. An action in doubt then needs no
    /// settling.
    pub fn compensate_by_key<F, Fut>(mut self, f: F) -> Step<S, In, Out, Compensated>
    where
        F: Fn(Cx<S>, In) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<(), StepError>> + Send + 'static,
    {
        self.code.compensate_by_key_with(f);
        self.decided(Undo::ByKey)
    }

    /// The effect needs no undoing, for this reason (a question, a reservation that expires by itself).
    pub fn no_compensation(self, why: impl Into<String>) -> Step<S, In, Out, NotCompensated> {
        self.decided(Undo::Nothing(why.into()))
    }
}

impl<S, In, Out, K> Step<S, In, Out, K> {
    /// When the action is tried again. Before the pivot the default is [`Retry::exponential`], after it
    /// [`Retry::forever`].
    #[must_use]
    pub fn retry(mut self, retry: Retry) -> Self {
        self.retry = Some(retry);
        self
    }

    /// When the compensation is tried again, and at which pace an action in doubt is settled; by
    /// default [`Retry::forever`]. When its attempts are used up the saga is blocked.
    #[must_use]
    pub fn compensation_retry(mut self, retry: Retry) -> Self {
        self.undo_retry = Some(retry);
        self
    }

    /// How long one attempt may take before its outcome counts as unknown; by default
    /// [`ATTEMPT_TIMEOUT`].
    #[must_use]
    pub fn attempt_timeout(mut self, timeout: Duration) -> Self {
        self.attempt_timeout = timeout;
        self
    }

    /// How long all attempts of the action together may take, counted from the first one's start. When it is
    /// over the attempt that is under way has an unknown outcome, and none is planned any more: without
    /// doubt the step counts as refused (after the pivot it blocks), in doubt it is settled.
    ///
    /// An attempt whose worker died is in doubt, and is settled whatever the time.
    #[must_use]
    pub fn timeout(mut self, limit: Duration) -> Self {
        self.timeout = Some(limit);
        self
    }

    /// How long an action in doubt is settled, once its attempts are used up, before the saga is blocked
    /// for a person; by default as long as [`compensation_retry`](Step::compensation_retry) goes on.
    #[must_use]
    pub fn settle_within(mut self, limit: Duration) -> Self {
        self.settle_within = Some(limit);
        self
    }

    /// At most so many of this step's attempts run at once in one worker process; further sagas wait
    /// for their turn without a recorded start.
    #[must_use]
    pub fn concurrency(mut self, most: usize) -> Self {
        self.limits.concurrency = Some(most);
        self
    }

    /// At most so many of this step's attempts start per period in one worker process.
    #[must_use]
    pub fn rate(mut self, starts: u32, per: Duration) -> Self {
        self.limits.rate = Some((starts, per));
        self
    }

    /// The action must not be run again while an earlier attempt may have taken effect. Without a
    /// [`Step::probe`] a saga whose action is in doubt is blocked for a person.
    #[must_use]
    pub fn not_idempotent(mut self) -> Self {
        self.idempotent = false;
        self
    }

    fn decided<D>(self, undo: Undo) -> Step<S, In, Out, D> {
        let Self { name, code, idempotent, retry, undo_retry, attempt_timeout, .. } = self;
        let (timeout, settle_within, limits) = (self.timeout, self.settle_within, self.limits);
        Step {
            name,
            code,
            undo,
            idempotent,
            retry,
            undo_retry,
            attempt_timeout,
            timeout,
            settle_within,
            limits,
            types: PhantomData,
        }
    }
}

impl<S, In, Out, K> Step<S, In, Out, K>
where
    S: 'static,
    In: DeserializeOwned + Send + 'static,
    Out: Serialize + 'static,
{
    /// How an action in doubt that is not idempotent is settled: `f` asks the participant.
    ///
    /// [`Probed::NotDone`] may be said only if the participant will refuse this key from now on, for
    /// ever: a worker that froze may still wake up and send the request.
    #[must_use]
    pub fn probe<F, Fut>(mut self, f: F) -> Self
    where
        F: Fn(Cx<S>, In) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<Probed<Out>, StepError>> + Send + 'static,
    {
        self.code.probe_with(f);
        self
    }
}

impl<S, In, Out, K> fmt::Debug for Step<S, In, Out, K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Step").field("name", &self.name).field("undo", &self.undo).finish_non_exhaustive()
    }
}
