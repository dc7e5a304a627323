//! Which record may follow which, one line each.

use saga_core::Payload;
use saga_core::journal::stage::{Event, Rest};
use saga_core::journal::{Cause, Contract, Effect, Failure, Outcome, Stage, Timestamp, Verb};

use Effect::{Action, Compensation, Probe};

const PLAIN: Contract =
    Contract { idempotent: true, undo_by_key: false, forward: false, transactional: false };
const BY_KEY: Contract = Contract { undo_by_key: true, ..PLAIN };
const ONCE: Contract = Contract { idempotent: false, ..PLAIN };
const FORWARD: Contract = Contract { forward: true, ..PLAIN };
const LENT: Contract = Contract { transactional: true, ..PLAIN };

fn why() -> Failure {
    Failure::new("why")
}

fn out() -> Payload {
    Payload::encode(&7).unwrap()
}

const SOON: Timestamp = Timestamp::UNIX_EPOCH;

fn acting(attempt: u32, doubt: bool) -> Stage {
    Stage::Acting { attempt, doubt }
}

fn due(attempt: u32, doubt: bool, probes: u32) -> Stage {
    Stage::Resting { attempt, doubt, probes, rest: Rest::Due(SOON) }
}

fn stuck(attempt: u32, doubt: bool, probes: u32, cause: Cause) -> Stage {
    Stage::Resting { attempt, doubt, probes, rest: Rest::Stuck(cause, why()) }
}

fn probing(attempt: u32, probe: u32) -> Stage {
    Stage::Probing { attempt, probe }
}

fn undoing(attempt: u32) -> Stage {
    Stage::Undoing { attempt, output: Some(out()) }
}

fn undo_due(attempt: u32) -> Stage {
    Stage::UndoResting { attempt, output: Some(out()), rest: Rest::Due(SOON) }
}

fn undo_stuck(attempt: u32, cause: Cause) -> Stage {
    Stage::UndoResting { attempt, output: Some(out()), rest: Rest::Stuck(cause, why()) }
}

fn ok() -> Outcome {
    Outcome::Ok(out())
}

fn rejected() -> Outcome {
    Outcome::Rejected(why())
}

fn not_applied() -> Outcome {
    Outcome::NotApplied(why())
}

fn unknown() -> Outcome {
    Outcome::Unknown(why())
}

fn malformed(applied: bool) -> Outcome {
    Outcome::Malformed { failure: why(), applied }
}

/// One line of the table: from, what happens, under which contract, to.
fn legal(from: Stage, event: &Event<'_>, contract: Contract, to: &Stage) {
    let reached = from.clone().next(event, contract);
    assert_eq!(reached.as_ref(), Ok(to), "{event:?} from {from:?} under {contract:?}");
}

fn finished(from: Stage, effect: Effect, outcome: &Outcome, due: bool, contract: Contract, to: &Stage) {
    legal(from, &Event::Finished(effect, outcome, due.then_some(SOON)), contract, to);
}

#[test]
fn attempts_start() {
    for contract in [PLAIN, BY_KEY, ONCE, FORWARD] {
        legal(Stage::Idle, &Event::Started(Action, 1), contract, &acting(1, false));
        legal(due(2, false, 0), &Event::Started(Action, 3), contract, &acting(3, false));
        legal(due(2, true, 0), &Event::Started(Action, 3), contract, &acting(3, true));
        // Its worker died: what it did is unknown.
        legal(acting(2, false), &Event::Started(Action, 3), contract, &acting(3, true));
        legal(acting(1, false), &Event::Started(Probe, 1), contract, &probing(1, 1));
        legal(due(2, true, 1), &Event::Started(Probe, 2), contract, &probing(2, 2));
        legal(probing(2, 2), &Event::Started(Probe, 3), contract, &probing(2, 3));
        legal(Stage::Done(out()), &Event::Started(Compensation, 1), contract, &undoing(1));
        legal(undoing(1), &Event::Started(Compensation, 2), contract, &undoing(2));
        legal(undo_due(2), &Event::Started(Compensation, 3), contract, &undoing(3));
    }
    // It could only have told of an effect by its success.
    legal(acting(2, false), &Event::Started(Action, 3), LENT, &acting(3, false));
    legal(acting(2, true), &Event::Started(Action, 3), LENT, &acting(3, true));
    let by_key = Stage::Undoing { attempt: 1, output: None };
    legal(acting(1, false), &Event::Started(Compensation, 1), BY_KEY, &by_key);
    legal(due(1, true, 0), &Event::Started(Compensation, 1), BY_KEY, &by_key);
}

