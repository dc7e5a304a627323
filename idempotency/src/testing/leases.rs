//! Who holds a claim, for how long, and what becomes of one whose holder is gone, or only seems to be.

use super::*;
use crate::claim::{Put, Verdict};
use crate::row::Stamp;
use crate::store::{Change, Expected, Held, Swap};

pub(super) async fn a_second_claim_is_in_flight_for_the_rest_of_the_lease(bench: &Bench) {
    let id = fresh_id();
    acquire(&bench.one, &request(id)).await;
    for claim in [request(id), again(request(id))] {
        let Claim::InFlight { retry_after } = bench.two.claim(&claim).await.unwrap() else {
            panic!("expected in flight")
        };
        // Of the same unit as the lease: seconds taken for milliseconds would be far off.
        assert!(retry_after <= LONG && retry_after > LONG / 2, "{retry_after:?}");
    }
}

pub(super) async fn a_renewed_lease_lasts(bench: &Bench) {
    let id = fresh_id();
    let mut ticket = acquire_and_let_run_out(&bench.one, &request(id)).await;
    // Nobody took it over: the holder, late as it is, may still renew.
    ticket.lease = LONG;
    assert_eq!(bench.one.renew(&ticket).await.unwrap(), Held::Yes);
    let Claim::InFlight { retry_after } = bench.two.claim(&again(request(id))).await.unwrap() else {
        panic!("expected in flight")
    };
    assert!(retry_after > LONG / 2, "{retry_after:?}");
}

pub(super) async fn a_lease_that_ran_out_is_unknown(bench: &Bench) {
    let id = fresh_id();
    let ticket = acquire_and_let_run_out(&bench.one, &request(id)).await;
    assert!(matches!(bench.two.claim(&request(id)).await.unwrap(), Claim::Unknown { .. }));
    // Nothing was changed by asking: the holder was only slow, and its answer settles it.
    assert_eq!(bench.one.complete(&ticket, Verdict::Applied, answer("late"), KEEP).await.unwrap(), Held::Yes);
    assert!(matches!(bench.two.claim(&request(id)).await.unwrap(), Claim::Replay(_)));
}

pub(super) async fn an_abandoned_claim_is_in_doubt_at_once(bench: &Bench) {
    let id = fresh_id();
    let ticket = acquire(&bench.one, &request(id)).await;
    assert_eq!(bench.one.abandon(&ticket).await.unwrap(), Held::Yes);
    assert!(matches!(bench.two.claim(&request(id)).await.unwrap(), Claim::Unknown { .. }));
    let ticket = acquire(&bench.two, &again(request(id))).await;
    assert!(ticket.in_doubt());
}

pub(super) async fn taking_over_fences_the_old_holder(bench: &Bench) {
    let id = fresh_id();
    let mut old = acquire_and_let_run_out(&bench.one, &request(id)).await;
    let new = acquire(&bench.two, &again(request(id))).await;
    assert!(new.in_doubt());
    assert!(new.fence() > old.fence());
    assert_eq!(bench.one.renew(&old).await.unwrap(), Held::Lost, "renew");
    let complete = bench.one.complete(&old, Verdict::Applied, answer("old"), KEEP).await.unwrap();
    assert_eq!(complete, Held::Lost, "complete");
    assert_eq!(bench.one.release(&old).await.unwrap(), Held::Lost, "release");
    assert_eq!(bench.one.abandon(&old).await.unwrap(), Held::Lost, "abandon");
    let point = crate::row::Point { operation: "o".into(), phase: "p".into(), memo: bytes::Bytes::new() };
    assert_eq!(bench.one.advance(&mut old, point).await.unwrap(), Held::Lost, "advance");
    assert_eq!(bench.two.complete(&new, Verdict::Applied, answer("new"), KEEP).await.unwrap(), Held::Yes);
    let complete = bench.one.complete(&old, Verdict::Applied, answer("old"), KEEP).await.unwrap();
    assert_eq!(complete, Held::Lost, "complete after completion");
    let Claim::Replay(kept) = bench.one.claim(&request(id)).await.unwrap() else {
        panic!("expected a replay")
    };
    assert_eq!(kept.answer, answer("new"));
}

