//! What happens at once: several handles, several tasks, and a worker that is fenced while it writes.

use std::collections::{BTreeMap, HashMap};

use futures::future::{join_all, try_join_all};

use super::rig::{BEGAN, Rig, claim, go, holds, join, runs, same, start};
use super::{Broken, Verdict};
use crate::id::RunId;
use crate::store::{Backend, CommitReply, Error, Fence, JournalRow, StartReply};

/// How many commits a zombie tries before its store is said to have no fence.
const COMMITS_MAX: u32 = 20_000;

/// Handles that race, each as a process of its own.
const HANDLES: usize = 3;

async fn handles(rig: &Rig) -> Vec<Backend> {
    join_all((0..HANDLES).map(|_| rig.other())).await
}

pub(super) async fn starts_of_one_id_at_once_make_one_saga(rig: &Rig) -> Verdict {
    let handles = handles(rig).await;
    for round in 0..20 {
        let saga = format!("{round}");
        let tasks = handles.iter().flat_map(|handle| [handle.clone(), handle.clone()]).map(|handle| {
            // Each also starts a saga of its own, so that the batches are of several.
            let batch = [start(&saga, false), start(&RunId::new().to_string(), false)];
            tokio::spawn(async move { (batch[0].run, handle.store.start(None, &batch).await) })
        });
        let mut winners = Vec::new();
        let mut told = Vec::new();
        for answer in join_all(tasks).await {
            let (run, replies) = answer.map_err(|e| Broken(format!("the store panicked: {e}")))?;
            let replies = replies?;
            same!(replies.get(1), Some(&StartReply::Started), "a saga that nobody else starts");
            match replies.first() {
                Some(StartReply::Started) => winners.push(run),
                Some(StartReply::Exists { run, .. }) => told.push(*run),
                other => return Err(Broken(format!("a start without a key is answered {other:?}"))),
            }
        }
        same!(winners.len(), 1, "the winners of round {round}");
        holds!(told.iter().all(|run| *run == winners[0]), "{winners:?} won, the others were told {told:?}");
    }
    Ok(())
}

pub(super) async fn claims_at_once_take_each_saga_once(rig: &Rig) -> Verdict {
    let starts: Vec<_> = (0..120).map(|i| start(&format!("{i}"), false)).collect();
    rig.store().start(None, &starts).await?;
    let tasks = handles(rig).await.into_iter().map(|handle| {
        tokio::spawn(async move {
            let fence = join(&handle).await?;
            let mut taken = Vec::new();
            // Twice as many as there can be to take.
            for _ in 0..240 {
                let claimed = handle.store.claim(&claim(fence, 7)).await?;
                if claimed.sagas.is_empty() {
                    break;
                }
                for saga in &claimed.sagas {
                    same!(saga.owner, Some(fence.worker), "the owner of what was claimed");
                }
                let written: Vec<_> = claimed.sagas.iter().map(|saga| go(saga.run, 1)).collect();
                let replies = handle.store.commit(fence, &written).await?;
                holds!(
                    !replies.contains(&CommitReply::Refused),
                    "the commit of a saga that was just claimed"
                );
                taken.extend(runs(&claimed));
            }
            Ok::<_, Broken>(taken)
        })
    });
    let mut taken = Vec::new();
    for task in join_all(tasks).await {
        taken.extend(task.map_err(|e| Broken(format!("the store panicked: {e}")))??);
    }
    // `SKIP LOCKED` may leave some to the next claim.
    let fence = rig.worker().await?;
    taken.extend(runs(&rig.claim(fence).await?));
    taken.sort_unstable();
    let mut wanted: Vec<_> = starts.iter().map(|start| start.run).collect();
    wanted.sort_unstable();
    holds!(taken == wanted, "of {} sagas, {} were taken", wanted.len(), taken.len());
    Ok(())
}

pub(super) async fn commits_at_once_are_all_kept(rig: &Rig) -> Verdict {
    let tasks = handles(rig).await.into_iter().enumerate().map(|(index, handle)| {
        tokio::spawn(async move {
            let fence = join(&handle).await?;
            let lanes = (0..4).map(|lane| write(&handle, fence, format!("{index} {lane}"), 6, 15));
            Ok::<_, Broken>(try_join_all(lanes).await?.concat())
        })
    });
    for task in join_all(tasks).await {
        for run in task.map_err(|e| Broken(format!("the store panicked: {e}")))?? {
            same!(rig.a.query.journal(run).await?.len(), 16, "the length of a journal");
        }
    }
    Ok(())
}

