//! What can go wrong when an operator asks.

use crate::id::{Fingerprint, MailId, Name, RunId};

/// Why an operator's question or request failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The store failed; the same may work later.
    #[error(transparent)]
    Store(#[from] crate::store::Error),
    /// There is no such run.
    #[error("there is no run {0}")]
    NoSuchRun(RunId),
    /// Nobody started a saga under this id.
    #[error("there is no saga {saga:?} of definition {definition}")]
    NoSuchSaga {
        /// The definition.
        definition: Name,
        /// The user's id.
        saga: String,
    },
    /// Something else was asked under this id before; what was sent now was not kept.
    #[error("something else was asked of run {run} under the id {mail}; give each request an id of its own")]
    OtherRequest {
        /// The run.
        run: RunId,
        /// The id.
        mail: MailId,
    },
    /// No blocked saga is in this group (any more).
    #[error("no blocked saga is in group {0}; list the groups again, they change as sagas do")]
    NoSuchGroup(String),
    /// A commit that does not read: written by a newer version, or damaged.
    #[error(
        "commit {number} of run {run} does not read: {why}; it was written by a newer version, or damaged"
    )]
    Unreadable {
        /// The run.
        run: RunId,
        /// The commit.
        number: u32,
        /// What is wrong with it.
        why: String,
    },
    /// The store has no manifest of the run's plan, so its steps cannot be judged.
    #[error(
        "the store has no manifest of {definition} version {version} ({fingerprint}): no worker has registered it yet"
    )]
    NoManifest {
        /// The definition.
        definition: Name,
        /// The version.
        version: u32,
        /// The fingerprint.
        fingerprint: Fingerprint,
    },
    /// The journal is not one that the plan allows.
    #[error("the journal of run {run} does not fit its plan: {why}")]
    Unfit {
        /// The run.
        run: RunId,
        /// Where they part.
        why: String,
    },
    /// Who or why is missing, too long, or holds control characters.
    #[error("{what} must have 1 to {most} characters and no control characters")]
    BadWords {
        /// Which of the two.
        what: &'static str,
        /// How many characters it may have.
        most: usize,
    },
}
