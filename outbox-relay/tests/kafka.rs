//! Relay and consumer through librdkafka, against its mock cluster.

use outbox::sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions};
use outbox::sqlx::{self, SqliteConnection, SqlitePool};
use outbox::{Inbox, Message, Release};
use outbox_relay::consumer::ConsumerStats;
use outbox_relay::rdkafka::mocking::MockCluster;
use outbox_relay::rdkafka::producer::DefaultProducerContext;
use outbox_relay::rdkafka::types::{RDKafkaApiKey, RDKafkaRespErr};
use outbox_relay::stats::Stats;
use outbox_relay::tokio_util::sync::CancellationToken;
use outbox_relay::{Consumer, ConsumerSettings, HandlerError, KafkaSink, Relay, SqliteSource, handler};
use std::sync::Arc;
use std::time::Duration;
use tempfile::TempDir;
use tokio::task::JoinHandle;

const TOPIC: &str = "outbox.event.order";

struct World {
    directory: TempDir,
    db: SqlitePool,
    kafka: MockCluster<'static, DefaultProducerContext>,
}

impl World {
    async fn open(partitions: i32) -> Self {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let options = SqliteConnectOptions::new()
            .filename(directory.path().join("shop.db"))
            .create_if_missing(true)
            .journal_mode(SqliteJournalMode::Wal)
            .busy_timeout(Duration::from_secs(10));
        let db = SqlitePoolOptions::new().max_connections(4).connect_with(options).await.expect("opens");
        outbox::migrate(&mut *db.acquire().await.expect("connects")).await.expect("migrates");
        sqlx::query("CREATE TABLE applied (n INTEGER PRIMARY KEY AUTOINCREMENT, key TEXT, payload TEXT)")
            .execute(&db)
            .await
            .expect("creates");
        let kafka = MockCluster::new(1).expect("a mock cluster");
        kafka.create_topic(TOPIC, partitions, 1).expect("a topic");
        Self { directory, db, kafka }
    }

    async fn place(&self, key: &str, payload: &str) {
        let message = Message::new("order", key, "OrderPlaced").payload(payload);
        outbox::enqueue(&mut *self.db.acquire().await.expect("connects"), message).await.expect("enqueues");
    }

    async fn relay(&self) -> (Arc<Stats>, Task) {
        let source = SqliteSource::open(self.directory.path().join("shop.db")).await.expect("opens");
        let relay =
            Relay::new(source, KafkaSink::connect(&self.kafka.bootstrap_servers()).expect("connects"));
        let stats = relay.stats();
        let stop = CancellationToken::new();
        (stats, Task { task: tokio::spawn(relay.run(stop.clone())), stop })
    }

    /// A consumer that writes down what it applies; a payload `poison` cannot be applied, and `bug` meets one, while
    /// the file `antidote` is missing.
    fn consumer(&self) -> (Arc<ConsumerStats>, Task) {
        let mut settings = ConsumerSettings::new(self.kafka.bootstrap_servers(), "notices", [TOPIC]);
        settings.attempts = 2;
        let antidote = self.directory.path().join("antidote");
        let consumer = Consumer::new(settings, self.db.clone());
        let stats = consumer.stats();
        let write_down = handler(move |tx: &mut SqliteConnection, received| {
            let cured = antidote.exists();
            Box::pin(async move {
                let payload = String::from_utf8(received.payload.clone().unwrap_or_default())?;
                sqlx::query("INSERT INTO applied (key, payload) VALUES (?1, ?2)")
                    .bind(received.key_text())
                    .bind(&payload)
                    .execute(tx)
                    .await?;
                if payload == "poison" && !cured {
                    return Err(HandlerError::park("cannot be applied"));
                }
                assert!(payload != "bug" || cured, "there is a bug");
                Ok(())
            })
        });
        let stop = CancellationToken::new();
        (stats, Task { task: tokio::spawn(consumer.run(write_down, stop.clone())), stop })
    }

    async fn applied(&self) -> Vec<(String, String)> {
        sqlx::query_as("SELECT key, payload FROM applied ORDER BY n")
            .fetch_all(&self.db)
            .await
            .expect("reads")
    }

    async fn until_applied(&self, count: usize) {
        eventually(&format!("{count} applied"), async || self.applied().await.len() >= count).await;
    }
}

struct Task {
    task: JoinHandle<outbox_relay::Result<()>>,
    stop: CancellationToken,
}

impl Task {
    async fn stop(self) {
        self.stop.cancel();
        self.task.await.expect("does not panic").expect("ends well");
    }
}

