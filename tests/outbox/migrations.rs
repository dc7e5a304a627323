//! The tables come to be once, however many services start at the same moment.

use futures::future::join_all;
use outbox::sqlx::{query, query_scalar};
use outbox::{Error, Message};
use tests::servers::postgres::fresh_database;

use super::{connect, migrated};

#[tokio::test]
async fn many_at_once_migrate_once() {
    let database = fresh_database().await;
    let applied = join_all((0..8).map(|_| async {
        let mut connection = connect(&database).await;
        outbox::migrate(&mut connection).await.unwrap().len()
    }))
    .await;
    let known = outbox::migrations::POSTGRES.len();
    assert_eq!(applied.iter().sum::<usize>(), known, "each migration is applied by one of them: {applied:?}");
    outbox::check_schema(&mut connect(&database).await).await.unwrap();
}

#[tokio::test]
async fn a_missing_or_old_schema_is_named() {
    let database = fresh_database().await;
    let mut connection = connect(&database).await;
    let missing = outbox::check_schema(&mut connection).await.unwrap_err();
    assert!(matches!(missing, Error::Schema { found: 0, .. }), "{missing}");

    outbox::migrate(&mut connection).await.unwrap();
    query("DELETE FROM outbox.migration WHERE number > 1").execute(&mut connection).await.unwrap();
    let old = outbox::check_schema(&mut connection).await.unwrap_err();
    assert!(matches!(old, Error::Schema { found: 1, .. }), "{old}");
    assert!(old.to_string().contains("outbox::migrate"), "it says what to do: {old}");
}

#[tokio::test]
async fn a_writer_that_knows_only_debeziums_columns_is_served() {
    let (_database, mut connection) = migrated().await;
    query(
        "INSERT INTO outbox.event (id, aggregatetype, aggregateid, type, payload) \
         VALUES (gen_random_uuid(), 'order', '7', 'OrderPlaced', '{}')",
    )
    .execute(&mut connection)
    .await
    .unwrap();
    outbox::enqueue(&mut connection, Message::new("order", 7, "OrderShipped")).await.unwrap();
    let types: Vec<String> =
        query_scalar("SELECT type FROM outbox.event ORDER BY seq").fetch_all(&mut connection).await.unwrap();
    assert_eq!(types, ["OrderPlaced", "OrderShipped"]);
}
