//! What operators and clients ask.

use super::Verdict;
use super::rig::{Rig, end, fingerprint, go, holds, join, named, same, seconds, start_of, then};
use crate::attributes::Attributes;
use crate::error_id::ErrorId;
use crate::id::{Name, RunId, WorkerId};
use crate::journal::EndKind;
use crate::saga::Definition;
use crate::store::{Commit, Counts, Fence, Filter, LastError, Manifest, Start, StartReply, State, Then};

pub(super) async fn a_saga_is_found_in_every_state(rig: &Rig) -> Verdict {
    let fence = rig.worker().await?;
    let run = rig.owned(fence, "a").await?;
    let definition = named("place-order");
    let due = seconds(-1);
    let steps = [
        (None, State::Running, Some(fence.worker), None),
        (Some(Then::Wait(due)), State::Waiting, None, Some(due)),
        (Some(Then::Block), State::Blocked, None, None),
        (
            Some(Then::End(EndKind::PartiallyCompensated)),
            State::Ended(EndKind::PartiallyCompensated),
            None,
            None,
        ),
    ];
    let mut since = None;
    for (number, (consequence, state, owner, due)) in (0..).zip(steps) {
        if let Some(consequence) = consequence {
            if number > 1 {
                rig.store().post(&[super::rig::cancel(run)]).await?;
                holds!(rig.claim(fence).await?.sagas.len() == 1, "a saga with mail was not claimed");
            }
            rig.commit(fence, then(run, number, consequence)).await?;
        }
        let Some(found) = rig.a.query.find(&definition, "a").await? else {
            return Err(super::Broken(format!("a saga that is {state:?} is not found by its id")));
        };
        same!(rig.a.query.summary(run).await?.as_ref(), Some(&found), "the summary by run");
        same!(rig.a.query.list(&Filter::default()).await?, std::slice::from_ref(&found), "the list");
        same!(
            (found.run, found.state, found.owner, found.due),
            (run, state, owner, due),
            "a saga that is {state:?}"
        );
        same!((&found.definition, found.version), (&definition, 3), "its definition");
        same!((found.fingerprint, found.digest), (fingerprint("place-order"), [7; 32]), "its digests");
        holds!(since.is_none_or(|since| since <= found.since), "a state began before the one before it");
        since = Some(found.since);
    }
    Ok(())
}

pub(super) async fn a_list_is_filtered_and_paged(rig: &Rig) -> Verdict {
    let fence = rig.worker().await?;
    let mut all: Vec<(RunId, Name, State)> = Vec::new();
    for index in 0..23 {
        let definition = if index % 3 == 0 { "refund" } else { "place-order" };
        let start = start_of(definition, &format!("{index}"), true);
        rig.store().start(Some(fence), std::slice::from_ref(&start)).await?;
        let (consequence, state) = match index % 5 {
            0 => (Then::Block, State::Blocked),
            1 => (Then::End(EndKind::Completed), State::Ended(EndKind::Completed)),
            2 => (Then::End(EndKind::Compensated), State::Ended(EndKind::Compensated)),
            3 => (Then::Wait(seconds(60)), State::Waiting),
            _ => (Then::Go, State::Running),
        };
        rig.commit(fence, then(start.run, 1, consequence)).await?;
        all.push((start.run, start.definition, state));
    }
    all.sort_unstable_by_key(|(run, ..)| std::cmp::Reverse(*run));
    let states = [None, Some(State::Blocked), Some(State::Waiting), Some(State::Running)].into_iter().chain(
        [EndKind::Completed, EndKind::Compensated, EndKind::PartiallyCompensated]
            .map(|end| Some(State::Ended(end))),
    );
    for state in states {
        for definition in [None, Some(named("refund")), Some(named("nothing"))] {
            let wanted: Vec<RunId> = all
                .iter()
                .filter(|(_, name, _)| definition.as_ref().is_none_or(|definition| definition == name))
                .filter(|(.., found)| state.is_none_or(|state| state == *found))
                .map(|(run, ..)| *run)
                .collect();
            for limit in [0, 1, 2, 7, 23] {
                let mut filter = Filter { definition: definition.clone(), state, limit, ..Filter::default() };
                let mut listed = Vec::new();
                loop {
                    let page = rig.a.query.list(&filter).await?;
                    holds!(limit == 0 || page.len() <= limit, "a page of {limit} holds {}", page.len());
                    let Some(last) = page.last() else { break };
                    filter.before = Some(last.run);
                    listed.extend(page.iter().map(|saga| saga.run));
                    holds!(listed.len() <= all.len(), "pages of {limit} repeat themselves");
                }
                same!(listed, wanted, "pages of {limit} with {state:?} and {definition:?}");
            }
        }
    }
    for (newest, oldest) in [(0, 0), (0, 7), (5, 11), (5, 5)] {
        let before = (newest > 0).then(|| all[newest - 1].0);
        let filter = Filter { before, from: Some(all[oldest].0), ..Filter::default() };
        let listed: Vec<_> = rig.a.query.list(&filter).await?.iter().map(|saga| saga.run).collect();
        let wanted: Vec<_> = all[newest..=oldest].iter().map(|(run, ..)| *run).collect();
        same!(listed, wanted, "those from one to another");
        let stretch = oldest - newest + 1;
        same!(rig.a.query.nth_before(before, stretch).await?, Some(all[oldest].0), "where a stretch begins");
    }
    same!(rig.a.query.nth_before(None, all.len()).await?, all.last().map(|(run, ..)| *run), "the oldest");
    same!(rig.a.query.nth_before(None, all.len() + 1).await?, None, "one before the oldest");
    Ok(())
}

