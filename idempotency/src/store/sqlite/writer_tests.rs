use std::sync::atomic::{AtomicU32, Ordering};

use futures::future::join_all;
use sqlx::sqlite::{SqliteConnectOptions, SqlitePoolOptions};

use super::super::migrate;
use super::*;
use crate::claim::{Decision, decide};
use crate::secret::hex;
use crate::testing::{fresh_id, request};
use crate::time::Time;

/// A writer on a file of its own, and how often its connection has committed.
async fn writer() -> (Writer, Arc<AtomicU32>, tempfile::TempDir) {
    let dir = tempfile::tempdir().unwrap();
    let options = SqliteConnectOptions::new().filename(dir.path().join("keys.db")).create_if_missing(true);
    let options = options.journal_mode(sqlx::sqlite::SqliteJournalMode::Wal);
    let pool = SqlitePoolOptions::new().max_connections(1).connect_with(options).await.unwrap();
    migrate::migrate(&pool).await.unwrap();
    let commits = Arc::new(AtomicU32::new(0));
    let counted = commits.clone();
    let mut connection = pool.acquire().await.unwrap();
    connection.lock_handle().await.unwrap().set_commit_hook(move || {
        counted.fetch_add(1, Ordering::SeqCst);
        true
    });
    drop(connection);
    (Writer::new(pool), commits, dir)
}

fn claim(id: KeyId) -> Write {
    let Decision::Write { put, .. } = decide(None, &request(id), Time(0)) else {
        unreachable!("the first claim of a key always writes")
    };
    Write { id, expected: Expected::Absent, change: Change::Put(*put) }
}

/// Writes `first` and, while it waits for the connection, all the others, so that they are one batch.
async fn in_one_batch(writer: &Writer, others: Vec<Write>) -> Vec<Result<bool, StoreError>> {
    let busy = writer.pool.acquire().await.unwrap();
    let start = |write: Write| {
        let writer = writer.clone();
        tokio::spawn(async move { writer.write(write).await })
    };
    let first = start(claim(fresh_id()));
    until(writer, |queue| queue.writing && queue.waiting.is_empty()).await;
    let count = others.len();
    let others: Vec<_> = others.into_iter().map(start).collect();
    until(writer, |queue| queue.waiting.len() == count).await;
    drop(busy);
    assert!(first.await.unwrap().unwrap());
    join_all(others).await.into_iter().map(Result::unwrap).collect()
}

async fn until(writer: &Writer, condition: impl Fn(&Queue) -> bool) {
    while !condition(&writer.lock()) {
        tokio::task::yield_now().await;
    }
}

async fn rows(writer: &Writer) -> i64 {
    sqlx::query_scalar("SELECT count(*) FROM idempotency_keys").fetch_one(&writer.pool).await.unwrap()
}

#[tokio::test]
async fn what_waits_is_one_commit() {
    let (writer, commits, _dir) = writer().await;
    let written = in_one_batch(&writer, (0..100).map(|_| claim(fresh_id())).collect()).await;
    assert!(written.into_iter().all(Result::unwrap));
    assert_eq!((rows(&writer).await, commits.load(Ordering::SeqCst)), (101, 2));
    until(&writer, |queue| !queue.writing).await;
}

#[tokio::test]
async fn a_batch_has_a_limit() {
    let (writer, commits, _dir) = writer().await;
    let written = in_one_batch(&writer, (0..=BATCH).map(|_| claim(fresh_id())).collect()).await;
    assert!(written.into_iter().all(Result::unwrap));
    assert_eq!(commits.load(Ordering::SeqCst), 3, "one alone, a full batch, and the one that is left");
}

#[tokio::test]
async fn conditions_hold_between_the_writes_of_a_batch() {
    let (writer, _, _dir) = writer().await;
    let id = fresh_id();
    let written = in_one_batch(&writer, (0..10).map(|_| claim(id)).collect()).await;
    assert_eq!(written.into_iter().filter(|written| *written.as_ref().unwrap()).count(), 1);
}

/// Some errors end one statement, some take the transaction along: neither may take the neighbours along.
#[tokio::test]
async fn a_bad_statement_harms_only_itself() {
    for harm in ["ABORT", "FAIL", "ROLLBACK"] {
        let (writer, _, _dir) = writer().await;
        let bad = fresh_id();
        let trigger = format!(
            "CREATE TRIGGER harm AFTER INSERT ON idempotency_keys WHEN NEW.id = x'{}' \
             BEGIN SELECT RAISE({harm}, 'harm'); END",
            hex(&bad.0)
        );
        sqlx::raw_sql(sqlx::AssertSqlSafe(trigger)).execute(&writer.pool).await.unwrap();
        let mut batch: Vec<_> = (0..20).map(|_| claim(fresh_id())).collect();
        batch.insert(10, claim(bad));
        let mut written = in_one_batch(&writer, batch).await;
        let error = written.remove(10).unwrap_err();
        assert!(error.to_string().contains("harm"), "{error}");
        assert!(written.into_iter().all(Result::unwrap), "{harm}");
        // FAIL keeps what the statement had written before it failed; that is SQLite's word, not ours.
        assert_eq!(rows(&writer).await, 21 + i64::from(harm == "FAIL"), "{harm}");
        assert!(writer.write(claim(fresh_id())).await.unwrap(), "the writer goes on after {harm}");
    }
}

#[test]
fn a_shift_that_dies_with_its_runtime_stops_nobody() {
    let (one, two) = (runtime(), runtime());
    let (writer, _, _dir) = two.block_on(writer());
    let busy = two.block_on(writer.pool.acquire()).unwrap();
    let lost = one.spawn({
        let writer = writer.clone();
        async move { writer.write(claim(fresh_id())).await }
    });
    two.block_on(until(&writer, |queue| queue.writing && queue.waiting.is_empty()));
    one.shutdown_background();
    drop(lost);
    two.block_on(async move { drop(busy) });
    two.block_on(until(&writer, |queue| !queue.writing));
    assert!(two.block_on(writer.write(claim(fresh_id()))).unwrap());
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap()
}