pub(super) async fn doubt_survives_a_release_of_the_one_who_took_over(bench: &Bench) {
    let id = fresh_id();
    acquire_and_let_run_out(&bench.one, &request(id)).await;
    let new = acquire(&bench.two, &again(request(id))).await;
    assert_eq!(bench.two.release(&new).await.unwrap(), Held::Yes);
    // The second attempt did nothing. Of the first one nobody knows.
    assert!(matches!(bench.one.claim(&request(id)).await.unwrap(), Claim::Unknown { .. }));
}

pub(super) async fn a_missing_deadline_is_a_lock(bench: &Bench) {
    let id = fresh_id();
    let ticket = acquire(&bench.one, &request(id)).await;
    let put = Put { row: ticket.row.clone(), lease: None, keep: None, fresh: false };
    let swap = bench.one.swap(&id, &Expected::Held(ticket.row.stamp), &Change::Put(put)).await.unwrap();
    assert!(matches!(swap, Swap::Done));
    assert!(matches!(bench.two.claim(&again(request(id))).await.unwrap(), Claim::InFlight { .. }));
    assert!(bench.two.resolve(&id, LONG).await.unwrap().is_none());
    bench.two.sweep(1000).await.unwrap();
    assert!(bench.two.inspect(&id).await.unwrap().is_some());
    assert_eq!(bench.one.complete(&ticket, Verdict::Applied, answer("a"), KEEP).await.unwrap(), Held::Yes);
}

pub(super) async fn a_lost_answer_of_a_claim_can_be_asked_again(bench: &Bench) {
    let request = request(fresh_id());
    let first = acquire(&bench.one, &request).await;
    let second = acquire(&bench.one, &request).await;
    assert_eq!(first.row.stamp, second.row.stamp);
    assert!(!second.in_doubt());
    let other = ClaimRequest { stamp: Stamp::random(), ..request };
    assert!(matches!(bench.one.claim(&other).await.unwrap(), Claim::InFlight { .. }));
}

pub(super) async fn a_lost_answer_of_a_completion_can_be_asked_again(bench: &Bench) {
    let ticket = acquire(&bench.one, &request(fresh_id())).await;
    for _ in 0..2 {
        assert_eq!(
            bench.one.complete(&ticket, Verdict::Applied, answer("a"), KEEP).await.unwrap(),
            Held::Yes
        );
    }
    let other = bench.one.complete(&ticket, Verdict::Applied, answer("another"), KEEP).await.unwrap();
    assert_eq!(other, Held::Lost, "an answer once kept never changes");
}

pub(super) async fn a_renewal_after_completion_changes_nothing(bench: &Bench) {
    let id = fresh_id();
    let ticket = acquire(&bench.one, &request(id)).await;
    assert_eq!(bench.one.complete(&ticket, Verdict::Applied, answer("a"), KEEP).await.unwrap(), Held::Yes);
    assert_eq!(bench.one.renew(&ticket).await.unwrap(), Held::Lost);
    assert!(matches!(bench.two.claim(&request(id)).await.unwrap(), Claim::Replay(_)));
}

pub(super) async fn resolving_takes_only_what_is_in_doubt(bench: &Bench) {
    let id = fresh_id();
    assert!(bench.one.resolve(&id, LONG).await.unwrap().is_none(), "no such key");
    let old = acquire(&bench.one, &request(id)).await;
    assert!(bench.two.resolve(&id, LONG).await.unwrap().is_none(), "it is running");
    assert_eq!(bench.one.abandon(&old).await.unwrap(), Held::Yes);
    let ticket = bench.two.resolve(&id, LONG).await.unwrap().expect("it is in doubt");
    assert!(matches!(bench.one.claim(&again(request(id))).await.unwrap(), Claim::InFlight { .. }));
    assert_eq!(bench.one.complete(&old, Verdict::Applied, answer("old"), KEEP).await.unwrap(), Held::Lost);
    assert_eq!(
        bench.two.release(&ticket).await.unwrap(),
        Held::Yes,
        "whoever resolves knows: nothing happened"
    );
    assert!(bench.two.inspect(&id).await.unwrap().is_none());
}
