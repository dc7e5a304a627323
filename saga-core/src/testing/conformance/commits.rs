//! A commit is one journal row; writing it is a compare-and-set.

use super::Verdict;
use super::rig::{BEGAN, Rig, body, cancel, end, go, holds, join, same, seconds, then};
use crate::journal::EndKind;
use crate::store::{Commit, CommitReply, State, Then};

pub(super) async fn a_commit_is_a_compare_and_set(rig: &Rig) -> Verdict {
    let fence = rig.worker().await?;
    let run = rig.owned(fence, "a").await?;
    rig.commit(fence, go(run, 1)).await?;
    // The worker dies, another takes over and writes; the number is then taken for everybody else.
    rig.store().fence(fence.worker).await?;
    let heir = rig.worker().await?;
    holds!(rig.claim(heir).await?.sagas.len() == 1, "the saga of a fenced worker was not claimed");
    rig.commit(heir, go(run, 2)).await?;
    let mut other = go(run, 1);
    other.body = r#"["another"]"#.into();
    rig.refuses(heir, other, "a commit under a number that another worker wrote").await?;
    rig.journal_is(run, &[BEGAN, &body(1), &body(2)]).await
}

pub(super) async fn a_commit_leaves_no_gap(rig: &Rig) -> Verdict {
    let fence = rig.worker().await?;
    let run = rig.owned(fence, "a").await?;
    rig.refuses(fence, go(run, 2), "a commit whose predecessor is missing").await?;
    rig.commit(fence, go(run, 1)).await?;
    rig.refuses(fence, go(run, 7), "a commit whose predecessors are missing").await?;
    rig.journal_is(run, &[BEGAN, &body(1)]).await
}

pub(super) async fn a_commit_sent_again_is_success(rig: &Rig) -> Verdict {
    let fence = rig.worker().await?;
    let run = rig.owned(fence, "a").await?;
    let batch = [go(run, 1)];
    for _ in 0..3 {
        let replies = rig.store().commit(fence, &batch).await?;
        same!(replies, [CommitReply::Committed { mail: vec![] }], "the same commit, sent again");
    }
    // Also beside a commit that is new, and after the saga went on.
    let second = rig.owned(fence, "b").await?;
    let replies = rig.store().commit(fence, &[go(run, 1), go(second, 1)]).await?;
    let committed = CommitReply::Committed { mail: vec![] };
    same!(replies, [committed.clone(), committed], "an old commit beside a new one");
    rig.commit(fence, go(run, 2)).await?;
    rig.commit(fence, go(run, 1)).await?;
    rig.journal_is(run, &[BEGAN, &body(1), &body(2)]).await?;
    rig.journal_is(second, &[BEGAN, &body(1)]).await
}

pub(super) async fn another_commit_under_a_number_of_ones_own_is_refused(rig: &Rig) -> Verdict {
    let fence = rig.worker().await?;
    let run = rig.owned(fence, "a").await?;
    rig.commit(fence, go(run, 1)).await?;
    let other = Commit { body: body(7).into(), ..go(run, 1) };
    rig.refuses(fence, other.clone(), "another commit under the number of one that is there").await?;
    // It is still its owner's, whose next commit says how it goes on; also beside one that is refused.
    let second = rig.owned(fence, "b").await?;
    let replies = rig.store().commit(fence, &[other, go(second, 1)]).await?;
    same!(
        replies,
        [CommitReply::Refused, CommitReply::Committed { mail: vec![] }],
        "the same beside a new one"
    );
    rig.commit(fence, go(run, 2)).await?;
    rig.journal_is(run, &[BEGAN, &body(1), &body(2)]).await
}

pub(super) async fn only_the_owner_commits(rig: &Rig) -> Verdict {
    let (owner, stranger) = (rig.worker().await?, join(&rig.other().await).await?);
    let owned = rig.owned(owner, "a").await?;
    let nobodys = rig.unowned("b").await?;
    rig.refuses(stranger, go(owned, 1), "a commit for a saga that another worker owns").await?;
    rig.refuses(stranger, go(nobodys, 1), "a commit for a saga that nobody owns").await?;
    // Having given it up, its owner is a stranger as well.
    rig.commit(owner, then(owned, 1, Then::Wait(seconds(3600)))).await?;
    rig.refuses(owner, go(owned, 2), "a commit for a saga that the worker gave up").await?;
    rig.journal_is(owned, &[BEGAN, &body(1)]).await?;
    rig.journal_is(nobodys, &[BEGAN]).await
}

