//! A store in memory: for tests, and as the shortest reading of what a store does.
//!
//! One mutex is the transaction. Nothing survives the process, so it promises nothing to production.

mod transaction;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::Notify;

use super::Store;
use super::commit::{
    Commit, CommitReply, JournalRow, Keyed, LastError, Loaded, Mail, Posted, Start, StartReply, Then,
};
use super::error::{Error, Result};
use super::query::{Counts, Filter, Manifest, Query, State, Summary, UnreadMail, WorkerInfo};
use super::retain::{Kept, Pruned, Retain};
use super::worker::{Claim, Claimed, Fence, NewWorker, Peer, Renewal};
use crate::clock::Clock;
use crate::error_id::ErrorId;
use crate::id::{Fingerprint, Key, MailId, Name, RunId, WorkerId};
use crate::journal::Timestamp;
use crate::priority::Priority;

#[cfg(test)]
pub(crate) use transaction::Bug;
pub use transaction::{MemoryTransaction, Writes};

/// A store in memory. Clones are the same store.
///
/// It lends transactions to the test kit only: a worker that is given it refuses transactional steps.
#[derive(Clone, Debug, Default)]
pub struct MemoryStore {
    tables: Arc<Mutex<Tables>>,
    /// Told whenever a transaction has ended.
    unlocked: Arc<Notify>,
    /// What its transactions do wrong, in the tests of the test kit.
    #[cfg(test)]
    twin: Option<transaction::Bug>,
}

#[derive(Debug, Default)]
struct Tables {
    clock: Clock,
    workers: HashMap<WorkerId, Worker>,
    manifests: BTreeMap<Fingerprint, Manifest>,
    sagas: BTreeMap<RunId, Saga>,
    by_name: HashMap<(Name, String), RunId>,
    mail: BTreeMap<MailId, Mail>,
    consumed: HashSet<MailId>,
    /// The rows that open transactions hold.
    locks: HashMap<RunId, transaction::Lock>,
    /// How many transactions were begun.
    transactions: u64,
    /// Who holds which key.
    keys: HashMap<Key, RunId>,
    /// The last turn that was given to a saga that waits for its key.
    last_turn: u64,
}

#[derive(Debug)]
struct Worker {
    label: String,
    /// Its place in the order of joining.
    joined: usize,
    epoch: i64,
    renewals: i64,
    lease: Duration,
    drained: bool,
    joined_at: Timestamp,
    renewed_at: Timestamp,
}

#[derive(Debug)]
struct Saga {
    start: Start,
    owner: Option<WorkerId>,
    state: State,
    /// While it does not hold its key: its place in the order, 0 as long as no claim has seen it.
    turn: Option<u64>,
    due: Option<Timestamp>,
    error: Option<ErrorId>,
    since: Timestamp,
    started_at: Timestamp,
    journal: Vec<JournalRow>,
}

impl Saga {
    fn is_over(&self) -> bool {
        matches!(self.state, State::Ended(_))
    }
}

impl MemoryStore {
    /// An empty store.
    pub fn new() -> Self {
        Self::default()
    }

    /// An empty store that reads another clock; for tests in virtual time.
    pub fn with_clock(clock: Clock) -> Self {
        let tables = Tables { clock, ..Tables::default() };
        Self { tables: Arc::new(Mutex::new(tables)), ..Self::default() }
    }

    /// What a store without a fence would do: a twin of this store is built on it.
    #[cfg(test)]
    pub(crate) fn commit_unfenced(&self, worker: WorkerId, commits: &[Commit]) -> Vec<CommitReply> {
        let mut tables = self.tables();
        commits.iter().map(|commit| tables.commit(worker, commit)).collect()
    }

    fn tables(&self) -> MutexGuard<'_, Tables> {
        self.tables.lock().expect("no verb panics while it holds the tables")
    }
}

#[async_trait]
impl Store for MemoryStore {
    async fn register(&self, manifests: &[Manifest]) -> Result<()> {
        let mut tables = self.tables();
        for manifest in manifests {
            tables.manifests.insert(manifest.fingerprint, manifest.clone());
        }
        Ok(())
    }

