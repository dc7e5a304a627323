//! Forgetting what is over, in batches.

use async_trait::async_trait;

use super::error::Result;
use crate::id::RunId;
use crate::journal::Timestamp;

/// Removes the journals of sagas that ended long ago.
///
/// What stays is the start row: the definition, the user's id, the run, the input's digest and the end.
/// So a late start still runs nothing twice, and is told how its saga ended.
#[async_trait]
pub trait Retain: Send + Sync + 'static {
    /// Looks at the next `limit` journals after run `after`, in the order in which they were started, and
    /// removes journal and mail of those that ended before `ended_before`. Short: one statement, no
    /// cascade, no lock that progress waits for.
    ///
    /// The journal of a child stays while its parent is in flight, which may ask for its output yet. A child's id
    /// begins with its parent's run and a slash, because it is the key of its parent's step.
    async fn prune(&self, ended_before: Timestamp, after: Option<RunId>, limit: usize) -> Result<Pruned>;

    /// What the store knows of these runs, in their order: so that what lies elsewhere for them can follow. Once
    /// [`Kept::Forgotten`], a run stays so.
    async fn kept(&self, runs: &[RunId]) -> Result<Vec<Kept>>;
}

/// What one batch removed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Pruned {
    /// How many sagas were removed.
    pub sagas: u64,
    /// The last run that was looked at; absent when there is no further one.
    pub last: Option<RunId>,
}

/// What a store knows of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kept {
    /// Its journal: it is in flight, or ended not long ago.
    Journal,
    /// That it was started and has ended; its journal was removed.
    Forgotten,
    /// Nothing: it was not started, or not yet.
    Nothing,
}

impl Kept {
    #[cfg(any(feature = "sqlite", feature = "postgres"))]
    pub(super) fn of(started: bool, journal: bool) -> Self {
        match (started, journal) {
            (true, false) => Self::Forgotten,
            (true, true) => Self::Journal,
            (false, _) => Self::Nothing,
        }
    }
}
