//! Every point of every kind of saga, and everything that can go wrong there: together far more than ten
//! thousand runs, which `--nocapture` shows counted.

mod definitions;

use saga_core::journal::{Answer, Effect, End, Record};
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
fn transactional_steps() {
    explored(definitions::transactional_steps(), 1_400);
}

#[test]
fn transactional_pivot() {
    explored(definitions::transactional_pivot(), 1_400);
}

#[test]
fn impatient() {
    explored(definitions::impatient(), 1_400);
}

/// The cancel comes while the commit that would start the pivot is on its way: it could see it, so there is a way
/// back.
#[test]
fn a_cancel_that_the_pivots_commit_can_see_stops_it() {
    let run = explore(&definitions::pivot(), Ledger::clone, 1).play("@4=cancel").unwrap();
    assert!(matches!(run.end(), Some(End::Compensated { .. })), "{run}");
    let answered =
        run.records().any(|record| matches!(record, Record::Received { answer: Answer::Accepted, .. }));
    assert!(answered && run.ledger.calls("capture", Effect::Action) == 0, "{run}");
}

#[test]
fn timed() {
    explored(definitions::timed(), 1_400);
}

/// Beside two others that need the same key.
#[test]
fn keyed() {
    for definition in [definitions::linear(), definitions::pivot(), definitions::impatient()] {
        let name = format!("keyed-{}", definition.plan().name);
        let explored = explore(&definition, Ledger::clone, 1).keyed().named(&name).budget(500).run().unwrap();
        println!("{explored}");
        assert!(explored.replayed || explored.runs >= 700, "{explored}");
    }
}

#[test]
fn a_rule_of_the_users_own_is_held_against_every_run() {
    let explored = explore(&definitions::impatient(), Ledger::clone, 1).budget(0);
    let strict = explored.check(|run| match run.ledger.effects().len() {
        0..=3 => Ok(()),
        more => Err(format!("{more} effects are too many")),
    });
    let violation = strict.run().expect_err("charge, reserve, and both undone are four");
    assert_eq!(violation.broken, ["4 effects are too many"]);
    assert!(violation.to_string().starts_with("SAGA_PLAN='impatient:"), "{violation}");
    assert_eq!(violation.to_string().lines().count(), 1, "one line that replays it");
    let plan = violation.line.trim_start_matches("SAGA_PLAN='impatient:").trim_end_matches('\'');
    let again = strict.play(plan).expect_err("the same plan is the same run");
    assert_eq!(again.broken, violation.broken);
    assert!(again.to_string().contains("participants:"), "replayed, it tells its story");
}
