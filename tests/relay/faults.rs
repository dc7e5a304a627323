//! Everything dies or hangs in its turn while writers write; nothing is lost, invented or out of order.

use std::time::Duration;

use outbox_relay::PostgresSource;
use outbox_relay::tokio_util::sync::CancellationToken;
use rand::Rng;
use sqlx::postgres::PgPoolOptions;
use tests::actor::{self, Actor};
use tests::proxy::Proxy;
use tests::servers::{Kafka, Postgres, kafka, postgres};

use super::shop::Shop;
use super::{consume, relay, relay_from};

const ROLE: &str = "relay";

/// A relay in a process of its own.
fn start_relay(shop: &Shop) -> Actor {
    Actor::start(ROLE, format!("{} {}", shop.database, shop.kafka))
}

/// Plays the relay if this process was started for that.
async fn plays_relay() -> bool {
    let Some(script) = actor::role(ROLE) else { return false };
    let (database, kafka) = script.split_once(' ').expect("a script of two words");
    relay(database, kafka).await.expect("the relay waits for what is down");
    true
}

#[tokio::test(flavor = "multi_thread")]
async fn without_faults_every_event_arrives_once() {
    let mut rng = tests::seeded();
    let database = postgres::fresh_database().await;
    let shop = Shop::open(database.url(), &kafka::shared().await).await;
    let writers = shop.writers(6, &mut rng);
    let (url, brokers) = (shop.database.clone(), shop.kafka.clone());
    let relay = tokio::spawn(async move { relay(&url, &brokers).await });
    let stop = CancellationToken::new();
    let pool = database.pool(4).await;
    let consumer = tokio::spawn({
        let (shop, stop) = (shop.clone(), stop.clone());
        async move { consume(&shop, pool, stop).await }
    });
    writers.write(400).await;
    writers.close().await;
    assert_eq!(shop.check().await, 0, "no duplicate without a fault");
    shop.check_received(&consumer).await;
    stop.cancel();
    consumer.await.unwrap().unwrap();
    assert!(!relay.is_finished());
    relay.abort();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_relay_is_killed_again_and_again() {
    if plays_relay().await {
        return;
    }
    let mut rng = tests::seeded();
    let database = postgres::fresh_database().await;
    let shop = Shop::open(database.url(), &kafka::shared().await).await;
    let writers = shop.writers(4, &mut rng);
    for _ in 0..3 {
        let before = shop.published().await.len();
        let relay = start_relay(&shop);
        let more = rng.random_range(1..200);
        while shop.published().await.len() < before + more {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        relay.kill();
    }
    let _relay = start_relay(&shop);
    writers.close().await;
    shop.check().await;
}

/// The frozen one holds records in its queue and believes in its lease; another takes over; then it wakes up.
#[tokio::test(flavor = "multi_thread")]
async fn a_frozen_relay_wakes_up_beside_its_successor() {
    if plays_relay().await {
        return;
    }
    let mut rng = tests::seeded();
    let database = postgres::fresh_database().await;
    let shop = Shop::open(database.url(), &kafka::shared().await).await;
    let writers = shop.writers(4, &mut rng);
    let mut leader = start_relay(&shop);
    for _ in 0..2 {
        until_published_more(&shop, rng.random_range(1..100)).await;
        leader.freeze();
        let successor = start_relay(&shop);
        until_published_more(&shop, 1).await;
        leader.thaw();
        writers.write(50).await;
        leader = successor;
    }
    writers.close().await;
    shop.check().await;
}

async fn until_published_more(shop: &Shop, more: usize) {
    let before = shop.published().await.len();
    while shop.published().await.len() < before + more {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Relay, consumer and writers live through kills of the database and of the broker.
#[tokio::test(flavor = "multi_thread")]
async fn the_database_and_the_broker_are_killed() {
    let mut rng = tests::seeded();
    let (mut postgres, mut kafka) = tokio::join!(Postgres::start(), Kafka::start());
    let shop = Shop::open(&postgres.url(), &kafka.bootstrap()).await;
    let pool = PgPoolOptions::new().max_connections(4).connect_lazy(&shop.database).unwrap();
    let stop = CancellationToken::new();
    let (source, brokers) = (PostgresSource::connect(&shop.database).await.unwrap(), shop.kafka.clone());
    let relay = tokio::spawn(async move { relay_from(source, &brokers).await });
    let consumer = tokio::spawn({
        let (shop, stop) = (shop.clone(), stop.clone());
        async move { consume(&shop, pool, stop).await }
    });
    let writers = shop.writers(4, &mut rng);
    for _ in 0..2 {
        writers.write(rng.random_range(1..150)).await;
        postgres.kill();
        postgres.restart().await;
        writers.write(rng.random_range(1..150)).await;
        kafka.kill();
        writers.write(rng.random_range(1..50)).await;
        kafka.restart().await;
    }
    writers.close().await;
    shop.check().await;
    shop.check_received(&consumer).await;
    assert!(!relay.is_finished() && !consumer.is_finished(), "both wait for what is down");
    stop.cancel();
    consumer.await.unwrap().unwrap();
    relay.abort();
}

/// Its connections stay open and nothing comes back, as when a cable is pulled. It must stop trusting its lease by
/// its own clock, and not do harm when the cable is back.
#[tokio::test(flavor = "multi_thread")]
async fn a_relay_is_cut_off_from_its_database() {
    let mut rng = tests::seeded();
    let database = postgres::fresh_database().await;
    let shop = Shop::open(database.url(), &kafka::shared().await).await;
    let proxy = Proxy::start(database.port()).await;
    let (through, direct, brokers) = (proxy.url(&shop.database), shop.database.clone(), shop.kafka.clone());
    let cut_off = tokio::spawn({
        let brokers = brokers.clone();
        async move { relay(&through, &brokers).await }
    });
    let writers = shop.writers(4, &mut rng);
    until_published_more(&shop, rng.random_range(1..100)).await;
    proxy.black_hole();
    let successor = tokio::spawn(async move { relay(&direct, &brokers).await });
    // What was in flight may still arrive from the first; this much comes from its successor only.
    let written = shop.written().await.len();
    writers.write(20).await;
    while shop.published().await.len() < written {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    proxy.forward().await;
    writers.write(50).await;
    writers.close().await;
    shop.check().await;
    assert!(!cut_off.is_finished() && !successor.is_finished(), "one leads, the other stands by");
    cut_off.abort();
    successor.abort();
}

/// The broker has written records and its answers are lost: nobody knows, and nothing may overtake.
#[tokio::test(flavor = "multi_thread")]
async fn the_brokers_answers_are_lost() {
    let mut rng = tests::seeded();
    let database = postgres::fresh_database().await;
    let (kafka, proxy) = Kafka::start_with_proxy().await;
    let shop = Shop::open(database.url(), &kafka.bootstrap()).await;
    let (url, brokers) = (shop.database.clone(), proxy.address().to_string());
    let relay = tokio::spawn(async move { relay(&url, &brokers).await });
    let writers = shop.writers(4, &mut rng);
    for _ in 0..3 {
        until_published_more(&shop, rng.random_range(1..100)).await;
        let before = proxy.seen().swallowed;
        proxy.swallow_answers();
        proxy.until(|seen| seen.swallowed > before).await;
        writers.write(20).await;
        proxy.cut().await;
        proxy.forward().await;
    }
    writers.close().await;
    shop.check().await;
    relay.abort();
}
