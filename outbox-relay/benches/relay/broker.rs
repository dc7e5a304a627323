//! The Kafka that is published to, and what a producer alone reaches on it.

use outbox_relay::history::Published;
use outbox_relay::rdkafka::ClientConfig;
use outbox_relay::rdkafka::message::{Header, OwnedHeaders};
use outbox_relay::rdkafka::producer::{BaseRecord, DefaultProducerContext, Producer as _, ThreadedProducer};
use outbox_relay::sink::KafkaSettings;
use outbox_relay::sink::kafka::Reader;
use std::time::{Duration, Instant};
use tests::servers::Kafka;
use uuid::Uuid;

const PARTITIONS: i32 = 6;
const KEYS: u32 = 10_000;

/// A broker, warm.
pub(crate) struct Broker {
    server: Kafka,
}

impl Broker {
    pub(crate) async fn start() -> Self {
        let broker = Self { server: Kafka::start_tuned().await };
        // The broker's machine compiles what is hot only after some time, and anew when records first have headers: with
        // less than this its compiler takes a fifth of the processors from what is measured.
        for _ in 0..3 {
            broker.bare_producer(2_000_000).await;
            broker.producer_of_events(2_000_000).await;
        }
        broker
    }

    pub(crate) fn address(&self) -> String {
        self.server.bootstrap()
    }

    /// A topic that is empty.
    pub(crate) async fn topic(&self) -> String {
        let name = format!("bench-{}", Uuid::now_v7());
        self.server.create_topic(&name, PARTITIONS).await;
        name
    }

    /// Records a second of 200 bytes, with a key, that the relay's producer sends if nothing else is to do.
    pub(crate) async fn bare_producer(&self, records: u32) -> f64 {
        self.producer(records, false).await
    }

    /// The same with the two headers that the relay gives each.
    pub(crate) async fn producer_of_events(&self, records: u32) -> f64 {
        self.producer(records, true).await
    }

    async fn producer(&self, records: u32, headers: bool) -> f64 {
        let (brokers, topic) = (self.address(), self.topic().await);
        let produced = tokio::task::spawn_blocking(move || produce(&brokers, &topic, records, headers));
        produced.await.expect("does not panic")
    }

    /// All events in the topic.
    pub(crate) async fn events(&self, topic: &str) -> Vec<Published> {
        let reader = Reader::new(KafkaSettings::new(self.address()));
        reader.events(&[topic.to_owned()]).await.expect("reads")
    }
}

fn produce(brokers: &str, topic: &str, records: u32, headers: bool) -> f64 {
    let producer: ThreadedProducer<DefaultProducerContext> = ClientConfig::new()
        .set("bootstrap.servers", brokers)
        .set("acks", "all")
        .set("enable.idempotence", "true")
        .set("partitioner", "murmur2_random")
        .set("linger.ms", "0")
        .set("queue.buffering.max.messages", "200000")
        .create()
        .expect("a producer");
    let payload = [b'x'; 200];
    let send = |number: u32| {
        let key = (number % KEYS).to_string();
        let mut record = BaseRecord::to(topic).key(&key).payload(&payload[..]);
        if headers {
            let id = Uuid::from_u128(number.into()).to_string();
            let id = OwnedHeaders::new().insert(Header { key: "id", value: Some(&id) });
            record.headers = Some(id.insert(Header { key: "eventType", value: Some("Placed") }));
        }
        while let Err((_, refused)) = producer.send(record) {
            record = refused;
            std::thread::sleep(Duration::from_millis(1));
        }
    };
    send(0);
    producer.flush(Duration::from_secs(30)).expect("warms up");
    let begin = Instant::now();
    (0..records).for_each(send);
    producer.flush(Duration::from_secs(120)).expect("flushes");
    f64::from(records) / begin.elapsed().as_secs_f64()
}
