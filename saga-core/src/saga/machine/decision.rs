//! What comes next: the way forward. The way back is `saga/unwind.rs`.

use super::Machine;
use crate::id::Place;
use crate::journal::stage::Rest;
use crate::journal::{Cause, Effect, End, Failure, Stage, Timestamp};
use crate::payload::Payload;
use crate::saga::plan::Kind;

/// What comes next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision {
    /// Compute this pure value now; it shares the commit.
    Derive {
        /// The node.
        node: usize,
        /// Its input.
        input: Payload,
    },
    /// Record that this attempt starts, and start it once that is durable.
    Start {
        /// The node.
        node: usize,
        /// The item of an `each`; 0 elsewhere.
        item: usize,
        /// Which effect.
        effect: Effect,
        /// Which attempt.
        attempt: u32,
    },
    /// The deadline passed: record that, and ask again.
    Expire,
    /// Nothing can be done before this time.
    Wait(Timestamp),
    /// A person is needed.
    Block {
        /// Where.
        at: Place,
        /// Why.
        cause: Cause,
        /// What the failing attempt said.
        failure: Failure,
    },
    /// It is over.
    End(End),
}

impl Machine {
    /// Everything that can be done now, and when there will be more; empty while attempts are under way
    /// that alone decide what follows.
    ///
    /// The caller records and applies each `Derive` and `Start`, marks starts with
    /// [`Machine::launched`], and asks again after a `Derive`.
    pub fn decide(&self, now: Timestamp) -> Vec<Decision> {
        if self.end.is_some() || self.blocked || self.slots[0].output.is_none() {
            return Vec::new();
        }
        let unwinding = self.cause.is_some();
        let deadline = self.deadline.filter(|_| !unwinding && !self.pivot_begun);
        if deadline.is_some_and(|deadline| deadline <= now) {
            return vec![Decision::Expire];
        }
        let mut decisions = Vec::new();
        let mut rests = Rests::default();
        if !self.abandoned {
            if unwinding {
                self.decide_backward(now, &mut decisions, &mut rests);
            } else {
                self.decide_forward(now, &mut decisions, &mut rests);
            }
        }
        if !decisions.is_empty() || self.any_live() {
            // What rests comes due also while something else is under way.
            decisions.extend([rests.due, deadline].into_iter().flatten().min().map(Decision::Wait));
            return decisions;
        }
        vec![match (rests.due, rests.stuck) {
            (Some(due), _) => Decision::Wait(deadline.map_or(due, |deadline| deadline.min(due))),
            (None, Some((at, cause, failure))) => Decision::Block { at, cause, failure },
            (None, None) => Decision::End(self.ending()),
        }]
    }

    fn decide_forward(&self, now: Timestamp, decisions: &mut Vec<Decision>, rests: &mut Rests) {
        for (node, slot) in self.slots.iter().enumerate().skip(1) {
            let Some(inputs) = &slot.inputs else { continue };
            if self.plan.nodes[node].kind == Kind::Derive && slot.output.is_none() {
                decisions.push(Decision::Derive { node, input: inputs[0].clone() });
            }
            for item in 0..slot.stages.len() {
                self.decide_item(node, item, now, decisions, rests);
            }
        }
    }

    /// Brings one action nearer to success: its first attempt, the next one, or a probe.
    pub(in crate::saga) fn decide_item(
        &self,
        node: usize,
        item: usize,
        now: Timestamp,
        decisions: &mut Vec<Decision>,
        rests: &mut Rests,
    ) {
        if self.slots[node].live[item] {
            return;
        }
        let step = &self.plan.nodes[node];
        let mut start = |effect, attempt| decisions.push(Decision::Start { node, item, effect, attempt });
        match &self.slots[node].stages[item] {
            Stage::Idle => start(Effect::Action, 1),
            // From here on: the worker that ran it died, or the time of the next attempt has come.
            Stage::Acting { attempt, .. } if step.idempotent => start(Effect::Action, attempt + 1),
            Stage::Acting { .. } if step.probe => start(Effect::Probe, 1),
            Stage::Acting { .. } => rests.stuck(step.place(item), Cause::InDoubt, worker_died()),
            Stage::Probing { probe, .. } => start(Effect::Probe, probe + 1),
            Stage::Resting { rest: Rest::Stuck(cause, failure), .. } => {
                rests.stuck(step.place(item), *cause, failure.clone());
            }
            Stage::Resting { rest: Rest::Due(due), .. } if *due > now => rests.due(*due),
            Stage::Resting { attempt, doubt, probes, .. } => match (doubt, step.idempotent, step.probe) {
                (false, ..) | (true, true, _) => start(Effect::Action, attempt + 1),
                (true, false, true) => start(Effect::Probe, probes + 1),
                (true, false, false) => start(Effect::Action, attempt + 1),
            },
            Stage::Done(_)
            | Stage::Refused(_)
            | Stage::Undoing { .. }
            | Stage::UndoResting { .. }
            | Stage::Undone
            | Stage::Left => {}
        }
    }

    fn ending(&self) -> End {
        match &self.cause {
            None => End::Completed { output: self.join(&self.plan.output) },
            Some(cause) if self.left => End::PartiallyCompensated { cause: cause.clone() },
            Some(cause) => End::Compensated { cause: cause.clone() },
        }
    }
}

/// What the places that cannot go on wait for.
#[derive(Debug, Default)]
pub(in crate::saga) struct Rests {
    due: Option<Timestamp>,
    stuck: Option<(Place, Cause, Failure)>,
}

impl Rests {
    pub(in crate::saga) fn due(&mut self, due: Timestamp) {
        self.due = Some(self.due.map_or(due, |earlier| earlier.min(due)));
    }

    pub(in crate::saga) fn stuck(&mut self, at: Place, cause: Cause, failure: Failure) {
        self.stuck.get_or_insert((at, cause, failure));
    }
}

pub(in crate::saga) fn worker_died() -> Failure {
    Failure::new("the worker that ran this attempt died before it told the outcome")
}
