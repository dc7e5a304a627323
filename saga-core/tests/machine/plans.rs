//! Random plans: any wiring that the builder can make.

use std::sync::Arc;
use std::time::Duration;

use proptest::prelude::*;
use saga_core::saga::Plan;
use saga_core::saga::builder::{Compensable, Forward};
use saga_core::testing::MemoryTx;
use saga_core::{Builder, Cx, Definition, Output, Probed, Retry, Step, StepError, step, transactional};

/// A plan as a few numbers, so that a failing one can be made smaller.
#[derive(Clone, Debug)]
pub(super) struct Sketch {
    /// The steps before the pivot: (what they read, what they are).
    before: Vec<(u16, Nature)>,
    /// Whether there is a pivot, what it reads, and whether it can be run again.
    pivot: Option<(u16, bool)>,
    /// What the steps after it read.
    after: Vec<u16>,
}

#[derive(Clone, Copy, Debug)]
enum Nature {
    Compensated,
    ByKey,
    Nothing,
    Once,
    Probed,
    /// In a transaction of its own.
    Lent,
    /// A step for each of a few items.
    Each,
}

pub(super) fn sketch() -> impl Strategy<Value = Sketch> {
    let nature = prop_oneof![
        3 => Just(Nature::Compensated),
        1 => Just(Nature::ByKey),
        1 => Just(Nature::Nothing),
        1 => Just(Nature::Once),
        1 => Just(Nature::Probed),
        2 => Just(Nature::Lent),
        1 => Just(Nature::Each),
    ];
    let before = proptest::collection::vec((any::<u16>(), nature), 1..6);
    let pivot = proptest::option::of((any::<u16>(), any::<bool>()));
    let after = proptest::collection::vec(any::<u16>(), 0..3);
    (before, pivot, after).prop_map(|(before, pivot, after)| Sketch { before, pivot, after })
}

type Value = Output<u64>;

impl Sketch {
    pub(super) fn example() -> Self {
        let before = vec![(1, Nature::Compensated), (1, Nature::Each), (6, Nature::Once)];
        Self { before, pivot: Some((15, true)), after: vec![1] }
    }

    pub(super) fn plan(&self) -> Arc<Plan> {
        let (mut b, input) = Definition::build::<(), u64>("sketch", 1);
        let mut values = vec![input];
        for (number, (reads, nature)) in self.before.iter().enumerate() {
            let value = before(&mut b, number, &chosen(&values, *reads), *nature);
            values.push(value);
        }
        let Some((reads, idempotent)) = self.pivot else {
            return b.finish(values[values.len() - 1]).unwrap().plan().clone();
        };
        let pivot = plain("pivot");
        let pivot = if idempotent { pivot } else { pivot.not_idempotent().probe(probe) };
        let (mut b, value) = b.pivot(pivot, chosen(&values, reads));
        values.push(value);
        for (number, reads) in self.after.iter().enumerate() {
            let value = after(&mut b, number, &chosen(&values, *reads));
            values.push(value);
        }
        b.finish(values[values.len() - 1]).unwrap().plan().clone()
    }
}

/// The earlier values whose bit is set.
fn chosen(values: &[Value], bits: u16) -> Vec<Value> {
    values
        .iter()
        .enumerate()
        .filter(|(bit, _)| bits >> (bit % 16) & 1 == 1)
        .map(|(_, value)| *value)
        .collect()
}

fn before(b: &mut Builder<(), u64, Compensable>, number: usize, reads: &[Value], nature: Nature) -> Value {
    let plain = plain(&format!("s{number}"));
    let reads = reads.to_vec();
    match nature {
        Nature::Compensated => b.add(plain.compensate(undo), reads),
        Nature::ByKey => b.add(plain.compensate_by_key(undo_by_key), reads),
        Nature::Nothing => b.add(plain.no_compensation("nothing to undo"), reads),
        Nature::Once => b.add(plain.not_idempotent().compensate(undo), reads),
        Nature::Probed => b.add(plain.not_idempotent().probe(probe).compensate(undo), reads),
        Nature::Lent => b.add(lent(&format!("s{number}")).compensate(undo), reads),
        Nature::Each => {
            let list = |_: &Vec<u64>| -> Vec<Vec<u64>> { unreachable!("the pure machine calls nothing") };
            let list = b.derive(format!("list{number}"), list, reads);
            let all = b.each(plain.compensate(undo), list);
            b.derive(format!("sum{number}"), |all: &Vec<u64>| all.iter().sum::<u64>(), all)
        }
    }
}

fn after(b: &mut Builder<(), u64, Forward>, number: usize, reads: &[Value]) -> Value {
    b.add(plain(&format!("f{number}")), reads.to_vec())
}

fn plain(name: &str) -> Step<(), Vec<u64>, u64> {
    let plain = step(name, act).retry(Retry::exponential().base(Duration::from_millis(10)).attempts(3));
    match name.ends_with(['1', '4', '7']) {
        true => plain.timeout(Duration::from_millis(12)).settle_within(Duration::from_millis(300)),
        false => plain,
    }
}

fn lent(name: &str) -> Step<(), Vec<u64>, u64> {
    transactional(name, act_in).retry(Retry::exponential().base(Duration::from_millis(10)).attempts(3))
}

async fn act_in(_: Cx<()>, _: MemoryTx, _: Vec<u64>) -> Result<u64, StepError> {
    unreachable!("the pure machine calls nothing")
}

async fn act(_: Cx<()>, _: Vec<u64>) -> Result<u64, StepError> {
    unreachable!("the pure machine calls nothing")
}

async fn undo(_: Cx<()>, _: Vec<u64>, _: u64) -> Result<(), StepError> {
    unreachable!("the pure machine calls nothing")
}

async fn undo_by_key(_: Cx<()>, _: Vec<u64>) -> Result<(), StepError> {
    unreachable!("the pure machine calls nothing")
}

async fn probe(_: Cx<()>, _: Vec<u64>) -> Result<Probed<u64>, StepError> {
    unreachable!("the pure machine calls nothing")
}
