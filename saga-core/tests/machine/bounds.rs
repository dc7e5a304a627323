//! What policies make of an attempt's end, one line each: the pure machine, told the time.

use std::time::Duration;

use saga_core::journal::{Bound, Cause, Effect, Failure, Outcome, Record, Stage, Timestamp, stage::Rest};
use saga_core::saga::{Decision, Machine};
use saga_core::{Cx, Definition, Name, Payload, Probed, Retry, Step, StepError, step};

async fn act(_: Cx<()>, n: u64) -> Result<u64, StepError> {
    Ok(n)
}

async fn undo(_: Cx<()>, _: u64, _: u64) -> Result<(), StepError> {
    Ok(())
}

async fn ask(_: Cx<()>, _: u64) -> Result<Probed<u64>, StepError> {
    Ok(Probed::Unknown)
}

const SECOND: Duration = Duration::from_secs(1);

/// Pauses of a second, without end.
fn steady() -> Retry {
    Retry::forever().base(SECOND).most(SECOND)
}

fn plain() -> Step<(), u64, u64> {
    step("act", act).retry(steady()).compensation_retry(steady())
}

/// One saga of one step, at the hands of a clock.
struct Told {
    machine: Machine,
    records: Vec<Record>,
    now: Timestamp,
}

impl Told {
    fn of(step: Step<(), u64, u64>) -> Self {
        let (mut b, n) = Definition::build::<(), u64>("told", 1);
        let done = b.add(step.compensate(undo), n);
        let plan = b.finish(done).unwrap().plan().clone();
        let mut told =
            Self { machine: Machine::new(plan.clone()), records: Vec::new(), now: Timestamp::UNIX_EPOCH };
        told.write(Record::Began {
            definition: Name::new("told").unwrap(),
            version: 1,
            fingerprint: plan.fingerprint(),
            saga: "1".into(),
            input: Payload::encode(&1).unwrap(),
            deadline: None,
            key: None,
            above: Vec::new(),
        });
        told
    }

    fn write(&mut self, record: Record) {
        self.machine.apply(&record).unwrap();
        self.records.push(record);
    }

    /// Starts what comes next; says what that is. Whatever is due is waited for.
    fn start(&mut self) -> Option<(Effect, u32)> {
        for _ in 0..3 {
            match self.machine.decide(self.now).into_iter().next()? {
                Decision::Start { node, item, effect, attempt } => {
                    let bounded = self.machine.bounded_by_start((node, item), effect, attempt, self.now);
                    bounded.into_iter().for_each(|record| self.write(record));
                    let at = self.machine.plan().nodes[node].place(item);
                    self.write(Record::Started { at, effect, attempt });
                    self.machine.launched(node, item);
                    return Some((effect, attempt));
                }
                Decision::Wait(due) => self.now = due,
                _ => return None,
            }
        }
        None
    }

    fn finish(&mut self, effect: Effect, outcome: Outcome, after: Duration, retry_after: Option<Duration>) {
        self.now += after;
        for record in self.machine.finish((1, 0), effect, outcome, retry_after, self.now, 1.0) {
            self.write(record);
        }
    }

    /// Answers every attempt like this, each after half a second, until none comes any more.
    fn attempts(&mut self, answer: impl Fn(u32) -> Outcome) -> Vec<(Effect, u32)> {
        let mut all = Vec::new();
        while let Some((effect, attempt)) = self.start() {
            all.push((effect, attempt));
            assert!(all.len() < 100, "it goes on for ever: {all:?}");
            // Whoever takes over in between knows as much.
            self.crash_and_replay();
            self.machine.launched(1, 0);
            self.finish(effect, answer(attempt), SECOND / 2, None);
        }
        all
    }

    fn crash_and_replay(&mut self) {
        self.machine = Machine::replay(self.machine.plan().clone(), &self.records).unwrap();
    }

    fn stage(&self) -> &Stage {
        &self.machine.stages(1)[0]
    }

    fn bounds(&self) -> Vec<(Bound, i64)> {
        let bounds = self.records.iter().filter_map(|record| match record {
            Record::Bounded { bound, until, .. } => Some((*bound, until.timestamp_millis())),
            _ => None,
        });
        bounds.collect()
    }
}

fn lost(_: u32) -> Outcome {
    Outcome::Unknown(Failure::new("lost"))
}

fn refused(_: u32) -> Outcome {
    Outcome::NotApplied(Failure::new("no connection"))
}

fn actions(attempts: u32) -> Vec<(Effect, u32)> {
    (1..=attempts).map(|attempt| (Effect::Action, attempt)).collect()
}

#[test]
fn an_elapsed_limit_or_a_timeout_ends_attempts_that_had_no_effect() {
    // An attempt takes half a second and a pause a whole one: attempts start at 0, 1.5, 3, 4.5.
    for (step, attempts) in [
        (plain().retry(steady().elapsed(SECOND * 4)), 3),
        (plain().retry(steady().elapsed(SECOND * 5)), 4),
        (plain().retry(steady().elapsed(SECOND * 5).attempts(2)), 2),
        (plain().retry(steady().elapsed(Duration::ZERO)), 1),
        (plain().timeout(SECOND * 4), 3),
        (plain().timeout(SECOND * 4).retry(steady().elapsed(SECOND * 2)), 2),
        (plain().timeout(SECOND * 2).retry(steady().elapsed(SECOND * 4)), 2),
        (plain().retry(steady().attempts(7)), 7),
    ] {
        let shown = format!("{step:?}");
        let mut told = Told::of(step);
        assert_eq!(told.attempts(refused), actions(attempts), "{shown}");
        assert!(matches!(told.stage(), Stage::Refused(_)), "{shown}: {:?}", told.stage());
    }
}

