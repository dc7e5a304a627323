//! Workers that die, leave, or share the work.

use std::sync::Arc;
use std::time::Duration;

use saga_core::engine::{Settings, Worker};
use saga_core::store::{MemoryStore, Query, State};
use saga_core::{Client, Clock, Cx, Definition, Ended, StepError, step};
use tokio::sync::Notify;

use crate::shop::Shop;

/// A step that tells when it was entered and, the first time, never answers.
#[derive(Clone, Default)]
struct Hanging {
    shop: Shop,
    entered: Arc<Notify>,
    hang: bool,
}

async fn charge(cx: Cx<Hanging>, what: String) -> Result<String, StepError> {
    let done = cx.state().shop.call(cx.key(), what)?;
    cx.state().entered.notify_one();
    if cx.state().hang {
        std::future::pending::<()>().await;
    }
    Ok(done)
}

async fn refund(cx: Cx<Hanging>, what: String, _: String) -> Result<(), StepError> {
    cx.state().shop.call(cx.key(), format!("undo {what}")).map(drop)
}

fn definition() -> Definition<Hanging, String, String> {
    let (mut b, order) = Definition::build::<Hanging, String>("pay", 1);
    let payment = b.add(step("charge", charge).compensate(refund), order);
    b.finish(payment).unwrap()
}

fn settings() -> Settings {
    Settings { lease: Duration::from_millis(300), look: Duration::from_millis(20), ..Settings::default() }
}

#[tokio::test]
async fn a_dead_workers_saga_is_taken_over_and_its_attempt_settled() {
    let store = Arc::new(MemoryStore::new());
    let first = Hanging { hang: true, ..Hanging::default() };
    let worker =
        Worker::new(store.clone(), first.clone()).register(&definition()).unwrap().settings(settings());
    let worker = worker.start().await.unwrap();
    let saga = worker.client().start(&definition(), "order-1", &"payment".to_owned()).await.unwrap();
    first.entered.notified().await;
    drop(worker); // as kill -9 would: no goodbye, the lease has to run out

    let second = Hanging { hang: false, ..first.clone() };
    let worker = Worker::new(store.clone(), second).register(&definition()).unwrap().settings(settings());
    let worker = worker.start().await.unwrap();
    assert_eq!(
        Client::new(store).saga::<String>(saga.run()).wait().await.unwrap(),
        Ended::Completed("did payment".into())
    );
    assert_eq!(first.shop.applied(), ["payment"]);
    assert_eq!(first.shop.calls("payment"), 2, "what was in doubt was asked again under its key");
    worker.drain().await;
}

#[tokio::test]
async fn a_draining_worker_gives_its_sagas_up_and_nothing_is_in_doubt() {
    let store = Arc::new(MemoryStore::new());
    let app = Hanging::default();
    let (mut b, order) = Definition::build::<Hanging, String>("pay", 1);
    let held = app.entered.clone();
    let gate = Arc::new(Notify::new());
    let opened = gate.clone();
    let first = step("first", move |_: Cx<Hanging>, what: String| {
        let (held, opened) = (held.clone(), opened.clone());
        async move {
            held.notify_one();
            opened.notified().await;
            Ok::<_, StepError>(what)
        }
    });
    let first = b.add(first.no_compensation("it only waits"), order);
    let payment = b.add(step("charge", charge).compensate(refund), first);
    let definition = b.finish(payment).unwrap();

    let worker =
        Worker::new(store.clone(), app.clone()).register(&definition).unwrap().start().await.unwrap();
    let saga = worker.client().start(&definition, "order-1", &"payment".to_owned()).await.unwrap();
    app.entered.notified().await;
    // He waits for the driver, and then for whoever has the saga next.
    let (waiter, run) = (worker.client(), saga.run());
    let told = tokio::spawn(async move { waiter.saga::<String>(run).wait().await });
    let drain = tokio::spawn(worker.drain());
    gate.notify_one();
    drain.await.unwrap();
    let summary = store.summary(saga.run()).await.unwrap().unwrap();
    assert_eq!((summary.state, summary.owner), (State::Waiting, None), "given up, ready to be claimed");
    assert_eq!(app.shop.calls("payment"), 0, "nothing new starts while a worker drains");

    let worker =
        Worker::new(store.clone(), app.clone()).register(&definition).unwrap().start().await.unwrap();
    let end = worker.client().saga::<String>(saga.run()).wait().await.unwrap();
    assert_eq!(end, Ended::Completed("did payment".into()));
    assert_eq!(app.shop.calls("payment"), 1);
    let told =
        tokio::time::timeout(Duration::from_secs(30), told).await.expect("he hears that its driver is gone");
    assert_eq!(told.unwrap().unwrap(), end);
    worker.drain().await;
}

#[tokio::test]
async fn a_saga_waits_visibly_for_a_worker_that_has_its_code() {
    let store = Arc::new(MemoryStore::new());
    let client = Client::new(store.clone());
    let saga = client.start(&definition(), "order-1", &"payment".to_owned()).await.unwrap();
    let summary = store.summary(saga.run()).await.unwrap().unwrap();
    assert_eq!((summary.state, summary.owner), (State::Running, None));
    let app = Hanging::default();
    let worker = Worker::new(store, app).register(&definition()).unwrap().start().await.unwrap();
    assert_eq!(saga.wait().await.unwrap(), Ended::Completed("did payment".into()));
    worker.drain().await;
}

#[tokio::test(start_paused = true)]
async fn a_paused_worker_takes_nothing_until_it_resumes() {
    let clock = Clock::virtual_time();
    let store = Arc::new(MemoryStore::with_clock(clock.clone()));
    let app = Hanging::default();
    let worker = Worker::new(store.clone(), app.clone()).clock(clock).register(&definition()).unwrap();
    let worker = worker.settings(Settings { paused: true, ..Settings::default() }).start().await.unwrap();
    let saga = worker.client().start(&definition(), "order-1", &"payment".to_owned()).await.unwrap();
    tokio::time::sleep(Duration::from_secs(600)).await;
    assert_eq!(store.summary(saga.run()).await.unwrap().unwrap().owner, None);
    worker.resume();
    assert_eq!(saga.wait().await.unwrap(), Ended::Completed("did payment".into()));
    assert_eq!(app.shop.calls("payment"), 1);
    worker.drain().await;
}
