//! Compensations and settlements, in every order that a network can produce.

use super::*;
use crate::claim::{Ruling, Verdict};
use crate::row::State;
use crate::store::Held;

async fn ruling(store: &Arc<dyn Store>, request: &ClaimRequest) -> Ruling {
    match store.claim(request).await.expect("the store answers") {
        Claim::Ruled(ruling) => ruling,
        other => panic!("expected a ruling, got {other:?}"),
    }
}

async fn applied(bench: &Bench) -> KeyId {
    let id = fresh_id();
    let ticket = acquire(&bench.one, &request(id)).await;
    assert_eq!(
        bench.one.complete(&ticket, Verdict::Applied, answer("charged"), KEEP).await.unwrap(),
        Held::Yes
    );
    id
}

pub(super) async fn a_compensation_after_its_action_runs_once(bench: &Bench) {
    let id = applied(bench).await;
    let ticket = acquire(&bench.two, &compensation(id)).await;
    assert_eq!(ticket.action_answer(), Some(&answer("charged")));
    assert!(matches!(bench.one.claim(&compensation(id)).await.unwrap(), Claim::InFlight { .. }));
    assert_eq!(ruling(&bench.one, &request(id)).await, Ruling::TooLate, "an action while it is undone");
    let complete = bench.two.complete(&ticket, Verdict::Applied, answer("refunded"), KEEP).await.unwrap();
    assert_eq!(complete, Held::Yes);
    let Claim::Replay(kept) = bench.one.claim(&compensation(id)).await.unwrap() else {
        panic!("expected a replay")
    };
    assert_eq!((kept.direction, kept.answer), (Direction::Compensation, answer("refunded")));
    assert_eq!(ruling(&bench.one, &request(id)).await, Ruling::TooLate, "an action after it was undone");
    let other = ClaimRequest { fingerprint: print("other"), ..compensation(id) };
    assert!(matches!(bench.one.claim(&other).await.unwrap(), Claim::Mismatch { .. }));
}

pub(super) async fn a_compensation_before_its_action_refuses_it(bench: &Bench) {
    let id = fresh_id();
    for _ in 0..2 {
        assert_eq!(ruling(&bench.one, &compensation(id)).await, Ruling::NothingToUndo);
    }
    assert_eq!(ruling(&bench.two, &again(request(id))).await, Ruling::TooLate);
    assert_eq!(ruling(&bench.two, &settlement(id)).await, Ruling::NeverApplied);
    assert_eq!(bench.two.inspect(&id).await.unwrap().unwrap().dated.row.state(), State::Undone);
}

pub(super) async fn a_compensation_meets_a_live_claim(bench: &Bench) {
    let id = fresh_id();
    let ticket = acquire(&bench.one, &request(id)).await;
    let by_key = ClaimRequest { undo_by_key: true, ..again(compensation(id)) };
    let Claim::InFlight { retry_after } = bench.two.claim(&by_key).await.unwrap() else {
        panic!("expected in flight")
    };
    assert!(retry_after > LONG / 2, "{retry_after:?}");
    assert_eq!(bench.one.complete(&ticket, Verdict::Applied, answer("a"), KEEP).await.unwrap(), Held::Yes);
    acquire(&bench.two, &by_key).await;
}

pub(super) async fn a_compensation_meets_an_action_in_doubt(bench: &Bench) {
    let id = fresh_id();
    let old = acquire_and_let_run_out(&bench.one, &request(id)).await;
    assert!(matches!(bench.two.claim(&again(compensation(id))).await.unwrap(), Claim::Unknown { .. }));
    let by_key = ClaimRequest { undo_by_key: true, ..compensation(id) };
    let ticket = acquire(&bench.two, &by_key).await;
    assert_eq!(ticket.action_answer(), None);
    let complete = bench.one.complete(&old, Verdict::Applied, answer("old"), KEEP).await.unwrap();
    assert_eq!(complete, Held::Lost, "the action's holder is fenced");
    // Given back, the action is in doubt as before.
    assert_eq!(bench.two.release(&ticket).await.unwrap(), Held::Yes);
    assert!(matches!(bench.one.claim(&request(id)).await.unwrap(), Claim::Unknown { .. }));
    let ticket = acquire(&bench.two, &by_key).await;
    assert_eq!(
        bench.two.complete(&ticket, Verdict::Applied, answer("undone"), KEEP).await.unwrap(),
        Held::Yes
    );
    assert_eq!(ruling(&bench.one, &again(request(id))).await, Ruling::TooLate);
    assert!(matches!(bench.one.claim(&by_key).await.unwrap(), Claim::Replay(_)));
    assert_eq!(bench.one.inspect(&id).await.unwrap().unwrap().dated.row.state(), State::Undone);
}