async fn eventually(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    for _ in 0..3_000 {
        if holds().await {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("waited in vain for {what}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn events_travel_from_table_to_handler_once_and_in_order() {
    let world = World::open(4).await;
    let (published, relay) = world.relay().await;
    let (stats, consumer) = world.consumer();
    for n in 0..200 {
        world.place(&format!("o{}", n % 5), &n.to_string()).await;
    }
    world.until_applied(200).await;
    consumer.stop().await;
    relay.stop().await;
    assert_eq!((published.published.get(), stats.applied.get(), stats.duplicates.get()), (200, 200, 0));
    let applied = world.applied().await;
    assert_eq!(applied.len(), 200);
    for key in 0..5 {
        let key = format!("o{key}");
        let numbers: Vec<u32> =
            applied.iter().filter(|(k, _)| *k == key).map(|(_, n)| n.parse().expect("a number")).collect();
        assert!(numbers.is_sorted() && numbers.len() == 40, "{key}: {numbers:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_consumer_goes_on_from_the_databases_watermark() {
    let world = World::open(2).await;
    let (_, relay) = world.relay().await;
    let (_, consumer) = world.consumer();
    for n in 0..20 {
        world.place(&format!("o{n}"), "before").await;
    }
    world.until_applied(20).await;
    consumer.task.abort();
    for n in 0..20 {
        world.place(&format!("o{n}"), "after").await;
    }
    let (stats, consumer) = world.consumer();
    world.until_applied(40).await;
    consumer.stop().await;
    relay.stop().await;
    assert_eq!(stats.duplicates.get(), 0);
    assert_eq!(world.applied().await.len(), 40);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_event_published_twice_is_applied_once() {
    let world = World::open(1).await;
    let twin = Message::new("order", "a", "OrderPlaced").payload("twin");
    for _ in 0..2 {
        let mut connection = world.db.acquire().await.expect("connects");
        outbox::enqueue(&mut *connection, twin.clone()).await.expect("enqueues");
    }
    world.place("b", "last").await;
    let (_, relay) = world.relay().await;
    let (stats, consumer) = world.consumer();
    world.until_applied(2).await;
    eventually("the duplicate is seen", async || stats.duplicates.get() == 1).await;
    consumer.stop().await;
    relay.stop().await;
    assert_eq!(world.applied().await.len(), 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_poison_record_waits_with_its_key_for_release() {
    let world = World::open(1).await;
    let (_, relay) = world.relay().await;
    for (key, payload) in [("a", "1"), ("a", "poison"), ("b", "2"), ("a", "3")] {
        world.place(key, payload).await;
    }
    let (stats, consumer) = world.consumer();
    world.until_applied(2).await;
    eventually("two are parked", async || stats.parked.get() == 2).await;
    let owned = |list: &[(&str, &str)]| -> Vec<(String, String)> {
        list.iter().map(|(key, payload)| ((*key).to_owned(), (*payload).to_owned())).collect()
    };
    assert_eq!(world.applied().await, owned(&[("a", "1"), ("b", "2")]));

    let inbox = Inbox::new("notices");
    let mut connection = world.db.acquire().await.expect("connects");
    let parked = inbox.parked(&mut *connection, 10).await.expect("reads");
    assert_eq!(parked[0].reason, "cannot be applied");
    // Released too early: it is held again, and stays ahead of what follows it.
    inbox.release(&mut *connection, TOPIC, Some(b"a"), Release::Retry).await.expect("releases");
    eventually("it is held again", async || {
        let sql = "SELECT count(*) FROM inbox_parked WHERE NOT released";
        sqlx::query_scalar::<_, i64>(sql).fetch_one(&world.db).await.expect("reads") == 2
    })
    .await;
    std::fs::write(world.directory.path().join("antidote"), "").expect("writes");
    inbox.release(&mut *connection, TOPIC, Some(b"a"), Release::Retry).await.expect("releases");
    world.until_applied(4).await;
    world.place("a", "4").await;
    world.until_applied(5).await;
    consumer.stop().await;
    relay.stop().await;
    let expected = owned(&[("a", "1"), ("b", "2"), ("a", "poison"), ("a", "3"), ("a", "4")]);
    assert_eq!(world.applied().await, expected);
}

/// Batches come faster than released records are looked for.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_released_key_moves_while_others_are_busy() {
    let world = World::open(1).await;
    let (_, relay) = world.relay().await;
    let (stats, consumer) = world.consumer();
    world.place("a", "poison").await;
    eventually("it is parked", async || stats.parked.get() == 1).await;
    std::fs::write(world.directory.path().join("antidote"), "").expect("writes");
    let mut connection = world.db.acquire().await.expect("connects");
    Inbox::new("notices")
        .release(&mut *connection, TOPIC, Some(b"a"), Release::Retry)
        .await
        .expect("releases");
    eventually("it is applied", async || {
        world.place("b", "busy").await;
        world.applied().await.iter().any(|(key, payload)| key == "a" && payload == "poison")
    })
    .await;
    consumer.stop().await;
    relay.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_record_on_which_the_handler_panics_is_parked_like_any_other() {
    let world = World::open(1).await;
    let (_, relay) = world.relay().await;
    for (key, payload) in [("a", "1"), ("a", "bug"), ("b", "2")] {
        world.place(key, payload).await;
    }
    let (stats, consumer) = world.consumer();
    world.until_applied(2).await;
    eventually("one is parked", async || stats.parked.get() == 1).await;
    let inbox = Inbox::new("notices");
    let mut connection = world.db.acquire().await.expect("connects");
    let parked = inbox.parked(&mut *connection, 10).await.expect("reads");
    assert_eq!(parked[0].reason, "the handler panicked: there is a bug");
    inbox.release(&mut *connection, TOPIC, Some(b"a"), Release::Retry).await.expect("releases");
    eventually("it is held again", async || {
        let sql = "SELECT count(*) FROM inbox_parked WHERE NOT released";
        sqlx::query_scalar::<_, i64>(sql).fetch_one(&world.db).await.expect("reads") == 1
    })
    .await;
    world.place("b", "3").await;
    world.until_applied(3).await;
    std::fs::write(world.directory.path().join("antidote"), "").expect("writes");
    inbox.release(&mut *connection, TOPIC, Some(b"a"), Release::Retry).await.expect("releases");
    world.until_applied(4).await;
    consumer.stop().await;
    relay.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_record_the_broker_refuses_is_parked_with_its_key_only() {
    let world = World::open(1).await;
    world.place("a", "refused").await;
    // As one of many it might not be the one that is meant: it is sent by itself before it is believed to be.
    let errors = [RDKafkaRespErr::RD_KAFKA_RESP_ERR_MSG_SIZE_TOO_LARGE; 2];
    world.kafka.request_errors(RDKafkaApiKey::Produce, &errors);
    let (stats, relay) = world.relay().await;
    eventually("it is parked", async || stats.parked.get() == 1).await;
    world.place("a", "behind").await;
    world.place("b", "other").await;
    eventually("its successor too", async || stats.parked.get() == 2).await;
    let (_, consumer) = world.consumer();
    world.until_applied(1).await;
    consumer.stop().await;
    relay.stop().await;
    assert_eq!(world.applied().await, [("b".to_owned(), "other".to_owned())]);
}

/// Services in other languages are not kept from it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_header_that_a_writer_calls_id_is_not_taken_for_the_events() {
    let world = World::open(1).await;
    for (id, key) in
        [("00000000-0000-0000-0000-000000000007", "a"), ("00000000-0000-0000-0000-000000000008", "b")]
    {
        sqlx::query(
            "INSERT INTO outbox_event (id, aggregatetype, aggregateid, type, headers) \
             VALUES (?1, 'order', ?2, 'OrderPlaced', '{\"id\": \"00000000-0000-0000-0000-000000000009\"}')",
        )
        .bind(id)
        .bind(key)
        .execute(&world.db)
        .await
        .expect("inserts");
    }
    let (_, relay) = world.relay().await;
    let (stats, consumer) = world.consumer();
    world.until_applied(2).await;
    consumer.stop().await;
    relay.stop().await;
    assert_eq!(stats.duplicates.get(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_relay_killed_in_the_middle_repeats_almost_nothing_and_loses_nothing() {
    let world = World::open(4).await;
    for n in 0..3_000 {
        world.place(&format!("o{}", n % 500), &n.to_string()).await;
    }
    for _ in 0..3 {
        let (stats, relay) = world.relay().await;
        eventually("some are published", async || stats.published.get() + stats.already_there.get() > 200)
            .await;
        relay.task.abort();
        let _ = relay.task.await;
    }
    let (stats, relay) = world.relay().await;
    let (consumed, consumer) = world.consumer();
    world.until_applied(3_000).await;
    eventually("the table is empty", async || {
        sqlx::query_scalar::<_, i64>("SELECT count(*) FROM outbox_event")
            .fetch_one(&world.db)
            .await
            .expect("reads")
            == 0
    })
    .await;
    consumer.stop().await;
    relay.stop().await;
    assert_eq!(world.applied().await.len(), 3_000);
    assert_eq!(consumed.applied.get(), 3_000);
    assert_eq!(consumed.duplicates.get(), 0, "{stats:?}");
}
