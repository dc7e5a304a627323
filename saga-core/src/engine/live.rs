//! One saga that a worker owns, between two commits: its machine, and what the next commit will say.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use super::keeping::Keeping;
use super::limit::{Permit, Wait};
use super::registry::Program;
use super::trouble::Trouble;
use crate::id::{Key, MailId, RunId};
use crate::journal::{self, Effect, Failure, Illegal, Outcome, Record, Stage, Timestamp};
use crate::payload::Payload;
use crate::priority::Priority;
use crate::saga::{Decision, Machine};
use crate::store::{JournalRow, Loaded, Mail, Then};

/// One saga that this worker owns, between two commits.
pub(crate) struct Saga {
    pub(crate) run: RunId,
    pub(crate) name: Arc<str>,
    pub(crate) program: Arc<Program>,
    pub(crate) keeping: Keeping,
    pub(crate) machine: Machine,
    pub(crate) keys: Keys,
    pub(crate) priority: Priority,
    /// It does not hold its key: nothing may start.
    pub(crate) queued: bool,
    /// What it suffers from, as far as commits tell.
    pub(crate) trouble: Trouble,
    /// The number of the next commit.
    pub(crate) next: u32,
    /// Starts that are durable but not acted upon.
    pub(crate) starts: Vec<Launch>,
    /// Mail that came with the journal.
    pub(crate) mail: Vec<Mail>,
    /// Mail that a commit has consumed.
    pub(crate) read: HashSet<MailId>,
    /// It was told something that only a newer version reads: nothing starts here any more.
    pub(crate) foreign: bool,
}

/// The keys that have to do with a saga.
#[derive(Clone, Debug, Default)]
pub(crate) struct Keys {
    /// Its own.
    pub(crate) own: Option<Key>,
    /// Its own and those of the sagas above it.
    pub(crate) all: Arc<[Key]>,
}

/// An attempt to start once its record is durable.
#[derive(Debug)]
pub(crate) struct Launch {
    pub(crate) node: usize,
    pub(crate) item: usize,
    pub(crate) effect: Effect,
    pub(crate) attempt: u32,
    /// Ends with the attempt.
    _permit: Permit,
}

/// What one commit will say.
#[derive(Default)]
pub(crate) struct Draft {
    pub(crate) records: Vec<Record>,
    pub(crate) starts: Vec<Launch>,
    pub(crate) then: Option<Then>,
    /// A start was left out because a limit is used up.
    pub(crate) limited: Option<Wait>,
    /// What an earlier wait was granted.
    pub(crate) granted: Permit,
    /// The saga goes on here at this time, without a commit.
    pub(crate) hold: Option<Timestamp>,
}

/// Why a saga cannot be driven: its journal does not fit its plan.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Unfit {
    #[error("commit {number} does not decode: {error}")]
    Undecodable { number: u32, error: serde_json::Error },
    #[error("commit {number} does not fit the plan: {illegal}")]
    Illegal { number: u32, illegal: Illegal },
    /// The engine was about to write what may not follow.
    #[error("what comes next does not fit the plan: {0}")]
    Next(Illegal),
    /// What is not the step's own code: a cipher, say.
    #[error("driving it panicked: {0}")]
    Panicked(String),
}

impl Keys {
    /// As the saga's first record tells them.
    pub(crate) fn of(began: &Record) -> Self {
        match began {
            Record::Began { key, above, .. } if key.is_some() || !above.is_empty() => {
                Self { own: key.clone(), all: key.iter().chain(above).cloned().collect() }
            }
            _ => Self::default(),
        }
    }
}

/// Reads a journal.
pub(crate) fn read(loaded: &Loaded) -> Result<Vec<Vec<Record>>, Unfit> {
    let read = |row: &JournalRow| {
        journal::decode(&row.body).map_err(|error| Unfit::Undecodable { number: row.number, error })
    };
    loaded.journal.iter().map(read).collect()
}

impl Saga {
    /// Rebuilds a saga from its journal.
    pub(crate) fn load(loaded: &Loaded, program: Arc<Program>, keeping: &Keeping) -> Result<Self, Unfit> {
        let commits = read(loaded)?;
        Self::replay(loaded, &commits, program, keeping)
    }

