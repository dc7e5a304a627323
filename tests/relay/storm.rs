//! Everything at once: twenty writers, two relays, and in random order whatever can happen to relays, broker,
//! database, connections and slot.

use std::collections::HashSet;
use std::time::{Duration, Instant};

use outbox_relay::tokio_util::sync::CancellationToken;
use rand::Rng;
use rand::rngs::StdRng;
use rand::seq::SliceRandom;
use sqlx::postgres::PgPoolOptions;
use sqlx::{Connection, PgConnection, query};
use tests::actor::{self, Actor};
use tests::proxy::Proxy;
use tests::servers::{Kafka, Postgres};
use uuid::Uuid;

use super::shop::{PARTITIONS, Shop, Writers};
use super::{consume, relay};

const ROLE: &str = "relay-in-the-storm";
const WRITERS: usize = 20;
/// Each of them happens this often.
const ROUNDS: usize = 2;
/// Far longer than any fault lasts: what has not arrived by then is lost.
const ARRIVES_WITHIN: Duration = Duration::from_secs(180);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fault {
    RelayIsKilled,
    RelayIsFrozenAndThawed,
    BrokerIsKilled,
    DatabaseIsKilled,
    ConnectionsAreCut,
    AnswersAreLost,
    SlotIsDropped,
}

const FAULTS: [Fault; 7] = [
    Fault::RelayIsKilled,
    Fault::RelayIsFrozenAndThawed,
    Fault::BrokerIsKilled,
    Fault::DatabaseIsKilled,
    Fault::ConnectionsAreCut,
    Fault::AnswersAreLost,
    Fault::SlotIsDropped,
];

struct World {
    postgres: Postgres,
    kafka: Kafka,
    /// Between relays and database. The relays' broker is told apart by nothing: its faults are its own.
    proxy: Proxy,
    shop: Shop,
    relays: Vec<Actor>,
    rng: StdRng,
}

#[tokio::test(flavor = "multi_thread")]
async fn relays_broker_database_connections_and_slot_fail_under_twenty_writers() {
    if let Some(script) = actor::role(ROLE) {
        let (database, kafka) = script.split_once(' ').expect("a script of two words");
        return relay(database, kafka).await.expect("the relay waits for what is down");
    }
    let mut rng = tests::seeded();
    let (postgres, kafka) = tokio::join!(Postgres::start(), Kafka::start());
    let shop = Shop::open(&postgres.url(), &kafka.bootstrap()).await;
    let proxy = Proxy::start(postgres.port()).await;
    let writers = shop.writers(WRITERS, &mut rng);
    let stop = CancellationToken::new();
    let consumer = tokio::spawn({
        let (shop, stop) = (shop.clone(), stop.clone());
        let pool = PgPoolOptions::new().max_connections(4).connect_lazy(&shop.database).unwrap();
        async move { consume(&shop, pool, stop).await }
    });
    let mut world = World { postgres, kafka, proxy, shop, relays: Vec::new(), rng };
    world.start_relay();
    world.start_relay();

    let mut faults: Vec<Fault> = FAULTS.iter().copied().cycle().take(ROUNDS * FAULTS.len()).collect();
    faults.shuffle(&mut world.rng);
    for fault in faults {
        println!("{fault:?}");
        world.go_on(&writers).await;
        world.is_quiet(&writers).await;
        world.happens(fault, &writers).await;
    }
    writers.close().await;
    let duplicates = world.shop.check().await;
    world.shop.check_received(&consumer).await;
    println!("{duplicates} duplicates in the topic, none behind the inbox");
    assert!(!consumer.is_finished(), "the consumer waits for what is down");
    stop.cancel();
    consumer.await.unwrap().unwrap();
}

impl World {
    fn start_relay(&mut self) {
        let script = format!("{} {}", self.proxy.url(&self.shop.database), self.shop.kafka);
        self.relays.push(Actor::start(ROLE, script));
    }

    /// Lets writers write and a relay publish something new, so that the next fault meets them at it.
    async fn go_on(&mut self, writers: &Writers) {
        let published = self.shop.published().await.len();
        writers.write(self.rng.random_range(10..80)).await;
        let deadline = Instant::now() + ARRIVES_WITHIN;
        while self.shop.published().await.len() <= published {
            assert!(Instant::now() < deadline, "nothing was published within {ARRIVES_WITHIN:?}");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// A relay has resumed and nothing happens: now nothing may be published twice.
    async fn is_quiet(&mut self, writers: &Writers) {
        let before = self.shop.published().await;
        writers.write(self.rng.random_range(5..40)).await;
        let committed = self.shop.written().await;
        let deadline = Instant::now() + ARRIVES_WITHIN;
        let after = loop {
            let after = self.shop.published().await;
            let arrived: HashSet<Uuid> = after.iter().map(|record| record.event.id).collect();
            let missing: Vec<Uuid> =
                committed.iter().map(|event| event.id).filter(|id| !arrived.contains(id)).collect();
            if missing.is_empty() {
                break after;
            }
            assert!(Instant::now() < deadline, "not published within {ARRIVES_WITHIN:?}: {missing:?}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        };
        let mut seen: HashSet<Uuid> = before.iter().map(|record| record.event.id).collect();
        for partition in 0..PARTITIONS {
            let old = before.iter().filter(|record| record.partition == partition).count();
            for record in after.iter().filter(|record| record.partition == partition).skip(old) {
                assert!(seen.insert(record.event.id), "published twice, though nothing happened: {record:?}");
            }
        }
    }

    async fn happens(&mut self, fault: Fault, writers: &Writers) {
        let more = self.rng.random_range(5..60);
        match fault {
            Fault::RelayIsKilled => {
                let which = self.rng.random_range(0..self.relays.len());
                self.relays.remove(which).kill();
                writers.write(more).await;
                self.start_relay();
            }
            Fault::RelayIsFrozenAndThawed => {
                // Whichever leads; its successor publishes before it wakes up.
                for which in 0..self.relays.len() {
                    self.relays[which].freeze();
                    self.go_on(writers).await;
                    self.relays[which].thaw();
                }
            }
            Fault::BrokerIsKilled => {
                self.kafka.kill();
                writers.write(more).await;
                self.kafka.restart().await;
            }
            Fault::DatabaseIsKilled => {
                self.postgres.kill();
                self.postgres.restart().await;
            }
            Fault::ConnectionsAreCut => {
                self.proxy.cut().await;
                self.proxy.forward().await;
            }
            Fault::AnswersAreLost => {
                let before = self.proxy.seen().swallowed;
                self.proxy.swallow_answers();
                self.proxy.until(|seen| seen.swallowed > before).await;
                writers.write(more).await;
                self.proxy.cut().await;
                self.proxy.forward().await;
            }
            Fault::SlotIsDropped => self.drop_slot().await,
        }
    }

    /// A temporary slot goes with its connection. Waits for one: a relay may be polling still.
    async fn drop_slot(&mut self) {
        let mut connection = PgConnection::connect(&self.shop.database).await.unwrap();
        let drop = "SELECT pg_terminate_backend(active_pid) FROM pg_replication_slots WHERE active";
        while query(drop).execute(&mut connection).await.unwrap().rows_affected() == 0 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}
