//! Steps that are lent a transaction, on a SQLite file that holds the business's tables as well.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering::SeqCst};
use std::time::Duration;

use async_trait::async_trait;
use saga_core::engine::{Settings, Unregistrable};
use saga_core::journal::Cause;
use saga_core::store::sqlite::SqliteTransaction;
use saga_core::store::{MemoryStore, Query, SqliteStore, State};
use saga_core::testing::conformance::transactions::{self, Business};
use saga_core::{
    Cx, Definition, Ended, Output, Retry, Saga, SqliteTx, Step, StepError, Worker, step, transactional,
};
use sqlx::sqlite::{SqliteConnectOptions, SqlitePool};
use tempfile::TempDir;

/// A file with a table that the store knows nothing of.
struct File {
    dir: TempDir,
    pool: SqlitePool,
}

impl File {
    async fn new() -> Self {
        let dir = TempDir::new().unwrap();
        let path = dir.path().join("shop.db");
        let options = SqliteConnectOptions::new().filename(&path).create_if_missing(true);
        let pool = SqlitePool::connect_with(options).await.unwrap();
        sqlx::query("CREATE TABLE booking (what TEXT NOT NULL)").execute(&pool).await.unwrap();
        Self { dir, pool }
    }

    async fn store(&self) -> Arc<SqliteStore> {
        Arc::new(SqliteStore::open(self.dir.path().join("shop.db")).await.unwrap())
    }

    async fn bookings(&self) -> Vec<String> {
        sqlx::query_scalar("SELECT what FROM booking ORDER BY what").fetch_all(&self.pool).await.unwrap()
    }
}

#[async_trait]
impl Business for File {
    type Store = SqliteStore;
    const ALONE: bool = true;

    async fn open(&self) -> Arc<SqliteStore> {
        self.store().await
    }

    async fn insert(&self, tx: &mut SqliteTransaction, row: &str) {
        sqlx::query("INSERT INTO booking VALUES (?)").bind(row).execute(&mut **tx).await.unwrap();
    }

    async fn commit_by_hand(&self, tx: &mut SqliteTransaction) {
        sqlx::query("COMMIT").execute(&mut **tx).await.unwrap();
    }

