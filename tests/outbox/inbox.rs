//! The consumer's record of what it has applied, under two consumers of which one is a zombie.

use outbox::sqlx::{Connection, PgConnection, query, query_scalar};
use outbox::{Assignment, Error, Inbox, ParkedRecord, Place, Release};
use uuid::Uuid;

use super::{connect, migrated};

const TOPIC: &str = "outbox.event.order";

async fn assign(connection: &mut PgConnection) -> Assignment {
    Inbox::new("shipping").assign(connection, TOPIC, 0, "test").await.unwrap()
}

fn is_fenced<T: std::fmt::Debug>(result: Result<T, Error>) -> bool {
    matches!(result, Err(Error::Fenced { .. }))
}

/// A zombie inside its transaction holds up the takeover until it ends; what it commits is in the watermark
/// that the new owner is given.
#[tokio::test]
async fn a_takeover_waits_for_the_transaction_under_way_and_counts_it() {
    let (database, mut connection) = migrated().await;
    let inbox = Inbox::new("shipping");
    let mut zombie = connect(&database).await;
    let old = assign(&mut zombie).await;
    let mut tx = zombie.begin().await.unwrap();
    assert_eq!(inbox.enter(&mut *tx, &old).await.unwrap(), None);

    let taking_over = tokio::spawn(async move {
        let new = assign(&mut connection).await;
        (connection, new)
    });
    database.until_blocked(1).await;
    let id = Uuid::new_v4();
    inbox.advance(&mut *tx, &old, 42, Some(id)).await.unwrap();
    tx.commit().await.unwrap();

    let (mut connection, new) = taking_over.await.unwrap();
    assert_eq!((new.epoch, new.next_offset, new.last_id), (old.epoch + 1, Some(42), Some(id)));
    assert!(is_fenced(inbox.enter(&mut zombie, &old).await), "the zombie begins nothing any more");
    assert!(is_fenced(inbox.advance(&mut zombie, &old, 43, None).await), "nor ends anything");
    assert_eq!(inbox.enter(&mut connection, &new).await.unwrap(), Some(42));
}

/// Whoever entered before the takeover was asked for has won; whoever enters after it is fenced. A zombie
/// that wakes up *between* finds the new epoch, and what it had applied is rolled back.
#[tokio::test]
async fn what_a_fenced_owner_did_is_rolled_back() {
    let (database, mut connection) = migrated().await;
    query("CREATE TABLE shipped (id uuid)").execute(&mut connection).await.unwrap();
    let inbox = Inbox::new("shipping");
    let mut zombie = connect(&database).await;
    let old = assign(&mut zombie).await;

    let mut tx = zombie.begin().await.unwrap();
    query("INSERT INTO shipped VALUES (gen_random_uuid())").execute(&mut *tx).await.unwrap();
    let new = assign(&mut connection).await;
    assert!(is_fenced(inbox.advance(&mut *tx, &old, 1, None).await));
    tx.rollback().await.unwrap();

    let shipped: i64 = query_scalar("SELECT count(*) FROM shipped").fetch_one(&mut connection).await.unwrap();
    assert_eq!(shipped, 0);
    assert_eq!(inbox.enter(&mut connection, &new).await.unwrap(), None, "the watermark did not move");
}

/// Two partitions bring the same event. The second waits for the first, and applies it only if the first did not.
#[tokio::test]
async fn an_id_that_another_transaction_records_is_waited_for() {
    for (first_commits, fresh) in [(true, 0), (false, 1)] {
        let (database, mut connection) = migrated().await;
        let inbox = Inbox::new("shipping");
        let id = Uuid::now_v7();
        let mut first = connection.begin().await.unwrap();
        assert_eq!(inbox.first_time(&mut *first, &[id]).await.unwrap(), [id]);

        let mut other = connect(&database).await;
        let second = tokio::spawn({
            let inbox = inbox.clone();
            async move { inbox.first_time(&mut other, &[id]).await.unwrap().len() }
        });
        database.until_blocked(1).await;
        if first_commits {
            first.commit().await.unwrap()
        } else {
            first.rollback().await.unwrap()
        }
        assert_eq!(second.await.unwrap(), fresh, "the first commits: {first_commits}");
    }
}

#[tokio::test]
async fn overlapping_batches_in_opposite_order_do_not_deadlock() {
    let (database, _connection) = migrated().await;
    let pool = database.pool(4).await;
    let ids: Vec<Uuid> = (0..200).map(|_| Uuid::new_v4()).collect();
    let batches = (0..4).map(|batch| {
        let (pool, mut ids) = (pool.clone(), ids.clone());
        ids.rotate_left(batch * 50);
        if batch % 2 == 1 {
            ids.reverse();
        }
        tokio::spawn(async move {
            let mut tx = pool.begin().await.unwrap();
            let fresh = Inbox::new("shipping").first_time(&mut *tx, &ids).await.unwrap().len();
            tx.commit().await.unwrap();
            fresh
        })
    });
    let fresh: usize = futures::future::join_all(batches).await.into_iter().map(Result::unwrap).sum();
    assert_eq!(fresh, ids.len(), "each id is fresh for exactly one batch");
}

