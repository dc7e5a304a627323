//! Where rows are kept, and what every store promises.
//!
//! A store is an atomic compare-and-set over one row, and a clock: [`Store::swap`] and [`Store::read`]. All
//! else (claim, renew, complete, release) is the same for every store and is written here once, over the
//! pure decisions of [`claim`](crate::claim).
//!
//! What a store promises, and what [`testing::conformance`](crate::testing::conformance) checks:
//!
//! - A `swap` is atomic and durable before it answers, as durable as the store is.
//! - `now` is the store's own clock, read after whatever lock the operation waits for. Two processes whose
//!   clocks are an hour apart see the same leases.
//! - A running row is never removed by time, neither by [`sweep`](Store::sweep) nor by an expiry of the
//!   store's own.
//!
//! A lease that ran out is not proof that its holder is dead: it may be frozen, and wake up. So nothing is
//! ever *assumed* about such a row; see [`InDoubt`](crate::InDoubt). When the holder wakes, its ticket's
//! stamp no longer matches and its answer is refused ([`Held::Lost`]).
//!
//! # Cancellation
//!
//! A dropped future may or may not have written. Claims can be asked again with the same
//! [`stamp`](crate::ClaimRequest::stamp), completions and releases can simply be repeated. The layers of this
//! crate bring their store operations to an end whatever becomes of the client.

use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;

use crate::KeyId;
use crate::claim::{Claim, ClaimRequest, Decision, Direction, Put, Ticket, Verdict, decide};
use crate::row::{Dated, Entry, Point, Progress, Row, Stamp};
use crate::time::Time;

mod connect;
mod error;
mod memory;
#[cfg(feature = "postgres")]
mod postgres;
#[cfg(feature = "redis")]
mod redis;
#[cfg(feature = "sqlite")]
mod sqlite;
mod sweep;

pub use connect::connect;
pub use error::{StoreError, StoreErrorKind};
pub use memory::MemoryStore;
#[cfg(feature = "postgres")]
pub use postgres::PostgresStore;
#[cfg(feature = "redis")]
pub use redis::RedisStore;
#[cfg(feature = "sqlite")]
pub use sqlite::SqliteStore;
pub use sweep::{sweep_all, sweep_forever};