    async fn join(&self, worker: &NewWorker) -> Result<Fence> {
        let mut tables = self.tables();
        if tables.workers.contains_key(&worker.id) {
            return Err(Error::Refused(format!("worker {} has joined before", worker.id)));
        }
        let now = tables.clock.now();
        let row = Worker {
            label: worker.label.clone(),
            joined: tables.workers.len(),
            epoch: 1,
            renewals: 0,
            lease: worker.lease,
            drained: false,
            joined_at: now,
            renewed_at: now,
        };
        tables.workers.insert(worker.id, row);
        Ok(Fence { worker: worker.id, epoch: 1 })
    }

    async fn renew(&self, fence: Fence) -> Result<Renewal> {
        let mut tables = self.tables();
        if tables.check(fence).is_err() {
            return Ok(Renewal::Fenced);
        }
        let now = tables.clock.now();
        let own = tables.workers.get_mut(&fence.worker).expect("just checked");
        own.renewals += 1;
        own.renewed_at = now;
        let others = tables.workers.iter().filter(|(id, peer)| **id != fence.worker && !peer.drained);
        let mut others: Vec<_> = others.collect();
        others.sort_unstable_by_key(|(_, peer)| peer.joined);
        let peers = others.into_iter().map(|(id, peer)| Peer {
            id: *id,
            renewals: peer.renewals,
            lease: peer.lease,
            gone: peer.epoch > 1,
        });
        Ok(Renewal::Renewed(peers.collect()))
    }

    async fn fence(&self, worker: WorkerId) -> Result<()> {
        // The mutex makes "move the epoch on" and "await the batches in flight" one moment.
        if let Some(row) = self.tables().workers.get_mut(&worker) {
            row.epoch += i64::from(!row.drained);
            row.drained = true;
        }
        Ok(())
    }

    async fn claim(&self, claim: &Claim) -> Result<Claimed> {
        let mut tables = self.tables();
        tables.check(claim.fence)?;
        tables.give_turns(claim);
        let now = tables.clock.now();
        let me = claim.fence.worker;
        let mail = tables.mail.values().filter(|mail| tables.sagas[&mail.run].owner == Some(me));
        let mail = mail.cloned().collect();
        let mut ready: Vec<(Option<Timestamp>, RunId)> = tables
            .sagas
            .iter()
            .filter(|(_, saga)| claim.fingerprints.contains(&saga.start.fingerprint))
            .filter(|(run, saga)| {
                tables.is_claimable(**run, saga, now) && tables.is_readable(**run, claim.reads)
            })
            .map(|(run, saga)| (saga.due.map(|due| due - saga.start.priority.head_start()), *run))
            .collect();
        ready.sort_unstable();
        ready.truncate(claim.limit);
        for (_, run) in &ready {
            let saga = tables.sagas.get_mut(run).expect("just listed");
            saga.owner = Some(me);
            saga.due = None;
            if saga.turn.is_none() && saga.state != State::Running {
                saga.state = State::Running;
                saga.since = now;
            }
        }
        let sagas = ready.iter().map(|(_, run)| tables.load(*run).expect("just listed")).collect();
        Ok(Claimed { sagas, mail })
    }

    async fn load(&self, run: RunId) -> Result<Option<Loaded>> {
        Ok(self.tables().load(run))
    }

    async fn start(&self, fence: Option<Fence>, starts: &[Start]) -> Result<Vec<StartReply>> {
        let mut tables = self.tables();
        if let Some(fence) = fence {
            tables.check(fence)?;
        }
        Ok(starts.iter().map(|start| tables.start(fence, start)).collect())
    }

    async fn commit(&self, fence: Fence, commits: &[Commit]) -> Result<Vec<CommitReply>> {
        let mut tables = self.tables();
        tables.check(fence)?;
        Ok(commits.iter().map(|commit| tables.commit(fence.worker, commit)).collect())
    }

    async fn post(&self, mail: &[Mail]) -> Result<Vec<Posted>> {
        let mut tables = self.tables();
        Ok(mail.iter().map(|mail| tables.post(mail)).collect())
    }
}

impl Tables {
    fn check(&self, fence: Fence) -> Result<()> {
        let met = self.workers.get(&fence.worker).is_some_and(|row| row.epoch == fence.epoch && !row.drained);
        met.then_some(()).ok_or(Error::Fenced)
    }

    fn is_claimable(&self, run: RunId, saga: &Saga, now: Timestamp) -> bool {
        match (saga.state, saga.owner) {
            (State::Ended(_), _) => false,
            _ if self.is_locked(run) => false,
            (_, Some(owner)) => self.workers.get(&owner).is_none_or(|row| row.drained),
            (_, None) => {
                saga.due.is_some_and(|due| due <= now) || self.mail.values().any(|mail| mail.run == run)
            }
        }
    }