#[tokio::test]
async fn numbers_within_a_key_are_told_apart_by_concurrent_readers() {
    let (database, mut connection) = migrated().await;
    let inbox = Inbox::new("shipping");
    let mut first = connection.begin().await.unwrap();
    assert_eq!(inbox.in_sequence(&mut *first, "shop", "7", 1).await.unwrap(), Place::Next);
    let mut other = connect(&database).await;
    let second = tokio::spawn({
        let inbox = inbox.clone();
        async move {
            let mut tx = other.begin().await.unwrap();
            let place = inbox.in_sequence(&mut *tx, "shop", "7", 1).await.unwrap();
            tx.commit().await.unwrap();
            place
        }
    });
    database.until_blocked(1).await;
    first.commit().await.unwrap();
    assert_eq!(second.await.unwrap(), Place::Again);
    assert_eq!(inbox.in_sequence(&mut connection, "shop", "7", 4).await.unwrap(), Place::Gap { expected: 2 });
}

/// `COMMIT` of a transaction in which a statement failed reports success and keeps nothing. The inbox ends
/// every transaction with a statement, which does not.
#[tokio::test]
async fn a_swallowed_error_of_the_handler_is_not_committed_as_applied() {
    let (_database, mut connection) = migrated().await;
    let inbox = Inbox::new("shipping");
    let assignment = assign(&mut connection).await;
    let mut tx = connection.begin().await.unwrap();
    inbox.enter(&mut *tx, &assignment).await.unwrap();
    let _swallowed = query("INSERT INTO no_such_table VALUES (1)").execute(&mut *tx).await.unwrap_err();
    assert!(inbox.advance(&mut *tx, &assignment, 1, None).await.is_err());
    tx.rollback().await.unwrap();
    assert_eq!(inbox.enter(&mut connection, &assignment).await.unwrap(), None);
}

#[tokio::test]
async fn forgetting_goes_by_the_databases_clock_and_in_portions() {
    let (_database, mut connection) = migrated().await;
    let inbox = Inbox::new("shipping");
    let (old, new): (Vec<Uuid>, Vec<Uuid>) =
        ((0..5).map(|_| Uuid::new_v4()).collect(), (0..5).map(|_| Uuid::new_v4()).collect());
    inbox.first_time(&mut connection, &old).await.unwrap();
    query("UPDATE outbox.inbox_seen SET seen_at = seen_at - interval '8 days'")
        .execute(&mut connection)
        .await
        .unwrap();
    inbox.first_time(&mut connection, &new).await.unwrap();
    let week = std::time::Duration::from_secs(7 * 24 * 3600);
    assert_eq!(inbox.forget(&mut connection, week, 3).await.unwrap(), 3);
    assert_eq!(inbox.forget(&mut connection, week, 3).await.unwrap(), 2);
    assert_eq!(inbox.forget(&mut connection, week, 3).await.unwrap(), 0);
    assert!(inbox.first_time(&mut connection, &new).await.unwrap().is_empty(), "recent ones are remembered");
}

#[tokio::test]
async fn a_parked_key_is_released_in_order() {
    let (_database, mut connection) = migrated().await;
    let inbox = Inbox::new("shipping");
    let assignment = assign(&mut connection).await;
    let parked = |offset: i64, key: Option<&str>| ParkedRecord {
        topic: TOPIC.into(),
        partition: 0,
        offset,
        key: key.map(|key| key.as_bytes().to_vec()),
        payload: Some(offset.to_be_bytes().to_vec()),
        headers: [("id".to_owned(), "\u{e9}\"\\".to_owned())].into(),
        reason: "the handler refused it".into(),
    };
    let (first, second, other) = (parked(1, Some("7")), parked(3, Some("7")), parked(2, None));
    for record in [&second, &other, &first, &first] {
        inbox.park(&mut connection, record).await.unwrap();
    }
    assert_eq!(
        inbox.parked(&mut connection, 10).await.unwrap(),
        [first.clone(), other.clone(), second.clone()]
    );
    let mut keys = inbox.parked_keys(&mut connection, &assignment).await.unwrap();
    keys.sort();
    assert_eq!(keys, [None, Some(b"7".to_vec())]);

    assert_eq!(inbox.released(&mut connection, &assignment).await.unwrap(), None, "a person decides first");
    assert_eq!(inbox.release(&mut connection, TOPIC, Some(b"7"), Release::Retry).await.unwrap(), 2);
    assert_eq!(inbox.released(&mut connection, &assignment).await.unwrap(), Some(first.clone()));
    assert!(inbox.unpark(&mut connection, &first).await.unwrap(), "one more of its key is parked");
    assert_eq!(inbox.released(&mut connection, &assignment).await.unwrap(), Some(second.clone()));
    assert!(!inbox.unpark(&mut connection, &second).await.unwrap());
    assert_eq!(
        inbox.release(&mut connection, TOPIC, None, Release::Drop).await.unwrap(),
        1,
        "a record without a key"
    );
    assert_eq!(inbox.parked(&mut connection, 10).await.unwrap(), []);
}
