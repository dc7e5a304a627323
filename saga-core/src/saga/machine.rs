//! The pure machine: (plan, journal, now) → decisions. No I/O, no clock, no tokio.
//!
//! A [`Machine`] is the fold of a journal. [`Machine::apply`] takes one record, on replay and live
//! alike; [`Machine::decide`] says what comes next. The engine writes each decision as a record,
//! applies it, commits, and acts only when the commit is durable.
//!
//! The machine goes forward until a place is refused or a cancel is accepted, and backward from then
//! on (see `unwind`). When nothing is under way, nothing can start and nothing is due, the saga has
//! either ended or it needs a person.

mod decision;
mod mail;

use std::sync::Arc;

use super::bounds::Bounds;
use super::plan::{Kind, Plan, Wiring};
use crate::id::Place;
use crate::journal::stage::Event;
use crate::journal::{Answer, Cause, End, Failure, Illegal, Record, Stage, Timestamp};
use crate::payload::Payload;
pub use decision::Decision;
pub(super) use decision::{Rests, worker_died};

/// Where the items of one node stand.
#[derive(Clone, Debug, Default)]
pub(super) struct Slot {
    /// One stage per item; a node other than `each` has exactly one item.
    pub(super) stages: Vec<Stage>,
    /// Which items have an attempt under way *in this process*.
    live: Vec<bool>,
    /// How many workers died in a row while they ran the item, as far as later starts tell.
    deaths: Vec<u32>,
    /// The time that policies give each item, as far as it has begun to run.
    pub(super) bounds: Vec<Bounds>,
    /// The items' inputs, once the node's sources are done.
    inputs: Option<Vec<Payload>>,
    /// The node's output, once every item is done.
    output: Option<Payload>,
}

impl Slot {
    fn resize(&mut self, items: usize) {
        self.stages.resize(items, Stage::Idle);
        self.live.resize(items, false);
        self.deaths.resize(items, 0);
        self.bounds.resize(items, Bounds::default());
    }
}

/// The state of one declared saga.
#[derive(Clone, Debug)]
pub struct Machine {
    pub(super) plan: Arc<Plan>,
    pub(super) slots: Vec<Slot>,
    /// Why it unwinds: the first failure that was journaled.
    cause: Option<Failure>,
    /// An operator left an effect as it is, so the end cannot be `Compensated`.
    left: bool,
    /// An operator ended it as it stands.
    abandoned: bool,
    pivot_begun: bool,
    deadline: Option<Timestamp>,
    blocked: bool,
    /// It is blocked because a worker could not read its journal.
    unfit: bool,
    end: Option<End>,
}

impl Machine {
    /// The state before any record.
    pub fn new(plan: Arc<Plan>) -> Self {
        let slots = plan.nodes.iter().map(|node| match node.kind {
            Kind::Step | Kind::Pivot => {
                let mut slot = Slot::default();
                slot.resize(1);
                slot
            }
            Kind::Input | Kind::Derive | Kind::Each => Slot::default(),
        });
        let slots = slots.collect();
        Self {
            plan,
            slots,
            cause: None,
            left: false,
            abandoned: false,
            pivot_begun: false,
            deadline: None,
            blocked: false,
            unfit: false,
            end: None,
        }
    }

