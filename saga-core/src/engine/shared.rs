//! What the tasks of one worker process share.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex};

use tokio::sync::{Notify, Semaphore, mpsc, oneshot};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::committer::Committer;
use super::keeping::Keeping;
use super::registry::Registry;
use super::starter::Starter;
use super::worker::Settings;
use crate::clock::Clock;
use crate::codec::Codec;
use crate::id::RunId;
use crate::journal::End;
use crate::store::{Backend, Fence, Mail};

/// What outlives an incarnation.
pub(crate) struct Shared {
    pub(crate) backend: Backend,
    pub(crate) registry: Registry,
    pub(crate) settings: Settings,
    pub(crate) clock: Clock,
    pub(crate) keeping: Keeping,
    /// One permit per saga that is driven here.
    pub(crate) capacity: Arc<Semaphore>,
    /// One permit: suspected killers of workers run one at a time.
    pub(crate) suspects: Arc<Semaphore>,
    /// While this is true nothing is claimed and nothing starts here.
    pub(crate) paused: AtomicBool,
    /// Woken when the claimer should look now.
    pub(crate) nudge: Notify,
    /// Cancelled when the worker should drain and leave.
    pub(crate) draining: CancellationToken,
    /// The present incarnation, while there is one.
    pub(crate) incarnation: Mutex<Option<Arc<Incarnation>>>,
    waiters: Mutex<HashMap<RunId, Vec<oneshot::Sender<End>>>>,
}

/// One incarnation: from joining to leaving or being lost.
pub(crate) struct Incarnation {
    pub(crate) fence: Fence,
    pub(crate) committer: Committer,
    pub(crate) starter: Starter,
    /// Cancelled when the right to commit is gone.
    pub(crate) lost: CancellationToken,
    /// The drivers.
    pub(crate) drivers: TaskTracker,
    /// Where mail for a driven saga goes.
    pub(crate) mailboxes: Mutex<HashMap<RunId, mpsc::UnboundedSender<Mail>>>,
}

impl Shared {
    pub(crate) fn new(
        backend: Backend,
        registry: Registry,
        settings: Settings,
        clock: Clock,
        codec: Option<Codec>,
    ) -> Self {
        Self {
            backend,
            registry,
            keeping: Keeping { codec, bytes_max: settings.payload_bytes_max },
            capacity: Arc::new(Semaphore::new(settings.sagas)),
            paused: AtomicBool::new(settings.paused),
            settings,
            clock,
            suspects: Arc::new(Semaphore::new(1)),
            nudge: Notify::new(),
            draining: CancellationToken::new(),
            incarnation: Mutex::new(None),
            waiters: Mutex::default(),
        }
    }

    /// The present incarnation, if it may take new work.
    pub(crate) fn serving(&self) -> Option<Arc<Incarnation>> {
        if self.draining.is_cancelled() || self.paused.load(Relaxed) {
            return None;
        }
        let incarnation = self.incarnation.lock().expect(LOCK).clone()?;
        (!incarnation.lost.is_cancelled()).then_some(incarnation)
    }

    /// Resolves when a driver of this process ends the run, or drives it no more (`None`); never, if none drives it.
    /// Whoever is told the latter finds out from the store what became of it.
    pub(crate) fn ended(&self, run: RunId) -> impl Future<Output = Option<End>> + '_ {
        let (sender, end) = oneshot::channel();
        self.waiters.lock().expect(LOCK).entry(run).or_default().push(sender);
        let mut listening = Listening { shared: self, run, end };
        async move { (&mut listening.end).await.ok() }
    }

    /// Whether a driver of this process has the run.
    pub(crate) fn is_driven(&self, run: RunId) -> bool {
        let incarnation = self.incarnation.lock().expect(LOCK).clone();
        incarnation.is_some_and(|present| present.mailboxes.lock().expect(LOCK).contains_key(&run))
    }

    /// Forgets waiters that nobody listens to any more.
    fn forget(&self, run: RunId) {
        let mut waiters = self.waiters.lock().expect(LOCK);
        if let Some(senders) = waiters.get_mut(&run) {
            senders.retain(|sender| !sender.is_closed());
            if senders.is_empty() {
                waiters.remove(&run);
            }
        }
    }

    /// Tells everyone in this process who waits for the run that its driver is gone.
    pub(crate) fn dismiss(&self, run: RunId) {
        drop(self.waiters.lock().expect(LOCK).remove(&run));
    }

    /// Tells everyone in this process who waits for the run.
    pub(crate) fn announce(&self, run: RunId, end: &End) {
        for waiter in self.waiters.lock().expect(LOCK).remove(&run).into_iter().flatten() {
            let _ = waiter.send(end.clone());
        }
    }
}

/// Somebody who waits for a run's end. Whether he hears of it or goes away, nothing of him stays.
struct Listening<'a> {
    shared: &'a Shared,
    run: RunId,
    end: oneshot::Receiver<End>,
}

impl Drop for Listening<'_> {
    fn drop(&mut self) {
        self.end.close();
        self.shared.forget(self.run);
    }
}

/// Why a lock is never poisoned.
pub(crate) const LOCK: &str = "nothing panics while it holds this lock";
