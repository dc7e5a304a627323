//! A relay as it is often written, to show that the tests of ours can fail: it remembers the last number and
//! asks for higher ones. A transaction that commits late, with a lower number, is never seen.

use std::time::Duration;

use outbox_relay::tokio_util::sync::CancellationToken;
use rdkafka::ClientConfig;
use rdkafka::message::{Header, OwnedHeaders};
use rdkafka::producer::{FutureProducer, FutureRecord};
use rdkafka::util::Timeout;
use sqlx::{Connection, PgConnection, query_as};
use tests::servers::{kafka, postgres};

use super::history::violations;
use super::shop::Shop;

#[tokio::test(flavor = "multi_thread")]
async fn a_relay_that_remembers_the_last_number_is_caught() {
    let mut rng = tests::seeded();
    let database = postgres::fresh_database().await;
    let shop = Shop::open(database.url(), &kafka::shared().await).await;
    let stop = CancellationToken::new();
    let relay = tokio::spawn(naive_relay(shop.clone(), stop.clone()));
    let writers = shop.writers(6, &mut rng);
    writers.write(400).await;
    writers.close().await;
    stop.cancel();
    relay.await.unwrap();

    let violations = violations(&shop.written().await, &shop.published().await);
    assert!(violations.iter().any(|violation| violation.starts_with("lost")), "late commits go unnoticed");
    assert!(violations.iter().all(|violation| violation.starts_with("lost")), "it is wrong in nothing else");
}

/// Relays until everything it can see is published and it is told to stop.
async fn naive_relay(shop: Shop, stop: CancellationToken) {
    let producer: FutureProducer =
        ClientConfig::new().set("bootstrap.servers", &shop.kafka).set("linger.ms", "0").create().unwrap();
    let mut connection = PgConnection::connect(&shop.database).await.unwrap();
    let mut last = 0;
    loop {
        let stopped = stop.is_cancelled();
        let rows: Vec<(i64, uuid::Uuid, String, Vec<u8>)> = query_as(
            "SELECT seq, id, aggregateid, payload FROM outbox.event WHERE seq > $1 ORDER BY seq LIMIT 100",
        )
        .bind(last)
        .fetch_all(&mut connection)
        .await
        .unwrap();
        if rows.is_empty() && stopped {
            return;
        }
        for (seq, id, key, payload) in rows {
            let id = id.to_string();
            let headers = OwnedHeaders::new().insert(Header { key: "id", value: Some(&id) });
            let record = FutureRecord::to(&shop.topic).key(&key).payload(&payload).headers(headers);
            producer.send(record, Timeout::Never).await.unwrap();
            last = seq;
        }
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}
