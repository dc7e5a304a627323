//! A consumer by itself: what it is handed by the group and by the topic, while it is inside its handler.
//!
//! The records carry no ids, so nothing but the inbox's epochs and watermarks keeps them from being applied
//! twice, or from being passed over.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI32, Ordering};
use std::time::Duration;

use outbox::{Assignment, Error, Inbox};
use outbox_relay::consumer::ConsumerStats;
use outbox_relay::tokio_util::sync::CancellationToken;
use outbox_relay::{Consumer, ConsumerSettings, handler};
use rdkafka::admin::{AdminClient, AdminOptions};
use rdkafka::client::DefaultClientContext;
use rdkafka::message::{Header, OwnedHeaders};
use rdkafka::producer::{FutureProducer, FutureRecord};
use rdkafka::{ClientConfig, Offset, TopicPartitionList};
use sqlx::{Connection, PgConnection, PgPool, query, query_as, query_scalar};
use tests::servers::postgres::{Database, fresh_database};
use tests::servers::{Kafka, kafka};
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;

const PARTITIONS: i32 = 6;
const EVENTS_EACH: i64 = 40;

struct World {
    database: Database,
    connection: PgConnection,
    broker: String,
    topic: String,
    /// Of no other test: whoever joins it has everything shared out anew.
    group: String,
}

impl World {
    /// A topic full of records, and a table in which one that is applied twice can be seen.
    async fn open(broker: String) -> Self {
        let database = fresh_database().await;
        let mut connection = PgConnection::connect(database.url()).await.unwrap();
        outbox::migrate(&mut connection).await.unwrap();
        let table =
            "CREATE TABLE applied (n bigint GENERATED ALWAYS AS IDENTITY, partition int, number bigint)";
        query(table).execute(&mut connection).await.unwrap();
        let topic = kafka::fresh_topic(&broker, PARTITIONS).await;
        let group = format!("shipping-{topic}");
        let world = Self { database, connection, broker, topic, group };
        world.produce(0..EVENTS_EACH).await;
        world
    }

    /// Records with these numbers, in every partition.
    async fn produce(&self, numbers: Range<i64>) {
        let producer: FutureProducer = ClientConfig::new()
            .set("bootstrap.servers", &self.broker)
            .set("enable.idempotence", "true")
            // As many record batches as records: a fetch can then be as small as one.
            .set("batch.num.messages", "1")
            .create()
            .unwrap();
        let records: Vec<(i32, String)> = numbers
            .flat_map(|number| (0..PARTITIONS).map(move |partition| (partition, number.to_string())))
            .collect();
        let sent = records.iter().map(|(partition, number)| {
            let record = FutureRecord::to(&self.topic).partition(*partition).key("k").payload(number);
            producer.send(record, Duration::from_secs(60))
        });
        for sent in futures::future::join_all(sent).await {
            sent.unwrap();
        }
    }

    fn settings(&self) -> ConsumerSettings {
        ConsumerSettings { batch: 5, ..ConsumerSettings::new(&self.broker, &self.group, [&self.topic]) }
    }

