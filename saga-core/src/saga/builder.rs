//! The typed builder: wrong inputs, an undecided step before the pivot and a compensable one after it
//! are compile errors at the line that made them.
//!
//! ```
//! # use saga_core::{Cx, Definition, StepError, step};
//! # async fn charge(_: Cx<()>, amount: u64) -> Result<u64, StepError> { Ok(amount) }
//! # async fn refund(_: Cx<()>, _: u64, _: u64) -> Result<(), StepError> { Ok(()) }
//! let (mut b, order) = Definition::build::<(), u64>("pay", 1);
//! let charged = b.add(step("charge", charge).compensate(refund), order);
//! let (mut b, captured) = b.pivot(step("capture", charge), charged);
//! let shipped = b.add(step("ship", charge), captured);
//! let pay = b.finish(shipped)?;
//! # Ok::<_, saga_core::saga::builder::BadDefinition>(())
//! ```
//!
//! A step before the pivot that does not say how it is undone:
//!
//! ```compile_fail,E0277
//! # use saga_core::{Cx, Definition, StepError, step};
//! # async fn charge(_: Cx<()>, amount: u64) -> Result<u64, StepError> { Ok(amount) }
//! let (mut b, order) = Definition::build::<(), u64>("pay", 1);
//! b.add(step("charge", charge), order);
//! ```
//!
//! A handle that gives something else than the step takes:
//!
//! ```compile_fail,E0277
//! # use saga_core::{Cx, Definition, StepError, step};
//! # async fn charge(_: Cx<()>, amount: u64) -> Result<u64, StepError> { Ok(amount) }
//! # async fn refund(_: Cx<()>, _: u64, _: u64) -> Result<(), StepError> { Ok(()) }
//! let (mut b, order) = Definition::build::<(), String>("pay", 1);
//! b.add(step("charge", charge).compensate(refund), order);
//! ```
//!
//! A step after the pivot that has a compensation, which would never run:
//!
//! ```compile_fail,E0277
//! # use saga_core::{Cx, Definition, StepError, step};
//! # async fn charge(_: Cx<()>, amount: u64) -> Result<u64, StepError> { Ok(amount) }
//! # async fn refund(_: Cx<()>, _: u64, _: u64) -> Result<(), StepError> { Ok(()) }
//! let (b, order) = Definition::build::<(), u64>("pay", 1);
//! let (mut b, charged) = b.pivot(step("charge", charge), order);
//! b.add(step("ship", charge).compensate(refund), charged);
//! ```

use std::collections::HashSet;
use std::fmt;
use std::marker::PhantomData;
use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::feeds::{Feeds, Output};
use super::plan::{Kind, Node, Plan, Undo, Wiring};
use crate::id::{BadName, Name};
use crate::retry::Retry;
use crate::step::code::{self, Code, Derive};
use crate::step::{Limits, NeverUndone, Provides, Step, Undoable};

/// The phase before the pivot: every step says how it is undone.
#[derive(Debug)]
pub enum Compensable {}
/// The phase after the pivot: every step is retried until it is done.
#[derive(Debug)]
pub enum Forward {}

/// A plan with its code: what a worker registers and a client starts.
pub struct Definition<A = (), In = (), Out = ()> {
    pub(crate) plan: Arc<Plan>,
    pub(crate) parts: Arc<Vec<Part<A>>>,
    pub(crate) key: Option<KeyOf<In>>,
    types: PhantomData<fn(In) -> Out>,
}

/// Chooses a saga's key by its input.
pub(crate) type KeyOf<In> = Arc<dyn Fn(&In) -> String + Send + Sync>;

/// The code of one node.
pub(crate) enum Part<A> {
    Input,
    Derive(Derive),
    Step(Code<A>),
}

/// A definition under construction.
pub struct Builder<A, In, Phase = Compensable> {
    name: String,
    version: u32,
    nodes: Vec<Node>,
    parts: Vec<Part<A>>,
    faults: Vec<BadDefinition>,
    pivot: Option<usize>,
    deadline: Option<Duration>,
    limits: Limits,
    key: Option<KeyOf<In>>,
    types: PhantomData<fn(In) -> Phase>,
}

/// Why a definition cannot be finished.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadDefinition {
    /// A name has characters that names cannot have.
    #[error("definition {definition:?}: {source}")]
    Name {
        /// The definition.
        definition: String,
        /// Which name, and what is allowed.
        source: BadName,
    },
    /// Two steps have one name: a journal could not tell them apart.
    #[error("definition {definition:?}: two steps are named {step:?}; give one of them another name")]
    Duplicate {
        /// The definition.
        definition: String,
        /// The name.
        step: String,
    },
    /// A step has a probe but may be run again anyway.
    #[error(
        "definition {definition:?}: step {step:?} has a probe, which is only asked of a step that is `.not_idempotent()`"
    )]
    IdleProbe {
        /// The definition.
        definition: String,
        /// The step.
        step: String,
    },
}

