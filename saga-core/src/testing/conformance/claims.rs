//! Ownership comes from nobody, or from a worker that was fenced and drained.

use futures::FutureExt;

use super::rig::{
    Rig, cancel, claim, fingerprint, go, holds, join, runs, same, seconds, start, start_of, then,
};
use super::{Broken, Verdict};
use crate::priority::Priority;
use crate::store::{Claim, Start, State, Then};

pub(super) async fn a_worker_that_lives_keeps_its_sagas(rig: &Rig) -> Verdict {
    let fence = rig.worker().await?;
    let started = rig.owned(fence, "a").await?;
    let unowned = rig.unowned("b").await?;
    same!(runs(&rig.claim(fence).await?), [unowned], "what the first worker claims");
    let other = rig.other().await;
    let stranger = join(&other).await?;
    same!(other.store.claim(&claim(stranger, 10)).await?.sagas, [], "what a second worker claims");
    // Mail for a saga that is owned is its owner's business.
    other.store.post(&[cancel(started)]).await?;
    let claimed = other.store.claim(&claim(stranger, 10)).await?;
    same!((claimed.sagas.len(), claimed.mail.len()), (0, 0), "what a second worker is given after mail");
    rig.commit(fence, go(started, 1)).await?;
    rig.commit(fence, go(unowned, 1)).await?;
    Ok(())
}

pub(super) async fn a_claim_takes_only_definitions_it_has_code_for(rig: &Rig) -> Verdict {
    let fence = rig.worker().await?;
    let known = rig.unowned("a").await?;
    let foreign = start_of("refund", "a", false);
    let lost = start_of("refund", "b", true);
    let dead = rig.worker().await?;
    rig.store().start(Some(dead), &[foreign.clone(), lost.clone()]).await?;
    rig.store().fence(dead.worker).await?;
    rig.store().post(&[cancel(foreign.run)]).await?;
    same!(runs(&rig.claim(fence).await?), [known], "what is claimed by one fingerprint");
    let none = Claim { fingerprints: vec![], ..claim(fence, 10) };
    same!(rig.store().claim(&none).await?.sagas, [], "what is claimed by no fingerprint");
    let both =
        Claim { fingerprints: vec![fingerprint("place-order"), fingerprint("refund")], ..claim(fence, 10) };
    let mut taken = runs(&rig.store().claim(&both).await?);
    taken.sort_unstable();
    let mut wanted = vec![foreign.run, lost.run];
    wanted.sort_unstable();
    same!(taken, wanted, "what is claimed by two fingerprints");
    Ok(())
}

pub(super) async fn a_claim_respects_its_limit_and_takes_the_oldest_due_first(rig: &Rig) -> Verdict {
    let fence = rig.worker().await?;
    let mut wanted = Vec::new();
    for (saga, due) in [("a", -30), ("b", -50), ("c", -10), ("d", -40), ("e", -20)] {
        let run = rig.owned(fence, saga).await?;
        rig.commit(fence, then(run, 1, Then::Wait(seconds(due)))).await?;
        wanted.push((due, run));
    }
    wanted.sort_unstable();
    let wanted: Vec<_> = wanted.into_iter().map(|(_, run)| run).collect();
    for (limit, expected) in
        [(0, &wanted[..0]), (2, &wanted[..2]), (2, &wanted[2..4]), (2, &wanted[4..]), (2, &[])]
    {
        let claimed = rig.store().claim(&claim(fence, limit)).await?;
        same!(runs(&claimed), expected, "a claim of at most {limit}");
    }
    Ok(())
}

pub(super) async fn priority_counts_as_time_in_a_claim(rig: &Rig) -> Verdict {
    let fence = rig.worker().await?;
    let wait = |seconds_ago: i64| Then::Wait(seconds(-seconds_ago));
    // Due so long ago, with this priority: in the order in which they are wanted.
    let wanted = [
        ("old-low", 300, Priority::Low),
        ("older-normal", 130, Priority::Normal),
        ("high", 20, Priority::High),
        ("young-high", 10, Priority::High),
        ("normal", 60, Priority::Normal),
        ("low", 110, Priority::Low),
        ("young-low", 100, Priority::Low),
    ];
    let mut runs_wanted = Vec::new();
    for (saga, ago, priority) in wanted {
        let start = Start { priority, ..start(saga, true) };
        rig.store().start(Some(fence), std::slice::from_ref(&start)).await?;
        rig.commit(fence, then(start.run, 1, wait(ago))).await?;
        let seen = rig.a.query.summary(start.run).await?.map(|saga| saga.priority);
        same!(seen, Some(priority), "the priority of {saga}");
        runs_wanted.push(start.run);
    }
    for (index, wanted) in runs_wanted.chunks(3).enumerate() {
        let claimed = rig.store().claim(&claim(fence, 3)).await?;
        same!(runs(&claimed), wanted, "claim {index} of at most 3");
        let high = claimed.sagas.iter().filter(|saga| saga.priority == Priority::High).count();
        same!(high, [1, 1, 0][index], "how many of claim {index} are told to be of high priority");
    }
    Ok(())
}

