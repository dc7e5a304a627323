//! Where records go.

pub mod kafka;
pub mod memory;

pub use kafka::{KafkaSettings, KafkaSink};
pub use memory::MemorySink;

use crate::error::Result;
use crate::route::Record;
use crate::tail::Tail;
use async_trait::async_trait;
use std::collections::HashSet;
use std::time::Duration;
use uuid::Uuid;

/// Why a record is not in the topic, as far as is known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Failure {
    /// The broker refuses this record and always will; nothing was written.
    Rejected(String),
    /// The broker refuses the topic (unknown, or not allowed); somebody may change that soon.
    Refused(String),
    /// It may or may not have been written.
    Unknown(String),
}

/// The fate of one record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Delivery {
    /// What the record was sent as.
    pub ticket: u64,
    /// Partition and offset, or why not.
    pub result: Result<(i32, i64), Failure>,
}

/// A broker, as a relay sees it.
#[async_trait]
pub trait Sink: Send + Sync + 'static {
    /// For how long after [`Sink::send`] a record may still be written. Must be below the lease.
    fn longest_in_flight(&self) -> Duration;

    /// Takes the record; its fate is a [`Delivery`] with this ticket.
    ///
    /// # Errors
    ///
    /// [`Failure::Rejected`] if it is known at once, [`Failure::Unknown`] if there is no room now.
    fn send(&mut self, ticket: u64, record: &Record<'_>) -> Result<(), Failure>;

    /// Waits for deliveries and appends them. Dropping the future loses none.
    ///
    /// # Errors
    ///
    /// If the producer is beyond repair.
    async fn deliveries(&mut self, into: &mut Vec<Delivery>) -> Result<()>;

    /// Forgets what was not sent yet, and the deliveries of everything sent before.
    async fn reset(&mut self) -> Result<()>;

    /// The end of each partition of a topic; the broker may make the topic now.
    async fn ends(&mut self, topic: &str) -> Result<Vec<i64>>;

    /// The ids of all events in the topics from this tail on.
    async fn ids_since(&mut self, tail: &Tail) -> Result<HashSet<Uuid>>;
}
