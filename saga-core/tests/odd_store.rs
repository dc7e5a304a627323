//! What a store does to a worker, and what a worker must not make of it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::time::Duration;

use async_trait::async_trait;
use saga_core::engine::{Running, Settings};
use saga_core::store::{
    Backend, Claim, Claimed, Commit, CommitReply, Error, Fence, Loaded, Mail, Manifest, MemoryStore,
    NewWorker, Posted, Query, Renewal, Result, Start, StartReply, Store, Then,
};
use saga_core::{Client, Clock, Cx, Definition, Ended, Retry, RunId, StepError, Worker, WorkerId, step};

use crate::shop::quick;

/// A store in memory with the weaknesses that others have.
struct Odd {
    real: MemoryStore,
    /// Nothing is answered.
    away: AtomicBool,
    /// The next commit panics.
    panics: AtomicBool,
    /// More commits, or sagas, than this are too much for one statement.
    most: AtomicUsize,
    /// The next commit meets an earlier word of its worker under its number.
    late: AtomicBool,
}

impl Odd {
    fn new(real: MemoryStore) -> Arc<Self> {
        let most = AtomicUsize::new(usize::MAX);
        Arc::new(Self {
            real,
            away: AtomicBool::default(),
            panics: AtomicBool::default(),
            most,
            late: AtomicBool::default(),
        })
    }

    fn answers(&self) -> Result<()> {
        if self.away.load(SeqCst) { Err(Error::Unavailable("it is away".into())) } else { Ok(()) }
    }

    /// Takes as long as a statement may, and fails, where that is too much.
    async fn manages(&self, rows: usize) -> Result<()> {
        if rows <= self.most.load(SeqCst) {
            return Ok(());
        }
        tokio::time::sleep(Duration::from_secs(8)).await;
        Err(Error::Unavailable("canceling statement due to statement timeout".into()))
    }
}

#[async_trait]
impl Store for Odd {
    async fn register(&self, manifests: &[Manifest]) -> Result<()> {
        self.real.register(manifests).await
    }
    async fn join(&self, worker: &NewWorker) -> Result<Fence> {
        self.answers()?;
        self.real.join(worker).await
    }
    async fn renew(&self, fence: Fence) -> Result<Renewal> {
        self.answers()?;
        self.real.renew(fence).await
    }
    async fn fence(&self, worker: WorkerId) -> Result<()> {
        self.answers()?;
        self.real.fence(worker).await
    }
    async fn claim(&self, claim: &Claim) -> Result<Claimed> {
        self.answers()?;
        self.manages(claim.limit).await?;
        self.real.claim(claim).await
    }
    async fn load(&self, run: RunId) -> Result<Option<Loaded>> {
        self.real.load(run).await
    }
    async fn start(&self, fence: Option<Fence>, starts: &[Start]) -> Result<Vec<StartReply>> {
        self.real.start(fence, starts).await
    }
    async fn commit(&self, fence: Fence, commits: &[Commit]) -> Result<Vec<CommitReply>> {
        assert!(!self.panics.swap(false, SeqCst), "this commit panics on purpose");
        self.answers()?;
        self.manages(commits.len()).await?;
        if self.late.swap(false, SeqCst) {
            let earlier =
                Commit { body: "[]".into(), mail: Vec::new(), then: Then::Go, ..commits[0].clone() };
            self.real.commit(fence, &[earlier]).await?;
        }
        self.real.commit(fence, commits).await
    }
    async fn post(&self, mail: &[Mail]) -> Result<Vec<Posted>> {
        self.real.post(mail).await
    }
    fn lanes(&self) -> usize {
        1
    }
}

/// Counts, and is tried again where it is told to fail.
fn counting() -> Definition<Arc<AtomicUsize>, u64, u64> {
    let (mut b, n) = Definition::build::<Arc<AtomicUsize>, u64>("count", 1);
    let next = step("next", async |cx: Cx<Arc<AtomicUsize>>, n: u64| {
        let fails = cx.state().fetch_update(SeqCst, SeqCst, |left| left.checked_sub(1)).is_ok();
        if fails { Err(StepError::not_applied("not now")) } else { Ok(n + 1) }
    });
    let first = b.add(next.retry(quick()).no_compensation("it only counts"), n);
    let next = step("again", async |_: Cx<Arc<AtomicUsize>>, n: u64| Ok::<_, StepError>(n + 1));
    let second = b.add(next.no_compensation("it only counts"), first);
    b.finish(second).unwrap()
}