pub(super) async fn a_waiting_saga_is_not_claimed_before_it_is_due(rig: &Rig) -> Verdict {
    let fence = rig.worker().await?;
    let run = rig.owned(fence, "a").await?;
    rig.commit(fence, then(run, 1, Then::Wait(seconds(3600)))).await?;
    same!(rig.claim(fence).await?.sagas, [], "what is claimed an hour early");
    Ok(())
}

pub(super) async fn a_waiting_saga_is_claimed_once_due(rig: &Rig) -> Verdict {
    let fence = rig.worker().await?;
    let run = rig.owned(fence, "a").await?;
    rig.commit(fence, then(run, 1, Then::Wait(seconds(-1)))).await?;
    let claimed = rig.claim(fence).await?;
    same!(runs(&claimed), [run], "what is claimed");
    same!(claimed.sagas[0].journal.len(), 2, "the length of its journal");
    let summary = rig.a.query.summary(run).await?.map(|saga| (saga.state, saga.owner, saga.due));
    same!(summary, Some((State::Running, Some(fence.worker), None)), "its state, owner and due time");
    rig.commit(fence, go(run, 2)).await?;
    Ok(())
}

pub(super) async fn mail_wakes_a_waiting_saga(rig: &Rig) -> Verdict {
    let fence = rig.worker().await?;
    let run = rig.owned(fence, "a").await?;
    rig.commit(fence, then(run, 1, Then::Wait(seconds(3600)))).await?;
    let mail = cancel(run);
    rig.store().post(std::slice::from_ref(&mail)).await?;
    let claimed = rig.claim(fence).await?;
    same!(runs(&claimed), [run], "what is claimed after mail");
    same!(claimed.sagas[0].mail, [mail], "the mail that comes with it");
    Ok(())
}

pub(super) async fn only_mail_wakes_a_blocked_saga(rig: &Rig) -> Verdict {
    let fence = rig.worker().await?;
    let run = rig.owned(fence, "a").await?;
    rig.commit(fence, then(run, 1, Then::Block)).await?;
    same!(rig.claim(fence).await?.sagas, [], "what is claimed while it is blocked");
    rig.store().post(&[cancel(run)]).await?;
    same!(runs(&rig.claim(fence).await?), [run], "what is claimed after mail");
    Ok(())
}

pub(super) async fn a_claim_gives_unread_mail(rig: &Rig) -> Verdict {
    let fence = rig.worker().await?;
    let (owned, waiting) = (rig.owned(fence, "a").await?, rig.unowned("b").await?);
    let (first, second) = (cancel(owned), cancel(waiting));
    rig.other().await.store.post(&[first.clone(), second.clone()]).await?;
    let claimed = rig.claim(fence).await?;
    same!(claimed.mail, std::slice::from_ref(&first), "the mail of sagas that were owned before");
    same!(runs(&claimed), [waiting], "what is claimed");
    same!(claimed.sagas[0].mail, std::slice::from_ref(&second), "the mail of what is claimed");
    let mut again = rig.claim(fence).await?.mail;
    again.sort_unstable_by_key(|mail| mail.id);
    same!(again, [first, second], "the mail, until it is consumed");
    Ok(())
}

pub(super) async fn a_claim_that_nobody_heard_of_is_given_again(rig: &Rig) -> Verdict {
    let fence = rig.worker().await?;
    let starts: Vec<_> = (0..40).map(|i| start(&format!("{i}"), false)).collect();
    rig.store().start(None, &starts).await?;
    let mut heard = Vec::new();
    let asked = claim(fence, 4);
    // Some futures are dropped at their first wait: the work goes on, the answer has nobody to go to.
    for _ in 0..40 {
        if let Some(claimed) = rig.store().claim(&asked).now_or_never() {
            heard.extend(runs(&claimed?));
        }
        tokio::task::yield_now().await;
        let claimed = rig.store().claim(&asked).await?;
        heard.extend(runs(&claimed));
        if heard.len() >= starts.len() {
            break;
        }
    }
    heard.sort_unstable();
    let mut wanted: Vec<_> = starts.iter().map(|start| start.run).collect();
    wanted.sort_unstable();
    if heard != wanted {
        return Err(Broken(format!("of {} sagas the worker heard {} times", wanted.len(), heard.len())));
    }
    holds!(rig.claim(fence).await?.sagas.is_empty(), "a saga that was heard of came again");
    Ok(())
}
