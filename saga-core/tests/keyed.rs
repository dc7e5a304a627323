//! Of all sagas that are started under one key, one is under way at a time.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use saga_core::engine::{Running, Settings};
use saga_core::journal::EndKind;
use saga_core::saga::Plan;
use saga_core::store::{Backend, Manifest, MemoryStore, State, Store};
use saga_core::{
    Client, Clock, Cx, Definition, Ended, Payload, Provides, StepError, Worker, admin::Admin, client, step,
    step::child,
};
use tokio::sync::Semaphore;

/// What the steps of all sagas share.
#[derive(Clone, Default)]
struct App {
    /// How many actions are under way under each key, and how many there were.
    under_way: Arc<Mutex<HashMap<String, usize>>>,
    done: Arc<Mutex<Vec<String>>>,
    broken: Arc<Mutex<Vec<String>>>,
    /// What `hold` waits for.
    gate: Arc<Gate>,
    client: Option<Client>,
}

impl Provides<Client> for App {
    fn provide(&self) -> Client {
        self.client.clone().expect("only where there are children")
    }
}

/// Closed at first.
struct Gate(Semaphore);

impl Default for Gate {
    fn default() -> Self {
        Self(Semaphore::new(0))
    }
}

/// Ends with the action, however that ends.
struct Inside(App, String);

impl App {
    fn enter(&self, key: &str) -> Inside {
        let mut under_way = self.under_way.lock().unwrap();
        let count = under_way.entry(key.to_owned()).or_default();
        *count += 1;
        if *count > 1 {
            self.broken.lock().unwrap().push(format!("{count} actions at once under {key}"));
        }
        Inside(self.clone(), key.to_owned())
    }
}

impl Drop for Inside {
    fn drop(&mut self) {
        *self.0.under_way.lock().unwrap().get_mut(&self.1).unwrap() -= 1;
    }
}

/// The input is the key.
async fn work(cx: Cx<App>, key: String) -> Result<String, StepError> {
    let _inside = cx.state().enter(&key);
    tokio::time::sleep(Duration::from_millis(20)).await;
    cx.state().done.lock().unwrap().push(cx.saga().to_owned());
    Ok(key)
}

async fn undo(cx: Cx<App>, key: String, _: String) -> Result<(), StepError> {
    let _inside = cx.state().enter(&key);
    tokio::time::sleep(Duration::from_millis(20)).await;
    Ok(())
}

async fn hold(cx: Cx<App>, key: String) -> Result<String, StepError> {
    cx.state().gate.0.acquire().await.unwrap().forget();
    Ok(key)
}

fn two_steps() -> Definition<App, String, String> {
    let (mut b, key) = Definition::build::<App, String>("two-steps", 1);
    b.key(|key: &String| key.clone());
    let first = b.add(step("first", work).compensate(undo), key);
    let second = b.add(step("second", work).compensate(undo), first);
    b.finish(second).unwrap()
}

fn holding() -> Definition<App, String, String> {
    let (mut b, key) = Definition::build::<App, String>("holding", 1);
    let held = b.add(step("hold", hold).no_compensation("it only waits"), key);
    b.finish(held).unwrap()
}

async fn worker(backend: impl Into<Backend>, app: App, settings: Settings, clock: Clock) -> Running {
    let worker = Worker::new(backend, app).settings(settings).clock(clock);
    let worker = worker.register(&two_steps()).unwrap().register(&holding()).unwrap();
    worker.start().await.unwrap()
}

/// A worker that looks for work once in an hour unless it is told.
async fn lazy(store: &Arc<MemoryStore>, app: &App) -> Running {
    let hour = Duration::from_secs(3600);
    let settings = Settings { poll: hour..hour, ..Settings::default() };
    worker(store.clone(), app.clone(), settings, Clock::default()).await
}

