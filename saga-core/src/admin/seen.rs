//! From the machine of a run to what is shown of its steps.

use std::collections::HashMap;

use super::Entry;
use super::attempts::Attempt;
use super::view::{Item, Look, Step, Stuck};
use crate::id::{MailId, Place};
use crate::journal::stage::Rest;
use crate::journal::{Answer, MailBody, Record, Stage, Verb};
use crate::payload::Payload;
use crate::saga::{Kind, Machine, Wiring};

/// What a view is made from.
pub(super) struct Seen<'a> {
    pub(super) machine: &'a Machine,
    pub(super) entries: &'a [Entry],
    pub(super) blocked: Option<&'a Stuck>,
}

impl Seen<'_> {
    /// One step; `earlier` are those before it, among them all that it needs.
    pub(super) fn step(
        &self,
        node: usize,
        earlier: &[Step],
        attempts: &mut HashMap<Place, Vec<Attempt>>,
    ) -> Step {
        let planned = &self.machine.plan().nodes[node];
        let stages = self.machine.stages(node);
        let items = (0..stages.len())
            .map(|item| self.item(node, item, attempts.remove(&planned.place(item))))
            .chain(self.stuck_value(node).filter(|_| matches!(planned.kind, Kind::Derive | Kind::Input)));
        let items: Vec<Item> = items.collect();
        let look = match planned.kind {
            Kind::Input if items.is_empty() => Look::Done,
            Kind::Derive => self.derived(&planned.place(0)),
            // An `each` whose list is empty is done as soon as what it needs is.
            Kind::Each if items.is_empty() && planned.needs().all(|n| earlier[n].look == Look::Done) => {
                Look::Done
            }
            _ => items.iter().map(|item| item.look).max().unwrap_or(Look::Idle),
        };
        Step {
            name: planned.name.clone(),
            kind: planned.kind,
            reads: match &planned.wiring {
                Wiring::Unit => Vec::new(),
                wiring => wiring.sources().to_vec(),
            },
            after: planned.after.clone(),
            undo: planned.has_effect().then(|| planned.undo.clone()),
            idempotent: planned.idempotent,
            probe: planned.probe,
            look,
            items,
        }
    }

    fn derived(&self, at: &Place) -> Look {
        let done = |record: &Record| matches!(record, Record::Derived { at: place, .. } if place == at);
        if self.entries.iter().flat_map(|entry| &entry.records).any(done) {
            Look::Done
        } else if self.blocked.is_some_and(|stuck| stuck.at == *at) {
            Look::Stuck
        } else {
            Look::Idle
        }
    }

    /// A derivation has no attempts; what there is to say of it is why it is stuck. At the input stands what is
    /// about the saga as a whole.
    fn stuck_value(&self, node: usize) -> Option<Item> {
        let at = self.machine.plan().nodes[node].place(0);
        let stuck = self.blocked.filter(|stuck| stuck.at == at)?;
        Some(Item {
            look: Look::Stuck,
            in_doubt: false,
            due: None,
            failure: Some(stuck.failure.clone()),
            cause: Some(stuck.cause),
            attempts: Vec::new(),
            input: self.machine.input(node, 0).cloned(),
            output: None,
            verbs: self.verbs(&at),
            at,
        })
    }

    fn item(&self, node: usize, item: usize, attempts: Option<Vec<Attempt>>) -> Item {
        let stage = &self.machine.stages(node)[item];
        let at = self.machine.plan().nodes[node].place(item);
        let mut shown = Item {
            look: look(stage),
            in_doubt: false,
            due: None,
            failure: None,
            cause: None,
            attempts: attempts.unwrap_or_default(),
            input: self.machine.input(node, item).cloned(),
            output: None,
            verbs: Vec::new(),
            at,
        };
        match stage {
            Stage::Acting { doubt, .. } => shown.in_doubt = *doubt,
            Stage::Probing { .. } => shown.in_doubt = true,
            Stage::Resting { doubt, rest, .. } => {
                shown.in_doubt = *doubt;
                shown.rest(rest);
            }
            Stage::Done(output) => shown.output = Some(output.clone()),
            Stage::Refused(failure) => shown.failure = Some(failure.clone()),
            Stage::Undoing { output, .. } => shown.output.clone_from(output),
            Stage::UndoResting { output, rest, .. } => {
                shown.output.clone_from(output);
                shown.rest(rest);
            }
            Stage::Idle | Stage::Undone | Stage::Left => {}
        }
        // An attempt whose worker died can be what a saga is blocked at, without a record of its own.
        if let Some(stuck) = self.blocked.filter(|stuck| stuck.at == shown.at) {
            shown.look = Look::Stuck;
            shown.cause = Some(stuck.cause);
            shown.failure = Some(stuck.failure.clone());
        }
        // An attempt under way is its owner's; what rests can be decided about.
        if shown.look == Look::Stuck || shown.due.is_some() {
            shown.verbs = self.verbs(&shown.at);
        }
        shown
    }

    /// What the owner would accept about a place.
    fn verbs(&self, at: &Place) -> Vec<&'static str> {
        let verbs =
            [("retry", Verb::Retry), ("resolve", Verb::Resolve(Payload::null())), ("skip", Verb::Skip)];
        let body = |verb| MailBody::Operator { at: at.clone(), verb, who: String::new(), why: String::new() };
        let accepted = verbs.into_iter().filter(|(_, verb)| accepts(self.machine, body(verb.clone())));
        accepted.map(|(name, _)| name).collect()
    }
}

impl Item {
    fn rest(&mut self, rest: &Rest) {
        match rest {
            Rest::Due(due) => self.due = Some(*due),
            Rest::Stuck(cause, failure) => {
                self.cause = Some(*cause);
                self.failure = Some(failure.clone());
            }
        }
    }
}

fn look(stage: &Stage) -> Look {
    match stage {
        Stage::Idle => Look::Idle,
        Stage::Acting { .. } | Stage::Probing { .. } => Look::UnderWay,
        Stage::Resting { rest: Rest::Stuck(..), .. } | Stage::UndoResting { rest: Rest::Stuck(..), .. } => {
            Look::Stuck
        }
        Stage::Resting { .. } => Look::Resting,
        Stage::Done(_) => Look::Done,
        Stage::Refused(_) => Look::Refused,
        Stage::Undoing { .. } | Stage::UndoResting { .. } => Look::Undoing,
        Stage::Undone => Look::Undone,
        Stage::Left => Look::Left,
    }
}

pub(super) fn accepts(machine: &Machine, body: MailBody) -> bool {
    let received = machine.receive(MailId::new(), body, chrono::Utc::now());
    matches!(received, Record::Received { answer: Answer::Accepted, .. })
}
