//! A definition as data: names, wiring and policies, without code.
//!
//! It is what a worker stores as the definition's *manifest*, what an operator's program draws, and
//! all that the pure [`Machine`](super::Machine) knows.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::id::{Fingerprint, Name, Place};
use crate::journal::{Bound, Contract};
use crate::retry::Retry;
use crate::step::Limits;

/// A definition as data. Nodes stand in the order in which they were added, so that a node's sources
/// always come before it; node 0 is the saga's input.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Plan {
    /// The definition's name.
    pub name: Name,
    /// The definition's version.
    pub version: u32,
    /// The input, then every step and derivation.
    pub nodes: Vec<Node>,
    /// How long a saga may take before it undoes itself, unless its pivot has begun.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deadline: Option<Duration>,
    /// How many attempts of all its sagas run at once, and start per time, in one worker process.
    #[serde(default)]
    pub limits: Limits,
    /// Whether its code chooses a key for each of its sagas.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub keyed: bool,
    /// Where the saga's own output comes from.
    pub output: Wiring,
}

/// One node of a plan.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Node {
    /// Its name, unique in the plan.
    pub name: Name,
    /// What it is.
    pub kind: Kind,
    /// Where its input comes from.
    pub wiring: Wiring,
    /// Nodes that have to be done before it, without giving it data.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub after: Vec<usize>,
    /// How it is undone.
    pub undo: Undo,
    /// Whether its action may be run again under the same key.
    pub idempotent: bool,
    /// Whether a probe can settle its action.
    pub probe: bool,
    /// Whether its action's effect and the record of it become true together.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub transactional: bool,
    /// How the action is retried.
    pub retry: Retry,
    /// How the compensation is retried, and an action in doubt settled.
    pub undo_retry: Retry,
    /// How long one attempt may take.
    pub attempt_timeout: Duration,
    /// How long all attempts of the action together may take.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout: Option<Duration>,
    /// How long an action in doubt is settled before a person is asked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub settle_within: Option<Duration>,
    /// How many attempts run at once, and start per time.
    #[serde(default)]
    pub limits: Limits,
}

/// What a node is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// The saga's input.
    Input,
    /// A pure function of earlier values.
    Derive,
    /// One effect.
    Step,
    /// One effect for each item of a list, side by side.
    Each,
    /// The effect after which there is no way back.
    Pivot,
}

/// How a node's effect is undone.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Undo {
    /// By a compensation that is given the action's input and output.
    WithOutput,
    /// By a compensation that works by key, whether or not the action arrived.
    ByKey,
    /// Not at all, for the reason given.
    Nothing(String),
    /// It stands after the pivot, where nothing is undone.
    Never,
}

/// Where a value comes from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Wiring {
    /// From nowhere: `()`.
    Unit,
    /// One node's output as it is.
    One(usize),
    /// Several nodes' outputs as a JSON array.
    Many(Vec<usize>),
}

impl Wiring {
    /// The nodes it reads.
    pub fn sources(&self) -> &[usize] {
        match self {
            Self::Unit => &[],
            Self::One(node) => std::slice::from_ref(node),
            Self::Many(nodes) => nodes,
        }
    }
}

impl Node {
    /// Every node that has to be done before this one.
    pub fn needs(&self) -> impl Iterator<Item = usize> + '_ {
        self.wiring.sources().iter().chain(&self.after).copied()
    }

    /// Whether it does anything outside the saga.
    pub fn has_effect(&self) -> bool {
        matches!(self.kind, Kind::Step | Kind::Each | Kind::Pivot)
    }

    /// How much time a policy gives.
    pub fn time_for(&self, bound: Bound) -> Option<Duration> {
        match bound {
            Bound::Action => [self.timeout, self.retry.elapsed_limit()].into_iter().flatten().min(),
            Bound::Settling => self.settle_within,
            Bound::Compensation => self.undo_retry.elapsed_limit(),
        }
    }

    /// The promises that decide which histories are legal.
    pub fn contract(&self) -> Contract {
        Contract {
            idempotent: self.idempotent,
            undo_by_key: self.undo == Undo::ByKey,
            forward: self.undo == Undo::Never && self.kind != Kind::Pivot,
            transactional: self.transactional,
        }
    }

    /// The place of one of its items.
    pub fn place(&self, item: usize) -> Place {
        if self.kind == Kind::Each { Place::item(&self.name, item) } else { Place::of(&self.name) }
    }
}

impl Plan {
    /// The digest of what a saga in flight relies on: names, kinds, wiring and ways of undoing, but not
    /// policies, so that a retry count can change under running sagas.
    pub fn fingerprint(&self) -> Fingerprint {
        let shape: Vec<_> = self
            .nodes
            .iter()
            .map(|n| {
                let undo = match &n.undo {
                    Undo::WithOutput => "output",
                    Undo::ByKey => "key",
                    Undo::Nothing(_) => "nothing",
                    Undo::Never => "never",
                };
                (&n.name, n.kind, &n.wiring, &n.after, undo, n.idempotent, n.probe)
            })
            .collect();
        // Left out where there is none, so that definitions without them keep their fingerprint.
        let transactional: Vec<_> = self.nodes.iter().filter(|n| n.transactional).map(|n| &n.name).collect();
        let text = match transactional.is_empty() {
            true => serde_json::to_vec(&(&self.name, self.version, shape, &self.output)),
            false => serde_json::to_vec(&(&self.name, self.version, shape, &self.output, transactional)),
        };
        Fingerprint::of(&text.expect("a plan is plain data"))
    }

    /// The node with this name.
    pub fn find(&self, name: &str) -> Option<usize> {
        self.nodes.iter().position(|node| node.name.as_str() == name)
    }
}
