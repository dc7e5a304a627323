//! A second consumer joins while the first one is inside its handler, in the middle of a transaction.
//!
//! The records carry no ids, so nothing but the inbox's epochs and watermarks keeps them from being applied
//! twice: the first consumer goes on with batches that it read under an assignment which is gone.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI32, Ordering};
use std::time::Duration;

use outbox::{Assignment, Error, Inbox};
use outbox_relay::consumer::ConsumerStats;
use outbox_relay::tokio_util::sync::CancellationToken;
use outbox_relay::{Consumer, ConsumerSettings, handler};
use rdkafka::ClientConfig;
use rdkafka::producer::{FutureProducer, FutureRecord};
use sqlx::{Connection, PgConnection, PgPool, query, query_as, query_scalar};
use tests::servers::postgres::{Database, fresh_database};
use tests::servers::{Kafka, kafka};
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;
use uuid::Uuid;

const PARTITIONS: i32 = 6;
const EVENTS_EACH: i64 = 40;
const GROUP: &str = "shipping";

struct World {
    database: Database,
    connection: PgConnection,
    broker: String,
    topic: String,
}

impl World {
    /// A topic full of records, and a table in which one that is applied twice can be seen.
    async fn open(broker: &Kafka) -> Self {
        let database = fresh_database().await;
        let mut connection = PgConnection::connect(database.url()).await.unwrap();
        outbox::migrate(&mut connection).await.unwrap();
        let table =
            "CREATE TABLE applied (n bigint GENERATED ALWAYS AS IDENTITY, partition int, number bigint)";
        query(table).execute(&mut connection).await.unwrap();
        let (broker, topic) = (broker.bootstrap(), format!("orders-{}", Uuid::new_v4().simple()));
        kafka::create_topic(&broker, &topic, PARTITIONS).await;
        let producer: FutureProducer = ClientConfig::new()
            .set("bootstrap.servers", &broker)
            .set("enable.idempotence", "true")
            .create()
            .unwrap();
        let records: Vec<(i32, String)> = (0..EVENTS_EACH)
            .flat_map(|number| (0..PARTITIONS).map(move |partition| (partition, number.to_string())))
            .collect();
        let sent = records.iter().map(|(partition, number)| {
            let record = FutureRecord::to(&topic).partition(*partition).key("k").payload(number);
            producer.send(record, Duration::from_secs(60))
        });
        for sent in futures::future::join_all(sent).await {
            sent.unwrap();
        }
        Self { database, connection, broker, topic }
    }

    async fn consumer(&self, door: Arc<Door>) -> Running {
        let mut settings = ConsumerSettings::new(&self.broker, GROUP, [&self.topic]);
        settings.batch = 5;
        let pool: PgPool = self.database.pool(8).await;
        let consumer = Consumer::new(settings, pool);
        let (stats, stop) = (consumer.stats(), CancellationToken::new());
        let apply = handler(move |tx: &mut PgConnection, received| {
            let door = door.clone();
            Box::pin(async move {
                let number: i64 = received.json()?;
                door.pass(received.partition).await;
                query("INSERT INTO applied (partition, number) VALUES ($1, $2)")
                    .bind(received.partition)
                    .bind(number)
                    .execute(tx)
                    .await?;
                Ok(())
            })
        });
        Running { stats, task: tokio::spawn(consumer.run(apply, stop.clone())), stop }
    }

    async fn count(&mut self, sql: &'static str) -> i64 {
        query_scalar(sql).fetch_one(&mut self.connection).await.unwrap()
    }

    async fn applied_of(&mut self, partition: i32) -> i64 {
        let sql = "SELECT count(*) FROM applied WHERE partition = $1";
        query_scalar(sql).bind(partition).fetch_one(&mut self.connection).await.unwrap()
    }

