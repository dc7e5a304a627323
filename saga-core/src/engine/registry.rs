//! The definitions a worker has code for.

use std::collections::HashMap;
use std::sync::Arc;

use super::limit::Limit;
use crate::id::Fingerprint;
use crate::saga::builder::{Definition, Part};
use crate::saga::plan::Plan;
use crate::step::code::{Bound, BoundCode, Derive};
use crate::store::Manifest;

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

    /// The limits on a node's attempts: its own, then its definition's.
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

/// Two different plans under one name and version.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "definition {definition} version {version} was registered twice with different steps; give the changed one a new version"
)]
pub struct Conflict {
    /// The definition.
    pub definition: String,
    /// The version.
    pub version: u32,
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
    ) -> Result<(), Conflict>
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
            return Err(Conflict { definition: plan.name.to_string(), version: plan.version });
        }
        self.programs.insert(program.fingerprint, Arc::new(program));
        Ok(())
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