impl Definition<(), (), ()> {
    /// Begins a definition for an application `A` whose sagas are started with an `In`.
    ///
    /// The version is part of its identity: definitions of several versions are registered side by
    /// side while sagas of the older ones are in flight.
    pub fn build<A, In>(name: impl Into<String>, version: u32) -> (Builder<A, In>, Output<In>)
    where
        A: Clone + Send + Sync + 'static,
        In: Serialize + DeserializeOwned,
    {
        let mut builder = Builder {
            name: name.into(),
            version,
            nodes: Vec::new(),
            parts: Vec::new(),
            faults: Vec::new(),
            pivot: None,
            deadline: None,
            limits: Limits::default(),
            key: None,
            types: PhantomData,
        };
        let input = builder.node("input", Kind::Input, Wiring::Unit, Part::Input);
        (builder, Output::new(input))
    }
}

impl<A, In, Out> Definition<A, In, Out> {
    /// The plan as data.
    pub fn plan(&self) -> &Arc<Plan> {
        &self.plan
    }
}

impl<A, In, Out> Clone for Definition<A, In, Out> {
    fn clone(&self) -> Self {
        let Self { plan, parts, key, .. } = self;
        Self { plan: plan.clone(), parts: parts.clone(), key: key.clone(), types: PhantomData }
    }
}

impl<A, In, Out> fmt::Debug for Definition<A, In, Out> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Definition({}@{})", self.plan.name, self.plan.version)
    }
}

impl<A, In> Builder<A, In, Compensable>
where
    A: Clone + Send + Sync + 'static,
{
    /// Adds a step that can be undone.
    pub fn add<S, I, O, K>(&mut self, step: Step<S, I, O, K>, feeds: impl Feeds<I>) -> Output<O>
    where
        A: Provides<S>,
        S: 'static,
        K: Undoable,
    {
        self.step(step, Kind::Step, feeds.wiring(), Retry::exponential())
    }

    /// Runs a step that can be undone over every item of a list, side by side. After the first failure
    /// no further item starts, running ones settle, and each success is undone under its index. An
    /// empty list gives an empty list.
    pub fn each<S, I, O, K>(&mut self, step: Step<S, I, O, K>, list: Output<Vec<I>>) -> Output<Vec<O>>
    where
        A: Provides<S>,
        S: 'static,
        K: Undoable,
    {
        let output = self.step(step, Kind::Each, list.wiring(), Retry::exponential());
        Output::new(output.node)
    }

    /// Adds the step after which there is no way back. It waits for every earlier step; its start
    /// closes cancellation. The builder that is given back takes only steps that are never undone.
    pub fn pivot<S, I, O, K>(
        mut self,
        step: Step<S, I, O, K>,
        feeds: impl Feeds<I>,
    ) -> (Builder<A, In, Forward>, Output<O>)
    where
        A: Provides<S>,
        S: 'static,
        K: NeverUndone,
    {
        let earlier = (1..self.nodes.len()).collect();
        let output: Output<O> = self.step(step, Kind::Pivot, feeds.wiring(), Retry::exponential());
        self.nodes[output.node].after = earlier;
        self.nodes[output.node].undo = Undo::Never;
        self.pivot = Some(output.node);
        let Self { name, version, nodes, parts, faults, pivot, deadline, limits, key, .. } = self;
        let builder =
            Builder { name, version, nodes, parts, faults, pivot, deadline, limits, key, types: PhantomData };
        (builder, output)
    }
}

impl<A, In> Builder<A, In, Forward>
where
    A: Clone + Send + Sync + 'static,
{
    /// Adds a step that is retried until it is done.
    pub fn add<S, I, O, K>(&mut self, step: Step<S, I, O, K>, feeds: impl Feeds<I>) -> Output<O>
    where
        A: Provides<S>,
        S: 'static,
        K: NeverUndone,
    {
        self.step(step, Kind::Step, feeds.wiring(), Retry::forever())
    }

    /// Runs a step over every item of a list, side by side, each retried until it is done.
    pub fn each<S, I, O, K>(&mut self, step: Step<S, I, O, K>, list: Output<Vec<I>>) -> Output<Vec<O>>
    where
        A: Provides<S>,
        S: 'static,
        K: NeverUndone,
    {
        let output = self.step(step, Kind::Each, list.wiring(), Retry::forever());
        Output::new(output.node)
    }
}

