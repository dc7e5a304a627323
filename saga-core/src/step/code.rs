//! A step's code with its types erased: JSON in, an outcome out.
//!
//! Decoding and encoding happen here and nowhere else, so there is one place that knows the rule: a
//! payload that does not read as the code's type is the code's fault and blocks the saga; it is never
//! read as a rejection.

use std::fmt;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::context::{Attempt, Cx, Provides};
use super::error::{Probed, StepError};
use super::lent::Tx;
use crate::journal::{Effect, Failure, Outcome};
use crate::payload::Payload;
use crate::store::Kind;

/// What an attempt gives the engine: its outcome, and the least pause the service asked for.
pub type Reply = (Outcome, Option<Duration>);

type Call<S> = Arc<dyn Fn(Cx<S>, Payload, Option<Payload>) -> BoxFuture<'static, Reply> + Send + Sync>;
/// The same with the application's state already inside.
pub(crate) type Bound =
    Arc<dyn Fn(Attempt, Payload, Option<Payload>) -> BoxFuture<'static, Reply> + Send + Sync>;
/// A pure derivation.
pub(crate) type Derive = Arc<dyn Fn(&Payload) -> Result<Payload, Failure> + Send + Sync>;

/// The code of one step.
pub struct Code<S> {
    action: Call<S>,
    compensation: Option<Call<S>>,
    probe: Option<Call<S>>,
    lent: Lent,
}

/// Which of a step's calls are lent a transaction, and of what kind.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Lent {
    pub(crate) action: Option<Kind>,
    pub(crate) compensation: Option<Kind>,
}

impl<S: 'static> Code<S> {
    pub(super) fn action<In, Out, F, Fut>(f: F) -> Self
    where
        In: DeserializeOwned + Send + 'static,
        Out: Serialize + 'static,
        F: Fn(Cx<S>, In) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<Out, StepError>> + Send + 'static,
    {
        let action: Call<S> = Arc::new(move |cx, input, _| match decode(&input, "input") {
            Ok(input) => reply(f(cx, input), |out: Out| encode(&out)),
            Err(outcome) => ready(outcome),
        });
        Self { action, compensation: None, probe: None, lent: Lent::default() }
    }

    pub(super) fn transactional<T, In, Out, F, Fut>(f: F) -> Self
    where
        T: Send + 'static,
        In: DeserializeOwned + Send + 'static,
        Out: Serialize + 'static,
        F: Fn(Cx<S>, Tx<T>, In) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<Out, StepError>> + Send + 'static,
    {
        let action: Call<S> = Arc::new(move |cx, input, _| match (decode(&input, "input"), borrow(&cx)) {
            (Ok(input), Ok(tx)) => reply(f(cx, tx, input), |out: Out| encode(&out)),
            (Err(outcome), _) | (_, Err(outcome)) => ready(outcome),
        });
        let lent = Lent { action: Some(Kind::of::<T>()), compensation: None };
        Self { action, compensation: None, probe: None, lent }
    }

    pub(super) fn compensate_transactional_with<T, In, Out, F, Fut>(&mut self, f: F)
    where
        T: Send + 'static,
        In: DeserializeOwned + Send + 'static,
        Out: DeserializeOwned + Send + 'static,
        F: Fn(Cx<S>, Tx<T>, In, Out) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<(), StepError>> + Send + 'static,
    {
        self.lent.compensation = Some(Kind::of::<T>());
        self.compensation = Some(Arc::new(move |cx, input, output| {
            let output = output.unwrap_or_else(Payload::null);
            match (decode(&input, "input"), decode(&output, "output"), borrow(&cx)) {
                (Ok(input), Ok(output), Ok(tx)) => {
                    reply(f(cx, tx, input, output), |()| Outcome::Ok(Payload::null()))
                }
                (Err(outcome), ..) | (_, Err(outcome), _) | (.., Err(outcome)) => ready(outcome),
            }
        }));
    }

    pub(super) fn compensate_with<In, Out, F, Fut>(&mut self, f: F)
    where
        In: DeserializeOwned + Send + 'static,
        Out: DeserializeOwned + Send + 'static,
        F: Fn(Cx<S>, In, Out) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<(), StepError>> + Send + 'static,
    {
        self.compensation = Some(Arc::new(move |cx, input, output| {
            let output = output.unwrap_or_else(Payload::null);
            match (decode(&input, "input"), decode(&output, "output")) {
                (Ok(input), Ok(output)) => reply(f(cx, input, output), |()| Outcome::Ok(Payload::null())),
                (Err(outcome), _) | (_, Err(outcome)) => ready(outcome),
            }
        }));
    }

    pub(super) fn compensate_by_key_with<In, F, Fut>(&mut self, f: F)
    where
        In: DeserializeOwned + Send + 'static,
        F: Fn(Cx<S>, In) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<(), StepError>> + Send + 'static,
    {
        self.compensation = Some(Arc::new(move |cx, input, _| match decode(&input, "input") {
            Ok(input) => reply(f(cx, input), |()| Outcome::Ok(Payload::null())),
            Err(outcome) => ready(outcome),
        }));
    }

    pub(super) fn probe_with<In, Out, F, Fut>(&mut self, f: F)
    where
        In: DeserializeOwned + Send + 'static,
        Out: Serialize + 'static,
        F: Fn(Cx<S>, In) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<Probed<Out>, StepError>> + Send + 'static,
    {
        self.probe = Some(Arc::new(move |cx, input, _| match decode(&input, "input") {
            Ok(input) => {
                let asked = f(cx, input);
                // A probe that could not ask knows nothing of the action, however definite its error is.
                let asked = async move { asked.await.map_err(StepError::into_unknown) };
                reply(asked, |probed| match probed {
                    Probed::Done(out) => encode(&out),
                    Probed::NotDone => {
                        Outcome::NotApplied(Failure::new("the probe says it was never applied"))
                    }
                    Probed::Unknown => Outcome::Unknown(Failure::new("the probe cannot tell yet")),
                })
            }
            Err(outcome) => ready(outcome),
        }));
    }

    pub(crate) fn has_probe(&self) -> bool {
        self.probe.is_some()
    }

    pub(crate) fn lent(&self) -> Lent {
        self.lent
    }

    /// The same code for an application that provides what it needs.
    pub(crate) fn for_app<A: Provides<S> + 'static>(self) -> Code<A> {
        let lift = |call: Call<S>| -> Call<A> {
            Arc::new(move |cx: Cx<A>, input, output| {
                let (app, attempt) = cx.into_parts();
                call(Cx::new(app.provide(), attempt), input, output)
            })
        };
        Code {
            action: lift(self.action),
            compensation: self.compensation.map(lift),
            probe: self.probe.map(lift),
            lent: self.lent,
        }
    }
}