pub(super) async fn a_list_is_filtered_by_attributes(rig: &Rig) -> Verdict {
    let fence = rig.worker().await?;
    let attributes = |pairs: &[(&str, &str)]| {
        let mut attributes = Attributes::default();
        for (name, value) in pairs {
            attributes.set(name, *value).expect("the cases use good attributes");
        }
        attributes
    };
    let mut all = Vec::new();
    for index in 0..24_u32 {
        let (customer, channel) = ((index % 4).to_string(), if index % 3 == 0 { "web" } else { "shop" });
        let attributes = match index % 6 {
            5 => Attributes::default(),
            _ => attributes(&[("customer", &customer), ("channel", channel)]),
        };
        let start = Start { attributes, ..start_of("place-order", &format!("{index}"), index % 2 == 0) };
        let fence = (index % 2 == 0).then_some(fence);
        same!(
            rig.store().start(fence, std::slice::from_ref(&start)).await?,
            [StartReply::Started],
            "a start"
        );
        if index % 8 == 0 {
            rig.commit(fence.unwrap_or(Fence { worker: WorkerId::new(), epoch: 0 }), end(start.run, 1))
                .await?;
        }
        // Sent again, it changes nothing; under a taken id it leaves nothing.
        rig.store().start(fence, std::slice::from_ref(&start)).await?;
        rig.store().start(fence, &[Start { run: RunId::new(), ..start.clone() }]).await?;
        all.push((start.run, start.attributes));
    }
    all.sort_unstable_by_key(|(run, _)| std::cmp::Reverse(*run));
    for wanted in [
        attributes(&[]),
        attributes(&[("customer", "1")]),
        attributes(&[("channel", "web")]),
        attributes(&[("channel", "web"), ("customer", "0")]),
        attributes(&[("customer", "it's \"17\" %_")]),
        attributes(&[("nothing", "1")]),
    ] {
        let matching: Vec<_> =
            all.iter().filter(|(_, attributes)| attributes.have(&wanted)).cloned().collect();
        let mut filter = Filter { attributes: wanted.clone(), limit: 3, ..Filter::default() };
        let mut listed = Vec::new();
        loop {
            let page = rig.a.query.list(&filter).await?;
            let Some(last) = page.last() else { break };
            filter.before = Some(last.run);
            listed.extend(page.into_iter().map(|saga| (saga.run, saga.attributes)));
            holds!(listed.len() <= all.len(), "pages repeat themselves");
        }
        same!(listed, matching, "what has {wanted}");
    }
    Ok(())
}

pub(super) async fn a_list_is_filtered_by_the_last_error(rig: &Rig) -> Verdict {
    let fence = rig.worker().await?;
    let id = |text: &str| text.parse::<ErrorId>().expect("the cases use good fingerprints");
    let (refused, lost) = (id("0123456789"), id("abcdef0123"));
    let mut runs = Vec::new();
    for saga in ["a", "b", "c", "d"] {
        runs.push(rig.owned(fence, saga).await?);
    }
    runs.sort_unstable();
    let [a, b, c, d] = runs[..] else { unreachable!("there are four") };
    let with = |commit: Commit, error| Commit { error, ..commit };
    let now = LastError::Now;
    // One that goes on, one that waits, one that is blocked, and one with another error; all in one batch.
    let batch = [
        with(go(a, 1), now(refused)),
        with(then(b, 1, Then::Wait(seconds(60))), now(refused)),
        with(then(c, 1, Then::Block), now(refused)),
        with(go(d, 1), now(lost)),
    ];
    rig.store().commit(fence, &batch).await?;
    let listed = async |error, state| {
        let filter = Filter { error: Some(error), state, ..Filter::default() };
        let found = rig.a.query.list(&filter).await?;
        same!(found.iter().all(|saga| saga.error == Some(error)), true, "that they are told with it");
        Ok::<_, super::Broken>(found.into_iter().map(|saga| saga.run).collect::<Vec<_>>())
    };
    same!(listed(refused, None).await?, [c, b, a], "what suffers from the same");
    same!(listed(refused, Some(State::Waiting)).await?, [b], "what of it waits");
    same!(listed(lost, None).await?, [d], "what suffers from another");
    let own = rig.a.query.summary(a).await?;
    same!(
        own.map(|saga| (saga.state, saga.owner)),
        Some((State::Running, Some(fence.worker))),
        "who goes on"
    );
    // It stays until something is said of it, and goes with the saga.
    rig.commit(fence, go(a, 2)).await?;
    same!(listed(refused, None).await?, [c, b, a], "what suffers after a commit that says nothing of it");
    rig.commit(fence, with(go(a, 3), LastError::Gone)).await?;
    rig.commit(fence, end(d, 2)).await?;
    same!(listed(refused, None).await?, [c, b], "what suffers once one of them has recovered");
    same!(listed(lost, None).await?, [], "what suffers once it has ended");
    // A commit that is refused changes nothing of it.
    rig.refuses(fence, with(go(c, 2), now(lost)), "a commit of a saga that nobody owns").await?;
    same!(listed(lost, None).await?, [], "what suffers after a refused commit");
    Ok(())
}

