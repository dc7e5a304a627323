//! A service that writes events, and what it knows to be true.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use outbox::Message;
use outbox_relay::history;
use outbox_relay::tokio_util::sync::CancellationToken;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::message::Headers;
use rdkafka::{ClientConfig, Message as _, Offset, TopicPartitionList};
use sqlx::{Connection, PgConnection, query, query_as, query_scalar};
use tests::servers::kafka::create_topic;
use tokio::task::JoinHandle;
use uuid::Uuid;

use super::history::{Published, Written, duplicates, violations};

const KEYS: i64 = 12;
pub(super) const PARTITIONS: i32 = 3;
/// Far longer than anything here takes; whoever has not arrived by then is lost.
const ARRIVES_WITHIN: Duration = Duration::from_secs(90);

/// A database whose events go to one topic of their own.
#[derive(Debug, Clone)]
pub(super) struct Shop {
    pub(super) database: String,
    pub(super) kafka: String,
    pub(super) aggregate_type: String,
    pub(super) topic: String,
}

impl Shop {
    /// Makes the tables and the topic.
    pub(super) async fn open(database: &str, kafka: &str) -> Self {
        let aggregate_type = format!("order-{}", Uuid::new_v4().simple());
        let topic = format!("outbox.event.{aggregate_type}");
        create_topic(kafka, &topic, PARTITIONS).await;
        let mut connection = PgConnection::connect(database).await.unwrap();
        outbox::migrate(&mut connection).await.unwrap();
        for table in [
            "CREATE TABLE orders (key text PRIMARY KEY, events bigint NOT NULL)",
            // The truth, in the transaction of the event: whatever becomes of the outbox's row.
            "CREATE TABLE written (id uuid, key text, number bigint)",
            // No unique constraint: what is applied twice is to be seen.
            "CREATE TABLE received (n bigint GENERATED ALWAYS AS IDENTITY, key text, number bigint)",
        ] {
            query(table).execute(&mut connection).await.unwrap();
        }
        Self { database: database.into(), kafka: kafka.into(), aggregate_type, topic }
    }

    /// Starts writers, which write until they are closed.
    pub(super) fn writers(&self, count: usize, rng: &mut StdRng) -> Writers {
        let (stop, written) = (CancellationToken::new(), Arc::new(AtomicU64::new(0)));
        let tasks = (0..count)
            .map(|_| {
                let (shop, stop, written) = (self.clone(), stop.clone(), Arc::clone(&written));
                let mut rng = StdRng::seed_from_u64(rng.random());
                tokio::spawn(async move {
                    while !stop.is_cancelled() {
                        let Ok(mut connection) = PgConnection::connect(&shop.database).await else {
                            continue;
                        };
                        while !stop.is_cancelled() {
                            match shop.write(&mut connection, &mut rng).await {
                                Ok(()) => written.fetch_add(1, Ordering::Relaxed),
                                Err(_database_is_gone) => break,
                            };
                        }
                    }
                })
            })
            .collect();
        Writers { stop, written, tasks }
    }

    /// One transaction: short or long, committed or not, now and then of several events.
    async fn write(&self, connection: &mut PgConnection, rng: &mut StdRng) -> outbox::Result<()> {
        let mut tx = connection.begin().await?;
        let key = rng.random_range(0..KEYS).to_string();
        for _ in 0..rng.random_range(1..=3) {
            // The lock on the order's row makes the writers of a key take turns.
            let number: i64 = query_scalar(
                "INSERT INTO orders VALUES ($1, 1) \
                 ON CONFLICT (key) DO UPDATE SET events = orders.events + 1 RETURNING events",
            )
            .bind(&key)
            .fetch_one(&mut *tx)
            .await?;
            let event = Message::new(&self.aggregate_type, &key, "OrderChanged").json(&number)?;
            query("INSERT INTO written VALUES ($1, $2, $3)")
                .bind(event.event_id())
                .bind(&key)
                .bind(number)
                .execute(&mut *tx)
                .await?;
            outbox::enqueue(&mut *tx, event).await?;
        }
        if rng.random_bool(0.2) {
            // Events of other keys, with higher numbers, commit while this transaction is open.
            tokio::time::sleep(Duration::from_millis(rng.random_range(1..60))).await;
        }
        if rng.random_bool(0.2) {
            tx.rollback().await?
        } else {
            tx.commit().await?
        }
        Ok(())
    }

    /// What was committed.
    pub(super) async fn written(&self) -> Vec<Written> {
        let mut connection = PgConnection::connect(&self.database).await.unwrap();
        let rows: Vec<(Uuid, String, i64)> =
            query_as("SELECT id, key, number FROM written").fetch_all(&mut connection).await.unwrap();
        rows.into_iter().map(|(id, key, number)| Written { id, key, number }).collect()
    }

