//! From the first claim to the end of the kept answer.

use std::time::Duration;

use super::*;
use crate::claim::{Kept, Verdict};
use crate::row::{Point, State};
use crate::store::{Expiry, Held};

pub(super) async fn a_first_claim_is_acquired_and_its_answer_replayed(bench: &Bench) {
    let id = fresh_id();
    let ticket = acquire(&bench.one, &request(id)).await;
    assert!(!ticket.in_doubt());
    assert_eq!(bench.one.complete(&ticket, Verdict::Applied, answer("a"), KEEP).await.unwrap(), Held::Yes);
    for store in [&bench.one, &bench.two] {
        let Claim::Replay(kept) = store.claim(&request(id)).await.unwrap() else {
            panic!("expected a replay")
        };
        let expected = Kept { direction: Direction::Action, verdict: Verdict::Applied, answer: answer("a") };
        assert_eq!(kept, expected);
    }
    let entry = bench.two.inspect(&id).await.unwrap().unwrap();
    assert_eq!(entry.dated.row.state(), State::Applied);
    assert!(!entry.in_doubt());
}

pub(super) async fn a_rejection_is_replayed_as_one(bench: &Bench) {
    let id = fresh_id();
    let ticket = acquire(&bench.one, &request(id)).await;
    assert_eq!(bench.one.complete(&ticket, Verdict::Rejected, answer("no"), KEEP).await.unwrap(), Held::Yes);
    let Claim::Replay(kept) = bench.two.claim(&request(id)).await.unwrap() else {
        panic!("expected a replay")
    };
    assert_eq!((kept.verdict, kept.answer), (Verdict::Rejected, answer("no")));
}

pub(super) async fn another_request_under_the_key_is_a_mismatch_in_every_state(bench: &Bench) {
    let id = fresh_id();
    let other = ClaimRequest { fingerprint: print("{\"cents\":2}"), ..request(id) };
    let ticket = acquire(&bench.one, &request(id)).await;
    let mismatch = |claim| matches!(claim, Claim::Mismatch { part: crate::fingerprint::Part::Body });
    assert!(mismatch(bench.two.claim(&other).await.unwrap()), "in flight");
    assert_eq!(bench.one.abandon(&ticket).await.unwrap(), Held::Yes);
    assert!(mismatch(bench.two.claim(&again(other.clone())).await.unwrap()), "in doubt");
    let ticket = acquire(&bench.one, &again(request(id))).await;
    assert_eq!(bench.one.complete(&ticket, Verdict::Applied, answer("a"), KEEP).await.unwrap(), Held::Yes);
    assert!(mismatch(bench.two.claim(&other).await.unwrap()), "completed");
}

pub(super) async fn a_released_key_is_as_good_as_new(bench: &Bench) {
    let id = fresh_id();
    let ticket = acquire(&bench.one, &request(id)).await;
    assert_eq!(bench.one.release(&ticket).await.unwrap(), Held::Yes);
    assert_eq!(bench.one.release(&ticket).await.unwrap(), Held::Yes, "a repeated release");
    assert!(bench.two.inspect(&id).await.unwrap().is_none());
    // Nothing was kept, the request either: the key may now be used for something else.
    let other = ClaimRequest { fingerprint: print("else"), ..request(id) };
    let ticket = acquire(&bench.two, &other).await;
    assert!(!ticket.in_doubt());
}

pub(super) async fn a_kept_answer_expires_and_the_key_is_new(bench: &Bench) {
    let id = fresh_id();
    let ticket = acquire(&bench.one, &request(id)).await;
    assert_eq!(bench.one.complete(&ticket, Verdict::Applied, answer("a"), SHORT).await.unwrap(), Held::Yes);
    let ticket = loop {
        let other = ClaimRequest { fingerprint: print("else"), ..request(id) };
        match bench.two.claim(&other).await.unwrap() {
            Claim::Acquired(ticket) => break ticket,
            Claim::Mismatch { .. } => tokio::time::sleep(Duration::from_millis(3)).await,
            claim => panic!("expected a mismatch until it expires, got {claim:?}"),
        }
    };
    assert!(!ticket.in_doubt());
    assert_eq!(ticket.fence(), 1);
}

pub(super) async fn an_answer_of_a_megabyte_is_kept_byte_for_byte(bench: &Bench) {
    let id = fresh_id();
    let body: bytes::Bytes = (0..1_048_576_u32).map(|i| (i * 7 % 256) as u8).collect::<Vec<u8>>().into();
    let ticket = acquire(&bench.one, &request(id)).await;
    assert_eq!(bench.one.complete(&ticket, Verdict::Applied, body.clone(), KEEP).await.unwrap(), Held::Yes);
    let Claim::Replay(kept) = bench.two.claim(&request(id)).await.unwrap() else {
        panic!("expected a replay")
    };
    assert!(kept.answer == body);
}

