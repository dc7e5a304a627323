//! There is no way out of an end.

use super::Verdict;
use super::rig::{BEGAN, Rig, body, end, go, same, seconds, start, then};
use crate::journal::EndKind;
use crate::store::{StartReply, State, Then};

pub(super) async fn nothing_follows_an_end(rig: &Rig) -> Verdict {
    let fence = rig.worker().await?;
    let run = rig.owned(fence, "a").await?;
    rig.commit(fence, end(run, 1)).await?;
    for consequence in [Then::Go, Then::Wait(seconds(-1)), Then::Block, Then::End(EndKind::Compensated)] {
        rig.refuses(fence, then(run, 2, consequence), "a commit after the end").await?;
    }
    same!(rig.claim(fence).await?.sagas, [], "what is claimed after the end");
    let state = rig.a.query.summary(run).await?.map(|saga| saga.state);
    same!(state, Some(State::Ended(EndKind::Completed)), "the state");
    rig.journal_is(run, &[BEGAN, &body(1)]).await
}

pub(super) async fn an_end_keeps_the_journal(rig: &Rig) -> Verdict {
    let fence = rig.worker().await?;
    let run = rig.owned(fence, "a").await?;
    rig.commit(fence, go(run, 1)).await?;
    rig.commit(fence, end(run, 2)).await?;
    let loaded = rig.store().load(run).await?;
    let owner_and_rows = loaded.map(|saga| (saga.owner, saga.journal.len(), saga.definition));
    same!(owner_and_rows, Some((None, 3, super::rig::named("place-order"))), "an ended saga as it is loaded");
    let mut late = start("a", true);
    late.digest = [9; 32];
    let earlier = StartReply::Exists { run, digest: [7; 32], end: Some(EndKind::Completed) };
    same!(rig.store().start(Some(fence), &[late]).await?, [earlier], "a late start");
    rig.journal_is(run, &[BEGAN, &body(1), &body(2)]).await
}

pub(super) async fn an_end_sent_again_is_success(rig: &Rig) -> Verdict {
    let fence = rig.worker().await?;
    let run = rig.owned(fence, "a").await?;
    rig.commit(fence, end(run, 1)).await?;
    rig.commit(fence, end(run, 1)).await?;
    rig.journal_is(run, &[BEGAN, &body(1)]).await
}
