//! Of all sagas that were started under one key, one is under way at a time.

use super::rig::{
    BEGAN, Rig, cancel, claim, end, go, holds, join, named, newer, runs, same, seconds, start, start_of, then,
};
use super::{Broken, Verdict};
use crate::id::{Key, RunId};
use crate::journal::{EndKind, MailBody, Timestamp};
use crate::store::{Claim, Commit, Fence, Keyed, Start, StartReply, State, Summary, Then};

/// What an owned start has in its first commit, and one that nobody owns has not.
const STARTED: &str = r#"["began","started"]"#;

fn keyed(saga: &str, key: &str, owned: bool) -> Start {
    let key = Keyed { key: named_key(key), until: None, began: BEGAN.into() };
    let body = if owned { STARTED } else { BEGAN };
    Start { key: Some(key), body: body.into(), ..start(saga, owned) }
}

fn until(start: Start, until: Timestamp) -> Start {
    let key = start.key.map(|keyed| Keyed { until: Some(until), ..keyed });
    Start { key, ..start }
}

fn named_key(key: &str) -> Key {
    Key::new(key).expect("the cases use good keys")
}

/// A commit of a saga that was started under a key.
fn under(key: &str, commit: Commit) -> Commit {
    Commit { key: Some(named_key(key)), ..commit }
}

impl Rig {
    async fn starts(&self, fence: Option<Fence>, start: &Start) -> Result<StartReply, Broken> {
        let mut replies = self.store().start(fence, std::slice::from_ref(start)).await?;
        holds!(replies.len() == 1, "one start has {} replies", replies.len());
        Ok(replies.remove(0))
    }

    async fn seen(&self, run: RunId) -> Result<Summary, Broken> {
        self.a.query.summary(run).await?.ok_or_else(|| Broken(format!("run {run} is gone")))
    }

    /// Fails where a run does not wait for a key that `holder` has.
    async fn waits_for(&self, run: RunId, holder: RunId) -> Result<(), Broken> {
        let seen = self.seen(run).await?;
        let found = (seen.state, seen.owner, seen.key_held_by);
        same!(found, (State::Queued, None, Some(holder)), "state, owner, and holder of its key");
        Ok(())
    }
}

pub(super) async fn a_key_is_held_by_one_saga(rig: &Rig) -> Verdict {
    let fence = rig.worker().await?;
    let all: Vec<Start> = ["a", "b", "c"].map(|saga| keyed(saga, "k", false)).into();
    rig.store().start(None, &all).await?;
    same!(rig.seen(all[0].run).await?.state, State::Queued, "the state before any claim");
    let taken = runs(&rig.claim(fence).await?);
    same!(taken.len(), 1, "how many sagas of one key are claimed");
    same!(rig.claim(fence).await?.sagas, [], "what is claimed while it is held");
    let other = join(&rig.other().await).await?;
    same!(rig.claim(other).await?.sagas, [], "what another worker claims while it is held");
    let holder = rig.seen(taken[0]).await?;
    same!(
        (holder.state, holder.key.clone()),
        (State::Running, Some(named_key("k"))),
        "state and key of the holder"
    );
    same!(holder.key_held_by, None, "who holds the holder's key");
    for start in all.iter().filter(|start| start.run != taken[0]) {
        rig.waits_for(start.run, taken[0]).await?;
    }
    // Waiting and blocked, and claimed again, it holds its key as well.
    rig.commit(fence, under("k", then(taken[0], 1, Then::Wait(seconds(3600))))).await?;
    same!(rig.claim(fence).await?.sagas, [], "what is claimed while the holder waits");
    let mail = cancel(taken[0]);
    rig.store().post(std::slice::from_ref(&mail)).await?;
    same!(runs(&rig.claim(fence).await?), taken, "what is claimed once the holder has mail");
    let blocks = Commit { mail: vec![mail.id], ..under("k", then(taken[0], 2, Then::Block)) };
    rig.commit(fence, blocks).await?;
    same!(rig.claim(other).await?.sagas, [], "what is claimed while the holder is blocked");
    Ok(())
}

