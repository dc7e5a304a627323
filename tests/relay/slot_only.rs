//! A table made for Debezium, untouched: read through a slot that lasts, as Debezium reads it.

use std::time::Duration;

use outbox_relay::outbox::{Message, Outbox};
use outbox_relay::sink::Failure;
use outbox_relay::sink::memory::Fault;
use outbox_relay::source::postgres::Table;
use outbox_relay::source::{Decision, Source};
use outbox_relay::{Key, MemorySink, PostgresSource};
use sqlx::{Connection, PgConnection, query, query_scalar, raw_sql};
use tests::servers::postgres::{Database, fresh_database};
use uuid::Uuid;

use super::running::Running;

const TOPIC: &str = "outbox.event.order";

/// As in Debezium's documentation.
const TABLE: &str = "CREATE TABLE public.outboxevent (\
    id uuid NOT NULL PRIMARY KEY, aggregatetype varchar(255) NOT NULL, aggregateid varchar(255) NOT NULL, \
    type varchar(255) NOT NULL, payload jsonb)";

async fn debezium() -> (Database, PgConnection) {
    let database = fresh_database().await;
    let mut connection = PgConnection::connect(database.url()).await.unwrap();
    raw_sql(TABLE).execute(&mut connection).await.unwrap();
    outbox::migrate(&mut connection).await.unwrap();
    (database, connection)
}

async fn source(database: &Database) -> PostgresSource {
    PostgresSource::connect(database.url()).await.unwrap().table(Table::named("public.outboxevent"))
}

async fn insert(connection: &mut PgConnection, key: &str) -> Uuid {
    let id = Uuid::now_v7();
    query("INSERT INTO outboxevent VALUES ($1, 'order', $2, 'OrderPlaced', '{\"n\": 1}')")
        .bind(id)
        .bind(key)
        .execute(connection)
        .await
        .unwrap();
    id
}

