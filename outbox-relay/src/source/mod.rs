//! Where events come from: an outbox table, and the relay's own row beside it.

mod defects;
pub mod postgres;
pub mod sqlite;

pub(crate) use defects::Defects;
pub use postgres::PostgresSource;
pub use sqlite::SqliteSource;

use crate::error::{Error, Result};
use crate::event::{Event, Key, Mark, Page, Park};
use crate::lease::LeaseRow;
use crate::tail::Tail;
use async_trait::async_trait;
use std::collections::HashSet;
use std::time::Duration;

/// What the relay makes durable in one transaction.
#[derive(Clone, Debug, Default)]
pub struct Ack {
    /// Every event up to here is done.
    pub mark: Option<Mark>,
    /// From where on the topics may hold events that are not acknowledged here.
    pub tail: Tail,
    /// Events set aside. A row that is there already, dropped or not, stays as it is: the event was read again
    /// after a restart, and an operator may have decided about it since.
    pub parks: Vec<Park>,
    /// Released rows that are set aside again, each with all of its key.
    pub parks_again: Vec<Park>,
    /// Parked rows, by number, whose events have been published.
    pub released: Vec<i64>,
}

/// What an earlier relay, or this one, left behind.
#[derive(Clone, Debug, Default)]
pub struct Resumed {
    /// The tail of the last acknowledgement.
    pub tail: Tail,
    /// The keys with parked events.
    pub parked: HashSet<Key>,
    /// Rows, by number, that an operator has dropped; some of them may be read again.
    pub dropped: HashSet<i64>,
}

/// Parked keys as they are now, and the events of one that an operator has released.
#[derive(Clone, Debug, Default)]
pub struct ParkedNow {
    /// The keys with parked events.
    pub keys: HashSet<Key>,
    /// The oldest parked events of one released key, in order.
    pub released: Vec<Event>,
    /// Whether these are all of that key.
    pub complete: bool,
    /// Rows, by number, that an operator has dropped; at least those whose keys are not among `keys` any more.
    pub dropped: HashSet<i64>,
}

/// A parked event, for people.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ParkedEvent {
    /// The event, its key, and why it was set aside.
    pub park: Park,
    /// Whether an operator has released it.
    pub released: bool,
}

/// What an operator decides about parked events.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decision {
    /// Publish them, in order, before later ones of their key.
    Release,
    /// Never publish them, not even if a restart reads them again; later ones of their key are published again.
    Drop,
}

/// An outbox, as a relay sees it.
///
/// Events are read in an order that keeps the order of each key whose writers take turns. Reading
/// goes ahead of acknowledging and is not durable; [`Source::resume`] goes back to what is. Methods
/// that change anything are conditional on the epoch and answer
/// [`Error::Fenced`] when it is not the current one. Each method runs to its
/// end in a task of its own: dropping the future that waits for it cancels nothing.
#[async_trait]
pub trait Source: Send + Sync + 'static {
    /// The outbox's name, for people.
    fn name(&self) -> &str;

    /// Whether events are read from a log as they are committed, rather than looked for.
    fn is_streaming(&self) -> bool {
        false
    }

    /// How often [`Source::wait`] returned because somebody said that there are events.
    fn woken(&self) -> u64 {
        0
    }

    /// The shortest time between two acknowledgements.
    fn acknowledge_every(&self) -> Duration;

    /// Checks the tables and makes the relay's row.
    async fn prepare(&self) -> Result<()>;

    /// The lease as it is now.
    async fn lease(&self) -> Result<LeaseRow>;

    /// Takes the lease over if it is still as it was seen; answers the new epoch.
    async fn take(&self, seen: &LeaseRow, holder: &str) -> Result<Option<i64>>;

    /// Raises the renewal counter.
    async fn renew(&self, epoch: i64) -> Result<()>;

    /// Gives the lease up, so that another may take it at once.
    async fn give_up(&self, epoch: i64) -> Result<()>;

    /// Goes back to what was acknowledged last.
    async fn resume(&self, epoch: i64) -> Result<Resumed>;

    /// The next events in order, at most `limit`, fewer if they are large. An empty page if there are
    /// none now: then [`Source::wait`].
    async fn read(&self, limit: usize) -> Result<Page>;

    /// Returns when there may be new events. `idle` counts the empty pages since the last event.
    async fn wait(&self, idle: u32);

    /// Makes durable that events are done, set aside, or published after release.
    async fn acknowledge(&self, epoch: i64, ack: &Ack) -> Result<()>;

    /// Removes a batch of rows that are done; answers how many. Answers 0 when there are none, and
    /// when removing them would only leave dead rows that nobody can clean.
    async fn sweep(&self, epoch: i64) -> Result<u64>;

    /// The parked events in order, at most `limit`, for people.
    async fn list_parked(&self, limit: usize) -> Result<Vec<ParkedEvent>>;

    /// Records an operator's decision about all parked events of a key, or of all keys; answers how
    /// many events it concerns. The relay that holds the lease carries it out. What was dropped is decided for
    /// good, and no decision concerns it any more.
    async fn decide(&self, key: Option<&Key>, decision: Decision) -> Result<u64>;

    /// The parked keys, and at most `limit` events of one that was released.
    async fn parked(&self, limit: usize) -> Result<ParkedNow>;
}

/// How long to wait for new events: hardly, while they come; longer the longer none came.
pub(crate) fn pause(idle: u32, longest: Duration) -> Duration {
    const SHORTEST: Duration = Duration::from_micros(500);
    (SHORTEST * 2_u32.pow((idle / 16).min(12))).min(longest)
}

/// The size of the next page, so that one holds about as many bytes as it may.
#[derive(Clone, Copy, Debug)]
pub(crate) struct PageSize(usize);

impl Default for PageSize {
    fn default() -> Self {
        Self(64)
    }
}

impl PageSize {
    pub(crate) const BYTES: usize = 1 << 20;

    /// Rows to ask for.
    pub(crate) fn rows(self, limit: usize) -> usize {
        self.0.min(limit).max(1)
    }

    /// Learns from a page: grows fast to the size that the rows' average allows.
    pub(crate) fn learn(&mut self, events: &[Event]) {
        let bytes: usize = events.iter().map(Event::bytes).sum();
        if let Some(average) = bytes.checked_div(events.len()) {
            self.0 = (Self::BYTES / average.max(1)).clamp(1, self.0 * 4);
        }
    }
}

pub(crate) fn stored_tail(text: &str) -> Result<Tail> {
    serde_json::from_str(text).map_err(|error| Error::Corrupt {
        what: "the relay's stored tail".into(),
        problem: error.to_string(),
    })
}
