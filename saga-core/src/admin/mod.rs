//! What operators ask, and what they decide.
//!
//! [`Admin`] needs a store and no application: it speaks names, ids and JSON. What it shows is replayed
//! by the same pure machine that drives sagas, from the journal and the plan that a worker stored as the
//! definition's manifest; so it never shows a state that the engine would not see.
//!
//! What it changes it changes by mail only. A [`Request`] says who asks for what and why; the saga's
//! owner reads it, decides, and writes both into the journal in one commit. [`Admin::request`] waits for
//! that answer, and says so when none came in time: the mail stays, and the answer can be asked for later
//! with [`Admin::answer`].
//!
//! ```no_run
//! # use std::time::Duration;
//! # use saga_core::admin::{Admin, Answered, By, Request};
//! # use saga_core::{MailId, RunId, store::Backend};
//! # async fn example(backend: Backend, run: RunId) -> Result<(), saga_core::admin::Error> {
//! let admin = Admin::new(backend);
//! let view = admin.view(run).await?;
//! if let Some(blocked) = &view.blocked {
//!     println!("{} is blocked at {}: {}", view.summary.saga, blocked.at, blocked.failure);
//!     let by = By::new("ann", "the bank is back")?;
//!     let request = Request::Retry { at: blocked.at.clone() };
//!     let reply = admin.request(run, MailId::new(), &request, &by, Duration::from_secs(10)).await?;
//!     assert_eq!(reply.answered, Answered::Accepted);
//! }
//! # Ok(()) }
//! ```

mod attempts;
mod blocked;
mod check;
mod definitions;
mod error;
mod list;
mod preview;
mod replay;
mod request;
mod seen;
mod timeline;
mod view;

pub use attempts::Attempt;
pub use blocked::{Blocked, BlockedRuns, Bulk, Group, MOST, Retried};
pub use check::{Finding, Report, Trouble};
pub use definitions::{DefinitionView, OVERDUE, Waiting};
pub use error::Error;
pub use list::{Page, SCAN, Wanted};
pub use preview::{Blocks, InDoubt, Preview, Stays, Undone};
pub use request::{Answered, By, Reply, Request};
pub use timeline::{Entry, Told, Tone, tell};
pub use view::{Item, Look, Step, Stuck, Unread, View};

use std::fmt;

use crate::id::{Name, RunId};
use crate::store::{Backend, Counts, Summary, UnreadMail, WorkerInfo};

/// An operator's access to the sagas of one store. Cheap to clone.
#[derive(Clone)]
pub struct Admin {
    backend: Backend,
}

impl Admin {
    /// Access to what a store holds.
    pub fn new(backend: impl Into<Backend>) -> Self {
        Self { backend: backend.into() }
    }

    /// The store.
    pub fn backend(&self) -> &Backend {
        &self.backend
    }

    /// One run at a glance.
    pub async fn summary(&self, run: RunId) -> Result<Summary, Error> {
        self.backend.query.summary(run).await?.ok_or(Error::NoSuchRun(run))
    }

    /// The run that holds a user's id.
    pub async fn find(&self, definition: &Name, saga: &str) -> Result<Summary, Error> {
        let found = self.backend.query.find(definition, saga).await?;
        found.ok_or_else(|| Error::NoSuchSaga { definition: definition.clone(), saga: saga.into() })
    }

    /// Every worker that is not drained.
    pub async fn workers(&self) -> Result<Vec<WorkerInfo>, Error> {
        Ok(self.backend.query.workers().await?)
    }

    /// How many runs of each definition are in which state, the ended ones included. It counts every run
    /// the store holds, so ask it every few seconds at most.
    pub async fn counts(&self) -> Result<Vec<Counts>, Error> {
        let mut counts = self.backend.query.counts().await?;
        counts.sort_by(|a, b| (&a.definition, a.state.as_str()).cmp(&(&b.definition, b.state.as_str())));
        Ok(counts)
    }

    /// How many runs in flight have unread mail, by the newest format of it. Where that is above
    /// [`MailBody::FORMAT`](crate::journal::MailBody::FORMAT), they wait for workers of a newer version.
    pub async fn unread_mail(&self) -> Result<Vec<UnreadMail>, Error> {
        Ok(self.backend.query.unread_mail().await?)
    }
}

impl fmt::Debug for Admin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Admin").finish_non_exhaustive()
    }
}