    /// Waits until everything that was committed lies in the topic, and fails with what is wrong with it.
    /// Answers how many records are duplicates.
    pub(super) async fn check(&self) -> usize {
        let written = self.written().await;
        assert!(written.len() > 100, "the writers were too slow for this to say anything: {}", written.len());
        let deadline = tokio::time::Instant::now() + ARRIVES_WITHIN;
        loop {
            let published = self.published().await;
            let violations = violations(&written, &published);
            if violations.is_empty() {
                agrees(&written, &published);
                return duplicates(&published);
            }
            let only_late = violations.iter().all(|violation| violation.starts_with("lost"));
            let in_time = tokio::time::Instant::now() < deadline;
            let (shown, count) = (&violations[..violations.len().min(10)], violations.len());
            assert!(only_late && in_time, "{count} violations among {} events: {shown:#?}", written.len());
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// Waits until the consumer has applied every event, and fails unless each was applied once and in order.
    pub(super) async fn check_received(&self, consumer: &JoinHandle<outbox_relay::Result<()>>) {
        let expected = self.written().await.len() as i64;
        let mut connection = PgConnection::connect(&self.database).await.unwrap();
        let deadline = tokio::time::Instant::now() + ARRIVES_WITHIN;
        let count = "SELECT count(*) FROM received";
        while query_scalar::<_, i64>(count).fetch_one(&mut connection).await.unwrap() < expected {
            assert!(!consumer.is_finished(), "the consumer ended although nobody stopped it");
            if tokio::time::Instant::now() > deadline {
                let missing =
                    "SELECT key, number FROM written EXCEPT SELECT key, number FROM received ORDER BY 1, 2";
                let missing: Vec<(String, i64)> = query_as(missing).fetch_all(&mut connection).await.unwrap();
                panic!("{} events were published and not applied: {missing:?}", missing.len());
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        let received: Vec<(String, Vec<i64>)> =
            query_as("SELECT key, array_agg(number ORDER BY n) FROM received GROUP BY key")
                .fetch_all(&mut connection)
                .await
                .unwrap();
        for (key, numbers) in received {
            let once: Vec<i64> = (1..=numbers.len() as i64).collect();
            assert_eq!(numbers, once, "key {key} was applied twice, not at all or out of order");
        }
        let events: i64 =
            query_scalar("SELECT sum(events)::bigint FROM orders").fetch_one(&mut connection).await.unwrap();
        assert_eq!(events, expected, "the truth agrees with itself");
    }

    /// All records of the topic.
    pub(super) async fn published(&self) -> Vec<Published> {
        let (kafka, topic) = (self.kafka.clone(), self.topic.clone());
        let read = move || {
            let reader: BaseConsumer = ClientConfig::new()
                .set("bootstrap.servers", &kafka)
                .set("group.id", "history")
                .set("enable.auto.commit", "false")
                .create()
                .unwrap();
            (0..PARTITIONS).flat_map(|partition| read_partition(&reader, &topic, partition)).collect()
        };
        tokio::task::spawn_blocking(read).await.unwrap()
    }
}

/// The checker that `outbox-relay verify` has, and that catches the broken relays of
/// `outbox-relay/tests/twins.rs`, finds nothing either.
fn agrees(written: &[Written], published: &[Published]) {
    let written: Vec<history::Written> = written
        .iter()
        .map(|event| history::Written {
            id: event.id,
            key: event.key.clone(),
            place: event.number,
            due: true,
        })
        .collect();
    let published: Vec<history::Published> = published
        .iter()
        .enumerate()
        .map(|(offset, record)| history::Published {
            id: record.event.id,
            key: record.event.key.clone(),
            topic: "the topic".into(),
            partition: record.partition,
            offset: offset as i64,
        })
        .collect();
    let differences = history::compare(&written, &published, true);
    assert!(!differences.is_violation(), "{differences:#?}");
}

fn read_partition(reader: &BaseConsumer, topic: &str, partition: i32) -> Vec<Published> {
    let patience = Duration::from_secs(60);
    let (begin, end) = reader.fetch_watermarks(topic, partition, patience).expect("the broker answers");
    let mut at = TopicPartitionList::new();
    at.add_partition_offset(topic, partition, Offset::Beginning).unwrap();
    reader.assign(&at).unwrap();
    let mut records = Vec::new();
    let mut next = begin;
    while next < end {
        let record = reader.poll(patience).expect("there are records up to the end").expect("readable");
        next = record.offset() + 1;
        let headers = record.headers().expect("records of the relay have headers");
        let id = headers.iter().find(|header| header.key == "id").and_then(|header| header.value);
        let text = |bytes: Option<&[u8]>| String::from_utf8(bytes.unwrap().to_vec()).unwrap();
        let event = Written {
            id: text(id).parse().unwrap(),
            key: text(record.key()),
            number: text(record.payload()).trim().parse().unwrap(),
        };
        records.push(Published { partition, event });
    }
    records
}

/// Writers at work.
#[derive(Debug)]
pub(super) struct Writers {
    stop: CancellationToken,
    written: Arc<AtomicU64>,
    tasks: Vec<JoinHandle<()>>,
}

impl Writers {
    /// Waits for this many more transactions.
    pub(super) async fn write(&self, more: u64) {
        let upto = self.written.load(Ordering::Relaxed) + more;
        while self.written.load(Ordering::Relaxed) < upto {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }

    /// Lets the transactions under way end, and no other begin.
    pub(super) async fn close(self) {
        self.stop.cancel();
        for task in self.tasks {
            task.await.unwrap();
        }
    }
}
