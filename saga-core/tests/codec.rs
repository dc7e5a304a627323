//! Payloads that the journal does not hold: sealed, offloaded, or both.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU32, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use saga_core::admin::{Admin, By, Look, Request};
use saga_core::codec::{BlobError, Blobs, Codec, Keyring};
use saga_core::engine::{Running, Settings};
use saga_core::store::{MemoryStore, Query, State};
use saga_core::{Client, Cx, Definition, Ended, MailId, Retry, RunId, StepError, Worker, client, step};
use serde_json::{Value, json};
use tokio::sync::Semaphore;

/// A store of blobs that can be away, forget, and lie.
#[derive(Default)]
struct Shelf {
    blobs: Mutex<BTreeMap<String, Vec<u8>>>,
    /// How many of the next calls fail.
    away: AtomicU32,
}

impl Shelf {
    fn answers(&self) -> Result<(), BlobError> {
        let away = self.away.fetch_update(SeqCst, SeqCst, |left| left.checked_sub(1)).is_ok();
        if away { Err("the shelf is away".into()) } else { Ok(()) }
    }

    /// The runs that it has something of.
    fn runs(&self) -> Vec<String> {
        let blobs = self.blobs.lock().unwrap();
        let mut runs: Vec<String> = blobs.keys().map(|name| name.split('/').next().unwrap().into()).collect();
        runs.dedup();
        runs
    }

    fn change(&self, change: impl Fn(&mut Vec<u8>)) {
        self.blobs.lock().unwrap().values_mut().for_each(change);
    }
}

#[async_trait]
impl Blobs for Shelf {
    async fn put(&self, name: &str, bytes: &[u8]) -> Result<(), BlobError> {
        self.answers()?;
        self.blobs.lock().unwrap().insert(name.into(), bytes.into());
        Ok(())
    }

    async fn get(&self, name: &str) -> Result<Option<Vec<u8>>, BlobError> {
        self.answers()?;
        Ok(self.blobs.lock().unwrap().get(name).cloned())
    }

    async fn runs(&self, after: Option<&str>, limit: usize) -> Result<Vec<String>, BlobError> {
        self.answers()?;
        let mut runs: Vec<String> = self.runs();
        runs.retain(|run| after.is_none_or(|after| run.as_str() > after));
        runs.truncate(limit);
        Ok(runs)
    }

    async fn remove(&self, run: &str) -> Result<(), BlobError> {
        self.answers()?;
        self.blobs.lock().unwrap().retain(|name, _| !name.starts_with(&format!("{run}/")));
        Ok(())
    }
}

/// What steps share.
#[derive(Clone)]
struct App {
    /// What `join` waits for.
    gate: Arc<Semaphore>,
    undone: Arc<Mutex<Vec<String>>>,
}

impl App {
    fn new(open: bool) -> Self {
        Self { gate: Arc::new(Semaphore::new(if open { 100 } else { 0 })), undone: Arc::default() }
    }
}

const SECRET: &str = "4111-1111";

fn secret(what: &str) -> String {
    format!("{what} for {SECRET}")
}

async fn undo(cx: Cx<App>, input: String, output: String) -> Result<(), StepError> {
    cx.state().undone.lock().unwrap().push(format!("{input} -> {output}"));
    Ok(())
}

/// `first`, a derived list, one step for each of its items, and a step that reads all of it.
fn definition() -> Definition<App, String, String> {
    let (mut b, card) = Definition::build::<App, String>("secretive", 1);
    let first = step("first", async |_: Cx<App>, card: String| Ok::<_, StepError>(format!("first {card}")));
    let first = b.add(first.compensate(undo), card);
    let lines = b.derive("lines", |card: &String| vec![format!("a {card}"), format!("b {card}")], card);
    let each = step("each", async |_: Cx<App>, line: String| Ok::<_, StepError>(format!("did {line}")));
    let each = b.each(each.compensate(undo), lines);
    let join = step("join", async |cx: Cx<App>, (first, all): (String, Vec<String>)| {
        cx.state().gate.acquire().await.unwrap().forget();
        match first.contains("refuse") {
            true => Err(StepError::rejected("no")),
            false => Ok(format!("{first}; {}", all.join(", "))),
        }
    });
    let retry = Retry::exponential().base(Duration::from_millis(1)).most(Duration::from_millis(1));
    let joined = b.add(join.retry(retry).no_compensation("it only reads"), (first, each));
    b.finish(joined).unwrap()
}

