//! A start is idempotent by the user's id.

use super::Verdict;
use super::rig::{BEGAN, Rig, end, go, runs, same, start, start_of};
use crate::journal::EndKind;
use crate::store::{StartReply, State};

pub(super) async fn a_start_is_owned_or_waits_for_a_claim(rig: &Rig) -> Verdict {
    let fence = rig.worker().await?;
    let (owned, unowned) = (start("a", true), start("b", false));
    // A worker's batch may hold both.
    let replies = rig.store().start(Some(fence), &[owned.clone(), unowned.clone()]).await?;
    same!(replies, [StartReply::Started, StartReply::Started], "two starts");
    for (start, owner) in [(&owned, Some(fence.worker)), (&unowned, None)] {
        let summary = rig.a.query.summary(start.run).await?.map(|saga| (saga.state, saga.owner));
        same!(summary, Some((State::Running, owner)), "a fresh saga");
        let writer = rig.store().load(start.run).await?.map(|saga| saga.journal[0].worker);
        same!(writer, Some(owner), "who wrote its first row");
    }
    rig.commit(fence, go(owned.run, 1)).await?;
    same!(runs(&rig.claim(fence).await?), [unowned.run], "what is claimed");
    rig.commit(fence, go(unowned.run, 1)).await?;
    // Without a fence nobody can own it.
    let nobodys = start("c", true);
    rig.store().start(None, std::slice::from_ref(&nobodys)).await?;
    same!(runs(&rig.claim(fence).await?), [nobodys.run], "an owned start without a fence");
    Ok(())
}

pub(super) async fn a_start_sent_again_is_started(rig: &Rig) -> Verdict {
    let fence = rig.worker().await?;
    let start = start("a", true);
    for _ in 0..3 {
        let replies = rig.store().start(Some(fence), std::slice::from_ref(&start)).await?;
        same!(replies, [StartReply::Started], "the same start, sent again");
    }
    rig.commit(fence, go(start.run, 1)).await?;
    rig.store().start(Some(fence), std::slice::from_ref(&start)).await?;
    rig.commit(fence, end(start.run, 2)).await?;
    let replies = rig.store().start(Some(fence), std::slice::from_ref(&start)).await?;
    same!(replies, [StartReply::Started], "the same start, sent again after the end");
    same!(rig.a.query.journal(start.run).await?.len(), 3, "the length of the journal");
    same!(rig.claim(fence).await?.sagas, [], "what is claimed");
    Ok(())
}

pub(super) async fn a_taken_id_is_told_with_run_digest_and_end(rig: &Rig) -> Verdict {
    let fence = rig.worker().await?;
    let run = rig.owned(fence, "a").await?;
    let mut second = start("a", true);
    second.digest = [8; 32];
    let mut told = StartReply::Exists { run, digest: [7; 32], end: None };
    same!(rig.store().start(Some(fence), &[second.clone()]).await?, [told.clone()], "a second start");
    same!(rig.store().start(None, &[second.clone()]).await?, [told], "a second start by a client");
    rig.commit(
        fence,
        crate::testing::conformance::rig::then(run, 1, crate::store::Then::End(EndKind::Compensated)),
    )
    .await?;
    told = StartReply::Exists { run, digest: [7; 32], end: Some(EndKind::Compensated) };
    same!(rig.store().start(Some(fence), &[second.clone()]).await?, [told], "a second start after the end");
    same!(rig.store().load(second.run).await?, None, "the run that was not started");
    same!(rig.a.query.journal(second.run).await?, [], "its journal");
    Ok(())
}

pub(super) async fn one_id_under_two_definitions_is_two_sagas(rig: &Rig) -> Verdict {
    let batch = [start_of("place-order", "a", false), start_of("refund", "a", false)];
    same!(
        rig.store().start(None, &batch).await?,
        [StartReply::Started, StartReply::Started],
        "two definitions"
    );
    for start in &batch {
        let found = rig.a.query.find(&start.definition, "a").await?.map(|saga| saga.run);
        same!(found, Some(start.run), "the run under the id");
    }
    Ok(())
}

pub(super) async fn two_starts_of_one_id_in_a_batch_are_one_saga(rig: &Rig) -> Verdict {
    let (first, mut second) = (start("a", false), start("a", false));
    second.digest = [8; 32];
    let replies = rig.store().start(None, &[first.clone(), second.clone()]).await?;
    // Which of the two has it is the store's choice; that the other is told is not.
    let (winner, loser) = match replies.as_slice() {
        [StartReply::Started, StartReply::Exists { run, digest, end: None }] => {
            ((first.run, first.digest), (*run, *digest))
        }
        [StartReply::Exists { run, digest, end: None }, StartReply::Started] => {
            ((second.run, second.digest), (*run, *digest))
        }
        other => return Err(super::Broken(format!("one of two must win: {other:?}"))),
    };
    same!(loser, winner, "the run and digest that the loser was told");
    let fence = rig.worker().await?;
    same!(runs(&rig.claim(fence).await?), [winner.0], "what exists");
    Ok(())
}

pub(super) async fn a_batch_of_starts_is_answered_in_order(rig: &Rig) -> Verdict {
    let fence = rig.worker().await?;
    let (a, c) = (rig.owned(fence, "a").await?, rig.owned(fence, "c").await?);
    let batch = [start("d", true), start("c", true), start("b", true), start("a", true)];
    let exists = |run| StartReply::Exists { run, digest: [7; 32], end: None };
    let wanted = [StartReply::Started, exists(c), StartReply::Started, exists(a)];
    same!(rig.store().start(Some(fence), &batch).await?, wanted, "a batch of which two are taken");
    rig.journal_is(batch[0].run, &[BEGAN]).await?;
    rig.journal_is(batch[2].run, &[BEGAN]).await?;
    same!(rig.store().load(batch[1].run).await?, None, "a start that was not made");
    same!(rig.store().start(Some(fence), &[]).await?, [], "an empty batch");
    same!(rig.store().commit(fence, &[]).await?, [], "an empty batch of commits");
    same!(rig.store().post(&[]).await?, [], "an empty batch of mail");
    Ok(())
}