pub(super) async fn an_end_gives_its_key_to_the_next_in_order(rig: &Rig) -> Verdict {
    let fence = rig.worker().await?;
    let mut wanted = Vec::new();
    for saga in ["a", "b", "c", "d"] {
        let start = keyed(saga, "k", false);
        rig.starts(None, &start).await?;
        let claimed = rig.claim(fence).await?;
        same!(
            runs(&claimed),
            if wanted.is_empty() { vec![start.run] } else { vec![] },
            "what {saga}'s start gives"
        );
        holds!(claimed.sagas.iter().all(|saga| !saga.queued), "a saga that holds its key is called queued");
        wanted.push(start.run);
    }
    for (index, run) in wanted.iter().enumerate() {
        let kind = [EndKind::Completed, EndKind::Compensated, EndKind::PartiallyCompensated][index % 3];
        rig.commit(fence, under("k", then(*run, 1, Then::End(kind)))).await?;
        same!(rig.seen(*run).await?.key_held_by, None, "who holds the key of a saga that ended");
        let next = wanted.get(index + 1).copied();
        same!(
            runs(&rig.claim(fence).await?),
            next.into_iter().collect::<Vec<_>>(),
            "what is claimed after end {index}"
        );
        same!(rig.claim(fence).await?.sagas, [], "what is claimed besides");
    }
    let later = keyed("e", "k", true);
    same!(
        rig.starts(Some(fence), &later).await?,
        StartReply::Started,
        "an owned start under a key that is free again"
    );
    Ok(())
}

pub(super) async fn an_owned_start_takes_a_free_key_only(rig: &Rig) -> Verdict {
    let fence = rig.worker().await?;
    let (first, second) = (keyed("a", "k", true), keyed("b", "k", true));
    same!(rig.starts(Some(fence), &first).await?, StartReply::Started, "an owned start under a free key");
    same!(rig.seen(first.run).await?.owner, Some(fence.worker), "its owner");
    rig.journal_is(first.run, &[STARTED]).await?;
    same!(
        rig.starts(Some(fence), &second).await?,
        StartReply::Queued,
        "an owned start under a key that is held"
    );
    rig.journal_is(second.run, &[BEGAN]).await?;
    rig.waits_for(second.run, first.run).await?;
    // Sent again, each is answered as it was; also once the second has become its worker's.
    same!(rig.starts(Some(fence), &first).await?, StartReply::Started, "the first, sent again");
    same!(rig.starts(Some(fence), &second).await?, StartReply::Queued, "the second, sent again");
    rig.commit(fence, under("k", end(first.run, 1))).await?;
    // Nobody overtakes whoever waits, in a batch of its own or of many.
    let batch =
        [keyed("c", "k", true), keyed("d", "other", true), keyed("e", "other", true), start("f", true)];
    let replies = rig.store().start(Some(fence), &batch).await?;
    let wanted = [StartReply::Queued, StartReply::Started, StartReply::Queued, StartReply::Started];
    same!(replies, wanted, "a batch of owned starts");
    same!(runs(&rig.claim(fence).await?), [second.run], "what is claimed");
    same!(
        rig.starts(Some(fence), &second).await?,
        StartReply::Queued,
        "the second, sent again when it is owned"
    );
    let taken = Start { run: RunId::new(), ..keyed("a", "free", true) };
    let reply = rig.starts(Some(fence), &taken).await?;
    holds!(matches!(reply, StartReply::Exists { .. }), "an id that is taken is {reply:?}");
    same!(
        rig.starts(Some(fence), &keyed("g", "free", true)).await?,
        StartReply::Started,
        "a key that a refused start named"
    );
    Ok(())
}

pub(super) async fn a_key_outlives_the_worker_of_its_saga(rig: &Rig) -> Verdict {
    let (dead, heir) = (rig.worker().await?, rig.worker().await?);
    let (first, second) = (keyed("a", "k", true), keyed("b", "k", false));
    rig.starts(Some(dead), &first).await?;
    rig.starts(None, &second).await?;
    same!(rig.claim(heir).await?.sagas, [], "what is claimed while the holder's worker lives");
    rig.store().fence(dead.worker).await?;
    same!(runs(&rig.claim(heir).await?), [first.run], "what is claimed once it is fenced");
    let late = rig.store().commit(dead, &[under("k", end(first.run, 1))]).await;
    holds!(super::rig::is_fenced(&late), "a zombie's end is {late:?}");
    same!(rig.claim(heir).await?.sagas, [], "what a zombie's end sets free");
    rig.refuses(heir, under("k", end(first.run, 2)), "an end that is not the next commit").await?;
    same!(rig.claim(heir).await?.sagas, [], "what a refused end sets free");
    rig.commit(heir, under("k", end(first.run, 1))).await?;
    same!(runs(&rig.claim(heir).await?), [second.run], "what the end sets free");
    // Sent again, because its answer was lost, it frees nothing that another holds.
    rig.commit(heir, under("k", end(first.run, 1))).await?;
    rig.starts(None, &keyed("c", "k", false)).await?;
    same!(rig.claim(heir).await?.sagas, [], "what an end that is sent again sets free");
    Ok(())
}