/// Starts sagas, and commits so many rounds of batches for all of them.
async fn write(
    handle: &Backend,
    fence: Fence,
    name: String,
    sagas: u32,
    rounds: u32,
) -> Result<Vec<RunId>, Broken> {
    let starts: Vec<_> = (0..sagas).map(|i| start(&format!("{name} {i}"), true)).collect();
    let replies = handle.store.start(Some(fence), &starts).await?;
    holds!(replies.iter().all(|reply| *reply == StartReply::Started), "a start under a new id");
    for number in 1..=rounds {
        let batch: Vec<_> = starts.iter().map(|start| go(start.run, number)).collect();
        let replies = handle.store.commit(fence, &batch).await?;
        holds!(!replies.contains(&CommitReply::Refused), "a commit of the owner");
    }
    Ok(starts.iter().map(|start| start.run).collect())
}

/// While a worker writes as fast as it can, another fences it and reads its sagas. From then on their
/// journals must not change, and they must hold all that the zombie was told is durable.
pub(super) async fn a_fence_waits_for_what_is_in_flight(rig: &Rig) -> Verdict {
    const LANES: usize = 4;
    let (zombie, heir) = (rig.other().await, rig.other().await);
    for round in 0..12 {
        let fence = join(&zombie).await?;
        let lanes: Vec<Vec<RunId>> =
            try_join_all((0..LANES).map(|lane| write(&zombie, fence, format!("{round} {lane}"), 3, 1)))
                .await?;
        let writers: Vec<_> = lanes
            .iter()
            .map(|lane| tokio::spawn(until_fenced(zombie.clone(), fence, lane.clone())))
            .collect();
        // Let it get going: some of its batches are answered, some are under way.
        while heir.query.journal(lanes[0][0]).await?.len() < 4 + round % 3 && !writers[0].is_finished() {
            tokio::task::yield_now().await;
        }
        // And a little more, differently in each round, so that it is met at another point.
        for _ in 0..round {
            tokio::task::yield_now().await;
        }
        heir.store.fence(fence.worker).await?;
        let seen = journals(&heir, &lanes).await?;
        let mut told: BTreeMap<RunId, u32> = BTreeMap::new();
        for writer in join_all(writers).await {
            told.extend(writer.map_err(|e| Broken(format!("the store panicked: {e}")))??);
        }
        let later = journals(&heir, &lanes).await?;
        for (run, rows) in &seen {
            same!(
                later[run].len(),
                rows.len(),
                "a zombie's commit arrived after it was drained: the journal"
            );
            let last = told[run] as usize;
            holds!(rows.len() > last, "commit {last} was answered, but the heir saw {} rows", rows.len());
            same!(&*rows[0].body, BEGAN, "the first row");
        }
    }
    Ok(())
}

async fn journals(handle: &Backend, lanes: &[Vec<RunId>]) -> Result<HashMap<RunId, Vec<JournalRow>>, Broken> {
    let mut journals = HashMap::new();
    for run in lanes.iter().flatten() {
        journals.insert(*run, handle.query.journal(*run).await?);
    }
    Ok(journals)
}

/// Commits until the store says that the worker was fenced; tells the last number that was durable.
async fn until_fenced(handle: Backend, fence: Fence, runs: Vec<RunId>) -> Result<Vec<(RunId, u32)>, Broken> {
    for number in 2..COMMITS_MAX {
        // A store that never waits would leave no turn to the worker that fences this one.
        tokio::task::yield_now().await;
        let batch: Vec<_> = runs.iter().map(|run| go(*run, number)).collect();
        match handle.store.commit(fence, &batch).await {
            Ok(replies) => holds!(!replies.contains(&CommitReply::Refused), "a commit of the owner"),
            Err(Error::Fenced) => return Ok(runs.into_iter().map(|run| (run, number - 1)).collect()),
            Err(other) => return Err(other.into()),
        }
    }
    Err(Broken(format!("a worker that was being fenced could write {COMMITS_MAX} commits")))
}
