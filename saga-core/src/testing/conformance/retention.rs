//! What is over may be forgotten; what a late start needs may not.

use super::Verdict;
use super::rig::{Rig, end, go, holds, same, seconds, start, then};
use crate::id::RunId;
use crate::journal::EndKind;
use crate::store::{Kept, StartReply, State, Then};

pub(super) async fn a_journal_goes_once_its_saga_ended_long_enough_ago(rig: &Rig) -> Verdict {
    let fence = rig.worker().await?;
    let ended = rig.owned(fence, "ended").await?;
    rig.commit(fence, then(ended, 1, Then::End(EndKind::Completed))).await?;
    let live = rig.owned(fence, "live").await?;
    let backend = rig.other().await;

    let early = backend.retain.prune(seconds(-60), None, 10).await?;
    same!((early.sagas, early.last), (0, Some(live)), "what is removed before its time");
    same!(backend.query.journal(ended).await?.len(), 2, "the journal before its time");

    let one = backend.retain.prune(seconds(60), None, 1).await?;
    same!((one.sagas, one.last), (1, Some(ended)), "a batch of one");
    let two = backend.retain.prune(seconds(60), one.last, 10).await?;
    same!((two.sagas, two.last), (0, Some(live)), "the rest");
    same!(backend.retain.prune(seconds(60), two.last, 10).await?.last, None, "after the last");

    same!(backend.query.journal(ended).await?, [], "the journal of what is over");
    rig.commit(fence, go(live, 1)).await?;
    same!(backend.query.journal(live).await?.len(), 2, "the journal of what goes on");
    Ok(())
}

pub(super) async fn a_child_keeps_its_journal_while_its_parent_is_in_flight(rig: &Rig) -> Verdict {
    let fence = rig.worker().await?;
    let parent = rig.owned(fence, "parent").await?;
    let child = rig.owned(fence, &format!("{parent}/send/action")).await?;
    let orphan = rig.owned(fence, &format!("{}/send/action", RunId::new())).await?;
    for run in [child, orphan] {
        rig.commit(fence, end(run, 1)).await?;
    }
    let backend = rig.other().await;
    same!(backend.retain.prune(seconds(60), None, 10).await?.sagas, 1, "what nobody needs any more");
    same!(backend.query.journal(child).await?.len(), 2, "the journal that its parent may ask for");
    same!(backend.query.journal(orphan).await?, [], "the journal of a child whose parent is not known");
    rig.commit(fence, end(parent, 1)).await?;
    same!(backend.retain.prune(seconds(60), None, 10).await?.sagas, 2, "both, once the parent has ended");
    Ok(())
}

pub(super) async fn a_start_outlives_its_journal(rig: &Rig) -> Verdict {
    let fence = rig.worker().await?;
    let ended = rig.owned(fence, "a").await?;
    rig.commit(fence, then(ended, 1, Then::End(EndKind::Compensated))).await?;
    let backend = rig.other().await;
    backend.retain.prune(seconds(60), None, 10).await?;
    let late = start("a", false);
    let replies = backend.store.start(None, std::slice::from_ref(&late)).await?;
    holds!(
        matches!(&replies[..], [StartReply::Exists { run, end: Some(EndKind::Compensated), .. }] if *run == ended),
        "a late start was answered {replies:?}"
    );
    let summary = backend.query.summary(ended).await?.map(|summary| summary.state);
    same!(summary, Some(State::Ended(EndKind::Compensated)), "its state");
    Ok(())
}

pub(super) async fn what_is_kept_of_a_run_is_told(rig: &Rig) -> Verdict {
    let fence = rig.worker().await?;
    let (over, live, waiting) =
        (rig.owned(fence, "over").await?, rig.owned(fence, "live").await?, rig.unowned("waiting").await?);
    rig.commit(fence, then(over, 1, Then::End(EndKind::Completed))).await?;
    let backend = rig.other().await;
    let asked = [RunId::new(), waiting, over, live];
    let journal = Kept::Journal;
    same!(backend.retain.kept(&asked).await?, [Kept::Nothing, journal, journal, journal], "what is kept");
    backend.retain.prune(seconds(60), None, 10).await?;
    let wanted = [Kept::Nothing, journal, Kept::Forgotten, journal];
    same!(backend.retain.kept(&asked).await?, wanted, "what is kept once a journal was removed");
    same!(backend.retain.kept(&[]).await?, [], "what is kept of nothing");
    Ok(())
}