    /// Whether nothing that was said to the saga is newer than this format.
    fn is_readable(&self, run: RunId, reads: i16) -> bool {
        !self.mail.values().any(|mail| mail.run == run && mail.format > reads)
    }

    /// Puts sagas that no claim has seen into the order of those that wait for their keys, and gives every
    /// free key to the first that waits for it and that somebody here can drive.
    fn give_turns(&mut self, claim: &Claim) {
        let now = self.clock.now();
        let waits = |saga: &Saga| saga.turn.is_some() && saga.owner.is_none();
        for saga in self.sagas.values_mut().filter(|saga| waits(saga) && saga.turn == Some(0)) {
            self.last_turn += 1;
            saga.turn = Some(self.last_turn);
            saga.due = saga.start.key.as_ref().and_then(|key| key.until);
        }
        let newer: HashSet<RunId> =
            self.mail.values().filter(|mail| mail.format > claim.reads).map(|mail| mail.run).collect();
        let known =
            self.sagas.values_mut().filter(|saga| claim.fingerprints.contains(&saga.start.fingerprint));
        let known = known.filter(|saga| !newer.contains(&saga.start.run));
        let mut waiting: Vec<&mut Saga> = known.filter(|saga| waits(saga)).collect();
        waiting.sort_unstable_by_key(|saga| saga.turn);
        for saga in waiting {
            let Some(Keyed { key, .. }) = &saga.start.key else { continue };
            if !self.keys.contains_key(key) {
                self.keys.insert(key.clone(), saga.start.run);
                (saga.turn, saga.due) = (None, Some(now));
                (saga.state, saga.since) = (State::Running, now);
            }
        }
    }

    /// Whether nobody holds a key or waits for it.
    fn is_free(&self, key: &Key) -> bool {
        let waits =
            |saga: &Saga| saga.turn.is_some() && saga.start.key.as_ref().is_some_and(|k| k.key == *key);
        !self.keys.contains_key(key) && !self.sagas.values().any(waits)
    }

    fn start(&mut self, fence: Option<Fence>, start: &Start) -> StartReply {
        let name = (start.definition.clone(), start.saga.to_string());
        if let Some(run) = self.by_name.get(&name) {
            let earlier = &self.sagas[run];
            if *run == start.run {
                let queued = start.owned && earlier.journal.first().is_none_or(|row| row.worker.is_none());
                return if queued { StartReply::Queued } else { StartReply::Started };
            }
            let end = if let State::Ended(kind) = earlier.state { Some(kind) } else { None };
            return StartReply::Exists { run: *run, digest: earlier.start.digest, end };
        }
        let now = self.clock.now();
        let keyed = start.key.as_ref();
        let owner = fence.filter(|_| start.owned && keyed.is_none_or(|keyed| self.is_free(&keyed.key)));
        let owner = owner.map(|fence| fence.worker);
        let queued = keyed.filter(|_| owner.is_none());
        if let (Some(Keyed { key, .. }), None) = (keyed, queued) {
            self.keys.insert(key.clone(), start.run);
        }
        let body = queued.map_or(&start.body, |keyed| &keyed.began).clone();
        let row = JournalRow { number: 0, worker: owner, at: now, body };
        self.by_name.insert(name, start.run);
        self.sagas.insert(
            start.run,
            Saga {
                start: start.clone(),
                owner,
                state: if queued.is_some() { State::Queued } else { State::Running },
                turn: queued.map(|_| 0),
                due: (owner.is_none() && queued.is_none()).then_some(now),
                error: None,
                since: now,
                started_at: now,
                journal: vec![row],
            },
        );
        if start.owned && queued.is_some() { StartReply::Queued } else { StartReply::Started }
    }