#[test]
fn actions_end() {
    for doubt in [false, true] {
        finished(acting(1, doubt), Action, &ok(), false, PLAIN, &Stage::Done(out()));
        finished(acting(1, doubt), Action, &unknown(), true, PLAIN, &due(1, true, 0));
        finished(acting(1, doubt), Action, &unknown(), false, PLAIN, &stuck(1, true, 0, Cause::InDoubt));
        finished(acting(1, doubt), Action, &not_applied(), true, PLAIN, &due(1, doubt, 0));
        // Who answers by key speaks for every attempt.
        finished(acting(1, doubt), Action, &rejected(), false, PLAIN, &Stage::Refused(why()));
    }
    finished(acting(1, false), Action, &rejected(), false, ONCE, &Stage::Refused(why()));
    finished(acting(2, true), Action, &rejected(), false, ONCE, &stuck(2, true, 0, Cause::InDoubt));
    finished(acting(3, false), Action, &not_applied(), false, PLAIN, &Stage::Refused(why()));
    finished(acting(3, true), Action, &not_applied(), false, PLAIN, &stuck(3, true, 0, Cause::InDoubt));
    let no_way = |cause| stuck(1, false, 0, cause);
    finished(acting(1, false), Action, &rejected(), false, FORWARD, &no_way(Cause::RejectedAfterPivot));
    finished(acting(1, false), Action, &not_applied(), false, FORWARD, &no_way(Cause::ExhaustedAfterPivot));
    finished(acting(1, false), Action, &malformed(false), false, PLAIN, &no_way(Cause::Malformed));
    finished(acting(1, false), Action, &malformed(true), false, PLAIN, &stuck(1, true, 0, Cause::Malformed));
}

#[test]
fn probes_end() {
    finished(probing(1, 2), Probe, &ok(), false, ONCE, &Stage::Done(out()));
    finished(probing(1, 2), Probe, &not_applied(), false, ONCE, &Stage::Refused(why()));
    for unclear in [unknown(), rejected()] {
        finished(probing(1, 2), Probe, &unclear, true, ONCE, &due(1, true, 2));
        finished(probing(1, 2), Probe, &unclear, false, ONCE, &stuck(1, true, 2, Cause::InDoubt));
    }
    let forward = Contract { idempotent: false, ..FORWARD };
    finished(
        probing(1, 1),
        Probe,
        &not_applied(),
        false,
        forward,
        &stuck(1, false, 1, Cause::RejectedAfterPivot),
    );
}

#[test]
fn compensations_end() {
    finished(undoing(1), Compensation, &ok(), false, PLAIN, &Stage::Undone);
    for again in [not_applied(), unknown()] {
        finished(undoing(1), Compensation, &again, true, PLAIN, &undo_due(1));
        let exhausted = undo_stuck(1, Cause::CompensationExhausted);
        finished(undoing(1), Compensation, &again, false, PLAIN, &exhausted);
    }
    let refused = undo_stuck(1, Cause::CompensationRejected);
    finished(undoing(1), Compensation, &rejected(), false, PLAIN, &refused);
    finished(undoing(1), Compensation, &malformed(true), false, PLAIN, &undo_stuck(1, Cause::Malformed));
}

