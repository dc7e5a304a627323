//! Mail is only ever inserted, and only the owner consumes it.

use super::Verdict;
use super::rig::{Rig, cancel, claim, end, go, holds, newer, runs, same, seconds, then};
use crate::id::RunId;
use crate::journal::{EndKind, MailBody};
use crate::store::{Claim, CommitReply, Mail, Posted, Then, UnreadMail};

pub(super) async fn mail_is_kept_once(rig: &Rig) -> Verdict {
    let fence = rig.worker().await?;
    let run = rig.owned(fence, "a").await?;
    let mail = cancel(run);
    for _ in 0..3 {
        same!(
            rig.store().post(std::slice::from_ref(&mail)).await?,
            [Posted::Accepted],
            "the same mail, posted again"
        );
    }
    same!(
        rig.store().post(&[mail.clone(), mail.clone()]).await?,
        [Posted::Accepted; 2],
        "the same mail, twice"
    );
    let other = Mail { body: "other".into(), ..mail.clone() };
    same!(rig.store().post(&[other]).await?, [Posted::Accepted], "other mail under its id");
    same!(rig.claim(fence).await?.mail, [mail], "the mail");
    Ok(())
}

pub(super) async fn consumed_mail_stays_consumed(rig: &Rig) -> Verdict {
    let fence = rig.worker().await?;
    let run = rig.owned(fence, "a").await?;
    let mail = cancel(run);
    rig.store().post(std::slice::from_ref(&mail)).await?;
    let mut commit = go(run, 1);
    commit.mail = vec![mail.id];
    same!(rig.commit(fence, commit.clone()).await?, [], "what is unread after it was consumed");
    same!(
        rig.store().post(std::slice::from_ref(&mail)).await?,
        [Posted::Accepted],
        "consumed mail, posted again"
    );
    same!(rig.claim(fence).await?.mail, [], "the unread mail");
    same!(rig.commit(fence, commit).await?, [], "what is unread when the commit is sent again");
    same!(rig.store().load(run).await?.map(|saga| saga.mail), Some(vec![]), "the mail that is loaded");
    Ok(())
}

pub(super) async fn mail_for_nobody_is_told(rig: &Rig) -> Verdict {
    let run = rig.unowned("a").await?;
    let answers = rig.store().post(&[cancel(RunId::new()), cancel(run)]).await?;
    same!(answers, [Posted::NoSuchSaga, Posted::Accepted], "mail for nobody, and for somebody");
    Ok(())
}

pub(super) async fn mail_for_an_ended_saga_is_answered_from_its_end(rig: &Rig) -> Verdict {
    let fence = rig.worker().await?;
    let run = rig.owned(fence, "a").await?;
    let early = cancel(run);
    rig.store().post(std::slice::from_ref(&early)).await?;
    rig.commit(fence, end(run, 1)).await?;
    let ended = Posted::Ended(EndKind::Completed);
    same!(rig.store().post(&[cancel(run), early]).await?, [ended; 2], "mail after the end");
    let claimed = rig.claim(fence).await?;
    same!((claimed.sagas.len(), claimed.mail.len()), (0, 0), "what is given after the end");
    Ok(())
}

pub(super) async fn a_commit_gives_the_unread_mail_of_its_saga(rig: &Rig) -> Verdict {
    let fence = rig.worker().await?;
    let (a, b) = (rig.owned(fence, "a").await?, rig.owned(fence, "b").await?);
    let mail = [cancel(a), cancel(b), cancel(a)];
    rig.store().post(&mail).await?;
    let replies = rig.store().commit(fence, &[go(a, 1), go(b, 1)]).await?;
    let of = |run| mail.iter().filter(|mail| mail.run == run).cloned().collect();
    let wanted = [CommitReply::Committed { mail: of(a) }, CommitReply::Committed { mail: of(b) }];
    same!(replies, wanted, "each commit with its saga's mail, oldest first");
    // Also when it is sent again: the first answer may have been lost.
    same!(rig.commit(fence, go(a, 1)).await?, of(a), "the mail with a commit that is sent again");
    Ok(())
}

pub(super) async fn a_commit_consumes_only_the_mail_it_names(rig: &Rig) -> Verdict {
    let fence = rig.worker().await?;
    let (a, b) = (rig.owned(fence, "a").await?, rig.owned(fence, "b").await?);
    let (first, second, other) = (cancel(a), cancel(a), cancel(b));
    rig.store().post(&[first.clone(), second.clone(), other.clone()]).await?;
    let mut commit = go(a, 1);
    // Naming another saga's mail consumes nothing of it.
    commit.mail = vec![first.id, other.id];
    same!(rig.commit(fence, commit).await?, [second], "what is unread of the saga that consumed");
    holds!(rig.commit(fence, go(b, 1)).await? == [other], "a commit consumed another saga's mail");
    Ok(())
}