fn settings() -> Settings {
    let poll = Duration::from_millis(2)..Duration::from_millis(10);
    Settings {
        lease: Duration::from_millis(600),
        look: Duration::from_millis(20),
        poll,
        ..Settings::default()
    }
}

async fn worker(odd: &Arc<Odd>, settings: Settings) -> Running {
    let backend = Backend { store: odd.clone(), ..Backend::from(Arc::new(odd.real.clone())) };
    let worker = Worker::new(backend, Arc::<AtomicUsize>::default()).settings(settings);
    worker.register(&counting()).unwrap().start().await.unwrap()
}

/// Starts sagas that whoever claims them drives, and waits until all have ended.
async fn all_end(odd: &Arc<Odd>, sagas: u64) {
    let client = Client::new(Arc::new(odd.real.clone()));
    for n in 0..sagas {
        client.start(&counting(), &format!("saga-{n}"), &n).await.unwrap();
    }
    for n in 0..sagas {
        let saga = client.start(&counting(), &format!("saga-{n}"), &n).await.unwrap();
        let end = tokio::time::timeout(Duration::from_secs(600), saga.wait()).await;
        assert_eq!(end.expect("it ends").unwrap(), Ended::Completed(n + 2));
    }
}

#[tokio::test]
async fn a_store_that_panics_costs_the_worker_its_lease_and_no_saga_its_end() {
    let odd = Odd::new(MemoryStore::new());
    let worker = worker(&odd, settings()).await;
    odd.panics.store(true, SeqCst);
    all_end(&odd, 3).await;
    worker.drain().await;
}

#[tokio::test(start_paused = true)]
async fn what_is_too_much_at_once_is_asked_for_in_parts() {
    let odd = Odd::new(MemoryStore::with_clock(Clock::virtual_time()));
    odd.most.store(3, SeqCst);
    let lease = Duration::from_secs(3_600);
    let worker = worker(&odd, Settings { lease, ..settings() }).await;
    all_end(&odd, 40).await;
    worker.drain().await;
}

#[tokio::test(start_paused = true)]
async fn a_worker_whose_store_is_away_drains() {
    let odd = Odd::new(MemoryStore::new());
    let worker = worker(&odd, settings()).await;
    odd.away.store(true, SeqCst);
    // Long enough for the lease to be lost, and for the worker to try to join again.
    tokio::time::sleep(Duration::from_secs(30)).await;
    let drained = tokio::time::timeout(Duration::from_secs(3_600), worker.drain()).await;
    drained.expect("there is nothing to wait for");
}

#[tokio::test]
async fn a_saga_whose_journal_holds_an_earlier_word_of_its_worker_goes_on_from_that() {
    let odd = Odd::new(MemoryStore::new());
    let worker = worker(&odd, settings()).await;
    odd.late.store(true, SeqCst);
    all_end(&odd, 1).await;
    worker.drain().await;
}

/// Between two looks at what is due, thousands of times, a worker whose clock is behind would write that it waits.
#[tokio::test(start_paused = true)]
async fn a_worker_whose_clock_is_behind_the_stores_says_once_that_it_waits() {
    let clock = Clock::virtual_time();
    let Clock::Virtual { wall, origin } = clock.clone() else { panic!("it is virtual") };
    let behind = Clock::Virtual { wall: wall - Duration::from_secs(8), origin };
    let store = MemoryStore::with_clock(clock);
    let (mut b, n) = Definition::build::<Arc<AtomicUsize>, u64>("count", 1);
    let pause = Duration::from_secs(20);
    let next = step("next", async |cx: Cx<Arc<AtomicUsize>>, n: u64| {
        let first = cx.state().fetch_add(1, SeqCst) == 0;
        if first { Err(StepError::not_applied("not now")) } else { Ok(n + 1) }
    });
    let next = next.retry(Retry::exponential().base(pause).most(pause));
    let next = b.add(next.no_compensation("it only counts"), n);
    let definition = b.finish(next).unwrap();
    let worker = Worker::new(Arc::new(store.clone()), Arc::<AtomicUsize>::default());
    let worker = worker.settings(Settings { lease: Duration::from_secs(30), ..settings() }).clock(behind);
    let worker = worker.register(&definition).unwrap().start().await.unwrap();
    let saga = worker.client().start(&definition, "saga", &1).await.unwrap();
    assert_eq!(saga.wait().await.unwrap(), Ended::Completed(2));
    let silent = store.journal(saga.run()).await.unwrap().iter().filter(|row| &*row.body == "[]").count();
    assert_eq!(silent, 0, "rows that say nothing");
    worker.drain().await;
}
