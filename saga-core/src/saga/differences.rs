//! What changed between two plans under one name.

use super::plan::{Node, Plan};
use crate::id::Name;

impl Plan {
    /// Where another plan differs from this one, as far as sagas in flight rely on it, in words.
    pub fn differences(&self, new: &Plan) -> Vec<String> {
        differences(self, new)
    }
}

fn differences(old: &Plan, new: &Plan) -> Vec<String> {
    let mut told = Vec::new();
    for node in &old.nodes {
        match new.nodes.iter().find(|other| other.name == node.name) {
            None => told.push(format!("{} is gone", node.name)),
            Some(other) => told.extend(changed(old, node, new, other)),
        }
    }
    let added = new.nodes.iter().filter(|node| old.find(node.name.as_str()).is_none());
    told.extend(added.map(|node| format!("{} is new", node.name)));
    let order = |plan: &Plan, other: &Plan| -> Vec<Name> {
        let kept = plan.nodes.iter().filter(|node| other.find(node.name.as_str()).is_some());
        kept.map(|node| node.name.clone()).collect()
    };
    if order(old, new) != order(new, old) {
        told.push("the steps stand in another order".into());
    }
    told
}

fn changed(old: &Plan, before: &Node, new: &Plan, after: &Node) -> Option<String> {
    let names = |plan: &Plan, nodes: &[usize]| -> Vec<Name> {
        nodes.iter().map(|&node| plan.nodes[node].name.clone()).collect()
    };
    let what = if before.kind != after.kind {
        "is of another kind"
    } else if names(old, before.wiring.sources()) != names(new, after.wiring.sources()) {
        "reads other steps"
    } else if names(old, &before.after) != names(new, &after.after) {
        "comes after other steps"
    } else if std::mem::discriminant(&before.undo) != std::mem::discriminant(&after.undo) {
        "is undone in another way"
    } else if before.idempotent != after.idempotent {
        "changed whether it is idempotent"
    } else if before.probe != after.probe {
        "gained or lost its probe"
    } else {
        return None;
    };
    Some(format!("{} {what}", before.name))
}
