//! A store as one process sees it: every answer may be late, lost, or never come.

use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;

use super::plan::{Hit, Spot};
use super::process::Process;
use super::scene::Scene;
use crate::id::{Name, RunId, WorkerId};
use crate::journal::Timestamp;
use crate::store::{
    Backend, Begun, Claim, Claimed, Commit, CommitReply, Counts, Fence, Filter, JournalRow, Kept, Kind, Lend,
    Lender, Loaded, Loan, Mail, Manifest, NewWorker, Posted, Pruned, Query, Renewal, Result, Retain, Start,
    StartReply, Store, Summary, UnreadMail, WorkerInfo,
};

/// Any store, seen by one [`Process`] of a [`Scene`].
///
/// Beginning a step's transaction is a point as well, and its end is one of its commits.
///
/// Each start, commit, fence, and claim that gives something, is a point where the scene's plan can hit
/// the process. Nothing of a dead process reaches the store, nor an answer it; a frozen one waits. While
/// it is frozen its renewals seem to succeed.
pub struct FaultyStore {
    scene: Scene,
    process: Process,
}

impl FaultyStore {
    /// The scene's store as `process` sees it.
    pub fn new(scene: Scene, process: Process) -> Self {
        Self { scene, process }
    }

    /// The scene's whole backend as `process` sees it.
    pub fn backend(scene: &Scene, process: &Process) -> Backend {
        let faulty = || Self::new(scene.clone(), process.clone());
        let lender =
            scene.real().lender.clone().map(|real| Lender::over(FaultyLender { real, through: faulty() }));
        Backend { lender, ..Backend::from(Arc::new(faulty())) }
    }

    /// Passes a point on the way to the store.
    async fn point(&self, spot: Spot) -> Result<Option<Hit>> {
        self.process.pass().await;
        let hit = self.scene.reach(&self.process, spot.clone()).await;
        // A saga that is not there yet cannot be cancelled before it starts.
        if spot != Spot::Start || hit != Some(Hit::Cancel) {
            self.scene.before(&self.process, hit).await?;
        }
        Ok(hit)
    }

    fn store(&self) -> &dyn Store {
        &*self.scene.real().store
    }

    async fn query(&self) -> &dyn Query {
        self.process.pass().await;
        &*self.scene.real().query
    }
}

#[async_trait]
impl Store for FaultyStore {
    async fn register(&self, manifests: &[Manifest]) -> Result<()> {
        self.process.pass().await;
        self.store().register(manifests).await
    }

    async fn join(&self, worker: &NewWorker) -> Result<Fence> {
        self.process.pass().await;
        let fence = self.store().join(worker).await?;
        self.scene.joined(&self.process, fence.worker);
        Ok(fence)
    }

    async fn renew(&self, fence: Fence) -> Result<Renewal> {
        if self.process.is_frozen() {
            return Ok(Renewal::Renewed(Vec::new()));
        }
        self.process.pass().await;
        self.store().renew(fence).await
    }

    async fn fence(&self, worker: WorkerId) -> Result<()> {
        let hit = self.point(Spot::Fence).await?;
        self.store().fence(worker).await?;
        self.scene.fenced(worker);
        self.scene.after(&self.process, hit).await
    }

    async fn claim(&self, claim: &Claim) -> Result<Claimed> {
        self.process.pass().await;
        let claimed = self.store().claim(claim).await?;
        if !claimed.sagas.is_empty() {
            let hit = self.point(Spot::Claim).await?;
            self.scene.after(&self.process, hit).await?;
        }
        Ok(claimed)
    }

    async fn load(&self, run: RunId) -> Result<Option<Loaded>> {
        self.process.pass().await;
        self.store().load(run).await
    }

