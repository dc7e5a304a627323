//! Looking at a cluster from outside the relay.

use super::scan::{self, ANSWER_WITHIN};
use super::{KafkaSettings, blocking};
use crate::error::Result;
use crate::history::Published;
use crate::tail::Tail;
use rdkafka::Message as _;
use rdkafka::consumer::{BaseConsumer, Consumer as _};

/// A topic, as the cluster describes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Topic {
    /// Its name.
    pub name: String,
    /// How many partitions it has.
    pub partitions: usize,
}

/// Reads topics without being a member of a group.
#[derive(Clone, Debug)]
pub struct Reader {
    pub(super) settings: KafkaSettings,
}

impl Reader {
    /// A reader of this cluster.
    pub fn new(settings: KafkaSettings) -> Self {
        Self { settings }
    }

    /// All topics of the cluster that this client may see.
    ///
    /// # Errors
    ///
    /// If no broker answers within a few seconds.
    pub async fn topics(&self) -> Result<Vec<Topic>> {
        let settings = self.settings.clone();
        blocking(move || {
            let consumer: BaseConsumer = settings.reader()?.create()?;
            let metadata = consumer.fetch_metadata(None, ANSWER_WITHIN)?;
            let topics = metadata.topics().iter().filter(|topic| topic.error().is_none());
            Ok(topics
                .map(|topic| Topic { name: topic.name().to_owned(), partitions: topic.partitions().len() })
                .collect())
        })
        .await
    }

    /// All events in these topics, each partition in order, up to its end as it is now.
    ///
    /// # Errors
    ///
    /// If the cluster does not answer.
    pub async fn events(&self, topics: &[String]) -> Result<Vec<Published>> {
        let (settings, topics) = (self.settings.clone(), topics.to_vec());
        blocking(move || {
            let mut all = Tail::default();
            topics.iter().for_each(|topic| all.open(topic, &[]));
            let mut events = Vec::new();
            scan::scan(&settings, &all, |message| {
                if let Some(id) = scan::event_id(message) {
                    events.push(Published {
                        id,
                        key: String::from_utf8_lossy(message.key().unwrap_or_default()).into_owned(),
                        topic: message.topic().to_owned(),
                        partition: message.partition(),
                        offset: message.offset(),
                    });
                }
            })?;
            Ok(events)
        })
        .await
    }
}
