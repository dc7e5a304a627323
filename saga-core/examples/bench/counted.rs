//! A store that counts what passes through it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use saga_core::store::{
    Claim, Claimed, Commit, CommitReply, Fence, Loaded, Mail, Manifest, NewWorker, Posted, Renewal, Result,
    Start, StartReply, Store,
};
use saga_core::{RunId, WorkerId};

/// Counts batches and rows on their way to the store.
#[derive(Default)]
pub(crate) struct Counts {
    pub(crate) batches: AtomicU64,
    pub(crate) commits: AtomicU64,
}

pub(crate) struct Counted {
    pub(crate) store: Arc<dyn Store>,
    pub(crate) counts: Arc<Counts>,
    /// Instead of what the store asks for.
    pub(crate) lanes: Option<usize>,
}

impl Counted {
    fn count(&self, commits: usize) {
        self.counts.batches.fetch_add(1, Relaxed);
        self.counts.commits.fetch_add(commits as u64, Relaxed);
    }
}

#[async_trait::async_trait]
impl Store for Counted {
    async fn register(&self, manifests: &[Manifest]) -> Result<()> {
        self.store.register(manifests).await
    }
    async fn join(&self, worker: &NewWorker) -> Result<Fence> {
        self.store.join(worker).await
    }
    async fn renew(&self, fence: Fence) -> Result<Renewal> {
        self.store.renew(fence).await
    }
    async fn fence(&self, worker: WorkerId) -> Result<()> {
        self.store.fence(worker).await
    }
    async fn claim(&self, claim: &Claim) -> Result<Claimed> {
        self.store.claim(claim).await
    }
    async fn load(&self, run: RunId) -> Result<Option<Loaded>> {
        self.store.load(run).await
    }
    async fn start(&self, fence: Option<Fence>, starts: &[Start]) -> Result<Vec<StartReply>> {
        self.count(starts.len());
        self.store.start(fence, starts).await
    }
    async fn commit(&self, fence: Fence, commits: &[Commit]) -> Result<Vec<CommitReply>> {
        self.count(commits.len());
        self.store.commit(fence, commits).await
    }
    async fn post(&self, mail: &[Mail]) -> Result<Vec<Posted>> {
        self.store.post(mail).await
    }
    fn lanes(&self) -> usize {
        self.lanes.unwrap_or_else(|| self.store.lanes())
    }
}
