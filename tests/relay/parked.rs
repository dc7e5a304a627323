//! A record that the broker refuses does not stop the others, and waits for a person.

use std::time::Duration;

use outbox::Message;
use rdkafka::ClientConfig;
use rdkafka::admin::{AdminClient, AdminOptions, AlterConfig, ResourceSpecifier};
use rdkafka::client::DefaultClientContext;
use sqlx::{Connection, PgConnection, query, query_scalar};
use tests::servers::{Kafka, postgres};

use super::relay;
use super::shop::Shop;

#[tokio::test(flavor = "multi_thread")]
async fn a_record_too_large_waits_with_its_key_until_the_topic_takes_it() {
    let kafka = Kafka::start().await;
    let database = postgres::fresh_database().await;
    let shop = Shop::open(database.url(), &kafka.bootstrap()).await;
    limit_records(&shop, "2000").await;
    let mut connection = PgConnection::connect(&shop.database).await.unwrap();
    // A payload is a JSON number, as the history reads it; leading blanks make it as long as wanted.
    let long = format!("{:>5000}", 2);
    for (key, payload) in [("a", "1"), ("a", long.as_str()), ("b", "1"), ("a", "3"), ("b", "2")] {
        let event = Message::new(&shop.aggregate_type, key, "OrderChanged").payload(payload);
        query("INSERT INTO written VALUES ($1, $2, $3)")
            .bind(event.event_id())
            .bind(key)
            .bind(payload.trim().parse::<i64>().unwrap())
            .execute(&mut connection)
            .await
            .unwrap();
        outbox::enqueue(&mut connection, event).await.unwrap();
    }
    let (url, brokers) = (shop.database.clone(), shop.kafka.clone());
    let relay = tokio::spawn(async move { relay(&url, &brokers).await });

    let parked = "SELECT count(*) FROM outbox.parked WHERE aggregateid = 'a'";
    while query_scalar::<_, i64>(parked).fetch_one(&mut connection).await.unwrap() < 2 {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let reason: String = query_scalar("SELECT reason FROM outbox.parked ORDER BY seq LIMIT 1")
        .fetch_one(&mut connection)
        .await
        .unwrap();
    assert!(reason.to_lowercase().contains("large"), "the reason is the broker's: {reason}");
    while keys(&shop).await != ["a1", "b1", "b2"] {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }

    limit_records(&shop, "100000").await;
    query("UPDATE outbox.parked SET released = true WHERE aggregateid = 'a'")
        .execute(&mut connection)
        .await
        .unwrap();
    while keys(&shop).await != ["a1", "a2", "a3", "b1", "b2"] {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let violations = super::history::violations(&shop.written().await, &shop.published().await);
    assert!(violations.is_empty(), "{violations:?}");
    relay.abort();
}

/// librdkafka sends as many records together as there are, and the broker measures what comes together.
#[tokio::test(flavor = "multi_thread")]
async fn records_that_are_too_large_together_are_not_parked() {
    const EVENTS: i64 = 5_000;
    const KEYS: i64 = 1_000;
    let kafka = Kafka::start().await;
    let database = postgres::fresh_database().await;
    let shop = Shop::open(database.url(), &kafka.bootstrap()).await;
    limit_records(&shop, "2000").await;
    let mut connection = PgConnection::connect(&shop.database).await.unwrap();
    let event =
        |key: &str, payload: String| Message::new(&shop.aggregate_type, key, "Changed").payload(payload);
    let mut events: Vec<Message> =
        (0..EVENTS).map(|n| event(&(n % KEYS).to_string(), format!("{:>200}", n / KEYS))).collect();
    events.insert(2_500, event("large", format!("{:>5000}", 0)));
    outbox::enqueue_all(&mut connection, &events).await.unwrap();
    let note = "INSERT INTO written SELECT id, aggregateid, convert_from(payload, 'UTF8')::bigint FROM outbox.event \
                WHERE aggregateid <> 'large'";
    query(note).execute(&mut connection).await.unwrap();
    let (url, brokers) = (shop.database.clone(), shop.kafka.clone());
    let relay = tokio::spawn(async move { relay(&url, &brokers).await });

    let parked = "SELECT coalesce(array_agg(DISTINCT aggregateid), '{}') FROM outbox.parked";
    let left = "SELECT count(*) FROM outbox.event";
    while query_scalar::<_, i64>(left).fetch_one(&mut connection).await.unwrap() > 1 {
        let parked: Vec<String> = query_scalar(parked).fetch_one(&mut connection).await.unwrap();
        assert!(parked.iter().all(|key| key == "large"), "{} keys are parked", parked.len());
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let violations = super::history::violations(&shop.written().await, &shop.published().await);
    assert!(violations.is_empty(), "{violations:?}");
    let reason = "SELECT reason FROM outbox.parked WHERE aggregateid = 'large'";
    let reason: String = query_scalar(reason).fetch_one(&mut connection).await.unwrap();
    assert!(reason.to_lowercase().contains("large"), "{reason}");
    relay.abort();
}

async fn keys(shop: &Shop) -> Vec<String> {
    let published = shop.published().await;
    let mut keys: Vec<String> =
        published.iter().map(|record| format!("{}{}", record.event.key, record.event.number)).collect();
    keys.sort();
    keys
}

async fn limit_records(shop: &Shop, bytes: &str) {
    let admin: AdminClient<DefaultClientContext> =
        ClientConfig::new().set("bootstrap.servers", &shop.kafka).create().unwrap();
    let limit = AlterConfig::new(ResourceSpecifier::Topic(&shop.topic)).set("max.message.bytes", bytes);
    for altered in admin.alter_configs([&limit], &AdminOptions::new()).await.unwrap() {
        altered.unwrap();
    }
}