fn joined(card: &str) -> String {
    format!("first {card}; did a {card}, did b {card}")
}

async fn worker(store: &Arc<MemoryStore>, app: &App, codec: Option<Codec>) -> Running {
    worker_of(store, app, codec, &definition()).await
}

async fn worker_of<A: Clone + Send + Sync + 'static, In, Out>(
    store: &Arc<MemoryStore>,
    app: &A,
    codec: Option<Codec>,
    definition: &Definition<A, In, Out>,
) -> Running {
    let settings = Settings {
        lease: Duration::from_millis(300),
        look: Duration::from_millis(10),
        poll: Duration::from_millis(2)..Duration::from_millis(10),
        ..Settings::default()
    };
    let mut worker = Worker::new(store.clone(), app.clone()).settings(settings);
    if let Some(codec) = codec {
        worker = worker.codec(codec);
    }
    worker.register(definition).unwrap().start().await.unwrap()
}

async fn texts(store: &MemoryStore, run: RunId) -> String {
    let rows = store.journal(run).await.unwrap();
    rows.iter().map(|row| row.body.to_string()).collect::<Vec<_>>().join("\n")
}

/// Waits until everything is done but `join`, which is under way.
async fn until_joining(store: &MemoryStore, run: RunId) {
    while !texts(store, run).await.contains(r#"{"started":{"at":"join""#) {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

async fn until_blocked(store: &MemoryStore, run: RunId) {
    while store.summary(run).await.unwrap().unwrap().state != State::Blocked {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

fn ring(name: &str) -> Keyring {
    let key = if name == "new" { [2; 32] } else { [1; 32] };
    Keyring::new([9; 32], name, key)
}

fn codecs(shelf: &Arc<Shelf>) -> [(&'static str, Codec); 3] {
    [
        ("sealed", Codec::new().seal(ring("old"))),
        ("offloaded", Codec::new().offload_above(10, shelf.clone())),
        ("both", Codec::new().seal(ring("old")).offload_above(200, shelf.clone())),
    ]
}

#[tokio::test]
async fn no_value_is_in_the_journal_and_every_step_reads_its_own() {
    for (name, codec) in codecs(&Arc::default()) {
        let (store, app) = (Arc::new(MemoryStore::new()), App::new(true));
        let worker = worker(&store, &app, Some(codec.clone())).await;
        let client = worker.client();
        let card = secret("pay");
        let saga = client.start(&definition(), "1", &card).await.unwrap();
        assert_eq!(saga.wait().await.unwrap(), Ended::Completed(joined(&card)), "{name}");
        let refused = client.start(&definition(), "2", &secret("refuse")).await.unwrap();
        assert!(matches!(refused.wait().await.unwrap(), Ended::Compensated(_)), "{name}");
        let mut undone = app.undone.lock().unwrap().clone();
        undone.sort();
        let pair = |input: String, output: String| format!("{input} -> {output}");
        let card = secret("refuse");
        let mut wanted = vec![pair(card.clone(), format!("first {card}"))];
        wanted.extend(["a", "b"].map(|line| pair(format!("{line} {card}"), format!("did {line} {card}"))));
        wanted.sort();
        assert_eq!(undone, wanted, "{name}: compensations are given what actions were given, and gave");
        for run in [saga.run(), refused.run()] {
            let text = texts(&store, run).await;
            assert!(text.contains("$stored"), "{name}: {text}");
            // A derived value is sealed but never offloaded, and a blob is no secret.
            assert!(name == "offloaded" || !text.contains(SECRET), "{name}: {text}");
        }
        // Another process, after the end, reads the output with the codec only.
        let reader = Client::new(store.clone()).codec(codec);
        let output = reader.saga::<String>(saga.run()).wait().await.unwrap();
        assert_eq!(output, Ended::Completed(joined(&secret("pay"))), "{name}");
        let stranger = Client::new(store.clone()).saga::<String>(saga.run()).wait().await.unwrap_err();
        assert!(stranger.to_string().contains("could not be opened here"), "{name}: {stranger}");
        // A repeated start is recognised by its input, another order is not.
        assert_eq!(reader.start(&definition(), "1", &secret("pay")).await.unwrap().run(), saga.run());
        let other = reader.start(&definition(), "1", &secret("other")).await.unwrap_err();
        assert!(matches!(other, client::Error::Mismatch { .. }), "{name}: {other}");
        worker.drain().await;
    }
}

#[tokio::test]
async fn whoever_takes_over_opens_what_the_journal_keeps() {
    for (name, codec) in codecs(&Arc::default()) {
        let (store, app) = (Arc::new(MemoryStore::new()), App::new(false));
        let first = worker(&store, &app, Some(codec.clone())).await;
        let card = secret("pay");
        let run = first.client().start(&definition(), "1", &card).await.unwrap().run();
        until_joining(&store, run).await;
        drop(first);
        app.gate.add_permits(100);
        let second = worker(&store, &app, Some(codec)).await;
        let end = second.client().saga::<String>(run).wait().await.unwrap();
        assert_eq!(end, Ended::Completed(joined(&card)), "{name}");
        let text = texts(&store, run).await;
        assert!(name == "offloaded" || !text.contains(SECRET), "{name}: not even at its end: {text}");
        second.drain().await;
    }
}

#[tokio::test]
async fn an_operator_sees_the_steps_and_no_value() {
    for (name, codec) in codecs(&Arc::default()) {
        let (store, app) = (Arc::new(MemoryStore::new()), App::new(true));
        let worker = worker(&store, &app, Some(codec)).await;
        let saga = worker.client().start(&definition(), "1", &secret("pay")).await.unwrap();
        saga.wait().await.unwrap();
        let view = Admin::new(store.clone()).view(saga.run()).await.unwrap();
        assert_eq!(view.unfit, None, "{name}");
        let each = view.steps.iter().find(|step| step.name.as_str() == "each").unwrap();
        assert_eq!(each.items.iter().map(|item| item.look).collect::<Vec<_>>(), [Look::Done; 2], "{name}");
        let shown = serde_json::to_string(&view).unwrap();
        assert!(name == "offloaded" || !shown.contains(SECRET), "{name}: {shown}");
        worker.drain().await;
    }
}

#[tokio::test]
async fn a_worker_without_the_key_blocks_and_one_with_it_goes_on() {
    let (store, app) = (Arc::new(MemoryStore::new()), App::new(false));
    let first = worker(&store, &app, Some(Codec::new().seal(ring("old")))).await;
    let card = secret("pay");
    let run = first.client().start(&definition(), "1", &card).await.unwrap().run();
    until_joining(&store, run).await;
    drop(first);
    app.gate.add_permits(100);
    // It has the new key only: what is closed to it is never taken for a value.
    let strange = worker(&store, &app, Some(Codec::new().seal(ring("new")))).await;
    until_blocked(&store, run).await;
    let admin = Admin::new(store.clone());
    let blocked = admin.view(run).await.unwrap().blocked.unwrap();
    assert!(blocked.failure.message().contains("could not be opened here"), "{}", blocked.failure);
    strange.drain().await;
    let rotated = worker(&store, &app, Some(Codec::new().seal(ring("new").opens("old", [1; 32])))).await;
    let by = By::new("ann", "the key is there").unwrap();
    let retry = Request::Retry { at: blocked.at };
    admin.request(run, MailId::new(), &retry, &by, Duration::from_secs(60)).await.unwrap();
    let end = rotated.client().saga::<String>(run).wait().await.unwrap();
    assert_eq!(end, Ended::Completed(joined(&card)));
    let text = texts(&store, run).await;
    assert!(text.contains("\"old\"") && text.contains("\"new\""), "sealed under one, then the other: {text}");
    rotated.drain().await;
}

#[tokio::test]
async fn a_store_of_blobs_that_is_away_delays_and_harms_nobody_else() {
    let (store, app, shelf) = (Arc::new(MemoryStore::new()), App::new(false), Arc::new(Shelf::default()));
    let codec = Codec::new().offload_above(30, shelf.clone());
    let first = worker(&store, &app, Some(codec.clone())).await;
    let card = secret("a long value for");
    // Outputs are offered again.
    let run = first.client().start(&definition(), "1", &card).await.unwrap().run();
    shelf.away.store(2, SeqCst);
    until_joining(&store, run).await;
    let small = first.client().start(&definition(), "2", &"x".to_owned()).await.unwrap().run();
    until_joining(&store, small).await;
    drop(first);
    app.gate.add_permits(100);
    shelf.away.store(6, SeqCst);
    let second = worker(&store, &app, Some(codec.clone())).await;
    let client = second.client();
    assert_eq!(client.saga::<String>(small).wait().await.unwrap(), Ended::Completed(joined("x")));
    assert_eq!(client.saga::<String>(run).wait().await.unwrap(), Ended::Completed(joined(&card)));
    // An input that cannot be stored is told to its starter, and nothing is started.
    shelf.away.store(1, SeqCst);
    let refused = client.start(&definition(), "3", &card).await.unwrap_err();
    assert!(refused.to_string().contains("the shelf is away"), "{refused}");
    assert!(store.find(&definition().plan().name.clone(), "3").await.unwrap().is_none());
    second.drain().await;
}

#[tokio::test]
async fn a_blob_that_was_changed_or_lost_is_never_used() {
    for (what, harm) in [("changed", true), ("gone", false)] {
        let (store, app, shelf) = (Arc::new(MemoryStore::new()), App::new(false), Arc::new(Shelf::default()));
        let codec = Codec::new().offload_above(10, shelf.clone());
        let first = worker(&store, &app, Some(codec.clone())).await;
        let run = first.client().start(&definition(), "1", &secret("pay")).await.unwrap().run();
        until_joining(&store, run).await;
        drop(first);
        let kept = shelf.blobs.lock().unwrap().clone();
        assert!(kept.keys().all(|name| name.starts_with(&run.to_string())), "{kept:?}");
        match harm {
            true => shelf.change(|bytes| *bytes.last_mut().unwrap() = b' '),
            false => shelf.blobs.lock().unwrap().clear(),
        }
        app.gate.add_permits(100);
        let second = worker(&store, &app, Some(codec)).await;
        until_blocked(&store, run).await;
        let blocked = Admin::new(store.clone()).view(run).await.unwrap().blocked.unwrap();
        assert!(
            blocked.failure.message().contains("could not be opened here"),
            "{what}: {}",
            blocked.failure
        );
        second.drain().await;
    }
}

#[tokio::test]
async fn a_limit_holds_for_what_the_journal_keeps() {
    let shelf = Arc::new(Shelf::default());
    let large = "x".repeat(3 << 20);
    for (codec, fine) in [(None, false), (Some(Codec::new().offload_above(1 << 10, shelf.clone())), true)] {
        let (store, app) = (Arc::new(MemoryStore::new()), App::new(true));
        let worker = worker(&store, &app, codec).await;
        let client = worker.client();
        let started = client.start(&definition(), "1", &large).await;
        match fine {
            false => {
                let refused = started.unwrap_err().to_string();
                assert!(refused.contains("3145730 bytes") && refused.contains("1048576"), "{refused}");
            }
            true => {
                // The derived list is too large as well, and that can only be sealed, not offloaded.
                let run = started.unwrap().run();
                until_blocked(&store, run).await;
                let blocked = Admin::new(store.clone()).view(run).await.unwrap().blocked.unwrap();
                let told = blocked.failure.message();
                assert!(
                    told.starts_with("the value of lines has ") && told.contains("at most 1048576"),
                    "{told}"
                );
            }
        }
        worker.drain().await;
    }
}

#[tokio::test]
async fn a_value_that_looks_like_a_closed_one_is_still_a_value() {
    let wrapped = json!({ "$stored": { "bytes": 1, "held": { "plain": { "text": "\"gotcha\"" } } } });
    let sealed = json!({ "$stored": { "bytes": 1, "held": { "sealed": { "key": "old", "data": "" } } } });
    let values =
        [json!({ "$stored": 1 }), json!([{ "$stored": 1 }, 2]), json!([[wrapped], 2]), wrapped, sealed];
    let shelf = Arc::new(Shelf::default());
    let codecs = codecs(&shelf).map(|(name, codec)| (name, Some(codec)));
    let large = ("nothing to do", Some(Codec::new().offload_above(1 << 20, shelf.clone())));
    for (name, codec) in codecs.into_iter().chain([("no codec", None), large]) {
        let (store, gate) = (Arc::new(MemoryStore::new()), Arc::new(Semaphore::new(0)));
        let first = worker_of(&store, &gate, codec.clone(), &echoing()).await;
        let another = Client::new(store.clone());
        let another = codec.clone().into_iter().fold(another, Client::codec);
        for (value, id) in values.iter().zip(["1", "2", "3", "4", "5"]) {
            let run = another.start(&echoing(), id, value).await.unwrap().run();
            while !texts(&store, run).await.contains(r#"{"started":{"at":"late""#) {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        }
        drop(first);
        gate.add_permits(100);
        let second = worker_of(&store, &gate, codec.clone(), &echoing()).await;
        for (value, id) in values.iter().zip(["1", "2", "3", "4", "5"]) {
            let saga = another.start(&echoing(), id, value).await.unwrap();
            let list = value.as_array().cloned().unwrap_or_default();
            let all = (value.clone(), list, value.clone());
            let end = tokio::time::timeout(Duration::from_secs(60), saga.wait()).await;
            let end = end.unwrap_or_else(|_| panic!("{name}: {value} stops its saga"));
            assert_eq!(end.unwrap(), Ended::Completed(all), "{name}: {value}");
        }
        second.drain().await;
    }
}

type Echoed = (Value, Vec<Value>, Value);

/// Gives back what it is given: by a step, by a step for each item of a derived list, and by one that waits.
fn echoing() -> Definition<Arc<Semaphore>, Value, Echoed> {
    type Gate = Cx<Arc<Semaphore>>;
    let (mut b, value) = Definition::build::<Arc<Semaphore>, Value>("echo", 1);
    let echo = || step("echo", async |_: Gate, value: Value| Ok::<_, StepError>(value));
    let early = b.add(echo().no_compensation("it only speaks"), value);
    let list = b.derive("list", |value: &Value| value.as_array().cloned().unwrap_or_default(), value);
    let each = step("each", async |_: Gate, value: Value| Ok::<_, StepError>(value));
    let each = b.each(each.no_compensation("it only speaks"), list);
    let late = step("late", async |cx: Gate, echoed: Echoed| {
        cx.state().acquire().await.unwrap().forget();
        Ok::<_, StepError>(echoed)
    });
    let late = b.add(late.no_compensation("it only speaks"), (early, each, value));
    b.finish(late).unwrap()
}

#[tokio::test]
async fn blobs_go_after_the_journals_that_referred_to_them() {
    let (store, app, shelf) = (Arc::new(MemoryStore::new()), App::new(false), Arc::new(Shelf::default()));
    let codec = Codec::new().offload_above(30, shelf.clone());
    let first = worker(&store, &app, Some(codec.clone())).await;
    let client = first.client();
    let card = secret("a long value for");
    let over = client.start(&definition(), "1", &card).await.unwrap().run();
    until_joining(&store, over).await;
    // The same again, and another order under its id, leave nothing behind.
    assert_eq!(client.start(&definition(), "1", &card).await.unwrap().run(), over);
    client.start(&definition(), "1", &secret("something else for")).await.unwrap_err();
    assert_eq!(shelf.runs(), [over.to_string()]);
    // Nor does what no journal came to refer to, because its worker died first.
    shelf.put(&format!("{over}/0000"), b"an output of an attempt that was made again").await.unwrap();
    app.gate.add_permits(1);
    client.saga::<String>(over).wait().await.unwrap();
    let live = client.start(&definition(), "2", &card).await.unwrap().run();
    until_joining(&store, live).await;
    let stranger = RunId::new().to_string();
    shelf.put(&format!("{stranger}/0000"), b"the input of a saga that is about to be started").await.unwrap();
    shelf.put("notes/0000", b"not ours").await.unwrap();
    first.drain().await;
    let settings = Settings { retention: Some(Duration::ZERO), ..Settings::default() };
    let second = Worker::new(store.clone(), app.clone()).settings(settings).codec(codec.clone());
    let second = second.register(&definition()).unwrap().start().await.unwrap();
    let removed = async {
        while shelf.runs().contains(&over.to_string()) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), removed).await.expect("they are removed");
    assert!(store.journal(over).await.unwrap().is_empty(), "the journal went first");
    assert_eq!(shelf.runs(), [live.to_string(), stranger, "notes".into()], "nothing else went");
    app.gate.add_permits(1);
    let end = second.client().saga::<String>(live).wait().await.unwrap();
    assert_eq!(end, Ended::Completed(joined(&card)));
    second.drain().await;
}
