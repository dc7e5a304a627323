//! A worker whose epoch was moved on is a zombie: nothing it sends is written.

use super::Verdict;
use super::rig::{
    BEGAN, Rig, body, claim, end, go, holds, is_fenced, join, named, new_worker, runs, same, start, then,
};
use crate::store::{Error, Fence, Peer, Renewal, Then};

pub(super) async fn a_worker_joins_once(rig: &Rig) -> Verdict {
    let worker = new_worker();
    same!(rig.store().join(&worker).await?, Fence { worker: worker.id, epoch: 1 }, "the first epoch");
    for backend in [rig.a.clone(), rig.other().await] {
        let again = backend.store.join(&worker).await;
        holds!(matches!(again, Err(Error::Refused(_))), "joining twice with one id gave {again:?}");
    }
    let renewed = rig.store().renew(Fence { worker: worker.id, epoch: 1 }).await?;
    holds!(matches!(renewed, Renewal::Renewed(_)), "the worker that had joined lost its lease");
    Ok(())
}

pub(super) async fn a_renewal_moves_the_counter_and_tells_of_the_others(rig: &Rig) -> Verdict {
    let other = rig.other().await;
    let (mine, theirs) = (rig.worker().await?, join(&other).await?);
    let seen = async || -> Result<Peer, super::Broken> {
        let Renewal::Renewed(peers) = rig.store().renew(mine).await? else {
            return Err(super::Broken("a worker that lives was fenced".into()));
        };
        match peers.as_slice() {
            [peer] => Ok(peer.clone()),
            _ => Err(super::Broken(format!("one other worker, but the peers are {peers:?}"))),
        }
    };
    let before = seen().await?;
    same!(
        (before.id, before.lease, before.gone),
        (theirs.worker, new_worker().lease, false),
        "the other worker"
    );
    same!(seen().await?.renewals, before.renewals, "the counter of a worker that did not renew");
    other.store.renew(theirs).await?;
    holds!(seen().await?.renewals != before.renewals, "the counter stands still although its worker renewed");
    rig.store().fence(theirs.worker).await?;
    same!(rig.store().renew(mine).await?, Renewal::Renewed(vec![]), "the peers, once the other is drained");
    Ok(())
}

pub(super) async fn a_fenced_worker_cannot_commit(rig: &Rig) -> Verdict {
    let fence = rig.worker().await?;
    let run = rig.owned(fence, "a").await?;
    rig.commit(fence, go(run, 1)).await?;
    rig.other().await.store.fence(fence.worker).await?;
    for commit in [go(run, 2), go(run, 1), end(run, 2), then(run, 2, Then::Block)] {
        let answer = rig.store().commit(fence, &[commit]).await;
        holds!(is_fenced(&answer), "a zombie's commit gave {answer:?}");
    }
    let summary = rig.a.query.summary(run).await?.map(|saga| (saga.state, saga.owner));
    same!(summary, Some((crate::store::State::Running, Some(fence.worker))), "the saga of a zombie");
    rig.journal_is(run, &[BEGAN, &body(1)]).await
}

pub(super) async fn a_fenced_worker_cannot_start(rig: &Rig) -> Verdict {
    let fence = rig.worker().await?;
    rig.store().fence(fence.worker).await?;
    let answer = rig.store().start(Some(fence), &[start("a", true), start("b", false)]).await;
    holds!(is_fenced(&answer), "a zombie's start gave {answer:?}");
    for saga in ["a", "b"] {
        same!(rig.a.query.find(&named("place-order"), saga).await?, None, "the saga that a zombie started");
    }
    Ok(())
}

pub(super) async fn a_fenced_worker_cannot_claim(rig: &Rig) -> Verdict {
    let fence = rig.worker().await?;
    let run = rig.unowned("a").await?;
    rig.store().fence(fence.worker).await?;
    let answer = rig.store().claim(&claim(fence, 10)).await;
    holds!(is_fenced(&answer), "a zombie's claim gave {answer:?}");
    let owner = rig.a.query.summary(run).await?.map(|saga| saga.owner);
    same!(owner, Some(None), "the owner of a saga that a zombie claimed");
    Ok(())
}

pub(super) async fn a_fenced_worker_cannot_renew(rig: &Rig) -> Verdict {
    let fence = rig.worker().await?;
    rig.other().await.store.fence(fence.worker).await?;
    same!(rig.store().renew(fence).await?, Renewal::Fenced, "a zombie's renewal");
    Ok(())
}

pub(super) async fn a_wrong_epoch_is_fenced(rig: &Rig) -> Verdict {
    let fence = rig.worker().await?;
    let run = rig.owned(fence, "a").await?;
    let unknown = Fence { worker: new_worker().id, epoch: 1 };
    for wrong in [Fence { epoch: 0, ..fence }, Fence { epoch: 2, ..fence }, unknown] {
        let store = rig.store();
        holds!(is_fenced(&store.commit(wrong, &[go(run, 1)]).await), "a commit under {wrong:?}");
        holds!(is_fenced(&store.start(Some(wrong), &[start("b", true)]).await), "a start under {wrong:?}");
        holds!(is_fenced(&store.claim(&claim(wrong, 1)).await), "a claim under {wrong:?}");
        same!(store.renew(wrong).await?, Renewal::Fenced, "a renewal under {wrong:?}");
    }
    // None of it touched the worker itself.
    rig.commit(fence, go(run, 1)).await?;
    Ok(())
}

pub(super) async fn fencing_again_changes_nothing(rig: &Rig) -> Verdict {
    let fence = rig.worker().await?;
    let run = rig.owned(fence, "a").await?;
    rig.store().fence(new_worker().id).await?;
    for _ in 0..3 {
        rig.store().fence(fence.worker).await?;
    }
    let heir = rig.worker().await?;
    same!(runs(&rig.claim(heir).await?), [run], "what the heir claims");
    rig.store().fence(fence.worker).await?;
    rig.commit(heir, go(run, 1)).await?;
    Ok(())
}

pub(super) async fn the_sagas_of_a_fenced_worker_are_taken_over_with_its_last_commit(rig: &Rig) -> Verdict {
    let fence = rig.worker().await?;
    let run = rig.owned(fence, "a").await?;
    let ended = rig.owned(fence, "b").await?;
    rig.commit(fence, go(run, 1)).await?;
    rig.commit(fence, end(ended, 1)).await?;
    let other = rig.other().await;
    let heir = join(&other).await?;
    other.store.fence(fence.worker).await?;
    let claimed = other.store.claim(&claim(heir, 10)).await?;
    same!(runs(&claimed), [run], "what is taken over");
    let taken = &claimed.sagas[0];
    same!(taken.owner, Some(heir.worker), "the new owner");
    let bodies: Vec<&str> = taken.journal.iter().map(|row| &*row.body).collect();
    same!(bodies, [BEGAN, &body(1)], "the journal that the heir reads");
    let writers: Vec<_> = taken.journal.iter().map(|row| row.worker).collect();
    same!(writers, [Some(fence.worker); 2], "who wrote it");
    other.store.commit(heir, &[go(run, 2)]).await?;
    same!(other.store.claim(&claim(heir, 10)).await?.sagas, [], "a second claim");
    rig.journal_is(run, &[BEGAN, &body(1), &body(2)]).await
}
