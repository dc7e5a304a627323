//! What only Postgres can get wrong.

use std::time::Duration;

use axum::Router;
use axum::http::StatusCode;
use axum::routing::post;
use idempotency::fused::PgTx;
use idempotency::{IdempotencyLayer, PostgresStore, Secret, sqlx};

use crate::client::{charge, send};
use crate::server::Postgres;

async fn app(
    server: &Postgres,
    wait: Duration,
    handler: axum::routing::MethodRouter,
) -> (Router, PostgresStore) {
    let store = PostgresStore::connect(server.url()).await.unwrap();
    let layer = IdempotencyLayer::fused(store.clone(), Secret::new([4; 32])).global_keys().wait(wait);
    (Router::new().route("/charges", handler).layer(layer), store)
}

const WAIT: Duration = Duration::from_millis(1500);

#[tokio::test(flavor = "multi_thread")]
async fn the_claims_settings_do_not_reach_the_handler() {
    let server = Postgres::start();
    let setup = PostgresStore::connect(server.url()).await.unwrap();
    sqlx::query("DO $$ BEGIN EXECUTE format('ALTER DATABASE %I SET default_transaction_isolation = serializable', current_database()); END $$")
        .execute(setup.pool())
        .await
        .unwrap();
    let handler = |mut tx: PgTx| async move {
        let lock: String = sqlx::query_scalar("SHOW lock_timeout").fetch_one(&mut *tx).await.unwrap();
        let level: String =
            sqlx::query_scalar("SHOW transaction_isolation").fetch_one(&mut *tx).await.unwrap();
        format!("{lock} {level}")
    };
    let (app, _) = app(&server, WAIT, post(handler)).await;
    assert_eq!(send(&app, charge("k", ""), "").await.body, "0 read committed");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_duplicate_waits_on_the_index_only_as_long_as_it_may() {
    let server = Postgres::start();
    let (entered, open) =
        (std::sync::Arc::new(tokio::sync::Notify::new()), std::sync::Arc::new(tokio::sync::Notify::new()));
    let (own_entered, own_open) = (entered.clone(), open.clone());
    let slow = move || async move {
        own_entered.notify_one();
        own_open.notified().await;
        StatusCode::CREATED
    };
    let (one, _) = app(&server, WAIT, post(slow)).await;
    let (two, store) = app(&server, Duration::from_millis(20), post(|| async { StatusCode::CREATED })).await;
    let first = tokio::spawn(async move { send(&one, charge("k", ""), "").await });
    entered.notified().await;
    let second = send(&two, charge("k", ""), "").await;
    assert_eq!((second.status, second.word.as_str()), (409, "in-flight"));
    // The second one's connection is fit for use again.
    let one: i32 = sqlx::query_scalar("SELECT 1").fetch_one(store.pool()).await.unwrap();
    assert_eq!(one, 1);
    open.notify_one();
    assert_eq!(first.await.unwrap().status, 201);
    assert!(send(&two, charge("k", ""), "").await.replayed);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_handlers_own_lock_timeout_is_not_taken_for_a_running_duplicate() {
    let server = Postgres::start();
    let handler = |mut tx: PgTx| async move {
        sqlx::query("SET LOCAL lock_timeout = 10").execute(&mut *tx).await.unwrap();
        let error = sqlx::query("LOCK TABLE busy").execute(&mut *tx).await.unwrap_err();
        (StatusCode::INTERNAL_SERVER_ERROR, error.to_string())
    };
    let (app, store) = app(&server, WAIT, post(handler)).await;
    sqlx::query("CREATE TABLE busy (id int)").execute(store.pool()).await.unwrap();
    let mut holder = store.pool().begin().await.unwrap();
    sqlx::query("LOCK TABLE busy").execute(&mut *holder).await.unwrap();
    let got = send(&app, charge("k", ""), "").await;
    assert_eq!((got.status, got.word.as_str()), (500, "not-applied"));
    assert!(got.body.contains("lock timeout"), "{}", got.body);
    holder.rollback().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_swallowed_error_is_not_committed_as_a_success() {
    let server = Postgres::start();
    let handler = |mut tx: PgTx| async move {
        sqlx::query("CREATE TABLE made (id int)").execute(&mut *tx).await.unwrap();
        // The error aborts the transaction; the handler goes on as if nothing had happened.
        let _ = sqlx::query("SELECT 1/0").execute(&mut *tx).await;
        StatusCode::CREATED
    };
    let (app, store) = app(&server, WAIT, post(handler)).await;
    let got = send(&app, charge("k", ""), "").await;
    assert_eq!((got.status, got.word.as_str()), (500, "not-applied"));
    assert!(sqlx::query("SELECT FROM made").execute(store.pool()).await.is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kept_refusal_survives_a_failed_statement() {
    let server = Postgres::start();
    let handler = |mut tx: PgTx| async move {
        let error = sqlx::query("SELECT 1/0").execute(&mut *tx).await.unwrap_err();
        (StatusCode::CONFLICT, error.to_string())
    };
    let (app, _) = app(&server, WAIT, post(handler)).await;
    let first = send(&app, charge("k", ""), "").await;
    let again = send(&app, charge("k", ""), "").await;
    assert_eq!((first.status, first.word.as_str(), again.replayed), (409, "kept", true));
    assert_eq!(first.body, again.body);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_process_that_dies_in_the_middle_frees_its_key_at_once() {
    let server = Postgres::start();
    let die = |mut tx: PgTx| async move {
        sqlx::query("CREATE TABLE made (id int)").execute(&mut *tx).await.unwrap();
        let pid: i32 = sqlx::query_scalar("SELECT pg_backend_pid()").fetch_one(&mut *tx).await.unwrap();
        // Its connection is cut, as the kernel cuts a dead process's.
        let _ = sqlx::query("SELECT pg_terminate_backend($1)").bind(pid).execute(&mut *tx).await;
        StatusCode::CREATED
    };
    let (dying, store) = app(&server, WAIT, post(die)).await;
    let (living, _) = app(&server, WAIT, post(|| async { StatusCode::CREATED })).await;
    let first = send(&dying, charge("k", ""), "").await;
    assert_eq!((first.status, first.word.as_str()), (500, "not-applied"));
    assert!(sqlx::query("SELECT FROM made").execute(store.pool()).await.is_err());
    let again = send(&living, charge("k", ""), "").await;
    assert_eq!((again.status, again.replayed), (201, false));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unsafe_server_is_refused_with_the_setting_named() {
    let server = Postgres::start();
    let store = PostgresStore::connect(server.url()).await.unwrap();
    sqlx::query("DO $$ BEGIN EXECUTE format('ALTER DATABASE %I SET synchronous_commit = off', current_database()); END $$").execute(store.pool()).await.unwrap();
    let error = PostgresStore::connect(server.url()).await.unwrap_err().to_string();
    assert!(error.contains("synchronous_commit = off"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn migrating_from_many_processes_at_once_is_safe() {
    let server = Postgres::start();
    let tasks: Vec<_> = (0..8)
        .map(|_| {
            let url = server.url().to_owned();
            tokio::spawn(async move { PostgresStore::connect(&url).await.map(drop) })
        })
        .collect();
    for task in tasks {
        task.await.unwrap().unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_does_not_show_its_password() {
    let server = Postgres::start();
    let url = server.url().replace("postgres@", "postgres:canary-7f3a@");
    let store = PostgresStore::connect(&url).await.unwrap();
    let shown = format!("{store:?} {store:#?}");
    assert!(shown.contains("PostgresStore") && !shown.contains("canary"), "{shown}");
}
