//! Rows that no reader must stumble over, whichever way they are read.

use outbox_relay::sink::Failure;
use outbox_relay::sink::memory::Fault;
use outbox_relay::source::postgres::Table;
use outbox_relay::{MemorySink, PostgresSource};
use sqlx::{AssertSqlSafe, Connection, PgConnection, query_scalar, raw_sql};
use tests::servers::postgres::{Database, fresh_database};

use super::running::Running;

const TOPIC: &str = "outbox.event.order";
/// Postgres' own bounds, beyond those of others.
const TIMES: [&str; 4] = ["infinity", "-infinity", "294276-12-31 23:59:59Z", "4713-01-01 00:00:00Z BC"];

async fn migrated() -> (Database, PgConnection) {
    let database = fresh_database().await;
    let mut connection = PgConnection::connect(database.url()).await.unwrap();
    outbox::migrate(&mut connection).await.unwrap();
    (database, connection)
}

/// One event written at each of these times, so many times over.
async fn place(connection: &mut PgConnection, table: &str, times: i32) {
    for time in TIMES {
        let insert = format!(
            "INSERT INTO {table} (id, aggregatetype, aggregateid, type, created_at) \
             SELECT gen_random_uuid(), 'order', n::text, 'OrderPlaced', '{time}' FROM generate_series(1, {times}) AS n"
        );
        raw_sql(AssertSqlSafe(insert)).execute(&mut *connection).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn events_of_all_times_are_published() {
    let (database, mut connection) = migrated().await;
    let source = async || PostgresSource::connect(database.url()).await.unwrap();
    let broker = MemorySink::new();
    let relay = Running::start(source().await.poll_only(), &broker);
    place(&mut connection, "outbox.event", 1).await;
    relay.until(async |_| broker.ids(TOPIC).len() == 4).await;
    relay.stop().await;
    // A tick of many pages.
    place(&mut connection, "outbox.event", 100).await;
    let relay = Running::start(source().await, &broker);
    relay.until(async |stats| broker.ids(TOPIC).len() == 404 && stats.is_streaming()).await;
    place(&mut connection, "outbox.event", 1).await;
    relay.until(async |_| broker.ids(TOPIC).len() == 408).await;
    relay.stop().await;
}

/// Where there is only a slot, an event that is set aside is kept whole.
#[tokio::test(flavor = "multi_thread")]
async fn events_of_all_times_are_parked() {
    let (database, mut connection) = migrated().await;
    let table = "CREATE TABLE public.outboxevent (id uuid NOT NULL PRIMARY KEY, aggregatetype varchar(255) NOT NULL, \
                 aggregateid varchar(255) NOT NULL, type varchar(255) NOT NULL, payload jsonb, created_at timestamptz)";
    raw_sql(table).execute(&mut connection).await.unwrap();
    let broker = MemorySink::new();
    broker.fail(TIMES.map(|_| Fault::Fails(Failure::Rejected("too large".into()))));
    let source = PostgresSource::connect(database.url()).await.unwrap();
    let relay = Running::start(source.table(Table::named("public.outboxevent")), &broker);
    relay.until(async |stats| stats.is_streaming()).await;
    place(&mut connection, "outboxevent", 1).await;
    let parked = "SELECT count(*) FROM outbox.parked";
    relay
        .until(async |_| query_scalar::<_, i64>(parked).fetch_one(&mut connection).await.unwrap() == 4)
        .await;
    relay.stop().await;
}
