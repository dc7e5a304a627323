//! Examining the way to Kafka: whether it answers, and what this principal may do with the topics.
//!
//! Whether a topic may be written to is known only to who tries. So a record is sent that the broker is
//! bound to refuse: larger than the topic takes. The broker asks for the right before it looks at the size,
//! so its refusal tells the two apart, and nothing is written.

use super::scan::ANSWER_WITHIN;
use super::{Delivery, Failure, Sink as _, blocking};
use super::{KafkaSink, Reader};
use crate::doctor::Finding;
use crate::route::{Headers, Record};
use rdkafka::Offset;
use rdkafka::TopicPartitionList;
use rdkafka::admin::{AdminClient, AdminOptions, ResourceSpecifier};
use rdkafka::client::DefaultClientContext;
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::error::{KafkaError, RDKafkaErrorCode as Code};
use std::time::{Duration, Instant};
use uuid::Uuid;

/// Topics that are looked at.
const LOOKED_AT: usize = 20;
/// The largest record that is sent to be refused.
const REFUSED_BYTES_MAX: usize = 64 << 20;

impl Reader {
    /// Examines the way to the cluster, and to the topics that events go to.
    pub async fn examine(&self, topics: &[String]) -> Vec<Finding> {
        let there = match self.topics().await {
            Ok(topics) => topics,
            Err(error) => {
                return vec![Finding::problem(
                    format!("Kafka at {} does not answer: {error}", self.settings.brokers),
                    "check kafka.brokers, security.protocol, the credentials, and that advertised.listeners can be \
                     reached from here",
                )];
            }
        };
        let mut findings = vec![Finding::fine(format!(
            "Kafka at {} answers, {} topics",
            self.settings.brokers,
            there.len()
        ))];
        for topic in topics.iter().take(LOOKED_AT) {
            findings.push(match self.describe(topic).await {
                Ok(partitions) => self.examine_topic(topic, partitions).await,
                Err(finding) => finding,
            });
        }
        findings
    }

    /// How many partitions a topic has.
    async fn describe(&self, topic: &str) -> Result<usize, Finding> {
        let (settings, name) = (self.settings.clone(), topic.to_owned());
        let described = blocking(move || {
            let consumer: BaseConsumer = settings.reader()?.create()?;
            let metadata = consumer.fetch_metadata(Some(&name), ANSWER_WITHIN)?;
            let found = metadata.topics().first();
            let error = found.and_then(|topic| topic.error()).map(Code::from);
            Ok::<_, crate::Error>((error, found.map_or(0, |topic| topic.partitions().len())))
        });
        match described.await {
            Ok((None, partitions)) if partitions > 0 => Ok(partitions),
            Ok((Some(Code::TopicAuthorizationFailed), _)) => Err(forbidden(topic, "describe", "Describe")),
            Ok((_, _)) => Err(Finding::warning(
                format!("the topic {topic} is not there"),
                "create it with as many partitions as it will need: more of them later move keys, and with that \
                 break their order (the broker makes it at the first event, if it is allowed to)",
            )),
            Err(error) => Err(Finding::warning(format!("could not look at the topic {topic}: {error}"), "")),
        }
    }

    async fn examine_topic(&self, topic: &str, partitions: usize) -> Finding {
        match self.may_read(topic).await {
            Some(Code::TopicAuthorizationFailed) => return forbidden(topic, "read", "Read"),
            Some(error) => {
                return Finding::warning(format!("the topic {topic} cannot be read: {error}"), "");
            }
            None => {}
        }
        let Some(limit) = self.record_limit(topic).await else {
            return Finding::warning(
                format!("the topic {topic} can be read; whether it can be written to is not known"),
                advice(topic, "DescribeConfigs"),
            );
        };
        match self.refusal(topic, limit).await {
            Some(Failure::Rejected(_)) => Finding::fine(format!(
                "the topic {topic} can be read and written to; {partitions} partitions, records up to {limit} bytes"
            )),
            Some(Failure::Refused(error)) if error.contains("Cluster") => Finding::problem(
                "this principal may not produce idempotently".to_owned(),
                "kafka-acls --add --operation IdempotentWrite --cluster --allow-principal …",
            ),
            Some(Failure::Refused(_)) => forbidden(topic, "write to", "Write"),
            Some(Failure::Unknown(error)) => Finding::warning(
                format!("whether the topic {topic} can be written to is not known: {error}"),
                "",
            ),
            None => Finding::warning(
                format!("whether the topic {topic} can be written to is not known: no answer in time"),
                "",
            ),
        }
    }

