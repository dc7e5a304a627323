//! A table whose rows lie in others: its log names those, and a row's place is unique in each of them only.

use std::time::Duration;

use outbox_relay::source::postgres::Table;
use outbox_relay::source::{Ack, Source};
use outbox_relay::{MemorySink, PostgresSource};
use sqlx::{AssertSqlSafe, Connection, PgConnection, query, query_scalar, raw_sql};
use tests::servers::postgres::{Database, fresh_database};
use uuid::Uuid;

use super::running::Running;

const TOPIC: &str = "outbox.event.order";

/// Puts a partitioned table in the place of `outbox.event`.
const PARTITION: &str = "BEGIN; \
    ALTER TABLE outbox.event RENAME TO event_before; \
    CREATE TABLE outbox.event (LIKE outbox.event_before INCLUDING DEFAULTS) PARTITION BY LIST (aggregateid); \
    CREATE SEQUENCE outbox.numbers START 1000; \
    ALTER TABLE outbox.event ALTER COLUMN seq SET DEFAULT nextval('outbox.numbers'); \
    CREATE TABLE outbox.event_a PARTITION OF outbox.event FOR VALUES IN ('a'); \
    CREATE TABLE outbox.event_b PARTITION OF outbox.event FOR VALUES IN ('b'); \
    COMMIT";

async fn migrated() -> (Database, PgConnection) {
    let database = fresh_database().await;
    let mut connection = PgConnection::connect(database.url()).await.unwrap();
    outbox::migrate(&mut connection).await.unwrap();
    (database, connection)
}

async fn place(connection: &mut PgConnection, key: &str) -> Uuid {
    let id = Uuid::now_v7();
    query("INSERT INTO outbox.event (id, aggregatetype, aggregateid, type) VALUES ($1, 'order', $2, 'OrderPlaced')")
        .bind(id)
        .bind(key)
        .execute(connection)
        .await
        .unwrap();
    id
}

#[tokio::test(flavor = "multi_thread")]
async fn a_table_whose_rows_lie_in_others_is_refused() {
    let (database, mut connection) = migrated().await;
    let columns = "(id uuid NOT NULL, aggregatetype text, aggregateid text, type text, payload jsonb)";
    let tables = format!(
        "CREATE TABLE parts {columns} PARTITION BY HASH (id); \
         CREATE TABLE part PARTITION OF parts FOR VALUES WITH (MODULUS 1, REMAINDER 0); \
         CREATE TABLE parent {columns}; CREATE TABLE child () INHERITS (parent); \
         CREATE VIEW seen AS SELECT * FROM parent"
    );
    raw_sql(AssertSqlSafe(tables)).execute(&mut connection).await.unwrap();
    for table in ["parts", "part", "parent", "seen"] {
        let source = PostgresSource::connect(database.url()).await.unwrap();
        let source = source.table(Table::named(format!("public.{table}")));
        let refused = Running::start(source, &MemorySink::new()).error();
        let error = tokio::time::timeout(Duration::from_secs(30), refused).await;
        let error = error.unwrap_or_else(|_| panic!("{table} is not refused")).to_string();
        assert!(error.contains(table) && error.contains("ordinary table"), "{error}");
    }
}

/// It was an ordinary one when the relay began.
#[tokio::test(flavor = "multi_thread")]
async fn sweeping_removes_nothing_that_has_the_place_of_a_done_row_in_another_partition() {
    let (database, mut connection) = migrated().await;
    let source = PostgresSource::connect(database.url()).await.unwrap().poll_only();
    source.prepare().await.unwrap();
    let epoch = source.take(&source.lease().await.unwrap(), "test").await.unwrap().unwrap();
    source.resume(epoch).await.unwrap();
    raw_sql(PARTITION).execute(&mut connection).await.unwrap();
    let done = place(&mut connection, "a").await;
    let page = source.read(10).await.unwrap();
    assert_eq!(page.events.iter().map(|event| event.id).collect::<Vec<_>>(), [done]);
    let unpublished = place(&mut connection, "b").await;
    source.acknowledge(epoch, &Ack { mark: page.mark, ..Ack::default() }).await.unwrap();
    source.sweep(epoch).await.unwrap();
    let left: Vec<Uuid> =
        query_scalar("SELECT id FROM outbox.event_b").fetch_all(&mut connection).await.unwrap();
    assert_eq!(left, [unpublished]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_table_that_is_partitioned_under_the_stream_is_polled() {
    let (database, mut connection) = migrated().await;
    let broker = MemorySink::new();
    let relay = Running::start(PostgresSource::connect(database.url()).await.unwrap(), &broker);
    relay.until(async |stats| stats.is_streaming()).await;
    raw_sql(PARTITION).execute(&mut connection).await.unwrap();
    let mut placed = Vec::new();
    let published = "SELECT EXISTS (SELECT FROM pg_publication_rel WHERE prrelid = 'outbox.event'::regclass)";
    let mut more = 50;
    while more > 0 {
        placed.push(place(&mut connection, "a").await);
        relay.until(async |_| broker.ids(TOPIC) == placed).await;
        // From then on the relay would stream, if it took this for a table that can be.
        more -= i32::from(query_scalar::<_, bool>(published).fetch_one(&mut connection).await.unwrap());
    }
    relay.stop().await;
}
