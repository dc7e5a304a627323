//! Redis: used, killed, frozen.

use std::time::Duration;

use redis::AsyncCommands;
use redis::aio::MultiplexedConnection;
use tests::servers::{Redis, redis::fresh_keyspace};
use tokio::time::timeout;

const SILENCE: Duration = Duration::from_millis(300);

async fn connect(url: &str) -> redis::RedisResult<MultiplexedConnection> {
    redis::Client::open(url)?.get_multiplexed_async_connection().await
}

/// A connection that waits for as long as the test does.
async fn patient(url: &str) -> MultiplexedConnection {
    let mut connection = connect(url).await.unwrap();
    connection.set_response_timeout(Duration::from_secs(60));
    connection
}

#[tokio::test]
async fn what_was_acknowledged_survives_a_kill() {
    let mut redis = Redis::start().await;
    let mut connection = connect(&redis.url()).await.unwrap();
    let () = connection.set("order", "42").await.unwrap();

    let before = redis.pid();
    redis.kill();
    assert!(connection.get::<_, String>("order").await.is_err());
    assert!(connect(&redis.url()).await.is_err(), "a dead server refuses connections");

    redis.restart().await;
    assert_ne!(redis.pid(), before);
    let order: String = connect(&redis.url()).await.unwrap().get("order").await.unwrap();
    assert_eq!(order, "42");
}

#[tokio::test]
async fn without_its_log_it_forgets() {
    let mut redis = Redis::start_with(&[("appendonly", "no")]).await;
    let () = connect(&redis.url()).await.unwrap().set("order", "42").await.unwrap();
    redis.kill();
    redis.restart().await;
    let order: Option<String> = connect(&redis.url()).await.unwrap().get("order").await.unwrap();
    assert_eq!(order, None, "the setting was applied: nothing was on disk");
}

#[tokio::test]
async fn a_frozen_server_answers_when_it_is_thawed() {
    let redis = Redis::start().await;
    let mut connection = patient(&redis.url()).await;
    redis.freeze();
    let mut answer = Box::pin(connection.set::<_, _, ()>("order", "42"));
    assert!(timeout(SILENCE, &mut answer).await.is_err(), "a frozen server does not answer");
    redis.thaw();
    answer.await.unwrap();
}

#[tokio::test]
async fn keyspaces_are_apart() {
    let (one, other) = tokio::join!(fresh_keyspace(), fresh_keyspace());
    assert_ne!(one.prefix, other.prefix);
    let mut connection = connect(&one.url).await.unwrap();
    let () = connection.set_ex(format!("{}order", one.prefix), "42", 600).await.unwrap();
    let order: Option<String> = connection.get(format!("{}order", other.prefix)).await.unwrap();
    assert_eq!(order, None);
}
