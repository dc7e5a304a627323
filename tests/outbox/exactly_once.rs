//! A consumer loses its database again and again, and its rival wakes up as a zombie; every event is applied
//! once, in order.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use outbox::sqlx::{Connection, PgConnection, query, query_scalar};
use outbox::{Error, Inbox};
use rand::Rng;
use tests::servers::Postgres;
use uuid::Uuid;

const TOPIC: &str = "outbox.event.order";
const EVENTS: usize = 400;

/// What the broker holds: events at offsets, some of them a second time further on, as a relay leaves them
/// that crashed between sending and acknowledging.
fn topic(rng: &mut impl Rng) -> Vec<(Uuid, i64)> {
    let mut records = Vec::new();
    for number in 0..EVENTS as i64 {
        records.push((Uuid::now_v7(), number));
        if rng.random_bool(0.1) {
            let again = rng.random_range(records.len().saturating_sub(20)..records.len());
            records.extend_from_within(again..records.len());
        }
    }
    records
}

/// One consumer's life: it is assigned the partition, applies until something fails, and begins again.
async fn consume(url: String, records: Arc<Vec<(Uuid, i64)>>, done: Arc<AtomicBool>) {
    while !done.load(Ordering::Relaxed) {
        if let Ok(true) = apply_all(&url, &records).await {
            done.store(true, Ordering::Relaxed);
        }
        tokio::task::yield_now().await;
    }
}

/// True when the whole topic has been applied; false when another consumer has taken over.
async fn apply_all(url: &str, records: &[(Uuid, i64)]) -> Result<bool, Error> {
    let inbox = Inbox::new("shipping");
    let mut connection = PgConnection::connect(url).await?;
    let assignment = inbox.assign(&mut connection, TOPIC, 0, "test").await?;
    let mut offset = assignment.next_offset.unwrap_or(0);
    while let Some((id, number)) = records.get(offset as usize) {
        let mut tx = connection.begin().await?;
        match inbox.enter(&mut *tx, &assignment).await {
            Err(Error::Fenced { .. }) => return Ok(false),
            entered => assert_eq!(entered?.unwrap_or(0), offset, "the watermark is where this consumer left it"),
        }
        if !inbox.first_time(&mut *tx, &[*id]).await?.is_empty() {
            query("INSERT INTO applied (event) VALUES ($1)").bind(number).execute(&mut *tx).await?;
        }
        inbox.advance(&mut *tx, &assignment, offset + 1, Some(*id)).await?;
        tx.commit().await?;
        offset += 1;
    }
    Ok(true)
}

#[tokio::test(flavor = "multi_thread")]
async fn every_event_is_applied_once_while_the_database_is_killed() {
    let mut rng = tests::seeded();
    let mut postgres = Postgres::start().await;
    let mut connection = PgConnection::connect(&postgres.url()).await.unwrap();
    outbox::migrate(&mut connection).await.unwrap();
    // No unique constraint: an event that is applied twice is to be seen.
    query("CREATE TABLE applied (n bigint GENERATED ALWAYS AS IDENTITY, event bigint)")
        .execute(&mut connection)
        .await
        .unwrap();
    let records = Arc::new(topic(&mut rng));
    let done = Arc::new(AtomicBool::new(false));
    let consumers: Vec<_> = (0..2)
        .map(|_| tokio::spawn(consume(postgres.url(), Arc::clone(&records), Arc::clone(&done))))
        .collect();

    let mut kills = 0;
    while kills < 3 {
        let progress = rng.random_range(1..=60);
        until_applied(&postgres.url(), progress * (kills + 1), &done).await;
        postgres.kill();
        postgres.restart().await;
        kills += 1;
    }
    for consumer in consumers {
        consumer.await.unwrap();
    }
    let mut connection = PgConnection::connect(&postgres.url()).await.unwrap();
    let applied: Vec<i64> =
        query_scalar("SELECT event FROM applied ORDER BY n").fetch_all(&mut connection).await.unwrap();
    assert_eq!(applied, (0..EVENTS as i64).collect::<Vec<i64>>());
}

/// Waits until this many events have been applied, or all of them.
async fn until_applied(url: &str, events: i64, done: &AtomicBool) {
    let mut connection = PgConnection::connect(url).await.unwrap();
    while !done.load(Ordering::Relaxed) {
        let applied: i64 = query_scalar("SELECT count(*) FROM applied").fetch_one(&mut connection).await.unwrap();
        if applied >= events {
            return;
        }
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}
