//! The conformance suite on the stores that need no server.

use std::sync::Arc;

use idempotency::sqlx::sqlite::{
    SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteSynchronous,
};
use idempotency::{MemoryStore, SqliteStore, Store, StoreErrorKind, store, testing};

#[tokio::test(flavor = "multi_thread")]
async fn memory_keeps_every_promise() {
    let store = MemoryStore::new();
    testing::conformance(|| {
        let store: Arc<dyn Store> = Arc::new(store.clone());
        async { store }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn sqlite_keeps_every_promise() {
    let dir = tempfile::tempdir().unwrap();
    let url = format!("sqlite:{}", dir.path().join("keys.db").display());
    // Two handles with pools of their own, as two processes have.
    testing::conformance(|| async { store::connect(&url).await.unwrap() }).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn many_may_open_a_new_sqlite_file_at_once() {
    for _ in 0..20 {
        let dir = tempfile::tempdir().unwrap();
        let url = format!("sqlite:{}", dir.path().join("keys.db").display());
        let opening: Vec<_> = (0..6)
            .map(|_| {
                let url = url.clone();
                tokio::spawn(async move { SqliteStore::connect(&url).await.map(drop) })
            })
            .collect();
        for opened in opening {
            opened.await.unwrap().unwrap();
        }
    }
}

#[tokio::test]
async fn sqlite_in_memory_keeps_its_rows() {
    let store: Arc<dyn Store> = Arc::new(SqliteStore::connect("sqlite::memory:").await.unwrap());
    testing::conformance(|| {
        let store = store.clone();
        async { store }
    })
    .await;
}

#[tokio::test]
async fn an_unsafe_sqlite_is_refused_with_the_setting_named() {
    let dir = tempfile::tempdir().unwrap();
    let file = SqliteConnectOptions::new().filename(dir.path().join("keys.db")).create_if_missing(true);
    let full = file.clone().synchronous(SqliteSynchronous::Full);
    for (options, setting) in [
        (file.synchronous(SqliteSynchronous::Normal), "PRAGMA synchronous"),
        (full.clone().journal_mode(SqliteJournalMode::Off), "PRAGMA journal_mode is off"),
        (full.clone().journal_mode(SqliteJournalMode::Memory), "PRAGMA journal_mode is memory"),
    ] {
        let pool = SqlitePoolOptions::new().connect_with(options).await.unwrap();
        let error = SqliteStore::new(pool.clone()).await.unwrap_err();
        assert_eq!(error.kind(), StoreErrorKind::Settings);
        assert!(error.to_string().contains(setting), "{error}");
        pool.close().await;
    }
    SqliteStore::new(SqlitePoolOptions::new().connect_with(full).await.unwrap()).await.unwrap();
}

#[tokio::test]
async fn a_foreign_url_gets_one_clear_line() {
    let error = store::connect("mongodb://somewhere").await.unwrap_err().to_string();
    assert!(error.contains("\"mongodb\"") && !error.contains('\n'), "{error}");
}
