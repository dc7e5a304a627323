//! The relay from a real SQLite file into a broker that fails as it is told.

mod parked;
mod shop;

use outbox::Message;
use outbox::uuid::Uuid;
use outbox_relay::sink::Failure;
use outbox_relay::sink::memory::{Fault, MemorySink};
use outbox_relay::source::Source as _;
use outbox_relay::tokio_util::sync::CancellationToken;
use outbox_relay::{Relay, SqliteSource};
use shop::{Shop, TOPIC, eventually, quick};

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
    assert!(error.to_string().contains("empty.db: it is the database of the service"), "{error}");
    std::fs::write(&path, "").expect("writes");
    let source = SqliteSource::open(&path).await.expect("opens");
    let error =
        Relay::new(source, MemorySink::new()).run(CancellationToken::new()).await.expect_err("no tables");
    assert!(error.to_string().contains("run outbox::migrate or `outbox-relay migrate`"), "{error}");
}