    async fn consumer(&self, settings: ConsumerSettings, door: Arc<Door>) -> Running {
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

    /// Retention takes what is before an offset, in every partition.
    async fn expire(&self, before: i64) {
        let admin: AdminClient<DefaultClientContext> =
            ClientConfig::new().set("bootstrap.servers", &self.broker).create().unwrap();
        let mut upto = TopicPartitionList::new();
        for partition in 0..PARTITIONS {
            upto.add_partition_offset(&self.topic, partition, Offset::Offset(before)).unwrap();
        }
        let expired = admin.delete_records(&upto, &AdminOptions::new()).await.unwrap();
        expired.elements().iter().for_each(|partition| partition.error().unwrap());
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
    opened: Semaphore,
}

impl Door {
    fn open() -> Arc<Self> {
        Self::new(false)
    }

    fn closed() -> Arc<Self> {
        Self::new(true)
    }

    fn new(closed: bool) -> Arc<Self> {
        Arc::new(Self {
            closed: AtomicBool::new(closed),
            partition: AtomicI32::new(-1),
            inside: Semaphore::new(0),
            opened: Semaphore::new(0),
        })
    }

    async fn pass(&self, partition: i32) {
        if self.closed.swap(false, Ordering::Relaxed) {
            self.partition.store(partition, Ordering::Relaxed);
            self.inside.add_permits(1);
            self.opened.acquire().await.unwrap().forget();
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

/// A second consumer joins while the first one is in the middle of a transaction, and goes on afterwards with batches
/// that it read under an assignment which is gone.
#[tokio::test(flavor = "multi_thread")]
async fn a_rebalance_inside_a_handler_applies_each_record_once_and_in_order() {
    let broker = Kafka::start().await;
    let mut world = World::open(broker.bootstrap()).await;
    let door = Door::closed();
    let first = world.consumer(world.settings(), door.clone()).await;
    door.inside.acquire().await.unwrap().forget();
    let assigned = "SELECT count(*) FROM outbox.inbox_partition WHERE epoch = 1";
    assert_eq!(world.count(assigned).await, i64::from(PARTITIONS), "the first consumer has them all");

    let second = world.consumer(world.settings(), door.clone()).await;
    let moved = "SELECT count(*) FROM outbox.inbox_partition WHERE epoch > 1";
    world.until("the group to share its partitions out anew", moved, |moved| moved > 0).await;
    // The partition whose record is inside the handler is taken over last, by whomever: its row is locked until then.
    // Others may go on meanwhile.
    world.database.until_blocked(1).await;
    let inside = door.partition.load(Ordering::Relaxed);
    assert_eq!(world.applied_of(inside).await, 0, "the first one is inside still");
    door.opened.add_permits(1);

    let everything = i64::from(PARTITIONS) * EVENTS_EACH;
    world.until("everything", "SELECT count(*) FROM applied", |applied| applied >= everything).await;
    let taken_over = "SELECT count(*) FROM outbox.inbox_partition WHERE epoch > 1";
    world.until("every epoch to have risen", taken_over, |taken| taken == i64::from(PARTITIONS)).await;
    for partition in 0..PARTITIONS {
        let topic = world.topic.clone();
        let old = Assignment { topic, partition, epoch: 1, next_offset: None, last_id: None };
        let refused = Inbox::new(&world.group).enter(&mut world.connection, &old).await.unwrap_err();
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

/// Java clients write numbers into headers as their bytes, which are text as far as UTF-8 goes, and which no
/// database stores as such.
#[tokio::test(flavor = "multi_thread")]
async fn a_poison_record_with_a_header_of_zero_bytes_is_parked() {
    let mut world = World::open(kafka::shared().await).await;
    let producer: FutureProducer =
        ClientConfig::new().set("bootstrap.servers", &world.broker).create().unwrap();
    let headers = [("version", &[0, 0, 0, 1][..]), ("tenant", b"acme")]
        .into_iter()
        .fold(OwnedHeaders::new(), |headers, (key, value)| {
            headers.insert(Header { key, value: Some(value) })
        });
    let poison = FutureRecord::to(&world.topic).partition(0).key("p").payload("no number").headers(headers);
    producer.send(poison, Duration::from_secs(60)).await.unwrap();
    let consumer = world.consumer(world.settings(), Door::open()).await;
    world.produce(EVENTS_EACH..2 * EVENTS_EACH).await;
    let everything = 2 * i64::from(PARTITIONS) * EVENTS_EACH;
    world.until("the others", "SELECT count(*) FROM applied", |applied| applied == everything).await;
    assert!(!consumer.task.is_finished(), "it goes on");
    consumer.stop().await;
    let parked = Inbox::new(&world.group).parked(&mut world.connection, 9).await.unwrap();
    let headers: Vec<_> = parked.iter().flat_map(|record| &record.headers).collect();
    assert_eq!(headers, [(&"tenant".to_owned(), &"acme".to_owned())]);
}

/// A member that the group has forgotten wakes up in the middle of taking partitions over, and is gone for good then.
#[tokio::test(flavor = "multi_thread")]
async fn a_zombie_that_takes_over_and_dies_stops_nobody() {
    let mut world = World::open(kafka::shared().await).await;
    let consumer = world.consumer(world.settings(), Door::open()).await;
    let everything = i64::from(PARTITIONS) * EVENTS_EACH;
    let applied = "SELECT count(*) FROM applied";
    world.until("what was there", applied, |applied| applied == everything).await;
    let inbox = Inbox::new(&world.group);
    for partition in 0..PARTITIONS {
        let taken = inbox.assign(&mut world.connection, &world.topic, partition, "zombie").await.unwrap();
        assert_eq!(taken.epoch, 2);
    }
    world.produce(EVENTS_EACH..2 * EVENTS_EACH).await;
    world.until("what came afterwards", applied, |applied| applied == 2 * everything).await;
    let stats = consumer.stop().await;
    assert!(stats.rejoined.get() > 0, "{stats:?}");
    let in_order: Vec<i64> = (0..2 * EVENTS_EACH).collect();
    let applied = world.applied().await;
    assert!(applied.values().all(|numbers| *numbers == in_order), "{applied:?}");
}

/// The broker dies while its partitions are taken over, and stays away for longer than it is waited for.
#[tokio::test(flavor = "multi_thread")]
async fn a_takeover_that_failed_is_made_again() {
    let mut broker = Kafka::start().await;
    let mut world = World::open(broker.bootstrap()).await;
    let mut other = PgConnection::connect(world.database.url()).await.unwrap();
    let mut held = other.begin().await.unwrap();
    query("LOCK TABLE outbox.inbox_partition").execute(&mut *held).await.unwrap();
    let consumer = world.consumer(world.settings(), Door::open()).await;
    world.database.until_blocked(1).await;
    broker.kill();
    held.rollback().await.unwrap();
    while consumer.stats.rejoined.get() == 0 {
        assert!(!consumer.task.is_finished(), "it waits for the broker");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    broker.restart().await;
    let everything = i64::from(PARTITIONS) * EVENTS_EACH;
    world.until("everything", "SELECT count(*) FROM applied", |applied| applied == everything).await;
    consumer.stop().await;
}

/// Retention overtakes a consumer that is running: all that it has not read yet is gone but the last of each partition.
async fn overtaken(skip_expired: bool) -> (World, Running) {
    let world = World::open(kafka::shared().await).await;
    let mut settings = ConsumerSettings { skip_expired, ..world.settings() };
    // Nothing lies ready with the client but the next record.
    settings.kafka =
        settings.kafka.property("max.partition.fetch.bytes", "1").property("queued.min.messages", "1");
    let door = Door::closed();
    let consumer = world.consumer(settings, door.clone()).await;
    door.inside.acquire().await.unwrap().forget();
    world.expire(EVENTS_EACH - 1).await;
    door.opened.add_permits(1);
    (world, consumer)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_running_consumer_that_retention_overtakes_stops_and_says_so() {
    let (mut world, consumer) = overtaken(false).await;
    let ended = tokio::time::timeout(Duration::from_secs(60), consumer.task);
    let stopped = ended.await.expect("it stops by itself").unwrap().unwrap_err();
    assert!(stopped.to_string().contains("expired unread"), "{stopped}");
    let last = "SELECT count(*) FROM applied WHERE number = 39";
    assert_eq!(world.count(last).await, 0, "nothing is applied behind the gap");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_running_consumer_that_may_skip_goes_on_with_the_oldest_record_there_is() {
    let (mut world, consumer) = overtaken(true).await;
    let last = "SELECT count(*) FROM applied WHERE number = 39";
    world.until("the last record of each partition", last, |last| last == i64::from(PARTITIONS)).await;
    consumer.stop().await;
    let applied = world.applied().await;
    assert!(applied.values().all(|numbers| numbers.is_sorted_by(|a, b| a < b)), "{applied:?}");
    assert!(
        applied.values().any(|numbers| numbers.len() < EVENTS_EACH as usize),
        "some had expired: {applied:?}"
    );
}
