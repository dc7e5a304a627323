//! The relay from a real SQLite file into a broker that fails as it is told.

use outbox::Message;
use outbox::sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions};
use outbox::sqlx::{self, SqlitePool};
use outbox::uuid::Uuid;
use outbox_relay::sink::Failure;
use outbox_relay::sink::memory::{Fault, MemorySink};
use outbox_relay::source::{Decision, Source as _};
use outbox_relay::stats::Stats;
use outbox_relay::tokio_util::sync::CancellationToken;
use outbox_relay::{Relay, RelaySettings, SqliteSource};
use std::sync::Arc;
use std::time::Duration;
use tempfile::TempDir;

const TOPIC: &str = "outbox.event.order";

struct Shop {
    directory: TempDir,
    db: SqlitePool,
    broker: MemorySink,
}

impl Shop {
    async fn open() -> Self {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let options = SqliteConnectOptions::new()
            .filename(directory.path().join("shop.db"))
            .create_if_missing(true)
            .journal_mode(SqliteJournalMode::Wal)
            .busy_timeout(Duration::from_secs(10));
        let db = SqlitePoolOptions::new().max_connections(2).connect_with(options).await.expect("opens");
        outbox::migrate(&mut *db.acquire().await.expect("connects")).await.expect("migrates");
        Self { directory, db, broker: MemorySink::new() }
    }

    async fn place(&self, key: &str) -> Uuid {
        let message = Message::new("order", key, "OrderPlaced").payload(key);
        let id = message.event_id();
        outbox::enqueue(&mut *self.db.acquire().await.expect("connects"), message).await.expect("enqueues");
        id
    }

    async fn relay(&self, settings: RelaySettings) -> Running {
        let source = SqliteSource::open(self.directory.path().join("shop.db")).await.expect("opens");
        let relay = Relay::new(source, self.broker.producer()).settings(settings);
        let (stats, stop) = (relay.stats(), CancellationToken::new());
        let task = tokio::spawn(relay.run(stop.clone()));
        Running { stats, stop, task }
    }

    async fn rows(&self, table: &'static str) -> i64 {
        let sql = format!("SELECT count(*) FROM {table}");
        sqlx::query_scalar(sqlx::AssertSqlSafe(sql)).fetch_one(&self.db).await.expect("counts")
    }

    async fn until_rows(&self, table: &'static str, expected: i64) {
        eventually(&format!("{expected} rows in {table}"), async || self.rows(table).await == expected).await;
    }

    async fn until_published(&self, expected: usize) {
        eventually(&format!("{expected} published"), async || self.broker.ids(TOPIC).len() >= expected).await;
    }
}

struct Running {
    stats: Arc<Stats>,
    stop: CancellationToken,
    task: tokio::task::JoinHandle<outbox_relay::Result<()>>,
}

impl Running {
    async fn stop(self) {
        self.stop.cancel();
        self.task.await.expect("does not panic").expect("ends well");
    }

    /// As `kill -9`: nothing is given up, nothing is flushed.
    async fn kill(self) {
        self.task.abort();
        let _ = self.task.await;
    }
}

