//! Lists of runs, page by page.

use std::time::{Duration, Instant};

use serde::Serialize;

use super::{Admin, Error};
use crate::attributes::Attributes;
use crate::error_id::ErrorId;
use crate::id::{Name, RunId};
use crate::journal::Timestamp;
use crate::store::{Filter, State, Summary};

/// Which runs an operator wants to see.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Wanted {
    /// Only this definition.
    pub definition: Option<Name>,
    /// Only this state.
    pub state: Option<State>,
    /// Only runs that have all of these attributes.
    pub attributes: Attributes,
    /// Only runs in flight that suffer from this error, whether it is tried again or waits for a person: a
    /// group's [id](super::Group::id), a run's [error](Summary::error).
    pub error: Option<ErrorId>,
    /// Only runs that have been in their state for at least so long.
    pub older_than: Option<Duration>,
    /// Only runs whose user's id has this in it.
    pub saga: Option<String>,
    /// Only runs started before this one: where the page before ended.
    pub before: Option<RunId>,
    /// At most so many; 0 means 100.
    pub limit: usize,
}

/// Some runs, newest first.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Page {
    /// The runs.
    pub runs: Vec<Summary>,
    /// Where the next page begins, if there may be one. A page can be short, even empty, and still have
    /// a next one: where few of many runs match, it stops looking after [`SCAN`] runs and about a second.
    pub next: Option<RunId>,
}

/// How many runs a page looks at in any case. It goes on until there is something to show, for about a second: a
/// rare filter over many runs answers in bounded time.
pub const SCAN: usize = 20_000;
/// How long.
const LOOK: Duration = Duration::from_secs(1);

impl Admin {
    /// Runs that match, newest first.
    pub async fn list(&self, wanted: &Wanted) -> Result<Page, Error> {
        let limit = if wanted.limit == 0 { 100 } else { wanted.limit };
        let plain = wanted.older_than.is_none() && wanted.saga.is_none();
        let since = wanted.older_than.map(before_now);
        let mut filter = Filter {
            definition: wanted.definition.clone(),
            state: wanted.state,
            attributes: wanted.attributes.clone(),
            error: wanted.error,
            before: wanted.before,
            from: None,
            limit: if plain { limit } else { 1000 },
        };
        let begun = Instant::now();
        let mut runs = Vec::new();
        let mut looked = 0;
        loop {
            if filter.passes_over() {
                filter.from = self.backend.query.nth_before(filter.before, SCAN).await?;
            }
            loop {
                let page = self.backend.query.list(&filter).await?;
                looked += page.len();
                let last_page = page.len() < filter.limit;
                for run in page {
                    filter.before = Some(run.run);
                    if since.is_some_and(|since| run.since > since) {
                        continue;
                    }
                    if wanted.saga.as_ref().is_some_and(|part| !run.saga.contains(part.as_str())) {
                        continue;
                    }
                    runs.push(run);
                    if runs.len() == limit {
                        return Ok(Page { runs, next: filter.before });
                    }
                }
                if last_page {
                    break;
                }
                if looked >= SCAN {
                    return Ok(Page { runs, next: filter.before });
                }
            }
            if filter.from.is_none() {
                return Ok(Page { runs, next: None });
            }
            filter.before = filter.from;
            if begun.elapsed() >= LOOK {
                return Ok(Page { runs, next: filter.before });
            }
        }
    }
}

/// The time so long ago, by this process's clock.
pub(super) fn before_now(age: Duration) -> Timestamp {
    let age = chrono::TimeDelta::from_std(age).unwrap_or(chrono::TimeDelta::MAX);
    chrono::Utc::now().checked_sub_signed(age).unwrap_or(Timestamp::MIN_UTC)
}
