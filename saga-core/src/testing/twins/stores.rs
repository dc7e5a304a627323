//! A store between the engine and the real one, with a habit.

use std::sync::Arc;

use async_trait::async_trait;

use crate::id::{RunId, WorkerId};
use crate::journal::{self, Record};
use crate::store::{
    Backend, Claim, Claimed, Commit, CommitReply, Fence, Loaded, Mail, Manifest, NewWorker, Posted, Renewal,
    Result, Start, StartReply, Store,
};

/// What a broken store does otherwise. As given, it does everything as it should.
#[async_trait]
pub(super) trait Habit: Send + Sync + 'static {
    async fn join(&self, real: &dyn Store, worker: &NewWorker) -> Result<Fence> {
        real.join(worker).await
    }

    async fn claim(&self, real: &dyn Store, claim: &Claim) -> Result<Claimed> {
        real.claim(claim).await
    }

    async fn start(
        &self,
        real: &dyn Store,
        fence: Option<Fence>,
        starts: &[Start],
    ) -> Result<Vec<StartReply>> {
        real.start(fence, starts).await
    }

    async fn commit(&self, real: &dyn Store, fence: Fence, commits: &[Commit]) -> Result<Vec<CommitReply>> {
        real.commit(fence, commits).await
    }

    async fn load(&self, real: &dyn Store, run: RunId) -> Result<Option<Loaded>> {
        real.load(run).await
    }
}

/// Does not look whose a saga is that it was refused.
pub(super) struct TakesItForLost;

#[async_trait]
impl Habit for TakesItForLost {
    async fn load(&self, real: &dyn Store, run: RunId) -> Result<Option<Loaded>> {
        Ok(real.load(run).await?.map(|loaded| Loaded { owner: None, ..loaded }))
    }
}

/// Puts a new store with this habit before the real one.
pub(super) fn with<H: Habit>(
    habit: impl Fn() -> H + Send + Sync + 'static,
) -> Box<dyn Fn(Backend) -> Backend + Send + Sync> {
    Box::new(move |real| {
        let twin = Twin { real: real.store, habit: habit() };
        Backend { store: Arc::new(twin), ..real }
    })
}

struct Twin<H> {
    real: Arc<dyn Store>,
    habit: H,
}

#[async_trait]
impl<H: Habit> Store for Twin<H> {
    async fn register(&self, manifests: &[Manifest]) -> Result<()> {
        self.real.register(manifests).await
    }

    async fn join(&self, worker: &NewWorker) -> Result<Fence> {
        self.habit.join(&*self.real, worker).await
    }

    async fn renew(&self, fence: Fence) -> Result<Renewal> {
        self.real.renew(fence).await
    }

    async fn fence(&self, worker: WorkerId) -> Result<()> {
        self.real.fence(worker).await
    }

    async fn claim(&self, claim: &Claim) -> Result<Claimed> {
        self.habit.claim(&*self.real, claim).await
    }

    async fn load(&self, run: RunId) -> Result<Option<Loaded>> {
        self.habit.load(&*self.real, run).await
    }

    async fn start(&self, fence: Option<Fence>, starts: &[Start]) -> Result<Vec<StartReply>> {
        self.habit.start(&*self.real, fence, starts).await
    }

    async fn commit(&self, fence: Fence, commits: &[Commit]) -> Result<Vec<CommitReply>> {
        self.habit.commit(&*self.real, fence, commits).await
    }

    async fn post(&self, mail: &[Mail]) -> Result<Vec<Posted>> {
        self.real.post(mail).await
    }
}

/// The same text without the records that `keep` refuses, and with those that it changed.
pub(super) fn rewritten(body: &str, mut keep: impl FnMut(&mut Record) -> bool) -> Arc<str> {
    let mut records = journal::decode(body).expect("the engine writes what can be read");
    records.retain_mut(|record| keep(record));
    journal::encode(&records).into()
}