pub(super) async fn a_refused_commit_leaves_no_trace(rig: &Rig) -> Verdict {
    let (owner, stranger) = (rig.worker().await?, rig.worker().await?);
    let run = rig.owned(owner, "a").await?;
    let mail = cancel(run);
    rig.store().post(std::slice::from_ref(&mail)).await?;
    let before = rig.a.query.summary(run).await?;
    let consequences = [
        Then::Go,
        Then::Wait(seconds(-1)),
        Then::Block,
        Then::End(EndKind::Completed),
        Then::End(EndKind::Compensated),
    ];
    for consequence in consequences {
        for (fence, number) in [(stranger, 0), (stranger, 1), (owner, 2)] {
            let mut commit = then(run, number, consequence);
            commit.mail = vec![mail.id];
            let why = format!("commit {number} with {consequence:?}, which is not the owner's next");
            rig.refuses(fence, commit, &why).await?;
            same!(rig.a.query.summary(run).await?, before, "the saga after a refused {consequence:?}");
            let loaded = rig.store().load(run).await?;
            let unread = loaded.map(|saga| saga.mail);
            same!(unread, Some(vec![mail.clone()]), "its mail after a refused {consequence:?}");
        }
    }
    rig.journal_is(run, &[BEGAN]).await
}

pub(super) async fn a_refused_commit_harms_no_other_of_its_batch(rig: &Rig) -> Verdict {
    let (fence, stranger) = (rig.worker().await?, rig.worker().await?);
    let mine = [rig.owned(fence, "a").await?, rig.owned(fence, "b").await?, rig.owned(fence, "c").await?];
    let foreign = rig.owned(stranger, "d").await?;
    let batch = [go(mine[0], 1), end(foreign, 1), end(mine[1], 1), go(mine[2], 5)];
    let replies = rig.store().commit(fence, &batch).await?;
    let committed = CommitReply::Committed { mail: vec![] };
    let wanted = [committed.clone(), CommitReply::Refused, committed, CommitReply::Refused];
    same!(replies, wanted, "a batch of which two were refused");
    rig.journal_is(mine[0], &[BEGAN, &body(1)]).await?;
    rig.journal_is(mine[1], &[BEGAN, &body(1)]).await?;
    rig.journal_is(mine[2], &[BEGAN]).await?;
    rig.journal_is(foreign, &[BEGAN]).await?;
    let state = rig.a.query.summary(foreign).await?.map(|saga| saga.state);
    same!(state, Some(State::Running), "the saga whose end was refused");
    Ok(())
}

pub(super) async fn each_commit_of_a_batch_has_its_own_consequence(rig: &Rig) -> Verdict {
    let fence = rig.worker().await?;
    let due = seconds(3600);
    let cases = [
        (Then::Go, State::Running, None),
        (Then::Wait(due), State::Waiting, Some(due)),
        (Then::Block, State::Blocked, None),
        (Then::End(EndKind::Completed), State::Ended(EndKind::Completed), None),
        (Then::End(EndKind::Compensated), State::Ended(EndKind::Compensated), None),
        (Then::End(EndKind::PartiallyCompensated), State::Ended(EndKind::PartiallyCompensated), None),
        (Then::Wait(seconds(-5)), State::Waiting, None),
    ];
    let mut batch = Vec::new();
    for (index, (consequence, ..)) in cases.iter().enumerate() {
        batch.push(then(rig.owned(fence, &format!("{index}")).await?, 1, *consequence));
    }
    let replies = rig.store().commit(fence, &batch).await?;
    same!(
        replies,
        vec![CommitReply::Committed { mail: vec![] }; cases.len()],
        "a batch of every consequence"
    );
    for (commit, (consequence, state, due)) in batch.iter().zip(cases) {
        let Some(saga) = rig.a.query.summary(commit.run).await? else {
            return Err(super::Broken(format!("no summary after {consequence:?}")));
        };
        same!(saga.state, state, "the state after {consequence:?}");
        let owner = (state == State::Running).then_some(fence.worker);
        same!(saga.owner, owner, "the owner after {consequence:?}");
        if due.is_some() {
            same!(saga.due, due, "the due time after {consequence:?}");
        }
        holds!(saga.since >= saga.started_at, "{consequence:?} happened before the start");
    }
    Ok(())
}

