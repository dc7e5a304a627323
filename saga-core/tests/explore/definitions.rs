//! The sagas that are explored: one for each thing that a plan can say.

use std::time::Duration;

use saga_core::testing::{Ledger, MemoryTx};
use saga_core::{Cx, Definition, Probed, Retry, Step, StepError, step, transactional};

pub(super) type Explored = Definition<Ledger, u64, u64>;

async fn act(cx: Cx<Ledger>, n: u64) -> Result<u64, StepError> {
    cx.state().act(&cx, n + 1).await
}

async fn undo(cx: Cx<Ledger>, n: u64, done: u64) -> Result<(), StepError> {
    assert_eq!(done, n + 1, "a compensation is given its action's output");
    cx.state().undo(&cx).await
}

async fn undo_by_key(cx: Cx<Ledger>, _: u64) -> Result<(), StepError> {
    cx.state().undo(&cx).await
}

async fn settle(cx: Cx<Ledger>, _: u64) -> Result<Probed<u64>, StepError> {
    cx.state().settle(&cx).await
}

/// A step with little patience, so that its attempts are used up and its hangs end within seconds.
fn quick(name: &str) -> Step<Ledger, u64, u64> {
    let retry = Retry::exponential().base(Duration::from_millis(100)).attempts(3);
    step(name, act).retry(retry).attempt_timeout(Duration::from_secs(2))
}

fn sum(parts: &(u64, u64)) -> u64 {
    parts.0 + parts.1
}

/// One after the other.
pub(super) fn linear() -> Explored {
    let (mut b, order) = Definition::build::<Ledger, u64>("linear", 1);
    let charged = b.add(quick("charge").compensate(undo), order);
    let reserved = b.add(quick("reserve").compensate(undo), charged);
    let booked = b.add(quick("book").compensate(undo), reserved);
    b.finish(booked).unwrap()
}

/// Two branches side by side, before them a common root, after them a common end.
pub(super) fn diamond() -> Explored {
    let (mut b, order) = Definition::build::<Ledger, u64>("diamond", 1);
    let root = b.add(quick("root").compensate(undo), order);
    let left = b.add(quick("left").compensate(undo), root);
    let right = b.add(quick("right").compensate(undo), root);
    let both = b.derive("both", sum, (left, right));
    let end = b.add(quick("end").compensate(undo), both);
    b.finish(end).unwrap()
}

/// One step for every item of a list, and one that needs them all.
pub(super) fn each() -> Explored {
    let (mut b, order) = Definition::build::<Ledger, u64>("each", 1);
    let charged = b.add(quick("charge").compensate(undo), order);
    let lines = b.derive("lines", |n: &u64| vec![*n, n + 10], charged);
    let reserved = b.each(quick("reserve").compensate(undo), lines);
    let all = b.derive("all", |all: &Vec<u64>| all.iter().sum::<u64>(), reserved);
    let booked = b.add(quick("book").compensate(undo), all);
    b.finish(booked).unwrap()
}

/// A branch beside the pivot's source, the pivot, and two steps that have to happen.
pub(super) fn pivot() -> Explored {
    let (mut b, order) = Definition::build::<Ledger, u64>("pivot", 1);
    let charged = b.add(quick("charge").compensate(undo), order);
    b.add(quick("note").no_compensation("a note harms nobody"), order);
    b.add(quick("reserve").compensate(undo), order);
    let (mut b, captured) = b.pivot(quick("capture"), charged);
    let forever = || Retry::forever().base(Duration::from_millis(100));
    let shipped = b.add(quick("ship").retry(forever()), captured);
    b.add(quick("mail").retry(forever()), captured);
    b.finish(shipped).unwrap()
}

/// Undone by key: nothing has to be settled first.
pub(super) fn by_key() -> Explored {
    let (mut b, order) = Definition::build::<Ledger, u64>("by-key", 1);
    let charged = b.add(quick("charge").compensate_by_key(undo_by_key), order);
    let left = b.add(quick("left").compensate_by_key(undo_by_key), charged);
    let right = b.add(quick("right").compensate(undo), charged);
    let both = b.derive("both", sum, (left, right));
    b.finish(both).unwrap()
}