    async fn start(&self, fence: Option<Fence>, starts: &[Start]) -> Result<Vec<StartReply>> {
        let hit = self.point(Spot::Start).await?;
        let replies = self.store().start(fence, starts).await?;
        for (start, reply) in starts.iter().zip(&replies) {
            self.scene.began(match reply {
                StartReply::Started | StartReply::Queued => start.run,
                StartReply::Exists { run, .. } => *run,
            });
        }
        if hit == Some(Hit::Cancel) {
            self.scene.cancel().await?;
        }
        self.scene.after(&self.process, hit).await?;
        Ok(replies)
    }

    async fn commit(&self, fence: Fence, commits: &[Commit]) -> Result<Vec<CommitReply>> {
        let hit = self.point(Spot::Commit).await?;
        let late = self.scene.is_fenced(fence.worker);
        let replies = self.store().commit(fence, commits).await?;
        self.scene.committed(fence, late, commits, &replies);
        self.scene.after(&self.process, hit).await?;
        Ok(replies)
    }

    async fn post(&self, mail: &[Mail]) -> Result<Vec<Posted>> {
        self.process.pass().await;
        self.store().post(mail).await
    }
}

#[async_trait]
impl Retain for FaultyStore {
    async fn prune(&self, ended_before: Timestamp, after: Option<RunId>, limit: usize) -> Result<Pruned> {
        self.process.pass().await;
        self.scene.real().retain.prune(ended_before, after, limit).await
    }

    async fn kept(&self, runs: &[RunId]) -> Result<Vec<Kept>> {
        self.process.pass().await;
        self.scene.real().retain.kept(runs).await
    }
}

#[async_trait]
impl Query for FaultyStore {
    async fn find(&self, definition: &Name, saga: &str) -> Result<Option<Summary>> {
        self.query().await.find(definition, saga).await
    }

    async fn summary(&self, run: RunId) -> Result<Option<Summary>> {
        self.query().await.summary(run).await
    }

    async fn list(&self, filter: &Filter) -> Result<Vec<Summary>> {
        self.query().await.list(filter).await
    }

    async fn nth_before(&self, before: Option<RunId>, nth: usize) -> Result<Option<RunId>> {
        self.query().await.nth_before(before, nth).await
    }

    async fn journal(&self, run: RunId) -> Result<Vec<JournalRow>> {
        self.query().await.journal(run).await
    }

    async fn manifests(&self) -> Result<Vec<Manifest>> {
        self.query().await.manifests().await
    }

    async fn workers(&self) -> Result<Vec<WorkerInfo>> {
        self.query().await.workers().await
    }

    async fn counts(&self) -> Result<Vec<Counts>> {
        self.query().await.counts().await
    }

    async fn unread_mail(&self) -> Result<Vec<UnreadMail>> {
        self.query().await.unread_mail().await
    }
}

/// The transactions of a store, seen by one process: those of a dead one are never ended by it.
struct FaultyLender {
    real: Lender,
    through: FaultyStore,
}

#[async_trait]
impl Lend for FaultyLender {
    fn kind(&self) -> Kind {
        self.real.kind()
    }

    async fn begin(&self, fence: Fence, run: RunId, next: u32) -> Result<Begun<Loan>> {
        let hit = self.through.point(Spot::Begin).await?;
        let begun = self.real.begin(fence, run, next).await?;
        self.through.scene.after(&self.through.process, hit).await?;
        Ok(begun)
    }

    async fn commit_in(&self, loan: Loan, fence: Fence, commit: &Commit) -> Result<CommitReply> {
        let FaultyStore { scene, process } = &self.through;
        let hit = self.through.point(Spot::Commit).await?;
        let late = scene.is_fenced(fence.worker);
        let reply = self.real.commit_in(loan, fence, commit).await?;
        scene.committed(fence, late, std::slice::from_ref(commit), std::slice::from_ref(&reply));
        scene.after(process, hit).await?;
        Ok(reply)
    }

    async fn roll_back(&self, loan: Loan) -> Result<()> {
        self.through.process.pass().await;
        self.real.roll_back(loan).await
    }
}

impl fmt::Debug for FaultyStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FaultyStore").field("process", &self.process).finish_non_exhaustive()
    }
}
