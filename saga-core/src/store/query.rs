//! The read-only side: what operators and clients ask. It never takes a lock that progress waits for.

use async_trait::async_trait;
use serde::{Deserialize, Serialize};

use super::commit::JournalRow;
use super::error::Result;
use crate::attributes::Attributes;
use crate::error_id::ErrorId;
use crate::id::{Fingerprint, Key, Name, RunId, WorkerId};
use crate::journal::{EndKind, Timestamp};
use crate::priority::Priority;
use crate::saga::Plan;

/// Questions about sagas. All answers are snapshots.
#[async_trait]
pub trait Query: Send + Sync + 'static {
    /// The run under a user's id.
    async fn find(&self, definition: &Name, saga: &str) -> Result<Option<Summary>>;
    /// One run.
    async fn summary(&self, run: RunId) -> Result<Option<Summary>>;
    /// Runs that a filter matches, newest first.
    async fn list(&self, filter: &Filter) -> Result<Vec<Summary>>;
    /// The run that was started as the `nth` (1 or more) before another, or until now; `None` where there are fewer.
    /// Together with [`Filter::from`] it bounds how many runs a list looks at.
    ///
    /// As given it lists them; a store that can count them overrides it.
    async fn nth_before(&self, before: Option<RunId>, nth: usize) -> Result<Option<RunId>> {
        let mut filter = Filter { before, ..Filter::default() };
        let mut left = nth;
        loop {
            filter.limit = left.clamp(1, 1000);
            let page = self.list(&filter).await?;
            left = left.saturating_sub(page.len());
            filter.before = page.last().map(|last| last.run);
            if left == 0 || page.len() < filter.limit {
                return Ok(filter.before.filter(|_| left == 0));
            }
        }
    }

    /// One run's journal, in order; empty when there is none.
    async fn journal(&self, run: RunId) -> Result<Vec<JournalRow>>;
    /// Every definition that a worker has registered.
    async fn manifests(&self) -> Result<Vec<Manifest>>;
    /// Every worker that is not drained.
    async fn workers(&self) -> Result<Vec<WorkerInfo>>;
    /// How many runs are in which state.
    async fn counts(&self) -> Result<Vec<Counts>>;
    /// How many runs in flight have unread mail, by the newest format of it, the oldest first.
    async fn unread_mail(&self) -> Result<Vec<UnreadMail>>;

    /// What is in flight, by plan and state; `overdue` counts runs that nobody owns although they were
    /// due before `due_before`.
    ///
    /// As given it lists every run in flight, a thousand at a time; a store that can group overrides it.
    async fn in_flight(&self, due_before: Timestamp) -> Result<Vec<InFlight>> {
        let mut groups = std::collections::BTreeMap::new();
        for state in State::IN_FLIGHT {
            let mut filter = Filter { state: Some(state), limit: 1000, ..Filter::default() };
            loop {
                let page = self.list(&filter).await?;
                for run in &page {
                    let key = (run.definition.clone(), run.version, run.fingerprint, state.as_str());
                    groups.entry(key).or_insert_with(|| InFlight::of(run)).add(run, due_before);
                }
                match page.last() {
                    Some(last) if page.len() == filter.limit => filter.before = Some(last.run),
                    _ => break,
                }
            }
        }
        Ok(groups.into_values().collect())
    }
}

/// The runs of one plan that are in one state, none of them ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct InFlight {
    /// The definition's name.
    pub definition: Name,
    /// The definition's version.
    pub version: u32,
    /// The definition's fingerprint.
    pub fingerprint: Fingerprint,
    /// The state.
    pub state: State,
    /// How many.
    pub runs: u64,
    /// How many of them a worker owns.
    pub owned: u64,
    /// How many of them nobody owns although they are overdue.
    pub overdue: u64,
    /// The earliest due time among the overdue.
    pub overdue_since: Option<Timestamp>,
    /// Since when the longest of them is in this state.
    pub since: Timestamp,
}

impl InFlight {
    fn of(run: &Summary) -> Self {
        Self {
            definition: run.definition.clone(),
            version: run.version,
            fingerprint: run.fingerprint,
            state: run.state,
            runs: 0,
            owned: 0,
            overdue: 0,
            overdue_since: None,
            since: run.since,
        }
    }

    fn add(&mut self, run: &Summary, due_before: Timestamp) {
        self.runs += 1;
        self.owned += u64::from(run.owner.is_some());
        self.since = self.since.min(run.since);
        if let (None, Some(due)) = (run.owner, run.due.filter(|due| *due < due_before)) {
            self.overdue += 1;
            self.overdue_since = Some(self.overdue_since.map_or(due, |earlier| earlier.min(due)));
        }
    }
}

