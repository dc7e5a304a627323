//! Kafka through librdkafka.
//!
//! The producer is idempotent and waits for all in-sync replicas. Its partitioner hashes keys as the
//! Java clients do: librdkafka's own default would move every key to another partition than Debezium
//! and other producers use. Its queue is bounded; the relay's window is smaller.
//!
//! Delivery reports arrive on the producer's polling thread, are appended to one vector, and wake the
//! relay: no allocation and no future per record.

mod doctor;
mod records;
mod scan;
mod settings;

pub use records::{Reader, Topic};
pub use settings::{KafkaSettings, is_secret};

use super::{Delivery, Failure, Sink};
use crate::error::{Error, Result};
use crate::route::Record;
use crate::tail::Tail;
use async_trait::async_trait;
use rdkafka::ClientContext;
use rdkafka::error::{KafkaError, RDKafkaErrorCode as Code};
use rdkafka::message::{DeliveryResult, Header, Message as _, OwnedHeaders};
use rdkafka::producer::{BaseRecord, NoCustomPartitioner, Producer as _, ProducerContext, ThreadedProducer};
use std::collections::HashSet;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::Notify;
use uuid::Uuid;

/// Publishes to Kafka.
pub struct KafkaSink {
    settings: KafkaSettings,
    producer: Arc<ThreadedProducer<Reports>>,
    reports: Arc<Arrived>,
}

impl KafkaSink {
    /// Publishes to the cluster at these brokers, `host:port,…`, with the default settings.
    ///
    /// # Errors
    ///
    /// If the list of brokers is malformed. Brokers that are down are no error here: they are waited for.
    pub fn connect(brokers: &str) -> Result<Self> {
        Self::with_settings(KafkaSettings::new(brokers))
    }

    /// Publishes with these settings.
    ///
    /// # Errors
    ///
    /// If librdkafka refuses a setting; the error names it.
    pub fn with_settings(settings: KafkaSettings) -> Result<Self> {
        let (producer, reports) = producer(&settings)?;
        Ok(Self { settings, producer, reports })
    }
}

impl std::fmt::Debug for KafkaSink {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("KafkaSink").field("settings", &self.settings).finish_non_exhaustive()
    }
}

fn producer(settings: &KafkaSettings) -> Result<(Arc<ThreadedProducer<Reports>>, Arc<Arrived>)> {
    let reports = Arc::new(Arrived::default());
    let producer = settings
        .producer()?
        .create_with_context(Reports(reports.clone()))
        .map_err(|error| Error::Config(format!("kafka: {error}")))?;
    Ok((Arc::new(producer), reports))
}

#[async_trait]
impl Sink for KafkaSink {
    fn longest_in_flight(&self) -> Duration {
        self.settings.message_timeout
    }

    fn send(&mut self, ticket: u64, record: &Record<'_>) -> Result<(), Failure> {
        let mut headers = OwnedHeaders::new_with_capacity(record.headers.len());
        for (name, value) in record.headers.iter() {
            headers = headers.insert(Header { key: name, value: Some(value.as_bytes()) });
        }
        let mut message =
            BaseRecord::with_opaque_to(record.topic, ticket as usize).key(record.key).headers(headers);
        message.payload = record.value.as_deref();
        message.timestamp = record.timestamp;
        self.producer.send(message).map_err(|(error, _)| match code(&error) {
            Some(Code::QueueFull) | None => Failure::Unknown(error.to_string()),
            Some(code) => failure(code, &error),
        })
    }

    async fn deliveries(&mut self, into: &mut Vec<Delivery>) -> Result<()> {
        loop {
            let arrived = self.reports.wake.notified();
            {
                let mut state = self.reports.state.lock().expect("never poisoned");
                if let Some(fatal) = &state.fatal {
                    return Err(Error::ProducerDead(fatal.clone()));
                }
                if !state.deliveries.is_empty() {
                    if into.is_empty() {
                        std::mem::swap(into, &mut state.deliveries);
                    } else {
                        into.append(&mut state.deliveries);
                    }
                    return Ok(());
                }
            }
            arrived.await;
        }
    }

    async fn reset(&mut self) -> Result<()> {
        let (fresh, reports) = producer(&self.settings)?;
        let old = std::mem::replace(&mut self.producer, fresh);
        self.reports = reports;
        // Dropping purges its queue and joins its thread.
        blocking(move || drop(old)).await;
        Ok(())
    }

    async fn ends(&mut self, topic: &str) -> Result<Vec<i64>> {
        let (producer, topic) = (self.producer.clone(), topic.to_owned());
        blocking(move || scan::ends(producer.client(), &topic)).await
    }

    async fn ids_since(&mut self, tail: &Tail) -> Result<HashSet<Uuid>> {
        let (settings, tail) = (self.settings.clone(), tail.clone());
        blocking(move || scan::ids_since(&settings, &tail)).await
    }
}

/// Runs what blocks on its own thread, to its end.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    tokio::task::spawn_blocking(work).await.expect("the work does not panic and is not aborted")
}

/// Delivery reports that arrived and were not taken yet.
#[derive(Debug, Default)]
struct Arrived {
    state: Mutex<State>,
    wake: Notify,
}

#[derive(Debug, Default)]
struct State {
    deliveries: Vec<Delivery>,
    fatal: Option<String>,
}

struct Reports(Arc<Arrived>);

impl ClientContext for Reports {
    fn error(&self, error: KafkaError, reason: &str) {
        if matches!(code(&error), Some(Code::Fatal)) {
            self.0.state.lock().expect("never poisoned").fatal = Some(reason.to_owned());
            self.0.wake.notify_one();
        }
        // librdkafka logs brokers that come and go itself.
        tracing::debug!(%error, reason, "kafka");
    }
}

impl ProducerContext<NoCustomPartitioner> for Reports {
    type DeliveryOpaque = usize;

    fn delivery(&self, result: &DeliveryResult<'_>, ticket: usize) {
        let result =
            match result {
                Ok(message) => Ok((message.partition(), message.offset())),
                Err((error, _)) => Err(code(error)
                    .map_or_else(|| Failure::Unknown(error.to_string()), |code| failure(code, error))),
            };
        let delivery = Delivery { ticket: ticket as u64, result };
        let mut state = self.0.state.lock().expect("never poisoned");
        if matches!(&delivery.result, Err(Failure::Unknown(text)) if text.contains("Fatal")) {
            state.fatal = Some("the idempotent producer gave up".into());
        }
        state.deliveries.push(delivery);
        if state.deliveries.len() == 1 {
            self.0.wake.notify_one();
        }
    }
}

fn code(error: &KafkaError) -> Option<Code> {
    error.rdkafka_error_code()
}

/// Sorts the broker's and the client's refusals by what they say about the record.
fn failure(code: Code, error: &KafkaError) -> Failure {
    let text = error.to_string();
    match code {
        Code::MessageSizeTooLarge
        | Code::InvalidMessage
        | Code::InvalidMessageSize
        | Code::InvalidRecord
        | Code::InvalidTimestamp
        | Code::PolicyViolation
        | Code::InvalidRequiredAcks
        | Code::InvalidTopic => Failure::Rejected(text),
        Code::TopicAuthorizationFailed
        | Code::ClusterAuthorizationFailed
        | Code::UnknownTopic
        | Code::UnknownTopicOrPartition
        | Code::UnknownPartition => Failure::Refused(text),
        _ => Failure::Unknown(text),
    }
}