pub(super) async fn a_compensation_of_a_rejected_action_has_nothing_to_undo(bench: &Bench) {
    let id = fresh_id();
    let ticket = acquire(&bench.one, &request(id)).await;
    assert_eq!(bench.one.complete(&ticket, Verdict::Rejected, answer("no"), KEEP).await.unwrap(), Held::Yes);
    for _ in 0..2 {
        assert_eq!(ruling(&bench.two, &compensation(id)).await, Ruling::NothingToUndo);
    }
    assert_eq!(ruling(&bench.one, &request(id)).await, Ruling::TooLate);
    assert!(matches!(bench.one.claim(&settlement(id)).await.unwrap(), Claim::Replay(_)));
}

pub(super) async fn a_released_compensation_leaves_the_action(bench: &Bench) {
    let id = applied(bench).await;
    let ticket = acquire(&bench.one, &compensation(id)).await;
    assert_eq!(bench.one.release(&ticket).await.unwrap(), Held::Yes);
    let Claim::Replay(kept) = bench.two.claim(&request(id)).await.unwrap() else {
        panic!("expected a replay")
    };
    assert_eq!(kept.answer, answer("charged"));
    let ticket = acquire(&bench.two, &compensation(id)).await;
    assert_eq!(bench.one.abandon(&ticket).await.unwrap(), Held::Yes);
    assert!(matches!(bench.one.claim(&compensation(id)).await.unwrap(), Claim::Unknown { .. }));
    let ticket = acquire(&bench.two, &again(compensation(id))).await;
    assert!(ticket.in_doubt());
    assert_eq!(
        bench.two.complete(&ticket, Verdict::Applied, answer("undone"), KEEP).await.unwrap(),
        Held::Yes
    );
}

pub(super) async fn a_settlement_refuses_for_ever(bench: &Bench) {
    let id = fresh_id();
    for _ in 0..2 {
        assert_eq!(ruling(&bench.one, &settlement(id)).await, Ruling::NeverApplied);
    }
    assert_eq!(ruling(&bench.two, &again(request(id))).await, Ruling::TooLate);
    assert_eq!(ruling(&bench.two, &compensation(id)).await, Ruling::NothingToUndo);
    assert_eq!(ruling(&bench.one, &settlement(id)).await, Ruling::NeverApplied);
}

pub(super) async fn a_settlement_tells_how_it_ended(bench: &Bench) {
    let running = fresh_id();
    let ticket = acquire(&bench.one, &request(running)).await;
    assert!(matches!(bench.two.claim(&settlement(running)).await.unwrap(), Claim::InFlight { .. }));
    assert_eq!(bench.one.abandon(&ticket).await.unwrap(), Held::Yes);
    assert!(matches!(bench.two.claim(&again(settlement(running))).await.unwrap(), Claim::Unknown { .. }));

    let id = applied(bench).await;
    let Claim::Replay(kept) = bench.two.claim(&settlement(id)).await.unwrap() else {
        panic!("expected a replay")
    };
    assert_eq!((kept.direction, kept.answer), (Direction::Action, answer("charged")));
    let ticket = acquire(&bench.one, &compensation(id)).await;
    assert!(matches!(bench.two.claim(&settlement(id)).await.unwrap(), Claim::InFlight { .. }));
    assert_eq!(
        bench.one.complete(&ticket, Verdict::Applied, answer("undone"), KEEP).await.unwrap(),
        Held::Yes
    );
    assert_eq!(ruling(&bench.two, &settlement(id)).await, Ruling::Undone);
}