    async fn until(&mut self, what: &str, sql: &'static str, holds: impl Fn(i64) -> bool) {
        for _ in 0..12_000 {
            if holds(self.count(sql).await) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("waited in vain for {what}");
    }

    /// What was applied of each partition, in the order in which it became true.
    async fn applied(&mut self) -> BTreeMap<i32, Vec<i64>> {
        let rows: Vec<(i32, i64)> = query_as("SELECT partition, number FROM applied ORDER BY n")
            .fetch_all(&mut self.connection)
            .await
            .unwrap();
        let mut applied: BTreeMap<i32, Vec<i64>> = BTreeMap::new();
        rows.into_iter().for_each(|(partition, number)| applied.entry(partition).or_default().push(number));
        applied
    }
}

/// Whoever comes first is inside until it is opened.
struct Door {
    closed: AtomicBool,
    /// Of whom is inside.
    partition: AtomicI32,
    inside: Semaphore,
    open: Semaphore,
}

impl Door {
    fn closed() -> Arc<Self> {
        Arc::new(Self {
            closed: AtomicBool::new(true),
            partition: AtomicI32::new(-1),
            inside: Semaphore::new(0),
            open: Semaphore::new(0),
        })
    }

    async fn pass(&self, partition: i32) {
        if self.closed.swap(false, Ordering::Relaxed) {
            self.partition.store(partition, Ordering::Relaxed);
            self.inside.add_permits(1);
            self.open.acquire().await.unwrap().forget();
        }
    }
}

struct Running {
    stats: Arc<ConsumerStats>,
    stop: CancellationToken,
    task: JoinHandle<outbox_relay::Result<()>>,
}

impl Running {
    async fn stop(self) -> Arc<ConsumerStats> {
        self.stop.cancel();
        self.task.await.unwrap().unwrap();
        self.stats
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rebalance_inside_a_handler_applies_each_record_once_and_in_order() {
    let broker = Kafka::start().await;
    let mut world = World::open(&broker).await;
    let door = Door::closed();
    let first = world.consumer(door.clone()).await;
    door.inside.acquire().await.unwrap().forget();
    let assigned = "SELECT count(*) FROM outbox.inbox_partition WHERE epoch = 1";
    assert_eq!(world.count(assigned).await, i64::from(PARTITIONS), "the first consumer has them all");

    let second = world.consumer(door.clone()).await;
    let moved = "SELECT count(*) FROM outbox.inbox_partition WHERE epoch > 1";
    world.until("the group to share its partitions out anew", moved, |moved| moved > 0).await;
    // The partition whose record is inside the handler is taken over last, by whomever: its row is locked until then.
    // Others may go on meanwhile.
    world.database.until_blocked(1).await;
    let inside = door.partition.load(Ordering::Relaxed);
    assert_eq!(world.applied_of(inside).await, 0, "the first one is inside still");
    door.open.add_permits(1);

    let everything = i64::from(PARTITIONS) * EVENTS_EACH;
    world.until("everything", "SELECT count(*) FROM applied", |applied| applied >= everything).await;
    let taken_over = "SELECT count(*) FROM outbox.inbox_partition WHERE epoch > 1";
    world.until("every epoch to have risen", taken_over, |taken| taken == i64::from(PARTITIONS)).await;
    for partition in 0..PARTITIONS {
        let topic = world.topic.clone();
        let old = Assignment { topic, partition, epoch: 1, next_offset: None, last_id: None };
        let refused = Inbox::new(GROUP).enter(&mut world.connection, &old).await.unwrap_err();
        assert!(matches!(refused, Error::Fenced { .. }), "{refused}");
    }
    let (first, second) = (first.stop().await, second.stop().await);
    let in_order: Vec<i64> = (0..EVENTS_EACH).collect();
    let applied = world.applied().await;
    assert_eq!(applied.len(), PARTITIONS as usize);
    assert!(applied.values().all(|numbers| *numbers == in_order), "{applied:?}");
    assert!(first.applied.get() > 0 && second.applied.get() > 0, "{first:?} {second:?}");
    assert_eq!(first.applied.get() + second.applied.get(), everything as u64);
    assert!(first.fenced.get() > 0, "it had read on under the assignment that is gone: {first:?}");
}