pub(super) async fn counts_are_by_definition_and_state(rig: &Rig) -> Verdict {
    let fence = rig.worker().await?;
    same!(rig.a.query.counts().await?, [], "the counts of nothing");
    for (definition, saga, consequence) in [
        ("place-order", "a", Then::Go),
        ("place-order", "b", Then::Go),
        ("place-order", "c", Then::Block),
        ("refund", "a", Then::Go),
        ("refund", "b", Then::End(EndKind::Completed)),
        ("refund", "c", Then::End(EndKind::Completed)),
        ("refund", "d", Then::End(EndKind::Compensated)),
    ] {
        let start = start_of(definition, saga, true);
        rig.store().start(Some(fence), std::slice::from_ref(&start)).await?;
        rig.commit(fence, then(start.run, 1, consequence)).await?;
    }
    let mut counts = rig.a.query.counts().await?;
    counts.sort_by_key(|count| (count.definition.clone(), count.state.as_str()));
    let count = |definition, state, runs| Counts { definition: named(definition), state, runs };
    let wanted = [
        count("place-order", State::Blocked, 1),
        count("place-order", State::Running, 2),
        count("refund", State::Ended(EndKind::Compensated), 1),
        count("refund", State::Ended(EndKind::Completed), 2),
        count("refund", State::Running, 1),
    ];
    same!(counts, wanted, "the counts");
    Ok(())
}

pub(super) async fn manifests_are_kept_once_as_they_are_now(rig: &Rig) -> Verdict {
    let (one, two) = (manifest(1), manifest(2));
    same!(rig.a.query.manifests().await?, [], "the manifests of nothing");
    rig.store().register(std::slice::from_ref(&one)).await?;
    rig.other().await.store.register(&[two.clone(), one.clone()]).await?;
    rig.store().register(&[]).await?;
    let mut kept = rig.a.query.manifests().await?;
    kept.sort_by_key(|manifest| manifest.plan.version);
    same!(kept, [one.clone(), two.clone()], "the manifests");
    // What no saga in flight relies on may change under one fingerprint.
    let mut keyed = one;
    keyed.plan.keyed = true;
    rig.store().register(&[keyed.clone(), keyed.clone()]).await?;
    let mut kept = rig.a.query.manifests().await?;
    kept.sort_by_key(|manifest| manifest.plan.version);
    same!(kept, [keyed, two], "the manifests after one was registered anew");
    Ok(())
}

fn manifest(version: u32) -> Manifest {
    let (definition, input) = Definition::build::<(), u32>("place-order", version);
    Manifest::of(definition.finish(input).expect("a definition without steps is one").plan())
}

pub(super) async fn workers_are_listed_with_what_they_own(rig: &Rig) -> Verdict {
    let (busy, idle, gone) = (rig.worker().await?, join(&rig.other().await).await?, rig.worker().await?);
    let run = rig.owned(busy, "a").await?;
    rig.owned(busy, "b").await?;
    rig.owned(gone, "c").await?;
    rig.commit(busy, end(run, 1)).await?;
    rig.store().fence(gone.worker).await?;
    let mut workers = rig.a.query.workers().await?;
    workers.sort_by_key(|worker| worker.sagas);
    let found: Vec<_> = workers.iter().map(|w| (w.id, w.sagas, w.fenced, w.label.as_str())).collect();
    same!(found, [(idle.worker, 0, false, "host:1"), (busy.worker, 1, false, "host:1")], "the workers");
    holds!(
        workers.iter().all(|worker| worker.renewed_at >= worker.joined_at),
        "a renewal before the joining"
    );
    Ok(())
}

pub(super) async fn what_does_not_exist_is_not_found(rig: &Rig) -> Verdict {
    let nobody = RunId::new();
    same!(rig.store().load(nobody).await?, None, "a run that does not exist");
    same!(rig.a.query.summary(nobody).await?, None, "its summary");
    same!(rig.a.query.journal(nobody).await?, [], "its journal");
    same!(rig.a.query.find(&named("place-order"), "a").await?, None, "an id that does not exist");
    same!(rig.a.query.list(&Filter::default()).await?, [], "the list of nothing");
    same!(rig.a.query.workers().await?, [], "the workers of nothing");
    Ok(())
}