    fn commit(&mut self, worker: WorkerId, commit: &Commit) -> CommitReply {
        let Some(saga) = self.sagas.get_mut(&commit.run) else { return CommitReply::Refused };
        let next = u32::try_from(saga.journal.len()).expect("a journal of fewer than 2^32 commits");
        if let Some(row) = saga.journal.get(commit.number as usize) {
            if row.worker != Some(worker) || row.body != commit.body {
                return CommitReply::Refused;
            }
        } else if commit.number != next || saga.owner != Some(worker) {
            return CommitReply::Refused;
        } else if commit.pivot && self.mail.values().any(|mail| commit.misses(mail)) {
            return CommitReply::Unread { mail: self.mail_of(commit.run) };
        } else {
            let now = self.clock.now();
            let row = JournalRow {
                number: commit.number,
                worker: Some(worker),
                at: now,
                body: commit.body.clone(),
            };
            saga.journal.push(row);
            saga.error = match commit.error {
                LastError::Same => saga.error,
                LastError::Gone => None,
                LastError::Now(id) => Some(id),
            };
            saga.apply(commit.then, now);
            for id in &commit.mail {
                if self.mail.get(id).is_some_and(|mail| mail.run == commit.run) {
                    self.mail.remove(id);
                    self.consumed.insert(*id);
                }
            }
            if let Then::End(_) = commit.then {
                // What nobody read is answered from the end.
                self.mail.retain(|_, mail| mail.run != commit.run);
                if let Some(key) = &commit.key
                    && self.keys.get(key) == Some(&commit.run)
                {
                    self.keys.remove(key);
                }
            }
        }
        CommitReply::Committed { mail: self.mail_of(commit.run) }
    }

    fn post(&mut self, mail: &Mail) -> Posted {
        match self.sagas.get(&mail.run).map(|saga| saga.state) {
            None => Posted::NoSuchSaga,
            Some(State::Ended(kind)) => Posted::Ended(kind),
            Some(_) => {
                if !self.consumed.contains(&mail.id) {
                    self.mail.entry(mail.id).or_insert_with(|| mail.clone());
                }
                Posted::Accepted
            }
        }
    }

    fn mail_of(&self, run: RunId) -> Vec<Mail> {
        self.mail.values().filter(|mail| mail.run == run).cloned().collect()
    }

    fn load(&self, run: RunId) -> Option<Loaded> {
        let saga = self.sagas.get(&run)?;
        Some(Loaded {
            run,
            definition: saga.start.definition.clone(),
            version: saga.start.version,
            fingerprint: saga.start.fingerprint,
            saga: saga.start.saga.clone(),
            owner: saga.owner,
            key: saga.start.key.as_ref().map(|keyed| keyed.key.clone()),
            priority: saga.start.priority,
            queued: saga.turn.is_some(),
            journal: saga.journal.clone(),
            mail: self.mail_of(run),
        })
    }
}

impl Saga {
    fn apply(&mut self, then: Then, now: Timestamp) {
        let (state, due) = match then {
            Then::Go => return,
            Then::Wait(due) => (State::Waiting, Some(due)),
            Then::Block => (State::Blocked, None),
            Then::Queue => (State::Queued, self.start.key.as_ref().and_then(|keyed| keyed.until)),
            Then::End(kind) => (State::Ended(kind), None),
        };
        self.owner = None;
        if matches!(state, State::Ended(_)) {
            (self.turn, self.error) = (None, None);
        }
        self.state = state;
        self.due = due;
        self.since = now;
    }

    fn summary(&self, keys: &HashMap<Key, RunId>) -> Summary {
        let key = self.start.key.as_ref().filter(|_| !matches!(self.state, State::Ended(_)));
        let key = key.map(|keyed| keyed.key.clone());
        Summary {
            run: self.start.run,
            definition: self.start.definition.clone(),
            version: self.start.version,
            fingerprint: self.start.fingerprint,
            saga: self.start.saga.to_string(),
            state: self.state,
            owner: self.owner,
            due: self.due,
            started_at: self.started_at,
            since: self.since,
            key_held_by: key.as_ref().filter(|_| self.turn.is_some()).and_then(|key| keys.get(key)).copied(),
            key,
            priority: match self.state {
                State::Ended(_) => Priority::Normal,
                _ => self.start.priority,
            },
            error: self.error,
            attributes: self.start.attributes.clone(),
            digest: self.start.digest,
        }
    }
}

#[async_trait]
impl Query for MemoryStore {
    async fn find(&self, definition: &Name, saga: &str) -> Result<Option<Summary>> {
        let tables = self.tables();
        let run = tables.by_name.get(&(definition.clone(), saga.to_owned()));
        Ok(run.map(|run| tables.sagas[run].summary(&tables.keys)))
    }

    async fn summary(&self, run: RunId) -> Result<Option<Summary>> {
        let tables = self.tables();
        Ok(tables.sagas.get(&run).map(|saga| saga.summary(&tables.keys)))
    }