async fn eventually(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    for _ in 0..2_000 {
        if holds().await {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("waited in vain for {what}");
}

fn quick() -> RelaySettings {
    RelaySettings {
        lease: Duration::from_millis(400),
        refused_for: Duration::ZERO,
        ..RelaySettings::default()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_committed_arrives_in_order_and_leaves_the_table() {
    let shop = Shop::open().await;
    let mut expected = Vec::new();
    for n in 0..300 {
        expected.push(shop.place(&format!("o{}", n % 7)).await);
    }
    let mut tx = shop.db.begin().await.expect("begins");
    outbox::enqueue(&mut *tx, Message::new("order", "x", "Lost")).await.expect("enqueues");
    tx.rollback().await.expect("rolls back");

    let relay = shop.relay(quick()).await;
    shop.until_published(300).await;
    expected.push(shop.place("late").await);
    shop.until_published(301).await;
    shop.until_rows("outbox_event", 0).await;
    relay.stop().await;

    let ids = shop.broker.ids(TOPIC);
    assert_eq!(ids.len(), expected.len());
    let records = shop.broker.topic(TOPIC);
    for key in records.iter().map(|record| record.key.clone()).collect::<std::collections::BTreeSet<_>>() {
        let of_key: Vec<Uuid> = records.iter().filter(|r| r.key == key).map(|r| r.id).collect();
        let written: Vec<Uuid> = expected.iter().copied().filter(|id| of_key.contains(id)).collect();
        assert_eq!(of_key, written, "key {key}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_a_crash_what_is_in_the_topic_is_not_sent_again() {
    let shop = Shop::open().await;
    let first = shop.place("a").await;
    // Written, but the relay never learns it; it is killed while it waits.
    shop.broker.fail([Fault::Silence]);
    let relay = shop.relay(quick()).await;
    shop.until_published(1).await;
    relay.kill().await;
    assert_eq!(shop.rows("outbox_event").await, 1, "nothing was acknowledged");

    let second = shop.place("b").await;
    let relay = shop.relay(quick()).await;
    shop.until_rows("outbox_event", 0).await;
    assert_eq!(relay.stats.already_there.get(), 1);
    relay.stop().await;
    assert_eq!(shop.broker.ids(TOPIC), [first, second]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lost_answer_sends_again_and_does_not_overtake() {
    let shop = Shop::open().await;
    shop.broker.fail([Fault::LostAnswer, Fault::Fails(Failure::Unknown("timed out".into()))]);
    let (one, two) = (shop.place("a").await, shop.place("a").await);
    let relay = shop.relay(quick()).await;
    shop.until_rows("outbox_event", 0).await;
    relay.stop().await;
    assert_eq!(shop.broker.ids(TOPIC), [one, one, two]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_poison_event_parks_its_key_durably_and_no_other() {
    let shop = Shop::open().await;
    shop.broker.fail([Fault::Fails(Failure::Rejected("too large".into()))]);
    let poison = shop.place("a").await;
    let (behind, other) = (shop.place("a").await, shop.place("b").await);
    let relay = shop.relay(quick()).await;
    shop.until_rows("outbox_parked", 2).await;
    shop.until_rows("outbox_event", 2).await;
    relay.kill().await;

    let relay = shop.relay(quick()).await;
    let later = shop.place("a").await;
    shop.until_rows("outbox_parked", 3).await;
    assert_eq!(shop.broker.ids(TOPIC), [other]);

    sqlx::query("UPDATE outbox_parked SET released = 1 WHERE id = ?1")
        .bind(poison.to_string())
        .execute(&shop.db)
        .await
        .expect("releases");
    shop.until_rows("outbox_event", 0).await;
    shop.until_rows("outbox_parked", 0).await;
    let newest = shop.place("a").await;
    shop.until_published(5).await;
    relay.stop().await;
    assert_eq!(shop.broker.ids(TOPIC), [other, poison, behind, later, newest]);
}

/// What was set aside is durable before the mark behind it is, so a relay that crashed in between reads it again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_operators_release_outlives_a_crash_before_the_mark() {
    let shop = Shop::open().await;
    shop.broker.fail([Fault::Fails(Failure::Rejected("too large".into())), Fault::Silence]);
    let poison = shop.place("a").await;
    let unanswered = shop.place("b").await;
    let relay = shop.relay(quick()).await;
    shop.until_rows("outbox_parked", 1).await;
    shop.until_published(1).await;
    relay.kill().await;
    assert_eq!(shop.rows("outbox_event").await, 2, "no mark was passed");

    let source = SqliteSource::open(shop.directory.path().join("shop.db")).await.expect("opens");
    assert_eq!(source.decide(None, Decision::Release).await.expect("releases"), 1);
    let relay = shop.relay(quick()).await;
    shop.until_rows("outbox_event", 0).await;
    shop.until_rows("outbox_parked", 0).await;
    relay.stop().await;
    assert_eq!(shop.broker.ids(TOPIC), [unanswered, poison]);
}

/// Also those of its key that no page had room for: else the key would be tried again for ever.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_key_that_fails_again_waits_for_the_next_decision() {
    let shop = Shop::open().await;
    let rejected = || Fault::Fails(Failure::Rejected("too large".into()));
    shop.broker.fail([rejected(), rejected()]);
    for _ in 0..5 {
        shop.place("a").await;
    }
    let relay = shop.relay(RelaySettings { page_events: 2, ..quick() }).await;
    shop.until_rows("outbox_parked", 5).await;
    let source = SqliteSource::open(shop.directory.path().join("shop.db")).await.expect("opens");
    source.decide(None, Decision::Release).await.expect("releases");
    eventually("none is released", async || {
        source.list_parked(9).await.expect("lists").iter().all(|parked| !parked.released)
    })
    .await;
    assert_eq!(shop.rows("outbox_parked").await, 5);
    assert!(shop.broker.ids(TOPIC).is_empty());
    source.decide(None, Decision::Release).await.expect("releases");
    shop.until_published(5).await;
    shop.until_rows("outbox_parked", 0).await;
    relay.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dropped_key_flows_again() {
    let shop = Shop::open().await;
    shop.broker.fail([Fault::Fails(Failure::Refused("unknown topic".into()))]);
    shop.place("a").await;
    let relay = shop.relay(quick()).await;
    shop.until_rows("outbox_parked", 1).await;
    sqlx::query("DELETE FROM outbox_parked").execute(&shop.db).await.expect("drops");
    eventually("the relay knows", async || relay.stats.parked_keys.get() == 0).await;
    let next = shop.place("a").await;
    shop.until_published(1).await;
    shop.until_rows("outbox_event", 0).await;
    relay.stop().await;
    assert_eq!(shop.broker.ids(TOPIC), [next]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_no_event_is_parked_with_the_reason() {
    let shop = Shop::open().await;
    sqlx::query(
        "INSERT INTO outbox_event (id, aggregatetype, aggregateid, type) VALUES ('no id', 'order', 'a', 'x')",
    )
    .execute(&shop.db)
    .await
    .expect("inserts");
    let bad_topic = Message::new("or der", "1", "x");
    outbox::enqueue(&mut *shop.db.acquire().await.expect("connects"), bad_topic).await.expect("enqueues");
    let good = shop.place("b").await;
    let relay = shop.relay(quick()).await;
    shop.until_published(1).await;
    shop.until_rows("outbox_parked", 2).await;
    relay.stop().await;
    let reasons: Vec<String> = sqlx::query_scalar("SELECT reason FROM outbox_parked ORDER BY seq")
        .fetch_all(&shop.db)
        .await
        .expect("reads");
    assert!(reasons[0].starts_with("the id is no UUID"), "{reasons:?}");
    assert!(reasons[1].contains("cannot be the name of a topic"), "{reasons:?}");
    assert_eq!(shop.broker.ids(TOPIC), [good]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broken_producer_is_replaced_and_nothing_is_lost() {
    let shop = Shop::open().await;
    shop.broker.fail([Fault::None, Fault::Fatal]);
    let mut expected = Vec::new();
    for key in ["a", "b", "c"] {
        expected.push(shop.place(key).await);
    }
    let relay = shop.relay(quick()).await;
    shop.until_rows("outbox_event", 0).await;
    assert_eq!(relay.stats.restarts.get(), 1);
    relay.stop().await;
    let mut ids = shop.broker.ids(TOPIC);
    ids.sort();
    assert_eq!(ids, expected, "each once: the first was found in the topic");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_standby_takes_over_when_the_leader_leaves() {
    let shop = Shop::open().await;
    let leader = shop.relay(quick()).await;
    eventually("a leader", async || leader.stats.is_leading()).await;
    let standby = shop.relay(quick()).await;
    shop.place("a").await;
    shop.until_published(1).await;
    assert!(!standby.stats.is_leading());
    leader.stop().await;
    eventually("the standby leads", async || standby.stats.is_leading()).await;
    shop.place("b").await;
    shop.until_published(2).await;
    standby.stop().await;
    assert_eq!(shop.broker.ids(TOPIC).len(), 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_relay_whose_epoch_has_passed_acknowledges_nothing() {
    use outbox_relay::source::Ack;
    let shop = Shop::open().await;
    shop.place("a").await;
    let path = shop.directory.path().join("shop.db");
    let (old, new) =
        (SqliteSource::open(&path).await.expect("opens"), SqliteSource::open(&path).await.expect("opens"));
    old.prepare().await.expect("prepares");
    let seen = old.lease().await.expect("looks");
    let epoch = old.take(&seen, "old").await.expect("takes").expect("it was free");
    old.resume(epoch).await.expect("resumes");
    let page = old.read(10).await.expect("reads");

    let seen = new.lease().await.expect("looks");
    assert!(!seen.holder_is_dead, "the old one holds the lock file");
    assert_eq!(new.take(&seen, "new").await.expect("takes"), Some(epoch + 1));
    let ack = Ack { mark: page.mark, ..Ack::default() };
    let error = old.acknowledge(epoch, &ack).await.expect_err("is fenced");
    assert!(matches!(error, outbox_relay::Error::Fenced { .. }), "{error}");
    old.renew(epoch).await.expect_err("is fenced");
    assert_eq!(shop.rows("outbox_event").await, 1);
    assert_eq!(old.take(&seen, "old").await.expect("asks"), None, "the row is not as it was seen");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn missing_tables_are_named_and_not_waited_for() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let path = directory.path().join("empty.db");
    let error = SqliteSource::open(&path).await.expect_err("no file");
    assert!(error.to_string().contains("empty.db cannot be opened"), "{error}");
    std::fs::write(&path, "").expect("writes");
    let source = SqliteSource::open(&path).await.expect("opens");
    let error =
        Relay::new(source, MemorySink::new()).run(CancellationToken::new()).await.expect_err("no tables");
    assert!(error.to_string().contains("run outbox::migrate or `outbox-relay migrate`"), "{error}");
}
