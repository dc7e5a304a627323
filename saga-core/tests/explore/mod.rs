//! Every point of every kind of saga, and everything that can go wrong there.

mod definitions;

use saga_core::testing::{Ledger, explore};

use definitions::Explored;

/// Explores a definition; fails on the first run that breaks a rule, or when too little was tried.
fn explored(definition: Explored, runs_at_least: usize) {
    let explored = explore(&definition, Ledger::clone, 1).budget(1_000).run().unwrap();
    println!("{explored}");
    assert!(explored.replayed || explored.runs >= runs_at_least, "{explored}");
}

#[test]
fn linear() {
    explored(definitions::linear(), 1_400);
}

#[test]
fn diamond() {
    explored(definitions::diamond(), 1_400);
}

#[test]
fn each() {
    explored(definitions::each(), 1_400);
}

#[test]
fn pivot() {
    explored(definitions::pivot(), 1_400);
}

#[test]
fn by_key() {
    explored(definitions::by_key(), 1_400);
}

#[test]
fn not_idempotent() {
    explored(definitions::not_idempotent(), 1_400);
}

#[test]
fn probed() {
    explored(definitions::probed(), 1_400);
}

#[test]
fn impatient() {
    explored(definitions::impatient(), 1_400);
}