pub(super) async fn mail_reaches_a_saga_that_waits_for_its_key(rig: &Rig) -> Verdict {
    let fence = rig.worker().await?;
    let (first, second, third) = (keyed("a", "k", true), keyed("b", "k", false), keyed("c", "k", false));
    rig.starts(Some(fence), &first).await?;
    rig.starts(None, &second).await?;
    same!(rig.claim(fence).await?.sagas, [], "what is claimed while the key is held");
    rig.starts(None, &third).await?;
    let (told, other) = (cancel(second.run), cancel(third.run));
    // The one was seen by a claim, the other was not.
    rig.store().post(&[told.clone(), other.clone()]).await?;
    let claimed = rig.claim(fence).await?;
    let mut given: Vec<_> =
        claimed.sagas.iter().map(|saga| (saga.run, saga.queued, saga.mail.len())).collect();
    given.sort_unstable();
    let mut wanted = vec![(second.run, true, 1), (third.run, true, 1)];
    wanted.sort_unstable();
    same!(given, wanted, "what is claimed for its mail, without the key");
    // The one is given up again, and waits on; the other ends, which frees nothing.
    let read = Commit { mail: vec![told.id], ..under("k", then(second.run, 1, Then::Queue)) };
    rig.commit(fence, read).await?;
    let over = Commit { mail: vec![other.id], ..under("k", end(third.run, 1)) };
    rig.commit(fence, over).await?;
    rig.waits_for(second.run, first.run).await?;
    same!(rig.claim(fence).await?.sagas, [], "what is claimed after the mail was read");
    rig.commit(fence, under("k", end(first.run, 1))).await?;
    let claimed = rig.claim(fence).await?;
    same!(runs(&claimed), [second.run], "what has the next turn");
    holds!(!claimed.sagas[0].queued, "a saga that holds its key is called queued");
    rig.commit(fence, under("k", end(second.run, 2))).await?;
    same!(
        rig.starts(Some(fence), &keyed("d", "k", true)).await?,
        StartReply::Started,
        "a start when all have ended"
    );
    Ok(())
}

pub(super) async fn a_deadline_reaches_a_saga_that_waits_for_its_key(rig: &Rig) -> Verdict {
    let (dead, fence) = (rig.worker().await?, rig.worker().await?);
    let first = keyed("a", "k", true);
    rig.starts(Some(fence), &first).await?;
    let late = until(keyed("b", "k", false), seconds(-1));
    let patient = until(keyed("c", "k", false), seconds(3600));
    rig.store().start(None, &[late.clone(), patient]).await?;
    let claimed = rig.store().claim(&claim(dead, 10)).await?;
    same!(runs(&claimed), [late.run], "what is claimed when its deadline has passed");
    holds!(claimed.sagas[0].queued, "a saga without its key is not called queued");
    // Its worker dies; whoever takes over is told so as well.
    rig.store().fence(dead.worker).await?;
    let claimed = rig.claim(fence).await?;
    same!(runs(&claimed), [late.run], "what is taken over");
    holds!(claimed.sagas[0].queued, "a saga that was taken over without its key is not called queued");
    rig.commit(fence, under("k", end(late.run, 1))).await?;
    same!(rig.claim(fence).await?.sagas, [], "what its end sets free");
    Ok(())
}