/// Where keys, claims and answers are kept.
///
/// Implementations provide the first five methods; the others follow from them.
#[async_trait]
pub trait Store: Send + Sync + std::fmt::Debug + 'static {
    /// Writes `change` if the stored row is as `expected`, in one atomic operation; otherwise answers what is
    /// stored. One round trip, whichever it is; on Redis two, where a claim is met that still lasts.
    async fn swap(&self, id: &KeyId, expected: &Expected, change: &Change) -> Result<Swap, StoreError>;

    /// Reads one row, and the clock.
    async fn read(&self, id: &KeyId) -> Result<(Option<Dated>, Time), StoreError>;

    /// Removes up to `limit` rows whose time is over, and says how many. Never a running one.
    async fn sweep(&self, limit: u32) -> Result<u64, StoreError>;

    /// Counts rows by state.
    async fn count(&self) -> Result<Counts, StoreError>;

    /// The ids of up to `limit` rows in doubt that have a recovery point of `operation`, for a completer. Those of the
    /// lowest fence, which were tried least often, come first: what fails for ever keeps nobody else from their turn.
    async fn unfinished(&self, operation: &str, limit: u32) -> Result<Vec<KeyId>, StoreError>;

    /// Asks for the right to run. One round trip unless others change the row at the same moment.
    async fn claim(&self, request: &ClaimRequest) -> Result<Claim, StoreError> {
        let mut stored: Option<Dated> = None;
        let mut now = Time(0);
        loop {
            let expected = stored.as_ref().map_or(Expected::Absent, Expected::exactly);
            let (put, then) = match decide(stored.as_ref(), request, now) {
                Decision::Answer(claim) => return Ok(claim),
                Decision::Write { put, then } => (put, then),
            };
            match self.swap(&request.id, &expected, &Change::Put(*put)).await? {
                Swap::Done => return Ok(*then),
                Swap::Other { dated, now: at } => (stored, now) = (dated, at),
            }
        }
    }

    /// Holds the claim for another `lease`, counted from now.
    async fn renew(&self, ticket: &Ticket) -> Result<Held, StoreError> {
        let put = Put { row: ticket.row.clone(), lease: Some(ticket.lease), keep: None, fresh: false };
        let swap = self.swap(&ticket.id, &Expected::Held(ticket.row.stamp), &Change::Put(put)).await?;
        Ok(if matches!(swap, Swap::Done) { Held::Yes } else { Held::Lost })
    }

    /// Keeps the outcome for `keep`, if the ticket still holds. May be repeated when its own answer was lost.
    async fn complete(
        &self,
        ticket: &Ticket,
        verdict: Verdict,
        answer: Bytes,
        keep: Duration,
    ) -> Result<Held, StoreError> {
        let row = ticket.completed(verdict, answer);
        self.end(ticket, Change::Put(Put { row, lease: None, keep: Some(keep), fresh: false })).await
    }

    /// Gives the claim back because nothing was begun under it. The key is as it was before. What an earlier
    /// attempt left in doubt stays in doubt.
    async fn release(&self, ticket: &Ticket) -> Result<Held, StoreError> {
        let change = match ticket.given_back() {
            None => Change::Delete,
            Some(row) => {
                let keep = (!row.running()).then_some(ticket.lease.max(RELEASED_KEEP));
                Change::Put(Put { row, lease: Some(Duration::ZERO), keep, fresh: false })
            }
        };
        self.end(ticket, change).await
    }

    /// Gives the claim up without knowing what took effect: from now on the key is in doubt.
    async fn abandon(&self, ticket: &Ticket) -> Result<Held, StoreError> {
        let put = Put { row: ticket.row.clone(), lease: Some(Duration::ZERO), keep: None, fresh: false };
        self.end(ticket, Change::Put(put)).await
    }

    /// Records a recovery point, and holds the claim for another lease.
    async fn advance(&self, ticket: &mut Ticket, point: Point) -> Result<Held, StoreError> {
        let next = ticket.advanced(point);
        let put = Put { row: next.row.clone(), lease: Some(ticket.lease), keep: None, fresh: false };
        let held = self.end(ticket, Change::Put(put)).await?;
        if held == Held::Yes {
            *ticket = next;
        }
        Ok(held)
    }

    /// Looks one key up.
    async fn inspect(&self, id: &KeyId) -> Result<Option<Entry>, StoreError> {
        let (dated, now) = self.read(id).await?;
        Ok(dated.map(|dated| Entry { id: *id, dated, now }))
    }

    /// Takes over a claim that is in doubt, in order to settle it: complete the ticket with what is known to
    /// have happened, release it if nothing did, abandon it if nobody knows. `None` if it is not in doubt.
    async fn resolve(&self, id: &KeyId, lease: Duration) -> Result<Option<Ticket>, StoreError> {
        loop {
            let (Some(dated), now) = self.read(id).await? else { return Ok(None) };
            if !dated.in_doubt(now) {
                return Ok(None);
            }
            let direction = match dated.row.undo {
                Progress::Running => Direction::Compensation,
                _ => Direction::Action,
            };
            let mut row = dated.row.clone();
            // Whoever resolves knows what happened: a release by him means that nothing did.
            (row.stamp, row.fence, row.doubt) = (Stamp::random(), row.fence + 1, false);
            let put = Put { row: row.clone(), lease: Some(lease), keep: None, fresh: false };
            let swap = self.swap(id, &Expected::exactly(&dated), &Change::Put(put)).await?;
            if matches!(swap, Swap::Done) {
                return Ok(Some(Ticket { id: *id, direction, row, lease, transaction: None }));
            }
        }
    }

    /// Forgets a key, so that it can be used again: for operators. A key that is running, or in doubt, is
    /// left alone; it must be resolved.
    async fn expire(&self, id: &KeyId) -> Result<Expiry, StoreError> {
        loop {
            let (Some(dated), _) = self.read(id).await? else { return Ok(Expiry::Unknown) };
            if dated.row.running() {
                return Ok(Expiry::Running);
            }
            let swap = self.swap(id, &Expected::exactly(&dated), &Change::Delete).await?;
            if matches!(swap, Swap::Done) {
                return Ok(Expiry::Expired);
            }
        }
    }

    /// Ends a ticket with `change`, and knows its own earlier attempt at it when it meets it.
    #[doc(hidden)]
    async fn end(&self, ticket: &Ticket, change: Change) -> Result<Held, StoreError> {
        let swap = self.swap(&ticket.id, &Expected::Held(ticket.row.stamp), &change).await?;
        let Swap::Other { dated, .. } = swap else { return Ok(Held::Yes) };
        let ours = match (&change, dated) {
            (Change::Delete, None) => true,
            (Change::Put(put), Some(dated)) => dated.row == put.row,
            _ => false,
        };
        Ok(if ours { Held::Yes } else { Held::Lost })
    }
}