    /// The same, where its journal has been read (and opened) already.
    pub(crate) fn replay(
        loaded: &Loaded,
        commits: &[Vec<Record>],
        program: Arc<Program>,
        keeping: &Keeping,
    ) -> Result<Self, Unfit> {
        let mut machine = Machine::new(program.plan.clone());
        let (mut read, mut keys, mut trouble) = (HashSet::new(), Keys::default(), Trouble::default());
        for (row, records) in loaded.journal.iter().zip(commits) {
            trouble.fold(&program.plan.name, records);
            for record in records {
                machine.apply(record).map_err(|illegal| Unfit::Illegal { number: row.number, illegal })?;
                match record {
                    Record::Began { .. } => keys = Keys::of(record),
                    Record::Received { mail, .. } => drop(read.insert(*mail)),
                    _ => {}
                }
            }
        }
        let next = loaded.journal.last().map_or(0, |row| row.number + 1);
        Ok(Self {
            run: loaded.run,
            name: loaded.saga.clone(),
            program,
            keeping: keeping.clone(),
            machine,
            keys,
            priority: loaded.priority,
            queued: loaded.queued,
            trouble,
            next,
            starts: Vec::new(),
            mail: loaded.mail.clone(),
            read,
            foreign: false,
        })
    }

    /// Adds to a draft everything that comes next, applying each record as it is written.
    pub(crate) fn decide(
        &mut self,
        draft: &mut Draft,
        now: Timestamp,
        hold: Duration,
    ) -> Result<(), Illegal> {
        let mut granted = std::mem::take(&mut draft.granted);
        loop {
            let mut derived = false;
            draft.hold = None;
            for decision in self.machine.decide(now) {
                if self.queued && !matches!(decision, Decision::Expire | Decision::End(_)) {
                    // It has done nothing, so it may end; for anything else its turn has to come.
                    draft.then = Some(Then::Queue);
                    return Ok(());
                }
                let record = match decision {
                    Decision::Derive { node, input } => {
                        derived = true;
                        self.derive(node, &input)
                    }
                    Decision::Start { node, item, effect, attempt } => {
                        let permit =
                            match Permit::take(self.program.limits(node), &mut granted, self.priority) {
                                Ok(permit) => permit,
                                Err(wait) => {
                                    draft.limited = Some(wait);
                                    continue;
                                }
                            };
                        draft.starts.push(Launch { node, item, effect, attempt, _permit: permit });
                        if let Some(bounded) =
                            self.machine.bounded_by_start((node, item), effect, attempt, now)
                        {
                            self.machine.apply(&bounded)?;
                            draft.records.push(bounded);
                        }
                        let at = self.program.plan.nodes[node].place(item);
                        let record = Record::Started { at, effect, attempt };
                        self.machine.apply(&record)?;
                        self.machine.launched(node, item);
                        draft.records.push(record);
                        continue;
                    }
                    Decision::Expire => {
                        derived = true;
                        Record::Expired {}
                    }
                    Decision::Wait(due) => {
                        let busy = self.machine.any_live() || draft.limited.is_some();
                        if busy || (due - now).to_std().unwrap_or_default() <= hold {
                            draft.hold = Some(due);
                        } else {
                            draft.then = Some(Then::Wait(due));
                        }
                        continue;
                    }
                    Decision::Block { at, cause, failure } => {
                        draft.then = Some(Then::Block);
                        Record::Blocked { at, cause, failure }
                    }
                    Decision::End(end) => {
                        draft.then = Some(Then::End(end.kind()));
                        Record::Closed { end }
                    }
                };
                let blocks = matches!(record, Record::Blocked { .. });
                self.machine.apply(&record)?;
                draft.records.push(record);
                if blocks {
                    return Ok(());
                }
            }
            if !derived {
                return Ok(());
            }
        }
    }

    /// Ends every attempt that may be under way like this.
    pub(crate) fn end_all(&mut self, outcome: &Outcome, draft: &mut Draft) -> Result<(), Illegal> {
        for node in 0..self.program.plan.nodes.len() {
            for item in 0..self.machine.stages(node).len() {
                let effect = match self.machine.stages(node)[item] {
                    Stage::Acting { .. } => Effect::Action,
                    Stage::Undoing { .. } => Effect::Compensation,
                    Stage::Probing { .. } => Effect::Probe,
                    _ => continue,
                };
                let at = self.program.plan.nodes[node].place(item);
                let record = Record::Finished { at, effect, outcome: outcome.clone(), due: None };
                self.machine.apply(&record)?;
                draft.records.push(record);
            }
        }
        Ok(())
    }

    fn derive(&self, node: usize, input: &Payload) -> Record {
        let at = self.program.plan.nodes[node].place(0);
        let derive = self.program.derive(node);
        let kept = || derive(input).and_then(|value| self.keeping.derived(&at, value, self.run));
        let value = std::panic::catch_unwind(std::panic::AssertUnwindSafe(kept));
        match value.unwrap_or_else(|_| Err(Failure::new("the derivation panicked"))) {
            Ok(value) => Record::Derived { at, value },
            Err(failure) => Record::Blocked { at, cause: journal::Cause::Malformed, failure },
        }
    }
}
