//! Somebody's transaction stays open for an hour, scaled down: the table grows, its dead rows do not.

use outbox::Message;
use outbox_relay::{MemorySink, PostgresSource};
use sqlx::{Connection, PgConnection, query, query_scalar};
use tests::servers::Postgres;

use super::running::Running;

/// A hundredth of what is the default, and of the rows that follow.
const DEAD_ROWS_MAX: u64 = 500;
const ROUNDS: usize = 20;
const EVENTS: usize = 300;

#[tokio::test(flavor = "multi_thread")]
async fn behind_a_long_transaction_done_rows_stay_and_dead_rows_are_bounded() {
    // Its own server: what other tests hold open would be held here as well. Only this test cleans.
    let server = Postgres::start_with(&[("autovacuum", "off")]).await;
    let mut connection = PgConnection::connect(&server.url()).await.unwrap();
    outbox::migrate(&mut connection).await.unwrap();
    query("CREATE EXTENSION pgstattuple").execute(&mut connection).await.unwrap();
    let broker = MemorySink::new();
    let source = PostgresSource::connect(&server.url()).await.unwrap().dead_rows_max(DEAD_ROWS_MAX);
    let relay = Running::start(source, &broker);

    let mut long = PgConnection::connect(&server.url()).await.unwrap();
    query("BEGIN ISOLATION LEVEL REPEATABLE READ").execute(&mut long).await.unwrap();
    query_scalar::<_, i64>("SELECT count(*) FROM outbox.event").fetch_one(&mut long).await.unwrap();

    let mut dead = Vec::new();
    for round in 1..=ROUNDS {
        let events: Vec<Message> =
            (0..EVENTS).map(|n| Message::new("order", n, "OrderPlaced").payload("{}")).collect();
        outbox::enqueue_all(&mut connection, &events).await.unwrap();
        let all = round * EVENTS;
        relay.until(async |stats| stats.published.get() as usize >= all).await;
        query("VACUUM outbox.event").execute(&mut connection).await.unwrap();
        dead.push(dead_rows(&mut connection).await);
    }
    // It had the time to remove all that it would ever remove.
    relay.until(async |stats| stats.swept.get() >= DEAD_ROWS_MAX).await;
    dead.push(dead_rows(&mut connection).await);
    assert!(dead.iter().all(|dead| *dead <= DEAD_ROWS_MAX as i64), "dead rows: {dead:?}");
    assert_eq!(relay.stats.published.get() as usize, ROUNDS * EVENTS, "and nothing waits for it");
    let rows: i64 =
        query_scalar("SELECT count(*) FROM outbox.event").fetch_one(&mut connection).await.unwrap();
    assert_eq!(rows as u64, (ROUNDS * EVENTS) as u64 - DEAD_ROWS_MAX, "the table has grown");

    query("COMMIT").execute(&mut long).await.unwrap();
    relay
        .until(async |_| {
            query("VACUUM outbox.event").execute(&mut connection).await.unwrap();
            query_scalar::<_, i64>("SELECT count(*) FROM outbox.event")
                .fetch_one(&mut connection)
                .await
                .unwrap()
                == 0
        })
        .await;
    relay.stop().await;
}

/// Exactly, not by the statistics.
async fn dead_rows(connection: &mut PgConnection) -> i64 {
    let dead = "SELECT dead_tuple_count FROM pgstattuple('outbox.event')";
    query_scalar(dead).fetch_one(connection).await.unwrap()
}