pub(super) async fn a_journal_keeps_its_order_and_its_writers(rig: &Rig) -> Verdict {
    let fence = rig.worker().await?;
    let run = rig.unowned("a").await?;
    holds!(rig.claim(fence).await?.sagas.len() == 1, "a fresh saga was not claimed");
    for number in 1..=12 {
        rig.commit(fence, go(run, number)).await?;
    }
    let Some(loaded) = rig.store().load(run).await? else {
        return Err(super::Broken("the saga is gone".into()));
    };
    same!(loaded.owner, Some(fence.worker), "the owner");
    same!(&*loaded.saga, "a", "the saga's id");
    same!(loaded.version, 3, "its version");
    same!(loaded.journal, rig.a.query.journal(run).await?, "the journal as it is loaded");
    same!(loaded.journal.len(), 13, "the journal's length");
    for (index, row) in loaded.journal.iter().enumerate() {
        same!(row.number as usize, index, "the number of row {index}");
        let (writer, text) = match row.number {
            0 => (None, BEGAN.to_owned()),
            number => (Some(fence.worker), body(number)),
        };
        same!(row.worker, writer, "who wrote row {index}");
        same!(*row.body, *text, "the text of row {index}");
    }
    Ok(())
}

pub(super) async fn a_batch_holds_hundreds_of_commits(rig: &Rig) -> Verdict {
    let fence = rig.worker().await?;
    let starts: Vec<_> = (0..512).map(|i| super::rig::start(&format!("saga {i}"), true)).collect();
    let replies = rig.store().start(Some(fence), &starts).await?;
    holds!(
        replies.len() == 512 && replies.iter().all(|r| *r == crate::store::StartReply::Started),
        "512 starts"
    );
    let batch: Vec<_> = starts.iter().map(|start| go(start.run, 1)).collect();
    let committed = vec![CommitReply::Committed { mail: vec![] }; 512];
    same!(rig.store().commit(fence, &batch).await?, committed, "512 commits");
    // Half of them again, beside their successors: nothing of it confuses the rest.
    let mixed = starts
        .iter()
        .zip(0..)
        .map(|(start, i)| if i % 2 == 0 { go(start.run, 1) } else { end(start.run, 2) });
    same!(
        rig.store().commit(fence, &mixed.collect::<Vec<_>>()).await?,
        committed,
        "512 commits, half of them again"
    );
    rig.journal_is(starts[0].run, &[BEGAN, &body(1)]).await?;
    rig.journal_is(starts[511].run, &[BEGAN, &body(1), &body(2)]).await
}

pub(super) async fn a_pivot_does_not_start_past_unread_mail(rig: &Rig) -> Verdict {
    let fence = rig.worker().await?;
    let (a, b) = (rig.owned(fence, "a").await?, rig.owned(fence, "b").await?);
    let c = rig.owned(fence, "c").await?;
    let pivot = |run, mail: &[_]| Commit { pivot: true, mail: mail.to_vec(), ..go(run, 1) };
    let mail = cancel(a);
    rig.store().post(std::slice::from_ref(&mail)).await?;
    let before = rig.a.query.summary(a).await?;
    let replies = rig.store().commit(fence, &[pivot(a, &[]), pivot(b, &[]), go(c, 1)]).await?;
    let (unread, committed) =
        (CommitReply::Unread { mail: vec![mail.clone()] }, CommitReply::Committed { mail: vec![] });
    same!(replies, [unread, committed.clone(), committed], "a batch of which one pivot has unread mail");
    rig.journal_is(a, &[BEGAN]).await?;
    same!(rig.a.query.summary(a).await?, before, "the saga whose pivot was not started");
    // Naming the mail of another saga reads nothing of this one's.
    let other = cancel(b);
    rig.store().post(std::slice::from_ref(&other)).await?;
    let replies = rig.store().commit(fence, &[pivot(a, &[other.id])]).await?;
    same!(replies, [CommitReply::Unread { mail: vec![mail.clone()] }], "a pivot that reads foreign mail");
    same!(rig.commit(fence, pivot(a, &[mail.id])).await?, [], "a pivot that reads its mail");
    // Sent again it is success, and mail that came later is handed over with it.
    let late = cancel(a);
    rig.store().post(std::slice::from_ref(&late)).await?;
    same!(rig.commit(fence, pivot(a, &[mail.id])).await?, [late], "a pivot that is sent again");
    rig.journal_is(a, &[BEGAN, &body(1)]).await
}
