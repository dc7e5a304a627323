//! The explorer against engines and stores that are broken on purpose: a checker that cannot fail is
//! worth nothing. Each twin breaks one promise, at a seam of the real engine; each is named after its bug.

mod code;
mod engine;
mod sagas;
mod store;
mod stores;
mod transactions;

use std::time::Duration;

use super::explore::{Explore, Violation};
use super::play::Seams;
use sagas::Saga;

/// Explores a saga on a broken engine or store; gives what was found.
fn found(saga: Saga, seams: Seams) -> String {
    let explore: Explore<_, _, _> = sagas::explored(saga).seams(seams);
    let violation: Box<Violation> = explore.run().expect_err("the twin is caught");
    println!("{violation}");
    assert!(violation.line.starts_with("SAGA_PLAN='"), "{violation}");
    violation.broken.join("; ")
}

/// The same for a saga that shares its key with others.
fn found_among_rivals(seams: Seams) -> String {
    let explore = sagas::explored(sagas::linear()).keyed().seams(seams);
    let violation: Box<Violation> = explore.run().expect_err("the twin is caught");
    println!("{violation}");
    violation.broken.join("; ")
}

/// How long the sagas of these tests may take: far longer than any of their retries.
const LIMIT: Duration = Duration::from_secs(120);

#[test]
fn the_sagas_themselves_are_sound() {
    for saga in [sagas::linear(), sagas::pivot(), sagas::not_idempotent(), sagas::lent()] {
        println!("{}", sagas::explored(saga.clone()).run().unwrap());
        println!("{}", sagas::explored(saga).keyed().run().unwrap());
    }
}

#[test]
fn the_same_plan_is_the_same_run() {
    let explore = sagas::explored(sagas::linear());
    let tell = |plan: &str| {
        let evidence = explore.play(plan).unwrap();
        let entries: Vec<_> = evidence.entries.iter().map(ToString::to_string).collect();
        let journal = evidence.records().map(|record| format!("{record:?}"));
        let journal: Vec<_> = journal.filter(|record| !record.contains("mail")).collect();
        (evidence.trace, entries, journal, evidence.took)
    };
    for plan in [
        "",
        "@3=crash-lost @9=crash-before",
        "charge/action=lost-answer book/action=reject @2=freeze-before",
        "@4=steal-lost @8=cancel",
        "reserve/action=hang,not-applied @5=lose-answer",
    ] {
        assert_eq!(tell(plan), tell(plan), "{plan}");
    }
}

#[test]
fn a_point_that_is_never_reached_fails_the_run() {
    let explore = sagas::explored(sagas::linear());
    let violation = explore.play("@1000=cancel").unwrap_err();
    assert_eq!(violation.broken, ["point 1000 was never reached as planned"]);
    let violation = explore.play("@0=crash-torn").unwrap_err();
    assert_eq!(violation.broken, ["point 0 was never reached as planned"]);
}
