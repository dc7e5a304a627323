//! A world around the machine: participants with a truth of their own, operators, and workers that die.

use std::collections::BTreeMap;
use std::time::Duration;

use saga_core::journal::{
    Answer, Effect, EndKind, Failure, MailBody, Outcome, Record, Stage, Timestamp, Verb,
};
use saga_core::saga::plan::{Kind, Undo};
use saga_core::saga::{Decision, Machine, Plan};
use saga_core::{MailId, Name, Payload, Place};
use std::sync::Arc;

use super::plans::Sketch;

/// More steps than any of these sagas can need once everybody does what is asked.
const STEPS_MAX: usize = 5_000;

pub(super) struct World<'a> {
    plan: Arc<Plan>,
    machine: Machine,
    records: Vec<Record>,
    tape: std::slice::Iter<'a, u16>,
    now: Timestamp,
    /// What is under way: (node, item, effect).
    live: Vec<(usize, usize, Effect)>,
    /// What is true outside, for each (node, item).
    truth: BTreeMap<(usize, usize), Truth>,
    by_operator: bool,
    cancelled: bool,
}

#[derive(Clone, Copy, Default)]
struct Truth {
    stands: bool,
    /// The participant refuses it from now on.
    closed: bool,
}

impl<'a> World<'a> {
    pub(super) fn new(sketch: &Sketch, tape: &'a [u16]) -> Self {
        let plan = sketch.plan();
        let mut world = Self {
            machine: Machine::new(plan.clone()),
            records: Vec::new(),
            tape: tape.iter(),
            now: Timestamp::UNIX_EPOCH + chrono_days(365 * 60),
            live: Vec::new(),
            truth: BTreeMap::new(),
            by_operator: false,
            cancelled: false,
            plan,
        };
        world.write(Record::Began {
            definition: Name::new("sketch").unwrap(),
            version: 1,
            fingerprint: world.plan.fingerprint(),
            saga: "s".into(),
            input: number(1),
            deadline: None,
            key: None,
            above: Vec::new(),
        });
        world
    }

    /// Goes on until the end, and checks on the way.
    pub(super) fn run_to_its_end(&mut self) {
        for _ in 0..STEPS_MAX {
            self.check_replay();
            match self.chance(12) {
                1 => self.crash(),
                2 if !self.cancelled => self.cancel(),
                _ => {}
            }
            if self.step() {
                self.check_end();
                return;
            }
        }
        panic!("it does not end: {:#?}", self.records);
    }

    /// One thing that comes next; true when that was the end.
    fn step(&mut self) -> bool {
        let decisions = self.machine.decide(self.now);
        if decisions.is_empty() {
            if self.machine.is_blocked() {
                self.operate();
            } else {
                self.finish_one();
            }
            return false;
        }
        for decision in decisions {
            match decision {
                Decision::Derive { node, .. } => {
                    let (at, value) = (self.plan.nodes[node].place(0), self.derived(node));
                    self.write(Record::Derived { at, value });
                }
                Decision::Start { node, item, effect, attempt } => {
                    self.check_order(node, effect);
                    let at = self.plan.nodes[node].place(item);
                    let bounded = self.machine.bounded_by_start((node, item), effect, attempt, self.now);
                    bounded.into_iter().for_each(|record| self.write(record));
                    self.write(Record::Started { at, effect, attempt });
                    self.machine.launched(node, item);
                    self.live.push((node, item, effect));
                }
                Decision::Expire => unreachable!("no deadline was set"),
                Decision::Wait(due) => self.now = due,
                Decision::Block { at, cause, failure } => self.write(Record::Blocked { at, cause, failure }),
                Decision::End(end) => {
                    self.write(Record::Closed { end });
                    return true;
                }
            }
        }
        false
    }

    fn derived(&mut self, node: usize) -> Payload {
        if !self.plan.nodes[node].name.as_str().starts_with("list") {
            return number(7);
        }
        let items = usize::from(self.chance(4));
        Payload::encode(&vec![Vec::<u64>::new(); items]).unwrap()
    }