/// The first `limit` of unfinished rows, for stores that have no order of their own.
fn least_tried(mut found: Vec<(KeyId, u64)>, limit: u32) -> Vec<KeyId> {
    found.sort_by_key(|(_, fence)| *fence);
    found.into_iter().take(limit as usize).map(|(id, _)| id).collect()
}

/// A released undo leaves its action's row behind for at least this long.
const RELEASED_KEEP: Duration = Duration::from_secs(90 * 24 * 3600);

#[async_trait]
impl<S: Store + ?Sized> Store for std::sync::Arc<S> {
    async fn swap(&self, id: &KeyId, expected: &Expected, change: &Change) -> Result<Swap, StoreError> {
        (**self).swap(id, expected, change).await
    }

    async fn read(&self, id: &KeyId) -> Result<(Option<Dated>, Time), StoreError> {
        (**self).read(id).await
    }

    async fn sweep(&self, limit: u32) -> Result<u64, StoreError> {
        (**self).sweep(limit).await
    }

    async fn count(&self) -> Result<Counts, StoreError> {
        (**self).count().await
    }

    async fn unfinished(&self, operation: &str, limit: u32) -> Result<Vec<KeyId>, StoreError> {
        (**self).unfinished(operation, limit).await
    }
}

/// What must be stored for a [`Store::swap`] to write.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Expected {
    /// Nothing.
    Absent,
    /// A row with this stamp and this lease: nothing was written since it was read.
    Exactly {
        /// The stamp that was read.
        stamp: Stamp,
        /// The lease that was read.
        lease_until: Option<Time>,
        /// Whether the row that was read was running.
        running: bool,
    },
    /// A running row with this stamp, whatever its lease: the claim still holds.
    Held(Stamp),
}

impl Expected {
    /// The row as it was read.
    pub fn exactly(dated: &Dated) -> Self {
        Self::Exactly { stamp: dated.row.stamp, lease_until: dated.lease_until, running: dated.row.running() }
    }

    /// Whether `stored` is as expected.
    pub fn is_met(&self, stored: Option<&Dated>) -> bool {
        match (self, stored) {
            (Self::Absent, None) => true,
            (Self::Exactly { .. }, Some(dated)) => *self == Self::exactly(dated),
            (Self::Held(stamp), Some(dated)) => dated.row.running() && dated.row.stamp == *stamp,
            _ => false,
        }
    }
}

/// What a [`Store::swap`] writes.
#[allow(clippy::large_enum_variant, reason = "the large one is the usual one, and is passed by reference")]
#[derive(Clone, Debug)]
pub enum Change {
    /// This row, in place of what is stored.
    Put(Put),
    /// Nothing: the row goes.
    Delete,
}

/// How a [`Store::swap`] ended.
#[allow(clippy::large_enum_variant, reason = "returned and matched at once")]
#[derive(Clone, Debug)]
pub enum Swap {
    /// Written.
    Done,
    /// Not written: this is stored instead.
    Other {
        /// The row, if there is one.
        dated: Option<Dated>,
        /// The store's time.
        now: Time,
    },
}

/// Whether a ticket still held.
#[must_use = "a lost ticket means that somebody else may be running"]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Held {
    /// It did, and the operation took effect.
    Yes,
    /// Somebody else has taken the claim over; nothing was written.
    Lost,
}

/// How [`Store::expire`] ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expiry {
    /// The key can be used again.
    Expired,
    /// The key is running or in doubt, and was left alone.
    Running,
    /// No such key.
    Unknown,
}

/// How many rows are in which state.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Claimed, the lease lasts.
    pub running: u64,
    /// Claimed, the lease is over: nobody knows how it ended.
    pub in_doubt: u64,
    /// Took effect.
    pub applied: u64,
    /// Refused for good.
    pub rejected: u64,
    /// Undone, or found to need no undoing.
    pub undone: u64,
    /// Settled before anything ran.
    pub refused: u64,
}

impl Counts {
    /// Counts one row.
    pub fn add(&mut self, row: &Row, in_doubt: bool, rows: u64) {
        use crate::row::State;
        let count = match row.state() {
            State::Running | State::Undoing if in_doubt => &mut self.in_doubt,
            State::Running | State::Undoing => &mut self.running,
            State::Applied => &mut self.applied,
            State::Rejected => &mut self.rejected,
            State::Undone => &mut self.undone,
            State::Refused => &mut self.refused,
        };
        *count += rows;
    }
}