impl<A: Clone + Send + Sync + 'static> Code<A> {
    /// The code with the application inside: what the engine calls.
    pub(crate) fn bind(&self, app: &A) -> BoundCode {
        let bind = |call: &Call<A>| -> Bound {
            let (call, app) = (call.clone(), app.clone());
            Arc::new(move |attempt, input, output| call(Cx::new(app.clone(), attempt), input, output))
        };
        BoundCode {
            action: bind(&self.action),
            compensation: self.compensation.as_ref().map(bind),
            probe: self.probe.as_ref().map(bind),
            lent: self.lent,
        }
    }
}

impl<S> Clone for Code<S> {
    fn clone(&self) -> Self {
        Self {
            action: self.action.clone(),
            compensation: self.compensation.clone(),
            probe: self.probe.clone(),
            lent: self.lent,
        }
    }
}

impl<S> fmt::Debug for Code<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Code").finish_non_exhaustive()
    }
}

/// A step's code with the application inside.
#[derive(Clone)]
pub(crate) struct BoundCode {
    pub(crate) action: Bound,
    pub(crate) compensation: Option<Bound>,
    pub(crate) probe: Option<Bound>,
    pub(crate) lent: Lent,
}

impl BoundCode {
    /// The same code with `wrap` around each of its calls.
    pub(crate) fn map(self, wrap: impl Fn(Bound) -> Bound) -> Self {
        Self {
            action: wrap(self.action),
            compensation: self.compensation.map(&wrap),
            probe: self.probe.map(&wrap),
            lent: self.lent,
        }
    }

    /// What the call for this effect is, and whether it is lent a transaction.
    pub(crate) fn of(&self, effect: Effect) -> (&Bound, bool) {
        let (code, lent) = match effect {
            Effect::Action => (Some(&self.action), self.lent.action.is_some()),
            Effect::Compensation => (self.compensation.as_ref(), self.lent.compensation.is_some()),
            Effect::Probe => (self.probe.as_ref(), false),
        };
        (code.expect("the plan promises only what the step has"), lent)
    }
}

/// Erases a pure derivation.
pub(crate) fn derive<In, Out, F>(f: F) -> Derive
where
    In: DeserializeOwned,
    Out: Serialize,
    F: Fn(&In) -> Out + Send + Sync + 'static,
{
    Arc::new(move |input| {
        let input: In =
            input.decode().map_err(|e| Failure::new(format!("its input does not decode: {e}")))?;
        Payload::encode(&f(&input)).map_err(|e| Failure::new(format!("its value does not encode: {e}")))
    })
}

fn decode<T: DeserializeOwned>(payload: &Payload, what: &str) -> Result<T, Outcome> {
    payload.decode().map_err(|error| Outcome::Malformed {
        failure: Failure::new(format!(
            "the {what} does not decode as {}: {error}",
            std::any::type_name::<T>()
        )),
        applied: false,
    })
}

/// The transaction that the attempt was lent.
fn borrow<S, T: Send + 'static>(cx: &Cx<S>) -> Result<Tx<T>, Outcome> {
    let missing = || Outcome::NotApplied(Failure::new("no transaction of the step's kind was lent to it"));
    cx.desk().lend().ok_or_else(missing)
}

fn encode<T: Serialize>(out: &T) -> Outcome {
    match Payload::encode(out) {
        Ok(payload) => Outcome::Ok(payload),
        Err(error) => Outcome::Malformed {
            failure: Failure::new(format!("the output does not encode: {error}")),
            applied: true,
        },
    }
}

fn reply<T, Fut>(future: Fut, ok: impl FnOnce(T) -> Outcome + Send + 'static) -> BoxFuture<'static, Reply>
where
    T: 'static,
    Fut: Future<Output = Result<T, StepError>> + Send + 'static,
{
    Box::pin(async move {
        match future.await {
            Ok(out) => (ok(out), None),
            Err(error) => error.into_outcome(),
        }
    })
}

fn ready(outcome: Outcome) -> BoxFuture<'static, Reply> {
    Box::pin(std::future::ready((outcome, None)))
}