    /// Why the end of the topic cannot be read; `None` if it can.
    async fn may_read(&self, topic: &str) -> Option<Code> {
        let (settings, topic) = (self.settings.clone(), topic.to_owned());
        blocking(move || {
            let consumer: BaseConsumer = settings.reader().ok()?.create().ok()?;
            let mut list = TopicPartitionList::new();
            list.add_partition_offset(&topic, 0, Offset::OffsetTail(1)).ok()?;
            consumer.assign(&list).ok()?;
            let begin = Instant::now();
            while begin.elapsed() < ANSWER_WITHIN {
                match consumer.poll(Duration::from_millis(200)) {
                    Some(Ok(_)) | Some(Err(KafkaError::PartitionEOF(_))) => return None,
                    Some(Err(error)) => return error.rdkafka_error_code(),
                    None => {}
                }
            }
            Some(Code::OperationTimedOut)
        })
        .await
    }

    /// The largest record the topic takes, if that may be asked.
    async fn record_limit(&self, topic: &str) -> Option<usize> {
        let admin: AdminClient<DefaultClientContext> = self.settings.client().ok()?.create().ok()?;
        let options = AdminOptions::new().request_timeout(Some(ANSWER_WITHIN));
        let described = admin.describe_configs(&[ResourceSpecifier::Topic(topic)], &options).await.ok()?;
        let resource = described.into_iter().next()?.ok()?;
        resource.get("max.message.bytes")?.value.as_ref()?.parse().ok()
    }

    /// What the broker says to a record that is too large.
    async fn refusal(&self, topic: &str, limit: usize) -> Option<Failure> {
        if limit > REFUSED_BYTES_MAX {
            return Some(Failure::Unknown(format!("it takes records of {limit} bytes")));
        }
        let mut settings = self.settings.clone();
        // What is compressed might be small enough to be taken.
        settings.properties.retain(|name, _| !name.starts_with("compression."));
        let room = (limit + (1 << 20)).to_string();
        let settings = settings.property("message.max.bytes", room).property("compression.type", "none");
        let mut sink = KafkaSink::with_settings(settings).ok()?;
        // Nor can random bytes be compressed by the broker.
        let payload: Vec<u8> =
            std::iter::repeat_with(|| *Uuid::new_v4().as_bytes()).flatten().take(limit).collect();
        let headers = Headers::default();
        let record = Record {
            id: Uuid::nil(),
            topic,
            key: "outbox-relay doctor",
            value: Some(payload.into()),
            headers: &headers,
            timestamp: None,
        };
        // By itself, or its refusal would not count.
        sink.suspects.insert(0);
        if let Err(failure) = sink.send(0, &record) {
            return Some(failure);
        }
        let mut deliveries = Vec::new();
        match tokio::time::timeout(3 * ANSWER_WITHIN, sink.deliveries(&mut deliveries)).await {
            Ok(Ok(())) => deliveries.pop().and_then(|Delivery { result, .. }| result.err()),
            // An idempotent producer that may not be one dies of it.
            Ok(Err(error)) => Some(Failure::Refused(error.to_string())),
            Err(_) => None,
        }
    }
}

fn forbidden(topic: &str, what: &str, operation: &str) -> Finding {
    Finding::problem(format!("this principal may not {what} the topic {topic}"), advice(topic, operation))
}

fn advice(topic: &str, operation: &str) -> String {
    format!("kafka-acls --add --operation {operation} --topic {topic} --allow-principal …")
}
