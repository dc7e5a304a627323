//! The decision as a table: every state against every request.

use super::*;
use crate::testing::{again, answer, compensation, fresh_id, print, request, settlement};

const NOW: Time = Time(1_000_000_000);

fn row() -> Row {
    Row {
        action: Progress::None,
        undo: Progress::None,
        refused: false,
        doubt: false,
        stamp: Stamp::random(),
        fence: 3,
        action_print: Some(print("{}")),
        undo_print: None,
        action_answer: None,
        undo_answer: None,
        point: None,
    }
}

fn dated(row: Row) -> Dated {
    Dated { row, created_at: NOW, lease_until: None, expires_at: None }
}

/// Every state that a row can be in, by name.
fn states() -> Vec<(&'static str, Option<Dated>)> {
    let running = Row { action: Progress::Running, ..row() };
    let applied = Row { action: Progress::Applied, action_answer: Some(answer("a")), ..row() };
    let rejected = Row { action: Progress::Rejected, action_answer: Some(answer("no")), ..row() };
    let undoing = Row { undo: Progress::Running, undo_print: Some(print("undo")), ..applied.clone() };
    let undone = Row { undo: Progress::Applied, undo_answer: Some(answer("u")), ..undoing.clone() };
    let nothing = Row {
        undo: Progress::Applied,
        undo_print: Some(print("undo")),
        refused: true,
        action_print: None,
        ..row()
    };
    let settled = Row { refused: true, action_print: None, ..row() };
    let live = |row| Some(Dated { lease_until: Some(NOW.after(Duration::from_secs(5))), ..dated(row) });
    let over = |row| Some(Dated { lease_until: Some(Time(NOW.0 - 2_000_000)), ..dated(row) });
    vec![
        ("absent", None),
        ("expired", Some(Dated { expires_at: Some(NOW), ..dated(applied.clone()) })),
        ("running", live(running.clone())),
        ("no deadline", Some(dated(running.clone()))),
        ("in doubt", over(running)),
        ("applied", Some(dated(applied))),
        ("rejected", Some(dated(rejected))),
        ("undoing", live(undoing.clone())),
        ("undo in doubt", over(undoing)),
        ("undone", Some(dated(undone))),
        ("nothing undone", Some(dated(nothing))),
        ("settled", Some(dated(settled))),
    ]
}

fn outcome(stored: Option<&Dated>, request: &ClaimRequest) -> &'static str {
    let (claim, writes) = match decide(stored, request, NOW) {
        Decision::Answer(claim) => (claim, false),
        Decision::Write { then, .. } => (*then, true),
    };
    match (claim, writes) {
        (Claim::Acquired(_), true) => "run",
        (Claim::Replay(Kept { verdict: Verdict::Applied, direction: Direction::Action, .. }), false) => {
            "replay"
        }
        (Claim::Replay(Kept { verdict: Verdict::Rejected, direction: Direction::Action, .. }), false) => {
            "replay no"
        }
        (Claim::Replay(Kept { direction: Direction::Compensation, .. }), false) => "replay undo",
        (Claim::InFlight { .. }, false) => "in flight",
        (Claim::Mismatch { .. }, false) => "mismatch",
        (Claim::Unknown { .. }, false) => "unknown",
        (Claim::Ruled(Ruling::TooLate), false) => "too late",
        (Claim::Ruled(Ruling::NothingToUndo), _) => "nothing",
        (Claim::Ruled(Ruling::NeverApplied), _) => "never",
        (Claim::Ruled(Ruling::Undone), false) => "undone",
        (claim, writes) => panic!("an illegal decision: {claim:?}, writes: {writes}"),
    }
}

#[test]
fn every_state_answers_every_request() {
    let id = fresh_id();
    let by_key = ClaimRequest { undo_by_key: true, ..compensation(id) };
    let requests =
        [request(id), again(request(id)), compensation(id), again(compensation(id)), by_key, settlement(id)];
    #[rustfmt::skip]
    let table = [
        // state            action       again        undo           again          by key         settle
        ("absent",         ["run",       "run",       "nothing",     "nothing",     "nothing",     "never"]),
        ("expired",        ["run",       "run",       "nothing",     "nothing",     "nothing",     "never"]),
        ("running",        ["in flight", "in flight", "in flight",   "in flight",   "in flight",   "in flight"]),
        ("no deadline",    ["in flight", "in flight", "in flight",   "in flight",   "in flight",   "in flight"]),
        ("in doubt",       ["unknown",   "run",       "unknown",     "unknown",     "run",         "unknown"]),
        ("applied",        ["replay",    "replay",    "run",         "run",         "run",         "replay"]),
        ("rejected",       ["replay no", "replay no", "nothing",     "nothing",     "nothing",     "replay no"]),
        ("undoing",        ["too late",  "too late",  "in flight",   "in flight",   "in flight",   "in flight"]),
        ("undo in doubt",  ["too late",  "too late",  "unknown",     "run",         "unknown",     "unknown"]),
        ("undone",         ["too late",  "too late",  "replay undo", "replay undo", "replay undo", "undone"]),
        ("nothing undone", ["too late",  "too late",  "nothing",     "nothing",     "nothing",     "never"]),
        ("settled",        ["too late",  "too late",  "nothing",     "nothing",     "nothing",     "never"]),
    ];
    for ((name, stored), (expected_name, expected)) in states().iter().zip(table) {
        assert_eq!(*name, expected_name);
        for (request, expected) in requests.iter().zip(expected) {
            let got = outcome(stored.as_ref(), request);
            assert_eq!(got, expected, "{name}, {:?} {:?}", request.direction, request.in_doubt);
        }
    }
}

#[test]
fn a_mismatch_wins_over_everything_but_a_key_that_is_new() {
    let id = fresh_id();
    for (name, stored) in states() {
        let action = ClaimRequest { fingerprint: print("other"), ..request(id) };
        let expected = match name {
            "absent" | "expired" => "run",
            "nothing undone" | "settled" => "too late",
            _ => "mismatch",
        };
        assert_eq!(outcome(stored.as_ref(), &action), expected, "{name}");
    }
}

#[test]
fn a_lease_ends_at_its_very_microsecond() {
    let id = fresh_id();
    let row = Row { action: Progress::Running, ..row() };
    let until = |at| Some(Dated { lease_until: Some(Time(at)), ..dated(row.clone()) });
    assert_eq!(outcome(until(NOW.0 + 1).as_ref(), &request(id)), "in flight");
    assert_eq!(outcome(until(NOW.0).as_ref(), &request(id)), "unknown");
}

#[test]
fn a_running_row_never_expires() {
    let row = Row { action: Progress::Running, ..row() };
    let stored = Dated { expires_at: Some(Time(0)), ..dated(row) };
    assert!(!stored.expired(NOW));
    assert_eq!(outcome(Some(&stored), &again(request(fresh_id()))), "in flight");
}
