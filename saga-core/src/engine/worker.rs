//! The worker: what an application runs to have its sagas driven.

use std::fmt;
use std::ops::Range;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::registry::{Registry, Unregistrable};
use super::shared::{Incarnation, LOCK, Shared};
use super::{changed, committer, lease, retention, serve, starter};
use crate::client::Client;
use crate::clock::Clock;
use crate::codec::Codec;
use crate::id::WorkerId;
use crate::saga::Definition;
use crate::step::Limits;
use crate::store::{Backend, Error, Manifest, NewWorker};

/// How a worker behaves.
#[derive(Clone, Debug)]
pub struct Settings {
    /// How long the worker's renewals may be missing before others take its sagas over; 15 s. Shorter
    /// leases find a dead worker sooner and bear shorter pauses of the database.
    pub lease: Duration,
    /// How often the worker looks at the others, at most; 500 ms. Where the store knows at once that a
    /// process is gone (SQLite), this is how soon its sagas are taken over.
    pub look: Duration,
    /// How long the claimer pauses: the first value after something was found, doubling to the second
    /// while nothing is; 20 ms to 500 ms.
    pub poll: Range<Duration>,
    /// How many sagas are driven at once; 2,048. Sagas that wait do not count.
    pub sagas: usize,
    /// How many attempts run at once, and start per time, of all definitions together; no limit.
    pub limits: Limits,
    /// A saga that is due again within this time is kept in memory instead of being given up; 2 s.
    pub hold: Duration,
    /// How many bytes of JSON a step may give; [`Payload::BYTES_MAX`](crate::Payload::BYTES_MAX). A larger
    /// output blocks its saga, because the effect happened and its result cannot be kept.
    pub payload_bytes_max: usize,
    /// How long attempts that are under way may take to end when the worker drains; 10 s.
    pub grace: Duration,
    /// How long the journal of a saga that has ended is kept; for ever. What a late start needs is kept in
    /// any case. After a journal go the [blobs](crate::codec::Blobs) of its run, by any worker that has a retention and
    /// their store.
    pub retention: Option<Duration>,
    /// Whether the worker joins without taking anything, until [`Running::resume`]; no. After an outage an
    /// operator may want to look first.
    pub paused: bool,
    /// What people see of this worker; by default the process id.
    pub label: String,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            lease: Duration::from_secs(15),
            look: Duration::from_millis(500),
            poll: Duration::from_millis(20)..Duration::from_millis(500),
            sagas: 2048,
            limits: Limits::default(),
            hold: Duration::from_secs(2),
            payload_bytes_max: crate::Payload::BYTES_MAX,
            grace: Duration::from_secs(10),
            retention: None,
            paused: false,
            label: format!("pid {}", std::process::id()),
        }
    }
}

/// A worker under construction, or running.
///
/// ```no_run
/// # use saga_core::{engine::Worker, store::MemoryStore, Definition, Cx, StepError, step};
/// # use std::sync::Arc;
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # #[derive(Clone)] struct App;
/// let (mut b, order) = Definition::build::<App, u32>("greet", 1);
/// let greeted = b.add(step("greet", async |_: Cx<App>, n: u32| Ok::<_, StepError>(n + 1)).no_compensation("a greeting harms nobody"), order);
/// let greet = b.finish(greeted)?;
///
/// let worker = Worker::new(Arc::new(MemoryStore::new()), App).register(&greet)?.start().await?;
/// let saga = worker.client().start(&greet, "order-1", &41).await?;
/// println!("{:?}", saga.wait().await?);
/// worker.drain().await;
/// # Ok(()) }
/// ```
pub struct Worker<A> {
    backend: Backend,
    app: A,
    registry: Registry,
    settings: Settings,
    clock: Clock,
    codec: Option<Codec>,
}

impl<A: Clone + Send + Sync + 'static> Worker<A> {
    /// A worker on a store, for an application.
    pub fn new(backend: impl Into<Backend>, app: A) -> Self {
        Self {
            backend: backend.into(),
            app,
            registry: Registry::default(),
            settings: Settings::default(),
            clock: Clock::default(),
            codec: None,
        }
    }

    /// Gives it the code of a definition. Several versions of one definition stand side by side.
    ///
    /// Refused where the definition is registered with other steps, and where a transactional step takes a
    /// transaction that the worker's store does not lend.
    pub fn register<In, Out>(mut self, definition: &Definition<A, In, Out>) -> Result<Self, Unregistrable> {
        self.registry.add(definition, &self.app, self.backend.lender.as_ref())?;
        Ok(self)
    }

    /// Wraps the code of every definition that is registered from now on; for tests.
    #[cfg(any(test, feature = "testing"))]
    pub(crate) fn wrap_code(mut self, wrap: super::registry::Wrap) -> Self {
        self.registry.wrap(wrap);
        self
    }

    /// The manifests of what was registered. Have your CI write them as JSON, for `saga check` to compare
    /// with what is in flight before a deploy.
    pub fn manifests(&self) -> Vec<Manifest> {
        self.registry.manifests()
    }

    /// Changes its settings.
    #[must_use]
    pub fn settings(mut self, settings: Settings) -> Self {
        self.settings = settings;
        self
    }

    /// Has payloads sealed or offloaded on their way to the journal. Every worker and client of these sagas needs
    /// the same.
    #[must_use]
    pub fn codec(mut self, codec: Codec) -> Self {
        self.codec = Some(codec);
        self
    }

    /// Gives it another clock; for tests in virtual time.
    #[must_use]
    pub fn clock(mut self, clock: Clock) -> Self {
        self.clock = clock;
        self
    }

    /// Joins the store and begins to drive sagas, in tasks of the current tokio runtime.
    ///
    /// Fails when the store cannot be reached now. Later outages are survived: when the lease is lost,
    /// the worker joins again as a new incarnation.
    ///
    /// # Errors
    ///
    /// [`Error::Unusable`] where a definition was changed without a new version while sagas of the old one are in
    /// flight; the message names what changed.
    pub async fn start(mut self) -> Result<Running, Error> {
        self.registry.limit_all(&self.settings.limits);
        let shared =
            Arc::new(Shared::new(self.backend, self.registry, self.settings, self.clock, self.codec));
        let manifests = shared.registry.manifests();
        changed::refuse(&shared.backend, &manifests, &shared.clock).await?;
        shared.backend.store.register(&manifests).await?;
        let incarnation = join(&shared).await?;
        let task = tokio::spawn(live(shared.clone(), incarnation));
        Ok(Running { shared, task })
    }
}