    /// Some attempt ends, in whatever way its participant may answer.
    fn finish_one(&mut self) {
        assert!(!self.live.is_empty(), "nothing is under way and nothing comes next: {:#?}", self.records);
        let index = self.chance(self.live.len() as u16) as usize % self.live.len();
        let (node, item, effect) = self.live.swap_remove(index);
        let outcome = self.outcome(node, item, effect);
        for record in self.machine.finish((node, item), effect, outcome, None, self.now, 0.5) {
            self.write(record);
        }
    }

    fn outcome(&mut self, node: usize, item: usize, effect: Effect) -> Outcome {
        let kind = self.chance(8);
        let idempotent = self.plan.nodes[node].idempotent;
        let forward = self.plan.nodes[node].contract().forward;
        let transactional = self.plan.nodes[node].transactional;
        let truth = self.truth.entry((node, item)).or_default();
        let why = || Failure::new("by chance");
        match (effect, kind) {
            (Effect::Probe, 1) => Outcome::Unknown(why()),
            (Effect::Probe, _) if truth.stands => Outcome::Ok(number(2)),
            (Effect::Probe, _) => {
                truth.closed = true;
                Outcome::NotApplied(why())
            }
            (_, 1) => Outcome::NotApplied(why()),
            // What was rolled back is known to have had no effect.
            (Effect::Action, 2 | 4) if transactional => Outcome::NotApplied(why()),
            (_, 2) => Outcome::Unknown(why()),
            (Effect::Action, _) if truth.closed => Outcome::Rejected(why()),
            // Who answers by key cannot reject what it has done. After the pivot it may, for a while.
            (Effect::Action, 3) if !(idempotent && truth.stands) => {
                truth.closed = idempotent && !forward;
                Outcome::Rejected(why())
            }
            (Effect::Action, kind) => {
                truth.stands = true;
                if kind == 4 { Outcome::Unknown(why()) } else { Outcome::Ok(number(2)) }
            }
            (Effect::Compensation, 3) => Outcome::Rejected(why()),
            (Effect::Compensation, kind) => {
                *truth = Truth { stands: false, closed: true };
                if kind == 4 { Outcome::Unknown(why()) } else { Outcome::Ok(Payload::null()) }
            }
        }
    }

    /// The worker dies; what was under way may have happened. The next one has only the journal.
    fn crash(&mut self) {
        for (node, item, effect) in std::mem::take(&mut self.live) {
            // The effect of a transactional step is there with its record or not at all.
            let may_have = effect != Effect::Action || !self.plan.nodes[node].transactional;
            if self.chance(2) == 1 && may_have {
                self.outcome(node, item, effect);
            }
        }
        self.machine = Machine::replay(self.plan.clone(), &self.records).expect("its own journal is legal");
    }

    fn cancel(&mut self) {
        let record =
            self.machine.receive(MailId::new(), MailBody::Cancel { reason: "chance".into() }, self.now);
        if let Record::Received { answer: Answer::Accepted, .. } = record {
            self.cancelled = true;
        }
        self.write(record);
    }

    /// An honest operator: what he says of an effect is true.
    fn operate(&mut self) {
        let Some(Record::Blocked { at, .. }) =
            self.records.iter().rev().find(|record| matches!(record, Record::Blocked { .. }))
        else {
            panic!("blocked without a record")
        };
        let at = at.clone();
        let (node, item) = self.locate(&at);
        let undoing =
            matches!(self.machine.stages(node)[item], Stage::UndoResting { .. } | Stage::Undoing { .. });
        let truth = self.truth.entry((node, item)).or_default();
        let verb = if undoing {
            *truth = Truth { stands: false, closed: true };
            Verb::Resolve(Payload::null())
        } else if truth.stands {
            Verb::Resolve(number(2))
        } else if self.plan.nodes[node].contract().forward {
            Verb::Retry
        } else {
            Verb::Skip
        };
        let verb = if self.chance(3) == 1 { Verb::Retry } else { verb };
        let body = MailBody::Operator { at, verb: verb.clone(), who: "o".into(), why: "chance".into() };
        let record = self.machine.receive(MailId::new(), body, self.now);
        let Record::Received { answer, .. } = &record else { unreachable!("mail is received") };
        assert_eq!(*answer, Answer::Accepted, "{verb:?} at {node}: {:#?}", self.records);
        self.by_operator |= verb == Verb::Skip;
        if verb == Verb::Skip {
            // He sees to it that the late request is refused.
            self.truth.entry((node, item)).or_default().closed = true;
        }
        self.write(record);
    }

