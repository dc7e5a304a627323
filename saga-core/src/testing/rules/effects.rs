//! What must have happened at the participants.

use std::collections::{BTreeMap, HashMap};

use super::super::evidence::Evidence;
use super::super::ledger::{Entry, Verdict};
use crate::journal::{Effect, EndKind};
use crate::saga::Plan as Shape;
use crate::saga::plan::Undo;
use crate::store::State;

/// What happened to one effect: (step, item).
#[derive(Default)]
struct Fate {
    applied: usize,
    undone: usize,
    /// Where in the book the last action was applied.
    last_applied: usize,
    /// Where the compensation was first asked for, and where it was applied.
    first_undo: Option<usize>,
    undone_at: Option<usize>,
}

type Fates<'a> = BTreeMap<(&'a str, usize), Fate>;

pub(super) fn judge(evidence: &Evidence, broken: &mut Vec<String>) {
    keys(evidence, broken);
    let fates = fates(&evidence.entries);
    for ((step, item), fate) in &fates {
        let Some(node) = evidence.shape.find(step) else { continue };
        // An operator who has an action in doubt tried again takes that on himself.
        let most = if evidence.shape.nodes[node].idempotent { 1 } else { 1 + evidence.plan.script.retries };
        if fate.applied > most as usize {
            broken.push(format!("{step}#{item} was applied {} times", fate.applied));
        }
        if fate.undone > 1 {
            broken.push(format!("{step}#{item} was undone {} times", fate.undone));
        }
        if fate.first_undo.is_some_and(|undo| undo < fate.last_applied && fate.applied > 0) {
            broken.push(format!("{step}#{item} was applied after its compensation"));
        }
        standing(evidence, node, (step, *item), fate, broken);
    }
    order(&evidence.shape, &fates, broken);
    let done = evidence.summary.as_ref().is_some_and(|s| s.state == State::Ended(EndKind::Completed));
    for step in evidence.known.iter().filter(|_| done) {
        if !fates.keys().any(|(seen, _)| seen == step) {
            broken.push(format!("it is completed, but {step} was never asked for anything"));
        }
    }
}

/// One run, one key per effect, and another for each.
fn keys(evidence: &Evidence, broken: &mut Vec<String>) {
    let mut keys = HashMap::new();
    let mut effects = HashMap::new();
    for Entry { request, .. } in &evidence.entries {
        if Some(request.run) != evidence.run {
            broken.push(format!(
                "{} was asked for by run {}, which is not journaled",
                request.target(),
                request.run
            ));
        }
        let undo = request.effect == Effect::Compensation;
        let effect = (request.step.as_str(), request.occurrence, undo);
        let key = request.key.as_str();
        if *keys.entry(effect).or_insert(key) != key {
            broken.push(format!("{} was asked for under two keys", request.target()));
        }
        if *effects.entry(key).or_insert(effect) != effect {
            broken.push(format!("{} shares its key with another effect", request.target()));
        }
    }
}

fn fates(entries: &[Entry]) -> Fates<'_> {
    let mut fates = Fates::new();
    for (at, Entry { request, verdict }) in entries.iter().enumerate() {
        let fate = fates.entry((request.step.as_str(), request.occurrence)).or_default();
        match (request.effect, verdict) {
            (Effect::Action, Verdict::Applied) => {
                fate.applied += 1;
                fate.last_applied = at;
            }
            (Effect::Compensation, verdict) => {
                fate.first_undo.get_or_insert(at);
                if *verdict == Verdict::Applied {
                    fate.undone += 1;
                    fate.undone_at = Some(at);
                }
            }
            _ => {}
        }
    }
    fates
}

/// All effects, or none that can be undone.
fn standing(evidence: &Evidence, node: usize, at: (&str, usize), fate: &Fate, broken: &mut Vec<String>) {
    let Some(State::Ended(end)) = evidence.summary.as_ref().map(|summary| summary.state) else { return };
    let (step, item) = at;
    let stands = fate.applied > 0 && fate.undone == 0;
    let may_stand = matches!(evidence.shape.nodes[node].undo, Undo::Nothing(_));
    match end {
        EndKind::Completed if !stands => {
            broken.push(format!("it is completed, but {step}#{item} has no effect"));
        }
        EndKind::Compensated if stands && !may_stand => {
            broken.push(format!("it is compensated, but the effect of {step}#{item} stands"));
        }
        EndKind::PartiallyCompensated => {
            broken.push("it is partially compensated, and no operator said so".into())
        }
        EndKind::Completed | EndKind::Compensated => {}
    }
}

/// An effect is undone only when nothing that depends on it stands.
fn order(shape: &Shape, fates: &Fates<'_>, broken: &mut Vec<String>) {
    for ((step, item), fate) in fates {
        let (Some(node), Some(undo)) = (shape.find(step), fate.first_undo) else { continue };
        for ((later, later_item), dependent) in fates {
            let Some(later_node) = shape.find(later).filter(|&later| depends(shape, later, node)) else {
                continue;
            };
            if matches!(shape.nodes[later_node].undo, Undo::Nothing(_)) || dependent.applied == 0 {
                continue;
            }
            if dependent.undone_at.is_none_or(|at| at > undo) || dependent.last_applied > undo {
                broken.push(format!(
                    "{step}#{item} was undone while {later}#{later_item}, which needs it, stood"
                ));
            }
        }
    }
}

/// Whether node `later` has to wait for node `earlier`, directly or through others.
fn depends(shape: &Shape, later: usize, earlier: usize) -> bool {
    shape.nodes[later].needs().any(|source| source == earlier || depends(shape, source, earlier))
}