    /// Folds a whole journal.
    pub fn replay<'a>(
        plan: Arc<Plan>,
        records: impl IntoIterator<Item = &'a Record>,
    ) -> Result<Self, Illegal> {
        let mut machine = Self::new(plan);
        for record in records {
            machine.apply(record)?;
        }
        Ok(machine)
    }

    /// Takes one record: the only way the state changes, live and on replay.
    pub fn apply(&mut self, record: &Record) -> Result<(), Illegal> {
        if self.end.is_some() {
            return Err(self.illegal("the saga has ended", record));
        }
        match record {
            Record::Began { input, deadline, .. } if self.slots[0].output.is_none() => {
                self.deadline = *deadline;
                self.slots[0].output = Some(input.clone());
                self.open_ready();
            }
            Record::Derived { at, value } => {
                let (node, _) = self.locate(at, record)?;
                if self.plan.nodes[node].kind != Kind::Derive || self.slots[node].output.is_some() {
                    return Err(self.illegal("nothing is derived there", record));
                }
                self.slots[node].output = Some(value.clone());
                self.open_ready();
            }
            Record::Started { at, effect, attempt } => {
                let (node, item) = self.locate(at, record)?;
                let orphaned = self.slots[node].stages.get(item).is_some_and(Stage::is_under_way);
                let (node, item) = self.step(at, &Event::Started(*effect, *attempt), record)?;
                self.pivot_begun |= self.plan.nodes[node].kind == Kind::Pivot;
                self.slots[node].live[item] = false;
                self.slots[node].deaths[item] += u32::from(orphaned);
            }
            Record::Bounded { at, bound, until } => {
                let (node, item) = self.locate(at, record)?;
                let begun = self.slots[node].bounds.get_mut(item).map(|bounds| bounds.begin(*bound, *until));
                if begun != Some(true) {
                    return Err(self.illegal("no time begins to run there", record));
                }
            }
            Record::Finished { at, effect, outcome, due } => {
                let (node, item) = self.step(at, &Event::Finished(*effect, outcome, *due), record)?;
                self.slots[node].live[item] = false;
                self.slots[node].deaths[item] = 0;
                self.settle(node, item);
            }
            Record::Received { body, answer: Answer::Accepted, .. } => self.accept(body, record)?,
            Record::Received { .. } => {}
            Record::Expired {} => {
                self.cause.get_or_insert(Failure::new("the saga's deadline passed"));
            }
            Record::Blocked { cause, .. } => {
                self.blocked = true;
                self.unfit = *cause == Cause::Unfit;
            }
            Record::Closed { end } => self.end = Some(end.clone()),
            Record::Began { .. } => return Err(self.illegal("the saga has begun", record)),
        }
        Ok(())
    }

    /// Moves one place on by the table of legal histories.
    fn step(&mut self, at: &Place, event: &Event<'_>, record: &Record) -> Result<(usize, usize), Illegal> {
        let (node, item) = self.locate(at, record)?;
        let contract = self.plan.nodes[node].contract();
        let stage = std::mem::replace(&mut self.slots[node].stages[item], Stage::Idle);
        self.slots[node].stages[item] = stage.next(event, contract)?;
        Ok((node, item))
    }

    /// What follows when a place came to rest: an output, or a reason to unwind.
    fn settle(&mut self, node: usize, item: usize) {
        match &self.slots[node].stages[item] {
            Stage::Done(_) => self.gather(node),
            Stage::Refused(failure) => {
                let failure = Failure::new(format!("{}: {failure}", self.plan.nodes[node].place(item)));
                self.cause.get_or_insert(failure);
            }
            _ => {}
        }
    }

    /// Gives the node its output once every item is done, and opens what waited for it.
    fn gather(&mut self, node: usize) {
        let slot = &mut self.slots[node];
        let outputs: Option<Vec<&Payload>> = slot
            .stages
            .iter()
            .map(|s| if let Stage::Done(output) = s { Some(output) } else { None })
            .collect();
        let Some(outputs) = outputs else { return };
        slot.output = Some(match self.plan.nodes[node].kind {
            Kind::Each => Payload::array(outputs),
            _ => outputs[0].clone(),
        });
        self.open_ready();
    }

    /// Gives every node whose sources are done its input. An `each` over an empty list is done at once.
    fn open_ready(&mut self) {
        for node in 1..self.plan.nodes.len() {
            if self.slots[node].inputs.is_some() {
                continue;
            }
            let plan = self.plan.clone();
            if !plan.nodes[node].needs().all(|source| self.slots[source].output.is_some()) {
                continue;
            }
            let input = self.join(&plan.nodes[node].wiring);
            let slot = &mut self.slots[node];
            if plan.nodes[node].kind != Kind::Each {
                slot.inputs = Some(vec![input]);
                continue;
            }
            // What is no list cannot be cut into items: the one item it makes then fails to decode,
            // which blocks the saga with that payload named.
            let items = input.items().unwrap_or_else(|_| vec![input]);
            slot.resize(items.len());
            if items.is_empty() {
                slot.output = Some(Payload::array([]));
            }
            slot.inputs = Some(items);
        }
    }

    fn join(&self, wiring: &Wiring) -> Payload {
        let output =
            |node: usize| self.slots[node].output.as_ref().expect("only asked when the sources are done");
        match wiring {
            Wiring::Unit => Payload::null(),
            Wiring::One(node) => output(*node).clone(),
            Wiring::Many(nodes) => Payload::array(nodes.iter().map(|node| output(*node))),
        }
    }

    fn locate(&self, at: &Place, record: &Record) -> Result<(usize, usize), Illegal> {
        let (name, item) = at.parts();
        let node = self.plan.find(name).ok_or_else(|| self.illegal("the plan has no such step", record))?;
        let item = item.unwrap_or(0);
        let derived = self.plan.nodes[node].kind == Kind::Derive;
        if !derived && item >= self.slots[node].stages.len() {
            return Err(self.illegal("the step has no such item", record));
        }
        Ok((node, item))
    }

    fn illegal(&self, stage: &str, record: &Record) -> Illegal {
        Illegal { stage: format!("{}: {stage}", self.plan.name), event: format!("{record:?}") }
    }
}