pub(super) async fn a_key_is_not_given_to_a_saga_that_nobody_here_can_drive(rig: &Rig) -> Verdict {
    let fence = rig.worker().await?;
    let foreign = Start { key: keyed("a", "k", false).key, ..start_of("refund", "a", false) };
    let known = keyed("a", "k", false);
    rig.starts(None, &foreign).await?;
    rig.starts(None, &known).await?;
    same!(runs(&rig.claim(fence).await?), [known.run], "what is claimed by one fingerprint");
    rig.commit(fence, under("k", end(known.run, 1))).await?;
    same!(rig.claim(fence).await?.sagas, [], "what is claimed by one fingerprint afterwards");
    let refunds = Claim { fingerprints: vec![foreign.fingerprint], ..claim(fence, 10) };
    same!(runs(&rig.store().claim(&refunds).await?), [foreign.run], "what is claimed by the other");
    same!(
        rig.a.query.find(&named("refund"), "a").await?.and_then(|saga| saga.key),
        Some(named_key("k")),
        "its key"
    );
    Ok(())
}

pub(super) async fn a_key_is_not_given_to_a_saga_with_newer_mail(rig: &Rig) -> Verdict {
    let fence = rig.worker().await?;
    let (first, second) = (keyed("a", "k", false), keyed("b", "k", false));
    rig.starts(None, &first).await?;
    rig.starts(None, &second).await?;
    rig.store().post(&[newer(first.run)]).await?;
    same!(runs(&rig.claim(fence).await?), [second.run], "what is given the key beside newer mail");
    rig.commit(fence, under("k", end(second.run, 1))).await?;
    same!(rig.claim(fence).await?.sagas, [], "what is given the key afterwards");
    let reads = Claim { reads: MailBody::FORMAT + 1, ..claim(fence, 10) };
    same!(runs(&rig.store().claim(&reads).await?), [first.run], "what is given the key by one that reads it");
    Ok(())
}

pub(super) async fn keys_exclude_also_in_a_race(rig: &Rig) -> Verdict {
    let keys = ["k", "l", "m"];
    let mut workers = Vec::new();
    for _ in 0..3 {
        let backend = rig.other().await;
        workers.push((backend.clone(), join(&backend).await?));
    }
    // Each worker starts, claims and ends what it is given, beside the others.
    let each = workers.iter().enumerate().map(async |(number, (backend, fence))| {
        let mut ended = 0;
        for round in 0..40 {
            let key = keys[round % keys.len()];
            let start = keyed(&format!("{number}/{round}"), key, round % 2 == 0);
            let mut mine = Vec::new();
            if backend.store.start(Some(*fence), std::slice::from_ref(&start)).await? == [StartReply::Started]
                && start.owned
            {
                mine.push((start.run, Key::new(key).expect("a good key")));
            }
            let claimed = backend.store.claim(&claim(*fence, 10)).await?.sagas;
            mine.extend(claimed.into_iter().filter_map(|saga| Some((saga.run, saga.key?))));
            for (run, key) in mine {
                // Whoever has it now has had it alone since the last end.
                backend.store.commit(*fence, &[Commit { key: Some(key.clone()), ..go(run, 1) }]).await?;
                let held = held(backend, &key).await?;
                holds!(held == [run], "{run} is under way, and so are {held:?}");
                backend.store.commit(*fence, &[Commit { key: Some(key), ..end(run, 2) }]).await?;
                ended += 1;
            }
        }
        Ok::<usize, Broken>(ended)
    });
    let mut ended = futures::future::try_join_all(each).await?.into_iter().sum::<usize>();
    // Nothing is left behind, although everybody has gone home.
    for _ in 0..200 {
        let (backend, fence) = &workers[0];
        for saga in backend.store.claim(&claim(*fence, 10)).await?.sagas {
            ended += 1;
            backend.store.commit(*fence, &[Commit { key: saga.key, ..end(saga.run, 1) }]).await?;
        }
        if ended == 120 {
            return Ok(());
        }
    }
    Err(Broken(format!("of 120 sagas {ended} had their turn")))
}

/// The sagas that are under way under a key.
async fn held(backend: &crate::store::Backend, key: &Key) -> Result<Vec<RunId>, Broken> {
    let filter = crate::store::Filter { state: Some(State::Running), limit: 1000, ..Default::default() };
    let running = backend.query.list(&filter).await?;
    Ok(running.into_iter().filter(|saga| saga.key.as_ref() == Some(key)).map(|saga| saga.run).collect())
}
