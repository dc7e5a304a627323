//! What the journal must say, and the store's row with it.

use super::super::evidence::Evidence;
use super::super::plan::Hit;
use crate::journal::{Answer, Effect, MailBody, Record, Stage};
use crate::saga::plan::{Kind, Undo};
use crate::saga::{Machine, Plan as Shape};
use crate::store::State;

pub(super) fn judge(evidence: &Evidence, broken: &mut Vec<String>) {
    let numbers: Vec<u32> = evidence.journal.iter().map(|row| row.number).collect();
    if !numbers.iter().copied().eq(0..u32::try_from(numbers.len()).expect("a short journal")) {
        broken.push(format!("the journal's commits are numbered {numbers:?}"));
    }
    let mut machine = Machine::new(evidence.shape.clone());
    for (number, record) in &evidence.records {
        before(&machine, record, *number, broken);
        if let Err(illegal) = machine.apply(record) {
            broken.push(format!("commit {number} is not legal: {illegal}"));
            return;
        }
    }
    at_the_end(evidence, &machine, broken);
    mail(evidence, broken);
    pivot(evidence, broken);
}

/// What must be true before a record may follow.
fn before(machine: &Machine, record: &Record, number: u32, broken: &mut Vec<String>) {
    let shape = machine.plan();
    match record {
        Record::Started { at, effect: Effect::Action, attempt } => {
            let (name, item) = at.parts();
            let Some(node) = shape.find(name) else { return };
            let stage = machine.stages(node).get(item.unwrap_or(0));
            if *attempt == 1 {
                if machine.cause().is_some() {
                    broken.push(format!("commit {number} starts {at} although the saga is undoing itself"));
                }
                if let Some(early) = unsettled(machine, shape, node) {
                    broken.push(format!("commit {number} starts {at} before {early} is done"));
                }
            } else if let Some(Stage::Resting { doubt: false, .. }) = stage
                && !shape.nodes[node].retry.goes_on_after(attempt - 1)
                && machine.cause().is_none()
            {
                broken.push(format!(
                    "commit {number} starts attempt {attempt} of {at}: its policy allows fewer"
                ));
            }
        }
        Record::Received { body: MailBody::Cancel { .. }, answer: Answer::Accepted, .. }
            if pivot_begun(machine, shape) =>
        {
            broken.push(format!("commit {number} accepts a cancel after the pivot began"));
        }
        _ => {}
    }
}

/// The first node that a step has to wait for, and that is not done: its sources; for a pivot every
/// earlier step; for what stands after the pivot, the pivot.
fn unsettled(machine: &Machine, shape: &Shape, node: usize) -> Option<String> {
    let pivot = shape.nodes.iter().position(|node| node.kind == Kind::Pivot);
    let waits_for = |earlier: usize| match pivot {
        Some(pivot) if node == pivot => earlier < pivot,
        Some(pivot) if node > pivot => earlier <= pivot,
        _ => shape.nodes[node].needs().any(|source| source == earlier),
    };
    let done = |earlier: usize| machine.stages(earlier).iter().all(|stage| matches!(stage, Stage::Done(_)));
    let early =
        (0..shape.nodes.len()).filter(|&earlier| waits_for(earlier)).find(|&earlier| !done(earlier))?;
    Some(shape.nodes[early].name.to_string())
}

fn pivot_begun(machine: &Machine, shape: &Shape) -> bool {
    let pivots = shape.nodes.iter().enumerate().filter(|(_, node)| node.kind == Kind::Pivot);
    pivots.flat_map(|(node, _)| machine.stages(node)).any(|stage| *stage != Stage::Idle)
}

/// The end, the stages that it stands on, and the store's row tell the same.
fn at_the_end(evidence: &Evidence, machine: &Machine, broken: &mut Vec<String>) {
    let Some(summary) = &evidence.summary else {
        return broken.push("it was never started".into());
    };
    let end = machine.end().map(crate::journal::End::kind);
    let expected = match end {
        Some(end) => State::Ended(end),
        None if machine.is_blocked() => State::Blocked,
        None => State::Running,
    };
    if summary.state != expected || expected == State::Running {
        let (shown, told) = (summary.state.as_str(), expected.as_str());
        broken.push(format!("the store says it is {shown}, the journal that it is {told}"));
    }
    let completed = machine.cause().is_none();
    for (node, step) in machine.plan().nodes.iter().enumerate().filter(|(_, step)| step.has_effect()) {
        for (item, stage) in machine.stages(node).iter().enumerate() {
            let honest = match stage {
                Stage::Done(_) => completed || matches!(step.undo, Undo::Nothing(_)),
                Stage::Idle | Stage::Refused(_) | Stage::Undone | Stage::Resting { doubt: false, .. } => {
                    !completed
                }
                // What died with its worker was never committed.
                Stage::Acting { doubt: false, .. } => !completed && step.transactional,
                _ => false,
            };
            if end.is_some() && !honest {
                let (end, place) = (summary.state.as_str(), step.place(item));
                broken.push(format!("it ended {end} while {place} is {stage:?}"));
            }
        }
    }
}

/// Mail that a commit's snapshot can have shown is answered by the next.
fn mail(evidence: &Evidence, broken: &mut Vec<String>) {
    for cancel in &evidence.cancels {
        let answered = evidence.records.iter().find_map(|(number, record)| match record {
            Record::Received { mail, .. } if *mail == cancel.mail => Some(*number as usize),
            _ => None,
        });
        // Commit `commits` was perhaps on its way when the mail came; its answer brings the mail. (The
        // commit that blocks a saga whose data is refused reads none.)
        let refused = evidence.plan.hits.values().any(|hit| *hit == Hit::Refuse);
        let at_latest = cancel.commits + 1 + usize::from(refused);
        if answered.unwrap_or(evidence.journal.len()) > at_latest {
            broken.push(format!(
                "a cancel that was posted when there were {} commits is not answered in commit {at_latest}",
                cancel.commits
            ));
        }
    }
}

/// From a pivot there is no way back, so it does not start while a cancel that its commit could see is unread.
fn pivot(evidence: &Evidence, broken: &mut Vec<String>) {
    let begins = evidence.records.iter().find_map(|(number, record)| match record {
        Record::Started { at, effect: Effect::Action, attempt: 1 } => {
            let node = evidence.shape.find(at.parts().0)?;
            (evidence.shape.nodes[node].kind == Kind::Pivot).then_some((*number as usize, at))
        }
        _ => None,
    });
    let Some((begins, at)) = begins else { return };
    for cancel in evidence.cancels.iter().filter(|cancel| cancel.commits <= begins) {
        let read_before = evidence.records.iter().any(|(number, record)| {
            matches!(record, Record::Received { mail, .. } if *mail == cancel.mail)
                && *number as usize <= begins
        });
        if !read_before {
            broken.push(format!(
                "commit {begins} starts {at}, the pivot, although a cancel was waiting to be read"
            ));
        }
    }
}
