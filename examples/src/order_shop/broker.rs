//! Kafka: the one at the given address, or librdkafka's mock cluster in this process.

use std::time::{Duration, Instant};

use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{Headers as _, Message as _};
use rdkafka::mocking::MockCluster;
use rdkafka::producer::DefaultProducerContext;
use rdkafka::{ClientConfig, Offset, TopicPartitionList};
use uuid::Uuid;

use super::shipping::OrderShipped;

/// A broker with the run's topic.
pub struct Broker {
    servers: String,
    topic: String,
    /// Lives as long as this does, and forgets everything with it.
    embedded: Option<MockCluster<'static, DefaultProducerContext>>,
}

/// One record of the topic.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Published {
    /// The event's id.
    pub id: Uuid,
    /// What it says.
    pub event: OrderShipped,
}

/// How long a broker may take to answer.
const ANSWER_WITHIN: Duration = Duration::from_secs(5);

/// Partitions of a new topic: as many as a small team would take.
const PARTITIONS: usize = 6;

/// Orders per partition of the mock cluster, which keeps at most 5 MiB of each.
const EMBEDDED_ORDERS: usize = 5_000;

impl Broker {
    /// Finds the broker, or starts an embedded one. Makes nothing yet.
    pub async fn find(servers: Option<&str>, topic: String) -> Result<Self, String> {
        let Some(servers) = servers else {
            let cluster = MockCluster::new(1).map_err(|error| format!("the embedded Kafka: {error}"))?;
            return Ok(Self { servers: cluster.bootstrap_servers(), topic, embedded: Some(cluster) });
        };
        check_address(servers)?;
        let broker = Self { servers: servers.to_owned(), topic, embedded: None };
        let (config, topic) = (broker.client(), broker.topic.clone());
        blocking(move || unused(&config, &topic))
            .await
            .map_err(|problem| format!("--kafka {servers}: {problem}"))?;
        Ok(broker)
    }

    /// Makes the topic, for so many orders.
    pub async fn make_topic(&self, orders: usize) -> Result<(), String> {
        if let Some(cluster) = &self.embedded {
            let partitions = PARTITIONS.max(orders / EMBEDDED_ORDERS + 1);
            let partitions = i32::try_from(partitions).unwrap_or(i32::MAX);
            return cluster.create_topic(&self.topic, partitions, 1).map_err(|error| error.to_string());
        }
        let named = |problem: String| format!("--kafka {}: topic {:?}: {problem}", self.servers, self.topic);
        let admin: AdminClient<DefaultClientContext> =
            self.client().create().map_err(|error| named(error.to_string()))?;
        // The replication that the cluster gives to topics by default.
        let topic = NewTopic::new(&self.topic, PARTITIONS as i32, TopicReplication::Fixed(-1));
        let options = AdminOptions::new().operation_timeout(Some(ANSWER_WITHIN));
        let made = admin.create_topics([&topic], &options).await.map_err(|error| named(error.to_string()))?;
        match made.into_iter().next() {
            Some(Err((_, code))) if code != RDKafkaErrorCode::TopicAlreadyExists => {
                Err(named(format!("cannot be made: {code}")))
            }
            _ => Ok(()),
        }
    }

    /// Where it is.
    pub fn servers(&self) -> &str {
        &self.servers
    }

    /// The run's topic.
    pub fn topic(&self) -> &str {
        &self.topic
    }

    /// Reads the whole topic, from its first record to its present end.
    pub async fn read(&self) -> Result<Vec<Published>, String> {
        let (config, topic) = (self.client(), self.topic.clone());
        blocking(move || read(&config, &topic))
            .await
            .map_err(|error| format!("topic {:?}: {error}", self.topic))
    }

    fn client(&self) -> ClientConfig {
        let mut config = ClientConfig::new();
        config
            .set("bootstrap.servers", &self.servers)
            .set("group.id", "order-shop-audit")
            .set("enable.auto.commit", "false")
            .set("auto.offset.reset", "error");
        config
    }
}

