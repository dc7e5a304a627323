//! Steps that kill their workers, and kills that have nothing to do with steps.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::time::Duration;

use saga_core::engine::Running;
use saga_core::store::{MemoryStore, Query, State};
use saga_core::{Client, Clock, Cx, Definition, Ended, StepError, Worker, step};
use tokio::sync::Semaphore;

/// Attempts are entered, and hang while workers are being killed.
#[derive(Clone)]
struct App {
    entered: Arc<Semaphore>,
    calm: Arc<AtomicBool>,
}

fn definition() -> Definition<App, u32, u32> {
    let (mut b, n) = Definition::build::<App, u32>("risky", 1);
    let risky = step("risky", async |cx: Cx<App>, n: u32| {
        cx.state().entered.add_permits(1);
        if !cx.state().calm.load(SeqCst) {
            std::future::pending::<()>().await;
        }
        Ok::<_, StepError>(n)
    });
    let done = b.add(risky.no_compensation("it only waits").attempt_timeout(Duration::from_secs(3600)), n);
    b.finish(done).unwrap()
}

struct Scene {
    store: Arc<MemoryStore>,
    clock: Clock,
    app: App,
}

impl Scene {
    fn new() -> Self {
        let clock = Clock::virtual_time();
        let app = App { entered: Arc::new(Semaphore::new(0)), calm: Arc::default() };
        Self { store: Arc::new(MemoryStore::with_clock(clock.clone())), clock, app }
    }

    async fn start(&self, sagas: u32) -> Vec<saga_core::Saga<u32>> {
        let client = Client::new(self.store.clone());
        let mut started = Vec::new();
        for n in 0..sagas {
            started.push(client.start(&definition(), &n.to_string(), &n).await.unwrap());
        }
        started
    }

    async fn worker(&self) -> Running {
        let worker = Worker::new(self.store.clone(), self.app.clone()).clock(self.clock.clone());
        worker.register(&definition()).unwrap().start().await.unwrap()
    }

    /// A worker that is killed as soon as an attempt runs and nothing else happens for a minute.
    async fn kill_one(&self) {
        let worker = self.worker().await;
        self.app.entered.acquire().await.unwrap().forget();
        tokio::time::sleep(Duration::from_secs(60)).await;
        self.app.entered.forget_permits(usize::MAX >> 4);
        drop(worker);
    }
}

#[tokio::test(start_paused = true)]
async fn a_step_that_kills_every_worker_is_blocked_after_it_died_alone() {
    let scene = Scene::new();
    let saga = scene.start(1).await.remove(0);
    for _ in 0..6 {
        scene.kill_one().await;
    }
    let worker = scene.worker().await;
    while scene.store.summary(saga.run()).await.unwrap().unwrap().state != State::Blocked {
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    let journal = scene.store.journal(saga.run()).await.unwrap();
    let last = &journal.last().unwrap().body;
    assert!(last.contains("deadly") && last.contains("6 workers died"), "{last}");
    worker.drain().await;
}

#[tokio::test(start_paused = true)]
async fn ten_kills_in_a_row_block_none_of_four_sagas() {
    let scene = Scene::new();
    let sagas = scene.start(4).await;
    for _ in 0..10 {
        scene.kill_one().await;
    }
    scene.app.calm.store(true, SeqCst);
    let worker = scene.worker().await;
    for (n, saga) in sagas.iter().enumerate() {
        assert_eq!(saga.wait().await.unwrap(), Ended::Completed(u32::try_from(n).unwrap()));
    }
    worker.drain().await;
}
