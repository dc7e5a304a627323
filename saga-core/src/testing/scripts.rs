//! Which misbehaviours of participants are tried: a list that follows from what a run calls.

use std::collections::BTreeSet;

use super::behaviour::{Behaviour, Direction, Script, Target};
use super::evidence::Evidence;
use super::plan::Plan;
use crate::saga::Plan as Shape;
use crate::saga::plan::Node;

/// How many attempts of a policy are tried at most to see it used up.
const ATTEMPTS_MAX: u32 = 10;

/// What follows from a run in which everybody did what was asked.
pub(super) fn first(shape: &Shape, quiet: &Evidence) -> Vec<Plan> {
    let actions: Vec<Target> = called(quiet, Direction::Action);
    let mut scripts = vec![Script::default(), Script { repeat: true, ..Script::default() }];
    for action in &actions {
        let Some(node) = node(shape, action) else { continue };
        scripts.extend(alone(node, action));
        // In doubt while another says no.
        for other in actions.iter().filter(|other| *other != action) {
            for doubt in [Behaviour::LostAnswer, Behaviour::Unknown] {
                let script = Script::default().with(action.clone(), &[doubt; 2]);
                scripts.push(script.with(other.clone(), &[Behaviour::Reject]));
            }
        }
    }
    scripts.into_iter().map(bare).collect()
}

fn bare(script: Script) -> Plan {
    Plan { script, ..Plan::default() }
}

/// Whether every point of a script is hit by everything: nobody misbehaves, one action does once, or one
/// action is rejected and one compensation is out of reach for a while.
pub(super) fn is_core(script: &Script) -> bool {
    let of = |effect: Direction| script.calls.iter().filter(move |(target, _)| target.effect == effect);
    let action = |(_, behaviours): (&Target, &Vec<Behaviour>)| {
        matches!(behaviours.as_slice(), [Behaviour::Reject | Behaviour::LostAnswer])
    };
    let undo = |(_, behaviours): (&Target, &Vec<Behaviour>)| *behaviours == [Behaviour::NotApplied; 2];
    let actions = of(Direction::Action).count();
    let undos = of(Direction::Compensation).count();
    !script.repeat
        && script.retries == 0
        && actions <= 1
        && actions + undos == script.calls.len()
        && of(Direction::Action).all(action)
        && of(Direction::Compensation).all(undo)
}

/// One action misbehaves.
fn alone(node: &Node, action: &Target) -> Vec<Script> {
    let one = |behaviours: &[Behaviour]| Script::default().with(action.clone(), behaviours);
    let mut scripts: Vec<Script> = Behaviour::ALL.iter().map(|behaviour| one(&[*behaviour])).collect();
    scripts.push(Script { repeat: true, ..one(&[Behaviour::Reject]) });
    scripts.push(one(&[Behaviour::LostAnswer, Behaviour::NotApplied, Behaviour::Unknown]));
    if let Some(attempts) = (1..=ATTEMPTS_MAX).find(|attempt| !node.retry.goes_on_after(*attempt)) {
        scripts.push(one(&vec![Behaviour::NotApplied; attempts as usize]));
        let mut doubt = vec![Behaviour::NotApplied; attempts as usize];
        doubt[0] = Behaviour::LostAnswer;
        scripts.push(one(&doubt));
    }
    if !node.idempotent && !node.probe {
        // A person has it tried again, and only that attempt is rejected.
        let doubt = one(&[Behaviour::LostAnswer, Behaviour::Reject]);
        scripts.push(Script { retries: 1, ..doubt });
        scripts.push(Script { retries: 1, ..one(&[Behaviour::Unknown, Behaviour::Unknown]) });
    }
    scripts
}

/// What follows from a run in which compensations or probes were called.
pub(super) fn second(script: &Script, evidence: &Evidence) -> Vec<Plan> {
    let mut scripts = Vec::new();
    let unscripted = |target: &Target| !script.calls.contains_key(target);
    for undo in called(evidence, Direction::Compensation).into_iter().filter(unscripted) {
        for behaviours in [
            [Behaviour::NotApplied; 2].as_slice(),
            &[Behaviour::LostAnswer; 2],
            &[Behaviour::Unknown, Behaviour::Panic, Behaviour::Hang],
            &[Behaviour::Reject],
        ] {
            scripts.push(script.clone().with(undo.clone(), behaviours));
        }
    }
    for probe in called(evidence, Direction::Probe).into_iter().filter(unscripted) {
        for behaviours in [[Behaviour::NotApplied, Behaviour::Unknown].as_slice(), &[Behaviour::LostAnswer]] {
            scripts.push(script.clone().with(probe.clone(), behaviours));
        }
    }
    scripts.into_iter().map(bare).collect()
}

fn node<'a>(shape: &'a Shape, target: &Target) -> Option<&'a Node> {
    shape.find(&target.step).map(|node| &shape.nodes[node])
}

/// The effects of one kind that a run called, each once.
fn called(evidence: &Evidence, effect: Direction) -> Vec<Target> {
    let targets: BTreeSet<Target> = evidence.entries.iter().map(|entry| entry.request.target()).collect();
    targets.into_iter().filter(|target| target.effect == effect).collect()
}
