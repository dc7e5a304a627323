//! Postgres: used, killed, stopped, frozen.

use std::time::Duration;

use sqlx::{AssertSqlSafe, Connection, PgConnection, query, query_scalar};
use tests::servers::{Postgres, postgres};
use tokio::time::timeout;

/// Long enough for a query on a busy machine to have been answered, had the server been running.
const SILENCE: Duration = Duration::from_millis(300);

#[tokio::test]
async fn what_was_committed_survives_a_kill() {
    let mut postgres = Postgres::start().await;
    let mut connection = PgConnection::connect(&postgres.url()).await.unwrap();
    query("CREATE TABLE orders (id int PRIMARY KEY)").execute(&mut connection).await.unwrap();
    query("INSERT INTO orders VALUES (1)").execute(&mut connection).await.unwrap();
    let mut open = connection.begin().await.unwrap();
    query("INSERT INTO orders VALUES (2)").execute(&mut *open).await.unwrap();

    let before = postgres.pid();
    postgres.kill();
    assert!(open.commit().await.is_err(), "a dead server commits nothing");
    assert!(PgConnection::connect(&postgres.url()).await.is_err(), "a dead server refuses connections");

    postgres.restart().await;
    assert_ne!(postgres.pid(), before);
    let mut connection = PgConnection::connect(&postgres.url()).await.unwrap();
    let orders: Vec<i32> = query_scalar("SELECT id FROM orders").fetch_all(&mut connection).await.unwrap();
    assert_eq!(orders, [1], "the committed order is there, the uncommitted one is not");
}

#[tokio::test]
async fn an_immediate_stop_leaves_recovery_to_the_next_start() {
    let mut postgres = Postgres::start().await;
    let mut connection = PgConnection::connect(&postgres.url()).await.unwrap();
    query("CREATE TABLE orders AS SELECT 1 AS id").execute(&mut connection).await.unwrap();
    postgres.stop_immediate().await;
    assert!(query("SELECT 1").execute(&mut connection).await.is_err());

    postgres.restart().await;
    let mut connection = PgConnection::connect(&postgres.url()).await.unwrap();
    let orders: i64 = query_scalar("SELECT count(*) FROM orders").fetch_one(&mut connection).await.unwrap();
    assert_eq!(orders, 1);
}

#[tokio::test]
async fn a_frozen_server_answers_when_it_is_thawed() {
    let postgres = Postgres::start().await;
    let mut connection = PgConnection::connect(&postgres.url()).await.unwrap();
    postgres.freeze();
    let mut answer = Box::pin(query_scalar::<_, i32>("SELECT 42").fetch_one(&mut connection));
    assert!(timeout(SILENCE, &mut answer).await.is_err(), "a frozen server does not answer");
    postgres.thaw();
    assert_eq!(answer.await.unwrap(), 42);
}

#[tokio::test]
async fn settings_are_durable_unless_a_test_says_otherwise() {
    let database = postgres::fresh_database().await;
    let mut connection = PgConnection::connect(database.url()).await.unwrap();
    for (setting, value) in [("fsync", "on"), ("synchronous_commit", "on"), ("wal_level", "logical")] {
        let sql = AssertSqlSafe(format!("SHOW {setting}"));
        let found: String = query_scalar(sql).fetch_one(&mut connection).await.unwrap();
        assert_eq!(found, value, "{setting}");
    }

    let postgres = Postgres::start_with(&[("max_connections", "7"), ("fsync", "off")]).await;
    let mut connection = PgConnection::connect(&postgres.url()).await.unwrap();
    let connections: String = query_scalar("SHOW max_connections").fetch_one(&mut connection).await.unwrap();
    assert_eq!(connections, "7");
}

#[tokio::test]
async fn fresh_databases_are_empty_and_apart() {
    let (one, other) = tokio::join!(postgres::fresh_database(), postgres::fresh_database());
    let (one, other) = (one.pool(2).await, other.pool(2).await);
    query("CREATE TABLE orders (id int)").execute(&one).await.unwrap();
    let missing = query("SELECT * FROM orders").execute(&other).await.unwrap_err();
    let code = missing.as_database_error().and_then(|error| error.code().map(|code| code.into_owned()));
    assert_eq!(code.as_deref(), Some("42P01"), "no such table in the other database: {missing}");
}
