//! Reading what is in the topics already.

use super::KafkaSettings;
use crate::error::Result;
use crate::tail::Tail;
use rdkafka::ClientContext;
use rdkafka::client::Client;
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{BorrowedMessage, Headers as _, Message as _};
use rdkafka::{Offset, TopicPartitionList};
use std::collections::HashSet;
use std::time::{Duration, Instant};
use uuid::Uuid;

pub(super) const ANSWER_WITHIN: Duration = Duration::from_secs(5);

/// The end of each partition. Asking for a topic's metadata as a producer makes the broker create
/// it, where it is allowed to; one that is not there then has no partitions yet.
pub(super) fn ends<C: ClientContext>(client: &Client<C>, topic: &str) -> Result<Vec<i64>> {
    let deadline = Instant::now() + ANSWER_WITHIN;
    let partitions = loop {
        let metadata = client.fetch_metadata(Some(topic), ANSWER_WITHIN)?;
        let found = metadata.topics().first();
        let ready = found.filter(|t| t.error().is_none() && t.partitions().iter().all(|p| p.leader() >= 0));
        match ready.map_or(0, |topic| topic.partitions().len()) {
            0 if Instant::now() >= deadline => return Ok(Vec::new()),
            0 => std::thread::sleep(Duration::from_millis(50)),
            partitions => break partitions,
        }
    };
    (0..partitions)
        .map(|partition| {
            let partition = i32::try_from(partition).unwrap_or(i32::MAX);
            loop {
                match client.fetch_watermarks(topic, partition, ANSWER_WITHIN) {
                    Ok((_, end)) => return Ok(end),
                    // A partition made just now may still be choosing its leader.
                    Err(_) if Instant::now() < deadline => std::thread::sleep(Duration::from_millis(50)),
                    Err(error) => return Err(error.into()),
                }
            }
        })
        .collect()
}

/// The ids of all events from the tail to the ends of the partitions, as they are at the beginning.
///
/// What was compacted away, has expired, or went with a topic that was made anew is not found, and
/// is published again.
pub(super) fn ids_since(settings: &KafkaSettings, tail: &Tail) -> Result<HashSet<Uuid>> {
    let mut ids = HashSet::new();
    scan(settings, tail, |message| ids.extend(event_id(message)))?;
    Ok(ids)
}

/// Shows every record from the tail to the ends of the partitions, as they are at the beginning.
pub(super) fn scan(
    settings: &KafkaSettings,
    tail: &Tail,
    mut show: impl FnMut(&BorrowedMessage<'_>),
) -> Result<()> {
    let consumer: BaseConsumer = settings.reader()?.create()?;
    let mut open = HashSet::new();
    let mut list = TopicPartitionList::new();
    for (topic, from) in tail.topics() {
        for (partition, end) in ends(consumer.client(), topic)?.into_iter().enumerate() {
            let partition_id = i32::try_from(partition).unwrap_or(i32::MAX);
            let (low, _) = consumer.fetch_watermarks(topic, partition_id, ANSWER_WITHIN)?;
            let begin = from.get(partition).copied().unwrap_or(0).max(low);
            if begin < end {
                list.add_partition_offset(topic, partition_id, Offset::Offset(begin))?;
                open.insert((topic.to_owned(), partition_id, end));
            }
        }
    }
    if open.is_empty() {
        return Ok(());
    }
    consumer.assign(&list)?;
    let mut heard = Instant::now();
    while !open.is_empty() {
        match consumer.poll(Duration::from_millis(200)) {
            Some(Ok(message)) => {
                heard = Instant::now();
                show(&message);
                let (topic, partition, offset) = (message.topic(), message.partition(), message.offset());
                open.retain(|(t, p, end)| t != topic || *p != partition || offset + 1 < *end);
            }
            // The end of a partition, whose last offsets held nothing to deliver.
            Some(Err(KafkaError::PartitionEOF(partition))) => open.retain(|(topic, p, end)| {
                *p != partition || position(&consumer, topic, partition).is_none_or(|at| at < *end)
            }),
            Some(Err(error)) => return Err(error.into()),
            None if heard.elapsed() > 6 * ANSWER_WITHIN => {
                let code = RDKafkaErrorCode::OperationTimedOut;
                return Err(KafkaError::MessageConsumption(code).into());
            }
            None => {}
        }
    }
    Ok(())
}

fn position(consumer: &BaseConsumer, topic: &str, partition: i32) -> Option<i64> {
    match consumer.position().ok()?.find_partition(topic, partition)?.offset() {
        Offset::Offset(offset) => Some(offset),
        _ => None,
    }
}

/// The event's id, from the header that every format has.
pub(crate) fn event_id(message: &impl rdkafka::Message) -> Option<Uuid> {
    let headers = message.headers()?;
    let header = headers.iter().find(|header| header.key == "id")?;
    Uuid::try_parse_ascii(header.value?).ok()
}
