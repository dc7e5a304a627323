//! One run in full: every step and item, where it stands and how it came there.

use std::sync::Arc;

use serde::Serialize;

use super::attempts::{Attempt, attempts};
use super::replay::replay;
use super::seen::{Seen, accepts};
use super::{Admin, Entry, Error};
use crate::id::{Name, Place, RunId};
use crate::journal::{Cause, End, Failure, MailBody, Record, Timestamp, Verb};
use crate::payload::Payload;
use crate::saga::{Kind, Plan, Undo};
use crate::store::{Mail, Summary};

/// One run in full.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct View {
    /// The run at a glance.
    pub summary: Summary,
    /// Its steps in the order of the plan; empty when no worker has registered the plan.
    pub steps: Vec<Step>,
    /// The names of the steps whose outputs make the saga's own.
    pub output: Vec<Name>,
    /// Why it undoes what it did, once it does.
    pub cause: Option<Failure>,
    /// Where and why it needs a person.
    pub blocked: Option<Stuck>,
    /// Whether a cancel would be accepted now.
    pub cancellable: bool,
    /// How it ended.
    pub end: Option<End>,
    /// Requests that its owner has not read yet.
    pub unread: Vec<Unread>,
    /// How many commits its journal has.
    pub commits: usize,
    /// Why its steps cannot be shown, or not to the end.
    pub unfit: Option<String>,
}

/// A request that its owner has not read yet.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(untagged)]
pub enum Unread {
    /// What it says.
    Known(MailBody),
    /// It was written by a newer version: the saga waits for a worker that reads it.
    Foreign {
        /// The format, above [`MailBody::FORMAT`].
        newer: i16,
    },
}

/// One step of a run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Step {
    /// Its name.
    pub name: Name,
    /// What it is.
    pub kind: Kind,
    /// The steps whose outputs it reads, by their index.
    pub reads: Vec<usize>,
    /// The steps that only have to be done before it, by their index.
    pub after: Vec<usize>,
    /// How it is undone; absent for what has no effect.
    pub undo: Option<Undo>,
    /// Whether its action may be run again under the same key.
    pub idempotent: bool,
    /// Whether a probe can settle its action.
    pub probe: bool,
    /// How it looks as a whole: the look among its items that most needs attention.
    pub look: Look,
    /// Its items: one, or as many as the list of an `each` has once that is known. None for the input and
    /// for derivations, unless one is stuck.
    pub items: Vec<Item>,
}

/// One place of a run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Item {
    /// The place.
    pub at: Place,
    /// How it looks.
    pub look: Look,
    /// Whether its action may have taken effect without telling.
    pub in_doubt: bool,
    /// When the next attempt is due.
    pub due: Option<Timestamp>,
    /// Why it needs a person, or was refused.
    pub failure: Option<Failure>,
    /// Why it needs a person.
    pub cause: Option<Cause>,
    /// Every attempt, in order.
    pub attempts: Vec<Attempt>,
    /// What it was given.
    pub input: Option<Payload>,
    /// What its action gave.
    pub output: Option<Payload>,
    /// What an operator can do about it now.
    pub verbs: Vec<&'static str>,
}

/// A place that needs a person.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Stuck {
    /// The place.
    pub at: Place,
    /// Why.
    pub cause: Cause,
    /// What the failing attempt said.
    pub failure: Failure,
    /// Since when.
    pub since: Timestamp,
}

/// How a place looks, from what needs no attention to what needs it most.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Look {
    /// Nothing was started.
    Idle,
    /// It is done.
    Done,
    /// Its effect was undone.
    Undone,
    /// An operator left its effect as it is.
    Left,
    /// It had no effect and will have none.
    Refused,
    /// It rests until its next attempt.
    Resting,
    /// Its compensation is under way, or rests until its next attempt.
    Undoing,
    /// Its action or its probe is under way.
    UnderWay,
    /// It needs a person.
    Stuck,
}

impl Look {
    /// The look's name.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Idle => "idle",
            Self::Done => "done",
            Self::Undone => "undone",
            Self::Left => "left",
            Self::Refused => "refused",
            Self::Resting => "resting",
            Self::Undoing => "undoing",
            Self::UnderWay => "under_way",
            Self::Stuck => "stuck",
        }
    }
}