    async fn list(&self, filter: &Filter) -> Result<Vec<Summary>> {
        let tables = self.tables();
        let limit = if filter.limit == 0 { 100 } else { filter.limit };
        let all = tables.sagas.values().rev().map(|saga| saga.summary(&tables.keys));
        let wanted = all
            .filter(|s| filter.definition.as_ref().is_none_or(|name| *name == s.definition))
            .filter(|s| filter.state.is_none_or(|state| state == s.state))
            .filter(|s| s.attributes.have(&filter.attributes))
            .filter(|s| filter.error.is_none_or(|error| s.error == Some(error)))
            .filter(|s| filter.before.is_none_or(|before| s.run < before))
            .filter(|s| filter.from.is_none_or(|from| s.run >= from));
        Ok(wanted.take(limit).collect())
    }

    async fn journal(&self, run: RunId) -> Result<Vec<JournalRow>> {
        Ok(self.tables().sagas.get(&run).map(|saga| saga.journal.clone()).unwrap_or_default())
    }

    async fn manifests(&self) -> Result<Vec<Manifest>> {
        Ok(self.tables().manifests.values().cloned().collect())
    }

    async fn workers(&self) -> Result<Vec<WorkerInfo>> {
        let tables = self.tables();
        let owned = |id: WorkerId| tables.sagas.values().filter(|saga| saga.owner == Some(id)).count() as u64;
        let live = tables.workers.iter().filter(|(_, row)| !row.drained);
        Ok(live
            .map(|(id, row)| WorkerInfo {
                id: *id,
                label: row.label.clone(),
                joined_at: row.joined_at,
                renewed_at: row.renewed_at,
                sagas: owned(*id),
                fenced: row.epoch > 1,
            })
            .collect())
    }

    async fn counts(&self) -> Result<Vec<Counts>> {
        let mut counts: HashMap<(Name, State), u64> = HashMap::new();
        for saga in self.tables().sagas.values() {
            *counts.entry((saga.start.definition.clone(), saga.state)).or_default() += 1;
        }
        let counts = counts.into_iter().map(|((definition, state), runs)| Counts { definition, state, runs });
        Ok(counts.collect())
    }

    async fn unread_mail(&self) -> Result<Vec<UnreadMail>> {
        let mut newest: HashMap<RunId, i16> = HashMap::new();
        for mail in self.tables().mail.values() {
            newest.entry(mail.run).and_modify(|f| *f = mail.format.max(*f)).or_insert(mail.format);
        }
        let mut runs: BTreeMap<i16, u64> = BTreeMap::new();
        newest.into_values().for_each(|format| *runs.entry(format).or_default() += 1);
        Ok(runs.into_iter().map(|(format, runs)| UnreadMail { format, runs }).collect())
    }
}

#[async_trait]
impl Retain for MemoryStore {
    async fn prune(&self, ended_before: Timestamp, after: Option<RunId>, limit: usize) -> Result<Pruned> {
        let mut tables = self.tables();
        let tables = &mut *tables;
        let mut pruned = Pruned::default();
        let in_flight: HashSet<RunId> =
            tables.sagas.iter().filter(|(_, saga)| !saga.is_over()).map(|(run, _)| *run).collect();
        let later = tables.sagas.iter_mut().filter(|(run, _)| after.is_none_or(|after| **run > after));
        for (run, saga) in later.filter(|(_, saga)| !saga.journal.is_empty()).take(limit) {
            pruned.last = Some(*run);
            let parent = saga.start.saga.split_once('/').and_then(|(run, _)| run.parse().ok());
            let is_needed = parent.is_some_and(|parent| in_flight.contains(&parent));
            if saga.is_over() && saga.since < ended_before && !is_needed {
                saga.journal.clear();
                tables.mail.retain(|_, mail| mail.run != *run);
                pruned.sagas += 1;
            }
        }
        Ok(pruned)
    }

    async fn kept(&self, runs: &[RunId]) -> Result<Vec<Kept>> {
        let tables = self.tables();
        let kept = runs.iter().map(|run| match tables.sagas.get(run) {
            None => Kept::Nothing,
            Some(saga) if saga.journal.is_empty() => Kept::Forgotten,
            Some(_) => Kept::Journal,
        });
        Ok(kept.collect())
    }
}