impl<A, In, Phase> Builder<A, In, Phase>
where
    A: Clone + Send + Sync + 'static,
{
    /// Adds a pure value: computed once from an earlier one and journaled in the same commit.
    pub fn derive<I, O, F>(&mut self, name: impl Into<String>, f: F, from: impl Feeds<I>) -> Output<O>
    where
        I: DeserializeOwned + 'static,
        O: Serialize + 'static,
        F: Fn(&I) -> O + Send + Sync + 'static,
    {
        Output::new(self.node(name, Kind::Derive, from.wiring(), Part::Derive(code::derive(f))))
    }

    /// How long a saga may take. When the time is over it undoes itself, as if it had been cancelled;
    /// once the pivot has begun the deadline says nothing any more.
    pub fn deadline(&mut self, limit: Duration) -> &mut Self {
        self.deadline = Some(limit);
        self
    }

    /// Has each saga take the key that `of` gives for its input, unless its start [names
    /// another](crate::client::Starting::key): of all sagas of one key, one is under way at a time.
    ///
    /// ```
    /// # use saga_core::{Cx, Definition, StepError, step};
    /// # #[derive(serde::Serialize, serde::Deserialize)] struct Order { customer: u64 }
    /// let (mut b, order) = Definition::build::<(), Order>("place-order", 1);
    /// b.key(|order: &Order| format!("customer-{}", order.customer));
    /// ```
    pub fn key<K: Into<String>>(&mut self, of: impl Fn(&In) -> K + Send + Sync + 'static) -> &mut Self {
        self.key = Some(Arc::new(move |input| of(input).into()));
        self
    }

    /// At most so many attempts of this definition's sagas run at once in one worker process.
    pub fn concurrency(&mut self, most: usize) -> &mut Self {
        self.limits.concurrency = Some(most);
        self
    }

    /// At most so many attempts of this definition's sagas start per period in one worker process.
    pub fn rate(&mut self, starts: u32, per: Duration) -> &mut Self {
        self.limits.rate = Some((starts, per));
        self
    }

    /// Orders without data: the step that was added last also waits for `earlier`.
    pub fn after<T>(&mut self, earlier: Output<T>) -> &mut Self {
        let last = self.nodes.last_mut().expect("the input is always there");
        last.after.push(earlier.node);
        self
    }

    /// Ends the definition: its sagas give `output`.
    pub fn finish<O>(mut self, output: impl Feeds<O>) -> Result<Definition<A, In, O>, BadDefinition> {
        let definition = self.name.clone();
        let mut seen = HashSet::new();
        for node in &self.nodes {
            if !seen.insert(&node.name) {
                let step = node.name.to_string();
                self.faults.push(BadDefinition::Duplicate { definition: definition.clone(), step });
            } else if node.probe && node.idempotent {
                let step = node.name.to_string();
                self.faults.push(BadDefinition::IdleProbe { definition: definition.clone(), step });
            }
        }
        if !self.faults.is_empty() {
            return Err(self.faults.swap_remove(0));
        }
        let name = Name::new(&definition).map_err(|source| BadDefinition::Name { definition, source })?;
        let Self { version, nodes, parts, deadline, limits, key, .. } = self;
        let keyed = key.is_some();
        let plan = Plan { name, version, nodes, output: output.wiring(), deadline, limits, keyed };
        Ok(Definition { plan: Arc::new(plan), parts: Arc::new(parts), key, types: PhantomData })
    }

    fn step<S, I, O, K>(
        &mut self,
        step: Step<S, I, O, K>,
        kind: Kind,
        wiring: Wiring,
        retry: Retry,
    ) -> Output<O>
    where
        A: Provides<S>,
        S: 'static,
    {
        let probe = step.code.has_probe();
        let lent = step.code.lent();
        let index = self.node(step.name, kind, wiring, Part::Step(step.code.for_app()));
        let node = &mut self.nodes[index];
        node.undo = step.undo;
        node.idempotent = step.idempotent || lent.action.is_some();
        node.transactional = lent.action.is_some();
        node.probe = probe;
        node.retry = step.retry.unwrap_or(retry);
        node.undo_retry = step.undo_retry.unwrap_or_else(Retry::forever);
        node.attempt_timeout = step.attempt_timeout;
        node.timeout = step.timeout;
        node.settle_within = step.settle_within;
        node.limits = step.limits;
        Output::new(index)
    }

    fn node(&mut self, name: impl Into<String>, kind: Kind, wiring: Wiring, part: Part<A>) -> usize {
        let name = Name::new(name.into()).unwrap_or_else(|source| {
            self.faults.push(BadDefinition::Name { definition: self.name.clone(), source });
            Name::new("unnamed").expect("a legal name")
        });
        // What stands after the pivot waits for it, whatever else it reads.
        let after = self.pivot.into_iter().collect();
        self.nodes.push(Node {
            name,
            kind,
            wiring,
            after,
            undo: Undo::Never,
            idempotent: true,
            probe: false,
            transactional: false,
            retry: Retry::exponential(),
            undo_retry: Retry::forever(),
            attempt_timeout: Duration::ZERO,
            timeout: None,
            settle_within: None,
            limits: Limits::default(),
        });
        self.parts.push(part);
        self.nodes.len() - 1
    }
}

impl<A, In, Phase> fmt::Debug for Builder<A, In, Phase> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Builder")
            .field("name", &self.name)
            .field("nodes", &self.nodes)
            .finish_non_exhaustive()
    }
}