#[test]
fn a_service_that_asks_for_time_is_given_it_within_the_limit() {
    for (retry_after, due) in [
        (None, Some(1_500)),
        (Some(SECOND / 10), Some(1_500)),
        (Some(SECOND * 3), Some(3_500)),
        (Some(SECOND * 4), None),
    ] {
        let mut told = Told::of(plain().retry(steady().elapsed(SECOND * 4)));
        told.start();
        told.finish(Effect::Action, refused(1), SECOND / 2, retry_after);
        let found = match told.records.last() {
            Some(Record::Finished { due, .. }) => due.map(|due| due.timestamp_millis()),
            other => panic!("{other:?}"),
        };
        assert_eq!(found, due, "after {retry_after:?}");
    }
}

#[test]
fn an_action_in_doubt_is_settled_when_its_attempts_are_used_up() {
    // Two attempts, then settling, which begins when the second ends, at 2: until 6, so at 3, 4.5 and 6.
    let mut told = Told::of(plain().retry(steady().attempts(2)).settle_within(SECOND * 4));
    assert_eq!(told.attempts(lost), actions(5));
    assert_eq!(told.bounds(), [(Bound::Settling, 6_000)]);
    assert!(
        matches!(told.stage(), Stage::Resting { doubt: true, rest: Rest::Stuck(Cause::InDoubt, _), .. }),
        "{:?}",
        told.stage()
    );
    // Doubt that comes early is kept, whatever the later attempts say.
    let mut told = Told::of(plain().timeout(SECOND * 2).settle_within(SECOND * 2));
    let first_lost = |attempt| if attempt == 1 { lost(attempt) } else { refused(attempt) };
    assert_eq!(told.attempts(first_lost), actions(3));
    assert!(matches!(told.stage(), Stage::Resting { doubt: true, rest: Rest::Stuck(Cause::InDoubt, _), .. }));
    // Success ends it at any time.
    let mut told = Told::of(plain().retry(steady().attempts(2)).settle_within(SECOND * 4));
    let late = |attempt| if attempt < 4 { lost(attempt) } else { Outcome::Ok(Payload::null()) };
    assert_eq!(told.attempts(late), actions(4));
    assert_eq!(*told.stage(), Stage::Done(Payload::null()));
}

#[test]
fn a_person_who_retries_when_the_time_is_over_gets_one_attempt() {
    use saga_core::journal::{MailBody, Verb};
    let mut told = Told::of(plain().retry(steady().attempts(1)).settle_within(SECOND));
    told.attempts(lost);
    let at = told.machine.plan().nodes[1].place(0);
    let decision = told.machine.decide(told.now).remove(0);
    let Decision::Block { cause, failure, .. } = decision else { panic!("{decision:?}") };
    told.write(Record::Blocked { at: at.clone(), cause, failure });
    told.now += SECOND * 3600;
    let body = MailBody::Operator { at, verb: Verb::Retry, who: "ann".into(), why: "it is back".into() };
    let received = told.machine.receive(saga_core::MailId::new(), body, told.now);
    told.write(received);
    let before = told.records.len();
    assert_eq!(told.attempts(lost).len(), 1);
    assert!(matches!(told.stage(), Stage::Resting { rest: Rest::Stuck(Cause::InDoubt, _), .. }));
    assert_eq!(told.records.len(), before + 2, "no time begins anew");
}

#[test]
fn probes_are_settling_too() {
    let step = plain().not_idempotent().probe(ask).settle_within(SECOND * 3);
    let mut told = Told::of(step);
    // The attempt ends at 0.5; probes at once, then at 2 and 3.5.
    let probes = (1..=3).map(|probe| (Effect::Probe, probe));
    let wanted: Vec<_> = actions(1).into_iter().chain(probes).collect();
    assert_eq!(told.attempts(lost), wanted);
    assert_eq!(told.bounds(), [(Bound::Settling, 3_500)]);
    assert!(matches!(told.stage(), Stage::Resting { rest: Rest::Stuck(Cause::InDoubt, _), .. }));
}

#[test]
fn a_compensation_has_a_time_of_its_own() {
    let mut told = Told::of(plain().timeout(SECOND * 60).compensation_retry(steady().elapsed(SECOND * 4)));
    told.start();
    told.finish(Effect::Action, Outcome::Ok(Payload::encode(&2).unwrap()), SECOND * 50, None);
    let cancel = saga_core::journal::MailBody::Cancel { reason: "no".into() };
    let received = told.machine.receive(saga_core::MailId::new(), cancel, told.now);
    told.write(received);
    let undos: Vec<_> = (1..=3).map(|attempt| (Effect::Compensation, attempt)).collect();
    assert_eq!(told.attempts(refused), undos);
    assert_eq!(told.bounds(), [(Bound::Action, 60_000), (Bound::Compensation, 54_000)]);
    assert!(matches!(
        told.stage(),
        Stage::UndoResting { rest: Rest::Stuck(Cause::CompensationExhausted, _), .. }
    ));
}

#[test]
fn an_attempt_is_given_what_is_left_of_its_steps_time() {
    let mut told = Told::of(plain().timeout(SECOND * 4).retry(steady().elapsed(SECOND * 3)));
    told.start();
    let left = |told: &Told| told.machine.time_left((1, 0), Effect::Action, told.now);
    assert_eq!(left(&told), Some(SECOND * 4));
    told.finish(Effect::Action, refused(1), SECOND / 2, None);
    told.start();
    assert_eq!(left(&told), Some(SECOND * 5 / 2));
    told.now += SECOND * 3;
    assert_eq!(left(&told), None, "an action in doubt is settled, not cut short");
    assert_eq!(told.machine.time_left((1, 0), Effect::Compensation, told.now), None);
}
