//! A saga that is started in the caller's own transaction.

use std::sync::Arc;

use saga_core::store::{Query, SqliteStore, StartReply};
use saga_core::{Client, Ended, Worker, client};
use sqlx::sqlite::SqliteConnectOptions;
use sqlx::{Connection, SqliteConnection};

use crate::shop::{Shop, place_order};

#[tokio::test]
async fn a_saga_exists_if_and_only_if_the_callers_transaction_commits() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("shop.db");
    let store = Arc::new(SqliteStore::open(&file).await.unwrap());
    let options = SqliteConnectOptions::new().filename(&file);
    let mut connection = SqliteConnection::connect_with(&options).await.unwrap();
    sqlx::query("CREATE TABLE orders (id TEXT PRIMARY KEY)").execute(&mut connection).await.unwrap();
    let start = client::prepare(&place_order(), "order-1", &vec!["a".to_owned()]).build().unwrap();

    let mut tx = connection.begin_with("BEGIN IMMEDIATE").await.unwrap();
    sqlx::query("INSERT INTO orders VALUES ('order-1')").execute(&mut *tx).await.unwrap();
    assert_eq!(SqliteStore::start_in(&mut tx, &start).await.unwrap(), StartReply::Started);
    tx.rollback().await.unwrap();
    assert_eq!(store.summary(start.run).await.unwrap(), None);

    let mut tx = connection.begin_with("BEGIN IMMEDIATE").await.unwrap();
    sqlx::query("INSERT INTO orders VALUES ('order-1')").execute(&mut *tx).await.unwrap();
    assert_eq!(SqliteStore::start_in(&mut tx, &start).await.unwrap(), StartReply::Started);
    tx.commit().await.unwrap();

    // A repeated request prepares another run of the same order: it meets the first.
    let again = client::prepare(&place_order(), "order-1", &vec!["a".to_owned()]).build().unwrap();
    let mut tx = connection.begin_with("BEGIN IMMEDIATE").await.unwrap();
    let met = SqliteStore::start_in(&mut tx, &again).await.unwrap();
    assert_eq!(met, StartReply::Exists { run: start.run, digest: again.digest, end: None });
    tx.commit().await.unwrap();

    let shop = Shop::default();
    let worker = Worker::new(store.clone(), shop.clone()).register(&place_order()).unwrap();
    let worker = worker.start().await.unwrap();
    let end = Client::new(store).saga::<String>(start.run).wait().await.unwrap();
    assert_eq!(end, Ended::Completed("did shipment".into()));
    assert_eq!(shop.calls("payment"), 1);
    worker.drain().await;
}