impl std::fmt::Debug for Broker {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Broker")
            .field("servers", &self.servers)
            .field("topic", &self.topic)
            .finish_non_exhaustive()
    }
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    tokio::task::spawn_blocking(work).await.expect("it does not panic")
}

/// librdkafka waits for ever for an address that cannot be one.
fn check_address(servers: &str) -> Result<(), String> {
    let fine = |server: &str| {
        server.rsplit_once(':').is_some_and(|(host, port)| {
            !host.is_empty() && !host.contains('/') && port.parse::<u16>().is_ok_and(|port| port > 0)
        })
    };
    if servers.split(',').all(|server| fine(server.trim())) {
        Ok(())
    } else {
        Err(format!("--kafka {servers}: is not host:port, or several of them with commas between"))
    }
}

/// Asks the broker for the topic, which must not exist or must be empty: what others wrote would be taken
/// for this run's.
fn unused(config: &ClientConfig, topic: &str) -> Result<(), String> {
    let reader: BaseConsumer = config.create().map_err(|error: KafkaError| error.to_string())?;
    let unreachable = |error: KafkaError| format!("no Kafka answers there ({error})");
    let metadata = reader.fetch_metadata(None, ANSWER_WITHIN).map_err(unreachable)?;
    let Some(found) = metadata.topics().iter().find(|found| found.name() == topic) else { return Ok(()) };
    for partition in found.partitions() {
        let (low, high) =
            reader.fetch_watermarks(topic, partition.id(), ANSWER_WITHIN).map_err(unreachable)?;
        if low < high {
            return Err(format!("topic {topic:?} holds records already; a run needs a topic of its own"));
        }
    }
    Ok(())
}

fn read(config: &ClientConfig, topic: &str) -> Result<Vec<Published>, String> {
    let text = |error: KafkaError| error.to_string();
    let reader: BaseConsumer = config.create().map_err(text)?;
    let metadata = reader.fetch_metadata(Some(topic), ANSWER_WITHIN).map_err(text)?;
    let mut open = 0;
    let mut from = TopicPartitionList::new();
    for partition in metadata.topics().iter().flat_map(|topic| topic.partitions()) {
        let (low, high) = reader.fetch_watermarks(topic, partition.id(), ANSWER_WITHIN).map_err(text)?;
        if low > 0 {
            return Err(format!("partition {} has lost its first {low} records", partition.id()));
        }
        open += high;
        from.add_partition_offset(topic, partition.id(), Offset::Offset(0)).map_err(text)?;
    }
    reader.assign(&from).map_err(text)?;
    let mut records = Vec::new();
    let mut heard = Instant::now();
    while open > 0 {
        match reader.poll(Duration::from_millis(200)) {
            Some(message) => {
                let message = message.map_err(text)?;
                open -= 1;
                heard = Instant::now();
                let place = || format!("record {}/{}", message.partition(), message.offset());
                let header =
                    message.headers().and_then(|headers| headers.iter().find(|header| header.key == "id"));
                let id = header.and_then(|header| Uuid::try_parse_ascii(header.value?).ok());
                let id = id.ok_or_else(|| format!("{} has no event id", place()))?;
                let event = serde_json::from_slice(message.payload().unwrap_or_default());
                let event = event.map_err(|error| format!("{} does not read: {error}", place()))?;
                records.push(Published { id, event });
            }
            None if heard.elapsed() > 3 * ANSWER_WITHIN => {
                return Err(format!("{open} records of it could not be read"));
            }
            None => {}
        }
    }
    Ok(records)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_checked_before_it_is_waited_for() {
        for good in ["localhost:9092", "a:1,b:2", "127.0.0.1:9092", "[::1]:9092"] {
            assert_eq!(check_address(good), Ok(()), "{good}");
        }
        for bad in ["", "localhost", "localhost:", "localhost:0", "localhost:99999", "kafka://a:1", "a:1,"] {
            assert!(check_address(bad).is_err(), "{bad}");
        }
    }
}
