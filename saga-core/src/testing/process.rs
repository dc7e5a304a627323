//! A process that can be killed, frozen and thawed at a chosen moment.

use std::fmt;
use std::future::Future;
use std::pin::pin;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex};

use tokio::sync::Notify;

/// One process of a test, as its [`FaultyStore`](super::FaultyStore) and its calls see it.
///
/// What a dead process was about to do never happens; what a frozen one was about to do happens when
/// it is thawed, however late. Nothing else of it is stopped: timers run on and its lease seems to be
/// renewed, which makes it the worst of zombies, one that is certain to be alive.
///
/// Cheap to clone; clones are the same process.
#[derive(Clone)]
pub struct Process {
    number: usize,
    mode: Arc<Mutex<Mode>>,
    /// Wakes those who wait in the order in which they came, so that a plan is the same run each time. (The channels
    /// of tokio that many can watch wake them in a random order.)
    changed: Arc<Notify>,
    doomed: Arc<AtomicBool>,
    zombie: Arc<AtomicBool>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mode {
    Alive,
    Frozen,
    Dead,
}

impl Process {
    /// A process that is alive. The number is for people.
    pub fn new(number: usize) -> Self {
        Self {
            number,
            mode: Arc::new(Mutex::new(Mode::Alive)),
            changed: Arc::default(),
            doomed: Arc::default(),
            zombie: Arc::default(),
        }
    }

    /// Its number.
    pub fn number(&self) -> usize {
        self.number
    }

    /// It does nothing more, ever.
    pub fn kill(&self) {
        self.turn(|_| Mode::Dead);
    }

    /// It stands still until it is thawed.
    pub fn freeze(&self) {
        self.zombie.store(true, Relaxed);
        self.turn(|mode| if mode == Mode::Alive { Mode::Frozen } else { mode });
    }

    /// It goes on from where it was frozen, if it was.
    pub fn thaw(&self) {
        self.turn(|mode| if mode == Mode::Frozen { Mode::Alive } else { mode });
    }

    /// Whether it is frozen now.
    pub fn is_frozen(&self) -> bool {
        self.mode() == Mode::Frozen
    }

    /// Whether it is dead.
    pub fn is_dead(&self) -> bool {
        self.mode() == Mode::Dead
    }

    fn mode(&self) -> Mode {
        *self.mode.lock().expect("nothing panics while it holds a mode")
    }

    fn turn(&self, to: impl FnOnce(Mode) -> Mode) {
        {
            let mut mode = self.mode.lock().expect("nothing panics while it holds a mode");
            *mode = to(*mode);
        }
        self.changed.notify_waiters();
    }

    /// It dies at the next point it reaches.
    pub(super) fn doom(&self) {
        self.doomed.store(true, Relaxed);
    }

    pub(super) fn is_doomed(&self) -> bool {
        self.doomed.load(Relaxed)
    }

    /// Another worker took its lease while it thought itself the owner.
    pub(super) fn outlive_its_lease(&self) {
        self.zombie.store(true, Relaxed);
    }

    /// Whether it may ever have acted on what it no longer owned.
    pub(super) fn was_zombie(&self) -> bool {
        self.zombie.load(Relaxed)
    }

    /// Resolves once the process is alive; never, if it is dead.
    pub(super) async fn pass(&self) {
        self.until(|mode| mode == Mode::Alive).await;
    }

    /// Drives `work` while the process is alive.
    pub(super) async fn live<F: Future>(&self, work: F) -> F::Output {
        let mut work = pin!(work);
        loop {
            self.pass().await;
            tokio::select! {
                biased;
                () = self.until(|mode| mode != Mode::Alive) => {}
                out = &mut work => {
                    self.pass().await;
                    return out;
                }
            }
        }
    }

    async fn until(&self, wanted: impl Fn(Mode) -> bool) {
        loop {
            let mut changed = pin!(self.changed.notified());
            // First listen, then look.
            changed.as_mut().enable();
            if wanted(self.mode()) {
                return;
            }
            changed.await;
        }
    }
}

impl fmt::Debug for Process {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Process({}, {:?})", self.number, self.mode())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicU32;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_frozen_process_goes_on_when_thawed_and_a_dead_one_never() {
        let process = Process::new(0);
        let steps = Arc::new(AtomicU32::new(0));
        let (inner, count) = (process.clone(), steps.clone());
        let task = tokio::spawn(async move {
            inner
                .live(async {
                    for _ in 0..3 {
                        count.fetch_add(1, Relaxed);
                        tokio::time::sleep(std::time::Duration::from_secs(1)).await;
                    }
                })
                .await;
        });
        let hours = || tokio::time::sleep(std::time::Duration::from_secs(3600));
        process.freeze();
        hours().await;
        assert_eq!(steps.load(Relaxed), 0);
        process.thaw();
        tokio::time::sleep(std::time::Duration::from_millis(1500)).await;
        assert_eq!(steps.load(Relaxed), 2);
        process.kill();
        process.thaw();
        hours().await;
        assert_eq!(steps.load(Relaxed), 2);
        assert!(!task.is_finished());
        task.abort();
    }
}