async fn until(admin: &Admin, run: saga_core::RunId, state: State) {
    while admin.summary(run).await.unwrap().state != state {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

/// Workers die while sagas of three keys are under way, and others take them over.
#[tokio::test(start_paused = true)]
async fn no_two_are_under_way_at_once_whoever_dies() {
    let seed: u64 = std::env::var("SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or_else(rand);
    println!("SEED={seed}");
    let mut random = seed;
    let mut below = move |most: u64| {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (random >> 33) % most
    };
    let clock = Clock::virtual_time();
    let store = Arc::new(MemoryStore::with_clock(clock.clone()));
    let app = App::default();
    let settings = Settings {
        lease: Duration::from_secs(1),
        look: Duration::from_millis(100),
        poll: Duration::from_millis(5)..Duration::from_millis(50),
        ..Settings::default()
    };
    let enter = || worker(store.clone(), app.clone(), settings.clone(), clock.clone());
    let mut workers = [enter().await, enter().await];
    let mut sagas = Vec::new();
    for round in 0..60 {
        let key = format!("key-{}", below(3));
        // Half of them by a worker that may own it, the others by nobody.
        let client = if below(2) == 0 { workers[0].client() } else { Client::new(store.clone()) };
        sagas.push(client.start(&two_steps(), &format!("saga-{round}"), &key).await.unwrap().run());
        if below(4) == 0 {
            let victim = below(2) as usize;
            drop(std::mem::replace(&mut workers[victim], enter().await));
        }
        tokio::time::sleep(Duration::from_millis(below(40))).await;
    }
    let client = Client::new(store.clone());
    for run in sagas {
        assert_eq!(client.wait(run).await.unwrap().kind(), EndKind::Completed, "SEED={seed}");
    }
    assert_eq!(*app.broken.lock().unwrap(), Vec::<String>::new(), "SEED={seed}");
}

fn rand() -> u64 {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_nanos() as u64
}

#[tokio::test]
async fn a_release_wakes_the_next_without_a_poll() {
    let (store, app) = (Arc::new(MemoryStore::new()), App::default());
    let worker = lazy(&store, &app).await;
    let client = worker.client();
    let mut sagas = Vec::new();
    for n in 0..10 {
        sagas.push(client.start(&two_steps(), &format!("{n}"), &"k".to_owned()).await.unwrap());
    }
    for saga in &sagas {
        assert_eq!(saga.wait().await.unwrap(), Ended::Completed("k".into()));
    }
    let done = app.done.lock().unwrap().clone();
    let wanted: Vec<_> = (0..10).flat_map(|n| [n.to_string(), n.to_string()]).collect();
    assert_eq!(done, wanted, "one after the other, in the order of their starts");
    assert_eq!(*app.broken.lock().unwrap(), Vec::<String>::new());
    worker.drain().await;
}

#[tokio::test]
async fn who_waits_and_for_whom_is_seen_and_may_be_cancelled() {
    let (store, app) = (Arc::new(MemoryStore::new()), App::default());
    let admin = Admin::new(store.clone());
    let worker = worker(store.clone(), app.clone(), Settings::default(), Clock::default()).await;
    let client = worker.client();
    let holder = client.start(&holding(), "holder", &"x".to_owned()).key("k").await.unwrap();
    let other = client.start(&holding(), "other", &"x".to_owned()).key("l").await.unwrap();
    let waits = client.start(&two_steps(), "waits", &"k".to_owned()).await.unwrap();
    let second = client.start(&two_steps(), "second", &"k".to_owned()).await.unwrap();
    until(&admin, waits.run(), State::Queued).await;
    let seen = admin.summary(waits.run()).await.unwrap();
    assert_eq!(seen.key.as_ref().map(|key| key.as_str()), Some("k"));
    assert_eq!((seen.key_held_by, seen.owner), (Some(holder.run()), None));
    assert_eq!(admin.summary(other.run()).await.unwrap().state, State::Running, "another key, another queue");

    waits.cancel("changed my mind").await.unwrap();
    let Ended::Compensated(cause) = waits.wait().await.unwrap() else { panic!("it did nothing") };
    assert!(cause.message().contains("changed my mind"), "{cause}");
    assert_eq!(
        admin.summary(holder.run()).await.unwrap().state,
        State::Running,
        "it holds its key as before"
    );

    app.gate.0.add_permits(10);
    assert_eq!(holder.wait().await.unwrap(), Ended::Completed("x".into()));
    assert_eq!(second.wait().await.unwrap(), Ended::Completed("k".into()));
    assert_eq!(*app.done.lock().unwrap(), ["second", "second"]);
    other.wait().await.unwrap();
    worker.drain().await;
}

#[tokio::test(start_paused = true)]
async fn a_deadline_holds_while_a_saga_waits_for_its_key() {
    let clock = Clock::virtual_time();
    let store = Arc::new(MemoryStore::with_clock(clock.clone()));
    let app = App::default();
    let (mut b, key) = Definition::build::<App, String>("hasty", 1);
    b.deadline(Duration::from_secs(60)).key(|key: &String| key.clone());
    let first = b.add(step("first", work).compensate(undo), key);
    let hasty = b.finish(first).unwrap();
    let worker = Worker::new(store.clone(), app.clone()).clock(clock).register(&hasty).unwrap();
    let worker = worker.register(&holding()).unwrap().start().await.unwrap();
    let client = worker.client();
    let holder = client.start(&holding(), "holder", &"x".to_owned()).key("k").await.unwrap();
    let late = client.start(&hasty, "late", &"k".to_owned()).await.unwrap();
    let Ended::Compensated(cause) = late.wait().await.unwrap() else { panic!("its time is over") };
    assert!(cause.message().contains("deadline"), "{cause}");
    assert_eq!(*app.done.lock().unwrap(), Vec::<String>::new());
    app.gate.0.add_permits(10);
    holder.wait().await.unwrap();
    worker.drain().await;
}

#[tokio::test]
async fn a_child_that_needs_the_key_of_its_parent_is_refused() {
    let store = Arc::new(MemoryStore::new());
    let app = App { client: Some(Client::new(store.clone())), ..App::default() };
    let inner = two_steps();
    let (mut b, key) = Definition::build::<App, String>("outer", 1);
    let ran = b.add(child("inner", &inner).no_compensation("the test looks at the refusal only"), key);
    let outer = b.finish(ran).unwrap();
    let worker = Worker::new(store.clone(), app.clone()).register(&inner).unwrap();
    let worker = worker.register(&outer).unwrap().start().await.unwrap();
    let client = worker.client();
    let deadlock = client.start(&outer, "1", &"k".to_owned()).key("k").await.unwrap();
    let Ended::Compensated(cause) = deadlock.wait().await.unwrap() else {
        panic!("it would wait for itself")
    };
    assert!(cause.message().contains("key \"k\" is held by a saga that starts this one"), "{cause}");
    assert_eq!(*app.done.lock().unwrap(), Vec::<String>::new());
    let fine = client.start(&outer, "2", &"k".to_owned()).key("another").await.unwrap();
    assert_eq!(fine.wait().await.unwrap(), Ended::Completed("k".into()));
    worker.drain().await;
}

#[tokio::test]
async fn keys_are_checked_before_anything_is_sent() {
    let client = Client::new(Arc::new(MemoryStore::new()));
    let key = "k".to_owned();
    let long = client.start(&two_steps(), "1", &"k".repeat(256)).await.unwrap_err();
    assert!(matches!(&long, client::Error::BadKey(_)), "{long}");
    let empty = client.start(&two_steps(), "1", &key).key("").await.unwrap_err();
    assert!(empty.to_string().contains("1 to 255 characters"), "{empty}");
    // A program that knows the definition by its manifest only has no code that chooses the key. An earlier release
    // registered it without one.
    let store = Arc::new(MemoryStore::new());
    let mut plan = Plan::clone(two_steps().plan());
    plan.keyed = false;
    store.register(&[Manifest::of(&plan)]).await.unwrap();
    let worker = worker(store.clone(), App::default(), Settings::default(), Clock::default()).await;
    let stranger = Client::new(store);
    let (name, input) = (two_steps().plan().name.clone(), Payload::encode(&key).unwrap());
    let start = async || stranger.start_named(&name, 1, "1", input.clone()).await.unwrap();
    let refused = start().await.await.unwrap_err();
    assert!(matches!(&refused, client::Error::NeedsKey { .. }), "{refused}");
    let saga = start().await.key("k").await.unwrap();
    assert_eq!(saga.wait().await.unwrap().kind(), EndKind::Completed);
    worker.drain().await;
}
