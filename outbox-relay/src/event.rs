//! One outbox row on its way to Kafka.

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

/// One committed outbox row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// By which relays and inboxes recognise duplicates.
    pub id: Uuid,
    /// The row's number; orders the events of a key whose writers take turns.
    pub seq: i64,
    /// Decides the topic.
    pub aggregate_type: String,
    /// The record's key.
    pub aggregate_id: String,
    /// What happened.
    pub event_type: String,
    /// The record's value; `None` is a tombstone.
    pub payload: Option<Vec<u8>>,
    /// Headers the writer gave it.
    pub headers: Vec<(String, String)>,
    /// The trace context in which it was written, as Java properties text.
    pub trace: Option<String>,
    /// Its number within its key, where the writer asked for one.
    pub key_seq: Option<i64>,
    /// When it was written, in milliseconds since the Unix epoch by the database's clock.
    pub created_at: i64,
    /// Why it can never be published: what a writer put into the row is no event.
    pub defect: Option<String>,
}

impl Event {
    /// The key that keeps its order: the aggregate.
    pub fn key(&self) -> Key {
        Key { aggregate_type: self.aggregate_type.clone(), aggregate_id: self.aggregate_id.clone() }
    }

    /// About how much memory it holds.
    pub fn bytes(&self) -> usize {
        let headers: usize = self.headers.iter().map(|(name, value)| name.len() + value.len() + 48).sum();
        std::mem::size_of::<Self>()
            + self.aggregate_type.len()
            + self.aggregate_id.len()
            + self.event_type.len()
            + self.payload.as_ref().map_or(0, Vec::len)
            + self.trace.as_ref().map_or(0, String::len)
            + headers
    }
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
    pub event: Option<Box<Event>>,
}
