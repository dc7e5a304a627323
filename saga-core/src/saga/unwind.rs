//! The way back: compensations in reverse dependency order.
//!
//! A place is undone once everything that depends on it, directly or through others, is *clear*:
//! it has no effect, or its effect was undone. Independent branches undo side by side. An action in
//! doubt is settled before it is undone (by running it again under its key, or by its probe), unless
//! its compensation works by key.

use super::machine::{Decision, Machine, Rests, worker_died};
use super::plan::{Kind, Undo};
use crate::journal::stage::Rest;
use crate::journal::{Cause, Effect, Stage, Timestamp};

/// What the way back does about one item.
enum Way {
    /// Nothing: it has no effect, or none that is left to undo.
    Clear,
    /// An attempt is under way in this process: its end decides.
    Await,
    /// Its action must be settled first.
    Settle,
    /// Its compensation's next attempt, once its dependents are clear.
    Undo(u32),
    /// Its compensation is not due before this time.
    Later(Timestamp),
    /// A person must decide.
    Stuck(Cause, crate::journal::Failure),
}

impl Machine {
    pub(super) fn decide_backward(&self, now: Timestamp, decisions: &mut Vec<Decision>, rests: &mut Rests) {
        let nodes = &self.plan.nodes;
        // Sources come before what they feed, so one pass from the back sees dependents first.
        let mut clear = vec![true; nodes.len()];
        for node in (1..nodes.len()).rev() {
            let mut all = clear[node];
            for item in 0..self.stages(node).len() {
                match self.way(node, item, now) {
                    Way::Clear => continue,
                    Way::Await => {}
                    Way::Settle => self.decide_item(node, item, now, decisions, rests),
                    Way::Undo(attempt) if clear[node] => {
                        decisions.push(Decision::Start { node, item, effect: Effect::Compensation, attempt });
                    }
                    Way::Undo(_) => {}
                    Way::Later(due) => rests.due(due),
                    Way::Stuck(cause, failure) => rests.stuck(nodes[node].place(item), cause, failure),
                }
                all = false;
            }
            if !all {
                nodes[node].needs().for_each(|source| clear[source] = false);
            }
        }
    }

    fn way(&self, node: usize, item: usize, now: Timestamp) -> Way {
        let step = &self.plan.nodes[node];
        let stage = &self.stages(node)[item];
        if self.is_live(node, item) {
            return Way::Await;
        }
        let by_key = step.undo == Undo::ByKey;
        match stage {
            Stage::Idle | Stage::Refused(_) | Stage::Undone | Stage::Left => Way::Clear,
            // Without doubt and without success there is nothing to undo: the next attempt is dropped.
            Stage::Resting { doubt: false, .. } => Way::Clear,
            // Its worker died before its transaction was committed.
            Stage::Acting { doubt: false, .. } if step.transactional => Way::Clear,
            Stage::Acting { .. } | Stage::Resting { .. } if by_key => Way::Undo(1),
            Stage::Acting { .. } if !step.idempotent && !step.probe => {
                Way::Stuck(Cause::InDoubt, worker_died())
            }
            Stage::Acting { .. } | Stage::Resting { .. } | Stage::Probing { .. } => Way::Settle,
            Stage::Done(_)
                if step.kind == Kind::Pivot || matches!(step.undo, Undo::Nothing(_) | Undo::Never) =>
            {
                Way::Clear
            }
            Stage::Done(_) => Way::Undo(1),
            Stage::Undoing { attempt, .. } => Way::Undo(attempt + 1),
            Stage::UndoResting { rest: Rest::Stuck(cause, failure), .. } => {
                Way::Stuck(*cause, failure.clone())
            }
            Stage::UndoResting { rest: Rest::Due(due), .. } if *due > now => Way::Later(*due),
            Stage::UndoResting { attempt, .. } => Way::Undo(attempt + 1),
        }
    }
}
