//! One outbox row on its way to Kafka.

mod packed;

pub use packed::{Event, Fields};

use uuid::Uuid;

/// A place in a source up to which events can be acknowledged. Only the source that gave it knows
/// what it stands for; later ones are greater.
pub type Mark = u64;

/// The next events of a source, in order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Page {
    /// The events.
    pub events: Vec<Event>,
    /// When everything up to the end of this page is done, this may be acknowledged.
    pub mark: Option<Mark>,
    /// Among so many of the latest events, of this page and of those before it, are some that `mark` does not stand
    /// for: with it acknowledged, a relay that begins again reads those once more.
    pub beyond: usize,
    /// With this page all has been read that was committed when the source was resumed: what comes later no
    /// relay has read before, unless it is replayed. Said once, or never by a source that cannot tell.
    pub caught_up: bool,
}

/// An aggregate: events of one are published in order.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Key {
    /// The aggregate's type.
    pub aggregate_type: String,
    /// The aggregate's id.
    pub aggregate_id: String,
}

impl std::fmt::Display for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.aggregate_type, self.aggregate_id)
    }
}

/// An event that is set aside with the later events of its key, until a person decides.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Park {
    /// The row's number.
    pub seq: i64,
    /// The event's id.
    pub id: Uuid,
    /// Its key.
    pub key: Key,
    /// Why.
    pub reason: String,
    /// The event itself; `None` where parked events are only listed.
    pub event: Option<Event>,
}
