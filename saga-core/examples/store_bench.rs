//! How many commits per second a store takes, in batches of several sizes, beside bare one-row inserts into
//! the same database: what durability costs there at all.
//!
//! `store_bench sqlite:/tmp/bench.db` or `store_bench postgres://user@host/database` (its schema is
//! migrated, its tables grow). Build it with `--release`.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use saga_core::id::Fingerprint;
use saga_core::journal::EndKind;
use saga_core::store::{Backend, Commit, Fence, LastError, NewWorker, PostgresStore, Start, Then, connect};
use saga_core::{Attributes, Name, Priority, RunId, WorkerId};

/// How long each figure is measured.
const SPAN: Duration = Duration::from_secs(3);
/// About what the records of one step take.
const BODY: &str = r#"[{"finished":{"at":"charge","effect":"action","outcome":{"ok":{"id":"py_3Mtw","amount":4200,"currency":"eur"}}}},{"started":{"at":"reserve","effect":"action","attempt":1}}]"#;

#[tokio::main]
async fn main() {
    let url = std::env::args().nth(1).expect("which store? give its URL");
    if url.starts_with("postgres") {
        PostgresStore::migrate(&url).await.expect("the schema can be migrated");
        bare(&url, 1).await;
        bare(&url, 32).await;
    }
    let backend = connect(&url).await.expect("the store can be used");
    for (batch, tasks) in [(1, 1), (1, 4), (10, 1), (10, 4), (100, 1), (100, 4), (300, 1), (300, 4), (512, 4)]
    {
        steps(&backend, batch, tasks).await;
    }
    for (batch, tasks) in [(1, 4), (100, 4), (300, 4)] {
        lives(&backend, batch, tasks).await;
    }
}

/// One-row inserts, each in a transaction of its own.
async fn bare(url: &str, connections: u32) {
    let all = sqlx::postgres::PgPoolOptions::new()
        .max_connections(connections)
        .connect(url)
        .await
        .expect("it answers");
    let table =
        "CREATE TABLE IF NOT EXISTS store_bench (run uuid, number int, body text, PRIMARY KEY (run, number))";
    sqlx::query(table).execute(&all).await.expect("a table can be made");
    let pool = all.clone();
    let rate = measured(connections as usize, move |_, rows| {
        let pool = pool.clone();
        async move {
            let run = RunId::new();
            let insert = sqlx::query("INSERT INTO store_bench VALUES ($1, 1, $2)").bind(run.0).bind(BODY);
            insert.execute(&pool).await.expect("a row can be inserted");
            rows.fetch_add(1, Ordering::Relaxed);
        }
    });
    println!("bare one-row inserts, {connections:>3} connections: {:>9.0} rows/s", rate.await);
    sqlx::query("DROP TABLE store_bench").execute(&all).await.expect("the table can be dropped");
}

async fn worker(backend: &Backend) -> Fence {
    let worker = NewWorker { id: WorkerId::new(), label: "bench".into(), lease: Duration::from_secs(60) };
    backend.store.join(&worker).await.expect("a worker can join")
}

fn starts(count: usize) -> Vec<Start> {
    let start = || {
        let run = RunId::new();
        Start {
            run,
            definition: Name::new("place-order").expect("a good name"),
            version: 1,
            fingerprint: Fingerprint::of(b"place-order"),
            saga: run.to_string().into(),
            digest: [7; 32],
            body: BODY.into(),
            owned: true,
            key: None,
            priority: Priority::Normal,
            attributes: Attributes::default(),
        }
    };
    (0..count).map(|_| start()).collect()
}

fn commits(starts: &[Start], number: u32, then: Then) -> Vec<Commit> {
    let commit = |start: &Start| Commit {
        run: start.run,
        number,
        body: BODY.into(),
        mail: Vec::new(),
        then,
        error: LastError::Same,
        pivot: false,
        key: None,
    };
    starts.iter().map(commit).collect()
}

/// Commits that go on, in batches, from several tasks at once.
async fn steps(backend: &Backend, batch: usize, tasks: usize) {
    let fence = worker(backend).await;
    let sagas: Arc<Vec<(Vec<Start>, AtomicU64)>> =
        Arc::new((0..tasks).map(|_| (starts(batch), AtomicU64::new(1))).collect());
    for (starts, _) in sagas.iter() {
        backend.store.start(Some(fence), starts).await.expect("sagas can be started");
    }
    let shared = backend.clone();
    let rate = measured(tasks, move |lane, rows| {
        let (backend, sagas) = (shared.clone(), sagas.clone());
        async move {
            let (starts, number) = &sagas[lane];
            let number = u32::try_from(number.fetch_add(1, Ordering::Relaxed)).expect("a short bench");
            let replies =
                backend.store.commit(fence, &commits(starts, number, Then::Go)).await.expect("a batch");
            rows.fetch_add(replies.len() as u64, Ordering::Relaxed);
        }
    });
    println!("commits, batches of {batch:>3} from {tasks} tasks: {:>12.0} commits/s", rate.await);
    backend.store.fence(fence.worker).await.expect("a worker can leave");
}

/// Whole sagas: a start, two commits and the end, in batches.
async fn lives(backend: &Backend, batch: usize, tasks: usize) {
    let fence = worker(backend).await;
    let shared = backend.clone();
    let rate = measured(tasks, move |_, sagas| {
        let backend = shared.clone();
        async move {
            let starts = starts(batch);
            backend.store.start(Some(fence), &starts).await.expect("sagas can be started");
            for (number, then) in [(1, Then::Go), (2, Then::Go), (3, Then::End(EndKind::Completed))] {
                backend.store.commit(fence, &commits(&starts, number, then)).await.expect("a batch");
            }
            sagas.fetch_add(batch as u64, Ordering::Relaxed);
        }
    });
    println!("sagas of 4 commits, batches of {batch:>3} from {tasks} tasks: {:>5.0} sagas/s", rate.await);
    backend.store.fence(fence.worker).await.expect("a worker can leave");
}

/// Repeats the work of each task for a while; the work adds to the counter what it did. Tells how much of
/// it was done per second.
async fn measured<Work, Done>(tasks: usize, work: Work) -> f64
where
    Work: Fn(usize, Arc<AtomicU64>) -> Done + Send + Sync + 'static,
    Done: Future<Output = ()> + Send,
{
    let (done, work, began) = (Arc::new(AtomicU64::new(0)), Arc::new(work), Instant::now());
    let lanes = (0..tasks).map(|lane| {
        let (done, work) = (done.clone(), work.clone());
        tokio::spawn(async move {
            while began.elapsed() < SPAN {
                work(lane, done.clone()).await;
            }
        })
    });
    for lane in lanes.collect::<Vec<_>>() {
        lane.await.expect("no lane panics");
    }
    done.load(Ordering::Relaxed) as f64 / began.elapsed().as_secs_f64()
}
