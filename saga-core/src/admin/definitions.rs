//! Definitions as the store knows them: their plans, what is in flight of each, and what waits for code.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::Serialize;

use super::list::before_now;
use super::{Admin, Error};
use crate::id::{Fingerprint, Name};
use crate::journal::Timestamp;
use crate::store::{InFlight, State, WorkerInfo};

/// How long a saga may be due without an owner before it counts as overdue. Workers look for due sagas
/// several times a second, so half a minute is no hiccup.
pub const OVERDUE: Duration = Duration::from_secs(30);

/// One plan of a definition, and what is in flight of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct DefinitionView {
    /// The definition's name.
    pub name: Name,
    /// The version.
    pub version: u32,
    /// The plan's fingerprint.
    pub fingerprint: Fingerprint,
    /// Whether a worker has ever registered it.
    pub registered: bool,
    /// The names of its steps, in the order of the plan.
    pub steps: Vec<Name>,
    /// Sagas in flight that are running.
    pub running: u64,
    /// Sagas in flight that wait for their keys.
    pub queued: u64,
    /// Sagas in flight that wait.
    pub waiting: u64,
    /// Sagas in flight that need a person.
    pub blocked: u64,
    /// Sagas that should be driven and are not.
    pub overdue: Option<Waiting>,
}

/// Sagas that should be driven and are not.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Waiting {
    /// How many.
    pub runs: u64,
    /// Since when the longest of them is due.
    pub since: Timestamp,
    /// The likely reason, as far as the store can tell.
    pub why: String,
}

impl DefinitionView {
    /// How many sagas are in flight.
    pub fn in_flight(&self) -> u64 {
        self.running + self.queued + self.waiting + self.blocked
    }
}

impl Admin {
    /// Every plan that is registered or in flight, by name and version.
    pub async fn definitions(&self) -> Result<Vec<DefinitionView>, Error> {
        let manifests = self.backend.query.manifests().await?;
        let in_flight = self.in_flight().await?;
        let workers = self.workers().await?;
        let mut views = BTreeMap::new();
        for manifest in manifests {
            let (plan, fingerprint) = (manifest.plan, manifest.fingerprint);
            let mut view = DefinitionView::new(plan.name.clone(), plan.version, fingerprint);
            view.registered = true;
            view.steps = plan.nodes.iter().skip(1).map(|node| node.name.clone()).collect();
            views.insert((plan.name, plan.version, fingerprint), view);
        }
        for runs in &in_flight {
            let key = (runs.definition.clone(), runs.version, runs.fingerprint);
            let view = views.entry(key).or_insert_with(|| {
                DefinitionView::new(runs.definition.clone(), runs.version, runs.fingerprint)
            });
            view.count(runs);
        }
        for view in views.values_mut() {
            let mine = in_flight.iter().filter(|runs| runs.fingerprint == view.fingerprint);
            view.overdue = overdue(mine, view.registered, &workers);
        }
        Ok(views.into_values().collect())
    }

    /// What is in flight, by plan and state.
    pub async fn in_flight(&self) -> Result<Vec<InFlight>, Error> {
        Ok(self.backend.query.in_flight(before_now(OVERDUE)).await?)
    }
}

impl DefinitionView {
    fn new(name: Name, version: u32, fingerprint: Fingerprint) -> Self {
        Self {
            name,
            version,
            fingerprint,
            registered: false,
            steps: Vec::new(),
            running: 0,
            queued: 0,
            waiting: 0,
            blocked: 0,
            overdue: None,
        }
    }

    fn count(&mut self, runs: &InFlight) {
        match runs.state {
            State::Running => self.running += runs.runs,
            State::Queued => self.queued += runs.runs,
            State::Waiting => self.waiting += runs.runs,
            State::Blocked => self.blocked += runs.runs,
            State::Ended(_) => {}
        }
    }
}

fn overdue<'a>(
    in_flight: impl Iterator<Item = &'a InFlight>,
    registered: bool,
    workers: &[WorkerInfo],
) -> Option<Waiting> {
    let (mut runs, mut owned, mut since) = (0, 0, None::<Timestamp>);
    for group in in_flight {
        runs += group.overdue;
        owned += group.owned;
        if let Some(due) = group.overdue_since {
            since = Some(since.map_or(due, |earlier| earlier.min(due)));
        }
    }
    let since = since.filter(|_| runs > 0)?;
    let serving = workers.iter().any(|worker| !worker.fenced);
    let why = match (serving, registered, owned > 0) {
        (false, ..) => "no worker is alive",
        (true, false, _) => "waiting for code: no worker has ever registered this plan",
        (true, true, false) => "waiting for code: no live worker owns one, so probably none has this plan",
        (true, true, true) => "workers that have its code are full or slow",
    };
    Some(Waiting { runs, since, why: why.into() })
}