    fn locate(&self, at: &Place) -> (usize, usize) {
        let (name, item) = at.parts();
        (self.plan.find(name).unwrap(), item.unwrap_or(0))
    }

    fn write(&mut self, record: Record) {
        if let Err(illegal) = self.machine.apply(&record) {
            panic!("{illegal}, after {:#?}", self.records);
        }
        self.records.push(record);
    }

    /// A number below `of`, or 0 when the tape is used up.
    fn chance(&mut self, of: u16) -> u16 {
        self.tape.next().map_or(0, |number| number % of.max(1))
    }
}

/// What must hold.
impl World<'_> {
    /// The journal alone leads to the same state, and its text reads as itself.
    fn check_replay(&self) {
        let text = saga_core::journal::encode(&self.records);
        let read = saga_core::journal::decode(&text).unwrap();
        assert_eq!(read, self.records);
        let replayed = Machine::replay(self.plan.clone(), &read).expect("a legal history replays");
        for node in 0..self.plan.nodes.len() {
            assert_eq!(replayed.stages(node), self.machine.stages(node));
        }
        assert_eq!(replayed.cause(), self.machine.cause());
        assert_eq!(replayed.is_blocked(), self.machine.is_blocked());
        assert_eq!(replayed.end(), self.machine.end());
    }

    /// Nothing that depends on an effect stands when its undoing begins; nothing runs beside a pivot.
    fn check_order(&self, node: usize, effect: Effect) {
        let kind = self.plan.nodes[node].kind;
        if effect == Effect::Action && kind == Kind::Pivot {
            for earlier in 1..node {
                let stages = self.machine.stages(earlier);
                assert!(
                    stages.iter().all(|stage| matches!(stage, Stage::Done(_))),
                    "{earlier} beside the pivot"
                );
            }
        }
        if effect != Effect::Compensation {
            return;
        }
        for (&(later, item), truth) in &self.truth {
            let kept = matches!(self.plan.nodes[later].undo, Undo::Nothing(_));
            let left = matches!(self.machine.stages(later).get(item), Some(Stage::Left));
            let standing = truth.stands && !kept && !left;
            assert!(!(standing && self.depends(later, node)), "{node} is undone while {later} stands");
        }
    }

    fn depends(&self, later: usize, earlier: usize) -> bool {
        self.plan.nodes[later].needs().any(|source| source == earlier || self.depends(source, earlier))
    }

    fn check_end(&self) {
        let end = self.machine.end().expect("it has ended").kind();
        assert!(self.machine.decide(self.now).is_empty(), "nothing comes after the end");
        for (node, step) in self.plan.nodes.iter().enumerate().filter(|(_, step)| step.has_effect()) {
            for item in 0..self.machine.stages(node).len() {
                let stands = self.truth.get(&(node, item)).is_some_and(|truth| truth.stands);
                let may_stand = matches!(step.undo, Undo::Nothing(_));
                match end {
                    EndKind::Completed => assert!(stands, "completed without {}", step.place(item)),
                    EndKind::Compensated => {
                        assert!(!stands || may_stand, "compensated, but {} stands", step.place(item));
                    }
                    EndKind::PartiallyCompensated => assert!(self.by_operator, "nobody said so"),
                }
            }
        }
        if self.cancelled {
            assert_ne!(end, EndKind::Completed, "a cancel was accepted");
        }
    }

    /// No record of an attempt may follow itself.
    pub(super) fn repeat_every_record(&self) {
        let mut machine = Machine::new(self.plan.clone());
        for record in &self.records {
            machine.apply(record).unwrap();
            if matches!(
                record,
                Record::Started { .. }
                    | Record::Bounded { .. }
                    | Record::Finished { .. }
                    | Record::Closed { .. }
                    | Record::Began { .. }
            ) {
                let twice = machine.clone().apply(record);
                assert!(twice.is_err(), "{record:?} was taken twice");
            }
        }
    }
}

fn number(n: u64) -> Payload {
    Payload::encode(&n).unwrap()
}

fn chrono_days(days: u64) -> Duration {
    Duration::from_secs(days * 86_400)
}
