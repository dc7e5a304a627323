//! Errors of SQLite are survived: sagas wait, and nothing of them is lost or done twice.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering::SeqCst};
use std::time::Duration;

use sqlx::sqlite::SqliteConnectOptions;
use sqlx::{Connection, SqliteConnection};
use tempfile::TempDir;
use tokio::sync::Semaphore;

use super::SqliteStore;
use crate::client::{Client, Ended, Saga};
use crate::engine::{Running, Worker};
use crate::id::{MailId, RunId, WorkerId};
use crate::journal::MailBody;
use crate::saga::Definition;
use crate::step::{Cx, StepError, step};
use crate::store::{Begun, Error, Filter, Mail, NewWorker, Query, Start, State, Store, Transactional};

const SAGAS: u32 = 10;

/// The steps wait for a gate, and then give something large.
#[derive(Clone)]
struct App {
    calls: Arc<AtomicU32>,
    gate: Arc<Semaphore>,
}

async fn work(cx: Cx<App>, _: String) -> Result<String, StepError> {
    cx.state().calls.fetch_add(1, SeqCst);
    drop(cx.state().gate.acquire().await.expect("never closed"));
    Ok("x".repeat(50_000))
}

fn definition() -> Definition<App, String, String> {
    let (mut b, input) = Definition::build::<App, String>("work", 1);
    let done = b.add(step("work", work).no_compensation("it harms nobody"), input);
    b.finish(done).unwrap()
}

struct Scene {
    dir: TempDir,
    store: Arc<SqliteStore>,
    app: App,
    client: Client,
    sagas: Vec<Saga<String>>,
    _worker: Running,
}

impl Scene {
    /// Every saga has an action under way.
    async fn new() -> Self {
        let dir = TempDir::new().unwrap();
        let store = Arc::new(SqliteStore::open(dir.path().join("sagas.db")).await.unwrap());
        let app = App { calls: Arc::default(), gate: Arc::new(Semaphore::new(0)) };
        let worker = Worker::new(store.clone(), app.clone()).register(&definition()).unwrap();
        let worker = worker.start().await.unwrap();
        let mut sagas = Vec::new();
        for n in 0..SAGAS {
            sagas.push(worker.client().start(&definition(), &n.to_string(), &String::new()).await.unwrap());
        }
        while app.calls.load(SeqCst) < SAGAS {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        Self { dir, client: Client::new(store.clone()), store, app, sagas, _worker: worker }
    }

    /// Sets something on the connection that writes.
    async fn set(&self, pragma: &'static str) {
        let mut turn = self.store.db.turn().await.unwrap();
        sqlx::raw_sql(pragma).execute(&mut *turn).await.unwrap();
    }

    async fn ended(&self) -> usize {
        let all = self.store.list(&Filter::default()).await.unwrap();
        all.iter().filter(|saga| matches!(saga.state, State::Ended(_))).count()
    }

    /// Every saga ends, and every action was called once.
    async fn check(self) {
        for saga in &self.sagas {
            assert_eq!(saga.wait().await.unwrap(), Ended::Completed("x".repeat(50_000)));
        }
        assert_eq!(self.app.calls.load(SeqCst), SAGAS);
    }
}

#[tokio::test]
async fn a_full_disk_is_waited_for() {
    let scene = Scene::new().await;
    // As many pages as there are, and no more.
    scene.set("PRAGMA max_page_count = 1").await;
    scene.app.gate.add_permits(1000);
    // A start is tried for a while as well; meanwhile the commits are.
    let full = scene.client.start(&definition(), "more", &"x".repeat(200_000)).await.unwrap_err();
    assert!(full.to_string().contains("full (SQLite 13)"), "{full}");
    assert_eq!(scene.ended().await, 0);
    scene.set("PRAGMA max_page_count = 1073741823").await;
    scene.check().await;
}

#[tokio::test]
async fn a_file_that_is_read_only_is_waited_for() {
    let scene = Scene::new().await;
    scene.set("PRAGMA query_only = on").await;
    scene.app.gate.add_permits(1000);
    let refused = scene.client.start(&definition(), "more", &String::new()).await.unwrap_err();
    assert!(refused.to_string().contains("readonly database"), "{refused}");
    assert_eq!(scene.ended().await, 0);
    scene.set("PRAGMA query_only = off").await;
    scene.check().await;
}

#[tokio::test]
async fn a_file_that_another_process_holds_is_waited_for() {
    let scene = Scene::new().await;
    let options = SqliteConnectOptions::new().filename(scene.dir.path().join("sagas.db"));
    let mut other = SqliteConnection::connect_with(&options).await.unwrap();
    sqlx::raw_sql("BEGIN IMMEDIATE").execute(&mut other).await.unwrap();
    scene.app.gate.add_permits(1000);
    let body = MailBody::Cancel { reason: "nobody".into() };
    let busy = scene.store.post(&[Mail::new(MailId::new(), RunId::new(), &body)]).await.unwrap_err();
    assert!(matches!(&busy, Error::Unavailable(why) if why.contains("locked")), "{busy}");
    assert_eq!(scene.ended().await, 0);
    sqlx::raw_sql("COMMIT").execute(&mut other).await.unwrap();
    scene.check().await;
}

/// Nothing can end it, but nobody waits for it for ever either.
#[tokio::test]
async fn a_transaction_that_is_leaked_is_told_to_all_who_write() {
    let dir = TempDir::new().unwrap();
    let store = SqliteStore::open(dir.path().join("sagas.db")).await.unwrap();
    let worker = NewWorker { id: WorkerId::new(), label: "w".into(), lease: Duration::from_secs(15) };
    let fence = store.join(&worker).await.unwrap();
    let start = crate::client::prepare(&definition(), "leaky", &String::new()).build().unwrap();
    let (run, start) = (start.run, Start { owned: true, ..start });
    store.start(Some(fence), &[start]).await.unwrap();
    let Begun::Open(leaked) = store.begin(fence, run, 1).await.unwrap() else { panic!("it is ours") };
    std::mem::forget(leaked);
    tokio::time::pause();
    let mail = Mail::new(MailId::new(), run, &MailBody::Cancel { reason: "nobody".into() });
    for told in [
        store.post(&[mail]).await.unwrap_err(),
        store.renew(fence).await.unwrap_err(),
        store.begin(fence, run, 1).await.map(drop).unwrap_err(),
    ] {
        assert!(matches!(&told, Error::Unavailable(why) if why.contains("keep the transaction")), "{told}");
    }
    tokio::time::resume();
    assert!(store.load(run).await.unwrap().is_some(), "who reads does not wait");
}