/// A definition as data, with its fingerprint.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    /// The plan's fingerprint.
    pub fingerprint: Fingerprint,
    /// The plan.
    pub plan: Plan,
}

impl Manifest {
    /// The manifest of a plan.
    pub fn of(plan: &Plan) -> Self {
        Self { fingerprint: plan.fingerprint(), plan: plan.clone() }
    }
}

/// What a run is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// A worker owns it, or will as soon as one is free.
    Running,
    /// It waits for its key, which another saga holds, and for those that came before it.
    Queued,
    /// It waits for a time or for mail.
    Waiting,
    /// It needs a person.
    Blocked,
    /// It is over.
    Ended(EndKind),
}

impl State {
    /// Every state but the ends.
    pub const IN_FLIGHT: [Self; 4] = [Self::Running, Self::Queued, Self::Waiting, Self::Blocked];

    /// The name stores and people use.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Running => "running",
            Self::Queued => "queued",
            Self::Waiting => "waiting",
            Self::Blocked => "blocked",
            Self::Ended(kind) => kind.as_str(),
        }
    }

    /// Reads the name back.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::IN_FLIGHT
            .into_iter()
            .find(|state| state.as_str() == name)
            .or_else(|| EndKind::from_name(name).map(Self::Ended))
    }
}

/// One run at a glance.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Summary {
    /// The run.
    pub run: RunId,
    /// The definition's name.
    pub definition: Name,
    /// The definition's version.
    pub version: u32,
    /// The definition's fingerprint.
    pub fingerprint: Fingerprint,
    /// The user's id.
    pub saga: String,
    /// What it is doing.
    pub state: State,
    /// Who owns it.
    pub owner: Option<WorkerId>,
    /// When it is due, where it waits for a time.
    pub due: Option<Timestamp>,
    /// When it was started.
    pub started_at: Timestamp,
    /// Since when it is in its state: for `Blocked` its age, for an end its time.
    pub since: Timestamp,
    /// The key that it holds or waits for, while it is in flight.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<Key>,
    /// Where it waits for its key: the run that holds it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key_held_by: Option<RunId>,
    /// Its priority, while it is in flight.
    #[serde(default, skip_serializing_if = "Priority::is_normal")]
    pub priority: Priority,
    /// What it suffers from, while it is in flight: what the attempt said that failed last, unless its place has
    /// succeeded since.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<ErrorId>,
    /// What it can be found by.
    #[serde(default, skip_serializing_if = "Attributes::is_empty")]
    pub attributes: Attributes,
    /// The input's digest.
    #[serde(skip)]
    pub digest: [u8; 32],
}

/// Which runs to list.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Filter {
    /// Only this definition.
    pub definition: Option<Name>,
    /// Only this state.
    pub state: Option<State>,
    /// Only runs that have all of these.
    pub attributes: Attributes,
    /// Only runs in flight whose last error is this one.
    pub error: Option<ErrorId>,
    /// Only runs started before this one (the last of the page before).
    pub before: Option<RunId>,
    /// Only this run and those started after it.
    pub from: Option<RunId>,
    /// At most so many; 0 means 100.
    pub limit: usize,
}

impl Filter {
    /// Whether the few runs that match may stand behind any number that do not, which have to be looked at one by one.
    pub(crate) fn passes_over(&self) -> bool {
        let few = match self.state {
            Some(State::Ended(_)) => true,
            Some(_) => false,
            None => self.definition.is_some(),
        };
        few && self.error.is_none() && self.attributes.is_empty()
    }
}

/// How many runs of a definition are in one state.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counts {
    /// The definition.
    pub definition: Name,
    /// The state.
    pub state: State,
    /// How many.
    pub runs: u64,
}

/// Runs with unread mail.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct UnreadMail {
    /// The newest format of it. Above [`MailBody::FORMAT`](crate::journal::MailBody::FORMAT) it waits for workers of
    /// a newer version, and its sagas with it.
    pub format: i16,
    /// How many runs.
    pub runs: u64,
}

/// One worker at a glance.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WorkerInfo {
    /// The worker.
    pub id: WorkerId,
    /// Host and process.
    pub label: String,
    /// When it joined, by the store's clock.
    pub joined_at: Timestamp,
    /// When it last renewed, by the store's clock.
    pub renewed_at: Timestamp,
    /// How many sagas it owns.
    pub sagas: u64,
    /// Whether it was fenced.
    pub fenced: bool,
}