pub(super) async fn a_refused_commit_consumes_no_mail(rig: &Rig) -> Verdict {
    let (fence, stranger) = (rig.worker().await?, rig.worker().await?);
    let (a, b) = (rig.owned(fence, "a").await?, rig.owned(stranger, "b").await?);
    let (mine, theirs) = (cancel(a), cancel(b));
    rig.store().post(&[mine.clone(), theirs.clone()]).await?;
    let mut batch = [go(a, 1), go(b, 1)];
    batch[0].mail = vec![mine.id];
    batch[1].mail = vec![theirs.id];
    let replies = rig.store().commit(fence, &batch).await?;
    same!(replies, [CommitReply::Committed { mail: vec![] }, CommitReply::Refused], "one of two");
    same!(rig.commit(stranger, go(b, 1)).await?, [theirs], "the mail of the saga whose commit was refused");
    Ok(())
}

/// A store keeps what others say, and does not read it.
pub(super) async fn mail_that_cannot_be_read_harms_nobody(rig: &Rig) -> Verdict {
    let fence = rig.worker().await?;
    let (a, b) = (rig.owned(fence, "a").await?, rig.owned(fence, "b").await?);
    let (plain, strange) = (cancel(a), newer(b));
    let damaged = Mail { body: r#"{"cancel":{"reas"#.into(), ..cancel(b) };
    let mail = [plain.clone(), strange.clone(), damaged.clone()];
    same!(rig.store().post(&mail).await?, [Posted::Accepted; 3], "mail of three kinds");
    let of_b = vec![strange, damaged];
    let both: Vec<Mail> = std::iter::once(plain.clone()).chain(of_b.clone()).collect();
    same!(rig.claim(fence).await?.mail, both, "the mail of what is owned");
    let replies = rig.store().commit(fence, &[go(a, 1), go(b, 1)]).await?;
    let committed = |mail| CommitReply::Committed { mail };
    same!(replies, [committed(vec![plain]), committed(of_b.clone())], "a batch of both");
    same!(rig.store().load(b).await?.map(|saga| saga.mail), Some(of_b.clone()), "the mail that is loaded");
    let mut pivot = go(b, 2);
    pivot.pivot = true;
    let replies = rig.store().commit(fence, &[pivot]).await?;
    same!(replies, [CommitReply::Unread { mail: of_b }], "a pivot past it");
    Ok(())
}

pub(super) async fn a_saga_with_newer_mail_is_left_to_newer_workers(rig: &Rig) -> Verdict {
    let (fence, dead) = (rig.worker().await?, rig.worker().await?);
    let mut left = Vec::new();
    for (saga, consequence) in [("due", Then::Wait(seconds(-60))), ("blocked", Then::Block)] {
        let run = rig.owned(fence, saga).await?;
        rig.commit(fence, then(run, 1, consequence)).await?;
        left.push(run);
    }
    left.push(rig.unowned("unowned").await?);
    left.push(rig.owned(dead, "orphaned").await?);
    rig.store().fence(dead.worker).await?;
    // Beside mail that every worker reads, too.
    let mail: Vec<Mail> = left.iter().flat_map(|run| [cancel(*run), newer(*run)]).collect();
    rig.store().post(&mail).await?;
    let neighbour = rig.unowned("neighbour").await?;
    same!(runs(&rig.claim(fence).await?), [neighbour], "what a worker is given that cannot read the mail");
    let reads = Claim { reads: MailBody::FORMAT + 1, ..claim(fence, 100) };
    let mut taken = rig.store().claim(&reads).await?.sagas;
    taken.sort_unstable_by_key(|saga| saga.run);
    left.sort_unstable();
    same!(taken.iter().map(|saga| saga.run).collect::<Vec<_>>(), left, "what one is given that can");
    for saga in taken {
        let wanted: Vec<Mail> = mail.iter().filter(|mail| mail.run == saga.run).cloned().collect();
        same!(saga.mail, wanted, "its mail");
        // Read, it is nothing in the way any more.
        let number = u32::try_from(saga.journal.len()).expect("a short journal");
        let mut commit = then(saga.run, number, Then::Wait(seconds(-60)));
        commit.mail = wanted.iter().map(|mail| mail.id).collect();
        rig.commit(fence, commit).await?;
    }
    let mut again = runs(&rig.claim(fence).await?);
    again.sort_unstable();
    same!(again, left, "what any worker is given once the mail was read");
    Ok(())
}

pub(super) async fn unread_mail_is_counted_by_format(rig: &Rig) -> Verdict {
    let fence = rig.worker().await?;
    same!(rig.a.query.unread_mail().await?, [], "the unread mail of nothing");
    let (a, b, c) =
        (rig.owned(fence, "a").await?, rig.owned(fence, "b").await?, rig.owned(fence, "c").await?);
    let read = cancel(c);
    rig.store().post(&[cancel(a), newer(a), cancel(b), cancel(b), read.clone()]).await?;
    let mut commit = go(c, 1);
    commit.mail = vec![read.id];
    rig.commit(fence, commit).await?;
    let count = |format| UnreadMail { format, runs: 1 };
    let wanted = [count(MailBody::FORMAT), count(MailBody::FORMAT + 1)];
    same!(rig.a.query.unread_mail().await?, wanted, "the runs with unread mail");
    rig.commit(fence, end(a, 1)).await?;
    same!(rig.a.query.unread_mail().await?, wanted[..1], "the runs with unread mail after an end");
    Ok(())
}
