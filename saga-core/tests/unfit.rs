//! A journal that does not fit its plan blocks its saga, harms no other, and is no end.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::time::Duration;

use async_trait::async_trait;
use saga_core::admin::{Admin, Answered, By, Request};
use saga_core::engine::Running;
use saga_core::id::MailId;
use saga_core::journal::{Cause, EndKind};
use saga_core::store::{
    Backend, Claim, Claimed, Commit, CommitReply, Fence, Loaded, Mail, Manifest, MemoryStore, NewWorker,
    Posted, Renewal, Result, Start, StartReply, State, Store,
};
use saga_core::{Client, Cx, Definition, Ended, RunId, StepError, Worker, WorkerId, step};

/// Code that cannot read the journal of one saga: it was written by a newer version, say.
#[derive(Default)]
struct Old {
    real: MemoryStore,
    fits: AtomicBool,
}

impl Old {
    fn seen(&self, loaded: &mut Loaded) {
        if &*loaded.saga == "new" && !self.fits.load(SeqCst) {
            loaded.journal[0].body = r#"[{"sneezed":{}}]"#.into();
        }
    }
}

#[async_trait]
impl Store for Old {
    async fn register(&self, manifests: &[Manifest]) -> Result<()> {
        self.real.register(manifests).await
    }
    async fn join(&self, worker: &NewWorker) -> Result<Fence> {
        self.real.join(worker).await
    }
    async fn renew(&self, fence: Fence) -> Result<Renewal> {
        self.real.renew(fence).await
    }
    async fn fence(&self, worker: WorkerId) -> Result<()> {
        self.real.fence(worker).await
    }
    async fn claim(&self, claim: &Claim) -> Result<Claimed> {
        let mut claimed = self.real.claim(claim).await?;
        claimed.sagas.iter_mut().for_each(|saga| self.seen(saga));
        Ok(claimed)
    }
    async fn load(&self, run: RunId) -> Result<Option<Loaded>> {
        self.real.load(run).await
    }
    async fn start(&self, fence: Option<Fence>, starts: &[Start]) -> Result<Vec<StartReply>> {
        self.real.start(fence, starts).await
    }
    async fn commit(&self, fence: Fence, commits: &[Commit]) -> Result<Vec<CommitReply>> {
        self.real.commit(fence, commits).await
    }
    async fn post(&self, mail: &[Mail]) -> Result<Vec<Posted>> {
        self.real.post(mail).await
    }
}

fn definition() -> Definition<(), u64, u64> {
    let (mut b, n) = Definition::build::<(), u64>("count", 1);
    let next = step("next", async |_: Cx<()>, n: u64| Ok::<_, StepError>(n + 1));
    let next = b.add(next.no_compensation("it only counts"), n);
    b.finish(next).unwrap()
}

struct Scene {
    old: Arc<Old>,
    memory: Backend,
    admin: Admin,
    _worker: Running,
    run: RunId,
}

impl Scene {
    /// The saga with the new journal is blocked, and its neighbours have gone on.
    async fn new() -> Self {
        let memory = MemoryStore::new();
        let old = Arc::new(Old { real: memory.clone(), fits: AtomicBool::default() });
        let memory = Backend::from(Arc::new(memory));
        let client = Client::new(memory.clone());
        let neighbour = client.start(&definition(), "a neighbour", &1).await.unwrap();
        let run = client.start(&definition(), "new", &1).await.unwrap().run();
        let backend = Backend { store: old.clone(), ..memory.clone() };
        let worker = Worker::new(backend, ()).register(&definition()).unwrap().start().await.unwrap();
        assert_eq!(neighbour.wait().await.unwrap(), Ended::Completed(2));
        let scene = Self { old, admin: Admin::new(memory.clone()), memory, _worker: worker, run };
        scene.until(State::Blocked).await;
        scene
    }

    async fn until(&self, state: State) {
        while self.memory.query.summary(self.run).await.unwrap().unwrap().state != state {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }

    async fn commits(&self) -> usize {
        self.memory.query.journal(self.run).await.unwrap().len()
    }

    async fn asked(&self, request: &Request) -> Answered {
        let by = By::new("ann", "code was deployed").unwrap();
        let patience = Duration::from_secs(30);
        self.admin.request(self.run, MailId::new(), request, &by, patience).await.unwrap().answered
    }
}

#[tokio::test(start_paused = true)]
async fn it_is_blocked_and_shown_and_goes_on_once_code_that_fits_is_there() {
    let scene = Scene::new().await;
    let summary = scene.memory.query.summary(scene.run).await.unwrap().unwrap();
    assert_eq!(summary.owner, None, "nobody holds it");
    let blocked = scene.admin.blocked(None).await.unwrap().runs;
    let [blocked] = blocked.as_slice() else { panic!("{blocked:?}") };
    assert_eq!((blocked.summary.run, blocked.stuck.cause), (scene.run, Cause::Unfit));
    let why = blocked.stuck.failure.message();
    assert!(
        why.contains("commit 0 does not decode") && why.contains("deploy the code that wrote it"),
        "{why}"
    );

    // Nobody claims it again and again.
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!(scene.commits().await, 2);

    // While the code is old, whoever asks is answered, and that is all.
    let retry = Request::Retry { at: blocked.stuck.at.clone() };
    let answered = scene.asked(&retry).await;
    assert!(
        matches!(&answered, Answered::Refused { why } if why.contains("does not decode")),
        "{answered:?}"
    );
    assert!(matches!(scene.asked(&Request::Cancel).await, Answered::Refused { .. }));
    scene.until(State::Blocked).await;
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!(scene.commits().await, 4);

    scene.old.fits.store(true, SeqCst);
    let skip = Request::Skip { at: blocked.stuck.at.clone() };
    assert!(matches!(scene.asked(&skip).await, Answered::Refused { .. }), "there is no step to skip");
    let view = scene.admin.view(scene.run).await.unwrap();
    assert_eq!(view.stuck().map(|item| item.verbs.clone()).collect::<Vec<_>>(), [vec!["retry"]]);
    assert_eq!(scene.asked(&retry).await, Answered::Accepted);
    scene.until(State::Ended(EndKind::Completed)).await;
}

#[tokio::test(start_paused = true)]
async fn it_can_be_abandoned_by_code_that_cannot_read_it() {
    let scene = Scene::new().await;
    assert_eq!(scene.asked(&Request::Abandon).await, Answered::Accepted);
    scene.until(State::Ended(EndKind::PartiallyCompensated)).await;
}