async fn until_streaming(relay: &Running) {
    relay.until(async |stats| stats.is_streaming()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_deleted_at_once_arrive_and_the_others_are_left_alone() {
    let (database, mut connection) = debezium().await;
    let broker = MemorySink::new();
    let relay = Running::start(source(&database).await, &broker);
    until_streaming(&relay).await;
    let mut tx = connection.begin().await.unwrap();
    let deleted = insert(&mut tx, "1").await;
    query("DELETE FROM outboxevent WHERE id = $1").bind(deleted).execute(&mut *tx).await.unwrap();
    tx.commit().await.unwrap();
    let mut tx = connection.begin().await.unwrap();
    insert(&mut tx, "1").await;
    tx.rollback().await.unwrap();
    let kept = insert(&mut connection, "1").await;
    relay.until(async |_| broker.ids(TOPIC).len() == 2).await;
    relay.stop().await;
    assert_eq!(broker.ids(TOPIC), [deleted, kept]);
    assert_eq!(broker.topic(TOPIC)[0].value.as_deref(), Some(&br#"{"n": 1}"#[..]));
    let rows: Vec<Uuid> =
        query_scalar("SELECT id FROM outboxevent").fetch_all(&mut connection).await.unwrap();
    assert_eq!(rows, [kept]);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_written_while_no_relay_ran_arrives_after_a_crash() {
    let (database, mut connection) = debezium().await;
    let broker = MemorySink::new();
    let relay = Running::start(source(&database).await, &broker);
    until_streaming(&relay).await;
    let mut placed = Vec::new();
    for round in 0..3 {
        for key in 0..20 {
            placed.push(insert(&mut connection, &key.to_string()).await);
        }
        if round == 0 {
            relay.until(async |_| broker.ids(TOPIC).len() >= 7).await;
        }
    }
    relay.kill().await;
    placed.push(insert(&mut connection, "1").await);
    let relay = Running::start(source(&database).await, &broker);
    let mut expected = placed.clone();
    expected.sort();
    relay
        .until(async |_| {
            let mut ids = broker.ids(TOPIC);
            ids.sort();
            assert!(ids.len() <= expected.len(), "the topic's tail tells what is there already");
            ids == expected
        })
        .await;
    relay.stop().await;
    let of_one: Vec<Uuid> =
        broker.topic(TOPIC).into_iter().filter(|record| record.key == "1").map(|record| record.id).collect();
    let written: Vec<Uuid> = placed.into_iter().filter(|id| of_one.contains(id)).collect();
    assert_eq!(of_one, written, "in the order in which they were written");
}

/// Its row may be gone by the time somebody decides.
#[tokio::test(flavor = "multi_thread")]
async fn a_poison_event_is_parked_whole() {
    let (database, mut connection) = debezium().await;
    let broker = MemorySink::new();
    broker.fail([Fault::Fails(Failure::Rejected("too large".into()))]);
    let relay = Running::start(source(&database).await, &broker);
    until_streaming(&relay).await;
    let poison = insert(&mut connection, "a").await;
    let behind = insert(&mut connection, "a").await;
    let other = insert(&mut connection, "b").await;
    let parked = "SELECT count(*) FROM outbox.parked";
    relay
        .until(async |_| query_scalar::<_, i64>(parked).fetch_one(&mut connection).await.unwrap() == 2)
        .await;
    relay.until(async |_| broker.ids(TOPIC) == [other]).await;
    relay.stop().await;
    query("DELETE FROM outboxevent").execute(&mut connection).await.unwrap();

    let operator = source(&database).await;
    let key = Key { aggregate_type: "order".into(), aggregate_id: "a".into() };
    assert_eq!(operator.decide(Some(&key), Decision::Release).await.unwrap(), 2);
    let relay = Running::start(source(&database).await, &broker);
    relay.until(async |_| broker.ids(TOPIC) == [other, poison, behind]).await;
    assert_eq!(broker.topic(TOPIC)[1].value.as_deref(), Some(&br#"{"n": 1}"#[..]));
    relay
        .until(async |_| query_scalar::<_, i64>(parked).fetch_one(&mut connection).await.unwrap() == 0)
        .await;
    relay.stop().await;
}

/// The log since then is gone; that must be said, not passed over.
#[tokio::test(flavor = "multi_thread")]
async fn a_lost_slot_stops_the_relay_until_the_table_can_be_polled() {
    let (database, mut connection) = debezium().await;
    let broker = MemorySink::new();
    let relay = Running::start(source(&database).await, &broker);
    until_streaming(&relay).await;
    let first = insert(&mut connection, "1").await;
    relay.until(async |stats| stats.acknowledgements.get() > 0 && broker.ids(TOPIC) == [first]).await;
    relay.stop().await;
    let missed = insert(&mut connection, "1").await;
    let drop = "SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots \
                WHERE database = current_database() AND slot_name LIKE 'outbox_relay_%_public_outboxevent'";
    while query(drop).execute(&mut connection).await.is_err() {
        // Until its connection has ended.
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let error = Running::start(source(&database).await, &broker).error().await;
    assert!(error.to_string().contains("is gone") && error.to_string().contains("migrate"), "{error}");

    let additions = Table::named("public.outboxevent").additions().unwrap();
    raw_sql(sqlx::AssertSqlSafe(additions)).execute(&mut connection).await.unwrap();
    let relay = Running::start(source(&database).await, &broker);
    relay.until(async |_| broker.ids(TOPIC).contains(&missed)).await;
    relay.stop().await;
}

/// What a relay writes into the log reaches every slot of the database.
#[tokio::test(flavor = "multi_thread")]
async fn the_marks_of_another_outbox_are_none_of_its_own() {
    let (database, mut connection) = debezium().await;
    let broker = MemorySink::new();
    let relay = Running::start(source(&database).await, &broker);
    let other_source = async || PostgresSource::connect(database.url()).await.unwrap();
    let other = Running::start(other_source().await.keep(Duration::from_secs(3_600)), &broker);
    until_streaming(&relay).await;
    until_streaming(&other).await;
    let event = Message::new("invoice", 7, "InvoiceSent");
    let id = event.event_id();
    outbox::enqueue(&mut connection, event).await.unwrap();
    other.until(async |_| broker.ids("outbox.event.invoice") == [id]).await;
    let marked = "SELECT coalesce(pg_visible_in_snapshot(e.xid, r.base), false) FROM outbox.event AS e, outbox.relay AS r \
                  WHERE r.outbox = 'outbox.event'";
    other.until(async |_| query_scalar::<_, bool>(marked).fetch_one(&mut connection).await.unwrap()).await;
    assert_eq!(other_source().await.replay(1, 1).await.unwrap(), 1);
    other.until(async |_| broker.ids("outbox.event.invoice") == [id, id]).await;
    until_streaming(&other).await;
    let first = insert(&mut connection, "1").await;
    relay.until(async |_| broker.ids(TOPIC) == [first]).await;
    relay.stop().await;
    other.stop().await;
}

/// The log holds a mark from before, which no acknowledgement has passed.
#[tokio::test(flavor = "multi_thread")]
async fn a_publication_that_was_changed_and_has_all_inserts_still_is_read_on() {
    let (database, mut connection) = debezium().await;
    let broker = MemorySink::new();
    broker.fail([Fault::Silence]);
    let relay = Running::start(source(&database).await, &broker);
    until_streaming(&relay).await;
    let slot = format!("watch_{}", Uuid::new_v4().simple());
    let watch = "SELECT lsn FROM pg_create_logical_replication_slot($1, 'pgoutput', true)";
    query(watch).bind(&slot).execute(&mut connection).await.unwrap();
    let mut placed = vec![insert(&mut connection, "1").await];
    relay.until(async |_| broker.ids(TOPIC) == placed).await;
    let marks = "SELECT count(*) FROM pg_logical_slot_peek_binary_changes($1, NULL, NULL, 'proto_version', '1', \
                     'publication_names', 'outbox_relay_public_outboxevent', 'messages', 'true') \
                 WHERE get_byte(data, 0) = ascii('M')";
    // One of them at least was written after the event was sent.
    relay
        .until(async |_| {
            query_scalar::<_, i64>(marks).bind(&slot).fetch_one(&mut connection).await.unwrap() >= 2
        })
        .await;
    let change = "ALTER PUBLICATION outbox_relay_public_outboxevent SET (publish = 'insert, update')";
    raw_sql(change).execute(&mut connection).await.unwrap();
    relay.kill().await;

    let relay = Running::start(source(&database).await, &broker);
    placed.push(insert(&mut connection, "1").await);
    relay.until(async |_| broker.ids(TOPIC) == placed).await;
    // And under it: one that leaves inserts out is not read past.
    let change = "ALTER PUBLICATION outbox_relay_public_outboxevent SET (publish = 'insert')";
    raw_sql(change).execute(&mut connection).await.unwrap();
    placed.push(insert(&mut connection, "1").await);
    relay.until(async |_| broker.ids(TOPIC) == placed).await;
    relay.stop().await;
}

/// Two relays: the slot is one's, and its successor takes it.
#[tokio::test(flavor = "multi_thread")]
async fn a_standby_takes_the_slot_with_the_lease() {
    let (database, mut connection) = debezium().await;
    let broker = MemorySink::new();
    let leader = Running::start(source(&database).await, &broker);
    until_streaming(&leader).await;
    let standby = Running::start(source(&database).await, &broker);
    let first = insert(&mut connection, "1").await;
    leader.until(async |_| broker.ids(TOPIC) == [first]).await;
    leader.kill().await;
    let second = insert(&mut connection, "1").await;
    standby.until(async |_| broker.ids(TOPIC).contains(&second)).await;
    standby.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_enqueues_into_it_by_its_columns() {
    let (database, mut connection) = debezium().await;
    let broker = MemorySink::new();
    let relay = Running::start(source(&database).await, &broker);
    until_streaming(&relay).await;
    let outbox = Outbox::table("public.outboxevent")
        .without("headers")
        .without("tracingspancontext")
        .without("key_seq")
        .json_payload()
        .build()
        .unwrap();
    let plain = Message::new("order", 7, "OrderPlaced").json(&serde_json::json!({"n": 2})).unwrap();
    let many: Vec<_> = (0..3).map(|_| Message::new("order", 7, "OrderPlaced")).collect();
    let mut ids = vec![plain.event_id()];
    ids.extend(many.iter().map(Message::event_id));
    let locked = Message::new("order", 7, "OrderShipped").serialized();
    ids.push(locked.event_id());
    outbox.enqueue(&mut connection, plain).await.unwrap();
    outbox.enqueue_all(&mut connection, &many).await.unwrap();
    outbox.enqueue(&mut connection, locked).await.unwrap();
    relay.until(async |_| broker.ids(TOPIC) == ids).await;
    relay.stop().await;
    let records = broker.topic(TOPIC);
    assert_eq!(records[0].value.as_deref(), Some(&br#"{"n": 2}"#[..]));
    assert_eq!(records[1].value, None, "a tombstone");
}
