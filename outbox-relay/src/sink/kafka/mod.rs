//! Kafka through librdkafka.
//!
//! The producer is idempotent and waits for all in-sync replicas. Its partitioner hashes keys as the
//! Java clients do: librdkafka's own default would move every key to another partition than Debezium
//! and other producers use. Its queue is bounded; the relay's window is smaller.
//!
//! The broker takes or refuses many records at once, as the client happened to send them together, and says of each
//! what it says of all: that they are too large, though one alone would not be. So what was refused is sent once more
//! by itself, by a second producer that sends nothing together, and only what that is told is believed of a record.
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
    /// Sends each record by itself; made when the first is to be sent so.
    alone: Option<ThreadedProducer<Reports>>,
    /// What is to be sent by itself.
    suspects: HashSet<u64>,
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
        let reports = Arc::new(Arrived::default());
        let producer = Arc::new(producer(&settings, &reports, false)?);
        Ok(Self { settings, producer, alone: None, suspects: HashSet::new(), reports })
    }

    fn alone(&mut self) -> Result<&ThreadedProducer<Reports>> {
        if self.alone.is_none() {
            self.alone = Some(producer(&self.settings, &self.reports, true)?);
        }
        Ok(self.alone.as_ref().expect("it was made"))
    }
}

impl std::fmt::Debug for KafkaSink {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("KafkaSink").field("settings", &self.settings).finish_non_exhaustive()
    }
}

fn producer(
    settings: &KafkaSettings,
    arrived: &Arc<Arrived>,
    alone: bool,
) -> Result<ThreadedProducer<Reports>> {
    let mut config = settings.producer()?;
    if alone {
        config.set("batch.num.messages", "1");
    }
    let reports = Reports { arrived: arrived.clone(), alone };
    config.create_with_context(reports).map_err(|error| Error::Config(format!("kafka: {error}")))
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
        let producer = if !self.suspects.is_empty() && self.suspects.remove(&ticket) {
            self.alone().map_err(|error| Failure::Unknown(error.to_string()))?
        } else {
            &*self.producer
        };
        producer.send(message).map_err(|(error, _)| match code(&error) {
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
                    self.suspects.extend(state.suspects.drain(..));
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
        let fresh = Self::with_settings(self.settings.clone())?;
        let old = std::mem::replace(self, fresh);
        // Dropping purges its queues and joins its threads.
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
    /// What was refused together with others, perhaps because of them.
    suspects: Vec<u64>,
    fatal: Option<String>,
}

struct Reports {
    arrived: Arc<Arrived>,
    /// Of the producer that sends each record by itself.
    alone: bool,
}

impl ClientContext for Reports {
    fn error(&self, error: KafkaError, reason: &str) {
        if matches!(code(&error), Some(Code::Fatal)) {
            self.arrived.state.lock().expect("never poisoned").fatal = Some(reason.to_owned());
            self.arrived.wake.notify_one();
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
        self.arrived.add(ticket as u64, result, self.alone);
    }
}

impl Arrived {
    fn add(&self, ticket: u64, mut result: Result<(i32, i64), Failure>, alone: bool) {
        let mut state = self.state.lock().expect("never poisoned");
        if matches!(&result, Err(Failure::Unknown(text)) if text.contains("Fatal")) {
            state.fatal = Some("the idempotent producer gave up".into());
        }
        if let Err(Failure::Rejected(text)) = &mut result
            && !alone
        {
            state.suspects.push(ticket);
            result = Err(Failure::Unknown(std::mem::take(text)));
        }
        state.deliveries.push(Delivery { ticket, result });
        if state.deliveries.len() == 1 {
            self.wake.notify_one();
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
        | Code::MessageBatchTooLarge
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