#[test]
fn operators_decide_where_nothing_moves() {
    let retry = Event::Operator(&Verb::Retry, SOON);
    let resolve = Verb::Resolve(out());
    let resolve = Event::Operator(&resolve, SOON);
    let skip = Event::Operator(&Verb::Skip, SOON);
    let doubt = || stuck(2, true, 1, Cause::InDoubt);
    legal(doubt(), &retry, ONCE, &due(2, true, 1));
    legal(doubt(), &resolve, ONCE, &Stage::Done(out()));
    legal(doubt(), &skip, ONCE, &Stage::Left);
    // Where its worker died nothing is known.
    legal(acting(1, false), &retry, ONCE, &due(1, true, 0));
    legal(acting(1, false), &retry, LENT, &due(1, false, 0));
    legal(acting(1, false), &resolve, ONCE, &Stage::Done(out()));
    legal(undo_stuck(3, Cause::CompensationRejected), &retry, PLAIN, &undo_due(3));
    legal(undo_stuck(3, Cause::CompensationRejected), &resolve, PLAIN, &Stage::Undone);
    legal(undo_stuck(3, Cause::CompensationRejected), &skip, PLAIN, &Stage::Left);
}

#[test]
fn whatever_is_not_in_the_table_is_refused() {
    let ok = ok();
    let resolve = Verb::Resolve(out());
    let refused: Vec<(Stage, Event<'_>, Contract)> = vec![
        // An attempt without a number of its own.
        (Stage::Idle, Event::Started(Action, 2), PLAIN),
        (acting(1, false), Event::Started(Action, 1), PLAIN),
        (due(2, false, 0), Event::Started(Action, 2), PLAIN),
        (due(2, false, 0), Event::Started(Action, 4), PLAIN),
        (undoing(1), Event::Started(Compensation, 1), PLAIN),
        (probing(1, 1), Event::Started(Probe, 1), ONCE),
        // An end without a start.
        (Stage::Idle, Event::Finished(Action, &ok, None), PLAIN),
        (due(1, true, 0), Event::Finished(Action, &ok, None), PLAIN),
        (acting(1, false), Event::Finished(Compensation, &ok, None), PLAIN),
        (acting(1, false), Event::Finished(Probe, &ok, None), ONCE),
        (undoing(1), Event::Finished(Action, &ok, None), PLAIN),
        // What is settled is settled.
        (Stage::Done(out()), Event::Started(Action, 2), PLAIN),
        (Stage::Done(out()), Event::Finished(Action, &ok, None), PLAIN),
        (Stage::Refused(why()), Event::Started(Action, 2), PLAIN),
        (Stage::Refused(why()), Event::Started(Compensation, 1), BY_KEY),
        (Stage::Undone, Event::Started(Compensation, 2), PLAIN),
        (Stage::Undone, Event::Started(Action, 2), PLAIN),
        (Stage::Left, Event::Started(Compensation, 1), PLAIN),
        // Nothing is undone before it is known to have happened, unless it is undone by key.
        (Stage::Idle, Event::Started(Compensation, 1), BY_KEY),
        (acting(1, false), Event::Started(Compensation, 1), PLAIN),
        (due(1, true, 0), Event::Started(Compensation, 1), PLAIN),
        (due(1, false, 0), Event::Started(Compensation, 1), BY_KEY),
        // Without doubt there is nothing to ask.
        (due(1, false, 0), Event::Started(Probe, 1), ONCE),
        // Operators decide about what is open.
        (Stage::Idle, Event::Operator(&Verb::Retry, SOON), PLAIN),
        (Stage::Done(out()), Event::Operator(&Verb::Retry, SOON), PLAIN),
        (Stage::Done(out()), Event::Operator(&resolve, SOON), PLAIN),
        (Stage::Undone, Event::Operator(&Verb::Skip, SOON), PLAIN),
        // After the pivot nothing can be left out.
        (stuck(1, true, 0, Cause::RejectedAfterPivot), Event::Operator(&Verb::Skip, SOON), FORWARD),
    ];
    for (stage, event, contract) in refused {
        let answer = stage.clone().next(&event, contract);
        assert!(answer.is_err(), "{event:?} from {stage:?} under {contract:?} gives {answer:?}");
    }
}

#[test]
fn what_is_illegal_says_what_and_where() {
    let illegal = Stage::Idle.next(&Event::Started(Action, 2), PLAIN).unwrap_err();
    assert_eq!(illegal.to_string(), "Started(Action, 2) cannot follow Idle");
}
