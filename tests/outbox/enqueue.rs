//! What a writer may rely on, and what a relay that polls relies on.

use outbox::sqlx::postgres::PgConnection;
use outbox::sqlx::{Connection, query, query_as, query_scalar};
use outbox::{Message, enqueue, enqueue_all};
use tests::proxy::Proxy;

use super::{connect, migrated};

fn placed(order: i64) -> Message {
    Message::new("order", order, "OrderPlaced").json(&order).unwrap()
}

async fn count(connection: &mut PgConnection, what: &'static str) -> i64 {
    query_scalar(what).fetch_one(connection).await.unwrap()
}

const EVENTS: &str = "SELECT count(*) FROM outbox.event";
const ORDERS: &str = "SELECT count(*) FROM orders";

/// The crash at every point of the one commit: before it arrives, and after it, with its answer lost.
#[tokio::test]
async fn business_row_and_event_are_both_there_or_neither() {
    let (database, mut direct) = migrated().await;
    query("CREATE TABLE orders (id bigint)").execute(&mut direct).await.unwrap();
    let proxy = Proxy::start(database.port()).await;

    for (arrives, expected) in [(false, 0), (true, 1)] {
        let mut through = PgConnection::connect(&proxy.url(database.url())).await.unwrap();
        let mut trap = if arrives { proxy.lose_answer("COMMIT") } else { proxy.lose_request("COMMIT") };
        let mut tx = through.begin().await.unwrap();
        query("INSERT INTO orders VALUES (7)").execute(&mut *tx).await.unwrap();
        enqueue(&mut *tx, placed(7)).await.unwrap();
        assert!(tx.commit().await.is_err(), "the writer cannot know");
        trap.sprung().await;
        assert_eq!(count(&mut direct, EVENTS).await, expected);
        assert_eq!(count(&mut direct, ORDERS).await, expected);
    }
}

#[tokio::test]
async fn a_batch_keeps_its_order_and_its_contents() {
    let (_database, mut connection) = migrated().await;
    let messages: Vec<Message> = (0..100)
        .map(|order| placed(order).header("tenant", format!("acme \"{order}\"")).correlation(order))
        .collect();
    enqueue_all(&mut connection, &messages).await.unwrap();
    enqueue(&mut connection, Message::new("order", 1, "OrderDeleted")).await.unwrap();
    enqueue(&mut connection, Message::new("order", 2, "Binary").payload([0, 255, 0])).await.unwrap();

    type Row = (uuid::Uuid, String, Option<Vec<u8>>, Option<String>);
    let rows: Vec<Row> =
        query_as("SELECT id, aggregateid, payload, headers->>'tenant' FROM outbox.event ORDER BY seq")
            .fetch_all(&mut connection)
            .await
            .unwrap();
    assert_eq!(rows.len(), 102);
    for (order, (message, row)) in messages.iter().zip(&rows).enumerate() {
        let payload = Some(order.to_string().into_bytes());
        let expected = (message.event_id(), order.to_string(), payload, Some(format!("acme \"{order}\"")));
        assert_eq!(*row, expected);
    }
    assert_eq!(rows[100].2, None, "a tombstone");
    assert_eq!(rows[101].2.as_deref(), Some(&[0, 255, 0][..]));
}

/// A row that was written under a savepoint has the savepoint's `xmin`, which looks committed while the
/// transaction is still open. The relay must compare the transaction itself.
#[tokio::test]
async fn an_event_written_under_a_savepoint_carries_its_transactions_id() {
    let (_database, mut connection) = migrated().await;
    let mut tx = connection.begin().await.unwrap();
    let mut savepoint = tx.begin().await.unwrap();
    enqueue(&mut *savepoint, placed(7)).await.unwrap();
    savepoint.commit().await.unwrap();
    let (own, by_xmin): (bool, bool) = query_as(
        "SELECT xid = pg_current_xact_id(), xmin::text = pg_current_xact_id()::xid::text FROM outbox.event",
    )
    .fetch_one(&mut *tx)
    .await
    .unwrap();
    assert!(own, "xid is the top-level transaction's");
    assert!(!by_xmin, "or the column would not be needed");
}

