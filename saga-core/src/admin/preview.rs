//! What cancelling a saga would undo, in which order, and what it cannot undo.

use chrono::Utc;
use serde::Serialize;

use super::{Admin, Error};
use crate::id::{MailId, Place, RunId};
use crate::journal::{Answer, Cause, Effect, EndKind, Failure, MailBody, Outcome, Record, Stage, Timestamp};
use crate::payload::Payload;
use crate::saga::{Decision, Kind, Machine, Undo};

/// What a cancel would do if the saga's owner read it now.
///
/// It is found by letting a copy of the saga's machine run on, with every compensation succeeding. What
/// the saga does between this look and the cancel is not in it: the owner's answer counts.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Preview {
    /// Whether the cancel would be accepted.
    pub accepted: bool,
    /// Why it would not be.
    pub why: Option<String>,
    /// Actions that may have taken effect, and how that is found out before anything is undone.
    pub in_doubt: Vec<InDoubt>,
    /// Until when it would wait on the way for the next attempt of what failed before, at least.
    pub waits: Option<Timestamp>,
    /// What is undone, in waves: the effects of one wave are undone side by side, before the next.
    pub undone: Vec<Vec<Undone>>,
    /// Effects that took place and stay.
    pub stays: Vec<Stays>,
    /// Where it would need a person on the way.
    pub blocks: Option<Blocks>,
    /// How it would end, unless it needs a person before.
    pub end: Option<EndKind>,
}

/// An action that may have taken effect.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct InDoubt {
    /// The place.
    pub at: Place,
    /// How it is settled when its attempt does not tell: by the `action` (again, under the same key) or by
    /// the `probe`.
    pub settled_by: Effect,
}

/// An effect that would be undone.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Undone {
    /// The place.
    pub at: Place,
    /// Only if it turns out that its action took effect.
    pub if_it_happened: bool,
}

/// An effect that would stay.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Stays {
    /// The place.
    pub at: Place,
    /// The reason that the step's author gave.
    pub why: String,
}

/// A place where a person is needed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Blocks {
    /// The place.
    pub at: Place,
    /// Why.
    pub cause: Cause,
    /// What the failing attempt said.
    pub failure: Failure,
}

impl Admin {
    /// What cancelling a run would do now; see [`Preview`].
    pub async fn preview_cancel(&self, run: RunId) -> Result<Preview, Error> {
        let summary = self.summary(run).await?;
        let machine = self.machine(&summary).await?;
        Preview::of(machine, Utc::now()).map_err(|illegal| Error::Unfit { run, why: illegal.to_string() })
    }
}

impl Preview {
    fn of(mut machine: Machine, mut now: Timestamp) -> Result<Self, crate::journal::Illegal> {
        let mut preview = Self {
            accepted: false,
            why: None,
            in_doubt: Vec::new(),
            waits: None,
            undone: Vec::new(),
            stays: Vec::new(),
            blocks: None,
            end: None,
        };
        if let Some(why) = too_late(&machine) {
            preview.why = Some(why);
            return Ok(preview);
        }
        let body = MailBody::Cancel { reason: String::new() };
        machine.apply(&Record::Received { mail: MailId::new(), body, answer: Answer::Accepted })?;
        preview.accepted = true;
        loop {
            let mut wave = Vec::new();
            let decisions = machine.decide(now);
            if decisions.is_empty() {
                break;
            }
            for decision in decisions {
                match decision {
                    Decision::Start { node, item, effect, attempt } => {
                        let at = machine.plan().nodes[node].place(item);
                        let uncertain = !took_effect(&machine.stages(node)[item]);
                        if effect == Effect::Compensation {
                            let settled = preview.in_doubt.iter().any(|doubt| doubt.at == at);
                            wave.push(Undone { at: at.clone(), if_it_happened: uncertain || settled });
                        } else {
                            preview.in_doubt.push(InDoubt { at: at.clone(), settled_by: effect });
                        }
                        machine.apply(&Record::Started { at: at.clone(), effect, attempt })?;
                        let outcome = Outcome::Ok(Payload::null());
                        machine.apply(&Record::Finished { at, effect, outcome, due: None })?;
                    }
                    Decision::Wait(due) => {
                        now = due;
                        preview.waits = Some(due);
                    }
                    Decision::Block { at, cause, failure } => {
                        preview.blocks = Some(Blocks { at: at.clone(), cause, failure: failure.clone() });
                        machine.apply(&Record::Blocked { at, cause, failure })?;
                    }
                    Decision::End(end) => {
                        preview.end = Some(end.kind());
                        machine.apply(&Record::Closed { end })?;
                    }
                    Decision::Derive { .. } | Decision::Expire => {
                        unreachable!("on the way back nothing is derived, and no deadline counts")
                    }
                }
            }
            if !wave.is_empty() {
                preview.undone.push(wave);
            }
        }
        preview.stays = stays(&machine);
        Ok(preview)
    }
}

/// Why a cancel would be refused.
fn too_late(machine: &Machine) -> Option<String> {
    if let Some(end) = machine.end() {
        return Some(format!("it has ended: {}", end.kind()));
    }
    let cancel = MailBody::Cancel { reason: String::new() };
    match machine.receive(MailId::new(), cancel, Utc::now()) {
        Record::Received { answer: Answer::Accepted, .. } => None,
        _ => Some(match machine.cause() {
            Some(cause) => format!("it undoes what it did already: {cause}"),
            None => {
                let pivot = machine.plan().nodes.iter().find(|node| node.kind == Kind::Pivot);
                let pivot = pivot.map_or("its pivot", |node| node.name.as_str());
                format!("{pivot} has started, and from there on there is no way back")
            }
        }),
    }
}

fn took_effect(stage: &Stage) -> bool {
    match stage {
        Stage::Done(_) => true,
        Stage::Undoing { output, .. } | Stage::UndoResting { output, .. } => output.is_some(),
        _ => false,
    }
}

/// Effects that took place and that nothing undoes.
fn stays(machine: &Machine) -> Vec<Stays> {
    let mut stays = Vec::new();
    for (node, step) in machine.plan().nodes.iter().enumerate() {
        for (item, stage) in machine.stages(node).iter().enumerate() {
            let why = match (stage, &step.undo) {
                (Stage::Done(_), Undo::Nothing(why)) => why.clone(),
                (Stage::Left, _) => "an operator left it as it is".into(),
                _ => continue,
            };
            stays.push(Stays { at: step.place(item), why });
        }
    }
    stays
}
