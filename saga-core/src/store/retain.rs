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
    async fn prune(&self, ended_before: Timestamp, after: Option<RunId>, limit: usize) -> Result<Pruned>;
}

/// What one batch removed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Pruned {
    /// How many sagas were removed.
    pub sagas: u64,
    /// The last run that was looked at; absent when there is no further one.
    pub last: Option<RunId>,
}