/// What the engine says of attempts in this process: what no journal tells.
impl Machine {
    /// When it undoes itself, unless its pivot has begun by then.
    pub(crate) fn deadline(&self) -> Option<Timestamp> {
        self.deadline
    }

    /// Takes back the start of the pivot, which was decided last and not written: the machine is as it was.
    pub(crate) fn withdraw(&mut self, node: usize, item: usize) {
        self.slots[node].stages[item] = Stage::Idle;
        self.slots[node].live[item] = false;
        self.slots[node].bounds[item] = Bounds::default();
        self.pivot_begun = false;
    }

    /// Marks an attempt as under way in this process, once its start is durable.
    pub fn launched(&mut self, node: usize, item: usize) {
        self.slots[node].live[item] = true;
    }

    /// Whether any attempt is under way in this process.
    pub fn any_live(&self) -> bool {
        self.slots.iter().any(|slot| slot.live.contains(&true))
    }
}

/// What can be seen of the state.
impl Machine {
    /// The plan it follows.
    pub fn plan(&self) -> &Arc<Plan> {
        &self.plan
    }

    /// The input of one item, once it is known.
    pub fn input(&self, node: usize, item: usize) -> Option<&Payload> {
        self.slots[node].inputs.as_ref()?.get(item)
    }

    /// The stages of a node's items.
    pub fn stages(&self, node: usize) -> &[Stage] {
        &self.slots[node].stages
    }

    /// Whether one item has an attempt under way in this process.
    pub fn is_live(&self, node: usize, item: usize) -> bool {
        self.slots[node].live[item]
    }

    /// How many workers have died in a row while they ran an attempt of this saga that has not ended
    /// since, the last one included.
    pub fn deaths(&self) -> u32 {
        let items = self.slots.iter().flat_map(|slot| slot.stages.iter().zip(&slot.live).zip(&slot.deaths));
        items
            .map(|((stage, live), deaths)| deaths + u32::from(stage.is_under_way() && !live))
            .max()
            .unwrap_or(0)
    }

    /// Why it unwinds, once it does.
    pub fn cause(&self) -> Option<&Failure> {
        self.cause.as_ref()
    }

    /// Whether it waits for a person.
    pub fn is_blocked(&self) -> bool {
        self.blocked
    }

    /// How it ended, once it has.
    pub fn end(&self) -> Option<&End> {
        self.end.as_ref()
    }
}