/// Two writers of one key that take no lock of their own. The second asks while the first is still writing;
/// its place in the order must come after all that the first writes.
#[tokio::test]
async fn serialised_writers_of_a_key_are_numbered_in_the_order_of_their_commits() {
    let (database, mut connection) = migrated().await;
    let mut first = connection.begin().await.unwrap();
    enqueue(&mut *first, placed(7).serialized()).await.unwrap();

    let mut other = connect(&database).await;
    let second = tokio::spawn(async move {
        enqueue(&mut other, Message::new("order", 7, "OrderShipped").serialized()).await.unwrap();
    });
    database.until_blocked(1).await;
    enqueue(&mut *first, Message::new("order", 7, "OrderPaid").serialized()).await.unwrap();
    first.commit().await.unwrap();
    second.await.unwrap();

    let types: Vec<String> =
        query_scalar("SELECT type FROM outbox.event ORDER BY seq").fetch_all(&mut connection).await.unwrap();
    assert_eq!(types, ["OrderPlaced", "OrderPaid", "OrderShipped"]);
}

/// The same without serialisation, as a proof that the test above can fail.
#[tokio::test]
async fn unserialised_writers_of_a_key_do_not_wait() {
    let (database, mut connection) = migrated().await;
    let mut first = connection.begin().await.unwrap();
    enqueue(&mut *first, placed(7)).await.unwrap();
    let mut other = connect(&database).await;
    enqueue(&mut other, Message::new("order", 7, "OrderShipped")).await.unwrap();
    enqueue(&mut *first, Message::new("order", 7, "OrderPaid")).await.unwrap();
    first.commit().await.unwrap();
    let types: Vec<String> =
        query_scalar("SELECT type FROM outbox.event ORDER BY seq").fetch_all(&mut connection).await.unwrap();
    assert_eq!(types, ["OrderPlaced", "OrderShipped", "OrderPaid"]);
}

#[tokio::test]
async fn other_keys_do_not_wait_for_a_serialised_writer() {
    let (database, mut connection) = migrated().await;
    let mut first = connection.begin().await.unwrap();
    enqueue(&mut *first, placed(7).serialized()).await.unwrap();
    enqueue(&mut *first, placed(8).sequenced()).await.unwrap();
    let mut other = connect(&database).await;
    enqueue(&mut other, placed(9).serialized()).await.unwrap();
    enqueue(&mut other, placed(10).sequenced()).await.unwrap();
    first.rollback().await.unwrap();
    assert_eq!(count(&mut connection, EVENTS).await, 2);
}

/// Numbers within a key have no gaps although half of the writers roll back, and follow the order of commits.
#[tokio::test]
async fn sequenced_writers_leave_no_gap_behind() {
    let (database, mut connection) = migrated().await;
    let pool = database.pool(8).await;
    let writers = (0..8).map(|writer| {
        let pool = pool.clone();
        tokio::spawn(async move {
            for turn in 0..20 {
                let mut tx = pool.begin().await.unwrap();
                enqueue(&mut *tx, placed(turn % 2).sequenced()).await.unwrap();
                if (writer + turn) % 2 == 0 {
                    tx.commit().await.unwrap();
                } else {
                    tx.rollback().await.unwrap();
                }
            }
        })
    });
    for writer in futures::future::join_all(writers).await {
        writer.unwrap();
    }
    for key in ["0", "1"] {
        let numbers: Vec<i64> =
            query_scalar("SELECT key_seq FROM outbox.event WHERE aggregateid = $1 ORDER BY seq")
                .bind(key)
                .fetch_all(&mut connection)
                .await
                .unwrap();
        assert_eq!(numbers, (1..=40).collect::<Vec<i64>>(), "key {key}");
    }
}
