//! Sagas that twins are caught with.

use std::sync::Arc;
use std::time::Duration;

use super::super::explore::{Explore, explore};
use super::super::ledger::Ledger;
use crate::retry::Retry;
use crate::saga::{Definition, Kind};
use crate::step::{Cx, Step, StepError, step, transactional};
use crate::testing::MemoryTx;

pub(super) type Saga = Definition<Ledger, u64, u64>;

pub(super) fn explored(saga: Saga) -> Explore<Ledger, u64, u64> {
    explore(&saga, Ledger::clone, 1).budget(200).seed(7).limit(super::LIMIT)
}

async fn act(cx: Cx<Ledger>, n: u64) -> Result<u64, StepError> {
    cx.state().act(&cx, n + 1).await
}

async fn undo(cx: Cx<Ledger>, _: u64, _: u64) -> Result<(), StepError> {
    cx.state().undo(&cx).await
}

fn quick(name: &str) -> Step<Ledger, u64, u64> {
    let retry = Retry::exponential().base(Duration::from_millis(100)).attempts(3);
    step(name, act).retry(retry).attempt_timeout(Duration::from_secs(2))
}

pub(super) fn linear() -> Saga {
    let (mut b, order) = Definition::build::<Ledger, u64>("linear", 1);
    let charged = b.add(quick("charge").compensate(undo), order);
    let reserved = b.add(quick("reserve").compensate(undo), charged);
    let booked = b.add(quick("book").compensate(undo), reserved);
    b.finish(booked).unwrap()
}

pub(super) fn pivot() -> Saga {
    let (mut b, order) = Definition::build::<Ledger, u64>("pivot", 1);
    let charged = b.add(quick("charge").compensate(undo), order);
    b.add(quick("reserve").compensate(undo), charged);
    let (mut b, captured) = b.pivot(quick("capture"), charged);
    let shipped = b.add(quick("ship").retry(Retry::forever()), captured);
    b.finish(shipped).unwrap()
}

/// The same, but its pivot waits for nothing than its input.
pub(super) fn hasty_pivot() -> Saga {
    let mut saga = pivot();
    let plan = Arc::make_mut(&mut saga.plan);
    plan.nodes.iter_mut().filter(|node| node.kind == Kind::Pivot).for_each(|node| node.after.clear());
    saga
}

pub(super) fn not_idempotent() -> Saga {
    let (mut b, order) = Definition::build::<Ledger, u64>("not-idempotent", 1);
    let charged = b.add(quick("charge").compensate(undo), order);
    let paid = b.add(quick("pay").not_idempotent().compensate(undo), charged);
    b.finish(paid).unwrap()
}

async fn write(cx: Cx<Ledger>, mut tx: MemoryTx, n: u64) -> Result<u64, StepError> {
    cx.state().act_in(&mut tx, &cx, n + 1).await
}

async fn unwrite(cx: Cx<Ledger>, mut tx: MemoryTx, _: u64, _: u64) -> Result<(), StepError> {
    cx.state().undo_in(&mut tx, &cx).await
}

/// Steps in transactions, the last of them beside one without.
pub(super) fn lent() -> Saga {
    let quickly = |step: Step<Ledger, u64, u64>| {
        let retry = Retry::exponential().base(Duration::from_millis(100)).attempts(3);
        step.retry(retry).attempt_timeout(Duration::from_millis(500))
    };
    let (mut b, order) = Definition::build::<Ledger, u64>("lent", 1);
    let booked = b.add(quickly(transactional("book", write)).compensate_transactional(unwrite), order);
    b.add(quick("reserve").compensate(undo), booked);
    let ended = b.add(quickly(transactional("end", write)).compensate(undo), booked);
    b.finish(ended).unwrap()
}
