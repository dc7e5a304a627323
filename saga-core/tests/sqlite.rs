//! The store in SQLite keeps every promise of a store, and what only it promises.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use saga_core::WorkerId;
use saga_core::store::{Backend, Error, NewWorker, Renewal, SqliteStore, Store, connect};
use saga_core::testing::conformance::{self, Database};
use tempfile::TempDir;

struct File {
    dir: TempDir,
}

impl File {
    fn new() -> Self {
        Self { dir: TempDir::new().expect("a directory for the file") }
    }

    fn path(&self) -> PathBuf {
        self.dir.path().join("sagas.db")
    }
}

#[async_trait]
impl Database for File {
    async fn open(&self) -> Backend {
        Arc::new(SqliteStore::open(self.path()).await.expect("the file opens")).into()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sqlite_keeps_every_promise_of_a_store() {
    let report = conformance::run(async || Arc::new(File::new()) as Arc<dyn Database>);
    report.await.assert_all_hold();
}

fn worker() -> NewWorker {
    NewWorker { id: WorkerId::new(), label: "test".into(), lease: Duration::from_secs(10) }
}

/// Whether each peer that a renewal shows is known to be gone.
async fn gone(store: &SqliteStore, fence: saga_core::store::Fence) -> Vec<bool> {
    match store.renew(fence).await.unwrap() {
        Renewal::Renewed(peers) => peers.into_iter().map(|peer| peer.gone).collect(),
        Renewal::Fenced => panic!("the worker lives"),
    }
}

#[tokio::test]
async fn a_process_that_ended_is_known_to_be_gone() {
    let file = File::new();
    let (mine, theirs) =
        (SqliteStore::open(file.path()).await.unwrap(), SqliteStore::open(file.path()).await.unwrap());
    let me = mine.join(&worker()).await.unwrap();
    let they = theirs.join(&worker()).await.unwrap();
    assert_eq!(gone(&mine, me).await, [false]);
    assert_eq!(gone(&theirs, they).await, [false]);
    // The last handle goes, as in a process that dies: its lock is free.
    theirs.close().await;
    drop(theirs);
    assert_eq!(gone(&mine, me).await, [true]);
    mine.fence(they.worker).await.unwrap();
    assert_eq!(gone(&mine, me).await, [] as [bool; 0]);
    let locks = file.dir.path().join("sagas.db.workers");
    let left: Vec<_> = locks.read_dir().unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(left, [format!("{}.lock", me.worker).as_str()]);
}

#[tokio::test]
async fn a_lock_that_is_missing_proves_nothing() {
    let file = File::new();
    let store = SqliteStore::open(file.path()).await.unwrap();
    let (me, they) = (store.join(&worker()).await.unwrap(), store.join(&worker()).await.unwrap());
    std::fs::remove_file(file.dir.path().join(format!("sagas.db.workers/{}.lock", they.worker))).unwrap();
    assert_eq!(gone(&store, me).await, [false]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_processes_may_open_a_new_file_at_once() {
    for _ in 0..10 {
        let file = Arc::new(File::new());
        let opening = (0..6).map(|_| {
            let file = file.clone();
            tokio::spawn(async move { SqliteStore::open(file.path()).await.map(drop) })
        });
        for opened in futures::future::join_all(opening).await {
            opened.expect("it does not panic").expect("each waits for the others");
        }
    }
}

#[tokio::test]
async fn a_renewal_under_a_wrong_epoch_does_not_let_go_of_the_lock() {
    let file = File::new();
    let store = SqliteStore::open(file.path()).await.unwrap();
    let (me, they) = (store.join(&worker()).await.unwrap(), store.join(&worker()).await.unwrap());
    let wrong = saga_core::store::Fence { epoch: 7, ..they };
    assert_eq!(store.renew(wrong).await, Ok(Renewal::Fenced));
    assert!(file.dir.path().join(format!("sagas.db.workers/{}.lock", they.worker)).exists());
    assert_eq!(gone(&store, me).await, [false]);
}

#[tokio::test]
async fn a_newer_file_is_refused_by_name() {
    let file = File::new();
    let store = SqliteStore::open(file.path()).await.unwrap();
    store.close().await;
    let options = sqlx::sqlite::SqliteConnectOptions::new().filename(file.path());
    let pool = sqlx::SqlitePool::connect_with(options).await.unwrap();
    sqlx::query("INSERT INTO saga_migration (version) VALUES (999)").execute(&pool).await.unwrap();
    pool.close().await;
    let url = format!("sqlite:{}", file.path().display());
    let error = connect(&url).await.unwrap_err();
    assert!(matches!(&error, Error::Unusable(why) if why.contains("999") && why.contains(&url)), "{error}");
}

#[tokio::test]
async fn a_file_that_is_no_database_is_refused_by_name() {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("notes.txt");
    std::fs::write(&path, "this is no database, but it is long enough to be looked at as one\n".repeat(20))
        .unwrap();
    let error = connect(path.to_str().unwrap()).await.unwrap_err();
    assert!(matches!(&error, Error::Unusable(why) if why.contains("notes.txt")), "{error}");
    let error = connect("sqlite:/no/such/directory/sagas.db").await.unwrap_err();
    assert!(matches!(&error, Error::Unusable(why) if why.contains("/no/such/directory")), "{error}");
}
