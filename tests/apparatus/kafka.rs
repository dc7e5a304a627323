//! Kafka: used, killed, frozen, and reached through a proxy.

use std::time::Duration;

use rdkafka::ClientConfig;
use rdkafka::consumer::{Consumer, StreamConsumer};
use rdkafka::error::KafkaError;
use rdkafka::producer::{FutureProducer, FutureRecord};
use rdkafka::util::Timeout;
use rdkafka::{Message, Offset, TopicPartitionList};
use tests::servers::{Kafka, kafka};
use tokio::time::timeout;

const SILENCE: Duration = Duration::from_millis(500);

fn producer(bootstrap: &str) -> FutureProducer {
    ClientConfig::new()
        .set("bootstrap.servers", bootstrap)
        .set("enable.idempotence", "true")
        .set("message.timeout.ms", "60000")
        .set("reconnect.backoff.max.ms", "200")
        .create()
        .unwrap()
}

async fn send(producer: &FutureProducer, topic: &str, payload: &str) -> Result<i64, KafkaError> {
    let record = FutureRecord::to(topic).key("order").payload(payload);
    producer.send(record, Timeout::Never).await.map(|delivery| delivery.offset).map_err(|(error, _)| error)
}

async fn read(bootstrap: &str, topic: &str, records: usize) -> Vec<String> {
    let consumer: StreamConsumer =
        ClientConfig::new().set("bootstrap.servers", bootstrap).set("group.id", "reader").create().unwrap();
    let mut partitions = TopicPartitionList::new();
    partitions.add_partition_offset(topic, 0, Offset::Beginning).unwrap();
    consumer.assign(&partitions).unwrap();
    let mut payloads = Vec::new();
    while payloads.len() < records {
        let record = consumer.recv().await.unwrap();
        payloads.push(String::from_utf8(record.payload().unwrap().to_vec()).unwrap());
    }
    payloads
}

#[tokio::test]
async fn what_was_acknowledged_survives_a_kill() {
    let mut kafka = Kafka::start().await;
    kafka.create_topic("orders", 1).await;
    let producer = producer(&kafka.bootstrap());
    send(&producer, "orders", "before").await.unwrap();

    let before = kafka.pid();
    kafka.kill();
    let mut waiting = Box::pin(send(&producer, "orders", "meanwhile"));
    assert!(timeout(SILENCE, &mut waiting).await.is_err(), "a dead broker acknowledges nothing");

    kafka.restart().await;
    assert_ne!(kafka.pid(), before);
    waiting.await.expect("the producer delivers once the broker is back on its port");
    assert_eq!(read(&kafka.bootstrap(), "orders", 2).await, ["before", "meanwhile"]);
}

#[tokio::test]
async fn a_frozen_broker_acknowledges_when_it_is_thawed() {
    let kafka = Kafka::start().await;
    kafka.create_topic("orders", 1).await;
    let producer = producer(&kafka.bootstrap());
    send(&producer, "orders", "before").await.unwrap();
    kafka.freeze();
    let mut waiting = Box::pin(send(&producer, "orders", "meanwhile"));
    assert!(timeout(SILENCE, &mut waiting).await.is_err(), "a frozen broker acknowledges nothing");
    kafka.thaw();
    waiting.await.unwrap();
    assert_eq!(read(&kafka.bootstrap(), "orders", 2).await, ["before", "meanwhile"]);
}

#[tokio::test]
async fn records_pass_through_the_proxy_and_only_there() {
    let (kafka, proxy) = Kafka::start_with_proxy().await;
    kafka.create_topic("orders", 1).await;
    let through = producer(&proxy.address().to_string());
    send(&through, "orders", "first").await.unwrap();

    let before = proxy.seen().requested;
    let direct = producer(&kafka.bootstrap());
    send(&direct, "orders", "beside").await.unwrap();

    proxy.black_hole();
    let mut waiting = Box::pin(send(&through, "orders", "held back"));
    assert!(timeout(SILENCE, &mut waiting).await.is_err(), "the broker must not be reached beside the proxy");
    send(&direct, "orders", "beside again").await.unwrap();
    proxy.forward().await;
    waiting.await.unwrap();
    assert!(proxy.seen().requested > before);
    assert_eq!(read(&kafka.bootstrap(), "orders", 4).await, ["first", "beside", "beside again", "held back"]);
}

#[tokio::test]
async fn fresh_topics_are_empty() {
    let bootstrap = kafka::shared().await;
    let topic = kafka::fresh_topic(&bootstrap, 1).await;
    let offset = send(&producer(&bootstrap), &topic, "first").await.unwrap();
    assert_eq!(offset, 0, "nobody else has written to it");
}