/// A participant that knows no duplicates, and nobody to ask.
pub(super) fn not_idempotent() -> Explored {
    let (mut b, order) = Definition::build::<Ledger, u64>("not-idempotent", 1);
    let charged = b.add(quick("charge").compensate(undo), order);
    let paid = b.add(quick("pay").not_idempotent().compensate(undo), charged);
    let booked = b.add(quick("book").compensate(undo), paid);
    b.finish(booked).unwrap()
}

/// A participant that knows no duplicates, but can be asked; once before the pivot and once as it.
pub(super) fn probed() -> Explored {
    let (mut b, order) = Definition::build::<Ledger, u64>("probed", 1);
    let charged = b.add(quick("charge").compensate(undo), order);
    let paid = b.add(quick("pay").not_idempotent().probe(settle).compensate(undo), charged);
    let (mut b, captured) = b.pivot(quick("capture").not_idempotent().probe(settle), paid);
    let shipped = b.add(quick("ship"), captured);
    b.finish(shipped).unwrap()
}

async fn write(cx: Cx<Ledger>, mut tx: MemoryTx, n: u64) -> Result<u64, StepError> {
    cx.state().act_in(&mut tx, &cx, n + 1).await
}

async fn unwrite(cx: Cx<Ledger>, mut tx: MemoryTx, n: u64, done: u64) -> Result<(), StepError> {
    assert_eq!(done, n + 1, "a compensation is given its action's output");
    cx.state().undo_in(&mut tx, &cx).await
}

fn lent(name: &str) -> Step<Ledger, u64, u64> {
    let retry = Retry::exponential().base(Duration::from_millis(100)).attempts(3);
    transactional(name, write).retry(retry).attempt_timeout(Duration::from_millis(500))
}

/// Steps in transactions: as the first, beside another branch of either kind, undone in a transaction and
/// without one, and as the end.
pub(super) fn transactional_steps() -> Explored {
    let (mut b, order) = Definition::build::<Ledger, u64>("transactional", 1);
    let booked = b.add(lent("book").compensate_transactional(unwrite), order);
    let left = b.add(lent("left").compensate_transactional(unwrite), booked);
    let right = b.add(quick("right").compensate(undo), booked);
    let both = b.derive("both", sum, (left, right));
    let end = b.add(lent("end").compensate(undo), both);
    b.finish(end).unwrap()
}

/// Steps in transactions around the pivot, which is one itself.
pub(super) fn transactional_pivot() -> Explored {
    let (mut b, order) = Definition::build::<Ledger, u64>("transactional-pivot", 1);
    let booked = b.add(lent("book").compensate_transactional(unwrite), order);
    let (mut b, captured) = b.pivot(lent("capture"), booked);
    let shipped = b.add(lent("ship").retry(Retry::forever().base(Duration::from_millis(100))), captured);
    b.finish(shipped).unwrap()
}

/// Compensations that give up, so that a person is needed.
pub(super) fn impatient() -> Explored {
    let (mut b, order) = Definition::build::<Ledger, u64>("impatient", 1);
    let few = || Retry::exponential().base(Duration::from_millis(100)).attempts(2);
    let charged = b.add(quick("charge").compensate(undo).compensation_retry(few()), order);
    let reserved = b.add(quick("reserve").compensate(undo).compensation_retry(few()), charged);
    b.finish(reserved).unwrap()
}

/// Policies that end with time: attempts, settling and compensations.
pub(super) fn timed() -> Explored {
    let (mut b, order) = Definition::build::<Ledger, u64>("timed", 1);
    let steady = || Retry::forever().base(Duration::from_millis(200)).most(Duration::from_millis(400));
    let brief = |name: &str| {
        let brief = step(name, act).retry(steady()).attempt_timeout(Duration::from_secs(1));
        brief.timeout(Duration::from_secs(3)).settle_within(Duration::from_secs(4))
    };
    let charged = b.add(brief("charge").compensate(undo), order);
    let paid = b.add(brief("pay").not_idempotent().probe(settle).compensate(undo), charged);
    let few = steady().elapsed(Duration::from_secs(2));
    let booked = b.add(brief("book").compensate(undo).compensation_retry(few), paid);
    b.finish(booked).unwrap()
}
