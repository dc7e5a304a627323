//! The outbox and the inbox on SQLite.

use outbox::sqlx::{self, Connection as _, Row, SqliteConnection};
use outbox::{Error, Inbox, Message, ParkedRecord, Place, Release};
use std::time::Duration;
use uuid::Uuid;

async fn database() -> SqliteConnection {
    let mut db = SqliteConnection::connect("sqlite::memory:").await.expect("opens");
    assert_eq!(outbox::migrate(&mut db).await.expect("migrates").len(), outbox::migrations::SQLITE.len());
    db
}

#[tokio::test]
async fn migrating_twice_changes_nothing_and_an_old_schema_is_named() {
    let mut db = SqliteConnection::connect("sqlite::memory:").await.expect("opens");
    let error = outbox::check_schema(&mut db).await.expect_err("no tables yet");
    assert!(matches!(error, Error::Schema { found: 0, .. }), "{error}");
    outbox::migrate(&mut db).await.expect("migrates");
    assert!(outbox::migrate(&mut db).await.expect("migrates again").is_empty());
    outbox::check_schema(&mut db).await.expect("now it is there");
}

#[tokio::test]
async fn an_event_lives_and_dies_with_the_callers_transaction() {
    let mut db = database().await;
    let mut tx = db.begin().await.expect("begins");
    outbox::enqueue(&mut *tx, Message::new("order", 1, "Placed").payload("lost")).await.expect("enqueues");
    tx.rollback().await.expect("rolls back");

    let mut tx = db.begin().await.expect("begins");
    let message = Message::new("order", 1, "Placed").json(&7).expect("json").trace("00-a-b-01", Some("k=v"));
    let id = message.event_id();
    outbox::enqueue(&mut *tx, message).await.expect("enqueues");
    tx.commit().await.expect("commits");

    let rows = sqlx::query("SELECT * FROM outbox_event").fetch_all(&mut db).await.expect("reads");
    assert_eq!(rows.len(), 1);
    assert_eq!(rows[0].get::<String, _>("id"), id.to_string());
    assert_eq!(rows[0].get::<Vec<u8>, _>("payload"), b"7");
    assert_eq!(rows[0].get::<String, _>("headers"), r#"{"content-type":"application/json"}"#);
    assert_eq!(rows[0].get::<String, _>("tracingspancontext"), "traceparent=00-a-b-01\ntracestate=k=v\n");
}

#[tokio::test]
async fn sequenced_events_are_numbered_without_gaps_per_key() {
    let mut db = database().await;
    for key in ["a", "b", "a", "a"] {
        outbox::enqueue(&mut db, Message::new("order", key, "Changed").sequenced()).await.expect("enqueues");
    }
    let numbers: Vec<(String, i64)> =
        sqlx::query_as("SELECT aggregateid, key_seq FROM outbox_event ORDER BY seq")
            .fetch_all(&mut db)
            .await
            .expect("reads");
    let expected = [("a", 1), ("b", 1), ("a", 2), ("a", 3)];
    assert_eq!(numbers, expected.map(|(key, number)| (key.to_owned(), number)));
}

#[tokio::test]
async fn an_invalid_message_leaves_the_batch_unwritten() {
    let mut db = database().await;
    let batch = [Message::new("order", 1, "Placed"), Message::new("order", "", "Placed")];
    let error = outbox::enqueue_all(&mut db, &batch).await.expect_err("refused");
    assert_eq!(error.to_string(), "event \"Placed\": the aggregate id is empty");
    let rows: i64 =
        sqlx::query_scalar("SELECT count(*) FROM outbox_event").fetch_one(&mut db).await.expect("reads");
    assert_eq!(rows, 0);
}

#[tokio::test]
async fn a_later_assignment_fences_the_earlier_one() {
    let mut db = database().await;
    let inbox = Inbox::new("shipping");
    let first = inbox.assign(&mut db, "orders", 0, "one").await.expect("assigns");
    assert_eq!((first.epoch, first.next_offset, first.last_id), (1, None, None));
    let id = Uuid::now_v7();
    inbox.advance(&mut db, &first, 10, Some(id)).await.expect("advances");

    let second = inbox.assign(&mut db, "orders", 0, "two").await.expect("assigns");
    assert_eq!((second.epoch, second.next_offset, second.last_id), (2, Some(10), Some(id)));
    let fenced = inbox.enter(&mut db, &first).await.expect_err("is fenced");
    assert!(matches!(fenced, Error::Fenced { epoch: 1, .. }), "{fenced}");
    let fenced = inbox.advance(&mut db, &first, 11, None).await.expect_err("is fenced");
    assert!(matches!(fenced, Error::Fenced { epoch: 1, .. }), "{fenced}");
    assert_eq!(inbox.enter(&mut db, &second).await.expect("enters"), Some(10));
}

#[tokio::test]
async fn the_watermark_never_moves_backwards() {
    let mut db = database().await;
    let inbox = Inbox::new("shipping");
    let at = inbox.assign(&mut db, "orders", 3, "one").await.expect("assigns");
    let (early, late) = (Uuid::now_v7(), Uuid::now_v7());
    inbox.advance(&mut db, &at, 20, Some(late)).await.expect("advances");
    inbox.advance(&mut db, &at, 10, Some(early)).await.expect("changes nothing");
    let again = inbox.assign(&mut db, "orders", 3, "one").await.expect("assigns");
    assert_eq!((again.next_offset, again.last_id), (Some(20), Some(late)));
}

#[tokio::test]
async fn an_id_is_fresh_once_per_group_and_only_if_the_transaction_commits() {
    let mut db = database().await;
    let (inbox, other) = (Inbox::new("shipping"), Inbox::new("billing"));
    let (a, b) = (Uuid::now_v7(), Uuid::now_v7());
    let mut tx = db.begin().await.expect("begins");
    assert_eq!(inbox.first_time(&mut *tx, &[a]).await.expect("records"), [a]);
    tx.rollback().await.expect("rolls back");
    assert_eq!(inbox.first_time(&mut db, &[a, a]).await.expect("records"), [a]);
    assert_eq!(inbox.first_time(&mut db, &[a, b]).await.expect("records"), [b]);
    assert_eq!(other.first_time(&mut db, &[a]).await.expect("records"), [a]);
    assert_eq!(inbox.forget(&mut db, Duration::from_secs(3600), 10).await.expect("keeps"), 0);
    sqlx::query("UPDATE inbox_seen SET seen_at = 0").execute(&mut db).await.expect("ages");
    assert_eq!(inbox.forget(&mut db, Duration::from_secs(3600), 1).await.expect("forgets"), 1);
}

#[tokio::test]
async fn numbers_within_a_key_tell_next_again_and_gap() {
    let mut db = database().await;
    let inbox = Inbox::new("shipping");
    let mut places = Vec::new();
    for number in [1, 2, 2, 1, 5, 3] {
        places.push(inbox.in_sequence(&mut db, "shop", "a", number).await.expect("records"));
    }
    use Place::{Again, Gap, Next};
    assert_eq!(places, [Next, Next, Again, Again, Gap { expected: 3 }, Again]);
    assert_eq!(inbox.in_sequence(&mut db, "other shop", "a", 1).await.expect("records"), Next);
}

#[tokio::test]
async fn a_parked_key_is_released_in_order_or_dropped() {
    let mut db = database().await;
    let inbox = Inbox::new("shipping");
    let at = inbox.assign(&mut db, "orders", 0, "one").await.expect("assigns");
    let record = |offset: i64, key: &[u8]| ParkedRecord {
        topic: "orders".into(),
        partition: 0,
        offset,
        key: Some(key.to_vec()),
        payload: None,
        headers: [("id".to_owned(), "x".to_owned())].into(),
        reason: "no such order".into(),
    };
    for (offset, key) in [(1, b"a"), (2, b"b"), (3, b"a")] {
        inbox.park(&mut db, &record(offset, key)).await.expect("parks");
    }
    let mut keys = inbox.parked_keys(&mut db, &at).await.expect("reads");
    keys.sort();
    assert_eq!(keys, [Some(b"a".to_vec()), Some(b"b".to_vec())]);
    assert_eq!(inbox.released(&mut db, &at).await.expect("reads"), None);

    assert_eq!(inbox.release(&mut db, "orders", Some(b"a"), Release::Retry).await.expect("releases"), 2);
    let first = inbox.released(&mut db, &at).await.expect("reads").expect("one is released");
    assert_eq!(first, record(1, b"a"));
    assert!(inbox.unpark(&mut db, &first).await.expect("unparks"), "offset 3 is still parked");
    let second = inbox.released(&mut db, &at).await.expect("reads").expect("one is released");
    assert_eq!(second.offset, 3);
    assert!(!inbox.unpark(&mut db, &second).await.expect("unparks"), "none of the key is left");

    assert_eq!(inbox.release(&mut db, "orders", Some(b"b"), Release::Drop).await.expect("drops"), 1);
    assert!(inbox.parked(&mut db, 10).await.expect("reads").is_empty());
}