    async fn rows(&self) -> Vec<String> {
        self.bookings().await
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn transactions_in_sqlite_hold() {
    transactions::run(async || File::new().await).await.assert_all_hold();
}

/// How often the code was entered.
type Calls = Arc<AtomicU32>;

async fn insert(tx: &mut SqliteTx, what: &str) -> Result<(), StepError> {
    sqlx::query("INSERT INTO booking VALUES (?)").bind(what).execute(&mut **tx).await?;
    Ok(())
}

/// What a step does after it has written its row, by the saga's input and the call's number.
async fn book(cx: Cx<Calls>, mut tx: SqliteTx, order: String) -> Result<String, StepError> {
    insert(&mut tx, &order).await?;
    let call = cx.state().fetch_add(1, SeqCst);
    match (order.as_str(), call) {
        ("fails once", 0) => return Err(StepError::unknown("who knows")),
        ("panics once", 0) => panic!("by plan"),
        ("hangs once", 0) => std::future::pending().await,
        ("swallows once", 0) => {
            // Its own error is passed over, and its row stays in the transaction: that is allowed.
            let _ = sqlx::query("INSERT INTO nowhere VALUES (1)").execute(&mut *tx).await;
        }
        ("too much once", 0) => return Ok("x".repeat(1000)),
        ("rejects", _) => return Err(StepError::rejected("no room")),
        ("commits by hand", _) => {
            sqlx::query("COMMIT").execute(&mut *tx).await?;
        }
        ("keeps once", 0) => {
            tokio::spawn(async move {
                tokio::time::sleep(Duration::from_millis(300)).await;
                drop(tx);
            });
        }
        ("savepoint", _) => {
            use sqlx::Connection;
            let mut inner = tx.begin().await?;
            sqlx::query("INSERT INTO booking VALUES ('inner')").execute(&mut *inner).await?;
            inner.rollback().await?;
        }
        _ => {}
    }
    Ok(order)
}

async fn unbook(_: Cx<Calls>, mut tx: SqliteTx, order: String, _: String) -> Result<(), StepError> {
    sqlx::query("DELETE FROM booking WHERE what = ?").bind(&order).execute(&mut *tx).await?;
    insert(&mut tx, &format!("{order}, undone")).await
}

fn booking(name: &str) -> Step<Calls, String, String> {
    let soon = Retry::exponential().base(Duration::from_millis(5)).attempts(4);
    transactional(name, book).retry(soon).attempt_timeout(Duration::from_millis(500))
}

/// A booking, and a step after it that refuses whatever says so.
fn definition() -> Definition<Calls, String, String> {
    let (mut b, order) = Definition::build::<Calls, String>("book", 1);
    let booked: Output<String> = b.add(booking("book").compensate_transactional(unbook), order);
    let check = step("check", async |_: Cx<Calls>, order: String| match order.as_str() {
        "is undone" => Err(StepError::rejected("it is not wanted")),
        _ => Ok(order),
    });
    let checked = b.add(check.no_compensation("it only looks"), booked);
    b.finish(checked).unwrap()
}

async fn run(order: &str) -> (File, Arc<SqliteStore>, Saga<String>, Calls, saga_core::engine::Running) {
    let file = File::new().await;
    let (store, calls) = (file.store().await, Calls::default());
    let settings = Settings { payload_bytes_max: 500, ..Settings::default() };
    let worker =
        Worker::new(store.clone(), calls.clone()).settings(settings).register(&definition()).unwrap();
    let worker = worker.start().await.unwrap();
    let saga = worker.client().start(&definition(), order, &order.to_owned()).await.unwrap();
    (file, store, saga, calls, worker)
}

#[tokio::test]
async fn what_failed_before_the_commit_had_no_effect_and_is_tried_again() {
    for order in ["fails once", "panics once", "hangs once", "keeps once"] {
        let (file, store, saga, calls, worker) = run(order).await;
        assert_eq!(saga.wait().await.unwrap(), Ended::Completed(order.to_owned()), "{order}");
        assert_eq!((file.bookings().await, calls.load(SeqCst)), (vec![order.to_owned()], 2), "{order}");
        let journal = store.journal(saga.run()).await.unwrap();
        assert!(journal.iter().any(|row| row.body.contains("not_applied")), "{order}: {journal:?}");
        worker.drain().await;
    }
}

#[tokio::test]
async fn what_succeeds_is_there_once() {
    for order in ["plain", "swallows once", "savepoint"] {
        let (file, store, saga, calls, worker) = run(order).await;
        assert_eq!(saga.wait().await.unwrap(), Ended::Completed(order.to_owned()), "{order}");
        assert_eq!((file.bookings().await, calls.load(SeqCst)), (vec![order.to_owned()], 1), "{order}");
        // The start, the booking's own commit, and the end.
        assert_eq!(store.journal(saga.run()).await.unwrap().len(), 3, "{order}");
        worker.drain().await;
    }
}

#[tokio::test]
async fn a_rejection_takes_its_rows_along_and_an_undoing_is_written_with_its_record() {
    let (file, _store, saga, _, worker) = run("rejects").await;
    assert!(matches!(saga.wait().await.unwrap(), Ended::Compensated(_)));
    assert_eq!(file.bookings().await, [] as [String; 0]);
    drop(worker);
    let (file, _store, saga, _, _worker) = run("is undone").await;
    assert!(matches!(saga.wait().await.unwrap(), Ended::Compensated(_)));
    assert_eq!(file.bookings().await, ["is undone, undone"]);
}

async fn blocked_because(store: &SqliteStore, saga: &Saga<String>, cause: Cause) -> String {
    while store.summary(saga.run()).await.unwrap().unwrap().state != State::Blocked {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let last = store.journal(saga.run()).await.unwrap().pop().unwrap().body;
    let name = serde_json::to_string(&cause).unwrap();
    assert!(last.contains(&name), "{last}");
    last.to_string()
}

#[tokio::test]
async fn who_commits_by_hand_is_blocked_for_a_person_to_look() {
    let (file, store, saga, calls, worker) = run("commits by hand").await;
    blocked_because(&store, &saga, Cause::Misused).await;
    assert_eq!((file.bookings().await.len(), calls.load(SeqCst)), (1, 1), "nothing is done twice");
    // The store goes on.
    let next = worker.client().start(&definition(), "next", &"next".to_owned()).await.unwrap();
    assert_eq!(next.wait().await.unwrap(), Ended::Completed("next".into()));
}

#[tokio::test]
async fn an_output_that_cannot_be_kept_takes_its_rows_along() {
    let (file, store, saga, _, _worker) = run("too much once").await;
    let why = blocked_because(&store, &saga, Cause::Malformed).await;
    assert!(why.contains("the output has 1002 bytes"), "{why}");
    assert_eq!(file.bookings().await, [] as [String; 0]);
}

/// Many sagas share the one writer with the journal's own commits, and nobody waits for ever.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn transactions_and_batches_take_turns() {
    let file = File::new().await;
    let store = file.store().await;
    let worker = Worker::new(store, Calls::default()).register(&definition()).unwrap().start().await.unwrap();
    let client = worker.client();
    let sagas = (0..200).map(|n| {
        let client = client.clone();
        async move {
            let order = format!("order {n}");
            let saga = client.start(&definition(), &order, &order).await.unwrap();
            assert_eq!(saga.wait().await.unwrap(), Ended::Completed(order));
        }
    });
    futures::future::join_all(sagas).await;
    let bookings = file.bookings().await;
    assert_eq!((bookings.len(), std::collections::HashSet::<String>::from_iter(bookings).len()), (200, 200));
    worker.drain().await;
}

#[test]
fn a_store_that_lends_nothing_of_the_kind_is_refused_by_name() {
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let _context = runtime.enter();
    let refused =
        Worker::new(Arc::new(MemoryStore::new()), Calls::default()).register(&definition()).unwrap_err();
    assert!(
        matches!(&refused, Unregistrable::NotLent { step, lent: None, .. } if step == "book"),
        "{refused}"
    );
    let text = refused.to_string();
    assert!(
        text.contains("\"book\"") && text.contains("SqliteTransaction") && text.contains("no transactions"),
        "{text}"
    );
}

#[cfg(feature = "postgres")]
#[tokio::test]
async fn a_step_of_another_database_is_refused_by_name() {
    async fn foreign(_: Cx<Calls>, _tx: saga_core::PgTx, order: String) -> Result<String, StepError> {
        Ok(order)
    }
    let (mut b, order) = Definition::build::<Calls, String>("foreign", 1);
    let booked = b.add(transactional("book", foreign).no_compensation("it does nothing"), order);
    let definition = b.finish(booked).unwrap();
    let file = File::new().await;
    let text =
        Worker::new(file.store().await, Calls::default()).register(&definition).unwrap_err().to_string();
    assert!(text.contains("PgTransaction") && text.contains("lends SqliteTransaction"), "{text}");
}
