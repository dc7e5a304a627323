//! The definitions a worker has code for.

use std::collections::HashMap;
use std::sync::Arc;

use super::limit::Limit;
use crate::id::Fingerprint;
use crate::saga::builder::{Definition, Part};
use crate::saga::plan::Plan;
use crate::step::Limits;
use crate::step::code::{Bound, BoundCode, Derive};
use crate::store::{Kind as Transactions, Lender, Manifest};

/// A plan with its code and the application inside.
pub(crate) struct Program {
    pub(crate) plan: Arc<Plan>,
    pub(crate) fingerprint: Fingerprint,
    limits: Vec<Vec<Arc<Limit>>>,
    code: Vec<NodeCode>,
}

enum NodeCode {
    Input,
    Derive(Derive),
    Step(BoundCode),
}

impl Program {
    fn bind<A, In, Out>(definition: &Definition<A, In, Out>, app: &A, wrap: Option<&Wrap>) -> Self
    where
        A: Clone + Send + Sync + 'static,
    {
        let code = definition.parts.iter().map(|part| match part {
            Part::Input => NodeCode::Input,
            Part::Derive(derive) => NodeCode::Derive(derive.clone()),
            Part::Step(code) => {
                let code = code.bind(app);
                NodeCode::Step(if let Some(wrap) = wrap { code.map(&**wrap) } else { code })
            }
        });
        let plan = definition.plan.clone();
        let all = Limit::new(&plan.limits).map(Arc::new);
        let limits = plan.nodes.iter().map(|node| {
            let own = Limit::new(&node.limits).map(Arc::new);
            own.into_iter().chain(all.clone()).collect()
        });
        let limits = limits.collect();
        Self { fingerprint: plan.fingerprint(), code: code.collect(), limits, plan }
    }

    /// The code of a step. The machine only ever names steps here.
    pub(crate) fn step(&self, node: usize) -> &BoundCode {
        match &self.code[node] {
            NodeCode::Step(code) => code,
            NodeCode::Input | NodeCode::Derive(_) => unreachable!("node {node} is no step"),
        }
    }

    /// A step that takes other transactions than these.
    fn unlent(&self, lent: Option<Transactions>) -> Option<(String, Transactions)> {
        let steps = self.plan.nodes.iter().zip(&self.code).filter_map(|(node, code)| match code {
            NodeCode::Step(code) => Some((node, code.lent)),
            NodeCode::Input | NodeCode::Derive(_) => None,
        });
        let mut wanted = steps.flat_map(|(node, wants)| {
            [wants.action, wants.compensation].into_iter().flatten().map(|kind| (node.name.to_string(), kind))
        });
        wanted.find(|(_, kind)| Some(*kind) != lent)
    }

    /// The limits on a node's attempts: its own, then its definition's, then the worker's.
    pub(crate) fn limits(&self, node: usize) -> &[Arc<Limit>] {
        &self.limits[node]
    }

    /// The code of a derivation.
    pub(crate) fn derive(&self, node: usize) -> &Derive {
        match &self.code[node] {
            NodeCode::Derive(derive) => derive,
            NodeCode::Input | NodeCode::Step(_) => unreachable!("node {node} is no derivation"),
        }
    }
}

/// Put around everything that is called of a step's code: how a test sees and harms each call.
pub(crate) type Wrap = Arc<dyn Fn(Bound) -> Bound + Send + Sync>;

/// Programs by fingerprint.
#[derive(Default)]
pub(crate) struct Registry {
    programs: HashMap<Fingerprint, Arc<Program>>,
    wrap: Option<Wrap>,
}

/// Why a definition cannot be registered with a worker.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Unregistrable {
    /// Two different plans under one name and version.
    #[error(
        "definition {definition} version {version} was registered twice with different steps; give the changed one a new version"
    )]
    Conflict {
        /// The definition.
        definition: String,
        /// The version.
        version: u32,
    },
    /// A transactional step needs a transaction that the worker's store does not lend.
    #[error(
        "definition {definition} version {version}: step {step:?} is transactional and takes a {wanted}, but this worker's store lends {}; run it on the store that the step was written for",
        lent.unwrap_or("no transactions")
    )]
    NotLent {
        /// The definition.
        definition: String,
        /// The version.
        version: u32,
        /// The step.
        step: String,
        /// The transaction that it takes.
        wanted: &'static str,
        /// The transactions that the store lends.
        lent: Option<&'static str>,
    },
}

impl Registry {
    /// Wraps the code of every definition that is added from now on.
    #[cfg(any(test, feature = "testing"))]
    pub(crate) fn wrap(&mut self, wrap: Wrap) {
        self.wrap = Some(wrap);
    }

    pub(crate) fn add<A, In, Out>(
        &mut self,
        definition: &Definition<A, In, Out>,
        app: &A,
        lender: Option<&Lender>,
    ) -> Result<(), Unregistrable>
    where
        A: Clone + Send + Sync + 'static,
    {
        let program = Program::bind(definition, app, self.wrap.as_ref());
        let plan = &program.plan;
        let clash = self.programs.values().any(|other| {
            other.plan.name == plan.name
                && other.plan.version == plan.version
                && other.fingerprint != program.fingerprint
        });
        if clash {
            return Err(Unregistrable::Conflict { definition: plan.name.to_string(), version: plan.version });
        }
        let lent = lender.map(|lender| lender.kind());
        if let Some((step, wanted)) = program.unlent(lent) {
            return Err(Unregistrable::NotLent {
                definition: plan.name.to_string(),
                version: plan.version,
                step,
                wanted: wanted.name(),
                lent: lent.map(Transactions::name),
            });
        }
        self.programs.insert(program.fingerprint, Arc::new(program));
        Ok(())
    }

    /// Puts a limit on all attempts of all that was added.
    pub(crate) fn limit_all(&mut self, limits: &Limits) {
        let Some(limit) = Limit::new(limits).map(Arc::new) else { return };
        for program in self.programs.values_mut() {
            let program = Arc::get_mut(program).expect("nothing is driven before the worker has started");
            program.limits.iter_mut().for_each(|all| all.push(limit.clone()));
        }
    }

    pub(crate) fn get(&self, fingerprint: Fingerprint) -> Option<&Arc<Program>> {
        self.programs.get(&fingerprint)
    }

    pub(crate) fn fingerprints(&self) -> Vec<Fingerprint> {
        self.programs.keys().copied().collect()
    }

    pub(crate) fn manifests(&self) -> Vec<Manifest> {
        self.programs.values().map(|program| Manifest::of(&program.plan)).collect()
    }
}
