//! A broker in memory, for tests of services and of the relay itself: it fails as it is told.

use super::{Delivery, Failure, Sink};
use crate::error::{Error, Result};
use crate::route::Record;
use crate::tail::Tail;
use async_trait::async_trait;
use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::Notify;
use uuid::Uuid;

/// A record as it lies in a topic.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stored {
    /// The event's id.
    pub id: Uuid,
    /// The record's key.
    pub key: String,
    /// The record's value.
    pub value: Option<Vec<u8>>,
    /// The record's headers.
    pub headers: Vec<(String, String)>,
}

/// What happens to the next records.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fault {
    /// It is written, and the relay is told.
    None,
    /// It is not written, and the relay is told this.
    Fails(Failure),
    /// It is written, and the relay is told that nobody knows.
    LostAnswer,
    /// It is written, and the relay is told nothing.
    Silence,
    /// The producer breaks.
    Fatal,
}

/// A broker of one partition per topic. Clones share their topics, as relays share a cluster.
#[derive(Clone, Debug, Default)]
pub struct MemorySink {
    cluster: Arc<Mutex<Cluster>>,
    wake: Arc<Notify>,
    deliveries: Arc<Mutex<VecDeque<Delivery>>>,
    dead: Arc<Mutex<bool>>,
}

#[derive(Debug, Default)]
struct Cluster {
    topics: HashMap<String, Vec<Stored>>,
    faults: VecDeque<Fault>,
}

impl MemorySink {
    /// A cluster without topics.
    pub fn new() -> Self {
        Self::default()
    }

    /// Another producer of the same cluster.
    pub fn producer(&self) -> Self {
        Self { cluster: self.cluster.clone(), ..Self::default() }
    }

    /// What happens to the next records, in the order in which they are sent.
    pub fn fail(&self, faults: impl IntoIterator<Item = Fault>) {
        self.cluster.lock().expect("never poisoned").faults.extend(faults);
    }

    /// Forgets the faults that have not happened yet.
    pub fn heal(&self) {
        self.cluster.lock().expect("never poisoned").faults.clear();
    }

    /// The records of a topic.
    pub fn topic(&self, name: &str) -> Vec<Stored> {
        self.cluster.lock().expect("never poisoned").topics.get(name).cloned().unwrap_or_default()
    }

    /// The ids of all events in a topic, in order.
    pub fn ids(&self, topic: &str) -> Vec<Uuid> {
        self.topic(topic).into_iter().map(|stored| stored.id).collect()
    }

    fn tell(&self, ticket: u64, result: Result<(i32, i64), Failure>) {
        self.deliveries.lock().expect("never poisoned").push_back(Delivery { ticket, result });
        self.wake.notify_one();
    }
}

#[async_trait]
impl Sink for MemorySink {
    fn longest_in_flight(&self) -> Duration {
        Duration::ZERO
    }

    fn send(&mut self, ticket: u64, record: &Record<'_>) -> Result<(), Failure> {
        let mut cluster = self.cluster.lock().expect("never poisoned");
        let fault = cluster.faults.pop_front().unwrap_or(Fault::None);
        let topic = cluster.topics.entry(record.topic.to_owned()).or_default();
        let offset = i64::try_from(topic.len()).unwrap_or(i64::MAX);
        let headers =
            record.headers.iter().map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
        let value = record.value.as_deref().map(<[u8]>::to_vec);
        let stored = Stored { id: record.id, key: record.key.to_owned(), value, headers };
        if !matches!(fault, Fault::Fails(_) | Fault::Fatal) {
            topic.push(stored);
        }
        drop(cluster);
        match fault {
            Fault::None => self.tell(ticket, Ok((0, offset))),
            Fault::Fails(failure) => self.tell(ticket, Err(failure)),
            Fault::LostAnswer => self.tell(ticket, Err(Failure::Unknown("the answer was lost".into()))),
            Fault::Silence => {}
            Fault::Fatal => {
                *self.dead.lock().expect("never poisoned") = true;
                self.wake.notify_one();
            }
        }
        Ok(())
    }

    async fn deliveries(&mut self, into: &mut Vec<Delivery>) -> Result<()> {
        loop {
            let arrived = self.wake.notified();
            if *self.dead.lock().expect("never poisoned") {
                return Err(Error::ProducerDead("as it was told".into()));
            }
            {
                let mut deliveries = self.deliveries.lock().expect("never poisoned");
                if !deliveries.is_empty() {
                    into.extend(deliveries.drain(..));
                    return Ok(());
                }
            }
            arrived.await;
        }
    }

    async fn reset(&mut self) -> Result<()> {
        *self = self.producer();
        Ok(())
    }

    async fn ends(&mut self, topic: &str) -> Result<Vec<i64>> {
        Ok(vec![i64::try_from(self.topic(topic).len()).unwrap_or(i64::MAX)])
    }

    async fn ids_since(&mut self, tail: &Tail) -> Result<HashSet<Uuid>> {
        let mut ids = HashSet::new();
        for (topic, from) in tail.topics() {
            let begin = usize::try_from(from.first().copied().unwrap_or(0)).unwrap_or(0);
            ids.extend(self.topic(topic).into_iter().skip(begin).map(|stored| stored.id));
        }
        Ok(ids)
    }
}