impl<A> fmt::Debug for Worker<A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Worker").field("settings", &self.settings).finish_non_exhaustive()
    }
}

/// A worker that drives sagas. Dropping it stops it at once, as a crash would; [`Running::drain`] is
/// the polite way.
pub struct Running {
    shared: Arc<Shared>,
    task: JoinHandle<()>,
}

impl Running {
    /// A client whose starts this worker drives at once, without a poll.
    pub fn client(&self) -> Client {
        Client::local(self.shared.clone())
    }

    /// The present incarnation's id, while there is one.
    pub fn id(&self) -> Option<WorkerId> {
        self.shared.incarnation.lock().expect(LOCK).as_ref().map(|incarnation| incarnation.fence.worker)
    }

    /// How many sagas are driven at this moment.
    pub fn live(&self) -> usize {
        self.shared.settings.sagas - self.shared.capacity.available_permits()
    }

    /// Takes no further sagas; those that are driven here go on.
    pub fn pause(&self) {
        self.shared.paused.store(true, Relaxed);
    }

    /// Takes sagas again.
    pub fn resume(&self) {
        self.shared.paused.store(false, Relaxed);
        self.shared.nudge.notify_one();
    }

    /// Stops claiming, lets attempts that are under way end within the grace time, gives every saga up
    /// so that others can take it at once, and leaves.
    pub async fn drain(mut self) {
        self.shared.draining.cancel();
        if let Err(error) = (&mut self.task).await {
            tracing::error!(%error, "the worker ended badly");
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.task.abort();
        if let Some(incarnation) = self.shared.incarnation.lock().expect(LOCK).take() {
            incarnation.lost.cancel();
        }
    }
}

impl fmt::Debug for Running {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Running").field("id", &self.id()).field("live", &self.live()).finish()
    }
}

/// Joins as a new incarnation.
async fn join(shared: &Arc<Shared>) -> Result<Arc<Incarnation>, Error> {
    let (lease, label) = (shared.settings.lease, shared.settings.label.clone());
    let fence = shared.backend.store.join(&NewWorker { id: WorkerId::new(), label, lease }).await?;
    let lost = CancellationToken::new();
    let incarnation = Arc::new(Incarnation {
        fence,
        committer: committer::spawn(shared.backend.store.clone(), fence, lost.clone(), shared.clock.clone()),
        starter: starter::spawn(shared.backend.store.clone(), Some(fence), shared.clock.clone()),
        lost,
        drivers: TaskTracker::new(),
        mailboxes: Mutex::default(),
    });
    *shared.incarnation.lock().expect(LOCK) = Some(incarnation.clone());
    Ok(incarnation)
}

/// Serves as one incarnation after another, until it drains.
async fn live(shared: Arc<Shared>, mut incarnation: Arc<Incarnation>) {
    loop {
        let keeper = tokio::spawn(lease::keep(shared.clone(), incarnation.clone()));
        tokio::spawn(retention::keep(shared.clone(), incarnation.clone()));
        serve::claim(shared.clone(), incarnation.clone()).await;
        if shared.draining.is_cancelled() {
            leave(&shared, &incarnation).await;
            keeper.abort();
            return;
        }
        keeper.abort();
        incarnation.drivers.close();
        incarnation.drivers.wait().await;
        match shared.draining.run_until_cancelled(rejoin(&shared)).await {
            Some(joined) => incarnation = joined,
            None => {
                // It owns nothing any more. What it was joined as is taken over, if anything.
                *shared.incarnation.lock().expect(LOCK) = None;
                return;
            }
        }
    }
}

/// The polite end: drivers finish or give up, then the worker fences itself, so that whatever it could
/// not give up is taken over without anybody observing its lease.
async fn leave(shared: &Arc<Shared>, incarnation: &Arc<Incarnation>) {
    incarnation.drivers.close();
    if tokio::time::timeout(shared.settings.grace, incarnation.drivers.wait()).await.is_err() {
        let left = incarnation.drivers.len();
        tracing::warn!(sagas = left, "the grace time is over; their running attempts are left in doubt");
    }
    incarnation.lost.cancel();
    incarnation.drivers.wait().await;
    if let Err(error) = shared.backend.store.fence(incarnation.fence.worker).await {
        tracing::warn!(%error, "could not leave; others will notice when the lease runs out");
    }
    *shared.incarnation.lock().expect(LOCK) = None;
}

async fn rejoin(shared: &Arc<Shared>) -> Arc<Incarnation> {
    let mut pause = Duration::from_millis(100);
    loop {
        match join(shared).await {
            Ok(incarnation) => {
                tracing::info!(worker = %incarnation.fence.worker, "joined again as a new incarnation");
                return incarnation;
            }
            Err(error) => tracing::warn!(%error, "could not join again yet"),
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(Duration::from_secs(5));
    }
}
