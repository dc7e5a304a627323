//! Two consumers take one partition from each other again and again while their database is killed under them;
//! every event is applied once, in order.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use outbox::sqlx::{Connection, PgConnection, query, query_scalar};
use outbox::{Assignment, Error, Inbox};
use rand::Rng;
use tests::servers::Postgres;
use uuid::Uuid;

const TOPIC: &str = "outbox.event.order";
const EVENTS: i64 = 300;

/// How a consumer goes about it; all but the first are wrong, and there to be caught.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Manner {
    AsDocumented,
    ForgetsTheIds,
    AppliesBeforeItEnters,
}

struct Partition {
    url: String,
    /// Event ids and numbers at their offsets.
    records: Vec<(Uuid, i64)>,
    manner: Manner,
    done: AtomicBool,
}

/// What the broker holds: events at offsets, some of them a second time further on, as a relay leaves them
/// that crashed between sending and acknowledging.
fn records(rng: &mut impl Rng) -> Vec<(Uuid, i64)> {
    let mut records = Vec::new();
    for number in 0..EVENTS {
        records.push((Uuid::now_v7(), number));
        if rng.random_bool(0.1) {
            let again = rng.random_range(records.len().saturating_sub(20)..records.len());
            records.extend_from_within(again..);
        }
    }
    records
}

impl Partition {
    /// One consumer's life: whatever happens, it begins again, until everything is applied.
    async fn consume(self: Arc<Self>) {
        while !self.done.load(Ordering::Relaxed) {
            let Ok(mut connection) = PgConnection::connect(&self.url).await else { continue };
            loop {
                match self.apply_until_fenced(&mut connection).await {
                    Err(Error::Fenced { .. }) => {}
                    Ok(()) => self.done.store(true, Ordering::Relaxed),
                    Err(_database_is_gone) => break,
                }
                if self.done.load(Ordering::Relaxed) {
                    return;
                }
            }
        }
    }

    async fn apply_until_fenced(&self, connection: &mut PgConnection) -> Result<(), Error> {
        let assignment = Inbox::new("shipping").assign(connection, TOPIC, 0, "test").await?;
        let mut offset = assignment.next_offset.unwrap_or(0);
        while let Some(record) = self.records.get(usize::try_from(offset).expect("an offset")) {
            self.apply(connection, &assignment, offset, record).await?;
            offset += 1;
        }
        Ok(())
    }

    async fn apply(
        &self,
        connection: &mut PgConnection,
        assignment: &Assignment,
        offset: i64,
        (id, number): &(Uuid, i64),
    ) -> Result<(), Error> {
        let inbox = Inbox::new("shipping");
        let effect = query("INSERT INTO applied (event) VALUES ($1)").bind(number);
        let mut effect = Some(effect);
        if self.manner == Manner::AppliesBeforeItEnters {
            effect.take().expect("once").execute(&mut *connection).await?;
        }
        let mut tx = connection.begin().await?;
        let next = inbox.enter(&mut *tx, assignment).await?.unwrap_or(0);
        assert_eq!(next, offset, "the watermark is where this consumer left it");
        let fresh =
            self.manner == Manner::ForgetsTheIds || !inbox.first_time(&mut *tx, &[*id]).await?.is_empty();
        if let Some(effect) = effect.filter(|_| fresh) {
            effect.execute(&mut *tx).await?;
        }
        inbox.advance(&mut *tx, assignment, offset + 1, Some(*id)).await?;
        tx.commit().await?;
        Ok(())
    }

    /// Waits until this many events have been applied, or all of them.
    async fn until_applied(&self, events: i64) {
        let mut connection = PgConnection::connect(&self.url).await.unwrap();
        let count = "SELECT count(*) FROM applied";
        while !self.done.load(Ordering::Relaxed)
            && query_scalar::<_, i64>(count).fetch_one(&mut connection).await.unwrap() < events
        {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }
}

/// Runs two consumers of this manner to the end and answers what they applied, in order.
async fn applied(manner: Manner, kills: i64) -> Vec<i64> {
    let mut rng = tests::seeded();
    let mut postgres = Postgres::start().await;
    let mut connection = PgConnection::connect(&postgres.url()).await.unwrap();
    outbox::migrate(&mut connection).await.unwrap();
    // No unique constraint: an event that is applied twice is to be seen.
    let table = "CREATE TABLE applied (n bigint GENERATED ALWAYS AS IDENTITY, event bigint)";
    query(table).execute(&mut connection).await.unwrap();
    let (url, records) = (postgres.url(), records(&mut rng));
    let partition = Arc::new(Partition { url, records, manner, done: AtomicBool::new(false) });
    let consumers = [0, 1].map(|_| tokio::spawn(Arc::clone(&partition).consume()));

    for kill in 0..kills {
        partition
            .until_applied(kill * EVENTS / (kills + 1) + rng.random_range(1..EVENTS / (kills + 1)))
            .await;
        postgres.kill();
        postgres.restart().await;
    }
    for consumer in consumers {
        consumer.await.unwrap();
    }
    let mut connection = PgConnection::connect(&postgres.url()).await.unwrap();
    query_scalar("SELECT event FROM applied ORDER BY n").fetch_all(&mut connection).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn every_event_is_applied_once_while_the_database_is_killed() {
    assert_eq!(applied(Manner::AsDocumented, 3).await, (0..EVENTS).collect::<Vec<i64>>());
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_leaves_a_part_out_is_caught() {
    for manner in [Manner::ForgetsTheIds, Manner::AppliesBeforeItEnters] {
        assert_ne!(applied(manner, 0).await, (0..EVENTS).collect::<Vec<i64>>(), "{manner:?} goes unnoticed");
    }
}