impl Admin {
    /// One run in full, payloads included; see [`View::without_payloads`].
    ///
    /// A run whose plan no worker has registered, or whose journal does not fit its plan, is shown as far
    /// as it goes, with [`View::unfit`] saying what is wrong.
    pub async fn view(&self, run: RunId) -> Result<View, Error> {
        let summary = self.summary(run).await?;
        let entries = self.journal(run).await?;
        let plan = self.plan(summary.fingerprint).await?;
        let ended = matches!(summary.state, crate::store::State::Ended(_));
        let loaded = if ended { None } else { self.backend.store.load(run).await? };
        let unread = loaded.map(|loaded| loaded.mail).unwrap_or_default();
        Ok(View::of(summary, plan, &entries, unread))
    }
}

impl View {
    fn of(summary: Summary, plan: Option<Arc<Plan>>, entries: &[Entry], unread: Vec<Mail>) -> Self {
        let mut view = Self {
            summary,
            steps: Vec::new(),
            output: Vec::new(),
            cause: None,
            blocked: None,
            cancellable: false,
            end: None,
            unread: unread.iter().map(Unread::of).collect(),
            commits: entries.len(),
            unfit: None,
        };
        let Some(plan) = plan else {
            let (name, version) = (&view.summary.definition, view.summary.version);
            view.unfit = Some(format!("no worker has registered {name} version {version} with these steps"));
            view.blocked = last_block(entries);
            return view;
        };
        let (machine, unfit) = replay(plan.clone(), entries);
        view.unfit = unfit.map(|illegal| illegal.to_string());
        view.output = plan.output.sources().iter().map(|&node| plan.nodes[node].name.clone()).collect();
        view.cause = machine.cause().cloned();
        let blocked = view.summary.state == crate::store::State::Blocked;
        let stuck = machine.is_blocked() || (blocked && view.unfit.is_some());
        view.blocked = stuck.then(|| last_block(entries)).flatten();
        view.end = machine.end().cloned();
        let cancel = MailBody::Cancel { reason: String::new() };
        view.cancellable = view.end.is_none() && accepts(&machine, cancel);
        let mut attempts = attempts(entries);
        let seen = Seen { machine: &machine, entries, blocked: view.blocked.as_ref() };
        for node in 0..plan.nodes.len() {
            let step = seen.step(node, &view.steps, &mut attempts);
            view.steps.push(step);
        }
        view
    }

    /// Every place that needs a person; the one the saga is blocked at comes first.
    pub fn stuck(&self) -> impl Iterator<Item = &Item> {
        let at = self.blocked.as_ref().map(|stuck| &stuck.at);
        let items = || self.steps.iter().flat_map(|step| &step.items).filter(|i| i.look == Look::Stuck);
        let first = items().filter(move |item| Some(&item.at) == at);
        first.chain(items().filter(move |item| Some(&item.at) != at))
    }

    /// The same without what customers told the service: no inputs, no outputs.
    #[must_use]
    pub fn without_payloads(mut self) -> Self {
        for item in self.steps.iter_mut().flat_map(|step| &mut step.items) {
            item.input = None;
            item.output = None;
        }
        if let Some(End::Completed { output }) = &mut self.end {
            *output = Payload::null();
        }
        for body in &mut self.unread {
            if let Unread::Known(MailBody::Operator { verb: Verb::Resolve(output), .. }) = body {
                *output = Payload::null();
            }
        }
        self
    }
}

impl Unread {
    fn of(mail: &Mail) -> Self {
        mail.read().map_or(Self::Foreign { newer: mail.format }, Self::Known)
    }
}

/// The last time that a journal says a person is needed.
pub(super) fn last_block(entries: &[Entry]) -> Option<Stuck> {
    let records =
        entries.iter().rev().flat_map(|entry| entry.records.iter().rev().map(move |r| (entry.at, r)));
    let mut blocks = records.filter_map(|(since, record)| match record {
        Record::Blocked { at, cause, failure } => {
            Some(Stuck { at: at.clone(), cause: *cause, failure: failure.clone(), since })
        }
        _ => None,
    });
    blocks.next()
}