pub(super) async fn counting_sees_every_state(bench: &Bench) {
    let before = bench.one.count().await.unwrap();
    acquire(&bench.one, &request(fresh_id())).await;
    let doubtful = acquire(&bench.one, &request(fresh_id())).await;
    assert_eq!(bench.one.abandon(&doubtful).await.unwrap(), Held::Yes);
    for verdict in [Verdict::Applied, Verdict::Rejected] {
        let ticket = acquire(&bench.one, &request(fresh_id())).await;
        assert_eq!(bench.one.complete(&ticket, verdict, answer("a"), KEEP).await.unwrap(), Held::Yes);
    }
    bench.one.claim(&compensation(fresh_id())).await.unwrap();
    bench.one.claim(&settlement(fresh_id())).await.unwrap();
    let after = bench.two.count().await.unwrap();
    // Others may use the store at the same time, so more is fine and less is not.
    assert!(after.running > before.running, "running: {before:?} {after:?}");
    assert!(after.in_doubt > before.in_doubt, "in doubt: {before:?} {after:?}");
    assert!(after.applied > before.applied, "applied: {before:?} {after:?}");
    assert!(after.rejected > before.rejected, "rejected: {before:?} {after:?}");
    assert!(after.undone > before.undone, "undone: {before:?} {after:?}");
    assert!(after.refused > before.refused, "refused: {before:?} {after:?}");
}

pub(super) async fn sweeping_never_takes_a_running_row(bench: &Bench) {
    let (running, doubtful, kept, over) = (fresh_id(), fresh_id(), fresh_id(), fresh_id());
    acquire(&bench.one, &request(running)).await;
    acquire_and_let_run_out(&bench.one, &request(doubtful)).await;
    for (id, keep) in [(kept, KEEP), (over, Duration::from_millis(1))] {
        let ticket = acquire(&bench.one, &request(id)).await;
        assert_eq!(
            bench.one.complete(&ticket, Verdict::Applied, answer("a"), keep).await.unwrap(),
            Held::Yes
        );
    }
    while bench.two.inspect(&over).await.unwrap().is_some() {
        bench.two.sweep(1000).await.unwrap();
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    for (id, name) in [(running, "running"), (doubtful, "in doubt"), (kept, "kept")] {
        assert!(bench.two.inspect(&id).await.unwrap().is_some(), "{name} was swept away");
    }
}

pub(super) async fn expiring_by_hand_spares_what_runs(bench: &Bench) {
    let id = fresh_id();
    assert_eq!(bench.one.expire(&id).await.unwrap(), Expiry::Unknown);
    let ticket = acquire(&bench.one, &request(id)).await;
    assert_eq!(bench.two.expire(&id).await.unwrap(), Expiry::Running);
    assert_eq!(bench.one.complete(&ticket, Verdict::Applied, answer("a"), KEEP).await.unwrap(), Held::Yes);
    assert_eq!(bench.two.expire(&id).await.unwrap(), Expiry::Expired);
    acquire(&bench.two, &request(id)).await;
}

pub(super) async fn a_recovery_point_is_kept_and_found(bench: &Bench) {
    let id = fresh_id();
    let operation = id.to_hex();
    let point = |phase: &str| Point {
        operation: operation.clone(),
        phase: phase.to_owned(),
        memo: bytes::Bytes::from_static(b"state"),
    };
    let mut ticket = acquire(&bench.one, &request(id)).await;
    for phase in ["created", "charged"] {
        let before = ticket.clone();
        assert_eq!(bench.one.advance(&mut ticket, point(phase)).await.unwrap(), Held::Yes);
        // A renewal that was sent before and arrives late must not bring the old point back.
        assert_eq!(bench.one.renew(&before).await.unwrap(), Held::Lost, "a late renewal");
    }
    assert!(bench.two.unfinished(&operation, 10).await.unwrap().is_empty(), "it is running");
    assert_eq!(bench.one.abandon(&ticket).await.unwrap(), Held::Yes);
    assert_eq!(bench.two.unfinished(&operation, 10).await.unwrap(), [id]);
    assert!(bench.two.unfinished("another operation", 10).await.unwrap().is_empty());
    let ticket = acquire(&bench.two, &again(request(id))).await;
    assert_eq!(ticket.row.point, Some(point("charged")));
    assert_eq!(bench.two.complete(&ticket, Verdict::Applied, answer("a"), KEEP).await.unwrap(), Held::Yes);
    assert!(bench.two.unfinished(&operation, 10).await.unwrap().is_empty(), "it is done");
}

pub(super) async fn what_was_tried_least_often_is_found_first(bench: &Bench) {
    let operation = fresh_id().to_hex();
    let point = || {
        let memo = bytes::Bytes::from_static(b"state");
        Some(Point { operation: operation.clone(), phase: "created".to_owned(), memo })
    };
    let mut ids = Vec::new();
    // The one that was tried most often has been in doubt for the longest time.
    for tries in (1..=3).rev() {
        let id = fresh_id();
        for _ in 0..tries {
            let request = again(ClaimRequest { point: point(), ..request(id) });
            let ticket = acquire(&bench.one, &request).await;
            assert_eq!(bench.one.abandon(&ticket).await.unwrap(), Held::Yes);
        }
        ids.insert(0, id);
    }
    assert_eq!(bench.two.unfinished(&operation, 10).await.unwrap(), ids);
    assert_eq!(bench.two.unfinished(&operation, 2).await.unwrap(), ids[..2]);
}
